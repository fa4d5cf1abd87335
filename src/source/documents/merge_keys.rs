//! Merge keys (`<<`) of a YAML text. kubectl and other tools do not agree on the order of precedence.

use std::{
    collections::{BTreeSet, HashMap},
    rc::Rc,
};

use serde_saphyr::granit_parser::{Event, Marker, Parser, ScalarStyle, Span};

use super::node_problem::{NodeProblem, RefusedNode};

type MappingKeys = Rc<BTreeSet<String>>;

const MERGE: &str = "<<";

/// # Errors
/// If a merge key follows a key that it merges: kubectl takes the merged value, and the definition of merge keys
/// (<https://yaml.org/type/merge.html>) the other one. Also if a merge key is an alias, which is text for kubectl, or
/// merges something else than mappings, which kubectl refuses. The time is proportional to the text with its aliases written out,
/// which must have a limit.
pub fn check(text: &str) -> Result<(), RefusedNode> {
    // Most texts have no merge key.
    if !text.contains("<<") {
        return Ok(());
    }
    let mut merges = Merges::default();
    // The reader of the values reports the errors of the syntax.
    for (event, span) in Parser::new_from_str(text).map_while(Result::ok) {
        merges.read(event, span)?;
    }
    Ok(())
}

#[derive(Default)]
struct Merges {
    open: Vec<Collection>,
    /// The values with an anchor.
    anchored: HashMap<usize, Node>,
}

/// A mapping or sequence that has begun.
struct Collection {
    anchor: Option<usize>,
    /// The keys of a mapping so far, or those of all mappings of a sequence.
    keys: BTreeSet<String>,
    /// True for a sequence with something else than mappings.
    has_others: bool,
    next: Next,
}

/// The next part of a collection.
enum Next {
    Item,
    Key,
    Value,
    /// The value of a merge key at this place.
    Merged(Marker),
}

#[derive(Clone)]
enum Node {
    Scalar(Rc<str>),
    Mapping(MappingKeys),
    /// The keys of the mappings in a sequence. `None`: it has something else too.
    Sequence(Option<MappingKeys>),
}

impl Merges {
    fn read(&mut self, event: Event, span: Span) -> Result<(), RefusedNode> {
        let anchor = event.anchor_id();
        let node = match event {
            Event::MappingStart(..) | Event::SequenceStart(..) => {
                let next = if matches!(event, Event::MappingStart(..)) { Next::Key } else { Next::Item };
                self.open.push(Collection { anchor, keys: BTreeSet::new(), has_others: false, next });
                return Ok(());
            }
            Event::MappingEnd | Event::SequenceEnd => {
                let Some(ended) = self.open.pop() else { return Ok(()) };
                let keys = MappingKeys::new(ended.keys);
                let node = match ended.next {
                    Next::Item => Node::Sequence((!ended.has_others).then_some(keys)),
                    Next::Key | Next::Value | Next::Merged(_) => Node::Mapping(keys),
                };
                self.anchored.extend(ended.anchor.map(|anchor| (anchor, node.clone())));
                node
            }
            Event::Scalar(text, style, _, tag) => {
                self.anchored.extend(anchor.map(|anchor| (anchor, Node::Scalar((*text).into()))));
                if let Some(mapping @ Collection { next: Next::Key, .. }) = self.open.last_mut() {
                    let has_style = tag.map_or(style == ScalarStyle::Plain, |tag| tag.suffix() == "merge");
                    let is_merge = text == MERGE && has_style;
                    mapping.next = if is_merge { Next::Merged(span.start) } else { Next::Value };
                    if !is_merge {
                        mapping.keys.insert(text.into_owned());
                    }
                    return Ok(());
                }
                Node::Scalar((*text).into())
            }
            Event::Alias(anchor) => match self.anchored.get(&anchor) {
                Some(node) => node.clone(),
                // The reader of the values refuses an alias without an anchor.
                None => return Ok(()),
            },
            _ => return Ok(()),
        };
        self.add(node, span.start)
    }

    /// Adds a node, which starts or ends at this place, to the innermost collection.
    fn add(&mut self, node: Node, at: Marker) -> Result<(), RefusedNode> {
        let is_document = self.open.len() == 1;
        let Some(collection) = self.open.last_mut() else { return Ok(()) };
        match (&collection.next, node) {
            (Next::Item, Node::Mapping(keys)) => collection.keys.extend(keys.iter().cloned()),
            (Next::Item, _) => collection.has_others = true,
            // An alias or a collection.
            (Next::Key, key) => {
                if let Node::Scalar(text) = key {
                    if &*text == MERGE {
                        return Err(refused(at, "is an alias of `<<`: write `<<`", is_document));
                    }
                    collection.keys.insert(text.as_ref().into());
                }
                collection.next = Next::Value;
            }
            (Next::Merged(at), Node::Mapping(keys) | Node::Sequence(Some(keys))) => {
                collection.merge(*at, &keys, is_document)?;
                collection.next = Next::Key;
            }
            (Next::Merged(at), Node::Scalar(_) | Node::Sequence(None)) => {
                let sentence = "`<<` merges something else than mappings: write a mapping, or a list of mappings";
                return Err(refused(*at, sentence, is_document));
            }
            (Next::Value, _) => collection.next = Next::Key,
        }
        Ok(())
    }
}

fn refused(at: Marker, sentence: &str, of_kind: bool) -> RefusedNode {
    RefusedNode { problem: NodeProblem::at(at, sentence.into()), of_kind }
}

impl Collection {
    fn merge(&mut self, at: Marker, merged: &MappingKeys, is_document: bool) -> Result<(), RefusedNode> {
        let mut repeated = self.keys.intersection(merged).peekable();
        if repeated.peek().is_some() {
            let of_kind = is_document && repeated.any(|key| key == "apiVersion" || key == "kind");
            let sentence = "`<<` merges a key that is also written above it, so that its value depends on the program \
                            that reads the file: write one `<<` above all other keys (`<<: [*a, *b]` for several), or \
                            remove one of the two values";
            return Err(refused(at, sentence, of_kind));
        }
        self.keys.extend(merged.iter().cloned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::source::documents::Documents;

    fn read(spec: &str) -> Documents {
        let text = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\n{spec}");
        Documents::read(Path::new("a.yaml"), &text, "default")
    }

    #[test]
    fn a_merge_key_below_a_key_that_it_merges_is_refused() {
        for spec in [
            "a: &a {x: 1}\nb:\n  x: 2\n  <<: *a\n",
            "a: &a {x: 1}\nb:\n  x: 2\n  <<: [*a]\n",
            "a: &a {x: 1}\nb:\n  <<: *a\n  <<: {x: 2}\n",
            "a: &a {x: 1}\nb:\n  x: 2\n  !!merge <<: *a\n",
            "a: [&a {x: 1}, &b {<<: *a}]\nb: {y: 2,\n  x: 2,\n  <<: *b}\n",
            "a: &a [{y: 1}, {x: 1}]\nb: {y: 2,\n  x: 2, <<: *a}\n",
            "a: &a {metadata: {}}\nb: 1\n\n<<: *a",
            "a: {x: &k x}\nb: {*k : 2, <<: {x: 1}}\n",
        ] {
            let documents = read(spec);
            assert_eq!((documents.objects.len(), documents.problems.len()), (0, 1), "{spec}: {documents:?}");
            assert!(documents.problems[0].contains("`<<` merges a key that is also written above it"), "{documents:?}");
        }
        let documents = read("a: &a {x: 1}\nb:\n  x: 2\n  <<: *a\n");
        let start = "a.yaml: line 7, column 3: `<<` merges a key";
        assert!(documents.problems[0].starts_with(start), "{documents:?}");
    }

    #[test]
    fn merge_keys_that_kubectl_refuses_or_reads_as_text_are_refused() {
        for (spec, sentence) in [
            ("a: {<<: [[{x: 1}]]}\n", "`<<` merges something else than mappings"),
            ("a: {<<: null}\n", "`<<` merges something else than mappings"),
            ("a: {&m <<: {x: 1}}\nb: {*m : {x: 1}}\n", "is an alias of `<<`"),
        ] {
            let documents = read(spec);
            assert_eq!((documents.objects.len(), documents.problems.len()), (0, 1), "{spec}: {documents:?}");
            assert!(documents.problems[0].contains(sentence), "{documents:?}");
        }
    }

    #[test]
    fn merge_keys_with_one_meaning_are_accepted() {
        for spec in [
            "a: &a {x: 1}\nb:\n  <<: *a\n  x: 2\n",
            "a: &a {x: 1}\nb: &b {y: 1}\nc: {z: 2, <<: *a, <<: *b, x: 2}\n",
            "a: &a {x: 1}\nb: {y: 2, <<: [*a, *a]}\n",
            "a: &a {b: {x: 1}}\nb: {x: 2, <<: *a}\n",
            "a: {x: 1, '<<': {x: 2}}\n",
            "a: '<<'\n",
            "a: {x: 1, !!str <<: {x: 2}}\n",
            "a: [{x: 1}, {<<: {x: 2}}]\n",
        ] {
            let documents = read(spec);
            assert_eq!((documents.objects.len(), documents.problems.len()), (1, 0), "{spec}: {documents:?}");
        }
    }

    #[test]
    fn objects_of_other_kinds_are_skipped_whatever_they_merge() {
        let read = |text: &str| Documents::read(Path::new("a.yaml"), text, "default");
        let pod = "apiVersion: v1\nkind: Pod\na: &a {x: 1}\nb: {x: 2, <<: *a}\n";
        let documents = read(pod);
        assert_eq!((documents.problems.len(), documents.passed_over), (0, 1), "{documents:?}");
        let documents = read("a: &a {kind: Secret}\napiVersion: v1\nkind: Pod\n<<: *a\n");
        assert_eq!((documents.problems.len(), documents.passed_over), (1, 0), "{documents:?}");
    }

    #[test]
    fn the_cost_is_that_of_the_text() {
        let text = |count: usize| {
            let keys = (0..count).map(|key| format!("k{key}: {key}, ")).collect::<String>();
            let nested = "[".repeat(count / 10) + "{<<: *a}" + &"]".repeat(count / 10);
            format!("a: &a {{{keys}}}\nb: {{<<: *a, {keys}}}\nc: {nested}\n")
        };
        crate::cost::assert_grows_no_faster_than_n_log_n(1000, text, |text| {
            assert!(super::check(text).is_ok());
        });
    }
}
