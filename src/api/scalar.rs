//! String types with validation.
//!
//! The published schema has equivalent CEL rules; tests/apiserver compares both.

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
    time,
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::json;

use super::rules::DURATION;

/// Implements serialization as a string, and this schema.
macro_rules! string_type {
    ($name:ident, $schema:expr) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let mut schema = $schema;
                schema.insert("format".into(), stringify!($name).into());
                schema
            }
        }
    };
}

mod credentials;
mod date_time;
mod dns_name;
mod endpoint_ref;
mod ipv4_notation;
mod network;
mod port_number;
mod question;

use credentials::without_credentials;
pub use date_time::DateTime;
use dns_name::{is_dns_label, is_dns_subdomain};
pub use endpoint_ref::EndpointRef;
pub use ipv4_notation::ipv4_notation;
pub use network::Network;
use network::has_mapped_mark;
pub use port_number::port_number;
pub use question::{HeaderName, HexBytes, HttpHost, HttpPath, StatusRange, Text};

/// Validates a text.
///
/// # Errors
/// A sentence with the correct notation.
pub type Validator = fn(&str) -> Result<(), String>;

/// The check for a `format` of the schema; `None` for foreign formats.
///
/// [`schema`](super::schema) contains these formats, so that the check of a document finds all mistakes at once. The
/// published schema omits them, because the API server does not know them.
pub fn format(name: &str) -> Option<Validator> {
    fn read<T: FromStr<Err = String>>(text: &str) -> Result<(), String> {
        text.parse::<T>().map(drop)
    }

    Some(match name {
        "Duration" => read::<Duration>,
        "DateTime" => read::<DateTime>,
        "Network" => read::<Network>,
        "AddressPort" => read::<AddressPort>,
        "EndpointRef" => read::<EndpointRef>,
        "IpAddress" => read::<IpAddress>,
        "Name" => read::<Name>,
        "ObjectName" => read::<ObjectName>,
        "QualifiedName" => read::<QualifiedName>,
        "ServerName" => read::<ServerName>,
        "PortRef" => |text| port_name(text).map(drop),
        "Text" => read::<Text>,
        "HexBytes" => read::<HexBytes>,
        "HttpHost" => read::<HttpHost>,
        "HttpPath" => read::<HttpPath>,
        "HeaderName" => read::<HeaderName>,
        "StatusRange" => read::<StatusRange>,
        _ => return None,
    })
}

/// A duration such as `500ms` or `1h30m`, as Gateway API writes them (GEP-2257): whole numbers, no sign, at most four
/// parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(pub time::Duration);

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a duration: write for example 30s, 5m, 500ms or 1h30m");
        let (mut rest, mut total, mut parts) = (text, time::Duration::ZERO, 0);
        while !rest.is_empty() && parts < 4 {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if !(1..=5).contains(&digits) {
                return Err(wrong());
            }
            let count: u64 = rest[..digits].parse().map_err(|_| wrong())?;
            rest = &rest[digits..];
            let (unit, milliseconds) = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1000)]
                .into_iter()
                .find(|(unit, _)| rest.starts_with(unit))
                .ok_or_else(wrong)?;
            rest = &rest[unit.len()..];
            total += time::Duration::from_millis(count * milliseconds);
            parts += 1;
        }
        if parts == 0 || !rest.is_empty() { Err(wrong()) } else { Ok(Self(total)) }
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_millis();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
            if rest >= size {
                write!(f, "{}{unit}", rest / size)?;
                rest %= size;
            }
        }
        Ok(())
    }
}

string_type!(
    Duration,
    json_schema!({
        "type": "string", "maxLength": 28,
        "x-kubernetes-validations": [{
            "rule": format!("self.matches('{DURATION}')"),
            "message": "not a duration: write for example 30s, 5m, 500ms or 1h30m",
        }],
    })
);

/// A host (DNS name or IP address) and a port: `db.example.com:5432`, `192.0.2.7:5432`, `[2001:db8::7]:5432`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressPort {
    pub host: Host,
    /// Never zero.
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    Ip(IpAddr),
    /// A DNS name, in lower case.
    Name(String),
}

impl FromStr for AddressPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{}` is not an address: write host:port, for example db.example.com:5432, 192.0.2.7:5432 or \
                 [2001:db8::7]:5432",
                without_credentials(text)
            )
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port_number(port).ok_or_else(wrong)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let ip = match bracketed {
            Some(host) => {
                let ip: Ipv6Addr = host.parse().map_err(|_| wrong())?;
                if let Some(v4) = ip.to_ipv4_mapped().filter(|_| !has_mapped_mark(host)) {
                    return Err(format!("`{text}` is an IPv4 address written as IPv6: write {v4}:{port}"));
                }
                Some(IpAddr::V6(ip))
            }
            None => host.parse().ok().map(IpAddr::V4),
        };
        let host = match ip {
            Some(ip) => Host::Ip(ip),
            None if is_host_name(host) => Host::Name(host.to_ascii_lowercase()),
            None => return Err(ipv4_notation::<Self>(text).unwrap_or_else(wrong)),
        };
        Ok(Self { host, port })
    }
}

/// True for labels of letters, digits, dashes and underscores, separated by dots, at most 253 characters in all. The
/// last label must not be a number, because the name would be a mistyped IPv4 address. The system's resolver also reads
/// hexadecimal numbers as IPv4 addresses: 0x7f000001 is 127.0.0.1.
fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_number = |label: &str| match label.strip_prefix("0x").or(label.strip_prefix("0X")) {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    };
    let numeric = text.rsplit('.').next().is_some_and(is_number);
    text.len() <= 253 && !numeric && text.split('.').all(label)
}

impl fmt::Display for AddressPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

string_type!(
    AddressPort,
    json_schema!({
        "type": "string", "minLength": 1, "maxLength": 260,
        // Several rules, because the API server limits the cost of each rule, and the cost is proportional to the
        // length of the pattern times the length of the text.
        "x-kubernetes-validations": ADDRESS_RULES
            .map(|rule| json!({"rule": rule, "message": NOT_AN_ADDRESS}))
            .into_iter()
            .chain(NOWHERE_RULES.map(|rule| json!({"rule": rule, "message": NOWHERE})))
            .collect::<Vec<_>>(),
    })
);

const NOT_AN_ADDRESS: &str =
    "not an address: write host:port, for example db.example.com:5432, 192.0.2.7:5432 or [2001:db8::7]:5432";

const ADDRESS_RULES: [&str; 6] = [
    r"self.matches('^(\\[[0-9a-fA-F.]*:[0-9a-fA-F:.]*\\]|[-A-Za-z0-9_.]+)(:[^:]*)?$')",
    "self.matches(':[1-9][0-9]{0,4}$') && int(self.substring(self.lastIndexOf(':') + 1)) <= 65535",
    // CEL does not support IPv4-mapped addresses: see `network`.
    "!self.startsWith('[') || isIP(self.substring(1, self.lastIndexOf(']'))) || \
     (self.matches('^.::[fF]{4}:') && isIP('::fffd:' + self.substring(8, self.lastIndexOf(']'))))",
    // The labels of a name.
    "!self.matches('(^|[.])[-.]|-[.:]|[^.:]{64}')",
    // A name that ends in a number would be a mistyped IPv4 address.
    "!self.matches('^([^:]*[.])?[0-9]+[.]?:') || isIP(self.substring(0, self.lastIndexOf(':')))",
    "!(self.contains('0x') || self.contains('0X')) || !self.matches('(^|[.])0[xX][0-9a-fA-F]*[.]?:')",
];

const NOWHERE: &str = "not a connectable address (unspecified, multicast, broadcast, or IPv6 link-local): write the \
     address of a server";

/// Addresses that the translation drops from every source. `isIP` refuses IPv4 addresses within IPv6.
const NOWHERE_RULES: [&str; 4] = [
    // The cost of a search is proportional to the length of the text. The first conditions exclude most names.
    "!self.startsWith('255.255.255.255:') && \
     (!(self.startsWith('0.') || self.startsWith('22') || self.startsWith('23')) || \
     !self.matches('^(0|22[4-9]|23[0-9])[.][0-9.]+:'))",
    // IPv4 addresses within IPv6, dotted and hexadecimal. Only these reach the costly part.
    "!self.startsWith('[::') || !self.matches('^.::[fF]{4}:((0|22[4-9]|23[0-9])[.]|255[.]255[.]255[.]255])')",
    "!self.startsWith('[::') || !self.matches('^.::[fF]{4}:((0{0,2}[^:]{1,2}|[eE][^:]{3}):[^:]+|[fF]{4}:[fF]{4})]')",
    "!self.startsWith('[') || !isIP(self.substring(1, self.lastIndexOf(']'))) || \
     !(ip(self.substring(1, self.lastIndexOf(']'))).isUnspecified() || \
     self.matches('^.([fF][fF][0-9a-fA-F]{2}|[fF][eE][89abAB][0-9a-fA-F]):'))",
];

/// A name within a manifest (a DNS label, RFC 1123).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(pub String);

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() <= 63 && is_dns_label(text) {
            Ok(Self(text.to_owned()))
        } else {
            let text = without_credentials(text);
            Err(format!("`{text}` is not a name: write at most 63 lower-case letters, digits and dashes"))
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

string_type!(
    Name,
    json_schema!({
        "type": "string", "minLength": 1, "maxLength": 63,
        "x-kubernetes-validations": [{
            "rule": "!format.dns1123Label().validate(self).hasValue()",
            "message": "not a name: write at most 63 lower-case letters, digits and dashes",
        }],
    })
);

/// The name of another Kubernetes object (a DNS subdomain, RFC 1123).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(pub String);

impl FromStr for ObjectName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if is_dns_subdomain(text) {
            Ok(Self(text.to_owned()))
        } else {
            let text = without_credentials(text);
            Err(format!("`{text}` is not an object name: write lower-case letters, digits, dashes and dots"))
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

string_type!(
    ObjectName,
    json_schema!({
        "type": "string", "minLength": 1, "maxLength": 253,
        "x-kubernetes-validations": [{
            "rule": "!format.dns1123Subdomain().validate(self).hasValue()",
            "message": "not an object name: write lower-case letters, digits, dashes and dots",
        }],
    })
);

/// A name with an optional DNS name and slash in front, as in Kubernetes for classes and keys.
pub(super) struct QualifiedName(String);

impl FromStr for QualifiedName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
        let outer = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = name.as_bytes();
        let valid = prefix.is_none_or(|prefix| prefix.parse::<ObjectName>().is_ok())
            && (1..=63).contains(&bytes.len())
            && outer(bytes.first())
            && outer(bytes.last())
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte));
        if valid { Ok(Self(text.to_owned())) } else { Err(format!("`{text}` is {NOT_A_QUALIFIED_NAME}")) }
    }
}

impl fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const NOT_A_QUALIFIED_NAME: &str = "not a qualified name: write for example example.com/internal";

string_type!(
    QualifiedName,
    json_schema!({
        "type": "string", "minLength": 1, "maxLength": 317,
        "x-kubernetes-validations": [{
            "rule": "!format.qualifiedName().validate(self).hasValue()",
            "message": NOT_A_QUALIFIED_NAME,
        }],
    })
);

/// A TLS server name, or a wildcard for all names below one: DNS names in lower case, without a final dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerName(pub String);

impl FromStr for ServerName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let valid = text.len() <= 253 && name.parse::<ObjectName>().is_ok() && text.parse::<IpAddr>().is_err();
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("`{}` is {NOT_A_SERVER_NAME}", without_credentials(text)))
        }
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const NOT_A_SERVER_NAME: &str =
    "not a server name: write a DNS name in lower case, for example db.example.com or *.example.com";

string_type!(
    ServerName,
    json_schema!({
        "type": "string", "minLength": 1, "maxLength": 253,
        "x-kubernetes-validations": [{
            // No CEL format: with 4,096 names it would exceed the cost limit of the API server.
            "rule": "self.matches('^([*][.])?[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$') && \
                     !isIP(self)",
            "message": NOT_A_SERVER_NAME,
        }],
    })
);

/// A port of a Service: its number or its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum PortRef {
    Number(u16),
    Name(String),
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for PortRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = PortRef;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port number from 1 to 65535 or the name of a Service port")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<PortRef, E> {
                u16::try_from(number)
                    .ok()
                    .filter(|number| *number > 0)
                    .map(PortRef::Number)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<PortRef, E> {
                u64::try_from(number)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
                    .and_then(|number| self.visit_u64(number))
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<PortRef, E> {
                port_name(name).map(|name| PortRef::Name(name.into())).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

fn port_name(text: &str) -> Result<&str, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        Err(format!("the port number is quoted: write {text} without quotes"))
    } else if text.len() <= 63 && is_dns_label(text) {
        Ok(text)
    } else {
        Err(format!(
            "`{text}` is not a port: write a number from 1 to 65535, or the name of one of the Service's ports"
        ))
    }
}

impl JsonSchema for PortRef {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "PortRef".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "format": "PortRef", "x-kubernetes-int-or-string": true, "minimum": 1, "maximum": 65535, "maxLength": 63,
            "x-kubernetes-validations": [
                {
                    "rule": "type(self) == int || string(self).matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
                    "message": "not a port: write a number from 1 to 65535, or the name of one of the Service's ports",
                },
                {
                    "rule": "type(self) == int || !string(self).matches('^[0-9]+$')",
                    "message": "the port number is quoted: write it without quotes",
                },
            ],
        })
    }
}

/// An IP address, with an error that names what was written instead.
pub(super) struct IpAddress(IpAddr);

impl FromStr for IpAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            let text = without_credentials(text);
            format!("`{text}` is not an IP address: write for example 127.0.0.1, 192.0.2.7 or ::1")
        };
        text.parse().map(Self).map_err(|_| ipv4_notation::<IpAddr>(text).unwrap_or_else(wrong))
    }
}

impl fmt::Display for IpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

string_type!(
    IpAddress,
    json_schema!({
        "type": "string", "maxLength": 45,
        "x-kubernetes-validations": [{
            "rule": "isIP(self)",
            "message": "not an IP address: write for example 127.0.0.1, 192.0.2.7 or ::1",
        }],
    })
);

pub(super) fn ip_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
    Ok(Option::<IpAddress>::deserialize(deserializer)?.map(|address| address.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_gateway_api_writes_them() {
        for (text, milliseconds) in
            [("0s", 0), ("500ms", 500), ("1h30m", 5_400_000), ("1m5ms", 60_005), ("99999s", 99_999_000)]
        {
            let duration: Duration = text.parse().unwrap();
            assert_eq!(duration.0.as_millis(), milliseconds, "{text}");
            assert_eq!(duration.to_string().parse::<Duration>().unwrap(), duration);
        }
        for text in ["", "s", "0", "30", "-1s", "1.5h", "1s-1s", "1s 2s", "100000s", "1h1h1h1h1h", "١s", "1d"] {
            assert!(text.parse::<Duration>().unwrap_err().contains("is not a duration: write"), "{text}");
        }
    }

    #[test]
    fn addresses_are_host_and_port() {
        for text in
            ["db.example.com:5432", "192.0.2.7:1", "[2001:db8::7]:65535", "redis_1:6379", "localhost:80", "0xg:1"]
        {
            assert_eq!(text.parse::<AddressPort>().unwrap().to_string(), text);
        }
        assert_eq!("DB.Example.com:1".parse::<AddressPort>().unwrap().host, Host::Name("db.example.com".into()));
        for text in [
            "db",
            "db:0",
            "db:70000",
            "db:080",
            "db:+80",
            "db:http",
            ":80",
            "2001:db8::7:80",
            "[db]:80",
            "300.1.1.1:80",
            "0x7f000001:80",
            "127.0.0.0X1:80",
            "a.0x:80",
            "-a:1",
            "a..b:1",
        ] {
            assert!(text.parse::<AddressPort>().is_err(), "{text}");
        }
        for text in ["0x7f.0.0.1:80", "0x7f000001:80", "2130706433:80", "0177.0.0.1:80"] {
            let error = text.parse::<AddressPort>().unwrap_err();
            assert!(error.contains("127.0.0.1:80"), "{error}");
        }
        let error = "0x7f.0.0.1".parse::<IpAddress>().err();
        assert!(error.as_ref().is_some_and(|error| error.ends_with("write 127.0.0.1")), "{error:?}");
    }
}
