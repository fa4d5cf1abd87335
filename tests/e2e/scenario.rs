//! A scenario in its own namespace. If it fails, the information for a diagnosis is printed.

use std::{
    collections::HashMap, fmt::Debug, net::SocketAddr, panic::AssertUnwindSafe, pin::pin, sync::Mutex, time::Duration,
};

use futures::{FutureExt, TryStreamExt};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{Namespace, Service},
        discovery::v1::EndpointSlice,
        events::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
    discovery::{Scope, pinned_kind},
    runtime::{WatchStreamExt, wait::await_condition, watcher},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tcplb::api::{TcpLoadBalancer, TcpLoadBalancerStatus};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    backends::load_balancer,
    cluster::{self, WAIT_LIMIT, connect, eventually},
    harness,
    installation::Installation,
    turns::{Isolation, Turn},
};

/// Runs a scenario in a new namespace; skipped without a cluster.
pub async fn scenario(name: &str, isolation: Isolation, story: impl AsyncFnOnce(&Scenario)) {
    if cluster::image().is_none() {
        return harness::skip(harness::NO_CLUSTER);
    }
    let waiting = Instant::now();
    let _turn = Turn::begin(isolation).await;
    let begun = Instant::now();
    let scenario = Scenario::begin(name).await;
    let outcome = AssertUnwindSafe(story(&scenario)).catch_unwind().await;
    if outcome.is_err() {
        println!("{}", scenario.diagnosis().await);
    }
    scenario.end().await;
    println!("{name}: {:.0?}, after {:.0?} of waiting for other scenarios", begun.elapsed(), begun - waiting);
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

pub struct Scenario {
    pub client: Client,
    pub namespace: String,
    /// The installation that serves the load balancers: the shared one, unless the scenario has its own.
    installation: Mutex<Installation>,
    further_namespaces: Mutex<Vec<String>>,
    /// EndpointSlices that a finalizer retains.
    kept: Mutex<Vec<String>>,
    /// Services of the installation that a finalizer retains.
    held_services: Mutex<Vec<String>>,
    /// The kinds that have been applied: each discovery is a request.
    kinds: Mutex<HashMap<GroupVersionKind, (ApiResource, Scope)>>,
}

impl Scenario {
    async fn begin(name: &str) -> Self {
        let installation = Mutex::new(Installation::shared().await);
        let client = connect().await;
        let suffix: String = (0..4).map(|_| fastrand::lowercase()).collect();
        let namespace = format!("e2e-{name}-{suffix}");
        let scenario = Self {
            client,
            namespace: namespace.clone(),
            installation,
            further_namespaces: Mutex::default(),
            kept: Mutex::default(),
            held_services: Mutex::default(),
            kinds: Mutex::default(),
        };
        scenario.create_namespace(&namespace).await;
        scenario
    }

    async fn end(&self) {
        let installation = self.installation();
        self.let_go_of_services().await;
        if installation.release == self.namespace {
            installation.remove(&self.client).await;
        }
        self.let_go().await;
        let namespaces = Api::<Namespace>::all(self.client.clone());
        let further = self.further_namespaces.lock().unwrap().clone();
        for namespace in further.iter().chain([&self.namespace]) {
            let _ = namespaces.delete(namespace, &DeleteParams::default()).await;
        }
    }

    async fn create_namespace(&self, name: &str) {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"e2e": "true"}}});
        self.try_apply_value(namespace).await.unwrap();
    }

    /// Creates another namespace, which is deleted with the scenario.
    pub async fn another_namespace(&self) -> String {
        let name = format!("{}-{}", self.namespace, self.further_namespaces.lock().unwrap().len() + 2);
        self.create_namespace(&name).await;
        self.further_namespaces.lock().unwrap().push(name.clone());
        name
    }

    /// Creates an EndpointSlice that remains when it is deleted. It is released at the end of the scenario, whatever
    /// its outcome: otherwise its namespace could never be deleted.
    pub async fn create_kept(&self, mut slice: EndpointSlice) {
        slice.metadata.finalizers = Some(vec!["example.com/stay".into()]);
        self.kept.lock().unwrap().extend(slice.metadata.name.clone());
        self.api().create(&PostParams::default(), &slice).await.unwrap();
    }

    async fn let_go(&self) {
        let kept = self.kept.lock().unwrap().clone();
        for name in kept {
            let no_finalizer = Patch::Merge(json!({"metadata": {"finalizers": null}}));
            let _ = self.api::<EndpointSlice>().patch(&name, &PatchParams::default(), &no_finalizer).await;
        }
    }

    /// Keeps a Service of the installation from being deleted until it is released, at the latest at the end of the
    /// scenario.
    pub async fn hold_service(&self, name: &str) {
        self.held_services.lock().unwrap().push(name.to_owned());
        let finalizer = Patch::Merge(json!({"metadata": {"finalizers": ["example.com/stay"]}}));
        self.system_services().patch(name, &PatchParams::default(), &finalizer).await.unwrap();
    }

    pub async fn let_go_of_services(&self) {
        let held: Vec<String> = self.held_services.lock().unwrap().drain(..).collect();
        for name in held {
            let no_finalizer = Patch::Merge(json!({"metadata": {"finalizers": null}}));
            let _ = self.system_services().patch(&name, &PatchParams::default(), &no_finalizer).await;
        }
    }

    pub fn system_services(&self) -> Api<Service> {
        Api::namespaced(self.client.clone(), &self.installation().namespace)
    }

    /// Waits for an Event about a load balancer.
    pub async fn event(&self, name: &str, reason: &str) -> Event {
        let is_it = |event: &Event| {
            event.reason.as_deref() == Some(reason)
                && event.regarding.as_ref().is_some_and(|it| it.name.as_deref() == Some(name))
        };
        let mut events =
            pin!(watcher(self.api::<Event>(), watcher::Config::default()).default_backoff().applied_objects());
        let coming = async {
            loop {
                match events.try_next().await {
                    Ok(Some(event)) if is_it(&event) => return event,
                    Ok(Some(_)) | Err(_) => {}
                    Ok(None) => panic!("the watch of Events has ended"),
                }
            }
        };
        timeout_at(Instant::now() + WAIT_LIMIT, coming)
            .await
            .unwrap_or_else(|_| panic!("{name}: no Event {reason} within {WAIT_LIMIT:?}"))
    }

    /// The Warnings about load balancers so far: object, reason and note of each. Events are published one after the
    /// other, so the Warnings about an additional load balancer for this Service come last.
    pub async fn warnings(&self, backend: &str) -> Vec<String> {
        self.apply(&load_balancer("last", 5999, backend)).await;
        self.event("last", "Programmed").await;
        let events = self.api::<Event>().list(&ListParams::default()).await.unwrap().items;
        let warning = |event: Event| {
            let about = event.regarding?;
            let is_ours = about.kind.as_deref() == Some("TcpLoadBalancer") && event.type_.as_deref() == Some("Warning");
            is_ours.then(|| format!("{:?}: {:?}: {:?}", about.name, event.reason, event.note))
        };
        events.into_iter().filter_map(warning).collect()
    }

    pub fn installation(&self) -> Installation {
        self.installation.lock().unwrap().clone()
    }

    /// Installs the chart once more, only for the load balancers of this scenario.
    pub async fn install_own(&self, values: Value) -> Installation {
        let own = Installation {
            release: self.namespace.clone(),
            namespace: format!("{}-system", self.namespace),
            class: self.namespace.clone(),
        };
        // Set before the installation, so that a partial one is removed as well.
        *self.installation.lock().unwrap() = own;
        Installation::own(&self.namespace, values).await
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType: Default>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Applies manifests. The default namespace and class are those of the scenario.
    pub async fn apply(&self, manifests: &str) {
        if let Err(error) = self.try_apply(manifests).await {
            panic!("{error}: {manifests}");
        }
    }

    pub async fn try_apply(&self, manifests: &str) -> Result<(), kube::Error> {
        for manifest in
            serde_saphyr::from_multiple::<Value>(manifests).unwrap_or_else(|error| panic!("{error}: {manifests}"))
        {
            self.try_apply_value(manifest).await?;
        }
        Ok(())
    }

    pub async fn try_apply_value(&self, mut manifest: Value) -> Result<(), kube::Error> {
        if manifest["kind"] == "TcpLoadBalancer" && manifest["spec"]["className"].is_null() {
            manifest["spec"]["className"] = self.installation().class.into();
        }
        let mut object: DynamicObject = serde_json::from_value(manifest).unwrap();
        let types = object.types.clone().expect("a manifest has a kind");
        let (resource, scope) = self.discover(&GroupVersionKind::try_from(&types).unwrap()).await?;
        let api: Api<DynamicObject> = if scope == Scope::Cluster {
            Api::all_with(self.client.clone(), &resource)
        } else {
            let namespace = object.metadata.namespace.get_or_insert(self.namespace.clone());
            Api::namespaced_with(self.client.clone(), namespace, &resource)
        };
        let name = object.metadata.name.clone().expect("a manifest has a name");
        api.patch(&name, &PatchParams::apply("e2e").force(), &Patch::Apply(&object)).await.map(drop)
    }

    async fn discover(&self, kind: &GroupVersionKind) -> Result<(ApiResource, Scope), kube::Error> {
        let known = self.kinds.lock().unwrap().get(kind).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let (resource, capabilities) = pinned_kind(&self.client, kind).await?;
        let found = (resource, capabilities.scope);
        self.kinds.lock().unwrap().insert(kind.clone(), found.clone());
        Ok(found)
    }

    pub async fn load_balancer(&self, name: &str) -> TcpLoadBalancer {
        self.api().get(name).await.unwrap()
    }

    /// Waits until a load balancer's status is about its latest generation, and satisfies a condition.
    pub async fn status(
        &self,
        what: &str,
        name: &str,
        right: impl Fn(&TcpLoadBalancerStatus) -> bool,
    ) -> TcpLoadBalancerStatus {
        self.status_within(WAIT_LIMIT, what, name, right).await
    }

    pub async fn status_within(
        &self,
        limit: Duration,
        what: &str,
        name: &str,
        right: impl Fn(&TcpLoadBalancerStatus) -> bool,
    ) -> TcpLoadBalancerStatus {
        status_in(self.api(), limit, what, name, right).await
    }

    /// Waits until a load balancer is served everywhere. Returns the address of its first port.
    pub async fn programmed(&self, name: &str) -> SocketAddr {
        programmed_in(self.api(), name).await
    }

    /// Waits until every replica serves the connections of a load balancer: all have usable endpoints. Returns the
    /// address of its first port.
    pub async fn ready(&self, name: &str) -> SocketAddr {
        ready_in(self.api(), name).await
    }

    /// The same for a Service of type LoadBalancer: returns the external address. `comes_through` tests a connection,
    /// and is repeated until all nodes know the address, which they learn one by one.
    pub async fn external_address(&self, name: &str, comes_through: impl AsyncFn(SocketAddr) -> bool) -> SocketAddr {
        let port = self.ready(name).await.port();
        let summary = self.load_balancer(name).await.status.unwrap().summary.unwrap();
        let address = SocketAddr::new(summary.address.unwrap().parse().expect("an IP address"), port);
        // Connections reach the nodes in turn. Two rounds are needed, since the turn restarts when other Services
        // change.
        let twice_round = 2 * cluster::nodes(&self.client).await.len();
        let mut in_a_row = 0;
        eventually(&format!("every node serves {address}"), WAIT_LIMIT, async || {
            in_a_row = if comes_through(address).await { in_a_row + 1 } else { 0 };
            in_a_row == twice_round
        })
        .await;
        address
    }

    async fn diagnosis(&self) -> String {
        let mut text = String::new();
        let further = self.further_namespaces.lock().unwrap().clone();
        for namespace in further.iter().chain([&self.namespace]) {
            let kinds = "tcploadbalancers,pods,services,endpointslices";
            text += &format!("--- {namespace}\n");
            text += &cluster::kubectl(&["-n", namespace, "get", kinds, "-o", "wide"]).await;
            text += &cluster::kubectl(&["-n", namespace, "get", "tcploadbalancers", "-o", "yaml"]).await;
            text += &cluster::kubectl(&["-n", namespace, "get", "events", "--sort-by=.lastTimestamp"]).await;
        }
        text + &self.installation().diagnosis().await
    }
}

pub async fn ready_in(api: Api<TcpLoadBalancer>, name: &str) -> SocketAddr {
    status_in(api.clone(), WAIT_LIMIT, "it is ready", name, |status| is(status, "Ready", "True")).await;
    programmed_in(api, name).await
}

async fn programmed_in(api: Api<TcpLoadBalancer>, name: &str) -> SocketAddr {
    let object: TcpLoadBalancer = api.get(name).await.unwrap();
    let port = object.spec.listeners[0].port;
    let status = status_in(api, WAIT_LIMIT, "it is programmed", name, |status| is(status, "Programmed", "True")).await;
    let ip = status.addresses.iter().find_map(|address| address.value.parse().ok()).expect("it has an IP address");
    SocketAddr::new(ip, port)
}

pub async fn status_in(
    api: Api<TcpLoadBalancer>,
    limit: Duration,
    what: &str,
    name: &str,
    right: impl Fn(&TcpLoadBalancerStatus) -> bool,
) -> TcpLoadBalancerStatus {
    let current = |object: Option<&TcpLoadBalancer>| {
        object.is_some_and(|object| {
            object
                .status
                .as_ref()
                .is_some_and(|status| status.observed_generation == object.metadata.generation && right(status))
        })
    };
    until(api, what, name, limit, current).await.unwrap().status.unwrap()
}

/// Waits until an object, or its absence, satisfies a condition. The API server may be unavailable for a while.
pub async fn until<K>(
    api: Api<K>,
    what: &str,
    name: &str,
    limit: Duration,
    right: impl Fn(Option<&K>) -> bool,
) -> Option<K>
where
    K: Resource<DynamicType: Default> + Clone + Debug + Send + DeserializeOwned + 'static,
{
    let deadline = Instant::now() + limit;
    loop {
        match timeout_at(deadline, await_condition(api.clone(), name, &right)).await {
            Ok(Ok(object)) => return object,
            Ok(Err(_)) => sleep(Duration::from_millis(200)).await,
            Err(_) => panic!("{name}: {what}: not within {limit:?}"),
        }
    }
}

pub fn condition<'a>(status: &'a TcpLoadBalancerStatus, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind)
}

/// True if a condition has this status: `True`, `False` or `Unknown`.
pub fn is(status: &TcpLoadBalancerStatus, kind: &str, value: &str) -> bool {
    condition(status, kind).is_some_and(|condition| condition.status == value)
}

/// True if a condition is `False` with this reason.
pub fn is_not(status: &TcpLoadBalancerStatus, kind: &str, reason: &str) -> bool {
    condition(status, kind).is_some_and(|condition| condition.status == "False" && condition.reason == reason)
}

/// The message of a condition.
pub fn sentence<'a>(status: &'a TcpLoadBalancerStatus, kind: &str) -> &'a str {
    condition(status, kind).map_or("", |condition| &condition.message)
}
