//! The Service of an EndpointSlice.

use k8s_openapi::api::discovery::v1::EndpointSlice;

/// The kind in [`World::unreadable`](super::World::unreadable) that stands for all EndpointSlices of a Service.
pub const SLICES_OF: &str = "EndpointSlices of Service";

pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The name of the Service of an EndpointSlice.
pub fn service_of(slice: &EndpointSlice) -> Option<&str> {
    slice.metadata.labels.as_ref()?.get(SERVICE_NAME).map(String::as_str)
}
