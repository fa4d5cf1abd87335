use std::collections::BTreeSet;

use form_urlencoded::{Serializer, byte_serialize, parse};

/// The maximum number of load balancers whose details a request selects.
const MAX_EXPANDED: usize = 50;
/// The maximum length of a search text, in bytes.
const MAX_SEARCH: usize = 256;

/// The selection and order of load balancers on the page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageQuery {
    /// Text that a name, an address or a problem contains, in lower case. Empty: all.
    pub search: String,
    pub order: PageOrder,
    /// The names of the load balancers whose details are needed.
    pub expanded: BTreeSet<String>,
}

/// The order of load balancers. Numbers are sorted from the highest one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PageOrder {
    /// Load balancers with problems first.
    #[default]
    Problems,
    Name,
    /// The number of endpoints that are not usable.
    Endpoints,
    Open,
    Connections,
    Bytes,
    Failures,
}

impl PageOrder {
    pub const ALL: [Self; 7] =
        [Self::Problems, Self::Name, Self::Endpoints, Self::Open, Self::Connections, Self::Bytes, Self::Failures];

    /// The value of the parameter `sort`.
    pub fn parameter(self) -> &'static str {
        match self {
            Self::Problems => "problems",
            Self::Name => "name",
            Self::Endpoints => "endpoints",
            Self::Open => "open",
            Self::Connections => "connections",
            Self::Bytes => "bytes",
            Self::Failures => "failures",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::Problems => "problems first",
            Self::Name => "name",
            Self::Endpoints => "endpoints",
            Self::Open => "open",
            Self::Connections => "new/s",
            Self::Bytes => "bytes/s",
            Self::Failures => "failures/s",
        }
    }
}

impl PageQuery {
    /// Reads the query of a URL. Unknown parameters and values are ignored.
    pub fn parse(query: &str) -> Self {
        let mut parsed = Self::default();
        for (name, value) in parse(query.as_bytes()) {
            match &*name {
                "q" => parsed.search = value[..value.floor_char_boundary(MAX_SEARCH)].trim().to_lowercase(),
                "sort" => {
                    let order = PageOrder::ALL.into_iter().find(|order| order.parameter() == value);
                    parsed.order = order.unwrap_or_default();
                }
                "open" if parsed.expanded.len() < MAX_EXPANDED => drop(parsed.expanded.insert(value.into_owned())),
                _ => {}
            }
        }
        parsed
    }

    /// The path of the page in this order.
    pub fn sorted_by(&self, order: PageOrder) -> String {
        Self { order, ..self.clone() }.path()
    }

    /// The path of the page with the details of one more load balancer.
    pub fn with_expanded(&self, name: &str) -> String {
        let mut query = self.clone();
        query.expanded.insert(name.into());
        query.path()
    }

    fn path(&self) -> String {
        let mut query = Serializer::for_suffix(String::from("/?"), 2);
        if !self.search.is_empty() {
            query.append_pair("q", &self.search);
        }
        if self.order != PageOrder::default() {
            query.append_pair("sort", self.order.parameter());
        }
        for name in &self.expanded {
            query.append_pair("open", name);
        }
        query.finish()
    }
}

/// A link to the element with this id.
pub fn fragment(id: &str) -> String {
    let encoded: String = byte_serialize(id.as_bytes()).collect();
    // Only form data has plus signs for spaces.
    format!("#{}", encoded.replace('+', "%20"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_selects_and_sorts_and_what_it_does_not_know_is_ignored() {
        let query = PageQuery::parse("q=+Shop%2FPg&sort=bytes&open=a%2Fb&open=c&x=1&%ff");
        assert_eq!((query.search.as_str(), query.order), ("shop/pg", PageOrder::Bytes));
        assert_eq!(query.expanded, BTreeSet::from(["a/b".to_owned(), "c".to_owned()]));
        assert_eq!(query.sorted_by(PageOrder::Problems), "/?q=shop%2Fpg&open=a%2Fb&open=c");
        assert_eq!(PageQuery::parse("sort=colour"), PageQuery::default());
        assert_eq!(PageQuery::parse(&format!("q={}", "é".repeat(200))).search.len(), MAX_SEARCH);
    }

    #[test]
    fn the_number_of_selected_load_balancers_is_limited() {
        let query: String = (0..200).map(|number| format!("open={number}&")).collect();
        assert_eq!(PageQuery::parse(&query).expanded.len(), MAX_EXPANDED);
    }

    #[test]
    fn links_to_elements_are_encoded() {
        assert_eq!(fragment("shop/a b+\"<"), "#shop%2Fa%20b%2B%22%3C");
    }
}
