use std::{fmt, ops::RangeInclusive};

/// A measured value, and its permitted range. The range allows for other load on the machine.
#[derive(Clone, Debug)]
pub struct Measurement {
    pub what: String,
    pub value: f64,
    pub within: RangeInclusive<f64>,
}

impl Measurement {
    pub fn new(what: impl Into<String>, value: impl Into<f64>, within: RangeInclusive<f64>) -> Self {
        Self { what: what.into(), value: value.into(), within }
    }

    pub fn is_kept(&self) -> bool {
        self.within.contains(&self.value)
    }
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = (self.within.start(), self.within.end());
        write!(f, "{}: {:.1} ({least:.1} to {most:.1} are right)", self.what, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_outside_its_range_names_the_range() {
        let figure = |value: f64| Measurement::new("seconds", value, 19.0..=24.0);
        assert!(figure(19.0).is_kept() && figure(24.0).is_kept());
        assert!(!figure(18.9).is_kept() && !figure(24.1).is_kept() && !figure(f64::NAN).is_kept());
        assert_eq!(figure(30.0).to_string(), "seconds: 30.0 (19.0 to 24.0 are right)");
    }
}
