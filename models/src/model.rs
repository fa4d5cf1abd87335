//! The parts of `tcplb::model` that the included files use.

use std::{num::NonZeroU32, time::Duration};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub count: NonZeroU32,
    pub per: Duration,
    pub burst: NonZeroU32,
}
