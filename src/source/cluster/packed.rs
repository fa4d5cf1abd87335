//! The small form of objects that are not of interest.

use std::sync::Arc;

use lz4_flex::block::{compress_prepend_size_with_dict, decompress_size_prepended_with_dict};
use serde::{Serialize, de::DeserializeOwned};

use super::selector::Interest;
use crate::model::ObjectKey;

/// A serialized and compressed object, which takes a small part of the memory.
#[derive(Clone, PartialEq)]
pub struct PackedObject {
    /// The Service that it is, or belongs to.
    service: Option<Arc<str>>,
    /// JSON, compressed by LZ4 after its size.
    compressed: Arc<[u8]>,
}

impl PackedObject {
    pub fn of(object: &impl Serialize, service: Option<Arc<str>>) -> Option<Self> {
        let json = serde_json::to_vec(object).ok()?;
        Some(Self { service, compressed: compress_prepend_size_with_dict(&json, TYPICAL).into() })
    }

    pub fn read<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&decompress_size_prepended_with_dict(&self.compressed, TYPICAL).ok()?).ok()
    }

    pub fn concerns(&self, key: &ObjectKey, interest: &Interest) -> bool {
        let Some(service) = self.service.clone() else { return false };
        interest.has(&ObjectKey { namespace: key.namespace.clone(), name: service })
    }

    /// The number of compressed bytes.
    #[cfg(test)]
    pub fn size(&self) -> usize {
        self.compressed.len()
    }
}

/// The dictionary of the compression: a Service and an EndpointSlice as they are serialized, with common labels. Most
/// text of such an object is the same in all of them, and is not stored again.
const TYPICAL: &[u8] = concat!(
    r#"{"apiVersion":"v1","kind":"Service","metadata":{"annotations":{"meta.helm.sh/release-name":"","#,
    r#""meta.helm.sh/release-namespace":""},"creationTimestamp":"2026-01-01T00:00:00Z","generation":1,"labels":{"#,
    r#""app":"","app.kubernetes.io/component":"","app.kubernetes.io/instance":"","#,
    r#""app.kubernetes.io/managed-by":"Helm","app.kubernetes.io/name":"","app.kubernetes.io/version":"","#,
    r#""helm.sh/chart":""},"name":"","namespace":"","resourceVersion":"","uid":""},"spec":{"clusterIP":"10.","#,
    r#""clusterIPs":["10."],"internalTrafficPolicy":"Cluster","ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack","#,
    r#""ports":[{"name":"http","port":80,"protocol":"TCP","targetPort":8080}],"selector":{"app":"","#,
    r#""app.kubernetes.io/instance":"","app.kubernetes.io/name":""},"sessionAffinity":"None","type":"ClusterIP"},"#,
    r#""status":{"loadBalancer":{}}}"#,
    r#"{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4","endpoints":[{"addresses":["#,
    r#""10."],"conditions":{"ready":true,"serving":true,"terminating":false},"nodeName":"","targetRef":{"#,
    r#""kind":"Pod","name":"","namespace":"","uid":""},"zone":""}],"metadata":{"#,
    r#""creationTimestamp":"2026-01-01T00:00:00Z","generateName":"","labels":{"#,
    r#""endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io","kubernetes.io/service-name":""},"#,
    r#""name":"","namespace":"","ownerReferences":[{"apiVersion":"v1","blockOwnerDeletion":true,"controller":true,"#,
    r#""kind":"Service","name":"","uid":""}],"uid":""},"ports":[{"name":"","port":80,"protocol":"TCP"}]}"#,
)
.as_bytes();
