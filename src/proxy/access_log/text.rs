//! The text form of an event. Addresses and numbers are formatted by hand: with `write!` for each field, a line took
//! three times as long.

use std::{io::Write, net::SocketAddr, time::Duration};

use super::event::{Event, FailedEndpoint, FullConnectionId, ProcessIdentity, timestamp};
use crate::{printable::quoted, proxy::tls::ClientTls};

/// Writes `TIME connection end connection_id=… client=… …`: pairs in the order of the JSON fields, without absent ones.
pub fn write_text(text: &mut Vec<u8>, event: &Event, process: &ProcessIdentity) {
    // Writing to memory does not fail.
    let _ = write!(text, "{:.6} connection {}", timestamp(event.at), event.kind.label());
    pair(text, "connection_id", &FullConnectionId { process, id: event.id });
    pair(text, "replica", &Foreign(&process.replica));
    pair(text, "load_balancer", &Foreign(&event.listener.load_balancer));
    pair(text, "listener", &Foreign(&event.listener.label));
    pair(text, "listener_name", &Foreign(&event.listener.name));
    pair(text, "peer", &event.peer);
    pair(text, "client", &event.client);
    if let Some(tls) = &event.tls {
        write_tls(text, tls);
    }
    if let Some(route) = &event.route {
        pair(text, "route", &Foreign(route));
    }
    if let Some(backend) = &event.backend {
        pair(text, "backend", &Foreign(backend));
    }
    if let Some(endpoint) = &event.endpoint {
        pair(text, "endpoint", endpoint);
    }
    let Some(reason) = event.kind.reason() else { return };
    pair(text, "attempts", &u64::from(event.attempts.count));
    if !event.attempts.failed.is_empty() {
        pair(text, "failed_endpoints", &event.attempts.failed[..]);
    }
    pair(text, "bytes_to_backend", &event.bytes_to_backend);
    pair(text, "bytes_to_client", &event.bytes_to_client);
    if let Some(connect) = &event.connect {
        pair(text, "connect_seconds", connect);
    }
    pair(text, "duration_seconds", &event.duration);
    pair(text, "outcome", reason.outcome());
    pair(text, "reason", reason.label());
    if let Some(fault) = event.tls.as_ref().and_then(|tls| tls.fault) {
        pair(text, "tls_client_fault", fault.label());
    }
}

fn write_tls(text: &mut Vec<u8>, tls: &ClientTls) {
    if let Some(agreed) = &tls.agreed {
        pair(text, "tls_version", agreed.version);
    }
    match &tls.server_name {
        Some(name) => pair(text, "tls_server_name", &Foreign(name)),
        None => pair(text, "tls_server_name", ABSENT),
    }
    if let Some(identity) = tls.agreed.as_ref().and_then(|agreed| agreed.identity.as_ref()) {
        let _ = write!(text, " tls_client={}", quoted(&identity.subject));
    }
}

/// The placeholder for an absent server name.
const ABSENT: &str = "-";

fn pair(text: &mut Vec<u8>, name: &str, value: &(impl Value + ?Sized)) {
    text.push(b' ');
    text.extend_from_slice(name.as_bytes());
    text.push(b'=');
    value.write(text);
}

trait Value {
    fn write(&self, text: &mut Vec<u8>);
}

/// Text that clients or administrators choose. It is quoted with JSON escapes unless it is one plain word, so that it
/// cannot forge another pair or line. An equals sign is escaped too: `grep reason=` finds nothing in it.
struct Foreign<'a>(&'a str);

impl Value for Foreign<'_> {
    fn write(&self, text: &mut Vec<u8>) {
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\');
        if self.0.bytes().all(is_plain) && !matches!(self.0, "" | ABSENT) {
            self.0.write(text);
        } else {
            text.extend_from_slice(quoted(self.0).replace('=', "\\u003d").as_bytes());
        }
    }
}

impl Value for str {
    fn write(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(self.as_bytes());
    }
}

impl Value for u64 {
    fn write(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(itoa::Buffer::new().format(*self).as_bytes());
    }
}

impl Value for FullConnectionId<'_> {
    fn write(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(self.process.started.as_bytes());
        text.push(b'-');
        u64::from(self.id.worker).write(text);
        text.push(b'-');
        self.id.number.write(text);
    }
}

/// Written as `ADDRESS/REASON`, separated by commas.
impl Value for [FailedEndpoint] {
    fn write(&self, text: &mut Vec<u8>) {
        for (place, failed) in self.iter().enumerate() {
            if place > 0 {
                text.push(b',');
            }
            failed.address.write(text);
            text.push(b'/');
            failed.fault.label().write(text);
        }
    }
}

impl Value for SocketAddr {
    fn write(&self, text: &mut Vec<u8>) {
        let SocketAddr::V4(address) = self else {
            let _ = write!(text, "{self}");
            return;
        };
        for (octet, end) in address.ip().octets().into_iter().zip(*b"...:") {
            u64::from(octet).write(text);
            text.push(end);
        }
        u64::from(address.port()).write(text);
    }
}

/// Written in seconds, to the microsecond.
impl Value for Duration {
    fn write(&self, text: &mut Vec<u8>) {
        let rounded = self.saturating_add(Self::from_nanos(500));
        rounded.as_secs().write(text);
        let mut digits = rounded.subsec_micros();
        let mut unit = 100_000;
        if digits > 0 {
            text.push(b'.');
        }
        while digits > 0 {
            text.push(b'0' + (digits / unit) as u8);
            digits %= unit;
            unit /= 10;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: &impl Value) -> String {
        let mut text = Vec::new();
        value.write(&mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn addresses_are_formatted_like_the_standard_library_does() {
        for address in ["0.0.0.0:0", "127.0.0.1:80", "255.199.100.9:65535", "[::]:0", "[2001:db8::1]:443"] {
            assert_eq!(written(&address.parse::<SocketAddr>().unwrap()), address);
        }
    }

    #[test]
    fn durations_are_seconds_without_needless_digits() {
        for (nanoseconds, text) in [
            (0, "0"),
            (499, "0"),
            (500, "0.000001"),
            (1_500_000, "0.0015"),
            (120_034_000, "0.120034"),
            (999_999_600, "1"),
            (12_500_000_000, "12.5"),
            (86_400_000_000_000, "86400"),
        ] {
            assert_eq!(written(&Duration::from_nanos(nanoseconds)), text);
        }
    }
}
