//! `kubectl tcplb status`: the state of load balancers, as the status and each replica report it.

mod document;
mod gather;
mod text;

#[cfg(test)]
mod tests;

use std::process::ExitCode;

use jiff::Timestamp;
use tokio::time::sleep;

use super::{
    connection::ClusterConnection,
    output::{clear_screen, is_closed, json, yaml},
};
use crate::{
    cli::{StatusFlags, StatusOutput},
    stdout::print,
};
use document::StatusDocument;
use gather::StatusFacts;
use text::Columns;

/// Runs the command.
pub async fn run(connection: &ClusterConnection, flags: &StatusFlags) -> anyhow::Result<ExitCode> {
    let mut printed = String::new();
    loop {
        let facts = StatusFacts::gather(connection, flags).await?;
        let text = render(&StatusDocument::new(&facts, Timestamp::now()), flags)?;
        if text != printed {
            let separator = match flags.output {
                _ if printed.is_empty() && !flags.watch => "",
                StatusOutput::Text | StatusOutput::Wide if clear_screen().is_empty() && !printed.is_empty() => "\n",
                StatusOutput::Text | StatusOutput::Wide => clear_screen(),
                StatusOutput::Yaml if !printed.is_empty() => "---\n",
                StatusOutput::Json | StatusOutput::Yaml => "",
            };
            print(&format!("{separator}{text}"))?;
            printed = text;
        }
        if !flags.watch || is_closed() {
            return Ok(ExitCode::SUCCESS);
        }
        sleep(flags.interval.0).await;
    }
}

fn render(document: &StatusDocument, flags: &StatusFlags) -> anyhow::Result<String> {
    let columns = match flags.output {
        StatusOutput::Text => Columns::Usual,
        StatusOutput::Wide => Columns::All,
        StatusOutput::Json => return Ok(json(document)),
        StatusOutput::Yaml => return yaml(document),
    };
    Ok(match (&flags.name, &document.load_balancers[..]) {
        (Some(_), [one]) => text::details(one, document, columns),
        _ => text::list(document, columns, flags.all_namespaces),
    })
}
