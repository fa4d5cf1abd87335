use std::{fmt, sync::Arc};

use k8s_openapi::api::{
    core::v1::{ConfigMap, Secret, Service},
    discovery::v1::EndpointSlice,
};

use crate::{
    api::{KIND, TcpLoadBalancerSpec},
    model::ObjectKey,
};

/// An object that a file declares.
#[derive(Clone)]
pub struct Document {
    /// The file and line of its start, for messages.
    pub place: Arc<str>,
    /// See [`FileProblem::file`](crate::source::FileProblem::file).
    pub file: Option<Arc<str>>,
    /// The line of its start. Zero: it comes from no file.
    pub line: u64,
    pub key: ObjectKey,
    pub object: Object,
    /// See [`Declared::without_value`](crate::world::Declared::without_value).
    pub without_value: Vec<String>,
    /// True if a tool replaces values in it: see [`Files::templates`](crate::source::Files::templates).
    pub is_template: bool,
}

impl Document {
    /// The kind and key, which identify the object.
    pub fn identity(&self) -> (&'static str, &ObjectKey) {
        (self.object.kind(), &self.key)
    }
}

/// Omits the contents of Secrets.
impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.place, self.object.kind(), self.key)
    }
}

/// An object of a relevant kind.
#[derive(Clone)]
pub enum Object {
    LoadBalancer(ReadResult<TcpLoadBalancerSpec>),
    Secret(ReadResult<Secret>),
    ConfigMap(ReadResult<ConfigMap>),
    Service(ReadResult<Service>),
    EndpointSlice(ReadResult<EndpointSlice>),
}

/// An object, or the reasons why it cannot be read: sentences that name the field.
pub type ReadResult<T> = Result<Arc<T>, Vec<String>>;

impl Object {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::LoadBalancer(_) => KIND,
            Self::Secret(_) => "Secret",
            Self::ConfigMap(_) => "ConfigMap",
            Self::Service(_) => "Service",
            Self::EndpointSlice(_) => "EndpointSlice",
        }
    }

    pub fn is_valid(&self) -> bool {
        self.problems().is_empty()
    }

    /// The reasons why it cannot be read.
    pub fn problems(&self) -> &[String] {
        match self {
            Self::LoadBalancer(Err(problems))
            | Self::Secret(Err(problems))
            | Self::ConfigMap(Err(problems))
            | Self::Service(Err(problems))
            | Self::EndpointSlice(Err(problems)) => problems,
            _ => &[],
        }
    }
}
