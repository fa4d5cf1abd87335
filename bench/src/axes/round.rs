//! The result of a round.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::stage::Window;
use crate::load::Failures;

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Round {
    pub figures: BTreeMap<String, f64>,
    /// The number of failed operations. If there are any, the figures do not count.
    pub errors: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_error: Option<String>,
}

impl Round {
    pub fn of(failures: Failures) -> Self {
        Self { figures: BTreeMap::new(), errors: failures.count, first_error: failures.first }
    }

    /// Returns the window. If nothing was measured, the error includes the first failure of the clients.
    pub fn explain(&self, window: Result<Window>) -> Result<Window> {
        window.map_err(|error| match &self.first_error {
            Some(first) => error.context(first.clone()),
            None => error,
        })
    }

    /// A round that did not take place.
    pub fn failed(why: &anyhow::Error) -> Self {
        Self { errors: 1, first_error: Some(format!("{why:#}")), ..Self::default() }
    }

    pub fn with(mut self, figure: &str, value: f64) -> Self {
        self.figures.insert(figure.into(), value);
        self
    }

    /// Adds the figures that every round of counted operations has.
    pub fn with_operations(self, window: Window) -> Self {
        self.with("cpu", window.cpu_of_each())
            .with("rate", window.per_second())
            .with("utilisation", window.utilisation())
    }

    /// A figure of a round without errors.
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.figures.get(name).copied().filter(|_| self.errors == 0)
    }
}
