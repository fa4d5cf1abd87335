//! Networks, for access lists and trust.

use std::{borrow::Cow, fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{credentials::without_credentials, ipv4_notation::ipv4_notation};

/// A network (`10.0.0.0/8`) or a single address, in one spelling: no bits after the prefix, no leading zeros. An
/// IPv4-mapped network (`::ffff:10.0.0.0/104`) becomes the IPv4 network that it maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(pub IpNet);

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{}` is {NOT_A_NETWORK}", without_credentials(text));
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let notation = || ipv4_notation::<Self>(text).or_else(|| leading_zeros(text));
        let address: IpAddr = address.parse().map_err(|_| notation().unwrap_or_else(wrong))?;
        let network = match prefix {
            None => IpNet::from(address),
            Some(prefix) => {
                let prefix = prefix_length(prefix).ok_or_else(|| leading_zeros(text).unwrap_or_else(wrong))?;
                IpNet::new(address, prefix).map_err(|_| wrong())?
            }
        };
        let network = unmapped(text, network)?;
        if network != network.trunc() {
            let prefix = network.prefix_len();
            let (whole, one) = (network.trunc(), network.addr());
            return Err(format!(
                "`{text}` has bits set after the first {prefix}: write {whole} for the network, or {one} for the \
                 address"
            ));
        }
        Ok(Self(network))
    }
}

/// Converts an IPv4-mapped IPv6 network to the IPv4 network. Returns other networks unchanged.
fn unmapped(text: &str, network: IpNet) -> Result<IpNet, String> {
    let IpNet::V6(mapped) = network else { return Ok(network) };
    let Some(address) = mapped.addr().to_ipv4_mapped() else { return Ok(network) };
    let length = mapped.prefix_len();
    match length.checked_sub(96).filter(|_| has_mapped_mark(text)) {
        Some(length) => Ok(IpNet::new_assert(address.into(), length)),
        None => {
            // A length below 96 is the prefix length of the IPv4 network, or invalid.
            let length = length.checked_sub(96).unwrap_or(length);
            let instead = match IpNet::new(address.into(), length) {
                Ok(network) => network.trunc().to_string(),
                Err(_) => "the IPv4 network, for example 10.0.0.0/8".into(),
            };
            Err(format!("`{text}` is an IPv4 address written as IPv6: write {instead}"))
        }
    }
}

/// True if an IPv4-mapped address begins in the form that the CEL rules recognize.
pub(super) fn has_mapped_mark(text: &str) -> bool {
    text.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("::ffff:"))
}

/// The problem of an IPv4 address or a prefix with leading zeros, which some programs read as octal numbers.
fn leading_zeros(text: &str) -> Option<String> {
    let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let plain = |number: &str| match number.trim_start_matches('0') {
        "" if !number.is_empty() => "0".to_owned(),
        plain => plain.to_owned(),
    };
    let address = match address.contains(':') {
        true => address.to_owned(),
        false => address.split('.').map(plain).collect::<Vec<_>>().join("."),
    };
    address.parse::<IpAddr>().ok()?;
    let instead = match prefix {
        Some(prefix) => format!("{address}/{}", prefix_length(&plain(prefix))?),
        None => address,
    };
    (instead != text).then(|| format!("`{text}` has leading zeros, which may mean octal numbers: write {instead}"))
}

/// A prefix length without sign and leading zeros.
fn prefix_length(text: &str) -> Option<u8> {
    text.parse().ok().filter(|length: &u8| length.to_string() == text)
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

const NOT_A_NETWORK: &str = "not a network: write for example 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32";

/// A network without bits after its prefix, or an address.
///
/// CEL does not support IPv4-mapped addresses. With their first group changed, they are ordinary IPv6 addresses to CEL:
/// they have the same bits after any prefix of at least 96, and set bits after any shorter prefix. Only texts that
/// begin like such an address are checked a second time, because the API server limits the total cost of all networks
/// of an object.
const RULE: &str = "isCIDR(self) ? cidr(self) == cidr(self).masked() : isIP(self) || \
                    (self.startsWith('::') && ['::fffd:' + self.substring(7)].all(n, \
                    isCIDR(n) ? cidr(n) == cidr(n).masked() : isIP(n)) && self.matches('^::[fF]{4}:'))";

string_type!(
    Network,
    json_schema!({
        "type": "string", "maxLength": 43,
        "x-kubernetes-validations": [{
            "rule": RULE,
            "message": "not a network: write its first address and a prefix, for example 10.0.0.0/8 or \
                        2001:db8::/32, or one address, for example 192.0.2.7",
        }],
    })
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_has_one_spelling() {
        for (text, network) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("192.0.2.7/32", "192.0.2.7/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("2001:db8::7", "2001:db8::7/128"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::FFFF:192.0.2.7", "192.0.2.7/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
        ] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), network, "{text}");
        }
    }

    #[test]
    fn a_network_in_another_spelling_is_refused_with_the_right_one() {
        for (text, instead) in [
            ("10.0.0.1/8", "first 8: write 10.0.0.0/8 for the network, or 10.0.0.1 for the address"),
            ("1.2.3.4/0", "first 0: write 0.0.0.0/0 for the network, or 1.2.3.4 for the address"),
            ("::1/0", "first 0: write ::/0 for the network, or ::1 for the address"),
            ("::ffff:10.0.0.1/104", "write 10.0.0.0/8 for the network, or 10.0.0.1 for the address"),
            ("::ffff:10.0.0.0/8", "written as IPv6: write 10.0.0.0/8"),
            ("::ffff:10.1.0.0/8", "written as IPv6: write 10.0.0.0/8"),
            ("::ffff:10.0.0.0/95", "written as IPv6: write the IPv4 network, for example 10.0.0.0/8"),
            ("0:0:0:0:0:ffff:10.0.0.0/104", "written as IPv6: write 10.0.0.0/8"),
            (
                "010.0.0.0/8",
                "leading zeros, which may mean octal numbers: write 10.0.0.0/8, or 8.0.0.0/8 if they are octal",
            ),
            ("010.0.0.0/08", "leading zeros, which may mean octal numbers: write 10.0.0.0/8"),
            ("0x0a.0.0.0/8", "not in dotted decimal notation: write 10.0.0.0/8"),
            ("0x0a000000", "not in dotted decimal notation: write 10.0.0.0"),
            ("10.0.0.0/08", "leading zeros, which may mean octal numbers: write 10.0.0.0/8"),
            ("192.000.002.007", "leading zeros, which may mean octal numbers: write 192.0.2.7"),
            ("2001:db8::/032", "leading zeros, which may mean octal numbers: write 2001:db8::/32"),
            ("10.0.0/8", NOT_A_NETWORK),
            ("10.0.0.0/33", NOT_A_NETWORK),
            ("10.0.0.0/", NOT_A_NETWORK),
            ("10.0.0.0/+8", NOT_A_NETWORK),
            ("10.0.0.0/-1", NOT_A_NETWORK),
            ("10.0.0.0/8/8", NOT_A_NETWORK),
            (" 10.0.0.0/8", NOT_A_NETWORK),
            ("fe80::1%lo", NOT_A_NETWORK),
            ("[::1]", NOT_A_NETWORK),
            ("*", NOT_A_NETWORK),
            ("localhost", NOT_A_NETWORK),
            ("", NOT_A_NETWORK),
        ] {
            let message = text.parse::<Network>().unwrap_err();
            assert!(message.starts_with(&format!("`{text}` ")) && message.ends_with(instead), "{message}");
        }
    }
}
