//! Connections as a table.

use std::time::Duration;

use super::document::{ConnectionsDocument, ReplicaConnection};
use crate::{
    cli::{ConnectionsFlags, StatusOutput},
    kubectl::output::{Cell, TextTable, Tone},
};

/// A line for each connection.
pub fn table(document: &ConnectionsDocument, flags: &ConnectionsFlags) -> String {
    let wide = flags.output == StatusOutput::Wide;
    let mut header = vec!["LISTENER", "CLIENT", "ENDPOINT", "AGE", "IDLE", "TO BACKEND", "TO CLIENT", "SERVER NAME"];
    if flags.all_namespaces {
        header.insert(0, "NAMESPACE");
    }
    if wide {
        header.extend(["REPLICA", "CONNECTION ID"]);
    }
    let mut table = TextTable::new(&header);
    document.connections.iter().for_each(|connection| table.push(row(connection, flags.all_namespaces, wide)));
    let table = if table.is_empty() { "no open connection was found\n".into() } else { table.to_string() };
    table + &footer(document)
}

fn row(ReplicaConnection { replica, connection }: &ReplicaConnection, namespaces: bool, wide: bool) -> Vec<Cell> {
    let (namespace, name) = connection.load_balancer.split_once('/').unwrap_or(("", &connection.load_balancer));
    let mut row = Vec::new();
    if namespaces {
        row.push(Cell::plain(namespace));
    }
    row.extend([
        Cell::plain(format_args!("{name}:{}", connection.port)),
        Cell::plain(connection.client),
        connection.endpoint.map_or_else(|| Cell::toned("none", Tone::Warning), Cell::plain),
        Cell::plain(duration(connection.age_seconds)),
        Cell::plain(duration(connection.idle_seconds)),
        Cell::plain(bytes(connection.bytes_to_backend)),
        Cell::plain(bytes(connection.bytes_to_client)),
        Cell::plain(connection.tls_server_name.as_deref().unwrap_or_default()),
    ]);
    if wide {
        row.extend([Cell::plain(replica), Cell::plain(&connection.id)]);
    }
    row
}

/// The number of connections that are left out, and missing facts.
fn footer(document: &ConnectionsDocument) -> String {
    let mut footer = String::new();
    let shown = document.connections.len();
    if shown < document.matching {
        footer += &format!("{shown} of {} connections: set --limit or filters to see others\n", document.matching);
    }
    for note in &document.notes {
        footer += &format!("{}\n", Cell::toned(note, Tone::Warning));
    }
    footer
}

/// A duration with its two largest units: `250ms`, `7s`, `3m20s`, `5h2m`, `12d3h`.
pub fn duration(seconds: f64) -> String {
    let duration = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let seconds = duration.as_secs();
    let units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let Some(largest) = units.iter().position(|(_, size)| seconds >= *size) else {
        return format!("{}ms", duration.as_millis());
    };
    let (unit, size) = units[largest];
    let second = units.get(largest + 1).map(|(unit, small)| (unit, seconds % size / small));
    match second {
        Some((small, count)) if count > 0 => format!("{}{unit}{count}{small}", seconds / size),
        _ => format!("{}{unit}", seconds / size),
    }
}

/// A number of bytes with three digits: `512 B`, `1.2 KiB`, `34.5 MiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if amount < 1024.0 {
            break;
        }
        amount /= 1024.0;
        unit = next;
    }
    format!("{amount:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_short() {
        for (seconds, expected) in [
            (0.0, "0ms"),
            (0.25, "250ms"),
            (7.9, "7s"),
            (200.0, "3m20s"),
            (3600.0, "1h"),
            (18_120.0, "5h2m"),
            (1_047_600.0, "12d3h"),
            (f64::NAN, "0ms"),
            (-1.0, "0ms"),
            (f64::INFINITY, "0ms"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
        for (count, expected) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (36_175_872, "34.5 MiB"), (u64::MAX, "16384.0 PiB")]
        {
            assert_eq!(bytes(count), expected);
        }
    }
}
