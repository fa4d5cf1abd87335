//! The objects that one watch has read.

use std::{collections::BTreeMap, mem};

use imbl::OrdMap;
use kube::runtime::watcher::Event;

use super::{
    kinds::{ChangeScope, WatchedObject},
    received_object::ReceivedObject,
    selector::Interest,
};
use crate::{
    model::ObjectKey,
    shared::{changes, revised},
};

/// The objects of one watch: the latest complete listing, with the changes since.
pub struct Store<K> {
    objects: OrdMap<ObjectKey, K>,
    /// An incomplete listing. The previous objects stay until it is complete.
    listing: BTreeMap<ObjectKey, K>,
    synced: bool,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self { objects: OrdMap::new(), listing: BTreeMap::new(), synced: false }
    }
}

impl<K: WatchedObject> Store<K> {
    /// Applies an event of the watch.
    pub fn take(&mut self, event: Event<ReceivedObject>, interest: &Interest) -> ChangeScope {
        match event {
            Event::Init => {
                self.listing.clear();
                ChangeScope::Nothing
            }
            Event::InitApply(object) => {
                let (key, object) = self.read(object);
                let concerns = object.concerns(&key, interest);
                let object = in_form(&key, object, concerns);
                self.listing.insert(key, object);
                ChangeScope::Nothing
            }
            Event::InitDone => {
                let before = self.objects.clone();
                // Others may have become of interest in the meantime.
                let listed = mem::take(&mut self.listing).into_iter();
                let listed = listed.map(|(key, object)| {
                    let concerns = object.concerns(&key, interest);
                    let object = in_form(&key, object, concerns);
                    (key, object)
                });
                self.objects = revised(&before, listed.collect());
                let first = !mem::replace(&mut self.synced, true);
                if first {
                    return ChangeScope::Content;
                }
                difference(&before, &self.objects, interest)
            }
            Event::Apply(object) => {
                let (key, now) = self.read(object);
                let before = self.objects.get(&key);
                let change = now.change_since(before);
                if change == ChangeScope::Nothing {
                    return change;
                }
                let concerns = now.concerns(&key, interest);
                let is_change_of_interest = concerns || before.is_some_and(|before| before.concerns(&key, interest));
                let now = in_form(&key, now, concerns);
                // Replacing it in one step copies its part of the map once.
                self.objects.insert(key, now);
                if is_change_of_interest { change } else { ChangeScope::Nothing }
            }
            Event::Delete(object) => {
                let key = key(&object);
                let removed = self.objects.remove(&key).is_some_and(|before| before.concerns(&key, interest));
                if removed { ChangeScope::Content } else { ChangeScope::Nothing }
            }
        }
    }

    /// Packs the objects that are no longer of interest, and unpacks those that are now.
    pub fn follow_interest(&mut self, interest: &Interest) {
        let other_form = |(key, object): (&ObjectKey, &K)| {
            let other = if object.concerns(key, interest) { object.unpacked()? } else { object.packed(key)? };
            Some((key.clone(), other))
        };
        let changed: Vec<_> = self.objects.iter().filter_map(other_form).collect();
        self.objects.extend(changed);
    }

    /// True after the first complete listing.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    pub fn objects(&self) -> &OrdMap<ObjectKey, K> {
        &self.objects
    }

    fn read(&self, object: ReceivedObject) -> (ObjectKey, K) {
        let key = key(&object);
        let before = self.objects.get(&key);
        (key, K::read(object, before))
    }
}

/// An object in the form to store; `concerns`: it is of interest.
fn in_form<K: WatchedObject>(key: &ObjectKey, object: K, concerns: bool) -> K {
    let other = if concerns { object.unpacked() } else { object.packed(key) };
    other.unwrap_or(object)
}

/// The largest change of an object of interest between two versions.
fn difference<K: WatchedObject>(
    before: &OrdMap<ObjectKey, K>,
    now: &OrdMap<ObjectKey, K>,
    interest: &Interest,
) -> ChangeScope {
    let scope = |(key, before, now): (&ObjectKey, Option<&K>, Option<&K>)| {
        let concerns = before.into_iter().chain(now).any(|object| object.concerns(key, interest));
        let change = || now.map_or(ChangeScope::Content, |now| now.change_since(before));
        if concerns { change() } else { ChangeScope::Nothing }
    };
    changes(before, now).map(scope).max().unwrap_or(ChangeScope::Nothing)
}

fn key(object: &ReceivedObject) -> ObjectKey {
    let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
    ObjectKey { namespace: text(&object.metadata.namespace), name: text(&object.metadata.name) }
}
