//! The CustomResourceDefinition, on a real API server: valid objects are accepted, and each mistake has its own
//! message. The objects are files: a new case is a new file.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use hyper::http::{Request, header};
use k8s_openapi::{
    api::core::v1::Namespace, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Error, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tcplb::api::{SCHEMA_HASH, crd, schema_hash};

use crate::harness::{self, WAIT_LIMIT};

#[tokio::test]
async fn each_bad_object_is_refused_with_its_own_sentence() {
    let Some(server) = Server::with_the_crd().await else { return };
    let mut wrong = Vec::new();
    let deadline = Instant::now() + WAIT_LIMIT;
    for case in cases("bad").into_iter().chain(cases("bad-in-a-cluster")) {
        let request = || server.create(&case.documents[0]);
        wrong.extend(case.answered(deadline, request).await.err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn each_good_object_is_taken() {
    let Some(server) = Server::with_the_crd().await else { return };
    let mut wrong = Vec::new();
    let deadline = Instant::now() + WAIT_LIMIT;
    for case in cases("good") {
        let request = || server.create(&case.documents[0]);
        wrong.extend(case.answered(deadline, request).await.err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn immutable_fields_cannot_be_changed_and_others_can() {
    let Some(server) = Server::with_the_crd().await else { return };
    let namespace = server.new_namespace().await;
    let mut wrong = Vec::new();
    let deadline = Instant::now() + WAIT_LIMIT;
    for case in cases("changes") {
        let [before, after] = &case.documents[..] else { panic!("{}: is not two documents", case.name) };
        let before = server.store(&namespace, &case.name, before).await;
        let mut after = after.clone();
        after["metadata"] = before["metadata"].clone();
        let request = || server.change(&after);
        wrong.extend(case.answered(deadline, request).await.err());
    }
    server.delete_namespace(&namespace).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The server bounds the cost of the rules for one object.
#[tokio::test]
async fn an_object_with_every_list_at_its_limit_is_taken() {
    let Some(server) = Server::with_the_crd().await else { return };
    let largest = largest();
    assert!(largest.to_string().len() > 1_500_000, "more than the server's store takes");
    server.create(&largest).await.unwrap();
}

#[tokio::test]
async fn as_many_checks_as_there_may_be_are_taken() {
    let Some(server) = Server::with_the_crd().await else { return };
    let mut object = smallest();
    let backend =
        |n: usize| json!({"name": format!("b{n}"), "addresses": ["a:1"], "healthCheck": {"active": largest_check()}});
    object["spec"]["backends"] = (0..64).map(backend).collect();
    object["spec"]["healthCheck"] = json!({"active": largest_check()});
    server.create(&object).await.unwrap();
}

#[tokio::test]
async fn an_object_beyond_a_limit_is_refused_whatever_its_size() {
    let Some(server) = Server::with_the_crd().await else { return };
    let port = |port: u32| json!({"port": port});
    let names = |count: usize| (0..count).map(|n| json!({"name": format!("n{n}")})).collect::<Vec<_>>();
    let networks =
        |count: usize| (0..count).map(|n| json!(format!("10.{}.{}.0/24", n / 256, n % 256))).collect::<Vec<_>>();
    let addresses = |count: usize| (0..count).map(|n| json!(format!("host-{n}:1"))).collect::<Vec<_>>();
    let texts_of = |count: usize| (0..count).map(|n| format!("n{n}")).collect::<Vec<_>>();
    let texts = |count: usize| (0..count).map(|n| (format!("k{n}"), json!("v"))).collect::<serde_json::Map<_, _>>();
    for (field, value, most) in [
        ("/spec/listeners", json!((1..=17).map(port).collect::<Vec<_>>()), "must have at most 16 items"),
        ("/spec/listeners", json!((1..=5_000).map(port).collect::<Vec<_>>()), "must have at most 16 items"),
        ("/spec/backends", json!(vec![json!({"addresses": ["a:1"]}); 65]), "must have at most 64 items"),
        ("/spec/backends/0/addresses", json!(addresses(65)), "must have at most 64 items"),
        ("/spec/backends/0/addresses", json!(addresses(100_000)), "must have at most 64 items"),
        ("/spec/backends/0/addresses", json!([format!("{}:1", "a".repeat(1_000_000))]), "may not be more than 260"),
        ("/spec/backends/0/name", json!("a".repeat(64)), "may not be more than 63"),
        ("/spec/backends/0/name", json!("a".repeat(1_000_000)), "may not be more than 63"),
        ("/spec/listeners/0/access", json!({"allow": networks(257)}), "must have at most 256 items"),
        ("/spec/listeners/0/access", json!({"deny": networks(6_000)}), "must have at most 256 items"),
        ("/spec/listeners/0/tls", json!({"certificateRefs": names(33)}), "must have at most 32 items"),
        ("/spec/listeners/0/tls", json!({"certificateRefs": names(1), "alpn": vec!["a"; 9]}), "at most 8 items"),
        (
            "/spec/listeners/0/tls",
            json!({"certificateRefs": names(1), "clientValidation": {"caRefs": names(9)}}),
            "must have at most 8 items",
        ),
        ("/spec/backends/0/tls", json!({"serverName": "a", "caRefs": names(9)}), "must have at most 8 items"),
        ("/spec/listeners/0/routes", json!(vec![json!({"serverNames": ["a"]}); 17]), "must have at most 16 items"),
        ("/spec/listeners/0/routes", json!([{"serverNames": texts_of(17)}]), "must have at most 16 items"),
        ("/spec/listeners/0/routes", json!([{"backends": texts_of(17)}]), "must have at most 16 items"),
        (
            "/spec/listeners/0/proxyProtocol",
            json!({"mode": "Required", "trustedNetworks": networks(65)}),
            "must have at most 64 items",
        ),
        ("/spec/service", json!({"annotations": texts(33)}), "must have at most 32 items"),
        ("/spec/service", json!({"labels": texts(20_000)}), "must have at most 32 items"),
        ("/spec/service", json!({"annotations": {"a": "x".repeat(4097)}}), "may not be more than 4096"),
        ("/spec/timeouts", json!({"idle": "1".repeat(1_000_000)}), "may not be more than 28"),
    ] {
        let mut object = smallest();
        set(&mut object, field, value);
        let answer = server.create(&object).await;
        let error = answer.expect_err(field);
        let cut: String = error.iter().flat_map(|(_, sentence)| sentence.chars().take(300)).collect();
        let matches = |(_, sentence): &(String, String)| sentence.contains(most) || sentence.contains("Too many");
        assert!(error.iter().any(matches), "{field}: {cut}");
    }
}

#[tokio::test]
async fn kubectl_prints_ports_address_ready_status_and_age() {
    let Some(server) = Server::with_the_crd().await else { return };
    let request = Request::get("/apis/tcplb.io/v1alpha1/tcploadbalancers?limit=1")
        .header(header::ACCEPT, "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(Vec::new())
        .unwrap();
    let table: Value = server.client.request(request).await.unwrap();
    // Columns of another priority are for `-o wide`.
    let names = |is_wide: bool| -> Vec<&str> {
        let columns = table["columnDefinitions"].as_array().unwrap().iter();
        let columns = columns.filter(|column| (column["priority"] != 0) == is_wide);
        columns.map(|column| column["name"].as_str().unwrap()).collect()
    };
    assert_eq!(names(false), ["Name", "Ports", "Address", "Ready", "Status", "Age"]);
    assert_eq!(names(true), ["Placement", "Class", "Message"]);
}

#[tokio::test]
async fn the_installed_definition_tells_which_schema_it_has() {
    let Some(server) = Server::with_the_crd().await else { return };
    let installed: CustomResourceDefinition = Api::all(server.client.clone()).get(&crd().name_any()).await.unwrap();
    assert_eq!(installed.annotations().get(SCHEMA_HASH), Some(&schema_hash()));
}

/// A file of objects, and the expected answer of the server to the last one.
struct Case {
    name: String,
    documents: Vec<Value>,
    /// A field and a part of the message; `None`: the object is accepted.
    expected: Option<(String, String)>,
}

fn cases(folder: &str) -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apiserver/objects").join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| Case::read(&file)).collect()
}

impl Case {
    fn read(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap();
        let first = text.lines().next().and_then(|line| line.strip_prefix("# ")).filter(|first| *first != "accepted");
        let expected = first.map(|first| first.split_once(": ").expect("`# field: sentence`"));
        Self {
            name: file.file_stem().unwrap().to_str().unwrap().to_owned(),
            documents: serde_saphyr::from_multiple(&text).unwrap(),
            expected: expected.map(|(field, sentence)| (field.to_owned(), sentence.to_owned())),
        }
    }

    /// Repeats the request until the answer is the expected one: a definition that was just installed takes a moment to
    /// be in force.
    async fn answered<F: Future<Output = Answer>>(
        &self,
        deadline: Instant,
        request: impl Fn() -> F,
    ) -> Result<(), String> {
        loop {
            let answer = request().await;
            if self.is_expected(&answer) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{}: expected {:?}, got {answer:#?}", self.name, self.expected));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// True for exactly one message, at the right field.
    fn is_expected(&self, answer: &Answer) -> bool {
        match (&self.expected, answer) {
            (None, Ok(())) => true,
            (Some((field, part)), Err(told)) => {
                matches!(&told[..], [(told_field, sentence)] if told_field == field && sentence.contains(part))
            }
            _ => false,
        }
    }
}

/// The answer of the server to an object: fields and messages, if it refuses the object.
pub type Answer = Result<(), Vec<(String, String)>>;

/// The answer of the server as one line of text.
pub fn told_by(told: &[(String, String)]) -> String {
    told.iter().map(|(field, sentence)| format!("{field}: {sentence}")).collect::<Vec<_>>().join("; ")
}

pub struct Server {
    client: Client,
}

impl Server {
    /// `None`: there is no cluster, and the test is skipped.
    async fn with_the_crd() -> Option<Self> {
        if !harness::has_test_cluster() {
            harness::skip(harness::NO_CLUSTER);
            return None;
        }
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Some(Self::with(Client::try_default().await.expect("the cluster of KUBECONFIG")).await)
    }

    /// Installs the definition.
    pub async fn with(client: Client) -> Self {
        let (code, printed, _) = harness::run(&["crd"]);
        assert_eq!(code, 0);
        let printed: CustomResourceDefinition = serde_saphyr::from_str(&printed).unwrap();
        let api: Api<CustomResourceDefinition> = Api::all(client.clone());
        let name = printed.name_any();
        let apply = PatchParams::apply("tcplb-tests").force();
        api.patch(&name, &apply, &Patch::Apply(&printed)).await.expect("the CRD is taken");
        let established = kube::runtime::conditions::is_crd_established();
        let established = kube::runtime::wait::await_condition(api, &name, established);
        tokio::time::timeout(WAIT_LIMIT, established).await.expect("the CRD is established").unwrap();
        let server = Self { client };
        let is_served = async {
            while server.create(&smallest()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(WAIT_LIMIT, is_served).await.expect("the kind is served");
        server
    }

    /// Creates an object like `kubectl create`, but nothing is stored.
    pub async fn create(&self, object: &Value) -> Answer {
        let path = "/apis/tcplb.io/v1alpha1/namespaces/default/tcploadbalancers?dryRun=All&fieldValidation=Strict";
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        self.answer(request.body(serde_json::to_vec(object).unwrap()).unwrap()).await
    }

    /// Replaces an object like `kubectl replace`, but nothing is stored.
    async fn change(&self, object: &Value) -> Answer {
        let text = |field: &str| object["metadata"][field].as_str().unwrap();
        let path = format!(
            "/apis/tcplb.io/v1alpha1/namespaces/{}/tcploadbalancers/{}?dryRun=All&fieldValidation=Strict",
            text("namespace"),
            text("name")
        );
        let request = Request::put(path).header(header::CONTENT_TYPE, "application/json");
        self.answer(request.body(serde_json::to_vec(object).unwrap()).unwrap()).await
    }

    async fn answer(&self, request: Request<Vec<u8>>) -> Answer {
        match self.client.request::<Value>(request).await {
            Ok(_) => Ok(()),
            Err(Error::Api(status)) => {
                let causes = status.details.as_ref().map_or(&[][..], |details| &details.causes);
                if causes.is_empty() {
                    return Err(vec![told("", &status.message)]);
                }
                // A rule that could not be checked is not a separate mistake.
                let causes = causes.iter().filter(|cause| !cause.message.contains("rules were not checked"));
                Err(causes.map(|cause| told(&cause.field, &cause.message)).collect())
            }
            Err(error) => panic!("the API server does not answer: {error}"),
        }
    }

    async fn store(&self, namespace: &str, name: &str, object: &Value) -> Value {
        let mut object = object.clone();
        object["metadata"]["name"] = json!(name);
        let path = format!("/apis/tcplb.io/v1alpha1/namespaces/{namespace}/tcploadbalancers");
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        self.client.request(request.body(serde_json::to_vec(&object).unwrap()).unwrap()).await.unwrap()
    }

    async fn new_namespace(&self) -> String {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"generateName": "tcplb-crd-"}})).unwrap();
        let api: Api<Namespace> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &namespace).await.unwrap().name_any()
    }

    async fn delete_namespace(&self, name: &str) {
        let api: Api<Namespace> = Api::all(self.client.clone());
        api.delete(name, &DeleteParams::background()).await.unwrap();
    }
}

/// The field and the message. Where the server names no field, the message does.
fn told(field: &str, sentence: &str) -> (String, String) {
    let field = match field {
        "<nil>" => sentence.trim_start_matches("Invalid value: ").split(' ').next(),
        "" => sentence.split("unknown field \"").nth(1).map(|rest| rest.trim_end_matches('"')),
        field => Some(field),
    };
    (field.unwrap_or_default().to_owned(), sentence.to_owned())
}

fn smallest() -> Value {
    json!({
        "apiVersion": "tcplb.io/v1alpha1", "kind": "TcpLoadBalancer", "metadata": {"name": "limits"},
        "spec": {"listeners": [{"port": 1}], "backends": [{"addresses": ["a:1"]}]},
    })
}

fn set(object: &mut Value, pointer: &str, value: Value) {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    object.pointer_mut(parent).unwrap()[field] = value;
}

/// The check that is most expensive to validate.
fn largest_check() -> Value {
    let interval = "1000s1000s1000ms1000ms";
    json!({
        "type": "HTTP", "interval": interval, "unhealthyInterval": interval, "timeout": interval,
        "http": {
            "path": format!("/{}", "a".repeat(255)), "host": "a".repeat(256),
            "statuses": (0..16).map(|n| format!("{}-599", 100 + n)).collect::<Vec<_>>(),
            "headers": (0..8).map(|n| json!({"name": format!("{n:0>63}"), "value": "a".repeat(256)})).collect::<Vec<_>>(),
        },
    })
}

/// The longest valid duration.
const DURATION: &str = "10000s10000s10000ms10000ms";

/// A number as a name of this length.
fn name(number: usize, length: usize) -> String {
    format!("{number:0>length$}")
}

/// A number as a DNS name of the maximum length.
fn subdomain(number: usize) -> String {
    let label = "a".repeat(61);
    format!("{:0>61}.{label}.{label}.{label}.{}", number, "a".repeat(5))
}

fn networks(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("ffff:ffff:ffff:ffff:ffff:ffff:ffff:{n:0>4x}/128")).collect()
}

fn addresses(count: usize) -> Vec<String> {
    // Not quite the maximum length: the server accepts requests of up to 3 MiB.
    let label = "a".repeat(62);
    (0..count).map(|n| format!("{n:0>62}.{label}.{label}.{}:65535", "a".repeat(40))).collect()
}

fn authorities() -> Vec<Value> {
    (0..8).map(|n| json!({"name": name(n, 63)})).collect()
}

fn largest_listener(number: usize) -> Value {
    let rate = json!({"count": 10_000_000, "per": "1000s1000s1000ms10000ms", "burst": 10_000_000});
    json!({
        "name": name(number, 63), "port": 60_000 + number, "nodePort": 30_000 + number,
        "tls": {
            "certificateRefs": (0..32).map(|n| json!({"name": subdomain(n)})).collect::<Vec<_>>(),
            "alpn": (0..8).map(|n| name(n, 63)).collect::<Vec<_>>(),
            "clientValidation": {"mode": "Required", "caRefs": authorities()},
        },
        "routes": (0..16).map(|route| json!({
            "serverNames": (0..16).map(|n| subdomain(16 * route + n)).collect::<Vec<_>>(),
            "backends": (48..64).map(|n| name(n, 63)).collect::<Vec<_>>(),
            "tls": {"mode": "Terminate"},
        })).collect::<Vec<_>>(),
        "proxyProtocol": {"mode": "Required", "trustedNetworks": networks(64)},
        "access": {"allow": networks(256), "deny": networks(256)},
        "limits": {
            "maxConnections": 10_000_000, "maxConnectionsPerSource": 10_000_000,
            "newConnections": rate, "newConnectionsPerSource": rate,
        },
    })
}

fn largest_backend(number: usize) -> Value {
    json!({
        "name": name(number, 63), "addresses": addresses(64), "resolveInterval": DURATION, "weight": 1000,
        "priority": number % 16, "proxyProtocol": "V2",
        "tls": {
            "serverName": subdomain(number), "caRefs": authorities(), "certificateRef": {"name": name(number, 63)},
            "startTls": "Postgres",
        },
    })
}

/// The largest labels or annotations, with values of this length.
fn largest_map(length: usize) -> Value {
    let key = |n: usize| format!("{}/{}", subdomain(n), name(n, 63));
    (0..32).map(|n| (key(n), json!("x".repeat(length)))).collect::<serde_json::Map<_, _>>().into()
}

/// An object with every field at its maximum number and length, except for checks: with them it would exceed the size
/// limit of requests.
fn largest() -> Value {
    let drained = json!({"policy": "Close", "after": DURATION, "spread": DURATION, "maxPerSecond": 100_000});
    json!({
        "apiVersion": "tcplb.io/v1alpha1", "kind": "TcpLoadBalancer",
        "metadata": {"name": "l".repeat(52)},
        "spec": {
            "className": name(0, 63),
            "service": {
                "type": "LoadBalancer", "externalTrafficPolicy": "Local", "ipFamilyPolicy": "RequireDualStack",
                "loadBalancerClass": format!("{}/{}", subdomain(0), name(0, 63)),
                // No rule validates the values of annotations, and the server accepts at most 3 MiB at once.
                "annotations": largest_map(63), "labels": largest_map(63),
            },
            "listeners": (0..16).map(largest_listener).collect::<Vec<_>>(),
            "backends": (0..64).map(largest_backend).collect::<Vec<_>>(),
            "loadBalancing": {
                "algorithm": "LeastConnections", "slowStart": "1000s1000s1000ms10000ms",
                "locality": {"prefer": "SameZone", "overloadedAt": 10_000_000},
                "failover": {
                    "minUsablePercent": 100,
                    "failback": {"policy": "Automatic", "after": DURATION, "requestedAt": "2026-12-01T11:40:00.123456789Z"},
                },
            },
            "rebalance": {
                "maxImbalancePercent": 1000, "maxClosesPerMinute": 1_000_000, "minAge": DURATION, "idleOnly": false,
            },
            "healthCheck": {
                "active": {"interval": "1000s1000s1000ms1000ms", "timeout": "1000s1000s1000ms1000ms"},
                "passive": {"ejectFor": DURATION, "maxEjectFor": DURATION},
            },
            "connect": {
                "timeout": DURATION, "deadline": DURATION, "preconnect": {"perEndpoint": 1000, "idleTimeout": DURATION},
            },
            "timeouts": {
                "handshake": DURATION, "idle": DURATION, "halfClosed": DURATION, "maxDuration": DURATION,
            },
            "tcpKeepalive": {"idle": DURATION, "interval": DURATION},
            "drain": {
                "endpointTerminating": drained, "endpointRemoved": drained, "endpointUnhealthy": drained,
                "endpointDrained": drained, "failback": drained, "listenerRemoved": drained, "shutdown": drained,
            },
            "drainedEndpoints": (0..64).map(subdomain).collect::<Vec<_>>(),
        },
    })
}
