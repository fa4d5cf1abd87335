//! `kubectl tcplb connections`: the open connections of load balancers, and those that end.

mod document;
mod follow;
mod gather;
#[cfg(test)]
mod tests;
mod text;

use std::process::ExitCode;

use anyhow::bail;

use self::{
    document::ConnectionsDocument,
    gather::{Target, read_lists},
};
use super::{
    connection::ClusterConnection,
    output::{json, yaml},
};
use crate::{
    cli::{ConnectionsFlags, StatusOutput},
    stdout::print,
};

/// Runs the command.
pub async fn run(connection: &ClusterConnection, flags: &ConnectionsFlags) -> anyhow::Result<ExitCode> {
    let target = Target::find(connection, flags).await?;
    if flags.follow {
        return follow::run(connection, &target, flags).await;
    }
    let lists = read_lists(connection, &target).await;
    let readable = lists.iter().any(|(_, list)| list.is_ok());
    let document = ConnectionsDocument::new(lists, flags);
    if !readable {
        bail!("{}", document.notes.join("; "));
    }
    print(&render(&document, flags)?)?;
    Ok(ExitCode::SUCCESS)
}

fn render(document: &ConnectionsDocument, flags: &ConnectionsFlags) -> anyhow::Result<String> {
    Ok(match flags.output {
        StatusOutput::Text | StatusOutput::Wide => text::table(document, flags),
        StatusOutput::Json => json(document),
        StatusOutput::Yaml => yaml(document)?,
    })
}
