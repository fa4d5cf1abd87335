//! What has been read by one watch.

use std::{collections::BTreeMap, mem};

use kube::{api::DynamicObject, runtime::watcher::Event};

use super::{interest::Interest, kinds::Kept};
use crate::model::ObjectKey;

/// The objects of one watch: those of the latest complete listing, and what has changed since.
pub struct Store<K> {
    objects: BTreeMap<ObjectKey, K>,
    /// A listing that is not complete yet; until it is, what was there before stays.
    listing: BTreeMap<ObjectKey, K>,
    synced: bool,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), listing: BTreeMap::new(), synced: false }
    }
}

impl<K: Kept> Store<K> {
    /// Takes in what the watch tells, and says whether that changes anything of interest.
    pub fn take(&mut self, event: Event<DynamicObject>, interest: &Interest) -> bool {
        match event {
            Event::Init => {
                self.listing.clear();
                false
            }
            Event::InitApply(object) => {
                let (key, object) = self.read(object);
                self.listing.insert(key, object);
                false
            }
            Event::InitDone => {
                let before = mem::replace(&mut self.objects, mem::take(&mut self.listing));
                let first = !mem::replace(&mut self.synced, true);
                first || differ(&before, &self.objects, interest) || differ(&self.objects, &before, interest)
            }
            Event::Apply(object) => {
                let (key, now) = self.read(object);
                let concerns = now.concerns(&key, interest);
                let before = self.objects.remove(&key);
                let changed = before.as_ref() != Some(&now);
                let concerned = before.is_some_and(|before| before.concerns(&key, interest));
                self.objects.insert(key, now);
                changed && (concerns || concerned)
            }
            Event::Delete(object) => {
                let key = key(&object);
                self.objects.remove(&key).is_some_and(|before| before.concerns(&key, interest))
            }
        }
    }

    /// Whether a complete listing has been read.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    pub fn objects(&self) -> &BTreeMap<ObjectKey, K> {
        &self.objects
    }

    fn read(&self, object: DynamicObject) -> (ObjectKey, K) {
        let key = key(&object);
        let before = self.objects.get(&key);
        (key, K::read(object, before))
    }
}

/// Whether one has something of interest that is not so in the other.
fn differ<K: Kept>(one: &BTreeMap<ObjectKey, K>, other: &BTreeMap<ObjectKey, K>, interest: &Interest) -> bool {
    one.iter().any(|(key, object)| other.get(key) != Some(object) && object.concerns(key, interest))
}

fn key(object: &DynamicObject) -> ObjectKey {
    let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
    ObjectKey { namespace: text(&object.metadata.namespace), name: text(&object.metadata.name) }
}
