use imbl::OrdMap;

use crate::{model::ObjectKey, shared::SharedObject};

/// Objects of one kind.
pub type Objects<T> = OrdMap<ObjectKey, SharedObject<T>>;
