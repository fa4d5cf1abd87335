//! A proxy without a process, for tests of the admin pages.

use std::{collections::BTreeMap, io, sync::Arc};

use jiff::Timestamp;
use serde_json::json;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{Instance, report::Reports},
    metrics::{EndpointSeries, ExpositionFormat, Metrics},
    model::{ObjectKey, ReplicaReport, Snapshot},
    proxy::{
        Options, Proxy,
        access_log::{AccessLog, Events, Format, LineEncoder, ProcessIdentity},
        socket::Sharing,
    },
    state::{Configuration, ReadinessState},
    translate::translate,
    world::{Declared, ObjectIdentity, World},
};

/// A proxy for declared load balancers, and its reports.
pub struct Rig {
    pub proxy: Proxy,
    pub state: Arc<ReadinessState>,
    pub reports: Reports,
    pub stop: CancellationToken,
    pub world: World,
    pub last: Arc<Snapshot>,
}

impl Rig {
    pub fn metrics(&self, endpoint_series: EndpointSeries) -> String {
        Metrics::new(self.proxy.monitor(), self.state.clone(), endpoint_series).text(ExpositionFormat::OpenMetrics)
    }

    pub fn start() -> Self {
        let encoder = LineEncoder { format: Format::Text, process: ProcessIdentity::new("test") };
        let (access_log, _) = AccessLog::start(Events::Ends, encoder, io::sink());
        let (sharing, inherited) = (Sharing::Exclusive, BTreeMap::new());
        let options = Options {
            workers: 1,
            descriptors: 100,
            spare_from: i32::MAX,
            preconnected: 0,
            pipes: 0,
            probes: 10,
            cancels: 10,
            sharing,
            inherited,
            access_log,
        };
        let proxy = Proxy::start(options, &Handle::current()).unwrap();
        let (state, stop) = (Arc::new(ReadinessState::default()), CancellationToken::new());
        let reports = Reports::new(proxy.monitor(), state.clone(), stop.clone());
        Self { proxy, state, reports, stop, world: World::default(), last: Arc::default() }
    }

    pub fn declare(&mut self, name: &str, identity: Option<(&str, i64)>, spec: serde_json::Value) {
        let identity = identity.map(|(uid, generation)| ObjectIdentity {
            created: Timestamp::UNIX_EPOCH,
            uid: uid.into(),
            generation,
        });
        let declared = Declared {
            spec: Some(Arc::new(serde_json::from_value(spec).unwrap())),
            problems: Vec::new(),
            without_value: Vec::new(),
            origin: "test".into(),
            folder: "".into(),
            identity,
            status: None,
        };
        self.world.load_balancers.insert(ObjectKey::new("shop", name), declared);
    }

    /// Compiles the configuration without applying it.
    pub fn compile(&mut self) {
        let (snapshot, verdicts) = translate(&self.world, &self.last, Timestamp::now());
        self.last = Arc::new(snapshot);
        let generation = self.last.generation;
        let verdicts = Arc::new(verdicts);
        self.state.set_configuration(Configuration { generation, verdicts, ..Configuration::default() });
    }

    pub async fn apply(&mut self) {
        self.compile();
        self.publish().await;
    }

    pub async fn publish(&self) {
        let mut reports = self.proxy.reports();
        self.proxy.publish(self.last.clone());
        reports.wait_for(|report| report.generation == self.last.generation).await.unwrap();
    }

    pub async fn now(&self) -> ReplicaReport {
        let version = self.reports.next(None).await.unwrap();
        let text = serde_json::to_string(&version.report).unwrap();
        assert_eq!(serde_json::from_str::<ReplicaReport>(&text).unwrap(), version.report);
        version.report
    }

    pub async fn tag(&self) -> Arc<str> {
        self.reports.next(None).await.unwrap().tag.clone()
    }
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A load balancer with two endpoints that refuse connections, and without checks.
pub fn spec(port: u16) -> serde_json::Value {
    json!({
        "listeners": [{"port": port, "address": "127.0.0.1"}],
        "backends": [{"name": "db", "addresses": ["127.0.0.1:1", "127.0.0.1:2"]}],
        "healthCheck": {"active": {"type": "None"}},
    })
}

/// The identity of a replica named `test`.
pub fn instance() -> Instance {
    Instance { name: "test".into(), node: Some("node-1".into()), started: Timestamp::now() }
}
