//! Translations with a memo equal translations without one.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    ops::Range,
    sync::{Arc, LazyLock},
};

use jiff::SignedDuration;
use proptest::prelude::*;

use super::{
    certificates::{issue, issue_with, store},
    *,
};
use crate::{
    api::{RefKind, ServiceType},
    world::{Allocation, Allocations, Declared, Lookup, ObjectRef, ProcessLocality, ProcessMode, Tenancy},
};

/// A change of a world, or of the circumstances of the next translation. Numbers select load balancers and variants.
#[derive(Clone, Debug)]
enum Edit {
    Declare(usize, usize),
    Remove(usize),
    Recreate(usize),
    Service(usize, usize),
    Slice(usize, usize),
    Secret(usize),
    Name(usize),
    Allocation(usize, usize),
    Tenancy(usize),
    Locality(usize),
    Unread(usize, bool),
    Unreadable(usize, bool),
    BeyondQuota(bool),
    Wait(usize),
    ForgetResults,
    /// The next translation starts from the previous snapshot but one, or from none.
    GoBack(bool),
}

const LOAD_BALANCERS: usize = 5;

fn any_edit() -> impl Strategy<Value = Edit> {
    let index = || 0..LOAD_BALANCERS;
    prop_oneof![
        4 => (index(), 0..SPECS.len()).prop_map(|(index, variant)| Edit::Declare(index, variant)),
        1 => index().prop_map(Edit::Remove),
        1 => index().prop_map(Edit::Recreate),
        2 => (index(), 0..SERVICES.len()).prop_map(|(index, variant)| Edit::Service(index, variant)),
        6 => (index(), 0..SLICES.len()).prop_map(|(index, variant)| Edit::Slice(index, variant)),
        2 => (0..5usize).prop_map(Edit::Secret),
        2 => (0..4usize).prop_map(Edit::Name),
        2 => (index(), 0..4usize).prop_map(|(index, variant)| Edit::Allocation(index, variant)),
        1 => (0..4usize).prop_map(Edit::Tenancy),
        1 => (0..3usize).prop_map(Edit::Locality),
        1 => (index(), any::<bool>()).prop_map(|(index, is)| Edit::Unread(index, is)),
        1 => (index(), any::<bool>()).prop_map(|(index, is)| Edit::Unreadable(index, is)),
        1 => any::<bool>().prop_map(Edit::BeyondQuota),
        4 => (0..WAITS.len()).prop_map(Edit::Wait),
        1 => Just(Edit::ForgetResults),
        1 => any::<bool>().prop_map(Edit::GoBack),
    ]
}

const SPECS: [&str; 14] = [
    "listeners: [{port: 5432}], backends: [{service: {name: SERVICE, port: 1}}]",
    "listeners: [{port: 5432}], backends: [{service: {name: SERVICE, port: 1}}], loadBalancing: {algorithm: Maglev}",
    "listeners: [{port: 5432}], backends: [{service: {name: SERVICE, port: 1}}], loadBalancing: {locality: {prefer: \
     SameZone}}",
    "listeners: [{name: a, port: 5432}, {name: b, port: 5433}], backends: [{name: x, service: {name: SERVICE, port: 1}}, \
     {name: z, addresses: ['10.0.0.9:1'], priority: 1}]",
    "listeners: [{port: 5432}], backends: [{addresses: ['10.0.0.9:1', '127.0.0.1:20001', '127.0.0.1:5432']}]",
    "listeners: [{port: 5432}], backends: [{addresses: ['db.example:1']}]",
    "listeners: [{port: 5432, tls: {certificateRefs: [{name: cert}]}}], backends: [{service: {name: SERVICE, port: 1}}]",
    "listeners: [{port: 5432, tls: {certificateRefs: [{name: cert}], clientValidation: {caRefs: [{name: \
     cert}]}}}], backends: [{service: {name: SERVICE, port: 1}}]",
    "listeners: [{port: 5432}], backends: [{service: {name: SERVICE, port: 1}, tls: {caRefs: [{name: cert}], \
     serverName: db.example}}]",
    "listeners: [{port: 5432, limits: {maxConnections: 0}}], backends: [{service: {name: SERVICE, port: 1}}]",
    "listeners: [{port: 5432}], backends: []",
    "listeners: [{port: 5433}], backends: [{service: {name: s0, port: 1}}], connect: {attempts: 0}",
    "listeners: [{port: 5432}], backends: [{service: {name: SERVICE, port: 1}}], healthCheck: {active: {type: Redis, \
     redis: {passwordRef: {name: cert, key: tls.crt}}}}",
    "placement: Sidecar, listeners: [{port: 5432}], backends: [{service: {name: SERVICE, port: 1}}]",
];

const SERVICES: [&str; 4] = [
    "selector: {a: b}, ports: [{port: 1}], clusterIP: 10.96.0.1",
    "selector: {a: b}, ports: [{port: 1}], clusterIP: 10.0.0.1",
    "ports: [{port: 2}]",
    "type: ExternalName, externalName: db.example",
];

const SLICES: [&str; 8] = [
    "ports: [{port: 7}], endpoints: [POD 1, POD 2]",
    "ports: [{port: 7}], endpoints: [POD 1]",
    "ports: [{port: 7}], endpoints: [POD 2, POD 3]",
    "ports: [{port: 7}], endpoints: [UNREADY 1, POD 2]",
    "ports: [{port: 7}], endpoints: [UNREADY 1]",
    "ports: [{port: 7}], endpoints: []",
    "ports: [{name: other, port: 7}], endpoints: [POD 4]",
    "ports: [{port: 7}], endpoints: [REUSED 1, POD 3]",
];

/// Milliseconds; the last one is five years.
const WAITS: [i64; 6] = [100, 900, 2_000, 11_000, 301_000, 157_766_400_000];

/// Two certificates, and one that is not valid yet.
static CERTIFICATES: LazyLock<[(String, String); 3]> = LazyLock::new(|| {
    let later = issue_with(&["db.example"], |params| params.not_before = rcgen::date_time_ymd(2030, 1, 1));
    [issue(&["db.example"]), issue(&["other.example"]), later].map(|pair| (pair.certificate, pair.key))
});

/// Successive translations of a world.
struct MemoFixture {
    world: World,
    now: Timestamp,
    memo: Memo,
    previous: Snapshot,
    before_previous: Snapshot,
}

impl MemoFixture {
    fn start(mode: &str) -> Self {
        let world = World { locality: Some(ProcessLocality::default()), ..World::default() };
        let mut fixture = Self {
            world,
            now: NOW,
            memo: Memo::default(),
            previous: Snapshot::default(),
            before_previous: Snapshot::default(),
        };
        fixture.world.mode = match mode {
            "gateway" => ProcessMode::Gateway(Arc::default(), Arc::default()),
            "host" => ProcessMode::Host(Arc::default()),
            _ => ProcessMode::Standalone,
        };
        fixture.edit(&Edit::Tenancy(0));
        for index in 0..LOAD_BALANCERS {
            for edit in [
                Edit::Declare(index, 0),
                Edit::Service(index, 0),
                Edit::Slice(index, 0),
                Edit::Allocation(index, 0),
                Edit::Secret(0),
                Edit::Name(0),
            ] {
                fixture.edit(&edit);
            }
        }
        fixture
    }

    fn edit(&mut self, edit: &Edit) {
        match *edit {
            Edit::Declare(index, variant) => self.declare(index, variant),
            Edit::Remove(index) => drop(self.world.load_balancers.remove(&object(&format!("l{index}")))),
            Edit::Recreate(index) => {
                if let Some(declared) = self.world.load_balancers.get_mut(&object(&format!("l{index}"))) {
                    declared.identity.as_mut().unwrap().uid = format!("new{index}").into();
                }
            }
            Edit::Service(index, variant) => self.set_service(index, variant),
            Edit::Slice(index, variant) => self.set_slice(index, variant),
            Edit::Secret(variant) => self.set_secret(variant),
            Edit::Name(variant) => self.set_name(variant),
            Edit::Allocation(index, variant) => self.set_allocation(index, variant),
            Edit::Tenancy(variant) => self.set_tenancy(variant),
            Edit::Locality(variant) => {
                let zone = ["z1", "z2", "elsewhere"][variant];
                self.world.locality = Some(ProcessLocality { node: None, zone: Some(zone.into()) });
            }
            Edit::Unread(index, is_set) => set(&mut self.world.unread, index, is_set),
            Edit::Unreadable(index, is_set) => set(&mut self.world.unreadable, index, is_set),
            Edit::BeyondQuota(is_beyond) => {
                let reference = ObjectRef { kind: RefKind::Secret, key: object("cert") };
                match is_beyond {
                    true => drop(self.world.beyond_quota.insert(reference)),
                    false => drop(self.world.beyond_quota.remove(&reference)),
                }
            }
            Edit::Wait(index) => self.now += SignedDuration::from_millis(WAITS[index]),
            Edit::ForgetResults => self.memo = Memo::default(),
            Edit::GoBack(true) => self.previous = self.before_previous.clone(),
            Edit::GoBack(false) => self.previous = Snapshot::default(),
        }
    }

    fn declare(&mut self, index: usize, variant: usize) {
        let (name, service) = (format!("l{index}"), format!("s{index}"));
        let uid = self.world.load_balancers.get(&object(&name)).and_then(Declared::uid).unwrap_or(&name).to_owned();
        let spec = SPECS[variant].replace("SERVICE", &service);
        // On the ports of nodes, each needs its own.
        let spec = match self.world.mode {
            ProcessMode::Gateway(..) => spec,
            _ => spec.replace("port: 543", &format!("port: {}", index + 1)),
        };
        self.world.load_balancers.extend(declaration(&name, &uid, &spec).load_balancers);
    }

    fn set_service(&mut self, index: usize, variant: usize) {
        let spec = SERVICES[variant].replace("10.96.0.1", &format!("10.96.0.{index}"));
        let text = format!("{{kind: Service, metadata: {{name: s{index}}}, spec: {{{spec}}}}}");
        self.world.services.extend(super::world(&text).services);
    }

    fn set_slice(&mut self, index: usize, variant: usize) {
        let pod_at = |address: usize, uid: &str, number: usize, ready: bool| {
            format!(
                "{{addresses: [10.0.{address}.{number}], conditions: {{ready: {ready}}}, zone: z{number}, \
                 targetRef: {{kind: Pod, namespace: shop, name: p, uid: {uid}{index}-{number}}}}}"
            )
        };
        let pod = |number: usize, ready: bool| pod_at(index, "p", number, ready);
        let content = (1..5).fold(SLICES[variant].to_owned(), |text, number| {
            let text = text.replace(&format!("UNREADY {number}"), &pod(number, false));
            // The address of a pod of the next load balancer.
            let reused = pod_at((index + 1) % LOAD_BALANCERS, "q", number, true);
            let text = text.replace(&format!("REUSED {number}"), &reused);
            text.replace(&format!("POD {number}"), &pod(number, true))
        });
        let text = format!(
            "{{kind: EndpointSlice, metadata: {{namespace: shop, name: s{index}, labels: \
             {{kubernetes.io/service-name: s{index}, endpointslice.kubernetes.io/managed-by: \
             endpointslice-controller.k8s.io}}}}, addressType: IPv4, {content}}}"
        );
        self.world.endpoint_slices.extend(super::world(&text).endpoint_slices);
    }

    fn set_secret(&mut self, variant: usize) {
        match CERTIFICATES.get(variant) {
            Some((certificate, key)) => store(&mut self.world, "cert", certificate, key),
            None if variant == 3 => store(&mut self.world, "cert", "no certificate", "no key"),
            None => drop(self.world.secrets.remove(&object("cert"))),
        }
    }

    fn set_name(&mut self, variant: usize) {
        let addresses: BTreeSet<_> = (0..variant).map(|number| [10, 0, 0, 10 + number as u8].into()).collect();
        let problem = (variant == 3).then(|| "cannot be resolved: the server failed".into());
        self.world.names.insert("db.example".into(), Lookup { addresses, is_truncated: variant == 2, problem });
    }

    /// Gives the ports to the load balancer itself, to it in another order, to one of the same name, or to none.
    fn set_allocation(&mut self, index: usize, variant: usize) {
        let ProcessMode::Gateway(allocations, _) = &mut self.world.mode else { return };
        let Allocations(ports) = Arc::make_mut(allocations);
        ports.retain(|_, allocation| *allocation.uid != *format!("l{index}"));
        let uid = if variant == 2 { format!("new{index}") } else { format!("l{index}") };
        let first = 20_000 + 10 * index as u16 + u16::from(variant == 1);
        for (port, listener) in (first..).zip([5432, 5433]).filter(|_| variant < 3) {
            let allocation = Allocation { uid: uid.as_str().into(), port: listener, object: "".into(), freed: None };
            ports.insert(port, allocation);
        }
    }

    fn set_tenancy(&mut self, variant: usize) {
        let (ProcessMode::Gateway(_, tenancy) | ProcessMode::Host(tenancy)) = &mut self.world.mode else { return };
        let network = |text: &str| text.parse::<ipnet::IpNet>().unwrap();
        *tenancy = Arc::new(Tenancy {
            backend_networks: [network("10.0.0.0/24")].into_iter().collect(),
            denied_networks: (variant == 1).then(|| network("10.0.1.0/24")).into_iter().collect(),
            load_balancers_per_namespace: (variant == 2).then_some(3),
            listeners_per_namespace: (variant == 3).then_some(4),
            service_types: [ServiceType::ClusterIp].into(),
            host_ports: vec![1..=100],
            ..Tenancy::default()
        });
    }

    /// Translates with and without the memo, and returns the number of reused results.
    fn translate(&mut self) -> Result<usize, TestCaseError> {
        let reused = self.memo.reused();
        let few = translate_few(&mut self.memo, &self.world, &self.previous, self.now);
        let all = || translate_with(&mut self.memo, &self.world, &self.previous, self.now);
        let (snapshot, verdicts) = few.unwrap_or_else(all);
        let (fresh, expected) = translate(&self.world, &self.previous, self.now);
        prop_assert_eq!(&verdicts, &expected);
        prop_assert_eq!(&snapshot.listeners, &fresh.listeners);
        prop_assert_eq!(&snapshot.upstreams, &fresh.upstreams);
        prop_assert_eq!(snapshot.generation, fresh.generation);
        prop_assert_eq!(&snapshot.retained_until, &fresh.retained_until);
        prop_assert_eq!(snapshot.report_due, fresh.report_due);
        // A translation of some load balancers does not drop what is no longer used.
        for (key, certificate) in &fresh.certificate_cache.certificates {
            let known = snapshot.certificate_cache.certificates.get(key);
            prop_assert_eq!(known.map(|known| known.clone().ok()), Some(certificate.clone().ok()));
        }
        self.before_previous = mem::replace(&mut self.previous, snapshot);
        Ok(self.memo.reused() - reused)
    }
}

/// Marks or unmarks the Service of a load balancer.
fn set(marked: &mut BTreeMap<(&'static str, ObjectKey), Arc<str>>, index: usize, is_set: bool) {
    let key = ("Service", object(&format!("s{index}")));
    match is_set {
        true => drop(marked.insert(key, "cannot be read".into())),
        false => drop(marked.remove(&key)),
    }
}

/// A load balancer with a uid.
fn declaration(name: &str, uid: &str, spec: &str) -> World {
    world(&format!(
        "{{kind: TcpLoadBalancer, apiVersion: tcplb.io/v1alpha1, metadata: {{name: {name}, uid: {uid}}}, spec: {{{spec}}}}}"
    ))
}

proptest! {
    #[test]
    fn a_memo_changes_no_result(
        mode in prop::sample::select(vec!["gateway", "host", "standalone"]),
        steps in prop::collection::vec(prop::collection::vec(any_edit(), 0..3), 1..12),
    ) {
        let mut fixture = MemoFixture::start(mode);
        fixture.translate()?;
        for edits in steps {
            edits.iter().for_each(|edit| fixture.edit(edit));
            fixture.translate()?;
        }
    }
}

#[test]
fn unchanged_load_balancers_are_not_translated_again() {
    let mut fixture = MemoFixture::start("gateway");
    let mut reused = |edit: Option<Edit>| {
        edit.iter().for_each(|edit| fixture.edit(edit));
        fixture.translate().unwrap()
    };
    assert_eq!(reused(None), 0, "the first time");
    assert_eq!(reused(None), LOAD_BALANCERS);
    assert_eq!(reused(Some(Edit::Slice(0, 2))), LOAD_BALANCERS - 1);
    assert_eq!(reused(None), LOAD_BALANCERS, "an endpoint that is gone is retained for a second");
    assert_eq!(reused(Some(Edit::Wait(2))), LOAD_BALANCERS - 1, "it goes");
    assert_eq!(reused(None), LOAD_BALANCERS);
    assert_eq!(reused(Some(Edit::Declare(1, 6))), LOAD_BALANCERS - 1, "TLS");
    assert_eq!(reused(None), LOAD_BALANCERS);
    assert_eq!(reused(Some(Edit::Secret(1))), LOAD_BALANCERS - 1);
    assert_eq!(reused(Some(Edit::Wait(4))), LOAD_BALANCERS);
    assert_eq!(reused(Some(Edit::Wait(5))), LOAD_BALANCERS - 1, "its certificate has expired");
    assert_eq!(reused(Some(Edit::Tenancy(1))), 0, "rules of the administrator concern all");
    assert_eq!(reused(Some(Edit::ForgetResults)), 0);
}

#[test]
fn only_affected_load_balancers_are_considered_where_a_change_cannot_concern_others() {
    for (mode, variant, edit, is_partial) in [
        ("gateway", 0, Edit::Slice(0, 1), true),
        ("gateway", 0, Edit::Wait(0), true),
        ("gateway", 2, Edit::Slice(0, 1), true),
        ("gateway", 6, Edit::Secret(1), true),
        ("gateway", 5, Edit::Name(2), true),
        ("gateway", 13, Edit::Slice(0, 1), true),
        ("gateway", 13, Edit::Slice(1, 1), true),
        ("gateway", 13, Edit::Declare(0, 0), false),
        ("gateway", 0, Edit::Service(0, 2), false),
        ("gateway", 0, Edit::Declare(0, 3), false),
        ("gateway", 0, Edit::Allocation(0, 1), false),
        ("gateway", 0, Edit::Tenancy(1), false),
        ("gateway", 6, Edit::Wait(5), false),
        ("gateway", 0, Edit::Remove(0), false),
        ("standalone", 0, Edit::Declare(0, 1), true),
        ("standalone", 0, Edit::Service(0, 2), true),
        ("standalone", 0, Edit::Declare(0, 3), false),
        ("standalone", 4, Edit::Slice(1, 1), true),
        ("standalone", 0, Edit::GoBack(false), false),
    ] {
        let mut fixture = MemoFixture::start(mode);
        for first in [Edit::Locality(0), Edit::Name(1), Edit::Declare(0, variant)] {
            fixture.edit(&first);
        }
        fixture.translate().unwrap();
        fixture.translate().unwrap();
        let before = fixture.memo.partial();
        fixture.edit(&edit);
        fixture.translate().unwrap();
        let expected = before + usize::from(is_partial);
        assert_eq!(fixture.memo.partial(), expected, "{mode}: {edit:?} with variant {variant}");
    }
}

#[test]
fn a_change_of_many_load_balancers_is_not_translated_as_one_of_few() {
    let declared = |algorithm: &str, numbers: Range<usize>| {
        let spec = |number| {
            format!(
                "listeners: [{{port: {}}}], backends: [{{addresses: ['10.0.0.1:1']}}], loadBalancing: {{algorithm: \
                 {algorithm}}}",
                1000 + number
            )
        };
        let worlds = numbers.map(|number| declaration(&format!("a{number}"), &format!("u{number}"), &spec(number)));
        worlds.flat_map(|world| world.load_balancers).collect::<BTreeMap<_, _>>()
    };
    for (changed, is_translated) in [(1, true), (FEW, true), (FEW + 1, false)] {
        let mut memo = Memo::default();
        let mut world = World { load_balancers: declared("Random", 0..2 * FEW).into(), ..World::default() };
        assert!(translate_few(&mut memo, &world, &Snapshot::default(), NOW).is_none(), "the first time");
        let snapshot = translate_with(&mut memo, &world, &Snapshot::default(), NOW).0;
        world.load_balancers.extend(declared("RoundRobin", 0..changed));
        let few = translate_few(&mut memo, &world, &snapshot, NOW);
        assert_eq!(few.is_some(), is_translated, "{changed} changed");
    }
}

#[test]
fn unused_certificates_are_dropped_eventually() {
    let mut fixture = MemoFixture::start("gateway");
    fixture.edit(&Edit::Declare(0, 6));
    fixture.translate().unwrap();
    let (mut most, mut partial) = (0, 0);
    for number in 0..200 {
        // Each text is another certificate, none of which can be read.
        store(&mut fixture.world, "cert", &number.to_string(), "no key");
        fixture.translate().unwrap();
        most = most.max(fixture.previous.certificate_cache.len());
        partial = fixture.memo.partial();
    }
    assert!(most < 100, "{most} of 200 certificates are kept");
    assert!(partial > 190, "{partial} of 200 changes concern one load balancer");
}

#[test]
fn a_change_of_any_dependency_is_translated() {
    for (variant, edit) in [
        (0, Edit::Declare(0, 3)),
        (0, Edit::Remove(0)),
        (0, Edit::Recreate(0)),
        (0, Edit::Service(0, 2)),
        (0, Edit::Slice(0, 1)),
        (0, Edit::Allocation(0, 1)),
        (0, Edit::Unread(0, true)),
        (0, Edit::Unreadable(0, true)),
        (0, Edit::Tenancy(2)),
        (0, Edit::GoBack(false)),
        (2, Edit::Locality(1)),
        (5, Edit::Name(2)),
        (6, Edit::Secret(1)),
        (6, Edit::BeyondQuota(true)),
    ] {
        let mut fixture = MemoFixture::start("gateway");
        for first in [Edit::Locality(0), Edit::Name(1), Edit::Declare(0, variant)] {
            fixture.edit(&first);
        }
        for _ in 0..2 {
            fixture.translate().unwrap();
        }
        assert_eq!(fixture.translate().unwrap(), LOAD_BALANCERS, "before {edit:?}");
        fixture.edit(&edit);
        assert!(fixture.translate().unwrap() < LOAD_BALANCERS, "{edit:?} of a load balancer of variant {variant}");
    }
}
