//! The configuration of the proxy and its report: plain, validated data.
//!
//! A [`Snapshot`] is the whole configuration at one moment. It is immutable, comparable and complete. The proxy applies
//! the latest snapshot and answers with a [`Report`]. This module does not depend on Kubernetes, files or sockets.

mod any_certificate;
mod certificate;
mod certificate_cache;
mod check;
mod connections;
mod drain;
pub mod ip_kinds;
mod key;
mod listener;
mod loops;
mod maglev;
mod network;
mod picture;
mod replica;
mod replica_traffic;
mod report;
mod self_signed;
pub mod server_name;
mod snapshot;
mod source_prefix;
mod start_tls;
mod trust;
mod upstream;

pub use any_certificate::AnyCertificate;
pub use certificate::{Certificate, CertificateNames, Fingerprint};
pub use certificate_cache::{AuthorityReview, CertificateCache, SharedVerifiers, VerifiedPeer, VerifierKey};
pub use check::{
    ActiveCheck, Exchange, GrpcHealth, Hidden, HttpRequest, MySqlSession, Password, PostgresSession, Probe,
    RedisSession, Role, Transport,
};
pub use connections::{ConnectionList, ConnectionOrder, ConnectionView};
pub use drain::{Close, DRAIN_TOLERANCE, DrainCause, EndpointDrain, ListenerDrain, Rebalance};
pub use key::{EndpointKey, ListenerKey, ObjectKey, UpstreamKey};
pub use listener::{
    Access, AccessLogMode, AccessLogSettings, Keepalive, Limits, Listener, ProxyMode, ProxyProtocol, Rate, Route,
    Timeouts, Tls, TlsMode, TlsVersion, covering, covers, covers_locally, overlap,
};
pub use loops::{Loops, loops};
pub use maglev::{MAX_MAGLEV_SLOTS, maglev_slots};
pub use network::Networks;
pub use picture::{
    DrainView, EndpointView, FormerEndpointView, FormerState, HostLimits, ListenerView, LoadBalancerView, Picture,
    ProbeCounts, ProblemView, ProcessView, StatePicture,
};
pub use replica::{
    BackendHealth, EndpointFailure, FailedOver, ListenerOutcome, REPORT_CHANGES, ReplicaReport, ReportChanges, Served,
};
pub use replica_traffic::{LoadBalancerTraffic, REPORT_TRAFFIC, ReplicaTraffic, TrafficByReplica};
pub use report::{BindState, Report};
pub use self_signed::{WithSelfSigned, is_self_signed_authority};
pub use snapshot::{RetainedUntil, Snapshot};
pub use source_prefix::SourcePrefix;
pub use start_tls::StartTls;
pub use trust::{Authority, BackendTls, BackendTlsTerms, ClientValidation, ClientValidationMode, TlsClientConfig};
pub use upstream::{
    Algorithm, Backend, Balancing, Connect, EndpointConfig, Failback, Failover, PassiveCheck, Preconnect, Priority,
    Proximity, ProxyVersion, StableId, Unready, UpstreamConfig, Weight,
};
