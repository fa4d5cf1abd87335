//! Compiles manifests to snapshots and publishes them on every change.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::{sync::watch, time::sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use super::source::Source;
use crate::{
    controller::Observed,
    model::{EndpointConfig, ListenerKey, ObjectKey, Report, Snapshot, UpstreamConfig, UpstreamKey},
    proxy::Proxy,
    shared::{changes, revised},
    source::{Changed, Names, Settle, resolve},
    state::{Configuration, ReadinessState},
    translate::{Memo, Problem, Severity, Verdicts, here, translate, translate_few, translate_with},
    upstream::in_place,
    world::{Declared, ProcessLocality, World},
};

/// The maximum time for which new DNS names delay the configuration that contains them.
const FIRST_ANSWERS: Duration = Duration::from_secs(2);
/// The maximum time between compilations without any change.
const RESYNC_PERIOD: Duration = Duration::from_secs(3600);
/// The minimum time between a compilation and one that only removes expired endpoints: while changes follow each other,
/// their compilations do this too.
const EXPIRATION_PAUSE: Duration = Duration::from_millis(100);
/// The minimum time between comparisons with a full translation.
const COMPARISON_PERIOD: Duration = Duration::from_secs(3600);
/// The minimum time between searches for the zone of this process.
const ZONE_SEARCH_PERIOD: Duration = Duration::from_secs(60);
/// The maximum number of joined or left endpoints in a log line.
const MOST_NAMED: usize = 10;
/// The maximum number of logged problems of an object, because its author determines their number.
const MOST_TOLD: usize = 50;

/// Compiles the manifests and DNS answers to snapshots, and reports problems.
pub struct Compiler {
    source: Source,
    locality: ProcessLocality,
    names: Names,
    /// The load balancers and the mode whose names are looked up.
    looked_up: World,
    world: Arc<World>,
    last: Arc<Snapshot>,
    /// See [`Snapshot::next_expiration`].
    next_expiration: Option<Timestamp>,
    /// Results of the last translation.
    memo: Memo,
    last_translation: Instant,
    /// The time of the last comparison with a full translation.
    last_comparison: Instant,
    last_zone_search: Option<Instant>,
    published: Configuration,
    state: Arc<ReadinessState>,
    observed: watch::Sender<Observed>,
}

impl Compiler {
    pub fn new(source: Source, locality: ProcessLocality, state: Arc<ReadinessState>) -> Self {
        Self {
            source,
            locality,
            names: Names::start(resolve, state.instruments().clone()),
            looked_up: World::default(),
            world: Arc::default(),
            last: Arc::default(),
            next_expiration: None,
            memo: Memo::default(),
            last_translation: Instant::now(),
            last_comparison: Instant::now(),
            last_zone_search: None,
            published: Configuration::default(),
            state,
            observed: watch::Sender::default(),
        }
    }

    /// The world and the verdicts after each compilation.
    pub fn observed(&self) -> watch::Receiver<Observed> {
        self.observed.subscribe()
    }

    /// Reads everything again and compiles it.
    pub async fn compile(&mut self) -> Arc<Snapshot> {
        if let Some(world) = self.source.read().await {
            self.world = Arc::new(World { locality: Some(self.locality.clone()), ..world });
        }
        self.want_names();
        // In a cluster, the names of one tenant must not delay the others.
        if self.world.mode.tenancy().is_none() {
            self.names.first_answers(FIRST_ANSWERS).await;
        }
        self.translate()
    }

    /// Looks up the names in manifests, after a change of the manifests.
    fn want_names(&mut self) {
        let World { load_balancers, mode, .. } = &*self.world;
        let before = &self.looked_up;
        let names = |declared: Option<&Declared>| declared.is_some_and(Declared::has_names);
        let have_names =
            changes(&before.load_balancers, load_balancers).any(|(_, before, now)| names(before) || names(now));
        if have_names || *mode != before.mode {
            self.names.want(self.world.names_wanted());
        }
        self.looked_up = World { load_balancers: load_balancers.clone(), mode: mode.clone(), ..World::default() };
    }

    /// Reads the statuses of load balancers again. Snapshots do not depend on them, so nothing is compiled.
    fn read_statuses(&mut self) {
        let changed = self.source.statuses();
        if changed.is_empty() {
            return;
        }
        let world = Arc::make_mut(&mut self.world);
        for (object, status) in changed {
            if let Some(declared) = world.load_balancers.get_mut(&object) {
                declared.status = status;
            }
        }
        self.observed.send_replace(Observed { world: self.world.clone(), verdicts: self.published.verdicts.clone() });
    }

    /// Compiles the current world with the current DNS answers.
    fn translate(&mut self) -> Arc<Snapshot> {
        let names = revised(&self.world.names, self.names.known());
        if names != self.world.names {
            Arc::make_mut(&mut self.world).names = names;
        }
        self.last_translation = Instant::now();
        let (snapshot, verdicts) = self.translate_at(Timestamp::now());
        self.state.instruments().translate_duration.observe(self.last_translation.elapsed().as_secs_f64());
        let configuration = Configuration {
            generation: snapshot.generation,
            verdicts: Arc::new(verdicts),
            problems: self.world.problems.clone(),
            zone: self.zone(),
        };
        log_changes(&self.published, &configuration);
        if snapshot.generation != self.last.generation {
            log_difference(&self.last, &snapshot);
        }
        self.next_expiration = snapshot.next_expiration();
        self.last = Arc::new(snapshot);
        self.observed.send_replace(Observed { world: self.world.clone(), verdicts: configuration.verdicts.clone() });
        self.published = configuration.clone();
        self.state.set_configuration(configuration);
        self.last.clone()
    }

    /// The zone of this process. In a cluster it is searched in all EndpointSlices until it is found, but not after each
    /// change.
    fn zone(&mut self) -> Option<Arc<str>> {
        let is_due = self.last_zone_search.is_none_or(|last| last.elapsed() >= ZONE_SEARCH_PERIOD);
        if self.published.zone.is_some() || !is_due {
            return self.published.zone.clone();
        }
        self.last_zone_search = Some(Instant::now());
        here(&self.world).zone
    }

    /// Translates the current world, reusing the results of unchanged load balancers. At most once per hour, and always
    /// in debug builds, the result is compared with a full translation, which is used if they differ.
    fn translate_at(&mut self, now: Timestamp) -> (Snapshot, Verdicts) {
        let reused = translate_few(&mut self.memo, &self.world, &self.last, now);
        let reused =
            reused.unwrap_or_else(|| in_place(|| translate_with(&mut self.memo, &self.world, &self.last, now)));
        if !cfg!(debug_assertions) && self.last_comparison.elapsed() < COMPARISON_PERIOD {
            return reused;
        }
        self.last_comparison = Instant::now();
        let full = in_place(|| translate(&self.world, &self.last, now));
        if is_same(&reused, &full) {
            return reused;
        }
        debug_assert!(false, "{reused:?} instead of {full:?}");
        error!("reused results differ from a full translation, which is used instead: report this as a bug");
        self.state.instruments().mismatches.inc();
        self.memo = Memo::default();
        full
    }
}

/// True if both have the same listeners, upstreams, retentions and problems.
fn is_same((snapshot, verdicts): &(Snapshot, Verdicts), (other, others): &(Snapshot, Verdicts)) -> bool {
    let retention = |snapshot: &Snapshot| (snapshot.retained_until.clone(), snapshot.report_due);
    snapshot.configures_the_same(other) && retention(snapshot) == retention(other) && verdicts == others
}

/// Publishes a snapshot after each change of the source or of DNS answers. After a panic, it restarts with the known
/// state and the process continues.
pub fn follow(compiler: Compiler, proxy: Arc<Proxy>) -> AbortOnDropHandle<()> {
    let compiler = Arc::new(tokio::sync::Mutex::new(compiler));
    let following = tokio::spawn(async move {
        loop {
            let (compiler, proxy) = (compiler.clone(), proxy.clone());
            let running = tokio::spawn(async move { run(&mut *compiler.lock().await, &proxy).await });
            let Err(fault) = AbortOnDropHandle::new(running).await else { return };
            error!(%fault, "watching the manifests failed: restarting");
            sleep(Duration::from_secs(1)).await;
        }
    });
    AbortOnDropHandle::new(following)
}

async fn run(compiler: &mut Compiler, proxy: &Proxy) {
    let (mut settle, mut statuses) = (Settle::default(), Settle::default());
    // A panic may have lost a change.
    settle.note();
    loop {
        tokio::select! {
            changed = compiler.source.changed() => match changed {
                Changed::World => settle.note(),
                Changed::Statuses => statuses.note(),
            },
            () = compiler.names.changed() => publish(proxy, compiler.translate()),
            () = settle.due() => {
                let started = Instant::now();
                publish(proxy, compiler.compile().await);
                settle.record_duration(started.elapsed());
            }
            () = statuses.due() => compiler.read_statuses(),
            () = sleep(pause(compiler.next_expiration, Timestamp::now(), compiler.last_translation.elapsed())) => {
                publish(proxy, compiler.translate());
            }
        }
    }
}

/// The time until the next compilation if nothing else changes. `expiration` is the time at which a retained endpoint
/// expires or must be reported, and `elapsed` the time since the last compilation.
fn pause(expiration: Option<Timestamp>, now: Timestamp, elapsed: Duration) -> Duration {
    let next = expiration.map(|then| then.duration_since(now));
    // A time in the past needs no pause.
    let next = next.map_or(RESYNC_PERIOD, |next| Duration::try_from(next).unwrap_or_default().min(RESYNC_PERIOD));
    next.max(EXPIRATION_PAUSE.saturating_sub(elapsed))
}

/// Publishes a snapshot, unless it equals the published one.
fn publish(proxy: &Proxy, snapshot: Arc<Snapshot>) {
    if snapshot.generation != proxy.published() {
        proxy.publish(snapshot);
    }
}

/// Logs the listeners that cannot be opened, each once, with the origin of their declaration.
pub fn log_unbound(mut reports: watch::Receiver<Arc<Report>>, state: Arc<ReadinessState>) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let (mut reported, mut last) = (BTreeMap::new(), Arc::<Report>::default());
        loop {
            let report = reports.borrow_and_update().clone();
            if !Arc::ptr_eq(&report.listeners, &last.listeners) {
                let now: BTreeMap<_, _> = report.unbound().map(|(key, why)| (key.clone(), why.clone())).collect();
                for (listener, why) in now.iter().filter(|(listener, why)| reported.get(*listener) != Some(*why)) {
                    let origin = state.configuration().origin_of(&listener.object);
                    error!(load_balancer = %listener.object, %origin, "{}", unbound(listener, why));
                }
                (reported, last) = (now, report);
            }
            if reports.changed().await.is_err() {
                return;
            }
        }
    }))
}

/// The reason why a listener is not bound, with its field. The list is keyed by port.
pub fn unbound(listener: &ListenerKey, why: &str) -> String {
    format!("spec.listeners[port={}]: {why}", listener.port)
}

/// Logs the changes of a new configuration for each load balancer.
fn log_difference(before: &Snapshot, now: &Snapshot) {
    let of_listeners = changes(&before.listeners, &now.listeners).map(|(key, ..)| &key.object);
    let of_upstreams = changes(&before.upstreams, &now.upstreams).map(|(key, ..)| &key.object);
    let objects: BTreeSet<&ObjectKey> = of_listeners.chain(of_upstreams).collect();
    for object in objects {
        let (endpoints_before, endpoints) = (addresses_of(before, object), addresses_of(now, object));
        info!(
            load_balancer = %object,
            generation = now.generation,
            listeners = now.listeners_of(object).count(),
            endpoints = endpoints.len(),
            joined = ?endpoints.difference(&endpoints_before).take(MOST_NAMED).collect::<Vec<_>>(),
            left = ?endpoints_before.difference(&endpoints).take(MOST_NAMED).collect::<Vec<_>>(),
            "configured"
        );
    }
}

fn upstream_of<'a>(snapshot: &'a Snapshot, object: &ObjectKey) -> Option<&'a Arc<UpstreamConfig>> {
    snapshot.upstreams.get(&UpstreamKey { object: object.clone() })
}

fn addresses_of(snapshot: &Snapshot, object: &ObjectKey) -> BTreeSet<SocketAddr> {
    upstream_of(snapshot, object).iter().flat_map(|upstream| &upstream.endpoints).map(EndpointConfig::address).collect()
}

/// Logs the first [`MOST_TOLD`] items, and returns the number of the others if there are any.
fn log_first<T>(mut items: impl Iterator<Item = T>, log: impl Fn(T)) -> Option<usize> {
    items.by_ref().take(MOST_TOLD).for_each(log);
    Some(items.count()).filter(|more| *more > 0)
}

/// Logs each problem once when it appears and once when it is resolved.
fn log_changes(before: &Configuration, now: &Configuration) {
    let [old, new]: [HashSet<&String>; 2] = [before, now].map(|configuration| configuration.problems.iter().collect());
    let came = now.problems.iter().filter(|problem| !old.contains(problem));
    let more = log_first(came, |problem| error!("{problem}"));
    if let Some(more) = more {
        error!("and {more} more problems with files: see the admin page");
    }
    let went = before.problems.iter().filter(|problem| !new.contains(problem));
    let more = log_first(went, |problem| info!("resolved: {problem}"));
    if let Some(more) = more {
        info!("resolved: {more} more problems with files");
    }
    for (object, before, now) in changes(&before.verdicts, &now.verdicts) {
        let had = before.map_or(&[][..], |before| &before.problems);
        let Some(verdict) = now.filter(|now| had != now.problems) else { continue };
        let had: BTreeSet<&Problem> = had.iter().collect();
        let new = verdict.problems.iter().filter(|problem| !had.contains(problem));
        let more = log_first(new, |problem| match problem.severity {
            Severity::Refused => error!(load_balancer = %object, origin = %verdict.origin, "{problem}"),
            Severity::Warning => warn!(load_balancer = %object, origin = %verdict.origin, "{problem}"),
        });
        if let Some(more) = more {
            let all = "see the admin page";
            warn!(load_balancer = %object, origin = %verdict.origin, "and {more} more for the same object: {all}");
        }
        let all_well = verdict.problems.is_empty();
        if all_well && !had.is_empty() {
            info!(load_balancer = %object, "all problems are resolved");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{model::EndpointKey, source::Files};

    #[test]
    fn manifests_are_translated_again_when_an_endpoint_expires() {
        let now = Timestamp::UNIX_EPOCH;
        let in_seconds = |seconds| {
            let endpoint =
                EndpointKey { backend: "db".into(), address: "10.0.0.1:1".parse().unwrap(), uid: Some("p".into()) };
            let later = EndpointKey { address: "10.0.0.2:1".parse().unwrap(), ..endpoint.clone() };
            let to_go = |seconds| now + Duration::from_secs(seconds);
            let to_go = [(endpoint, to_go(seconds)), (later, to_go(9999))];
            let upstream = UpstreamKey { object: ObjectKey::new("shop", "a") };
            let retained_until = [(upstream, Arc::new(BTreeMap::from(to_go)))].into_iter().collect();
            Snapshot { retained_until, ..Snapshot::default() }
        };
        let pause = |snapshot: &Snapshot, now| pause(snapshot.next_expiration(), now, EXPIRATION_PAUSE);
        assert_eq!(pause(&Snapshot::default(), now), RESYNC_PERIOD);
        assert_eq!(pause(&in_seconds(9998), now), RESYNC_PERIOD);
        assert_eq!(pause(&in_seconds(7), now), Duration::from_secs(7));
        assert_eq!(pause(&in_seconds(7), now + Duration::from_secs(8)), Duration::ZERO);
        let expired = |elapsed| super::pause(Some(now), now + Duration::from_secs(1), elapsed);
        assert_eq!(expired(Duration::from_millis(30)), Duration::from_millis(70), "changes follow each other");
    }

    const LOAD_BALANCER: &str = "{kind: TcpLoadBalancer, apiVersion: tcplb.io/v1alpha1, metadata: {name: a}, spec: \
        {listeners: [{port: 5432}], backends: [{service: {name: db, port: 1}}]}}";
    const SERVICE: &str = "\n---\n{kind: Service, apiVersion: v1, metadata: {name: db}, spec: {ports: [{port: 1}]}}\n---\n\
        {kind: EndpointSlice, apiVersion: discovery.k8s.io/v1, metadata: {name: db, labels: {kubernetes.io/service-name: \
        db}}, addressType: IPv4, ports: [{port: 7}], endpoints: [{addresses: [10.0.0.1], targetRef: {uid: p}}]}";

    #[test]
    fn comparing_problems_takes_linear_time() {
        let of = |range: std::ops::Range<usize>| Configuration {
            problems: range.map(|number| format!("{number}: is not YAML")).collect(),
            ..Configuration::default()
        };
        crate::cost::assert_grows_no_faster_than_n_log_n(
            1000,
            |count| (of(0..count), of(count / 2..count * 2)),
            |(before, now)| log_changes(before, now),
        );
    }

    #[tokio::test]
    async fn expirations_of_endpoints_are_kept_without_other_changes() {
        let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
        let world = |text: &str| {
            fs::write(&file, text).unwrap();
            let world = Files::new(vec![file.path().to_owned()]).read();
            assert_eq!(world.problems, Vec::<String>::new());
            Arc::new(world)
        };
        let source = Source::files(Files::new(vec![])).unwrap();
        let mut compiler = Compiler::new(source, ProcessLocality::default(), Arc::default());
        compiler.world = world(&format!("{LOAD_BALANCER}{SERVICE}"));
        assert_eq!(compiler.translate().next_expiration(), None);
        compiler.world = world(LOAD_BALANCER);
        let kept = compiler.translate();
        assert!(kept.next_expiration().is_some_and(|then| then > Timestamp::now()));
        let again = compiler.translate();
        assert_eq!((again.generation, again.next_expiration()), (1, kept.next_expiration()));
    }
}
