//! Objects that a tool completes before they are applied.

use std::collections::BTreeSet;

use crate::{api::RefKind, model::ObjectKey, world::World};

/// A kind and a key.
pub type ObjectId = (&'static str, ObjectKey);

/// The reason why the check skips an object that a tool completes.
pub const TEMPLATE: &str = "the document contains encrypted values or placeholders: decrypt or render it first";

/// Removes templates from a world, because their values are unknown.
pub fn take_out(templates: &BTreeSet<ObjectId>, world: &mut World) {
    for (kind, key) in templates {
        world.unreadable.remove(&(*kind, key.clone()));
        if *kind == RefKind::Secret.name() {
            world.secrets.remove(key);
        } else if *kind == RefKind::ConfigMap.name() {
            world.config_maps.remove(key);
        }
    }
}

/// Marks the templates that were not found in the cluster as unread.
pub fn note_unknown(templates: BTreeSet<ObjectId>, world: &mut World) {
    for (kind, key) in templates {
        let is_found = world.secrets.contains_key(&key) && kind == RefKind::Secret.name()
            || world.config_maps.contains_key(&key) && kind == RefKind::ConfigMap.name();
        if !is_found {
            let why = format!("{kind} {key} cannot be checked: {TEMPLATE}");
            world.unread.entry((kind, key)).or_insert(why.into());
        }
    }
}
