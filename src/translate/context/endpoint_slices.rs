use std::{collections::HashMap, sync::Arc};

use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::{
    model::ObjectKey,
    world::{World, service_of},
};

/// EndpointSlices by namespace and Service name. The index is built once, since many Services are looked up.
pub struct Slices<'a>(HashMap<&'a str, HashMap<&'a str, Vec<Slice<'a>>>>);

pub type Slice<'a> = (&'a ObjectKey, &'a Arc<EndpointSlice>);

impl<'a> Slices<'a> {
    pub fn of(world: &'a World) -> Self {
        let mut slices: HashMap<_, HashMap<_, Vec<_>>> = HashMap::new();
        for (key, slice) in &world.endpoint_slices {
            if let Some(service) = service_of(slice) {
                slices.entry(&*key.namespace).or_default().entry(service).or_default().push((key, slice));
            }
        }
        Self(slices)
    }

    /// Sorted by name.
    pub fn of_service(&self, service: &ObjectKey) -> &[Slice<'a>] {
        let slices = self.0.get(&*service.namespace).and_then(|services| services.get(&*service.name));
        slices.map_or(&[], Vec::as_slice)
    }
}
