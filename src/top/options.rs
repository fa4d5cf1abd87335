use std::time::Duration;

use super::order::TopOrder;
use crate::model::StatePicture;

/// The state of a replica at one moment.
#[derive(Debug)]
pub struct ReplicaSample {
    /// The name of the replica: its pod or its address.
    pub name: String,
    /// A sentence if it cannot be read.
    pub picture: Result<StatePicture, String>,
}

/// The settings of the table.
#[derive(Clone, Debug)]
pub struct TopOptions {
    /// Lines above the table.
    pub introduction: Vec<String>,
    /// True if all load balancers are expanded at first.
    pub is_expanded: bool,
    pub interval: Duration,
    pub order: TopOrder,
    /// Text that the names or addresses contain. Empty: all.
    pub filter: String,
    pub output: TopFormat,
}

impl Default for TopOptions {
    fn default() -> Self {
        Self {
            introduction: Vec::new(),
            is_expanded: false,
            interval: Duration::from_secs(2),
            order: TopOrder::default(),
            filter: String::new(),
            output: TopFormat::Live,
        }
    }
}

/// The form of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopFormat {
    /// On a terminal it is updated until a key ends it. Otherwise it is printed once.
    Live,
    Text,
    /// The text with the rows of replicas.
    Wide,
    Json,
    Yaml,
}
