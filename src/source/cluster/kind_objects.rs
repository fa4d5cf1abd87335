use std::{collections::BTreeMap, sync::Arc};

use super::{
    kinds::{BuiltInKind, CachedObject, WatchedObject},
    selector::Interest,
    watch_task::{KindVersion, KindWatches},
};
use crate::{model::ObjectKey, world::World};

/// The readable objects of one kind and the problems of the others, in the latest world.
pub struct KindObjects<T> {
    /// `None`: nothing has been gathered, or other objects have become of interest.
    pub version: Option<KindVersion>,
    objects: BTreeMap<ObjectKey, Arc<T>>,
    problems: Vec<String>,
    unreadable: BTreeMap<(&'static str, ObjectKey), Arc<str>>,
}

impl<T> Default for KindObjects<T> {
    fn default() -> Self {
        Self { version: None, objects: BTreeMap::new(), problems: Vec::new(), unreadable: BTreeMap::new() }
    }
}

impl<T: BuiltInKind> KindObjects<T> {
    /// Gathers the objects if they have changed. Returns false if not.
    pub fn update(&mut self, watches: &KindWatches<CachedObject<T>>, interest: &Interest) -> bool {
        let version = Some(watches.version());
        if version == self.version {
            return false;
        }
        let mut gathered = Self { version, ..Self::default() };
        for (_, watch) in watches.iter() {
            let state = watch.state();
            for (key, object) in state.store.objects().iter().filter(|(key, object)| object.concerns(key, interest)) {
                let stays = if object.good.is_some() { "; the previous version stays in use" } else { "" };
                let problems = object.problem.iter().map(|problem| format!("{} {key}: {problem}{stays}", T::KIND));
                gathered.problems.extend(problems);
                match &object.good {
                    Some(good) => drop(gathered.objects.insert(key.clone(), good.clone())),
                    None => {
                        let why = object.problem.as_deref().unwrap_or_default().into();
                        gathered.unreadable.insert((T::KIND, key.clone()), why);
                    }
                }
            }
        }
        *self = gathered;
        true
    }

    /// Adds the problems to the world. Returns the objects.
    pub fn add_to(&self, world: &mut World) -> BTreeMap<ObjectKey, Arc<T>> {
        world.problems.extend(self.problems.iter().cloned());
        world.unreadable.extend(self.unreadable.iter().map(|(object, why)| (object.clone(), why.clone())));
        self.objects.clone()
    }
}
