//! Points in time.

use std::{borrow::Cow, fmt, str::FromStr};

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A date and time with an offset from UTC (RFC 3339), such as `2026-01-31T12:00:00Z`, from the years 2000 to 2999. Only
/// spellings that the API server reads too: capitals, at most nanoseconds, no leap second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateTime(pub Timestamp);

const PATTERN: &str = "^2[0-9]{3}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,9})?\
                       (Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$";

const NOT_A_TIME: &str = "not a time: write for example 2026-01-31T12:00:00Z";

impl FromStr for DateTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let time = text.parse().ok().filter(|_| has_spelling(text));
        time.map(Self).ok_or_else(|| format!("`{text}` is {NOT_A_TIME}"))
    }
}

/// Matches [`PATTERN`], for texts that are times.
fn has_spelling(text: &str) -> bool {
    let Some((date, rest)) = text.split_at_checked(10) else { return false };
    let Some((time, rest)) = rest.split_at_checked(9) else { return false };
    let fraction = rest.strip_prefix('.').map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count() + 1);
    let offset = &rest[fraction..];
    has_shape(date, "2###-##-##")
        && has_shape(time, "T##:##:##")
        && !time.ends_with("60")
        && !matches!(fraction, 1 | 11..)
        && (offset == "Z" || has_shape(&offset.replacen('-', "+", 1), "+##:##") && &offset[1..3] < "24")
}

/// True if the text has a digit for each `#` of the shape, and else the same characters.
fn has_shape(text: &str, shape: &str) -> bool {
    let is_like = |(byte, shape): (u8, u8)| if shape == b'#' { byte.is_ascii_digit() } else { byte == shape };
    text.len() == shape.len() && text.bytes().zip(shape.bytes()).all(is_like)
}

impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// Without the format `date-time` of OpenAPI: the API server's check of it accepts other spellings.
string_type!(
    DateTime,
    json_schema!({
        "type": "string", "maxLength": 35,
        "x-kubernetes-validations": [
            {"rule": format!("self.matches('{PATTERN}')"), "message": NOT_A_TIME},
            // The conversion fails for days that do not exist, such as February 30.
            {
                "rule": format!("!self.matches('{PATTERN}') || timestamp(self).getFullYear() > 0"),
                "message": NOT_A_TIME,
            },
        ],
    })
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_one_notation() {
        for text in [
            "2026-01-31T12:00:00Z",
            "2026-01-31T12:00:00.5Z",
            "2026-01-31T12:00:00.123456789+05:30",
            "2000-02-29T00:00:00-23:59",
            "2999-12-31T23:59:59Z",
        ] {
            assert_eq!(text.parse(), Ok(DateTime(text.parse().unwrap())));
        }
        for text in [
            "",
            "yesterday",
            "2026-01-31",
            "2026-01-31 12:00:00Z",
            "2026-01-31t12:00:00Z",
            "2026-01-31T12:00:00z",
            "2026-01-31T12Z",
            "2026-01-31T12:00Z",
            "2026-01-31T12:00:00",
            "2026-01-31T12:00:00.Z",
            "2026-01-31T12:00:00.1234567890Z",
            "2026-01-31T12:00:00,5Z",
            "2026-01-31T12:00:00+0000",
            "2026-01-31T12:00:00+24:00",
            "2026-01-31T12:00:00Z[UTC]",
            "2026-01-31T12:00:60Z",
            "2026-01-31T24:00:00Z",
            "2026-02-30T12:00:00Z",
            "1999-12-31T23:59:59Z",
            "9999-12-31T23:59:59Z",
            "+002026-01-31T12:00:00Z",
            "2026-01-31T12:00:00Z\n",
            "２026-01-31T12:00:00Z",
        ] {
            let wrong = text.parse::<DateTime>().unwrap_err();
            assert_eq!(wrong, format!("`{text}` is not a time: write for example 2026-01-31T12:00:00Z"));
        }
    }
}
