//! The ends of connections.

use std::{collections::BTreeMap, fmt};

use tokio::time::Instant;

use super::timeline::{Disturbance, Timeline};
use crate::clients::Failure;

/// A connection from its beginning to its end.
#[derive(Clone, Debug)]
pub struct Record {
    /// The node whose replica the client reached.
    pub node: String,
    pub load_balancer: &'static str,
    pub is_tls: bool,
    /// The pod that served it. `None`: the connection failed before the first line of a backend.
    pub backend: Option<String>,
    pub opened: Instant,
    pub ended: Instant,
    /// `None`: the client ended the connection as planned, and received all bytes.
    pub failure: Option<Failure>,
}

/// The classified ends of connections.
#[derive(Default)]
pub struct Ends {
    /// The number of connections by their end, plain and TLS.
    counts: BTreeMap<(String, bool), usize>,
    /// Connections that should have survived.
    pub lost: Vec<Record>,
    /// Connections that survived a disturbance of their own replica or backend. Their attribution is wrong.
    pub impossible: Vec<(Disturbance, Record)>,
}

impl Ends {
    pub fn classify(records: Vec<Record>, timeline: &Timeline) -> Self {
        let mut ends = Self::default();
        for record in records {
            let end = match (&record.failure, timeline.cause(&record)) {
                (None, _) => "complete".to_owned(),
                (Some(_), Some(cause)) if record.backend.is_none() => format!("not opened during a {cause}"),
                (Some(_), Some(cause)) => format!("ended by a {cause}"),
                (Some(_), None) => "lost".to_owned(),
            };
            let is_lost = end == "lost";
            *ends.counts.entry((end, record.is_tls)).or_default() += 1;
            if let Some(disturbance) = timeline.survived(&record) {
                ends.impossible.push((disturbance, record));
            } else if is_lost {
                ends.lost.push(record);
            }
        }
        ends
    }
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((end, is_tls), count) in &self.counts {
            let transport = if *is_tls { "TLS" } else { "plain" };
            writeln!(f, "  {end:40} {transport:5} {count:>8}")?;
        }
        write!(f, "  {:46} {:>8}", "lost", self.lost.len())
    }
}
