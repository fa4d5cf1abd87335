use std::{io, sync::Mutex, time::SystemTime};

use proptest::prelude::*;

use super::{
    read_back::{Chosen, check_read_back, event},
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

fn written(format: Format, events: impl IntoIterator<Item = Event>) -> String {
    let memory = SharedBuffer::default();
    let (log, writer) = AccessLog::start(Events::StartsAndEnds, format, memory.clone());
    events.into_iter().for_each(|event| log.offer(event));
    writer.finish(&log, Duration::from_secs(30));
    String::from_utf8(memory.0.lock().unwrap().clone()).unwrap()
}

#[test]
fn text_lines_are_pairs() {
    assert_eq!(
        written(Format::Text, [event(Kind::End(CloseReason::Complete))]),
        "2023-11-14T22:13:20.123000Z connection end listener=shop/pg:5432 name=pg peer=10.0.0.1:4000 \
         client=192.0.2.7:5000 tls_version=TLS1.3 tls_server_name=db.example.com \
         tls_client=\"O=shop, CN=\\\"al\\nice\\\"\" endpoint=10.1.0.1:5432 attempts=1 \
         bytes_to_backend=7 bytes_to_client=8 connect_seconds=0.0015 duration_seconds=2 reason=complete\n"
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
    assert_eq!(lines[1]["reason"], "idle_timeout");
    assert_eq!(lines[1]["connect_seconds"], 0.0015);
    assert_eq!(lines[1]["tls_client"], "O=shop, CN=\"al\nice\"");
}

#[test]
fn the_writer_finishes_all_offered_events_in_order() {
    let offered = (0..2000).map(|number| Event { bytes_to_backend: number, ..event(Kind::Start) });
    let text = written(Format::Json, offered);
    let numbers = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    assert!(numbers.map(|line| line["bytes_to_backend"].as_u64().unwrap()).eq(0..2000));
}

#[test]
fn ends_that_cannot_be_written_count_as_dropped() {
    let (log, writer) = AccessLog::start(Events::Ends, Format::Text, FailingWriter);
    for _ in 0..1000 {
        log.offer(event(Kind::End(CloseReason::Complete)));
    }
    writer.finish(&log, Duration::from_secs(30));
    assert_eq!((log.logged(), log.dropped()), (0, 1000));
}

#[test]
fn a_server_name_forges_neither_a_pair_nor_a_line() {
    let name = "a\"reason=complete reason=complete\n2026-01-01T00:00:00Z connection end reason=complete";
    let tls = ClientTls { server_name: Some(name.into()), agreed: None, fault: None };
    let mut text = Vec::new();
    write_text(&mut text, &Event { tls: Some(Arc::new(tls)), ..event(Kind::End(CloseReason::NoRoute)) });
    let line = String::from_utf8(text).unwrap();
    assert_eq!(line.matches("reason=").count(), 1, "{line}");
    assert!(line.ends_with(" reason=no_route") && !line.contains('\n'), "{line}");
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
