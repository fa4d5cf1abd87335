//! The Service that an EndpointSlice is of.

use k8s_openapi::api::discovery::v1::EndpointSlice;

/// The kind, among those of [`World::unreadable`](super::World::unreadable), of all EndpointSlices of a Service.
pub const SLICES_OF: &str = "EndpointSlices of Service";

pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The name of the Service that an EndpointSlice is of.
pub fn service_of(slice: &EndpointSlice) -> Option<&str> {
    slice.metadata.labels.as_ref()?.get(SERVICE_NAME).map(String::as_str)
}
