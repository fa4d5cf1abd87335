//! Phrases shared by several messages.

use crate::{model::ObjectKey, world::World};

/// Fallback text for a refused listener.
pub(super) fn listener_fallback(served_before: bool) -> &'static str {
    if served_before { "the listener keeps its previous configuration" } else { "the listener is not served" }
}

/// Lists items for a message, shortened after the first 16.
pub(super) fn listed(items: impl IntoIterator<Item: ToString>) -> String {
    const MAX_LISTED: usize = 16;

    let mut all = items.into_iter();
    let mut items: Vec<_> = all.by_ref().take(MAX_LISTED).map(|item| item.to_string()).collect();
    let more = all.count();
    if more > 0 {
        items.push(format!("and {more} more"));
    }
    if items.is_empty() { "none".into() } else { items.join(", ") }
}

/// Message about a reference to an object that is not in the world.
pub(super) fn missing(kind: &'static str, key: &ObjectKey, world: &World) -> String {
    match world.unreadable.get(&(kind, key.clone())) {
        Some(why) => format!("{kind} {key} cannot be read: {why}"),
        None => format!("{kind} {key} does not exist: create it, or correct the reference"),
    }
}
