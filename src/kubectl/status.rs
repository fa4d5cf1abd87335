//! `kubectl tcplb status`: the state of load balancers, as the status and each replica report it.

mod document;
mod gather;
mod text;

#[cfg(test)]
mod tests;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use jiff::Timestamp;
use tokio::time::sleep;

use super::{
    connection::ClusterConnection,
    output::{Cell, clear_screen, is_closed, json, yaml},
};
use crate::{
    cli::{StatusFlags, StatusOutput},
    stdout::print,
};
use document::StatusDocument;
use gather::StatusFacts;
use text::Columns;

/// Runs the command.
///
/// # Errors
/// If the output cannot be written, or the first reading fails. With `--watch`, errors of later readings are printed.
pub async fn run(connection: &ClusterConnection, flags: &StatusFlags) -> anyhow::Result<ExitCode> {
    let mut last = LastReading::Missing;
    loop {
        let facts = StatusFacts::gather(connection, flags).await;
        let text = facts.and_then(|facts| render(&StatusDocument::new(&facts, Timestamp::now()), flags));
        if let Some(next) = last.next(text)? {
            match &next {
                LastReading::Missing => {}
                LastReading::Status(text) => {
                    print(&format!("{}{text}", separator(&last, flags)))?;
                }
                LastReading::Failed(error) => writeln!(io::stderr(), "tcplb: {}", Cell::plain(error))?,
            }
            last = next;
        }
        if !flags.watch || is_closed() {
            return Ok(ExitCode::SUCCESS);
        }
        sleep(flags.interval.0).await;
    }
}

/// The output of the last reading.
#[derive(Debug, PartialEq, Eq)]
enum LastReading {
    Missing,
    Status(String),
    /// The error of a reading after the first one.
    Failed(String),
}

impl LastReading {
    /// The output of the next reading. `None`: it is the same. After an error, the status is printed again.
    ///
    /// # Errors
    /// If the first reading fails.
    fn next(&self, text: anyhow::Result<String>) -> anyhow::Result<Option<Self>> {
        let next = match (self, text) {
            (_, Ok(text)) => Self::Status(text),
            (Self::Missing, Err(error)) => return Err(error),
            (Self::Status(_) | Self::Failed(_), Err(error)) => Self::Failed(format!("{error:#}")),
        };
        Ok((next != *self).then_some(next))
    }
}

/// The text between the last output and a status.
fn separator(last: &LastReading, flags: &StatusFlags) -> &'static str {
    let is_first = *last == LastReading::Missing;
    match flags.output {
        _ if is_first && !flags.watch => "",
        StatusOutput::Text | StatusOutput::Wide if clear_screen().is_empty() && !is_first => "\n",
        StatusOutput::Text | StatusOutput::Wide => clear_screen(),
        StatusOutput::Yaml if !is_first => "---\n",
        StatusOutput::Json | StatusOutput::Yaml => "",
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
