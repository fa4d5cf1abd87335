//! Strings in health checks.

use std::{borrow::Cow, fmt, net::Ipv6Addr, ops::RangeInclusive, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::json;

use super::{credentials::without_credentials, port_number::port_number};

/// A line of text: 1 to 256 characters, without control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(pub String);

impl FromStr for Text {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let valid = (1..=256).contains(&text.chars().count()) && !text.contains(|c: char| c.is_ascii_control());
        if valid { Ok(Self(text.to_owned())) } else { Err(format!("`{}` is {NOT_A_LINE}", text.escape_debug())) }
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const NOT_A_LINE: &str = "not a line of text: write 1 to 256 characters, without control characters";

string_type!(
    Text,
    json_schema!({
        "type": "string", "minLength": 1, "maxLength": 256,
        "x-kubernetes-validations": [{
            "rule": "!self.matches('[\\\\x00-\\\\x1f\\\\x7f]')",
            "message": NOT_A_LINE,
        }],
    })
);

/// 1 to 1024 bytes, written as hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HexBytes(pub Vec<u8>);

impl FromStr for HexBytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
        let wrong = || {
            let shown: String = text.chars().take(60).flat_map(char::escape_debug).collect();
            format!("`{shown}` is {NOT_HEX}")
        };
        bytes.filter(|bytes| rest.is_empty() && (1..=1024).contains(&bytes.len())).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for HexBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

const NOT_HEX: &str = "not hexadecimal bytes: write two digits for each byte, for example 50494e470d0a";

string_type!(
    HexBytes,
    json_schema!({
        "type": "string", "minLength": 2, "maxLength": 2048,
        "x-kubernetes-validations": [{
            "rule": "size(self) % 2 == 0 && self.matches('^[0-9a-fA-F]+$')",
            "message": NOT_HEX,
        }],
    })
);

/// The path of an HTTP request, with its query: at most 256 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpPath(pub String);

impl FromStr for HttpPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let allowed = |byte: u8| byte.is_ascii_graphic() && !b"#\"<>\\^`{|}".contains(&byte);
        let valid = text.starts_with('/') && text.len() <= 256 && text.bytes().all(allowed);
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("`{}` is {NOT_A_PATH}", without_credentials(text).escape_debug()))
        }
    }
}

impl fmt::Display for HttpPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const NOT_A_PATH: &str = "not an HTTP path: write for example /health or /status?full=yes";

string_type!(
    HttpPath,
    json_schema!({
        "type": "string", "minLength": 1, "maxLength": 256,
        "x-kubernetes-validations": [{
            "rule": "self.matches('^/[!$-;=?-\\\\[\\\\]_a-z~]*$')",
            "message": NOT_A_PATH,
        }],
    })
);

/// The Host header of an HTTP request: a host name or an IP address, with an optional port, at most 256 characters.
///
/// RFC 3986 permits more characters in a host name, for example `~` and percent-encoded ones. DNS names have none of
/// them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpHost(pub String);

impl FromStr for HttpHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let valid = text.len() <= 256 && is_http_host(text);
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("`{}` is {NOT_A_HOST}", without_credentials(text).escape_debug()))
        }
    }
}

fn is_http_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        // The last colon of an IPv6 address without a port.
        Some((_, rest)) if rest.ends_with(']') => (text, None),
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let valid = match host.strip_prefix('[') {
        Some(rest) => {
            let ip = rest.strip_suffix(']').and_then(|ip| ip.parse::<Ipv6Addr>().ok());
            // CEL does not support IPv4-mapped addresses.
            ip.is_some_and(|ip| ip.to_ipv4_mapped().is_none())
        }
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)),
    };
    valid && port.is_none_or(|port| port_number(port).is_some())
}

impl fmt::Display for HttpHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const NOT_A_HOST: &str = "not a valid Host header: write a host name, an IPv4 address or an IPv6 address in brackets, \
                          with an optional port, for example db.example.com, 192.0.2.7:8008 or [2001:db8::7]:8008";

const HOST_RULES: [&str; 3] = [
    r"self.matches('^(\\[[0-9a-fA-F.]*:[0-9a-fA-F:.]*\\]|[-A-Za-z0-9_.]+)(:[1-9][0-9]{0,4})?$')",
    "!self.matches(':[0-9]{5}$') || int(self.substring(self.lastIndexOf(':') + 1)) <= 65535",
    r"!self.matches('^\\[[0-9a-fA-F:.]+\\]') || isIP(self.substring(1, self.lastIndexOf(']')))",
];

string_type!(
    HttpHost,
    json_schema!({
        "type": "string", "minLength": 1, "maxLength": 256,
        "x-kubernetes-validations": HOST_RULES.map(|rule| json!({"rule": rule, "message": NOT_A_HOST})),
    })
);

/// The name of an HTTP header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderName(pub String);

impl FromStr for HeaderName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let valid = (1..=63).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if valid { Ok(Self(text.to_owned())) } else { Err(format!("`{}` is {NOT_A_HEADER}", text.escape_debug())) }
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const NOT_A_HEADER: &str = "not a header name: write for example X-Token";

string_type!(
    HeaderName,
    json_schema!({
        "type": "string", "minLength": 1, "maxLength": 63,
        "x-kubernetes-validations": [{
            "rule": "self.matches('^[-_.A-Za-z0-9]+$')",
            "message": NOT_A_HEADER,
        }],
    })
);

/// An HTTP status, or a range of statuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRange(pub RangeInclusive<u16>);

impl FromStr for StatusRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let status = |text: &str| text.parse().ok().filter(|_| text.len() == 3);
        let range = status(from).zip(status(to)).map(|(from, to)| Self(from..=to));
        let valid = |range: &Self| !range.0.is_empty() && *range.0.start() >= 100 && *range.0.end() <= 599;
        range.filter(valid).ok_or_else(|| format!("`{}` is {NOT_A_STATUS}", text.escape_debug()))
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.start(), self.0.end()) {
            (from, to) if from == to => from.fmt(f),
            (from, to) => write!(f, "{from}-{to}"),
        }
    }
}

const NOT_A_STATUS: &str = "not an HTTP status: write for example 200, or 200-299";

impl Serialize for StatusRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self.0.start(), self.0.end()) {
            (from, to) if from == to => serializer.serialize_u16(*from),
            _ => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for StatusRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum NumberOrText {
            Number(u16),
            Text(String),
        }

        let text = match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(number) => number.to_string(),
            NumberOrText::Text(text) => text,
        };
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for StatusRange {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "StatusRange".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "format": "StatusRange", "x-kubernetes-int-or-string": true, "minimum": 100, "maximum": 599, "maxLength": 7,
            "x-kubernetes-validations": [{
                "rule": "type(self) == int || string(self).matches('^[1-5][0-9][0-9](-[1-5][0-9][0-9])?$')",
                "message": NOT_A_STATUS,
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_numbers_and_ranges() {
        for (written, expected) in [("200", 200..=200), ("\"204\"", 204..=204), ("\"200-299\"", 200..=299)] {
            assert_eq!(serde_json::from_str::<StatusRange>(written).unwrap(), StatusRange(expected), "{written}");
        }
        for written in ["99", "600", "\"\"", "\"2xx\"", "\"299-200\"", "\"200-\"", "\"0200\"", "\"+20\""] {
            assert!(serde_json::from_str::<StatusRange>(written).is_err(), "{written}");
        }
    }

    #[test]
    fn bytes_are_pairs_of_digits() {
        assert_eq!("50494E470d0a".parse(), Ok(HexBytes(b"PING\r\n".to_vec())));
        assert_eq!(HexBytes(b"PING\r\n".to_vec()).to_string(), "50494e470d0a");
        for text in ["", "5", "505", "5g", "0x50", "50 49", "+5"] {
            assert!(text.parse::<HexBytes>().unwrap_err().contains("is not hexadecimal bytes: write two"), "{text}");
        }
    }

    #[test]
    fn http_hosts_are_names_or_addresses_with_an_optional_port() {
        for text in [
            "h",
            "patroni:8008",
            "DB_1.example.com.",
            "192.0.2.7:65535",
            "[2001:db8::7]",
            "[2001:db8::7]:80",
            "a".repeat(256).as_str(),
        ] {
            assert_eq!(text.parse(), Ok(HttpHost(text.into())));
        }
        for text in [
            "",
            ":80",
            "a b",
            " a",
            "a\r\nX: y",
            "a\0",
            "ü",
            "a/b",
            "u@h",
            "a?b",
            "http://a",
            "a:",
            "a:0",
            "a:080",
            "a:65536",
            "a:123456",
            "a:http",
            "a:1:2",
            "2001:db8::7",
            "[]",
            "[192.0.2.7]",
            "[::1",
            "[::1]80",
            "[::1]:",
            "[fe80::1%eth0]",
            "[::ffff:192.0.2.7]",
            "a".repeat(257).as_str(),
        ] {
            let error = text.parse::<HttpHost>().unwrap_err();
            assert!(error.contains("is not a valid Host header: write a host name, an IPv4 address"), "{error}");
        }
    }

    #[test]
    fn paths_and_headers_are_those_of_http() {
        for (text, valid) in [
            ("/", true),
            ("/a-b/c.d?e=f&g=%20;h[1]", true),
            ("", false),
            ("health", false),
            ("/a b", false),
            ("/#top", false),
            ("/\r\nX: y", false),
            ("/ü", false),
        ] {
            assert_eq!(text.parse::<HttpPath>().is_ok(), valid, "{text:?}");
            assert!(!valid || text.parse::<hyper::http::uri::PathAndQuery>().is_ok(), "{text:?}");
        }
        for (text, valid) in [("X-Token", true), ("", false), ("X Token", false), ("X:", false), ("X\n", false)] {
            assert_eq!(text.parse::<HeaderName>().is_ok(), valid, "{text:?}");
        }
        assert!("a\tb".parse::<Text>().is_err() && "München, 1".parse::<Text>().is_ok());
    }
}
