//! Notations of IPv4 addresses that only some programs read.

use std::{net::Ipv4Addr, str::FromStr};

/// The problem of a text with an IPv4 address in hexadecimal or octal numbers, or in one number, as the C library reads
/// it (`inet_aton`). A port or a prefix length may follow. `None`: it is not such a text, or no `T` in decimal numbers
/// either.
pub fn ipv4_notation<T: FromStr>(text: &str) -> Option<String> {
    let (address, rest) = text.split_at(text.find([':', '/']).unwrap_or(text.len()));
    if address.parse::<Ipv4Addr>().is_ok() {
        return None;
    }
    let written = |radix| {
        let canonical = format!("{}{rest}", read(address, radix)?);
        canonical.parse::<T>().is_ok().then_some(canonical)
    };
    match (written(10), written(8)) {
        (None, None) => None,
        (Some(decimal), Some(octal)) if decimal != octal => Some(format!(
            "`{text}` has leading zeros, which may mean octal numbers: write {decimal}, or {octal} if they are octal"
        )),
        (Some(canonical), _) | (None, Some(canonical)) => Some(if address.split('.').any(has_leading_zero) {
            format!("`{text}` has leading zeros, which may mean octal numbers: write {canonical}")
        } else {
            format!("`{text}` is an IPv4 address, but not in dotted decimal notation: write {canonical}")
        }),
    }
}

/// An address of four numbers, or of one that is too large for a port or a part of an address. `radix` is that of
/// numbers with leading zeros.
fn read(address: &str, radix: u32) -> Option<Ipv4Addr> {
    let numbers: Vec<u32> = address.split('.').map(|number| read_number(number, radix)).collect::<Option<_>>()?;
    if let [number] = numbers[..] {
        return (number >= 1 << 24).then(|| Ipv4Addr::from_bits(number));
    }
    let octets: Vec<u8> = numbers.into_iter().map(|number| u8::try_from(number).ok()).collect::<Option<_>>()?;
    <[u8; 4]>::try_from(octets).ok().map(Ipv4Addr::from)
}

fn read_number(text: &str, radix: u32) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if has_leading_zero(text) => (text, radix),
        None => (text, 10),
    };
    // The parser accepts a sign.
    let has_sign = digits.starts_with('+');
    u32::from_str_radix(digits, radix).ok().filter(|_| !has_sign)
}

fn has_leading_zero(number: &str) -> bool {
    number.len() > 1 && number.starts_with('0') && number.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use super::*;

    #[test]
    fn other_notations_are_named_with_the_address_to_write() {
        const NOTATION: &str = "is an IPv4 address, but not in dotted decimal notation: write";
        const ZEROS: &str = "has leading zeros, which may mean octal numbers: write";
        for (text, start, instead) in [
            ("0x7f.0.0.1", NOTATION, "127.0.0.1"),
            ("0X7F.0.0.0x1", NOTATION, "127.0.0.1"),
            ("0x7f000001", NOTATION, "127.0.0.1"),
            ("2130706433", NOTATION, "127.0.0.1"),
            ("0177.0.0.1", ZEROS, "177.0.0.1, or 127.0.0.1 if they are octal"),
            ("0377.0.0.1", ZEROS, "255.0.0.1"),
            ("192.0.2.007", ZEROS, "192.0.2.7"),
            ("192.0.2.09", ZEROS, "192.0.2.9"),
            ("017700000001", ZEROS, "127.0.0.1"),
        ] {
            assert_eq!(ipv4_notation::<IpAddr>(text), Some(format!("`{text}` {start} {instead}")));
        }
        let with_port = ipv4_notation::<SocketAddr>("0x7f.0.0.1:80").unwrap();
        assert!(with_port.ends_with("write 127.0.0.1:80"), "{with_port}");
    }

    #[test]
    fn other_texts_have_no_problem_of_notation() {
        for text in [
            "",
            "127.0.0.1",
            "10.0.0",
            "5432",
            "256.0.0.1",
            "0x100.0.0.1",
            "0x.0.0.1",
            "0x+7.0.0.1",
            "+7.0.0.1",
            "4294967296",
            "1.2.3.4.5",
            "0x7f.0.0.1:80",
            "0x7f.0.0.1/8",
            "::1",
            "localhost",
        ] {
            assert_eq!(ipv4_notation::<IpAddr>(text), None, "{text}");
        }
    }
}
