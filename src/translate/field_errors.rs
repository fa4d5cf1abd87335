//! Problems of one part of a load balancer, collected until the consequence for that part is known.

use std::{
    fmt::{self, Display},
    ops::{Bound, RangeBounds, RangeInclusive},
    time::Duration,
};

use super::verdict::{Part, Problem, Reason, Severity};
use crate::{api, printable::limited, world::MAX_SENTENCE};

#[derive(Default)]
pub(super) struct FieldErrors {
    /// Refusals without their consequence.
    open: Vec<Problem>,
    settled: Vec<Problem>,
}

impl FieldErrors {
    /// True if the part cannot be served as declared.
    pub fn refuse(&self) -> bool {
        !self.open.is_empty()
    }

    /// The problems, with `consequence` appended to each refusal.
    pub fn with_consequence(self, consequence: &str) -> impl Iterator<Item = Problem> {
        let open = self.open.into_iter().map(move |mut problem| {
            problem.message.push_str("; ");
            problem.message.push_str(consequence);
            problem
        });
        self.settled.into_iter().chain(open)
    }
}

/// A manifest field and the errors to add its problems to.
pub(super) struct FieldPath<'a> {
    part: Part,
    field: Field<'a>,
    errors: &'a mut FieldErrors,
}

/// A lazily formatted field path. It is written out only for problems, since most of the many fields have none.
enum Field<'a> {
    Part(Part),
    At(&'a Field<'a>, &'a str),
    Item(&'a Field<'a>, usize),
}

impl Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Part(part) => part.fmt(f),
            Self::At(whole, field) => write!(f, "{whole}.{field}"),
            Self::Item(list, index) => write!(f, "{list}[{index}]"),
        }
    }
}

impl<'a> FieldPath<'a> {
    pub fn new(part: Part, errors: &'a mut FieldErrors) -> Self {
        Self { part, field: Field::Part(part), errors }
    }

    /// True if no problem was found in this part so far.
    pub fn is_clean(&self) -> bool {
        self.errors.open.is_empty() && self.errors.settled.is_empty()
    }

    pub fn at<'b>(&'b mut self, field: &'b str) -> FieldPath<'b> {
        FieldPath { part: self.part, field: Field::At(&self.field, field), errors: self.errors }
    }

    /// The path of another part. Its problems have the same consequence.
    pub fn part(&mut self, part: Part) -> FieldPath<'_> {
        FieldPath::new(part, self.errors)
    }

    /// Marks the field as a part of its own of its listener.
    pub fn with_part(self, part: fn(usize) -> Part) -> Self {
        Self { part: self.part.listener().map_or(self.part, part), ..self }
    }

    pub fn item(&mut self, index: usize) -> FieldPath<'_> {
        FieldPath { part: self.part, field: Field::Item(&self.field, index), errors: self.errors }
    }

    pub fn refuse(&mut self, message: impl Into<String>) {
        self.refuse_for(Reason::Invalid, message);
    }

    pub fn refuse_for(&mut self, reason: Reason, message: impl Into<String>) {
        self.errors.open.push(self.problem(Severity::Refused, reason, message));
    }

    pub fn warn(&mut self, reason: Reason, message: impl Into<String>) {
        self.errors.settled.push(self.problem(Severity::Warning, reason, message));
    }

    /// Refuses one item without refusing the part around it. The message names the consequence.
    pub fn drop_item(&mut self, reason: Reason, message: impl Into<String>) {
        self.errors.settled.push(self.problem(Severity::Refused, reason, message));
    }

    fn problem(&self, severity: Severity, reason: Reason, message: impl Into<String>) -> Problem {
        // Quoted names and values may have any length.
        let message = limited(&message.into(), MAX_SENTENCE).into_owned();
        Problem { severity, reason, part: self.part, field: self.field.to_string(), message }
    }

    /// Returns the duration and refuses it outside of `range`.
    pub fn duration(&mut self, value: Duration, range: impl RangeBounds<Duration>) -> Duration {
        if !range.contains(&value) {
            let bound = |bound: Bound<&Duration>| match bound {
                Bound::Included(limit) | Bound::Excluded(limit) => Some(api::Duration(*limit)),
                Bound::Unbounded => None,
            };
            let instead = match (bound(range.start_bound()), bound(range.end_bound())) {
                (Some(least), Some(most)) => format!("write {least} to {most}"),
                (Some(least), None) => format!("write at least {least}"),
                (None, Some(most)) => format!("write at most {most}"),
                (None, None) => String::new(),
            };
            self.refuse(format!("{} is out of range: {instead}", api::Duration(value)));
        }
        value
    }

    /// Returns the number and refuses it outside of `range`.
    pub fn number<T: PartialOrd + Display>(&mut self, value: T, range: RangeInclusive<T>) -> T {
        if !range.contains(&value) {
            self.refuse(format!("{value} is out of range: write {} to {}", range.start(), range.end()));
        }
        value
    }
}

/// Returns the result of `read`, or `None` if it refused something in the field.
pub(super) fn validated<T>(
    part: Part,
    fallback: &str,
    problems: &mut Vec<Problem>,
    read: impl FnOnce(&mut FieldPath) -> T,
) -> Option<T> {
    let mut errors = FieldErrors::default();
    let value = read(&mut FieldPath::new(part, &mut errors));
    let value = (!errors.refuse()).then_some(value);
    problems.extend(errors.with_consequence(fallback));
    value
}

/// The index of another item with the same identity.
pub(super) fn duplicate_of<'a, T, I: PartialEq>(
    items: &'a [T],
    index: usize,
    identity: impl Fn(&'a T) -> I,
) -> Option<usize> {
    (0..items.len()).find(|&other| other != index && identity(&items[other]) == identity(&items[index]))
}
