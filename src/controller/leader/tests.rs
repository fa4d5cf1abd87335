//! The writes of a leader, with a simulated API server. Every replica binds its allocated ports at once.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Mutex, MutexGuard},
};

use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Bytes};
use k8s_openapi::api::core::v1::Service;
use kube::client::Body;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::{
    controller::Replica,
    model::{BackendHealth, ListenerOutcome, ObjectKey, ReplicaReport, Served},
    translate::{Verdict, Verdicts},
    world::{Allocations, ObjectIdentity, ProcessMode},
};

/// The objects of a simulated API server, and what the leader observes.
struct WrittenObjects {
    ports: Option<Value>,
    world: World,
    verdicts: Verdicts,
    report: ReplicaReport,
    status_writes: BTreeMap<String, u32>,
    events: BTreeMap<String, u32>,
    observed: watch::Sender<Observed>,
    replicas: watch::Sender<Arc<Replicas>>,
}

fn name(index: usize) -> String {
    format!("l{index:04}")
}

impl WrittenObjects {
    /// Load balancers that no leader has seen yet.
    fn new(load_balancers: usize) -> Self {
        let mut server = Self {
            ports: None,
            world: World { mode: ProcessMode::Gateway(Arc::default(), Arc::default()), ..World::default() },
            verdicts: Verdicts::default(),
            report: ReplicaReport::default(),
            status_writes: BTreeMap::new(),
            events: BTreeMap::new(),
            observed: watch::Sender::default(),
            replicas: watch::Sender::default(),
        };
        server.world.services.insert(Settings::of_a_gateway().replicas, Service::default().into());
        let spec =
            json!({"listeners": [{"port": 5432}], "backends": [{"name": "db", "service": {"name": "db", "port": 1}}]});
        let spec = Arc::new(serde_json::from_value(spec).unwrap());
        for name in (0..load_balancers).map(name) {
            let (created, uid) = (Timestamp::UNIX_EPOCH, Arc::from(&*name));
            let identity = Some(ObjectIdentity { created, uid, generation: 1 });
            let declared = Declared {
                spec: Some(Arc::clone(&spec)),
                problems: Vec::new(),
                without_value: Vec::new(),
                origin: "cluster".into(),
                folder: "".into(),
                identity: identity.clone(),
                status: None,
            };
            server.world.load_balancers.insert(ObjectKey::new("shop", &name), declared);
            server.verdicts.insert(ObjectKey::new("shop", &name), Verdict { identity, ..Verdict::default() });
            server.serve(&name, 3, None);
        }
        server
    }

    /// Changes the report about a load balancer.
    fn serve(&mut self, uid: &str, usable: u32, port: Option<u16>) {
        let before = self.report.load_balancers.get(uid).map(|served| served.listeners.clone());
        let bound = port.map(|port| (5432, ListenerOutcome::Bound(port)));
        let health = BackendHealth { endpoints: 3, usable, ..BackendHealth::default() };
        let served = Served {
            generation: 1,
            whole: Some(1),
            listeners: bound.map_or_else(|| before.unwrap_or_default(), |bound| [bound].into()),
            backends: [("db".to_owned(), health)].into(),
            ..Served::default()
        };
        self.report.load_balancers.insert(uid.into(), served.into());
    }

    fn publish(&self) {
        let replica = Replica { address: "127.0.0.1:1".parse().unwrap(), report: Some(Arc::new(self.report.clone())) };
        self.replicas.send_if_modified(|replicas| {
            let now = Replicas::from([("tcplb-0".into(), replica)]);
            let is_changed = **replicas != now;
            *replicas = Arc::new(now);
            is_changed
        });
        let (world, verdicts) = (Arc::new(self.world.clone()), Arc::new(self.verdicts.clone()));
        self.observed.send_replace(Observed { world, verdicts });
    }

    fn answer(&mut self, method: &Method, path: &str, body: Value) -> (StatusCode, Value) {
        let resource: Vec<&str> = path.split('/').collect();
        let answer = match (method, &*resource) {
            (&Method::GET, [.., "configmaps", _]) => self.ports.clone(),
            (_, [.., "configmaps"] | [.., "configmaps", _]) => Some(self.set_ports(body)),
            (_, [.., "services", name]) => {
                let service: Service = serde_json::from_value(body.clone()).unwrap();
                self.world.services.insert(ObjectKey::new("lb", name), service.into());
                Some(body)
            }
            (_, [.., name, "status"]) => {
                *self.status_writes.entry((*name).to_owned()).or_default() += 1;
                let declared = self.world.load_balancers.get_mut(&ObjectKey::new("shop", name)).unwrap();
                declared.status = Some(Arc::new(serde_json::from_value(body["status"].clone()).unwrap()));
                Some(body)
            }
            (&Method::POST, [.., "events"]) => {
                let about = body["regarding"]["name"].as_str().unwrap().to_owned();
                *self.events.entry(about).or_default() += 1;
                Some(body)
            }
            _ => None,
        };
        self.publish();
        match answer {
            Some(answer) => (StatusCode::OK, answer),
            None => {
                (StatusCode::NOT_FOUND, json!({"kind": "Status", "code": 404, "message": "", "reason": "NotFound"}))
            }
        }
    }

    fn set_ports(&mut self, map: Value) -> Value {
        self.ports = Some(map.clone());
        let data = serde_json::from_value(map["data"].clone()).unwrap();
        let (allocations, _) = Allocations::read(&data);
        for (port, allocation) in &allocations.0 {
            self.serve(&allocation.uid, 3, Some(*port));
        }
        self.world.mode = ProcessMode::Gateway(Arc::new(allocations), Arc::default());
        map
    }
}

fn lock(server: &Mutex<WrittenObjects>) -> MutexGuard<'_, WrittenObjects> {
    server.lock().unwrap()
}

fn client(server: Arc<Mutex<WrittenObjects>>) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = server.clone();
        async move {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            let body = request.into_body().collect_bytes().await.unwrap();
            let (status, answer) =
                lock(&server).answer(&method, &path, serde_json::from_slice(&body).unwrap_or_default());
            let answer = Full::new(Bytes::from(answer.to_string()));
            Ok::<_, Infallible>(Response::builder().status(status).body(answer).unwrap())
        }
    });
    Client::new(service, "lb")
}

/// Waits until the status of a load balancer has a condition with this status.
async fn until_condition(observed: &mut watch::Receiver<Observed>, name: &str, type_: &str, expected: &str) {
    let object = ObjectKey::new("shop", name);
    let is_expected = |observed: &Observed| {
        let status = observed.world.load_balancers[&object].status.as_ref();
        let mut conditions = status.into_iter().flat_map(|status| &status.conditions);
        conditions.any(|condition| condition.type_ == type_ && condition.status == expected)
    };
    observed.wait_for(is_expected).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_start_takes_two_writes_of_each_status_and_a_change_one() {
    const LOAD_BALANCERS: usize = 40;
    let server = WrittenObjects::new(LOAD_BALANCERS);
    server.publish();
    let (mut observed, observing, replicas) =
        (server.observed.subscribe(), server.observed.subscribe(), server.replicas.subscribe());
    let server = Arc::new(Mutex::new(server));
    let leader = Leader::new(client(server.clone()), Arc::new(Settings::of_a_gateway()), observing, replicas);
    let _leading = AbortOnDropHandle::new(tokio::spawn(leader.lead()));
    for name in (0..LOAD_BALANCERS).map(name) {
        until_condition(&mut observed, &name, "Ready", "True").await;
    }
    {
        let server = lock(&server);
        assert!(server.status_writes.values().all(|writes| *writes <= 2), "{:?}", server.status_writes);
        assert!(server.events.values().all(|events| *events <= 2), "{:?}", server.events);
    }
    let before = lock(&server).status_writes.clone();
    lock(&server).serve(&name(7), 0, None);
    lock(&server).publish();
    until_condition(&mut observed, &name(7), "BackendsHealthy", "False").await;
    let mut expected = before;
    *expected.get_mut(&name(7)).unwrap() += 1;
    assert_eq!(lock(&server).status_writes, expected);
}
