use std::{fs, io, sync::Mutex, time::SystemTime};

use proptest::prelude::*;
use serde_json::Value;

use super::{
    read_back::{Chosen, check_read_back, event, line_of},
    *,
};
use crate::proxy::{accounting::CloseReason, tls::ClientTls};

#[derive(Clone, Default)]
struct SharedBuffer(Arc<Mutex<Vec<u8>>>);

impl Write for SharedBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct FailingWriter;

impl Write for FailingWriter {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes nothing while the gate is held.
struct GatedWriter(Arc<Mutex<()>>);

impl Write for GatedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _open = self.0.lock().unwrap();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn written(format: Format, events: impl IntoIterator<Item = Event>) -> String {
    let memory = SharedBuffer::default();
    let encoder = LineEncoder { format, process: ProcessIdentity::new("test") };
    let (log, writer) = AccessLog::start(Events::StartsAndEnds, encoder, memory.clone());
    events.into_iter().for_each(|event| log.offer(event, &Arc::default()));
    writer.finish(&log, Duration::from_secs(30));
    String::from_utf8(memory.0.lock().unwrap().clone()).unwrap()
}

#[test]
fn text_lines_are_pairs() {
    assert_eq!(
        line_of(Format::Text, &event(Kind::End(CloseReason::Complete))),
        "2023-11-14T22:13:20.123000Z connection end connection_id=19a1b2c3d4e-1-42 replica=tcplb-7d9f-x2x7k \
         load_balancer=shop/pg listener=shop/pg:5432 listener_name=postgres peer=10.0.0.1:4000 client=192.0.2.7:5000 \
         tls_version=TLS1.3 tls_server_name=db.example.com tls_client=\"O=shop, CN=\\\"al\\nice\\\"\" \
         route=*.example.com backend=primary endpoint=10.1.0.1:5432 attempts=3 \
         failed_endpoints=10.1.0.2:5432/refused,10.1.0.3:5432/timeout bytes_to_backend=7 bytes_to_client=8 \
         connect_seconds=0.0015 duration_seconds=2 outcome=success reason=complete"
    );
}

#[test]
fn times_have_six_decimals_so_that_they_sort_as_text() {
    let times = [0, 358_120_000, 358_121_000, 999_999_400].map(|nanoseconds| {
        let at = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, nanoseconds);
        Event { at, ..event(Kind::End(CloseReason::Complete)) }
    });
    let expected =
        ["20.000000Z", "20.358120Z", "20.358121Z", "20.999999Z"].map(|end| format!("2023-11-14T22:13:{end}"));
    let text = written(Format::Text, times.clone());
    assert!(text.lines().map(|line| line.split_once(' ').unwrap().0).eq(&expected), "{text}");
    let json = written(Format::Json, times);
    let time =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["time"].as_str().unwrap().to_owned();
    assert!(json.lines().map(time).eq(expected), "{json}");
}

#[test]
fn json_lines_are_objects() {
    let text = written(Format::Json, [event(Kind::Start), event(Kind::End(CloseReason::IdleTimeout))]);
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines[0]["event"].as_str(), lines[0].get("reason")), (Some("start"), None));
    assert_eq!((lines[0].get("attempts"), lines[0].get("duration_seconds")), (None, None));
    assert_eq!(lines[1]["failed_endpoints"][1]["reason"], "timeout");
    assert_eq!(lines[1]["reason"], "idle_timeout");
    assert_eq!(lines[1]["connect_seconds"], 0.0015);
    assert_eq!(lines[1]["tls_client"], "O=shop, CN=\"al\nice\"");
}

#[test]
fn the_writer_finishes_all_offered_events_in_order() {
    let end = || event(Kind::End(CloseReason::Complete));
    let offered = (0..2000).map(|number| Event { bytes_to_backend: number, ..end() });
    let text = written(Format::Json, offered);
    let numbers = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    assert!(numbers.map(|line| line["bytes_to_backend"].as_u64().unwrap()).eq(0..2000));
}

#[test]
fn ends_that_cannot_be_written_count_as_dropped() {
    let (log, writer) = AccessLog::start(
        Events::Ends,
        LineEncoder { format: Format::Text, process: ProcessIdentity::new("test") },
        FailingWriter,
    );
    for _ in 0..1000 {
        log.offer(event(Kind::End(CloseReason::Complete)), &Arc::default());
    }
    writer.finish(&log, Duration::from_secs(30));
    assert_eq!((log.logged(), log.dropped()), (0, 1000));
}

#[test]
fn a_load_balancer_with_many_events_leaves_others_places_in_the_queue() {
    const MANY: usize = 2 * QUEUE;
    const FEW: usize = 700;
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock().unwrap();
    let encoder = LineEncoder { format: Format::Text, process: ProcessIdentity::new("test") };
    let (log, writer) = AccessLog::start(Events::Ends, encoder, GatedWriter(gate.clone()));
    let [greedy, other] = [(); 2].map(|()| Arc::<QueuedEvents>::default());
    let offer = |own: &Arc<QueuedEvents>| log.offer(event(Kind::End(CloseReason::Complete)), own);
    (0..MANY).for_each(|_| offer(&greedy));
    let dropped = log.dropped();
    assert!(dropped > 0);
    (0..FEW).for_each(|_| offer(&other));
    assert_eq!(log.dropped(), dropped);
    drop(closed);
    writer.finish(&log, Duration::from_secs(30));
    assert_eq!(log.logged() + log.dropped(), (MANY + FEW) as u64);
    assert_eq!([&log.queued, &greedy, &other].map(|queued| queued.0.load(Relaxed)), [0; 3]);
}

#[test]
fn a_server_name_forges_neither_a_pair_nor_a_line() {
    let name = "a\"reason=complete reason=complete\n2026-01-01T00:00:00Z connection end reason=complete";
    let tls = ClientTls { server_name: Some(name.into()), agreed: None, fault: None };
    let line = line_of(Format::Text, &Event { tls: Some(Arc::new(tls)), ..event(Kind::End(CloseReason::NoRoute)) });
    assert_eq!(line.matches("reason=").count(), 1, "{line}");
    assert!(line.ends_with(" reason=no_route") && !line.contains('\n'), "{line}");
}

#[test]
fn events_have_the_fields_of_the_elastic_common_schema() {
    let line: Value = serde_json::from_str(&line_of(Format::Ecs, &event(Kind::End(CloseReason::NoRoute)))).unwrap();
    for (pointer, expected) in [
        ("/@timestamp", Value::from("2023-11-14T22:13:20.123000Z")),
        ("/event/type", vec!["connection", "denied", "end"].into()),
        ("/event/outcome", "failure".into()),
        ("/event/duration", 2_000_000_000_u64.into()),
        ("/log/level", "warn".into()),
        ("/source/ip", "192.0.2.7".into()),
        ("/source/bytes", 7.into()),
        ("/destination/port", 5432.into()),
        ("/network/bytes", 15.into()),
        ("/tls/version", "1.3".into()),
        ("/tcplb/peer/port", 4000.into()),
        ("/tcplb/failed_endpoints/0/endpoint", "10.1.0.2:5432".into()),
    ] {
        assert_eq!(line.pointer(pointer), Some(&expected), "{pointer}: {line}");
    }
}

#[test]
fn opentelemetry_values_have_the_types_of_the_json_encoding() {
    let line: Value = serde_json::from_str(&line_of(Format::Otel, &event(Kind::Start))).unwrap();
    let record = &line["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
    assert_eq!(record["timeUnixNano"], "1700000000123000000");
    assert_eq!((&record["severityNumber"], &record["eventName"]), (&9.into(), &"tcplb.connection.start".into()));
    let line: Value = serde_json::from_str(&line_of(Format::Otel, &event(Kind::End(CloseReason::NoRoute)))).unwrap();
    let record = &line["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
    let value = |key: &str| {
        let attributes = record["attributes"].as_array().unwrap();
        attributes.iter().find(|attribute| attribute["key"] == key).map(|attribute| attribute["value"].to_string())
    };
    for (key, expected) in [
        ("client.address", r#"{"stringValue":"192.0.2.7"}"#),
        ("client.port", r#"{"intValue":"5000"}"#),
        ("error.type", r#"{"stringValue":"no_route"}"#),
        ("tls.established", r#"{"boolValue":true}"#),
        ("tcplb.connection.duration", r#"{"doubleValue":2.0}"#),
    ] {
        assert_eq!(value(key).as_deref(), Some(expected), "{key}");
    }
    let failed = value("tcplb.failed_endpoints").unwrap();
    assert!(failed.starts_with(r#"{"arrayValue":{"values":[{"kvlistValue":{"values":[{"key":"#), "{failed}");
    assert_eq!(record["severityText"], "WARN");
}

#[test]
fn an_event_of_any_reason_matches_the_schema() {
    let schema = schema();
    for reason in CloseReason::ALL {
        let kinds = [Kind::Start, Kind::End(reason)];
        for kind in kinds {
            let line: Value = serde_json::from_str(&line_of(Format::Json, &event(kind))).unwrap();
            let properties = schema["properties"].as_object().unwrap();
            for (field, value) in line.as_object().unwrap() {
                let allowed = properties.get(field).unwrap_or_else(|| panic!("{field} is not in the schema"));
                let is_allowed = allowed["enum"].as_array().is_none_or(|values| values.contains(value));
                assert!(is_allowed, "{field}: {value}");
            }
            for field in schema["required"].as_array().unwrap() {
                assert!(line.get(field.as_str().unwrap()).is_some(), "{field} is missing: {line}");
            }
        }
    }
}

/// The tables of fields and of faults, and the examples.
#[test]
fn the_documented_tables_of_the_access_log_are_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/access-log.md");
    let text = fs::read_to_string(path).unwrap();
    let schema = schema();
    let required = schema["required"].as_array().unwrap();
    let field = |(name, field): (&String, &Value)| {
        let presence = if required.contains(&Value::from(name.as_str())) { "always" } else { "" };
        format!("| `{name}` | {presence} | {} |\n", field["description"].as_str().unwrap().replace('\n', " "))
    };
    // In the order of the pairs in text, which has the same fields.
    let line = line_of(Format::Text, &with_every_field());
    let position = |name: &str| match name {
        "time" => 0,
        "event" => 1,
        _ => line.find(&format!(" {name}=")).unwrap_or_else(|| panic!("{name} is not in the text")),
    };
    let mut fields: Vec<_> = schema["properties"].as_object().unwrap().iter().collect();
    fields.sort_by_key(|(name, _)| position(name));
    let fields = fields.into_iter().map(field).collect::<String>();
    let faults = ConnectFault::ALL.map(|fault| format!("| `{}` | {} |\n", fault.label(), fault.meaning())).concat();
    let end = event_without_tls();
    let example = |format| format!("```\n{}\n```\n", line_of(format, &end));
    let mut current = text.clone();
    for (name, content) in [
        ("fields", format!("| field | present | meaning |\n|---|---|---|\n{fields}")),
        ("faults", format!("| reason | meaning |\n|---|---|\n{faults}")),
        ("text", example(Format::Text)),
        ("json", example(Format::Json)),
        ("ecs", example(Format::Ecs)),
        ("otel", example(Format::Otel)),
    ] {
        let (begin, end) = (format!("<!-- generated: {name} -->\n"), "<!-- end -->");
        let (head, rest) = current.split_once(&begin).unwrap_or_else(|| panic!("{path} has no place for {name}"));
        let (_, tail) = rest.split_once(end).expect("the end of the generated part");
        current = format!("{head}{begin}\n{content}\n{end}{tail}");
    }
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path, current).unwrap();
    } else {
        assert_eq!(text, current, "docs/access-log.md is not current: run `make generate`");
    }
}

fn event_without_tls() -> Event {
    let mut example = event(Kind::End(CloseReason::Complete));
    (example.tls, example.route) = (None, None);
    example.attempts.count = 2;
    example.attempts.failed.truncate(1);
    example.peer = example.client;
    example
}

fn with_every_field() -> Event {
    let mut event = event(Kind::End(CloseReason::TlsFailed));
    let known = event.tls.take().map(Arc::unwrap_or_clone).unwrap();
    event.tls = Some(Arc::new(ClientTls { fault: Some(crate::proxy::tls::HandshakeFault::Expired), ..known }));
    event
}

fn any_text() -> impl Strategy<Value = String> {
    let special = prop::sample::select(vec![
        '\n', '\r', '\x1b', '\x7f', '"', '\\', ' ', '=', '-', '\u{202e}', '\u{9b}', '\u{2028}',
    ]);
    let text = prop::collection::vec(prop_oneof![any::<char>(), special, prop::char::range('!', '~')], 0..60);
    let forged = Just(" reason=complete\n2026-01-01T00:00:00Z connection end listener=a".to_owned());
    prop_oneof![9 => text.prop_map(String::from_iter), 1 => forged, 1 => Just("-".to_owned())]
}

prop_compose! {
    fn any_choice()(
        listener in any_text(),
        name in any_text(),
        server_name in prop::option::of(any_text()),
        subject in prop::option::of(any_text()),
    ) -> Chosen {
        Chosen { listener, name, server_name, subject }
    }
}

proptest! {
    #[test]
    fn lines_are_read_back_with_equal_values(chosen in any_choice()) {
        check_read_back(&chosen);
    }
}

fn silent_log(events: Events) -> AccessLog {
    let encoder = LineEncoder { format: Format::Text, process: ProcessIdentity::new("test") };
    AccessLog::start(events, encoder, io::sink()).0
}

#[test]
fn followers_get_the_events_that_they_select_also_without_a_log() {
    let log = silent_log(Events::None);
    assert!(!log.has_followers());
    let all = log.follow(Box::new(|_| true)).unwrap();
    let failures = log.follow(Box::new(|event| event.kind.is_failure())).unwrap();
    for reason in [CloseReason::Complete, CloseReason::NoRoute] {
        log.show(&event(Kind::End(reason)));
    }
    let reasons = |follower: &Follower| -> Vec<CloseReason> {
        std::iter::from_fn(|| follower.next()).filter_map(|event| event.kind.reason()).collect()
    };
    assert_eq!(reasons(&all), [CloseReason::Complete, CloseReason::NoRoute]);
    assert_eq!(reasons(&failures), [CloseReason::NoRoute]);
    drop(all);
    assert!(log.has_followers());
    drop(failures);
    assert!(!log.has_followers());
    log.show(&event(Kind::End(CloseReason::Complete)));
}

#[test]
fn a_follower_that_does_not_read_loses_events_and_affects_no_other() {
    let log = silent_log(Events::Ends);
    let (reading, silent) = (log.follow(Box::new(|_| true)).unwrap(), log.follow(Box::new(|_| true)).unwrap());
    let mut read = 0;
    for _ in 0..10_000 {
        log.show(&event(Kind::End(CloseReason::Complete)));
        read += usize::from(reading.next().is_some());
    }
    assert_eq!((read, reading.take_lost()), (10_000, 0));
    let kept = std::iter::from_fn(|| silent.next()).count() as u64;
    assert_eq!((kept + silent.take_lost(), silent.take_lost()), (10_000, 0));
    assert!(kept < 10_000, "the queue is bounded");
}

#[test]
fn the_number_of_followers_is_limited() {
    let log = silent_log(Events::Ends);
    let mut present: Vec<_> = std::iter::from_fn(|| log.follow(Box::new(|_| true))).collect();
    assert_eq!(present.len(), followers::MAX_FOLLOWERS);
    present.pop();
    assert!(log.follow(Box::new(|_| true)).is_some());
}
