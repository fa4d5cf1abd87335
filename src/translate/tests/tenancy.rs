//! Permissions that administrators grant, and their limits. Each refusal has its message and its consequence.

use super::*;

const SERVICE: &str = "{kind: Service, metadata: {name: pg}, spec: {selector: {app: pg}, ports: [{port: 1}]}}";
const GOOD: &str = "listeners: [{port: 5432}], backends: [{service: {name: pg, port: 1}}]";

/// A gateway with allocated ports for the listeners 5432 and 5433 of `a`.
fn gateway(tenancy: &str) -> String {
    format!(
        "{{kind: Gateway, tenancy: {{{tenancy}}}, ports: {{20001: {{uid: u-a, port: 5432, object: shop/a}}, \
         20002: {{uid: u-a, port: 5433, object: shop/a}}}}}}"
    )
}

fn load_balancer(name: &str, created: u8, spec: &str) -> String {
    format!(
        "{{kind: TcpLoadBalancer, apiVersion: tcplb.io/v1alpha1, metadata: {{name: {name}, uid: u-{name}, \
         creationTimestamp: '2026-01-01T00:00:{created:02}Z'}}, spec: {{{spec}}}}}"
    )
}

/// A slice of the Service `pg`, with one endpoint for each address. `UID` in the target is replaced by a unique one.
fn slice(name: &str, managed_by: &str, target: &str, addresses: &[&str]) -> String {
    let family = if addresses.iter().any(|address| address.contains(':')) { "IPv6" } else { "IPv4" };
    let endpoint = |address: &&str| {
        let target = target.replace("UID", &format!("'p-{address}'"));
        format!("{{addresses: ['{address}'], targetRef: {target}}}")
    };
    let endpoints: Vec<_> = addresses.iter().map(endpoint).collect();
    format!(
        "{{kind: EndpointSlice, metadata: {{namespace: shop, name: {name}, labels: {{kubernetes.io/service-name: pg, \
         endpointslice.kubernetes.io/managed-by: {managed_by}}}}}, addressType: {family}, ports: [{{port: 7}}], \
         endpoints: [{}]}}",
        endpoints.join(", ")
    )
}

const KUBERNETES: &str = "endpointslice-controller.k8s.io";
const POD: &str = "{kind: Pod, namespace: shop, name: p, uid: UID}";

fn pods(addresses: &[&str]) -> String {
    slice("pg-1", KUBERNETES, POD, addresses)
}

fn all(documents: &[&str]) -> World {
    world(&documents.join("\n---\n"))
}

/// The problems of `a`, apart from missing endpoints.
fn messages_of(verdicts: &Verdicts) -> Vec<String> {
    let lines = sentences(verdicts, "a").into_iter();
    lines.filter(|line| !line.contains("connections are refused while")).collect()
}

fn addresses(snapshot: &Snapshot) -> Vec<String> {
    let upstream = snapshot.upstreams.get(&upstream("a"));
    upstream.iter().flat_map(|upstream| &upstream.endpoints).map(|endpoint| endpoint.address().to_string()).collect()
}

fn not_permitted(verdicts: &Verdicts) -> bool {
    let problems = &verdicts[&object("a")].problems;
    problems.iter().any(|problem| problem.severity == Severity::Refused && problem.reason == Reason::NotPermitted)
}

/// A tenancy, the settings of a Service, and the refusal; empty: accepted.
const SERVICE_REQUESTS: &[(&str, &str, &str)] = &[
    ("", "{}", ""),
    ("serviceTypes: [LoadBalancer]", "{}", "type: ClusterIP is not allowed: the administrator allows LoadBalancer"),
    ("", "{type: LoadBalancer}", "type: LoadBalancer is not allowed: the administrator allows ClusterIP"),
    ("serviceTypes: []", "{type: NodePort}", "type: NodePort is not allowed: the administrator allows none"),
    ("serviceTypes: [ClusterIP, LoadBalancer]", "{type: LoadBalancer}", ""),
    ("", "{annotations: {a: b}}", "annotations: `a` is not allowed: the administrator allows none"),
    ("annotations: [a, 'b.io/*']", "{annotations: {a: b, b.io/c: d}}", ""),
    (
        "annotations: [a, 'b.io/*']",
        "{annotations: {ab: c}}",
        "annotations: `ab` is not allowed: the administrator allows a, b.io/*",
    ),
    ("annotations: [a]", "{labels: {a: b}}", "labels: `a` is not allowed: the administrator allows none"),
    ("labels: ['*']", "{labels: {a.b/c: d, e: ''}}", ""),
    ("labels: ['*']", "{labels: {tcplb.io/name: x}}", "labels: `tcplb.io/name` is set by the controller: remove it"),
    (
        "annotations: ['*']",
        "{annotations: {app.kubernetes.io/managed-by: x}}",
        "annotations: `app.kubernetes.io/managed-by` is set by the controller: remove it",
    ),
    ("labels: ['*']", "{labels: {'a b': c}}", "labels: `a b` is not a valid key: write at most 63 letters, digits"),
    ("labels: ['*']", "{labels: {A.b/c: d}}", "labels: `A.b/c` is not a valid key"),
    ("labels: ['*']", "{labels: {a: 'b c'}}", "labels: `b c` is not a valid label value: write at most 63 letters"),
    (
        "",
        "{externalTrafficPolicy: Local}",
        "externalTrafficPolicy: has no effect with type ClusterIP: write another type, or remove it",
    ),
    (
        "serviceTypes: [LoadBalancer], loadBalancerClasses: ['internal/*']",
        "{type: LoadBalancer, loadBalancerClass: public/x}",
        "loadBalancerClass: `public/x` is not allowed: the administrator allows internal/*",
    ),
    (
        "serviceTypes: [LoadBalancer], loadBalancerClasses: ['internal/*']",
        "{type: LoadBalancer, loadBalancerClass: internal/x}",
        "",
    ),
    (
        "loadBalancerClasses: ['*']",
        "{loadBalancerClass: x}",
        "loadBalancerClass: has no effect with type ClusterIP: write `type: LoadBalancer`, or remove it",
    ),
];

#[test]
fn tenancy_limits_the_settings_of_services() {
    let consequence = "; its Service is not created or changed";
    for (tenancy, service, expected) in SERVICE_REQUESTS {
        let spec = format!("{GOOD}, service: {service}");
        let (snapshot, verdicts) = first(&all(&[&gateway(tenancy), SERVICE, &load_balancer("a", 0, &spec)]));
        assert!(snapshot.listeners.contains_key(&listener("a", 5432)), "it costs the Service only: {service}");
        let messages = messages_of(&verdicts);
        assert_eq!(messages.len(), usize::from(!expected.is_empty()), "{messages:?}");
        if let Some(message) = messages.first() {
            assert!(
                message.starts_with(&format!("spec.service.{expected}")) && message.ends_with(consequence),
                "{message}"
            );
        }
        // Service settings are not checked without a managed Service.
        let elsewhere = ["{kind: Host, tenancy: {hostPorts: [[1, 65535]]}}", "{kind: Sidecar, address: 127.0.0.1}"];
        for mode in elsewhere {
            assert_eq!(
                messages_of(&first(&all(&[mode, SERVICE, &load_balancer("a", 0, &spec)])).1),
                Vec::<String>::new()
            );
        }
    }
}

#[test]
fn ports_of_the_nodes_are_chosen_only_where_that_is_allowed_and_means_something() {
    for (tenancy, service, ports, expected) in [
        ("nodePorts: true", "NodePort", ["30001", "30002"], &[][..]),
        (
            "",
            "NodePort",
            ["30001", "null"],
            &["30001 is not permitted: remove it, or ask the administrator to permit node ports \
               (tenancy.allowNodePorts)"],
        ),
        (
            "nodePorts: true",
            "ClusterIP",
            ["30001", "null"],
            &["has no effect with service type ClusterIP: write another type, or remove it"],
        ),
        (
            "nodePorts: true",
            "LoadBalancer",
            ["30001", "30001"],
            &[
                "30001 is also the nodePort of spec.listeners[1]: write another",
                "30001 is also the nodePort of spec.listeners[0]: write another",
            ],
        ),
    ] {
        let gateway = gateway(&format!("serviceTypes: [ClusterIP, NodePort, LoadBalancer], {tenancy}"));
        let [one, two] = ports;
        let spec = format!(
            "service: {{type: {service}}}, backends: [{{service: {{name: pg, port: 1}}}}], listeners: \
             [{{name: a, port: 5432, nodePort: {one}}}, {{name: b, port: 5433, nodePort: {two}}}]"
        );
        let (snapshot, verdicts) = first(&all(&[&gateway, SERVICE, &load_balancer("a", 0, &spec)]));
        assert_eq!(snapshot.listeners.len(), 2, "it costs the Service only");
        let expected = expected.iter().enumerate().map(|(index, message)| {
            format!("spec.listeners[{index}].nodePort: {message}; its Service is not created or changed")
        });
        assert_eq!(messages_of(&verdicts), expected.collect::<Vec<_>>());
    }
}

#[test]
fn access_lists_need_client_addresses_that_nodes_do_not_hide() {
    let spec = |service: &str, listener: &str, rest: &str| {
        format!(
            "service: {service}, listeners: [{{port: 5432, {listener}}}], backends: [{{service: {{name: pg, port: 1}}}}], {rest}"
        )
    };
    let hidden = "a Service of type NodePort hides client addresses, so all clients of a node would count as one";
    let maglev = "loadBalancing: {algorithm: Maglev}";
    let proxied = "proxyProtocol: {mode: Required, trustedNetworks: [10.0.0.0/8]}, access: {allow: [10.0.0.0/8]}";
    for (service, listener, rest, field) in [
        ("{type: NodePort}", "limits: {maxConnections: 1, newConnections: {count: 1, per: 1s}}", "", ""),
        ("{type: NodePort}", "access: {deny: [10.0.0.0/8]}", "", "spec.listeners[0].access"),
        (
            "{type: NodePort}",
            "limits: {maxConnectionsPerSource: 1}",
            "",
            "spec.listeners[0].limits.maxConnectionsPerSource",
        ),
        (
            "{type: NodePort}",
            "limits: {newConnectionsPerSource: {count: 1, per: 1s}}",
            "",
            "spec.listeners[0].limits.newConnectionsPerSource",
        ),
        ("{type: NodePort}", "", maglev, "spec.loadBalancing.algorithm"),
        ("{type: NodePort}", proxied, maglev, ""),
        ("{type: NodePort, externalTrafficPolicy: Cluster}", "access: {deny: [10.0.0.0/8]}", maglev, ""),
        ("{type: NodePort, externalTrafficPolicy: Local}", "access: {deny: [10.0.0.0/8]}", maglev, ""),
        ("{type: LoadBalancer}", "access: {deny: [10.0.0.0/8]}", maglev, ""),
        ("{type: ClusterIP}", "access: {deny: [10.0.0.0/8]}", maglev, ""),
    ] {
        let gateway = gateway("serviceTypes: [ClusterIP, NodePort, LoadBalancer]");
        let (snapshot, verdicts) =
            first(&all(&[&gateway, SERVICE, &load_balancer("a", 0, &spec(service, listener, rest))]));
        let messages = messages_of(&verdicts);
        assert_eq!(snapshot.listeners.is_empty(), !field.is_empty(), "{service} {listener} {rest}: {messages:?}");
        assert_eq!(messages.len(), usize::from(!field.is_empty()), "{messages:?}");
        assert!(messages.iter().all(|message| message.starts_with(&format!("{field}: {hidden}"))), "{messages:?}");
    }
}

#[test]
fn the_oldest_are_within_what_a_namespace_may_have() {
    let host = |cap: &str| format!("{{kind: Host, tenancy: {{hostPorts: [[1, 65535]], {cap}}}}}");
    let spec = |ports: [u16; 2]| {
        format!(
            "listeners: [{{name: a, port: {}}}, {{name: b, port: {}}}], backends: [{{service: {{name: pg, port: 1}}}}]",
            ports[0], ports[1]
        )
    };
    let three = [
        load_balancer("a", 3, &spec([1, 2])),
        load_balancer("b", 1, &spec([3, 4])),
        load_balancer("c", 2, &spec([5, 6])),
    ];
    let elsewhere = load_balancer("d", 0, &spec([7, 8])).replace("name: d,", "name: d, namespace: other,");
    let serving = |cap: &str| {
        let documents = [&[host(cap), SERVICE.into(), elsewhere.clone()][..], &three].concat();
        let documents: Vec<_> = documents.iter().map(String::as_str).collect();
        let (snapshot, verdicts) = first(&all(&documents));
        let ports = snapshot.listeners.keys().filter(|key| &*key.object.namespace == "shop");
        (ports.map(|key| key.port).collect::<Vec<_>>(), messages_of(&verdicts), not_permitted(&verdicts))
    };
    assert_eq!(serving(""), (vec![1, 2, 3, 4, 5, 6], vec![], false));
    let message = "the administrator allows 2 load balancers in namespace shop, and older ones use them up: delete one \
                   of them; none of its listeners is served";
    assert_eq!(serving("loadBalancersPerNamespace: 2"), (vec![3, 4, 5, 6], vec![message.into()], true));
    let message = "spec.listeners[1]: the administrator allows 5 listeners in namespace shop, and older load balancers \
                   and the listeners before this one use them up: remove one of them; the listener is not served";
    assert_eq!(serving("listenersPerNamespace: 5"), (vec![1, 3, 4, 5, 6], vec![message.into()], true));
}

const ONE: &str = "listeners: [{port: 5432}]";

/// The field and the part of each problem.
type ConcernedParts = &'static [(&'static str, Part)];

/// A tenancy, fields with mistakes, and their problems.
const PARTS: &[(&str, &str, ConcernedParts)] = &[
    ("loadBalancersPerNamespace: 0", ONE, &[("", Part::Object)]),
    ("listenersPerNamespace: 0", ONE, &[("spec.listeners[0]", Part::WholeListener(0))]),
    ("serviceTypes: []", ONE, &[("spec.service.type", Part::Service)]),
    ("", "listeners: [{port: 5432}], service: {labels: {a: b}}", &[("spec.service.labels", Part::Service)]),
    ("", "listeners: [{port: 5432, nodePort: 30001}]", &[("spec.listeners[0].nodePort", Part::NodePort(0))]),
    (
        "",
        "listeners: [{port: 5432, access: {deny: [0.0.0.0/0, '::/0']}}]",
        &[("spec.listeners[0].access.deny", Part::ClientRule(0))],
    ),
    (
        "",
        "listeners: [{port: 5432, limits: {maxConnections: 0, maxConnectionsPerSource: 0, newConnections: \
         {count: 0, per: 1s}, newConnectionsPerSource: {count: 0, per: 1s}}}]",
        &[
            ("spec.listeners[0].limits.maxConnections", Part::Listener(0)),
            ("spec.listeners[0].limits.maxConnectionsPerSource", Part::ClientRule(0)),
            ("spec.listeners[0].limits.newConnections.count", Part::Listener(0)),
            ("spec.listeners[0].limits.newConnectionsPerSource.count", Part::ClientRule(0)),
        ],
    ),
    (
        "serviceTypes: [NodePort]",
        "service: {type: NodePort}, listeners: [{port: 5432, access: {deny: [10.0.0.0/8]}, limits: \
         {maxConnectionsPerSource: 1, newConnectionsPerSource: {count: 1, per: 1s}}}]",
        &[
            ("spec.listeners[0].access", Part::ClientRule(0)),
            ("spec.listeners[0].limits.maxConnectionsPerSource", Part::ClientRule(0)),
            ("spec.listeners[0].limits.newConnectionsPerSource", Part::ClientRule(0)),
        ],
    ),
    (
        "secretsPerNamespace: 0",
        "listeners: [{port: 5432, tls: {certificateRefs: [{name: x}]}}]",
        &[
            ("spec.listeners[0].tls.certificateRefs[0]", Part::ListenerTls(0)),
            ("spec.listeners[0].tls.certificateRefs", Part::ListenerTls(0)),
        ],
    ),
    ("", "listeners: [{name: a, port: 5433}, {name: b, port: 5439}]", &[("spec.listeners[1].port", Part::Listener(1))]),
    (
        "",
        "listeners: [{port: 5432}], loadBalancing: {algorithm: Random, hash: {}}, connect: {attempts: 0, \
         preconnect: {perEndpoint: 0}}, healthCheck: {active: {healthyAfter: 0}, passive: \
         {maxEjectedPercent: 101}}, timeouts: {handshake: 0s}",
        &[
            ("spec.timeouts.handshake", Part::Timeouts),
            ("spec.loadBalancing.hash", Part::LoadBalancing),
            ("spec.healthCheck.active.healthyAfter", Part::HealthCheck),
            ("spec.healthCheck.passive.maxEjectedPercent", Part::HealthCheck),
            ("spec.connect.attempts", Part::Connect),
            ("spec.connect.preconnect.perEndpoint", Part::Preconnect),
        ],
    ),
];

#[test]
fn problems_name_the_part_they_concern() {
    for (tenancy, fields, expected) in PARTS {
        let spec = format!("{fields}, backends: [{{service: {{name: pg, port: 1}}, weight: 0}}]");
        let (_, verdicts) = first(&all(&[&gateway(tenancy), SERVICE, &load_balancer("a", 0, &spec)]));
        let mut expected = expected.to_vec();
        expected.push(("spec.backends[0].weight", Part::Backend(0)));
        let mut found: Vec<_> =
            verdicts[&object("a")].problems.iter().map(|problem| (&*problem.field, problem.part)).collect();
        found.sort_by_key(|(_, part)| matches!(part, Part::Backend(_)));
        assert_eq!(found, expected);
    }
}

#[test]
fn a_load_balancer_that_served_goes_on_when_the_namespace_has_too_many() {
    let world = |cap: &str| all(&[&gateway(cap), SERVICE, &load_balancer("a", 5, GOOD), &load_balancer("b", 1, GOOD)]);
    let (before, _) = first(&world(""));
    let (after, verdicts) = then(&world("loadBalancersPerNamespace: 1"), &before);
    assert!(after.configures_the_same(&before));
    assert!(messages_of(&verdicts)[0].ends_with("its listeners keep their previous configuration"));
    // In host mode all replicas must agree on the owner of a port.
    let host = |cap: &str| format!("{{kind: Host, tenancy: {{hostPorts: [[1, 65535]], {cap}}}}}");
    let world = |cap: &str| all(&[&host(cap), SERVICE, &load_balancer("a", 5, GOOD)]);
    let (before, _) = first(&world(""));
    assert_eq!(before.listeners.len(), 1);
    assert!(then(&world("loadBalancersPerNamespace: 0"), &before).0.listeners.is_empty());
}

#[test]
fn pods_of_the_own_namespace_are_reached_as_kubernetes_itself_names_them() {
    let without_selector = "{kind: Service, metadata: {name: pg}, spec: {ports: [{port: 1}]}}";
    let of_other = "{kind: Pod, namespace: other, name: p, uid: UID}";
    let outside = "is neither a pod that a Service of the same namespace selects nor in a network that the \
                   administrator allows (none); ignored";
    for (service, managed_by, target, reached) in [
        (SERVICE, KUBERNETES, POD, true),
        (without_selector, KUBERNETES, POD, false),
        (SERVICE, "endpointslicemirroring-controller.k8s.io", POD, false),
        (SERVICE, "me", POD, false),
        (SERVICE, KUBERNETES, of_other, false),
        (SERVICE, KUBERNETES, "{kind: Pod, name: p, uid: UID}", false),
        (SERVICE, KUBERNETES, "{kind: Pod, namespace: shop, name: p}", false),
        (SERVICE, KUBERNETES, "{kind: Node, namespace: shop, name: p, uid: UID}", false),
        (SERVICE, KUBERNETES, "null", false),
    ] {
        let written = slice("pg-1", managed_by, target, &["10.0.0.1"]);
        let world = all(&[&gateway(""), service, &written, &load_balancer("a", 0, GOOD)]);
        let (snapshot, verdicts) = first(&world);
        assert_eq!(addresses(&snapshot).len(), usize::from(reached), "{managed_by} {target}");
        assert_eq!(not_permitted(&verdicts), !reached);
        let message = format!("spec.backends[0].service: EndpointSlice shop/pg-1 has 10.0.0.1:7, which {outside}");
        assert_eq!(messages_of(&verdicts), if reached { vec![] } else { vec![message] });
        // Without tenants, every address is allowed.
        let alone = all(&["{kind: Sidecar, address: 127.0.0.1}", service, &written, &load_balancer("a", 0, GOOD)]);
        assert_eq!(addresses(&first(&alone).0).len(), 1);
    }
}

#[test]
fn a_forged_slice_is_trusted_until_kubernetes_removes_it() {
    let service = SERVICE.replace("name: pg", "name: pg, uid: u-pg");
    let owned_by = |uid: &str| {
        let owner = format!("ownerReferences: [{{apiVersion: v1, kind: Service, name: pg, uid: {uid}}}]");
        pods(&["10.0.0.1"]).replacen("namespace: shop,", &format!("namespace: shop, {owner},"), 1)
    };
    let leaving =
        owned_by("u-pg").replacen("namespace: shop,", "namespace: shop, deletionTimestamp: '2026-01-01T00:00:00Z',", 1);
    for (written, reached) in
        [(owned_by("u-pg"), true), (owned_by("u-of-another"), false), (pods(&["10.0.0.1"]), false), (leaving, false)]
    {
        let (snapshot, verdicts) = first(&all(&[&gateway(""), &service, &written, &load_balancer("a", 0, GOOD)]));
        assert_eq!(addresses(&snapshot).len(), usize::from(reached), "{written}");
        assert_eq!(not_permitted(&verdicts), !reached);
    }
}

#[test]
fn a_refused_address_affects_no_other() {
    let forged = slice("pg-2", "me", POD, &["10.9.0.1", "10.9.0.2", "169.254.169.254"]);
    let world = all(&[&gateway(""), SERVICE, &pods(&["10.0.0.1"]), &forged, &load_balancer("a", 0, GOOD)]);
    let (snapshot, verdicts) = first(&world);
    assert_eq!(addresses(&snapshot), ["10.0.0.1:7"]);
    assert_eq!(
        messages_of(&verdicts),
        [
            "spec.backends[0].service: EndpointSlice shop/pg-2 has 169.254.169.254:7, which is a link-local address, \
             which is not permitted for backends; ignored",
            "spec.backends[0].service: EndpointSlice shop/pg-2 has 10.9.0.1:7 and 1 more, each of which is neither a \
             pod that a Service of the same namespace selects nor in a network that the administrator allows (none); \
             ignored",
        ]
    );
}

#[test]
fn addresses_are_reached_within_the_allowed_networks_also_those_of_names() {
    let tenancy = "backendNetworks: [10.1.0.0/16, '2001:db8::/32', 0.0.0.0/0], deniedNetworks: [10.1.2.0/24]";
    let spec =
        "listeners: [{port: 5432}], backends: [{addresses: ['10.1.0.1:5', '10.1.2.3:5', '127.0.0.1:5', 'db:5']}]";
    let mut world = all(&[&gateway(tenancy), &load_balancer("a", 0, spec)]);
    let lookup = |ips: &[&str]| crate::world::Lookup {
        addresses: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        ..Default::default()
    };
    world.names.insert("db".into(), lookup(&["10.1.0.2", "169.254.169.254", "2001:db8::1", "fd00:ec2::254"]));
    let (snapshot, verdicts) = first(&world);
    assert_eq!(addresses(&snapshot), ["10.1.0.1:5", "10.1.0.2:5", "[2001:db8::1]:5"]);
    let messages = messages_of(&verdicts);
    let place = "spec.backends[0].addresses";
    assert_eq!(
        messages,
        [
            format!("{place}[1]: 10.1.2.3:5 is in a network that the administrator denies; ignored"),
            format!("{place}[2]: 127.0.0.1:5 is a loopback address, which is not permitted for backends; ignored"),
            format!(
                "{place}[3]: db has 169.254.169.254:5, which is a link-local address, which is not permitted for \
                 backends; ignored"
            ),
            format!(
                "{place}[3]: db has [fd00:ec2::254]:5, which is a metadata service, which is not permitted for \
                 backends; ignored"
            ),
        ]
    );

    // Every resolved address is checked.
    world.names.insert("db".into(), lookup(&["127.0.0.2"]));
    assert_eq!(addresses(&then(&world, &snapshot).0), ["10.1.0.1:5"]);
}

#[test]
fn a_name_is_not_permitted_where_no_address_is() {
    let spec = "listeners: [{port: 5432}], backends: [{addresses: ['db:5']}]";
    let (_, verdicts) = first(&all(&[&gateway(""), &load_balancer("a", 0, spec)]));
    assert!(not_permitted(&verdicts));
    assert_eq!(
        messages_of(&verdicts),
        ["spec.backends[0].addresses[0]: `db` is neither a pod that a Service of the same namespace selects nor in a \
          network that the administrator allows (none); ignored"]
    );
}

const REPLICAS: &str = "{kind: EndpointSlice, metadata: {namespace: tcplb, name: replicas-1, labels: \
                        {kubernetes.io/service-name: replicas}}, addressType: IPv4, endpoints: [\
                        {addresses: [10.0.5.1], conditions: {ready: false}}, {addresses: [10.0.5.2]}]}";
const API_SERVER: &str = "{kind: Service, metadata: {namespace: default, name: kubernetes}, \
                          spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd96::1']}}\n---\n\
                          {kind: EndpointSlice, metadata: {namespace: default, name: kubernetes, labels: \
                          {kubernetes.io/service-name: kubernetes}}, addressType: IPv4, ports: [{name: https, port: 6443}], \
                          endpoints: [{addresses: [172.18.0.2]}]}";
/// The slice is in the right namespace, and would remove another load balancer's pod.
const FORGED: &str = "{kind: EndpointSlice, metadata: {namespace: default, name: forged, labels: \
                      {kubernetes.io/service-name: kubernetes}}, addressType: IPv4, ports: [{port: 5}], \
                      endpoints: [{addresses: [10.0.0.1]}]}";

#[test]
fn addresses_of_the_proxies_and_the_api_server_are_refused() {
    let tenancy = "backendNetworks: [0.0.0.0/0, '::/0'], replicas: replicas, ownAddresses: [10.0.5.3, 'fd00::3']";
    for (address, reached) in [
        ("10.0.0.1", true),
        ("10.0.5.1", false),
        ("10.0.5.2", false),
        ("10.0.5.3", false),
        ("fd00::3", false),
        ("10.96.0.1", false),
        ("fd96::1", false),
        ("10.96.0.5", false),
        ("192.0.2.5", false),
        ("10.96.0.6", true),
        ("172.18.0.2", false),
        ("::ffff:172.18.0.2", false),
        ("64:ff9b::172.18.0.2", false),
        ("2002:a00:502::", false),
        ("172.18.0.3", true),
        ("2001:db8::7", true),
    ] {
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        let spec = format!("listeners: [{{port: 5432}}], backends: [{{addresses: ['{host}:5']}}]");
        let kept = "{kind: Service, metadata: {namespace: tcplb, name: k, labels: {app.kubernetes.io/managed-by: tcplb}}, \
                    spec: {clusterIP: 10.96.0.5}, status: {loadBalancer: {ingress: [{ip: 192.0.2.5}]}}}";
        let other = "{kind: Service, metadata: {namespace: tcplb, name: o}, spec: {clusterIP: 10.96.0.6}}";
        let documents = [&gateway(tenancy), REPLICAS, API_SERVER, FORGED, kept, other, &load_balancer("a", 0, &spec)];
        assert_eq!(addresses(&first(&all(&documents)).0).len(), usize::from(reached), "{address}");
    }
}

#[test]
fn pods_on_the_host_of_a_proxy_are_permitted_on_other_ports_and_services_never() {
    let host =
        "{kind: Host, tenancy: {hostPorts: [[1, 65535]], adminPort: 9900, ownAddresses: [10.0.0.1], replicas: r}}";
    for (address, port, reached) in [
        ("10.0.0.1", 8080, true),
        ("10.0.0.1", 5432, false),
        ("10.0.0.1", 9900, false),
        ("10.0.0.2", 5432, true),
        ("10.0.0.2", 9900, true),
        ("172.18.0.2", 6443, false),
        ("172.18.0.2", 6444, true),
        // No pod has the address of a Service.
        ("10.96.0.1", 443, false),
        ("10.96.0.77", 9900, false),
        ("10.96.0.78", 9900, true),
        // A metadata address that is not in use by a cloud whose pods have such addresses.
        ("100.100.100.200", 80, true),
        ("169.254.169.254", 80, false),
    ] {
        let pods = pods(&[address]).replace("port: 7", &format!("port: {port}"));
        let another = "{kind: Service, metadata: {namespace: tcplb, name: admin}, spec: {clusterIP: 10.96.0.77}}";
        let world = all(&[host, API_SERVER, FORGED, SERVICE, another, &pods, &load_balancer("a", 0, GOOD)]);
        let (snapshot, verdicts) = first(&world);
        assert_eq!(addresses(&snapshot).len(), usize::from(reached), "{address}:{port}");
        assert_eq!(not_permitted(&verdicts), !reached);
    }
    // In gateway mode the proxies listen on the allocated ports, regardless of their owners.
    let gateway = gateway("ownAddresses: [10.0.0.1]");
    for (port, reached) in [(20002, false), (20003, true)] {
        let pods = pods(&["10.0.0.1"]).replace("port: 7", &format!("port: {port}"));
        let world = all(&[&gateway, SERVICE, &pods, &load_balancer("a", 0, GOOD)]);
        assert_eq!(addresses(&first(&world).0).len(), usize::from(reached), "{port}");
    }
}

#[test]
fn retained_endpoints_lose_addresses_that_are_no_longer_permitted() {
    let tenancy = "backendNetworks: [10.0.0.0/8], replicas: replicas, adminPort: 5";
    let spec = "listeners: [{port: 5432}], backends: [{addresses: ['10.0.5.1:5', '10.0.9.9:5']}]";
    let (before, _) = first(&all(&[&gateway(tenancy), &load_balancer("a", 0, spec)]));
    assert_eq!(addresses(&before), ["10.0.5.1:5", "10.0.9.9:5"]);
    // The first one became the address of a proxy while the declaration was invalid.
    for wrong in ["listeners: [{port: 5432}], backends: []", "listeners: [{port: 5432}], backends: [{}]"] {
        let world = all(&[&gateway(tenancy), REPLICAS, &load_balancer("a", 0, wrong)]);
        assert_eq!(addresses(&then(&world, &before).0), ["10.0.9.9:5"], "{wrong}");
    }
    let mut unreadable = all(&[&gateway(tenancy), REPLICAS, &load_balancer("a", 0, spec)]);
    unreadable.load_balancers.get_mut(&object("a")).unwrap().spec = None;
    assert_eq!(addresses(&then(&unreadable, &before).0), ["10.0.9.9:5"]);
}

#[test]
fn files_are_not_read_in_a_cluster() {
    let spec = "listeners: [{port: 5432, tls: {certificateRefs: [{files: {certificate: a, key: b}}]}}], \
                backends: [{service: {name: pg, port: 1}}]";
    let (_, verdicts) = first(&all(&[&gateway(""), SERVICE, &load_balancer("a", 0, spec)]));
    assert!(messages_of(&verdicts)[0].contains("files are not supported in a cluster: write the name of a Secret"));
}

#[test]
fn a_cluster_probes_only_on_request() {
    let checks = |mode: &str, check: &str| {
        let spec = format!("{GOOD}, healthCheck: {check}");
        let (snapshot, _) = first(&all(&[mode, SERVICE, &load_balancer("a", 0, &spec)]));
        snapshot.upstreams[&upstream("a")].active_check.is_some()
    };
    for mode in [&gateway(""), "{kind: Sidecar, address: 127.0.0.1}"] {
        for (check, expected) in
            [("null", false), ("{}", false), ("{active: {}}", true), ("{active: {type: None}}", false)]
        {
            assert_eq!(checks(mode, check), expected, "{check}");
        }
    }
}

#[test]
fn another_port_is_probed_only_where_a_backend_may_be() {
    // A host-network pod on the node of the API server.
    let probed = |port: u16| {
        let spec = format!("{GOOD}, healthCheck: {{active: {{port: {port}}}}}");
        let pod = pods(&["172.18.0.2"]);
        let (snapshot, verdicts) =
            first(&all(&[&gateway(""), SERVICE, API_SERVER, &pod, &load_balancer("a", 0, &spec)]));
        (addresses(&snapshot), messages_of(&verdicts))
    };
    assert_eq!(probed(8008), (vec!["172.18.0.2:7".to_owned()], Vec::new()));
    let (served, messages) = probed(6443);
    let expected = "spec.backends[0]: probes would go to 172.18.0.2:6443, which is an address of the proxies, of the \
                    API server or of a Service, which is not permitted for backends: write another port to probe";
    assert!(served.is_empty() && messages[0].starts_with(expected), "{messages:?}");
}
