//! Golden tests: lists of replicas in, all formats out.

use clap::Parser;
use serde_json::json;

use super::{
    document::ConnectionsDocument,
    follow::{FollowedLine, header, rendered},
    gather::{ReplicaList, path},
    render,
};
use crate::{
    cli::{ConnectionsFlags, KubectlCli, KubectlCommand, StatusOutput},
    kubectl::{admin_pages::PageError, golden::assert_golden, output::plain},
    model::ConnectionList,
};

fn flags(line: &str) -> ConnectionsFlags {
    match KubectlCli::parse_from(format!("kubectl-tcplb connections {line}").split_whitespace()).kubectl.command {
        KubectlCommand::Connections(flags) => flags,
        other => panic!("{other:?}"),
    }
}

fn lists() -> Vec<ReplicaList> {
    let first: ConnectionList = serde_json::from_value(json!({
        "matching": 1201,
        "connections": [
            {
                "id": "19ad-0-7", "loadBalancer": "shop/pg", "port": 5432, "client": "10.1.2.3:40000",
                "endpoint": "10.244.0.7:5432", "ageSeconds": 86_400.5, "idleSeconds": 0.02, "bytesToBackend": 1_234_567,
                "bytesToClient": 99, "tlsServerName": "db.example.com", "newField": 1,
            },
            {
                "id": "19ad-1-9", "loadBalancer": "shop/pg", "port": 5432, "client": "10.1.2.4:40000",
                "ageSeconds": 61.0, "idleSeconds": 61.0, "bytesToBackend": 0, "bytesToClient": 0,
            },
        ],
    }))
    .unwrap();
    let second = serde_json::from_value(json!({
        "matching": 1,
        "connections": [{
            "id": "19ae-0-0", "loadBalancer": "bank/mq", "port": 1883, "client": "[2001:db8::7]:50000",
            "endpoint": "10.244.1.9:1883", "ageSeconds": 7200.0, "idleSeconds": 12.0, "bytesToBackend": 10,
            "bytesToClient": 5_000_000_000_u64, "tlsServerName": "a\u{202e}b",
        }],
    }))
    .unwrap();
    let refused = PageError::Refused { status: hyper::StatusCode::NOT_FOUND, sentence: ": no such page".into() };
    vec![("tcplb-0".into(), Ok(first)), ("tcplb-1".into(), Ok(second)), ("tcplb-2".into(), Err(refused))]
}

#[test]
fn connections_of_all_replicas_are_merged_in_every_format() {
    for (name, line) in [
        ("connections.text", "pg"),
        ("connections.wide", "-A -o wide --sort bytes"),
        ("connections.json", "-A -o json --sort idle"),
        ("connections.yaml", "-A -o yaml --sort newest --limit 1"),
    ] {
        let flags = flags(line);
        let document = ConnectionsDocument::new(lists(), &flags);
        assert_golden(name, &plain(&render(&document, &flags).unwrap()));
    }
}

#[test]
fn the_limit_applies_to_all_replicas_together() {
    let flags = flags("-A --limit 1 --sort bytes");
    let document = ConnectionsDocument::new(lists(), &flags);
    let ids: Vec<_> = document.connections.iter().map(|connection| &*connection.connection.id).collect();
    assert_eq!((document.matching, &ids[..]), (1202, &["19ae-0-0"][..]));
    assert!(plain(&render(&document, &flags).unwrap()).contains("1 of 1202 connections"));
    let none = ConnectionsDocument::new(Vec::new(), &flags);
    assert_eq!(plain(&render(&none, &flags).unwrap()), "no open connection was found\n");
}

#[test]
fn flags_become_parameters_of_the_page() {
    for (line, expected) in [
        ("", "/connections?namespace=shop&sort=age&limit=100"),
        ("pg --sort idle --limit 7", "/connections?loadBalancer=shop%2Fpg&sort=idle&limit=7"),
        (
            "-A --listener 5432 --endpoint [fd00::1]:5432 --client 10.0.0.0/8",
            "/connections?listener=5432&endpoint=%5Bfd00%3A%3A1%5D%3A5432&client=10.0.0.0%2F8&sort=age&limit=100",
        ),
        ("pg --endpoint 10.0.0.1 --follow", "/connections?loadBalancer=shop%2Fpg&endpoint=10.0.0.1&follow=true"),
    ] {
        assert_eq!(path("shop", &flags(line)), expected, "{line}");
    }
    for wrong in [
        "pg -A",
        "--limit 0",
        "--limit 10001",
        "--listener 0",
        "--sort size",
        "--client 10.0.0.1/8",
        "--endpoint db",
        "--follow --sort idle",
    ] {
        let line = format!("kubectl-tcplb connections {wrong}");
        assert!(KubectlCli::try_parse_from(line.split(' ')).is_err(), "{wrong}");
    }
}

#[test]
fn ended_connections_become_lines() {
    let event = json!({
        "time": "2026-12-01T09:30:49.973739Z", "event": "end", "connection_id": "19ad-0-7", "replica": "tcplb-0",
        "load_balancer": "shop/pg", "listener": "shop/pg:5432", "listener_name": "5432", "peer": "10.1.2.3:40000",
        "client": "10.1.2.3:40000", "endpoint": "10.244.0.7:5432", "bytes_to_backend": 2048, "bytes_to_client": 1,
        "duration_seconds": 12.5, "outcome": "success", "reason": "complete", "tls_server_name": "\u{1b}[2J",
    })
    .to_string();
    let refused =
        json!({"time": "2026-12-01T09:30:50.000000Z", "reason": "listener_full", "client": "\u{1b}[2J"}).to_string();
    let text = |line: &str, format| match rendered(line, "tcplb-0", format) {
        FollowedLine::Event(text) => plain(&text),
        other => panic!("{other:?}"),
    };
    for (name, format) in [("followed.text", StatusOutput::Text), ("followed.wide", StatusOutput::Wide)] {
        assert_golden(name, &(header(format) + &text(&event, format) + &text(&refused, format)));
    }
    let json = text(&event, StatusOutput::Json);
    assert!(json.contains("\"connection_id\":\"19ad-0-7\"") && !json.contains('\u{1b}'), "{json}");
    assert_eq!(rendered("", "tcplb-0", StatusOutput::Text), FollowedLine::Nothing);
    for (line, part) in [("{\"lost\":12}", "12 connections of replica tcplb-0"), ("<html>", "cannot be read")] {
        let FollowedLine::Note(note) = rendered(line, "tcplb-0", StatusOutput::Text) else { panic!("{line}") };
        assert!(note.contains(part), "{note}");
    }
}
