//! The objects of one kind, and their changes.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use axum::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;

/// A namespace and a name.
type ObjectKey = (String, String);

/// The objects of one kind.
#[derive(Default)]
pub struct ObjectCollection {
    objects: BTreeMap<ObjectKey, Arc<Value>>,
    events: Vec<WatchEvent>,
    /// The number of events.
    changed: watch::Sender<usize>,
}

/// A change of one object, as watches send it.
#[derive(Clone)]
pub struct WatchEvent {
    pub version: u64,
    pub namespace: String,
    pub name: String,
    pub line: Bytes,
}

/// A part of a list.
pub struct ListPage {
    pub objects: Vec<Arc<Value>>,
    /// The last object of the page, if others follow.
    pub last: Option<ObjectKey>,
}

impl ObjectCollection {
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Value>> {
        self.objects.get(&(namespace.to_owned(), name.to_owned()))
    }

    pub fn put(&mut self, mut object: Value, version: u64) -> Arc<Value> {
        let key = key(&object);
        let before = self.objects.get(&key);
        let metadata = &mut object["metadata"];
        for (field, default) in
            [("uid", json!(format!("uid-{version}"))), ("creationTimestamp", json!("2026-01-01T00:00:00Z"))]
        {
            let inherited = before.map(|before| before["metadata"][field].clone());
            if metadata[field].is_null() {
                metadata[field] = inherited.unwrap_or(default);
            }
        }
        metadata["resourceVersion"] = version.to_string().into();
        let what = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.record(what, &object, version);
        let object = Arc::new(object);
        self.objects.insert(key, object.clone());
        object
    }

    pub fn remove(&mut self, namespace: &str, name: &str, version: u64) -> Option<Arc<Value>> {
        let object = self.objects.remove(&(namespace.to_owned(), name.to_owned()))?;
        self.record("DELETED", &object, version);
        Some(object)
    }

    fn record(&mut self, what: &str, object: &Value, version: u64) {
        let (namespace, name) = key(object);
        // The type comes first, as from Kubernetes: readers need it to read the object without a copy.
        let line = format!("{{\"type\":\"{what}\",\"object\":{object}}}\n");
        self.events.push(WatchEvent { version, namespace, name, line: line.into() });
        self.changed.send_replace(self.events.len());
    }

    /// At most `limit` objects after `after`, of one namespace and of one name if they are given.
    pub fn page(
        &self,
        namespace: Option<&str>,
        name: Option<&str>,
        after: Option<ObjectKey>,
        limit: usize,
    ) -> ListPage {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let is_selected = |(of, this): &ObjectKey| {
            namespace.is_none_or(|namespace| namespace == of) && name.is_none_or(|name| name == this)
        };
        let mut selected = self.objects.range((start, Bound::Unbounded)).filter(|(key, _)| is_selected(key));
        let page: Vec<_> = selected.by_ref().take(limit).collect();
        let last = selected.next().and_then(|_| page.last()).map(|(key, _)| ObjectKey::clone(key));
        ListPage { objects: page.into_iter().map(|(_, object)| object.clone()).collect(), last }
    }

    /// The index of the first event after a version.
    pub fn index_after(&self, version: u64) -> usize {
        self.events.partition_point(|event| event.version <= version)
    }

    pub fn events_from(&self, index: usize) -> &[WatchEvent] {
        &self.events[index..]
    }

    pub fn subscribe(&self) -> watch::Receiver<usize> {
        self.changed.subscribe()
    }
}

fn key(object: &Value) -> ObjectKey {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(namespace: &str, name: &str) -> Value {
        json!({"metadata": {"namespace": namespace, "name": name}})
    }

    #[test]
    fn pages_together_have_all_selected_objects() {
        let mut collection = ObjectCollection::default();
        for (version, (namespace, name)) in [("a", "1"), ("a", "2"), ("b", "1"), ("a", "3")].into_iter().enumerate() {
            collection.put(object(namespace, name), version as u64 + 1);
        }
        let first = collection.page(Some("a"), None, None, 2);
        assert_eq!(first.objects.len(), 2);
        let second = collection.page(Some("a"), None, first.last, 2);
        assert_eq!((second.objects.len(), second.last), (1, None));
        assert_eq!(collection.page(None, Some("1"), None, 9).objects.len(), 2);
    }

    #[test]
    fn events_follow_a_version_and_keep_the_uid() {
        let mut collection = ObjectCollection::default();
        let first = collection.put(object("a", "1"), 5);
        let second = collection.put(object("a", "1"), 8);
        assert_eq!(first["metadata"]["uid"], second["metadata"]["uid"]);
        assert_eq!(collection.index_after(5), 1);
        assert_eq!(collection.events_from(1)[0].version, 8);
    }
}
