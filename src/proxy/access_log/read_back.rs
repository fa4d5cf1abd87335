//! Log lines read back as readers of logfmt and JSON do, for tests and `fuzz/`.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::Value;

use super::{
    encoder::{Format, LineEncoder},
    event::{Attempts, ConnectFault, ConnectionId, Event, FailedEndpoint, Kind, ListenerLabel, ProcessIdentity},
};
use crate::{
    printable::is_visible,
    proxy::{
        accounting::CloseReason,
        tls::{Agreed, ClientTls, Identity},
    },
};

/// The fields of a log line whose text clients or administrators choose.
#[derive(Clone, Debug)]
pub struct Chosen {
    pub listener: String,
    pub name: String,
    pub server_name: Option<String>,
    pub subject: Option<String>,
}

/// Writes a line in each format and reads it back.
///
/// # Panics
/// If a line is not one visible line, or a value is read back differently.
pub fn check_read_back(chosen: &Chosen) {
    let event = event_with(chosen);
    let line = |format| {
        let line = line_of(format, &event);
        assert!(line.chars().all(is_visible), "{line:?}");
        line
    };
    let text = line(Format::Text);
    let pairs = pairs_of(&text).unwrap_or_else(|| panic!("not logfmt: {text}"));
    let has_no_name = text.contains(" tls_server_name=- ");
    chosen.check(|key| pairs.get(key).cloned().flatten().filter(|_| !(has_no_name && key == "tls_server_name")));
    let object = |format| -> Value { serde_json::from_str(&line(format)).expect("JSON") };
    let json = object(Format::Json);
    chosen.check(|key| json.get(key).map(text_of));
    let ecs = object(Format::Ecs);
    chosen.check(|key| {
        Some(match key {
            "listener" | "listener_name" => text_of(ecs.pointer(&format!("/tcplb/{key}"))?),
            "tls_server_name" => text_of(ecs.pointer("/tls/client/server_name")?),
            "tls_client" => text_of(ecs.pointer("/tls/client/subject")?),
            "reason" => text_of(ecs.pointer("/event/reason")?),
            _ => format!("{}:{}", text_of(ecs.pointer("/source/ip")?), ecs.pointer("/source/port")?),
        })
    });
    let otel = object(Format::Otel);
    let attributes = otel.pointer("/resourceLogs/0/scopeLogs/0/logRecords/0/attributes").expect("attributes");
    let attribute = |key: &str| -> Option<String> {
        let found = attributes.as_array()?.iter().find(|attribute| attribute["key"] == key)?;
        found["value"].as_object()?.values().next().map(text_of)
    };
    chosen.check(|key| match key {
        "listener" => attribute("tcplb.listener"),
        "listener_name" => attribute("tcplb.listener.name"),
        "tls_server_name" => attribute("tcplb.tls.server_name"),
        "tls_client" => attribute("tls.client.subject"),
        "reason" => attribute("tcplb.reason"),
        _ => Some(format!("{}:{}", attribute("client.address")?, attribute("client.port")?)),
    });
}

fn text_of(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

/// The line of an event of the process, without its line break.
pub(super) fn line_of(format: Format, event: &Event) -> String {
    let process = ProcessIdentity { replica: "tcplb-7d9f-x2x7k".into(), started: "19a1b2c3d4e".into() };
    let mut text = Vec::new();
    LineEncoder { format, process }.write(&mut text, event);
    let line = String::from_utf8(text).expect("UTF-8");
    line.strip_suffix('\n').expect("a line").to_owned()
}

impl Chosen {
    fn check(&self, value: impl Fn(&str) -> Option<String>) {
        assert_eq!(value("listener").as_ref(), Some(&self.listener));
        assert_eq!(value("listener_name").as_ref(), Some(&self.name));
        assert_eq!(value("tls_server_name"), self.server_name);
        assert_eq!(value("tls_client"), self.subject);
        assert_eq!(value("reason").as_deref(), Some("client_reset"));
        assert_eq!(value("client").as_deref(), Some("192.0.2.7:5000"));
    }
}

fn event_with(chosen: &Chosen) -> Event {
    let identity = chosen.subject.as_deref().map(Identity::named);
    let agreed = Agreed { version: "TLS1.3", protocol: None, resumed: false, identity };
    let tls =
        ClientTls { server_name: chosen.server_name.as_deref().map(Into::into), agreed: Some(agreed), fault: None };
    let listener = Arc::new(ListenerLabel {
        label: chosen.listener.as_str().into(),
        name: chosen.name.as_str().into(),
        load_balancer: chosen.listener.as_str().into(),
    });
    Event { listener, tls: Some(Arc::new(tls)), ..event(Kind::End(CloseReason::ClientReset)) }
}

pub(super) fn event(kind: Kind) -> Event {
    Event {
        kind,
        at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        id: ConnectionId { worker: 1, number: 42 },
        listener: Arc::new(ListenerLabel {
            label: "shop/pg:5432".into(),
            load_balancer: "shop/pg".into(),
            name: "postgres".into(),
        }),
        peer: SocketAddr::from(([10, 0, 0, 1], 4000)),
        client: SocketAddr::from(([192, 0, 2, 7], 5000)),
        tls: Some(Arc::new(ClientTls {
            server_name: Some("db.example.com".into()),
            agreed: Some(Agreed {
                version: "TLS1.3",
                protocol: None,
                resumed: false,
                identity: Some(Identity::named("O=shop, CN=\"al\nice\"")),
            }),
            fault: None,
        })),
        route: Some("*.example.com".into()),
        backend: Some("primary".into()),
        endpoint: Some(SocketAddr::from(([10, 1, 0, 1], 5432))),
        attempts: Attempts {
            count: 3,
            failed: vec![
                FailedEndpoint { address: SocketAddr::from(([10, 1, 0, 2], 5432)), fault: ConnectFault::Refused },
                FailedEndpoint { address: SocketAddr::from(([10, 1, 0, 3], 5432)), fault: ConnectFault::Timeout },
            ],
        },
        bytes_to_backend: 7,
        bytes_to_client: 8,
        connect: Some(Duration::from_micros(1500)),
        duration: Duration::from_secs(2),
    }
}

/// The pairs of a line as logfmt readers see them: a value is one word, or quoted with JSON escapes. A key may have no
/// value.
fn pairs_of(line: &str) -> Option<BTreeMap<String, Option<String>>> {
    let (mut pairs, mut rest) = (BTreeMap::new(), line);
    while !rest.is_empty() {
        let end = rest.find([' ', '=', '"']).unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        let (value, after) = match after.strip_prefix('=') {
            Some(after) if after.starts_with('"') => {
                let mut read = serde_json::Deserializer::from_str(after).into_iter::<String>();
                let value = read.next()?.ok()?;
                (Some(value), &after[read.byte_offset()..])
            }
            Some(after) => {
                let (value, after) = after.split_at(after.find(' ').unwrap_or(after.len()));
                (Some(value).filter(|value| !value.contains(['"', '='])).map(str::to_owned), after)
            }
            None => (None, after),
        };
        let is_new = pairs.insert(key.to_owned(), value).is_none();
        rest = if after.is_empty() { after } else { after.strip_prefix(' ')? };
        if key.is_empty() || !is_new {
            return None;
        }
    }
    Some(pairs)
}
