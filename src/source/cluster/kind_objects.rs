use std::{collections::BTreeMap, sync::Arc};

use imbl::OrdMap;

use super::{
    kinds::{BuiltInKind, CachedObject, WatchedObject},
    selector::{Interest, Selector},
    watch_task::{KindVersion, KindWatches},
};
use crate::{
    model::ObjectKey,
    shared::{SharedObject, changes, revised},
    world::{Objects, World},
};

/// The readable objects of one kind and the problems of the others, in the latest world.
pub struct KindObjects<T> {
    /// `None`: nothing has been gathered, or other objects have become of interest.
    version: Option<KindVersion>,
    /// The gathered objects of each watch.
    gathered: BTreeMap<Selector, OrdMap<ObjectKey, CachedObject<T>>>,
    objects: Objects<T>,
    problems: BTreeMap<ObjectKey, String>,
    unreadable: BTreeMap<(&'static str, ObjectKey), Arc<str>>,
}

impl<T> Default for KindObjects<T> {
    fn default() -> Self {
        Self {
            version: None,
            gathered: BTreeMap::new(),
            objects: Objects::new(),
            problems: BTreeMap::new(),
            unreadable: BTreeMap::new(),
        }
    }
}

impl<T: BuiltInKind> KindObjects<T> {
    /// Makes the next update gather all objects, since others have become of interest.
    pub fn reset(&mut self) {
        self.version = None;
    }

    /// Gathers the objects that have changed. Returns false if none has.
    pub fn update(&mut self, watches: &KindWatches<CachedObject<T>>, interest: &Interest) -> bool {
        let (version, changed) = watches.take_changes();
        let before = self.version.replace(version);
        if before == Some(version) {
            return false;
        }
        if before.is_some_and(|before| before.has_same_watches(version)) {
            for selector in changed {
                self.update_watch(selector, watches, interest);
            }
        } else {
            self.update_all(watches, interest);
        }
        true
    }

    fn update_watch(&mut self, selector: Selector, watches: &KindWatches<CachedObject<T>>, interest: &Interest) {
        let Some(watch) = watches.of(&selector) else { return };
        let now = watch.state().store.objects().clone();
        let before = self.gathered.insert(selector, now.clone()).unwrap_or_default();
        for (key, _, object) in changes(&before, &now) {
            self.problems.remove(key);
            self.unreadable.remove(&(T::KIND, key.clone()));
            // An object that moves between the selections of two watches is deleted in one of them.
            let elsewhere = || self.gathered.values().find_map(|of_watch| of_watch.get(key)).cloned();
            let object = object.cloned().or_else(elsewhere).filter(|object| object.concerns(key, interest));
            match object.and_then(|object| self.read(key, &object)) {
                Some(good) => drop(self.objects.insert(key.clone(), good)),
                None => drop(self.objects.remove(key)),
            }
        }
    }

    fn update_all(&mut self, watches: &KindWatches<CachedObject<T>>, interest: &Interest) {
        let of_watch = |(selector, watch): (&Selector, &super::Watch<_>)| {
            (selector.clone(), watch.state().store.objects().clone())
        };
        self.gathered = watches.iter().map(of_watch).collect();
        (self.problems, self.unreadable) = Default::default();
        let mut objects = BTreeMap::new();
        for of_watch in self.gathered.clone().values() {
            for (key, object) in of_watch.iter().filter(|(key, object)| object.concerns(key, interest)) {
                objects.extend(self.read(key, object).map(|good| (key.clone(), good)));
            }
        }
        self.objects = revised(&self.objects, objects);
    }

    /// The last readable version of an object, if any. Records its problem.
    fn read(&mut self, key: &ObjectKey, object: &CachedObject<T>) -> Option<SharedObject<T>> {
        if let Some(problem) = &object.problem {
            let stays = if object.is_readable() { "; the previous version stays in use" } else { "" };
            self.problems.insert(key.clone(), format!("{} {key}: {problem}{stays}", T::KIND));
        }
        if !object.is_readable() {
            let why = object.problem.as_deref().unwrap_or_default().into();
            self.unreadable.insert((T::KIND, key.clone()), why);
        }
        object.good().cloned()
    }

    /// Adds the problems to the world. Returns the objects.
    pub fn add_to(&self, world: &mut World) -> Objects<T> {
        world.problems.extend(self.problems.values().cloned());
        world.unreadable.extend(self.unreadable.iter().map(|(object, why)| (object.clone(), why.clone())));
        self.objects.clone()
    }
}
