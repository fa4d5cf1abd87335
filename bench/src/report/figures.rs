//! Figures as text.

use crate::statistics::Spread;

/// The median, and the range of all rounds.
pub fn interval(spread: Spread, shown: fn(f64) -> String) -> String {
    let (median, min, max) = (shown(spread.median), shown(spread.min), shown(spread.max));
    if min == max { median } else { format!("{median} ({min}–{max})") }
}

pub fn two_places(value: f64) -> String {
    format!("{value:.2}")
}

pub fn three_digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A number of instructions or system calls.
pub fn count(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        assert_eq!([1234.5, 43.21, 1.234, 0.1234, 0.0].map(three_digits), ["1234", "43.2", "1.23", "0.123", "0"]);
    }
}
