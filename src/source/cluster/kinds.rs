//! The watched kinds, and the stored part of their objects.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::{ConfigMap, Secret, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Resource, api::ApiResource};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};
use xxhash_rust::xxh3::xxh3_64;

use super::{packed::PackedObject, received_object::ReceivedObject, selector::Interest};
use crate::{
    api::{DEFAULT_CLASS, KIND, Placement, TcpLoadBalancer},
    model::ObjectKey,
    shared::SharedObject,
    world::{Allocations, Declared, ObjectIdentity, SERVICE_NAME, service_of},
};

/// The origin of load balancers in messages.
const ORIGIN: &str = "cluster";
/// The prefix of labels about the controller of an EndpointSlice. Its other labels, except [`SERVICE_NAME`], are copies
/// of those of the Service.
const SLICE_LABELS: &str = "endpointslice.kubernetes.io/";
/// The annotation with a copy of the object that `kubectl apply` writes. It is dropped.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The stored part of an object. Reading accepts any content, so that no object ever stops a watch.
pub trait WatchedObject: Clone + PartialEq + Send + Sync + 'static {
    const KIND: &'static str;
    /// True if each watch is of one object that load balancers refer to.
    const IS_REFERENCE: bool = false;

    fn resource() -> ApiResource;

    /// Reads an object. `before` is the stored part of its previous version.
    fn read(object: ReceivedObject, before: Option<&Self>) -> Self;

    /// True if the object is of interest.
    fn concerns(&self, _key: &ObjectKey, _interest: &Interest) -> bool {
        true
    }

    /// The smaller form for objects that are not of interest. `None`: it has this form, or there is none.
    fn packed(&self, _key: &ObjectKey) -> Option<Self> {
        None
    }

    /// The full form of a packed object. `None`: it has this form.
    fn unpacked(&self) -> Option<Self> {
        None
    }

    /// The difference from the previous version.
    fn change_since(&self, before: Option<&Self>) -> ChangeScope {
        if before == Some(self) { ChangeScope::Nothing } else { ChangeScope::Content }
    }
}

/// A load balancer of any class and placement.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadBalancer {
    pub class: Arc<str>,
    /// The text of the field, because a newer schema may have more values.
    pub placement: Arc<str>,
    pub declared: Declared,
}

impl LoadBalancer {
    pub fn known_placement(&self) -> Option<Placement> {
        serde_json::from_value(Value::from(&*self.placement)).ok()
    }

    fn with_status_of(&self, other: &Self) -> Self {
        let declared = Declared { status: other.declared.status.clone(), ..self.declared.clone() };
        Self { declared, ..self.clone() }
    }
}

impl WatchedObject for LoadBalancer {
    const KIND: &'static str = KIND;

    fn resource() -> ApiResource {
        ApiResource::erase::<TcpLoadBalancer>(&())
    }

    fn read(object: ReceivedObject, before: Option<&Self>) -> Self {
        let identity = identity(&object.metadata);
        let before = before.map(|before| &before.declared);
        // An object with another uid under the same name inherits nothing.
        let before = before.filter(|before| before.identity.as_ref().is_some_and(|before| before.uid == identity.uid));
        let (spec, status) = (object.field("spec"), object.field("status"));
        // Fields of any type: see below.
        let fields: BTreeMap<String, Value> = serde_json::from_str(spec.get()).unwrap_or_default();
        let text = |field: &str, default: &str| {
            let text = fields.get(field).and_then(Value::as_str);
            Arc::from(text.unwrap_or(default))
        };
        let (class, placement) = (text("className", DEFAULT_CLASS), text("placement", GATEWAY));
        let before_spec = before.and_then(|before| before.spec.as_ref());
        let (spec, problems) = match typed("spec", spec) {
            Ok(spec) => (Some(shared(spec, before_spec)), Vec::new()),
            Err(problem) => (before_spec.cloned(), vec![problem.to_string()]),
        };
        // Only the controller writes the status, and it corrects mistakes.
        let status = typed("status", status).ok().flatten();
        let before_status = before.and_then(|before| before.status.as_ref());
        let status = status.map(|status| shared(status, before_status));
        let declared = Declared {
            spec,
            problems,
            without_value: Vec::new(),
            origin: ORIGIN.into(),
            folder: PathBuf::new(),
            identity: Some(identity),
            status,
        };
        Self { class, placement, declared }
    }

    fn change_since(&self, before: Option<&Self>) -> ChangeScope {
        match before {
            Some(before) if before == self => ChangeScope::Nothing,
            Some(before) if before.with_status_of(self) == *self => ChangeScope::Statuses,
            _ => ChangeScope::Content,
        }
    }
}

const GATEWAY: &str = "Gateway";

/// The placement in the notation of the manifest.
pub fn written(placement: Placement) -> &'static str {
    match placement {
        Placement::Gateway => GATEWAY,
        Placement::Host => "Host",
        Placement::Sidecar => "Sidecar",
    }
}

fn identity(metadata: &ObjectMeta) -> ObjectIdentity {
    ObjectIdentity {
        created: metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
        uid: metadata.uid.as_deref().unwrap_or_default().into(),
        generation: metadata.generation.unwrap_or_default(),
    }
}

/// Returns the existing allocation if the value has not changed.
fn shared<T: PartialEq>(now: T, before: Option<&Arc<T>>) -> Arc<T> {
    before.filter(|before| ***before == now).cloned().unwrap_or_else(|| Arc::new(now))
}

/// An object of a built-in kind of Kubernetes.
#[derive(Clone, PartialEq)]
pub struct CachedObject<T> {
    /// A hash of the uid.
    uid: u64,
    /// The latest readable version.
    good: Option<Stored<T>>,
    /// The reason why the current version cannot be read.
    pub problem: Option<Box<str>>,
}

/// A stored object.
#[derive(Clone)]
enum Stored<T> {
    Full(SharedObject<T>),
    /// An object that is not of interest.
    Packed(PackedObject),
}

/// Compares allocations, not contents: an object that is read again unchanged keeps its allocation.
impl<T> PartialEq for Stored<T> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Full(one), Self::Full(other)) => Arc::ptr_eq(one, other),
            (Self::Packed(one), Self::Packed(other)) => one == other,
            (Self::Full(_), Self::Packed(_)) | (Self::Packed(_), Self::Full(_)) => false,
        }
    }
}

impl<T: BuiltInKind> CachedObject<T> {
    /// True if there is a readable version.
    pub fn is_readable(&self) -> bool {
        self.good.is_some()
    }

    /// The latest readable version, unless it is packed.
    pub fn good(&self) -> Option<&SharedObject<T>> {
        match self.good.as_ref()? {
            Stored::Full(good) => Some(good),
            Stored::Packed(_) => None,
        }
    }
}

#[cfg(test)]
impl<T> CachedObject<T> {
    /// The bytes of the packed form. `None`: it is not packed.
    pub fn packed_size(&self) -> Option<usize> {
        match self.good.as_ref()? {
            Stored::Full(_) => None,
            Stored::Packed(packed) => Some(packed.size()),
        }
    }
}

impl<T: BuiltInKind> WatchedObject for CachedObject<T> {
    const KIND: &'static str = T::KIND;
    const IS_REFERENCE: bool = T::IS_REFERENCE;

    fn resource() -> ApiResource {
        T::resource()
    }

    fn read(object: ReceivedObject, before: Option<&Self>) -> Self {
        let uid = xxh3_64(object.metadata.uid.as_deref().unwrap_or_default().as_bytes());
        let before = before.filter(|before| before.uid == uid);
        match T::read(object) {
            Ok(now) => {
                let good = shared(now, before.and_then(Self::good).map(|before| &**before));
                Self { uid, good: Some(Stored::Full(good.into())), problem: None }
            }
            Err(problem) => {
                Self { uid, good: before.and_then(|before| before.good.clone()), problem: Some(problem.into()) }
            }
        }
    }

    fn concerns(&self, key: &ObjectKey, interest: &Interest) -> bool {
        match &self.good {
            None => true,
            Some(Stored::Full(object)) => object.concerns(key, interest),
            Some(Stored::Packed(packed)) => packed.concerns(key, interest),
        }
    }

    fn packed(&self, key: &ObjectKey) -> Option<Self> {
        let good = Stored::Packed(self.good()?.pack(key)?);
        Some(Self { good: Some(good), uid: self.uid, problem: self.problem.clone() })
    }

    fn unpacked(&self) -> Option<Self> {
        let Some(Stored::Packed(packed)) = &self.good else { return None };
        let good = Stored::Full(T::unpack(packed)?.into());
        Some(Self { good: Some(good), uid: self.uid, problem: self.problem.clone() })
    }
}

/// A built-in kind of Kubernetes. Reads the needed part of an object, or returns the reason why it cannot.
pub trait BuiltInKind: Clone + PartialEq + Send + Sync + Sized + 'static {
    const KIND: &'static str;
    /// See [`WatchedObject::IS_REFERENCE`].
    const IS_REFERENCE: bool = false;

    fn resource() -> ApiResource;

    fn read(object: ReceivedObject) -> Result<Self, String>;

    fn concerns(&self, _key: &ObjectKey, _interest: &Interest) -> bool {
        true
    }

    /// A smaller form, for kinds with many objects that are not of interest.
    fn pack(&self, _key: &ObjectKey) -> Option<PackedObject> {
        None
    }

    fn unpack(_packed: &PackedObject) -> Option<Self> {
        None
    }
}

impl BuiltInKind for Service {
    const KIND: &'static str = "Service";

    fn resource() -> ApiResource {
        ApiResource::erase::<Self>(&())
    }

    fn read(object: ReceivedObject) -> Result<Self, String> {
        let mut service: Self = whole(object)?;
        if let Some(annotations) = &mut service.metadata.annotations {
            annotations.remove(LAST_APPLIED);
        }
        Ok(service)
    }

    fn concerns(&self, key: &ObjectKey, interest: &Interest) -> bool {
        interest.has(key)
    }

    fn pack(&self, key: &ObjectKey) -> Option<PackedObject> {
        PackedObject::of(self, Some(key.name.clone()))
    }

    fn unpack(packed: &PackedObject) -> Option<Self> {
        packed.read()
    }
}

impl BuiltInKind for EndpointSlice {
    const KIND: &'static str = "EndpointSlice";

    fn resource() -> ApiResource {
        ApiResource::erase::<Self>(&())
    }

    fn read(object: ReceivedObject) -> Result<Self, String> {
        let mut slice: Self = whole(object)?;
        // The other fields take memory, and some of them change without relevant changes.
        let ObjectMeta { name, namespace, labels, owner_references, deletion_timestamp, .. } = slice.metadata;
        let mut labels = labels.unwrap_or_default();
        labels.retain(|key, _| key == SERVICE_NAME || key.starts_with(SLICE_LABELS));
        slice.metadata = ObjectMeta {
            name,
            namespace,
            labels: Some(labels),
            owner_references,
            deletion_timestamp,
            ..ObjectMeta::default()
        };
        shrink(&mut slice);
        Ok(slice)
    }

    fn concerns(&self, key: &ObjectKey, interest: &Interest) -> bool {
        service_of(self).is_some_and(|service| interest.has(&key.sibling(service)))
    }

    fn pack(&self, _key: &ObjectKey) -> Option<PackedObject> {
        PackedObject::of(self, service_of(self).map(Into::into))
    }

    fn unpack(packed: &PackedObject) -> Option<Self> {
        let mut slice: Self = packed.read()?;
        shrink(&mut slice);
        Some(slice)
    }
}

/// Returns excess memory: lists of unknown length are read with up to four times the memory that they need.
fn shrink(slice: &mut EndpointSlice) {
    slice.endpoints.iter_mut().for_each(|endpoint| endpoint.addresses.shrink_to_fit());
    slice.endpoints.shrink_to_fit();
}

impl BuiltInKind for Secret {
    const KIND: &'static str = "Secret";
    const IS_REFERENCE: bool = true;

    fn resource() -> ApiResource {
        ApiResource::erase::<Self>(&())
    }

    /// Messages about a Secret do not quote it.
    fn read(object: ReceivedObject) -> Result<Self, String> {
        let data: Option<BTreeMap<String, Value>> =
            typed("data", object.field("data")).map_err(|problem| format!("{}: cannot be read", problem.path))?;
        let is_needed = |(key, value): &(String, Value)| {
            SECRET_KEYS.contains(&key.as_str()) || CA_KEYS.contains(&key.as_str()) || is_short(value)
        };
        let needed = data.unwrap_or_default().into_iter().filter(is_needed);
        let read = |(key, value): (String, Value)| {
            let problem = format!("data.{key}: is not base64: write the Secret again");
            serde_json::from_value(value).map(|bytes| (key, bytes)).map_err(|_| problem)
        };
        let data = Some(needed.map(read).collect::<Result<_, _>>()?);
        let ObjectMeta { name, namespace, .. } = object.metadata;
        Ok(Self { metadata: ObjectMeta { name, namespace, ..ObjectMeta::default() }, data, ..Self::default() })
    }
}

/// True if the value may be a password, under any key, in base64.
fn is_short(value: &Value) -> bool {
    const LONGEST: usize = 1368;

    value.as_str().is_some_and(|text| text.len() <= LONGEST)
}

/// The keys of a Secret that are read in addition to [`CA_KEYS`].
const SECRET_KEYS: [&str; 2] = ["tls.crt", "tls.key"];
/// The keys of a ConfigMap that are read.
const CA_KEYS: [&str; 2] = ["ca.crt", "ca.crl"];

/// A ConfigMap with certificates of authorities.
impl BuiltInKind for ConfigMap {
    const KIND: &'static str = "ConfigMap";
    const IS_REFERENCE: bool = true;

    fn resource() -> ApiResource {
        ApiResource::erase::<Self>(&())
    }

    fn read(object: ReceivedObject) -> Result<Self, String> {
        let mut map: Self = whole(object)?;
        if let Some(data) = &mut map.data {
            data.retain(|key, _| CA_KEYS.contains(&key.as_str()));
        }
        if let Some(data) = &mut map.binary_data {
            data.retain(|key, _| CA_KEYS.contains(&key.as_str()));
        }
        let ObjectMeta { name, namespace, .. } = map.metadata;
        Ok(Self { metadata: ObjectMeta { name, namespace, ..ObjectMeta::default() }, ..map })
    }
}

/// The ConfigMap of allocated ports.
#[derive(Clone, PartialEq)]
pub struct PortAllocations {
    pub allocations: Arc<Allocations>,
    pub problems: Vec<String>,
}

impl BuiltInKind for PortAllocations {
    const KIND: &'static str = "ConfigMap";

    fn resource() -> ApiResource {
        ApiResource::erase::<ConfigMap>(&())
    }

    fn read(object: ReceivedObject) -> Result<Self, String> {
        let map: ConfigMap = whole(object)?;
        let (allocations, problems) = Allocations::read(&map.data.unwrap_or_default());
        Ok(Self { allocations: Arc::new(allocations), problems })
    }
}

/// An object in its type.
fn whole<T: DeserializeOwned + Resource>(object: ReceivedObject) -> Result<T, String> {
    let read = object.read().or_else(|_| read_again("", object.read()));
    let mut whole: T = read.map_err(|problem| problem.to_string())?;
    *whole.meta_mut() = object.metadata;
    Ok(whole)
}

/// The reason why a value cannot be read.
struct FieldError {
    path: String,
    sentence: String,
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.sentence)
    }
}

/// Reads a value; `field` is its path in the object.
fn typed<T: DeserializeOwned>(field: &str, json: &RawValue) -> Result<T, FieldError> {
    // To track the path copies each name, so only errors are read with it.
    T::deserialize(json).or_else(|_| read_again(field, Value::deserialize(json)))
}

/// Reads a value with the path of an error.
fn read_again<T: DeserializeOwned>(field: &str, value: serde_json::Result<Value>) -> Result<T, FieldError> {
    /// The maximum length of a quoted value.
    const LONGEST: usize = 400;

    let value = value.map_err(|error| FieldError { path: field.to_owned(), sentence: error.to_string() })?;
    serde_path_to_error::deserialize(value).map_err(|error| {
        let below = error.path().to_string();
        let path = match (field, below.as_str()) {
            ("", below) => below.to_owned(),
            (field, ".") => field.to_owned(),
            (field, below) => format!("{field}.{below}"),
        };
        let mut sentence = error.inner().to_string();
        if sentence.len() > LONGEST {
            sentence = sentence.chars().take(LONGEST).chain(['…']).collect();
        }
        FieldError { path, sentence }
    })
}

/// The effect of an event on the objects of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeScope {
    Nothing,
    /// Only statuses of load balancers.
    Statuses,
    Content,
}
