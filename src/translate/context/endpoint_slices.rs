use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::{
    model::ObjectKey,
    shared::changes,
    world::{Objects, service_of},
};

/// EndpointSlices by their Services. Kept between translations.
#[derive(Default)]
pub struct SlicesByService {
    known: Objects<EndpointSlice>,
    by_service: HashMap<ObjectKey, BTreeMap<ObjectKey, Arc<EndpointSlice>>>,
}

pub type Slice<'a> = (&'a ObjectKey, &'a Arc<EndpointSlice>);

impl SlicesByService {
    /// Updates the index to these slices.
    pub fn follow(&mut self, slices: &Objects<EndpointSlice>) {
        for (key, before, now) in changes(&self.known, slices) {
            if let Some(service) = before.and_then(|slice| service_key(key, slice))
                && let Some(of_service) = self.by_service.get_mut(&service)
            {
                of_service.remove(key);
                if of_service.is_empty() {
                    self.by_service.remove(&service);
                }
            }
            if let Some(slice) = now
                && let Some(service) = service_key(key, slice)
            {
                self.by_service.entry(service).or_default().insert(key.clone(), Arc::clone(slice));
            }
        }
        self.known = slices.clone();
    }

    /// Sorted by name.
    pub fn of_service(&self, service: &ObjectKey) -> impl Iterator<Item = Slice<'_>> {
        self.by_service.get(service).into_iter().flatten()
    }
}

/// The Service that an EndpointSlice belongs to.
pub fn service_key(key: &ObjectKey, slice: &EndpointSlice) -> Option<ObjectKey> {
    service_of(slice).map(|service| key.sibling(service))
}
