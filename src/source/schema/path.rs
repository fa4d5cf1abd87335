//! Paths of values in a document.

use std::{fmt, iter};

/// The path of a value: field names and list indices.
#[derive(Clone, Copy)]
pub enum DocumentPath<'a> {
    /// The whole document.
    Root,
    Field(&'a Self, &'a str),
    Item(&'a Self, usize),
}

impl<'a> DocumentPath<'a> {
    pub fn field(&'a self, name: &'a str) -> Self {
        Self::Field(self, name)
    }

    pub fn item(&'a self, index: usize) -> Self {
        Self::Item(self, index)
    }

    pub fn is_root(&self) -> bool {
        matches!(self, Self::Root)
    }

    /// The names of the fields on the path, the last one first.
    pub fn fields(&self) -> impl Iterator<Item = &'a str> + Clone + use<'a> {
        let mut rest = *self;
        iter::from_fn(move || {
            loop {
                match rest {
                    Self::Root => return None,
                    Self::Item(list, _) => rest = *list,
                    Self::Field(above, name) => {
                        rest = *above;
                        return Some(name);
                    }
                }
            }
        })
    }

    /// The name of the last field on the path.
    pub fn last_field(&self) -> &'a str {
        self.fields().next().unwrap_or_default()
    }
}

impl fmt::Display for DocumentPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Self::Root, name) => f.write_str(name),
            Self::Field(above, name) => write!(f, "{above}.{name}"),
            Self::Item(list, index) => write!(f, "{list}[{index}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_with_dots_and_brackets() {
        let root = DocumentPath::Root;
        let spec = root.field("spec");
        let listeners = spec.field("listeners");
        let listener = listeners.item(2);
        let port = listener.field("port");
        assert_eq!(
            [root, spec, listener, port].map(|path| path.to_string()),
            ["", "spec", "spec.listeners[2]", "spec.listeners[2].port"]
        );
        assert_eq!(Vec::from_iter(port.fields()), ["port", "listeners", "spec"]);
        assert_eq!([root, listener].map(|path| path.last_field()), ["", "listeners"]);
    }
}
