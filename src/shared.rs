//! Shared values in persistent maps.

use std::{
    collections::BTreeMap,
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use imbl::{OrdMap, ordmap::DiffItem};

/// A shared value whose comparison checks the pointer first, so that comparing two versions of a map is cheap where they
/// share values. [`Arc`] does the same, but only for types that implement [`Eq`].
pub struct SharedObject<T: ?Sized>(Arc<T>);

impl<T: ?Sized> Clone for SharedObject<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> From<T> for SharedObject<T> {
    fn from(value: T) -> Self {
        Self(Arc::new(value))
    }
}

impl<T: ?Sized> From<Arc<T>> for SharedObject<T> {
    fn from(value: Arc<T>) -> Self {
        Self(value)
    }
}

impl<T: ?Sized> Deref for SharedObject<T> {
    type Target = Arc<T>;

    fn deref(&self) -> &Arc<T> {
        &self.0
    }
}

impl<T: ?Sized> DerefMut for SharedObject<T> {
    fn deref_mut(&mut self) -> &mut Arc<T> {
        &mut self.0
    }
}

impl<T: ?Sized + PartialEq> PartialEq for SharedObject<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || *self.0 == *other.0
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for SharedObject<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The entries that differ between two versions of a map: key, value before, value now. The cost depends on the number
/// of changes since the last common version, not on the size of the maps.
pub fn changes<'a, K: Ord, V: PartialEq>(
    before: &'a OrdMap<K, V>,
    now: &'a OrdMap<K, V>,
) -> impl Iterator<Item = (&'a K, Option<&'a V>, Option<&'a V>)> {
    before.diff(now).map(|change| match change {
        DiffItem::Add(key, value) => (key, None, Some(value)),
        DiffItem::Update { old: (_, old), new: (key, new) } => (key, Some(old), Some(new)),
        DiffItem::Remove(key, value) => (key, Some(value), None),
    })
}

/// A version of `before` with exactly these entries. Equal entries stay shared.
pub fn revised<K: Ord + Clone, V: PartialEq + Clone>(before: &OrdMap<K, V>, now: BTreeMap<K, V>) -> OrdMap<K, V> {
    let gone: Vec<&K> = before.keys().filter(|key| !now.contains_key(*key)).collect();
    let mut revised = before.clone();
    for key in gone {
        revised.remove(key);
    }
    // A full node is split into halves. Ascending keys would leave all nodes half empty; instead, every second key fills
    // the halves that the others have left.
    let (first, second): (Vec<_>, Vec<_>) = now.into_iter().enumerate().partition(|(place, _)| place.is_multiple_of(2));
    for (_, (key, value)) in first.into_iter().chain(second) {
        if revised.get(&key) != Some(&value) {
            revised.insert(key, value);
        }
    }
    revised
}

/// The first value of a map.
#[cfg(test)]
pub fn first_mut<K: Ord + Clone, V: Clone>(map: &mut OrdMap<K, V>) -> &mut V {
    let key = map.keys().next().expect("the map has an entry").clone();
    map.get_mut(&key).expect("the key is of the map")
}

/// Changes each value of a map.
#[cfg(test)]
pub fn each_mut<K: Ord + Clone, V: Clone>(map: &mut OrdMap<K, V>, change: impl Fn(&mut V)) {
    *map = map
        .clone()
        .into_iter()
        .map(|(key, mut value)| {
            change(&mut value);
            (key, value)
        })
        .collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revised_map_shares_what_is_equal_and_differs_in_the_changes() {
        let text = |number: u32| SharedObject::from(number.to_string());
        let before: OrdMap<u32, SharedObject<String>> = (0..1000).map(|number| (number, text(number))).collect();
        let mut now: BTreeMap<_, _> = before.clone().into_iter().collect();
        now.remove(&3);
        now.insert(500, text(1));
        now.insert(501, text(501));
        now.insert(2000, text(2));
        let revised = revised(&before, now.clone());
        assert_eq!(revised, OrdMap::from(now));
        assert!(Arc::ptr_eq(&before[&501], &revised[&501]), "an equal value stays the same");
        let text = |value: Option<&SharedObject<String>>| value.map(|value| value.as_str().to_owned());
        let changes: Vec<_> = changes(&before, &revised).map(|(key, old, new)| (*key, text(old), text(new))).collect();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(changes, [(3, some("3"), None), (500, some("500"), some("1")), (2000, None, some("2"))]);
    }

    #[test]
    fn the_nodes_of_a_new_map_are_full() {
        let value = Arc::new(());
        let entries: BTreeMap<u32, Arc<()>> = (0..1000).map(|key| (key, value.clone())).collect();
        let mut map = revised(&OrdMap::new(), entries);
        let _before = map.clone();
        // A change of a shared map copies the node of the entry.
        let count = Arc::strong_count(&value);
        assert!(map.get_mut(&500_u32).is_some());
        let copied = Arc::strong_count(&value) - count;
        assert!(copied > 12, "{copied} of 16 places of the node are in use");
    }
}
