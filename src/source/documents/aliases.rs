//! The size that aliases add to a YAML text: each repeats the value of its anchor.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{Event, Parser};

use super::node_problem::NodeProblem;

/// The size that aliases may add to a file of any size, in bytes.
const FREE: usize = 256 << 10;
/// The size that aliases may add for each byte of the file.
const PER_BYTE: usize = 4;
/// The size of a value without its text. Values without text also use memory.
const VALUE: usize = 16;

/// The size that aliases may add to a file.
pub struct AliasBudget {
    total: usize,
    remaining: usize,
}

impl AliasBudget {
    pub fn of(file: &str) -> Self {
        let total = FREE + PER_BYTE * file.len();
        Self { total, remaining: total }
    }

    /// Subtracts what the aliases of a part of the file add.
    ///
    /// # Errors
    /// If they add more than what remains. Nothing is subtracted then.
    pub fn spend(&mut self, part: &str) -> Result<(), NodeProblem> {
        // Most texts have no alias.
        if !part.contains('*') {
            return Ok(());
        }
        let mut expansion = Expansion::default();
        // The reader of the values reports the errors of the syntax, and reads no further than this parser.
        for (event, span) in Parser::new_from_str(part).map_while(Result::ok) {
            expansion.add(&event);
            if expansion.added > self.remaining {
                return Err(NodeProblem::at(span.start, self.exceeded()));
            }
        }
        self.remaining -= expansion.added;
        Ok(())
    }

    fn exceeded(&self) -> String {
        format!(
            "with this alias, the aliases of the file add more than {} bytes to it, of which each value counts as \
             {VALUE} and its text: write values out instead of aliases",
            self.total
        )
    }
}

/// The size of a text in which values replace the aliases.
#[derive(Default)]
struct Expansion {
    size: usize,
    /// The part of the size that aliases add.
    added: usize,
    /// The anchors of open collections, and the size before each of them.
    open: Vec<(Option<usize>, usize)>,
    /// The sizes of values with an anchor.
    anchored: HashMap<usize, usize>,
}

impl Expansion {
    fn add(&mut self, event: &Event) {
        match event {
            Event::Scalar(text, ..) => {
                let size = VALUE + text.len();
                self.size += size;
                self.anchored.extend(event.anchor_id().map(|anchor| (anchor, size)));
            }
            Event::SequenceStart(..) | Event::MappingStart(..) => {
                self.open.push((event.anchor_id(), self.size));
                self.size += VALUE;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some((Some(anchor), before)) = self.open.pop() {
                    self.anchored.insert(anchor, self.size - before);
                }
            }
            Event::Alias(anchor) => {
                // An alias within its own anchor is an error for the reader of the values.
                let size = self.anchored.get(anchor).copied().unwrap_or(0);
                self.size += size;
                self.added += size;
            }
            _ => {}
        }
    }
}
