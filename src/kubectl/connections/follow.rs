//! The ends of connections, as they happen.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::bail;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;

use super::{
    gather::Target,
    text::{bytes, duration},
};
use crate::{
    cli::{ConnectionsFlags, StatusOutput},
    kubectl::{
        admin_pages::{AdminAnswer, PageError},
        connection::ClusterConnection,
        output::Cell,
        replica::ReplicaPod,
    },
    printable::visible_json,
    stdout::print,
};

/// The number of lines that wait to be printed, of all replicas.
const QUEUE: usize = 1024;
/// The widths of the columns.
const WIDTHS: [usize; 8] = [27, 18, 24, 22, 22, 9, 11, 11];
const HEADER: [&str; 8] = ["TIME", "REASON", "LISTENER", "CLIENT", "ENDPOINT", "DURATION", "TO BACKEND", "TO CLIENT"];

/// A line of a replica, or the end of its stream.
enum StreamItem {
    Line(String),
    Ended(Option<PageError>),
}

/// Prints the connections that end, until the command is interrupted or all streams have ended.
pub async fn run(
    connection: &ClusterConnection,
    target: &Target,
    flags: &ConnectionsFlags,
) -> anyhow::Result<ExitCode> {
    let format = flags.output;
    if format == StatusOutput::Yaml {
        bail!("--follow prints a line for each connection: use --output text, wide or json");
    }
    let (sender, mut items) = mpsc::channel(QUEUE);
    for replica in &target.replicas {
        tokio::spawn(follow(connection.clone(), replica.clone(), target.path.clone(), sender.clone()));
    }
    drop(sender);
    if format != StatusOutput::Json && !print(&header(format))? {
        return Ok(ExitCode::SUCCESS);
    }
    while let Some((pod, item)) = items.recv().await {
        match item {
            StreamItem::Line(line) => match rendered(&line, &pod, format) {
                FollowedLine::Event(text) if !print(&text)? => return Ok(ExitCode::SUCCESS),
                FollowedLine::Event(_) | FollowedLine::Nothing => {}
                FollowedLine::Note(note) => noted(&note)?,
            },
            StreamItem::Ended(None) => noted(&format!("replica {pod} has ended its stream"))?,
            StreamItem::Ended(Some(error)) => {
                noted(&format!(
                    "the stream of replica {pod} has failed, and its connections are no longer shown: {error}"
                ))?;
            }
        }
    }
    bail!("the streams of all replicas have ended: run the command again")
}

/// Sends the lines of a replica.
async fn follow(
    connection: ClusterConnection,
    replica: ReplicaPod,
    path: String,
    sender: mpsc::Sender<(String, StreamItem)>,
) {
    let pod = replica.key.name.to_string();
    let lines = async {
        let mut answer = AdminAnswer::open(&connection, &replica, &path).await?;
        while let Some(line) = answer.line().await? {
            // Fails only if the command ends.
            let _ = sender.send((pod.clone(), StreamItem::Line(line))).await;
        }
        Ok(())
    };
    let ended = StreamItem::Ended(lines.await.err());
    let _ = sender.send((pod.clone(), ended)).await;
}

/// The text for a line of a replica.
#[derive(Debug, PartialEq, Eq)]
pub enum FollowedLine {
    Event(String),
    Note(String),
    /// An empty line, which keeps the connection open.
    Nothing,
}

/// The fields of an event that are shown. Invalid ones are absent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EndedConnection {
    time: String,
    reason: String,
    listener: String,
    client: String,
    endpoint: String,
    duration_seconds: f64,
    bytes_to_backend: u64,
    bytes_to_client: u64,
    connection_id: String,
}

pub fn rendered(line: &str, pod: &str, format: StatusOutput) -> FollowedLine {
    if line.trim().is_empty() {
        return FollowedLine::Nothing;
    }
    let Ok(event) = serde_json::from_str::<Value>(line) else {
        return FollowedLine::Note(format!("replica {pod} sends a line that cannot be read"));
    };
    if let Some(lost) = event.get("lost").and_then(Value::as_u64) {
        let sentence = format!(
            "{lost} connections of replica {pod} are not shown, because they ended faster than they could be printed"
        );
        return FollowedLine::Note(sentence);
    }
    if format == StatusOutput::Json {
        return FollowedLine::Event(visible_json(&event.to_string()).into_owned() + "\n");
    }
    match EndedConnection::deserialize(&event) {
        Ok(ended) => FollowedLine::Event(row(&ended, pod, format)),
        Err(_) => FollowedLine::Note(format!("replica {pod} sends a line that cannot be read")),
    }
}

pub fn header(format: StatusOutput) -> String {
    let more = if format == StatusOutput::Wide { vec!["REPLICA", "CONNECTION ID"] } else { Vec::new() };
    columns(HEADER.map(str::to_owned), &more)
}

fn row(ended: &EndedConnection, pod: &str, format: StatusOutput) -> String {
    let cells = [
        ended.time.clone(),
        ended.reason.clone(),
        ended.listener.clone(),
        ended.client.clone(),
        if ended.endpoint.is_empty() { "none".to_owned() } else { ended.endpoint.clone() },
        duration(ended.duration_seconds),
        bytes(ended.bytes_to_backend),
        bytes(ended.bytes_to_client),
    ];
    let more = if format == StatusOutput::Wide { vec![pod, &*ended.connection_id] } else { Vec::new() };
    columns(cells, &more)
}

/// A line of cells. All but the last ones have a fixed width, because later lines are not known.
fn columns(cells: [String; 8], more: &[&str]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(WIDTHS) {
        // Writing to memory does not fail.
        let _ = write!(line, "{:width$}  ", Cell::plain(cell).to_string());
    }
    for cell in more {
        let _ = write!(line, "{}  ", Cell::plain(cell));
    }
    line.trim_end().to_owned() + "\n"
}

/// Prints a text. False: the reader has closed the output.
fn noted(sentence: &str) -> io::Result<()> {
    writeln!(io::stderr(), "tcplb: {}", Cell::plain(sentence))
}
