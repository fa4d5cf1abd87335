//! References to endpoints, for draining.

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{dns_name::is_dns_subdomain, ipv4_notation::ipv4_notation};

/// An endpoint: the name of a pod (`db-0`), an address with a port (`192.0.2.7:5432`, `[2001:db8::7]:5432`), or an
/// address with any port (`192.0.2.7`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndpointRef {
    Pod(String),
    Address(SocketAddr),
    Ip(IpAddr),
}

impl EndpointRef {
    /// True if it refers to the endpoint with this address, in this pod.
    pub fn matches(&self, address: SocketAddr, pod: Option<&str>) -> bool {
        match self {
            Self::Pod(name) => pod == Some(&**name),
            Self::Address(own) => *own == address,
            Self::Ip(ip) => *ip == address.ip(),
        }
    }
}

impl FromStr for EndpointRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is {NOT_AN_ENDPOINT}");
        let mapped =
            |instead: &dyn fmt::Display| format!("`{text}` is an IPv4 address written as IPv6: write {instead}");
        if let Ok(ip) = text.parse::<IpAddr>() {
            return if ip.to_canonical() == ip { Ok(Self::Ip(ip)) } else { Err(mapped(&ip.to_canonical())) };
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            let canonical = SocketAddr::new(address.ip().to_canonical(), address.port());
            // The parser accepts leading zeros and IPv6 scopes.
            return match text.rsplit(':').next() {
                _ if text.contains('%') => Err(wrong()),
                Some(port) if address.port() == 0 || port != address.port().to_string() => Err(wrong()),
                _ if canonical != address => Err(mapped(&canonical)),
                _ => Ok(Self::Address(address)),
            };
        }
        // A name that ends in a number after a dot would be a mistyped IPv4 address.
        let is_number = |last: &str| last.bytes().all(|byte| byte.is_ascii_digit());
        let ends_in_number = text.rsplit_once('.').is_some_and(|(_, last)| is_number(last));
        if is_dns_subdomain(text) && !ends_in_number {
            Ok(Self::Pod(text.to_owned()))
        } else {
            Err(ipv4_notation::<Self>(text).unwrap_or_else(wrong))
        }
    }
}

impl fmt::Display for EndpointRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(name) => name.fmt(f),
            Self::Address(address) => address.fmt(f),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

const NOT_AN_ENDPOINT: &str =
    "not an endpoint: write the name of a pod, or an address such as 192.0.2.7:5432, [2001:db8::7]:5432 or 192.0.2.7";

const PORT: &str = "self.matches(':[1-9][0-9]{0,4}$') && int(self.substring(self.lastIndexOf(':') + 1)) <= 65535";

string_type!(
    EndpointRef,
    json_schema!({
        "type": "string", "minLength": 1, "maxLength": 253,
        "x-kubernetes-validations": [{
            "rule": format!(
                "isIP(self) || (!self.contains(':') ? \
                 !format.dns1123Subdomain().validate(self).hasValue() && !self.matches('[.][0-9]+$') : \
                 self.startsWith('[') ? self.contains(']:') && {PORT} && self.substring(0, self.lastIndexOf(']')).contains(':') \
                 && isIP(self.substring(1, self.lastIndexOf(']'))) && self.lastIndexOf(']:') == self.lastIndexOf(':') - 1 : \
                 {PORT} && isIP(self.substring(0, self.lastIndexOf(':'))) && !self.substring(0, self.lastIndexOf(':')).contains(':'))"
            ),
            "message": NOT_AN_ENDPOINT,
        }],
    })
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_pod_or_an_address() {
        let pod = |name: &str| EndpointRef::Pod(name.to_owned());
        for (text, expected) in [
            ("db-0", pod("db-0")),
            ("7", pod("7")),
            ("web-6d4cf56db6-x2x9z", pod("web-6d4cf56db6-x2x9z")),
            ("192.0.2.7", EndpointRef::Ip("192.0.2.7".parse().unwrap())),
            ("2001:db8::7", EndpointRef::Ip("2001:db8::7".parse().unwrap())),
            ("192.0.2.7:5432", EndpointRef::Address("192.0.2.7:5432".parse().unwrap())),
            ("[2001:db8::7]:5432", EndpointRef::Address("[2001:db8::7]:5432".parse().unwrap())),
        ] {
            assert_eq!(text.parse::<EndpointRef>().unwrap(), expected);
            assert_eq!(expected.to_string(), text);
        }
    }

    #[test]
    fn other_texts_are_refused_with_the_right_notation() {
        for text in [
            "",
            "db_0",
            "192.0.2.700",
            "192.0.2.7:0",
            "192.0.2.7:05",
            "192.0.2.7:",
            "[fe80::1%1]:1",
            "db-0:5432",
            "[192.0.2.7]:1",
            "fe80::1%lo",
            "::1:",
        ] {
            let message = text.parse::<EndpointRef>().unwrap_err();
            assert_eq!(message, format!("`{text}` is {NOT_AN_ENDPOINT}"));
        }
        for (text, instead) in [("::ffff:192.0.2.7", "192.0.2.7"), ("[::ffff:192.0.2.7]:1", "192.0.2.7:1")] {
            let message = text.parse::<EndpointRef>().unwrap_err();
            assert!(message.ends_with(&format!("written as IPv6: write {instead}")), "{message}");
        }
        for (text, instead) in [("0x7f.0.0.1", "127.0.0.1"), ("2130706433:80", "127.0.0.1:80")] {
            let message = text.parse::<EndpointRef>().unwrap_err();
            assert!(message.ends_with(&format!("not in dotted decimal notation: write {instead}")), "{message}");
        }
    }

    #[test]
    fn a_reference_matches_its_endpoints() {
        let address: SocketAddr = "192.0.2.7:5432".parse().unwrap();
        let matches = |text: &str, pod| text.parse::<EndpointRef>().unwrap().matches(address, pod);
        assert!(matches("192.0.2.7", None) && matches("192.0.2.7:5432", Some("db-0")) && matches("db-0", Some("db-0")));
        assert!(!matches("192.0.2.7:1", None) && !matches("db-0", None) && !matches("db-0", Some("db-1")));
    }
}
