//! Replaces names of users by hashes with a random key, which differs for each bundle.

use std::collections::BTreeSet;

use aws_lc_rs::{
    digest::{Context, SHA256},
    rand,
};
use serde_json::Value;

/// The fields with names.
const NAME_FIELDS: [&str; 10] = [
    "name",
    "namespace",
    "nodeName",
    "zone",
    "hostname",
    "host",
    "serverNames",
    "serverName",
    "addresses",
    "generateName",
];
/// Further fields of the reports and snapshots of replicas with names, or with references that contain names.
const PAGE_FIELDS: [&str; 12] = [
    "authorities",
    "backend",
    "backends",
    "loadBalancer",
    "names",
    "node",
    "service",
    "source",
    "stableId",
    "tls",
    "upstream",
    "what",
];
/// The fields of logs and the labels of metrics with names, or with references that contain names.
const TEXT_FIELDS: [&str; 12] = [
    "backend",
    "certificate",
    "listener",
    "listener_name",
    "load_balancer",
    "load_balancer_namespace",
    "name",
    "route",
    "server_name",
    "service",
    "tls_server_name",
    "upstream",
];
/// The fields whose values are words of the API.
const API_FIELDS: [&str; 7] = ["apiVersion", "kind", "type", "reason", "protocol", "operation", "severity"];
/// The maps whose keys are names.
const KEYED_BY_NAMES: [&str; 3] = ["backends", "certificates", "certificatesForBackends"];
/// Names of Kubernetes and of this program, which tell nothing about users.
const WELL_KNOWN: [&str; 8] = ["default", "kubernetes", "tcplb", "admin", "http", "https", "tcp", "localhost"];

/// The names to be replaced.
#[derive(Debug)]
pub struct NameHasher {
    key: [u8; 32],
    names: BTreeSet<String>,
    /// Names that stay.
    kept: BTreeSet<String>,
}

impl NameHasher {
    /// # Errors
    /// If there is no randomness.
    pub fn new() -> anyhow::Result<Self> {
        let mut key = [0; 32];
        rand::fill(&mut key)?;
        Ok(Self { key, names: BTreeSet::new(), kept: WELL_KNOWN.map(str::to_owned).into() })
    }

    /// Keeps a name, for example that of the installation's namespace.
    pub fn keep(&mut self, name: &str) {
        self.kept.insert(name.to_owned());
    }

    pub fn add(&mut self, name: &str) {
        let name = name.trim_start_matches("*.").trim_end_matches('.');
        // Addresses are not names, and `5432` would replace numbers.
        let is_name = name.chars().any(|c| c.is_ascii_alphabetic()) && name.chars().all(is_part);
        if is_name {
            self.names.insert(name.to_owned());
        }
    }

    /// Adds the names in an object.
    pub fn add_object(&mut self, object: &Value) {
        match object {
            Value::Object(map) => {
                for (key, value) in map {
                    if NAME_FIELDS.contains(&key.as_str()) {
                        self.add_values(value);
                    }
                    self.add_object(value);
                }
            }
            Value::Array(list) => list.iter().for_each(|item| self.add_object(item)),
            _ => {}
        }
    }

    /// Adds a text, or each text of a list, without a port.
    fn add_values(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.add(text.rsplit_once(':').map_or(text, |(host, _)| host)),
            Value::Array(list) => list.iter().for_each(|item| self.add_values(item)),
            _ => {}
        }
    }

    /// Adds the names in the report or the snapshot of a replica.
    pub fn add_page(&mut self, page: &Value) {
        match page {
            Value::Object(map) => {
                for (key, value) in map {
                    if NAME_FIELDS.contains(&key.as_str()) || PAGE_FIELDS.contains(&key.as_str()) {
                        self.add_references(value);
                    }
                    if let (true, Value::Object(keyed)) = (KEYED_BY_NAMES.contains(&key.as_str()), value) {
                        keyed.keys().for_each(|name| self.add_reference(name));
                    }
                    self.add_page(value);
                }
            }
            Value::Array(list) => list.iter().for_each(|item| self.add_page(item)),
            _ => {}
        }
    }

    /// Adds the names in a text, or in each text of a list.
    fn add_references(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.add_reference(text),
            Value::Array(list) => list.iter().for_each(|item| self.add_references(item)),
            _ => {}
        }
    }

    /// Adds the names in `NAME`, `HOST:PORT`, `NAMESPACE/NAME:PORT` or `KIND NAMESPACE/NAME`.
    fn add_reference(&mut self, reference: &str) {
        let is_one_word = !reference.contains(' ');
        for word in reference.split(' ').filter(|word| is_one_word || word.contains('/')) {
            for name in word.split('/') {
                self.add(name.rsplit_once(':').map_or(name, |(host, _)| host));
            }
        }
    }

    /// Adds the names in the fields of a log and in the labels of metrics: `name=…`, `name="…"` or `"name":"…"`.
    pub fn add_text(&mut self, text: &str) {
        for field in TEXT_FIELDS {
            let places = text.match_indices(field).filter(|(begin, _)| !text[..*begin].ends_with(is_part));
            for value in places.filter_map(|(begin, _)| field_value(&text[begin + field.len()..])) {
                self.add_reference(value);
            }
        }
    }

    /// The hash of a name: always the same within a bundle.
    pub fn hash(&self, name: &str) -> String {
        let mut context = Context::new(&SHA256);
        context.update(&self.key);
        context.update(name.as_bytes());
        let digest = context.finish();
        let hex: String = digest.as_ref().iter().take(5).map(|byte| format!("{byte:02x}")).collect();
        format!("n-{hex}")
    }

    /// A document with hashed names.
    pub fn json(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (key, value) in map.iter_mut() {
                    if let (true, Value::Object(keyed)) = (KEYED_BY_NAMES.contains(&key.as_str()), &mut *value) {
                        *keyed = std::mem::take(keyed).into_iter().map(|(name, of)| (self.text(&name), of)).collect();
                    }
                    if !(value.is_string() && API_FIELDS.contains(&key.as_str())) {
                        self.json(value);
                    }
                }
            }
            Value::Array(list) => list.iter_mut().for_each(|item| self.json(item)),
            Value::String(text) => *text = self.text(text),
            _ => {}
        }
    }

    /// A text with hashed names. A name is a whole word, or a whole part between dots.
    pub fn text(&self, text: &str) -> String {
        let mut hashed = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(begin) = rest.find(is_part) {
            let (before, from_word) = rest.split_at(begin);
            let end = from_word.find(|c| !is_part(c)).unwrap_or(from_word.len());
            let (word, after) = from_word.split_at(end);
            hashed += before;
            hashed += &self.word(word);
            rest = after;
        }
        hashed + rest
    }

    fn word(&self, word: &str) -> String {
        // The dot at the end of a sentence is not part of a name.
        let (word, dots) = word.split_at(word.trim_end_matches('.').len());
        if self.is_hashed(word) {
            return self.hash(word) + dots;
        }
        let parts = word.split('.').map(|part| if self.is_hashed(part) { self.hash(part) } else { part.to_owned() });
        parts.collect::<Vec<_>>().join(".") + dots
    }

    fn is_hashed(&self, name: &str) -> bool {
        self.names.contains(name) && !self.kept.contains(name)
    }
}

/// The value of a field, whose name ends before this text. `None`: the name is an ordinary word.
fn field_value(text: &str) -> Option<&str> {
    let value = text.strip_prefix('"').unwrap_or(text).strip_prefix(['=', ':'])?;
    match value.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => value.split([' ', ',', '}', '\n', '"']).next(),
    }
}

/// True for the characters of names.
fn is_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_'
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hasher() -> NameHasher {
        let mut hasher = NameHasher::new().unwrap();
        hasher.keep("tcplb-system");
        hasher.add_object(&json!({
            "metadata": {"namespace": "shop", "name": "status"},
            "spec": {
                "backends": [{"service": {"name": "db-1"}}, {"addresses": ["db.example.com:5432", "10.0.0.1:5432"]}],
                "listeners": [{"port": 5432, "routes": [{"serverNames": ["*.shop.example.com"]}]}],
            },
        }));
        hasher
    }

    #[test]
    fn names_are_replaced_wherever_they_are_whole() {
        let hasher = hasher();
        let shop = hasher.hash("shop");
        for (text, expected) in [
            ("listener=shop/status:5432", format!("listener={shop}/{}:5432", hasher.hash("status"))),
            ("shop.svc.cluster.local", format!("{shop}.svc.cluster.local")),
            ("shopping in tcplb-system", "shopping in tcplb-system".into()),
            ("db.example.com.", format!("{}.", hasher.hash("db.example.com"))),
            ("10.0.0.1:5432 default", "10.0.0.1:5432 default".into()),
            ("`shop`, \"shop\"", format!("`{shop}`, \"{shop}\"")),
        ] {
            assert_eq!(hasher.text(text), expected);
        }
        assert_ne!(NameHasher::new().unwrap().hash("shop"), shop, "the key is random");
    }

    #[test]
    fn documents_keep_their_structure() {
        let hasher = hasher();
        let mut document = json!({
            "kind": "status",
            "status": {"backends": {"db-1": {"usable": 1}}, "message": "Service shop/db-1"},
        });
        hasher.json(&mut document);
        let (db, shop) = (hasher.hash("db-1"), hasher.hash("shop"));
        let expected = json!({
            "kind": "status",
            "status": {"backends": {&db: {"usable": 1}}, "message": format!("Service {shop}/{db}")},
        });
        assert_eq!(document, expected);
    }

    #[test]
    fn all_kinds_of_names_in_objects_are_replaced() {
        let mut hasher = NameHasher::new().unwrap();
        hasher.add_object(&json!({
            "metadata": {"namespace": "bank", "name": "ledger"},
            "spec": {
                "listeners": [{"name": "main-listener", "tls": {"certificateRefs": [{"name": "ledger-tls"}]}}],
                "backends": [{
                    "name": "spare",
                    "service": {"name": "ledger-db"},
                    "tls": {"serverName": "db.example.com", "authorities": [{"kind": "ConfigMap", "name": "ledger-ca"}]},
                }],
            },
        }));
        hasher.add_object(&json!({
            "metadata": {"name": "ledger-db-x7k2p"},
            "ports": [{"name": "sql", "port": 5432}],
            "endpoints": [{"nodeName": "node-1", "zone": "zone-a", "targetRef": {"kind": "Pod", "name": "ledger-0"}}],
        }));
        let names = "bank ledger main-listener ledger-tls spare ledger-db db.example.com ledger-ca ledger-db-x7k2p sql \
                     node-1 zone-a ledger-0";
        for name in names.split(' ') {
            assert_eq!(hasher.text(name), hasher.hash(name));
        }
    }

    #[test]
    fn names_in_reports_and_snapshots_are_replaced() {
        let mut hasher = NameHasher::new().unwrap();
        hasher.keep("tcplb-system");
        hasher.add_page(&json!({
            "process": {"name": "tcplb-1", "node": "node-1", "zone": "zone-a"},
            "loadBalancers": [{
                "name": "bank/ledger",
                "listeners": [{"port": 5432, "applied": {"name": "5432", "tls": {
                    "certificates": [{"source": "Secret bank/ledger-tls", "names": ["*.bank.example.com"]}],
                    "routes": [{"serverNames": ["pay.example.com"], "backends": ["main"]}],
                }}}],
                "applied": {
                    "backends": {"spare": {"activeCheck": {"probe": {"tls": "db.example.com"}}}},
                    "endpoints": [{"key": {"backend": "main", "address": "10.0.0.1:5432"}, "stableId": "ledger-0"}],
                },
            }],
            "draining": [{"loadBalancer": "bank/old", "what": "bank/older:5432"}],
        }));
        let names = ["node-1", "zone-a", "bank", "ledger", "ledger-tls", "bank.example.com", "pay.example.com", "main"];
        for name in names.iter().chain(&["spare", "db.example.com", "ledger-0", "old", "older"]) {
            assert_eq!(hasher.text(name), hasher.hash(name));
        }
        for kept in ["Secret", "10.0.0.1:5432", "tcplb-system"] {
            assert_eq!(hasher.text(kept), kept);
        }
    }

    #[test]
    fn names_in_fields_of_logs_and_labels_of_metrics_are_replaced() {
        for text in [
            "INFO name=gone.example.com addresses=2",
            "tcplb_accepted{load_balancer_namespace=\"bank\",load_balancer=\"gone.example.com\",port=\"1\"} 0",
            r#"{"event":"end","listener":"bank/gone.example.com:5432","backend":"-"}"#,
            "connection end listener=bank/a:1 tls_server_name=gone.example.com",
            "tcplb_certificate{certificate=\"Secret bank/gone.example.com\"} 1",
        ] {
            let mut hasher = NameHasher::new().unwrap();
            hasher.add_text(text);
            let hashed = hasher.text(text);
            assert!(!hashed.contains("gone.example.com") && !hashed.contains("bank"), "{hashed}");
            assert_eq!(hasher.text("Secret addresses end"), "Secret addresses end");
        }
        let mut hasher = NameHasher::new().unwrap();
        hasher.add_text("the listener shop has no rename=bank or name");
        assert_eq!(hasher.text("shop bank or"), "shop bank or");
    }
}
