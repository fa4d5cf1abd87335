use k8s_openapi::api::core::v1::Secret;
use proptest::prelude::*;

use super::*;
use crate::cost;

fn read(text: &str) -> Documents {
    Documents::read(Path::new("dir/a.yaml"), text, "default")
}

/// The only problem of a text without objects.
#[track_caller]
fn problem(file: &str, text: &str) -> String {
    let mut documents = Documents::read(Path::new(file), text, "default");
    assert_eq!((documents.objects.len(), documents.problems.len()), (0, 1), "{documents:?}");
    documents.problems.remove(0).message
}

fn messages(problems: &[FileProblem]) -> Vec<&str> {
    problems.iter().map(|problem| &**problem).collect()
}

/// `kind key` of each object, and its problems.
fn objects_of(documents: &Documents) -> Vec<(String, Vec<String>)> {
    let problems = |object: &Object| match object {
        Object::LoadBalancer(read) => read.clone().err(),
        Object::Secret(read) => read.clone().err(),
        Object::ConfigMap(read) => read.clone().err(),
        Object::Service(read) => read.clone().err(),
        Object::EndpointSlice(read) => read.clone().err(),
    };
    let object = |document: &Document| {
        let name = format!("{} {}", document.object.kind(), document.key);
        (name, problems(&document.object).unwrap_or_default())
    };
    documents.objects.iter().map(object).collect()
}

fn secret_of(documents: &Documents) -> &Secret {
    match &documents.objects[0].object {
        Object::Secret(Ok(secret)) => secret,
        _ => panic!("not a readable Secret: {:?}", objects_of(documents)),
    }
}

const LOAD_BALANCER: &str = "
apiVersion: tcplb.io/v1alpha1
kind: TcpLoadBalancer
metadata: {name: pg, namespace: shop}
spec:
  listeners: [{port: 5432}]
  backends: [{addresses: ['192.0.2.7:5432']}]
";

#[test]
fn a_file_may_have_objects_of_several_kinds() {
    let documents = read(&format!(
        "# the database
---
{LOAD_BALANCER}
---
apiVersion: v1
kind: Secret
metadata: {{name: pg-tls}}
stringData: {{tls.crt: x}}
---
---
apiVersion: v1
kind: Service
metadata: {{name: pg, namespace: shop}}
spec: {{ports: [{{port: 5432, targetPort: pg}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: pg-x, namespace: shop}}
addressType: IPv4
endpoints: [{{addresses: [10.0.0.1]}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: pg}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: pg}}
data: {{ca.crt: x}}
"
    ));
    let good = |name: &str| (name.to_owned(), vec![]);
    assert_eq!(
        objects_of(&documents),
        [
            good("TcpLoadBalancer shop/pg"),
            good("Secret default/pg-tls"),
            good("Service shop/pg"),
            good("EndpointSlice shop/pg-x"),
            good("ConfigMap default/pg")
        ]
    );
    assert!(documents.problems.is_empty(), "{documents:?}");
    assert_eq!(&*documents.objects[0].place, "dir/a.yaml:4");
}

#[test]
fn a_list_is_its_items() {
    let documents = read(
        "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: a}}
- {apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Service, metadata: {name: b}}]}
- {apiVersion: v1, kind: Service}
",
    );
    assert_eq!(documents.objects.len(), 2);
    assert_eq!(&*documents.objects[1].place, "dir/a.yaml:2 items[1] items[0]");
    assert!(documents.problems[0].starts_with("dir/a.yaml:2 items[2]: Service has no name"), "{documents:?}");
}

#[test]
fn json_is_read_from_files_called_so() {
    let text = "\n{\"apiVersion\": \"v1\", \"kind\": \"Service\",\n\t\"metadata\": {\"name\": \"pg\", \"annotations\": {\"a\": \"\\ud83d\\ude00\"}}}\n\n{\"kind\": 1}";
    let documents = Documents::read(Path::new("a.json"), text, "default");
    assert_eq!(&*documents.objects[0].place, "a.json:2");
    let Object::Service(Ok(service)) = &documents.objects[0].object else { panic!("{documents:?}") };
    assert_eq!(service.metadata.annotations.as_ref().unwrap()["a"], "😀");
    assert!(documents.problems[0].starts_with("a.json:5: is not a Kubernetes object"), "{documents:?}");
    let problem = problem("a.json", "{\"a\": [1}");
    assert!(problem.starts_with("a.json: is not JSON: ") && problem.contains("line 1 column 9"), "{problem}");
}

#[test]
fn byte_order_marks_at_the_beginning_are_ignored_in_json_and_yaml() {
    let service = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}"#;
    for marks in ["\u{feff}", "\u{feff}\u{feff}"] {
        let text = format!("{marks}{service}");
        let files = ["a.json", "a.yaml"].map(|file| Documents::read(Path::new(file), &text, "default"));
        for documents in files.iter().chain([&Documents::read_unnamed("standard input", &text, "default")]) {
            assert_eq!((documents.objects.len(), documents.problems.len()), (1, 0), "{documents:?}");
        }
    }
}

#[test]
fn a_byte_order_mark_between_json_documents_is_named() {
    let documents = Documents::read(Path::new("a.json"), "{\"kind\": 1}\n\n\u{feff}{\"kind\": 1}", "default");
    assert_eq!(documents.problems.len(), 2, "{documents:?}");
    assert_eq!(&*documents.problems[1], "a.json: has a byte order mark within the text, at line 3: remove it");
}

#[test]
fn invalid_yaml_is_reported_with_its_position() {
    for (text, words) in [
        ("a: [1\n", "unclosed bracket '[' at line 1, column 4"),
        ("a: 1\n b: 2\n", "at line 2, column 3"),
        ("a:\n\t- b\n", "tabs disallowed within this context (block indentation) at line 2"),
        ("x: 1\na: 1\na: 2\n", "`a` is written twice at line 3, column 1"),
        ("# none\n---\n\na: *b\n", "at line 4, column 4"),
    ] {
        let problem = problem("dir/a.yaml", text);
        assert!(problem.starts_with("dir/a.yaml: is not YAML: "), "{problem}");
        assert!(problem.contains(words), "{text:?}: {problem}");
    }
}

#[test]
fn documents_of_unknown_kind_get_a_message() {
    for (text, words) in [
        ("just text", "is not a Kubernetes object: start it with `apiVersion: tcplb.io/v1alpha1`"),
        ("[1, 2]", "is not a Kubernetes object"),
        ("listeners: [{port: 1}]", "is not a Kubernetes object"),
        (
            "{apiVersion: v1, kind: secret, metadata: {name: x}}",
            "there is no kind `secret` in v1: did you mean `Secret`?",
        ),
        ("{apiVersion: v1, kind: Services, metadata: {name: x}}", "did you mean `Service`?"),
        ("{apiVersion: discovery.k8s.io/v1, kind: EndpointSlices}", "did you mean `EndpointSlice`?"),
        (
            "{apiVersion: v1, kind: EndpointSlice, metadata: {name: x}}",
            "there is no EndpointSlice in v1: write `apiVersion: discovery.k8s.io/v1`",
        ),
        ("{apiVersion: discovery.k8s.io/v1beta1, kind: EndpointSlice}", "write `apiVersion: discovery.k8s.io/v1`"),
        ("{apiVersion: discovery.k8s/v1, kind: EndpointSlice}", "write `apiVersion: discovery.k8s.io/v1`"),
        ("{apiVersion: core/v1, kind: Secret}", "there is no Secret in core/v1: write `apiVersion: v1`"),
        ("{apiVersion: networking.k8s.io/v1, kind: Service}", "write `apiVersion: v1`"),
        ("{kind: Service}", "Service has no apiVersion: write `apiVersion: v1`"),
        ("{apiVersion: v1, kind: Secret}", "Secret has no name: write `metadata:` with `name:`"),
        ("{apiVersion: v1, kind: Secret, metadata: {name: ''}}", "Secret has no name"),
        (
            "{apiVersion: v1, kind: Secret, metadata: {name: 7}}",
            "metadata.name that is not text: write for example `name: \"7\"`",
        ),
        ("{apiVersion: v1, kind: Secret, metadata: x}", "Secret has no name"),
        ("{apiVersion: tcplb.io/v1alpha1, kind: TcpLoadBalancer, spec: {}}", "TcpLoadBalancer has no name"),
    ] {
        let documents = read(text);
        assert_eq!((documents.objects.len(), documents.problems.len()), (0, 1), "{text}: {documents:?}");
        assert!(documents.problems[0].starts_with("dir/a.yaml:1: "), "{documents:?}");
        assert!(documents.problems[0].contains(words), "{text}: {documents:?}");
    }
}

#[test]
fn objects_of_other_groups_are_ignored() {
    for text in [
        "{apiVersion: serving.knative.dev/v1, kind: Service}",
        "{apiVersion: example.com/v1, kind: TcpLoadBalancer}",
        "{apiVersion: v1, kind: ServiceAccount}",
        "{apiVersion: multicluster.x-k8s.io/v1, kind: Service}",
        "{apiVersion: gateway.networking.k8s.io/v1, kind: TCPRoute}",
        "{kind: Kustomization}",
        // No manifest can refer to a name that the API server generates.
        "{apiVersion: v1, kind: Secret, metadata: {generateName: a-}}",
    ] {
        let documents = read(text);
        assert_eq!((documents.objects.len(), documents.problems.len()), (0, 0), "{text}: {documents:?}");
    }
}

#[test]
fn a_mistyped_load_balancer_is_still_that_load_balancer() {
    for (from, to, words) in [
        (
            "apiVersion: tcplb.io/v1alpha1",
            "apiVersion: tcplb/v1alpha1",
            "apiVersion: must be tcplb.io/v1alpha1: write `apiVersion: tcplb.io/v1alpha1`",
        ),
        (
            "apiVersion: tcplb.io/v1alpha1",
            "apiVersion: networking.tcplb.example.com/v1",
            "apiVersion: must be tcplb.io/v1alpha1: write `apiVersion: tcplb.io/v1alpha1`",
        ),
        (
            "kind: TcpLoadBalancer",
            "kind: TcpLoadBalancr",
            "kind: must be TcpLoadBalancer: write `kind: TcpLoadBalancer`",
        ),
        ("kind: TcpLoadBalancer", "kind: TCPLoadBalancer", "kind: must be TcpLoadBalancer"),
        ("kind: TcpLoadBalancer", "", "kind: must be TcpLoadBalancer"),
        (
            "tcplb.io/v1alpha1",
            "tcplb.io/v1",
            "apiVersion: must be tcplb.io/v1alpha1: write `apiVersion: tcplb.io/v1alpha1`",
        ),
        ("tcplb.io/v1alpha1", "tclb.io/v1alpha1", "apiVersion: must be tcplb.io/v1alpha1"),
        ("apiVersion: tcplb.io/v1alpha1", "", "apiVersion: must be tcplb.io/v1alpha1"),
        ("port: 5432", "port: 0", "spec.listeners[0].port: 0 is out of range"),
        ("name: pg", "name: pg, labels: {a: 1}", "metadata.labels.a: must be text: write"),
    ] {
        let documents = read(&LOAD_BALANCER.replace(from, to));
        let objects = objects_of(&documents);
        assert_eq!(objects[0].0, "TcpLoadBalancer shop/pg", "{to}: {documents:?}");
        assert_eq!(objects[0].1.len(), 1, "{objects:?}");
        assert!(objects[0].1[0].starts_with(words), "{objects:?}");
    }
}

#[test]
fn names_are_held_to_kubernetes_rules() {
    let named = |name: &str| LOAD_BALANCER.replace("name: pg", &format!("name: {name}"));
    assert!(objects_of(&read(&named(&"x".repeat(52))))[0].1.is_empty());
    let secret = format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: {}}}", "x".repeat(253));
    assert!(objects_of(&read(&secret))[0].1.is_empty());
    for (text, sentence) in [
        (named(&"x".repeat(53)), "TcpLoadBalancer has a metadata.name of 53 bytes: write at most 52"),
        (named("Data_Base"), "TcpLoadBalancer has an invalid metadata.name: `Data_Base` is not an object name: write"),
        (named("pg").replace("shop", "a.b"), "TcpLoadBalancer has an invalid metadata.namespace: `a.b` is not a name"),
    ] {
        let message = problem("a.yaml", &text);
        assert!(message.contains(sentence), "{message}");
    }
}

#[test]
fn a_secret_has_its_string_data_among_its_data() {
    let documents = read(
        "
apiVersion: v1
kind: Secret
metadata: {name: pg-tls}
type: kubernetes.io/tls
data:
  tls.crt: |
    aGVs
    bG8=
  tls.key: b2xk
stringData: {tls.key: new}
",
    );
    let secret = secret_of(&documents);
    let data = secret.data.as_ref().unwrap();
    assert_eq!(data["tls.crt"].0, b"hello");
    assert_eq!(data["tls.key"].0, b"new");
    assert_eq!(secret.string_data, None);
}

#[test]
fn messages_about_a_secret_do_not_quote_it() {
    for (fields, words) in [
        ("data: {tls.key: hunter2!}", "data.tls.key: is not base64: encode it"),
        ("stringData: {password: 4711}", "stringData.password: must be text: write it with quotes"),
        ("data: [4711]", "data: is not base64"),
        ("immutable: hunter2!", "immutable: is not valid in a Secret"),
    ] {
        let documents = read(&format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: x}}\n{fields}"));
        let objects = objects_of(&documents);
        assert!(objects[0].1[0].starts_with(words), "{objects:?}");
        let all = format!("{objects:?} {documents:?}");
        assert!(!all.contains("hunter2") && !all.contains("4711"), "{all}");
    }
    let good = read("{apiVersion: v1, kind: Secret, metadata: {name: x}, stringData: {a: hunter2}}");
    assert!(!format!("{good:?}").contains("hunter2"));
}

#[test]
fn a_service_or_slice_that_cannot_be_read_names_the_field() {
    let objects = objects_of(&read(
        "
{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: x}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a}, endpoints: 3}
",
    ));
    assert_eq!(objects[0].1, ["spec.ports[0].port: must be a whole number, not the text `x`"]);
    assert_eq!(objects[1].1, ["endpoints: must be a list (entries that start with `- `), not `3`"]);
}

#[test]
fn a_mistyped_field_of_a_kubernetes_object_is_only_a_warning() {
    let documents = read(
        "
{apiVersion: v1, kind: Service, metadata: {name: a, creationTimestamp: null}, spec: {ports: [{port: 1, protcol: UDP}]}, status: {loadBalancer: {}}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a}, endpoints: [{adresses: [10.0.0.1]}], ports: null}
---
{apiVersion: v1, kind: Secret, metadata: {name: a}, stringdata: {password: hunter2}, entirelyNew: hunter2}
",
    );
    assert!(objects_of(&documents).iter().all(|(_, problems)| problems.is_empty()), "{:?}", objects_of(&documents));
    assert_eq!(
        messages(&documents.remarks),
        [
            "dir/a.yaml:2: Service default/a: spec.ports[0].protcol: unknown field (did you mean `protocol`?); it is \
             ignored",
            "dir/a.yaml:4: EndpointSlice default/a: endpoints[0].adresses: unknown field (did you mean `addresses`?); \
             it is ignored",
            "dir/a.yaml:6: Secret default/a: entirelyNew: unknown field: known fields are apiVersion, data, immutable, \
             kind, metadata, stringData, type; it is ignored",
            "dir/a.yaml:6: Secret default/a: stringdata: unknown field (did you mean `stringData`?); it is ignored",
        ]
    );
}

#[test]
fn a_broken_document_does_not_affect_others() {
    let service = |name: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n");
    for (broken, words) in [
        ("kind: [\n", "unclosed bracket '[' at line 5, column 7"),
        ("x: 'open\n", "at line"),
        ("a: 1\na: 2\n", "`a` is written twice at line 6, column 1"),
        ("a:\n\t- b\n", "at line 6"),
        ("%YAML 9\n", "at line"),
    ] {
        for separator in ["---\n", "--- # next\n", "---\r\n"] {
            let (a, b, c) = (service("a"), service("b"), service("c"));
            let documents = read(&format!("{a}{separator}{broken}{separator}{b}{separator}{c}"));
            let names: Vec<_> = documents.objects.iter().map(|document| &*document.key.name).collect();
            assert_eq!(names, ["a", "b", "c"], "{broken:?} {:?}", documents.problems);
            let line = 6 + broken.lines().count();
            assert_eq!(&*documents.objects[1].place, format!("dir/a.yaml:{line}"));
            assert_eq!(documents.problems.len(), 1, "{:?}", documents.problems);
            assert!(documents.problems[0].starts_with("dir/a.yaml: is not YAML: "), "{:?}", documents.problems);
            assert!(documents.problems[0].contains(words), "{:?}", documents.problems);
        }
    }
    let json = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}} {"kind": }"#;
    let documents = Documents::read(Path::new("a.json"), json, "default");
    assert_eq!((documents.objects.len(), documents.problems.len()), (1, 1));
}

#[test]
fn directives_belong_to_the_document_below_them() {
    let broken = "apiVersion: v1\nkind: Secret\nmetadata: {name: [}\n";
    let text = format!(
        "%YAML 1.2\n---{LOAD_BALANCER}...\n# next\n%TAG !e! tag:example.com,2000:\n---\n{broken}---{LOAD_BALANCER}"
    );
    let documents = read(&text);
    assert_eq!((documents.objects.len(), documents.problems.len()), (2, 1), "{:?}", documents.problems);
    assert!(documents.problems[0].contains("at line 15,"), "{:?}", documents.problems);
}

#[test]
fn only_a_line_of_its_own_separates_documents() {
    let cut = |text| parts::separated(text).into_iter().map(|(_, part)| part).collect::<Vec<_>>();
    assert_eq!(cut("a\n---\nb\n--- c\n"), ["a\n", "---\nb\n", "--- c\n"]);
    assert_eq!(cut("---\na\n ---\n-----BEGIN\n"), ["---\na\n ---\n-----BEGIN\n"]);
    assert_eq!(cut("---"), ["---"]);
    assert_eq!(cut(""), [""]);
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,80}", mangled in 0..LOAD_BALANCER.len(), with in "[-\\[\\]{}:,&*!|>'\"%@ \t\n#?0a]{0,3}") {
        let _ = Documents::read(Path::new("a.yaml"), &text, "default");
        let _ = Documents::read(Path::new("a.json"), &text, "default");
        let mut near = LOAD_BALANCER.to_owned();
        near.replace_range(mangled..mangled + 1, &with);
        let _ = Documents::read(Path::new("a.yaml"), &near, "default");
    }
}

#[test]
fn a_file_may_be_large_but_aliases_may_not_multiply_it() {
    let many: String = (0..2_000).map(|n| LOAD_BALANCER.replace("name: pg", &format!("name: pg{n}")) + "---").collect();
    assert_eq!(read(&many).objects.len(), 2_000);
    let message = problem("a.yaml", &aliases(8));
    assert!(
        message.starts_with("a.yaml: line 5, column 50: with this alias, the aliases of the file add "),
        "{message}"
    );
    assert!(message.ends_with("write values out instead of aliases"), "{message}");
    // A cycle has no size.
    problem("a.yaml", "a: &a [*a]");
}

/// A document with this many levels of aliases, each nine times the size of the one before.
fn aliases(levels: usize) -> String {
    let level = |n: usize| format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 9].join(", "));
    (1..=levels).map(level).fold("a0: &a0 [lol]\n".to_owned(), |text, level| text + &level)
}

#[test]
fn aliases_of_all_documents_share_one_budget() {
    // The budget is enough for one document with four levels, but not for two. A syntax error has each read alone.
    for broken in ["", "a: [\n"] {
        let text = broken.to_owned() + &format!("---\n{}", aliases(4)).repeat(40) + "---\n" + LOAD_BALANCER;
        let documents = read(&text);
        let refused = documents.problems.iter().filter(|problem| problem.contains("with this alias")).count();
        assert_eq!((documents.objects.len(), refused), (1, 39), "{documents:?}");
    }
}

#[test]
fn refusing_aliases_costs_as_much_as_their_text() {
    let many = |count: usize| format!("---\n{}", aliases(6)).repeat(count);
    cost::assert_grows_no_faster_than_n_log_n(50, many, |text| {
        let documents = Documents::read(Path::new("a.yaml"), text, "default");
        assert!(documents.problems[0].contains("with this alias"), "{documents:?}");
    });
}

#[test]
fn reading_documents_after_anchors_costs_as_much_as_their_text() {
    let many = |count: usize| format!("[{}]\n{}", "&a x,".repeat(count), "---\n".repeat(count));
    cost::assert_grows_no_faster_than_n_log_n(10_000, many, |text| {
        let message = problem("a.yaml", text);
        assert!(message.contains("line 1: the document has more than 1000 anchors"), "{message}");
    });
}

#[test]
fn anchors_and_merge_keys_may_be_used_throughout_a_file() {
    let common =
        "{port: &port 5432, backend: &backend {addresses: ['192.0.2.7:5432']}, listener: &listener {port: *port}}";
    let object = |number: usize| {
        format!(
            "- {{apiVersion: tcplb.io/v1alpha1, kind: TcpLoadBalancer, metadata: {{name: pg{number}}}, spec: {{listeners: \
             [{{<<: *listener, name: pg}}], backends: [{{<<: *backend, name: pg}}]}}}}\n"
        )
    };
    let objects: String = (0..2000).map(object).collect();
    let documents =
        read(&format!("apiVersion: v1\nkind: List\nmetadata: {{annotations: {common}}}\nitems:\n{objects}"));
    assert_eq!((documents.objects.len(), documents.problems.len()), (2000, 0), "{:?}", documents.problems);
    assert!(objects_of(&documents).iter().all(|(_, problems)| problems.is_empty()), "{:?}", objects_of(&documents)[0]);
}

#[test]
fn deep_nesting_is_refused_and_not_followed() {
    for text in ["[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000)] {
        problem("a.yaml", &text);
        problem("a.json", &text);
    }
}

#[test]
fn reading_many_documents_costs_as_much_as_their_text() {
    let json = |count: usize| "{\"kind\": \"Other\", \"apiVersion\": \"other/v1\"}\n".repeat(count);
    cost::assert_grows_no_faster_than_n_log_n(1000, json, |text| {
        assert_eq!(Documents::read(Path::new("a.json"), text, "default").problems.len(), 0);
    });
    let broken = |count: usize| (0..count).map(|number| format!("---\na: [{number}\n")).collect::<String>();
    cost::assert_grows_no_faster_than_n_log_n(200, broken, |text| {
        assert!(!Documents::read(Path::new("a.yaml"), text, "default").problems.is_empty());
    });
    let wrong =
        |count: usize| (0..count).map(|number| format!("---\n{LOAD_BALANCER}  x{number}: 1\n")).collect::<String>();
    cost::assert_grows_no_faster_than_n_log_n(50, wrong, |text| {
        assert!(!Documents::read(Path::new("a.yaml"), text, "default").objects.is_empty());
    });
}

#[test]
fn messages_about_a_file_are_bounded() {
    let size = |documents: &Documents| -> usize {
        let objects = objects_of(documents).into_iter().map(|(name, problems)| name.len() + problems.concat().len());
        messages(&documents.problems).concat().len()
            + messages(&documents.remarks).concat().len()
            + objects.sum::<usize>()
    };
    let long = "x".repeat(1 << 20);
    for text in [
        LOAD_BALANCER.replace("name: pg", &format!("name: {long}")),
        LOAD_BALANCER.replace("namespace: shop", &format!("namespace: {long}")),
        LOAD_BALANCER.replace("port: 5432", &format!("port: {long}")),
        LOAD_BALANCER.replace("port: 5432", &format!("{long}: 5432")),
        LOAD_BALANCER.replace("192.0.2.7", &long),
        LOAD_BALANCER.replace("TcpLoadBalancer", &long),
        LOAD_BALANCER.replace("v1alpha1", &long),
        format!("{LOAD_BALANCER}  {long}: 1\n"),
        format!("{{kind: Secret, apiVersion: v1, metadata: {{name: a}}, data: {{{long}: '!'}}}}"),
        format!("{{kind: Secret, apiVersion: v1, metadata: {{name: a}}, {long}: 1}}"),
        format!("a: [{long}"),
        format!("{long}: 1\n{long}: 2\n"),
        (0..5000).map(|number| format!("---\na: [{number}\n")).collect(),
        LOAD_BALANCER.replace("port: 5432", &(0..5000).map(|number| format!("x{number}: 1, ")).collect::<String>()),
    ] {
        let size = size(&read(&text));
        assert!(size > 0 && size < 200_000, "{size}: {}…", &text[..200.min(text.len())]);
    }
}

#[test]
fn the_number_of_objects_in_a_file_is_limited() {
    let text = "{\"kind\": \"Service\", \"apiVersion\": \"v1\", \"metadata\": {\"name\": \"a\"}}\n".repeat(10_001);
    let documents = Documents::read(Path::new("a.json"), &text, "default");
    assert_eq!(documents.objects.len(), 10_000);
    assert_eq!(
        messages(&documents.problems),
        ["a.json: has 10001 objects: write at most 10000 into one file; the others are ignored"]
    );
}

#[test]
fn a_key_that_is_written_twice_is_refused_in_json_too() {
    let twice = r#"{"apiVersion": "tcplb.io/v1alpha1", "kind": "TcpLoadBalancer", "metadata": {"name": "a"}, "spec": {
        "listeners": [{"port": 1, "access": {"deny": ["127.0.0.0/8"], "deny": ["192.0.2.0/24"]}}]}}"#;
    let message = problem("a.json", twice);
    assert!(message.starts_with("a.json: is not JSON: `deny` is written twice at line 2"), "{message}");
    assert!(problem("a.yaml", "{\"1\": a, 1: b}").contains("`1` is written twice"));
    let input = Documents::read_unnamed("standard input", twice, "default");
    assert!(input.objects.is_empty() && input.problems.len() == 1, "{input:?}");
}

#[test]
fn a_number_that_is_octal_for_kubectl_is_refused() {
    for (text, path) in
        [("listeners: [{port: 05432}]", "listeners[0].port"), ("a: {b: [[1, 010]]}", "a.b[0][1]"), ("- 0_17", "[0]")]
    {
        let message = problem("a.yaml", text);
        assert!(message.starts_with(&format!("a.yaml: line 1: {path}: the number has a leading zero")), "{message}");
    }
    for text in ["a: 0", "a: '010'", "a: 0.5", "a: 00:05", "a: 2026-01-01", "a: 0x17", "# 010"] {
        let messages = read(text).problems;
        assert!(!messages.iter().any(|message| message.contains("leading zero")), "{text}: {messages:?}");
    }
}

#[test]
fn tags_that_are_not_of_the_core_schema_are_refused_and_not_quoted() {
    let sentence = "has a tag (a word after `!`), which is not supported";
    for (text, place) in [
        ("a: !hunter2 x", "line 1, column 4"),
        ("a:\n- b: !hunter2", "line 2, column 6"),
        ("--- !hunter2\na: 1", "line 1, column 5"),
        ("--- !hunter2", "line 1, column 5"),
        ("a: [!hunter2 {b: 1}]", "line 1, column 5"),
        ("!hunter2 a: 1", "line 1, column 1"),
        ("a: !null hunter2", "line 1, column 4"),
        ("a: !!binary aHVudGVyMg==", "line 1, column 4"),
        ("a: !<tag:example.com,2000:hunter2> x", "line 1, column 4"),
    ] {
        let message = problem("a.yaml", text);
        assert!(message.starts_with(&format!("a.yaml: {place}: {sentence}")), "{text}: {message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
    for (text, sentence) in [
        ("a: !!null hunter2", "line 1, column 4: has the tag `!!null`, but is not null"),
        ("a: !<tag:yaml.org,2002:null> [hunter2]", "line 1, column 4: has the tag `!!null`, but is not null"),
        ("a: !!int hunter2", "at line 1, column"),
        ("a: !!bool hunter2", "at line 1, column"),
        ("a: !!float hunter2", "at line 1, column"),
        ("a: !!map hunter2", "at line 1, column"),
        ("a: !!seq hunter2", "at line 1, column"),
    ] {
        let message = problem("a.yaml", text);
        assert!(message.contains(sentence) && !message.contains("hunter2"), "{text}: {message}");
    }
}

#[test]
fn tags_of_the_core_schema_are_accepted() {
    let tagged = "{a: !!str 1, b: !!int 2, c: !!bool true, d: !!null '', e: !!null ~, f: !!seq [], g: !!map {}, h: '!x', \
                  i: a!b, !!merge <<: {j: !!float 1.5}}";
    let documents = read(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec: {tagged}\n# !x\n"));
    assert_eq!((documents.problems.len(), documents.passed_over), (0, 1), "{documents:?}");
}

#[test]
fn an_unsupported_list_is_not_counted_as_another_kind() {
    let object = "{apiVersion: tcplb.io/v1alpha1, kind: TcpLoadBalancer, metadata: {name: a}, spec: {}}";
    for list in [
        format!("{{apiVersion: v1, kind: list, items: [{object}]}}"),
        format!("{{apiVersion: v1, kind: Lists, items: [{object}]}}"),
        format!("{{apiVersion: apps/v1, kind: List, items: [{object}]}}"),
        format!("{{kind: List, items: [{object}]}}"),
        format!("{{apiVersion: v1, kind: List, Items: [{object}]}}"),
        format!("{{apiVersion: v1, kind: List, items: [], item: [{object}]}}"),
        format!("{{apiVersion: v1, kind: ListOfThings, items: [{object}]}}"),
        format!("{{apiVersion: template.openshift.io/v1, kind: Template, objects: [{object}]}}"),
        format!("{{items: [{object}]}}"),
        "{apiVersion: v1, kind: List}".into(),
        "{apiVersion: v1, kind: SecretsList, items: [{metadata: {name: a}}]}".into(),
        "{apiVersion: v1, kind: TcpLoadBalancerList, items: [{metadata: {name: a}}]}".into(),
        "{apiVersion: tcplb.io/v1, kind: TcpLoadBalancerList, items: []}".into(),
    ] {
        let message = problem("a.yaml", &list);
        assert!(message.contains("below `items`"), "{list}: {message}");
    }
    for other in [
        "{apiVersion: v1, kind: PodList, items: [{metadata: {name: a}}]}",
        "{apiVersion: a.io/v1, kind: AllowList}",
        "{apiVersion: template.openshift.io/v1, kind: Template, objects: [{apiVersion: v1, kind: Service}]}",
    ] {
        let documents = read(other);
        assert_eq!((documents.problems.len(), documents.passed_over), (0, 1), "{other}");
    }
}

#[test]
fn problems_of_a_million_documents_are_counted_not_kept() {
    let documents = Documents::read(Path::new("a.json"), &"1 ".repeat(1_000_000), "default");
    assert_eq!(documents.problems.len(), 101);
    assert_eq!(&*documents.problems[100], "and 999900 more problems: correct these first");
    assert!(documents.problems.capacity() < 1000);
}

#[test]
fn a_kustomization_needs_no_kind() {
    let text = "resources: [pg.yaml]\n";
    for (file, problems) in [("a/kustomization.yaml", 0), ("a/kustomization.yml", 0), ("a/other.yaml", 1)] {
        let documents = Documents::read(Path::new(file), text, "default");
        assert_eq!((documents.problems.len(), documents.passed_over), (problems, 1 - problems), "{documents:?}");
    }
    let documents = Documents::read(Path::new("kustomization.yaml"), LOAD_BALANCER, "default");
    assert_eq!(documents.objects.len(), 1);
}

#[test]
fn values_that_a_tool_replaces_make_a_template() {
    for (fields, is_template) in [
        ("data: {tls.crt: 'ENC[AES256_GCM,data:YQ==,type:str]'}", true),
        ("stringData: {password: 'ENC[AES256_GCM,data:YQ==,type:str]'}", true),
        ("data: {tls.crt: 'YQ=='}, sops: {version: 3.9.0}", true),
        ("data: {tls.crt: <path:secret/data/pg#crt>}", true),
        ("stringData: {password: <password>}", true),
        ("data: {tls.crt: 'not base64!'}", false),
        ("data: {tls.crt: 'YQ=='}, stringData: {page: '<p> a < b </p>'}", false),
    ] {
        let documents = read(&format!("{{apiVersion: v1, kind: Secret, metadata: {{name: a}}, {fields}}}"));
        assert_eq!(documents.objects[0].is_template, is_template, "{fields}");
    }
}
