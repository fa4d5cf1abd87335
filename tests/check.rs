//! `tcplb check` as a process.

#![expect(clippy::unwrap_used, reason = "tests panic on unexpected values")]

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Read, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use serde_json::{Value, json};

/// Runs `tcplb check` with these arguments and standard input. Returns its exit code, standard output and standard
/// error.
fn check(arguments: &[&str], input: &str) -> (i32, String, String) {
    run(check_command().args(arguments), input)
}

const NO_LOAD_BALANCER: &str = "warning: no TcpLoadBalancer found: name files that have one";

fn check_command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcplb"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).arg("check").env_remove("KUBECONFIG");
    command
}

fn run(command: &mut Command, input: &str) -> (i32, String, String) {
    let mut check = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command with wrong arguments does not read its input.
    let _ = check.stdin.take().unwrap().write_all(input.as_bytes());
    let output = check.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Runs `tcplb check --cluster` with a context of namespace `team`, against an API server without objects.
fn check_in_empty_cluster(arguments: &[&str], input: &str) -> (i32, String, String) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    thread::spawn(move || {
        for client in server.incoming() {
            thread::spawn(move || answer_with_nothing(client.unwrap()));
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("config");
    let config = format!(
        "{{apiVersion: v1, kind: Config, current-context: a, clusters: [{{name: a, cluster: {{server: 'http://{address}'}}}}], \
         users: [{{name: a, user: {{}}}}], contexts: [{{name: a, context: {{cluster: a, user: a, namespace: team}}}}]}}"
    );
    fs::write(&kubeconfig, config).unwrap();
    run(check_command().env("KUBECONFIG", kubeconfig).arg("--cluster").args(arguments), input)
}

/// Answers requests: lists have no items, and single objects do not exist.
fn answer_with_nothing(client: TcpStream) {
    let mut lines = BufReader::new(client.try_clone().unwrap()).lines().map_while(Result::ok);
    while let Some(request) = lines.next() {
        lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
        let (status, body) = match request.contains("/endpointslices?") {
            true => (
                "200 OK",
                json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSliceList", "metadata": {}, "items": []}),
            ),
            false => (
                "404 Not Found",
                json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "message": "", "code": 404}),
            ),
        };
        let (body, mut client) = (body.to_string(), &client);
        let _ = write!(
            client,
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
    }
}

/// The first manifest of the README.
fn first_manifest() -> String {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, rest) = readme.split_once("kubectl apply -f - <<END\n").expect("the README applies a manifest");
    rest.split_once("\nEND\n").unwrap().0.to_owned()
}

fn load_balancer(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{{spec}}}\n"
    )
}

const TO_A_SERVICE: &str = "listeners: [{port: 5432}], backends: [{service: {name: pg, port: 5432}}]";
const TO_AN_ADDRESS: &str = "listeners: [{port: 5432}], backends: [{addresses: ['192.0.2.7:5432']}]";

#[test]
fn the_first_manifest_of_the_readme_is_accepted() {
    let first = first_manifest();
    let (code, told, errors) = check(&["-"], &first);
    assert_eq!((code, errors.as_str()), (0, ""), "{told}");
    assert_eq!(
        told,
        "default/first (standard input): accepted, with unknown references\n  unknown: spec.backends[0].service.name: \
         Service default/echo is not in these files: add the manifest, or use --cluster to read it from the cluster\n"
    );
    let (code, told, _) = check(&["--strict", "-"], &first);
    assert!(code == 1 && told.ends_with("with --strict, warnings and unknown references count as errors\n"), "{told}");

    // Kubernetes looks for the pods of a Service once it exists.
    let (code, told, _) = check(&["--strict", "-", "manifests/echo.yaml"], &first);
    assert!(code == 0 && told.starts_with("default/first (standard input): accepted\n"), "{told}");
    let echo = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/echo.yaml")).unwrap();
    let (code, told, errors) = check_in_empty_cluster(&["--strict", "-"], &format!("{first}\n---\n{echo}"));
    assert!(code == 0 && told.contains("first (standard input): accepted\n"), "{told}{errors}");
    // Without a selector, another writer must create the EndpointSlices.
    let service = "\n---\napiVersion: v1\nkind: Service\nmetadata: {name: echo}\nspec: {ports: [{port: 5001}]}\n";
    let (code, told, _) = check(&["-"], &(first.clone() + service));
    assert!(code == 0 && told.contains("the endpoints of Service default/echo are not in these files"), "{told}");
    let (code, told, errors) = check_in_empty_cluster(&["-"], &(first.clone() + service));
    assert!(code == 0 && told.contains("warning: spec.backends[0]: Service team/echo has no ready"), "{told}{errors}");
    let (code, told, _) = check(&["-", "manifests/echo.yaml"], &first.replace("port: 5001", "port: 5002"));
    assert!(code == 1 && told.contains("Service default/echo has no port 5002: write one of 5001"), "{told}");

    let (code, told, _) = check(&["--mode", "standalone", "-"], &first);
    assert!(code == 1 && told.contains("Service default/echo does not exist"), "{told}");
}

#[test]
fn standard_input_is_text_in_utf_8_with_or_without_a_byte_order_mark() {
    let json = format!("\u{feff}{}", json!({"apiVersion": "v1", "kind": "List", "items": []}));
    assert_eq!(check(&["-"], &json), (0, format!("{NO_LOAD_BALANCER}\n"), String::new()));
    let (code, told, _) = check(&["-"], &format!("\u{feff}{}", first_manifest()));
    assert!(code == 0 && told.starts_with("default/first (standard input): accepted"), "{told}");
    for (input, sentence) in [
        ("a: b\0", "has a NUL byte at line 1"),
        ("---\n\u{feff}---\n", "has a byte order mark within the text, at line 2"),
    ] {
        let (code, told, errors) = check(&["-"], input);
        assert!(code == 2 && told.is_empty() && errors.contains(&format!("standard input: {sentence}")), "{errors}");
    }
}

#[test]
fn the_manifests_of_the_repository_are_accepted() {
    let (code, told, errors) = check(&["manifests"], "");
    assert_eq!((code, errors.as_str()), (0, ""), "{told}");
    assert!(told.contains("accepted") && told.contains(" objects of other kinds were ignored\n"), "{told}");
}

#[test]
fn secrets_and_config_maps_that_are_elsewhere_are_unknown() {
    let spec = "listeners: [{port: 5432, tls: {certificateRefs: [{name: pg-tls}], clientValidation: {caRefs: [{name: \
                clients}]}}}], backends: [{service: {name: pg, port: 5432}, tls: {serverName: pg.example.com, caRefs: \
                [{name: db-ca}], certificateRef: {name: us}}}], healthCheck: {active: {type: Postgres, postgres: {user: \
                probe, passwordRef: {name: probe-password}}}}";
    let (code, told, _) = check(&["-"], &load_balancer("shop", "pg", spec));
    assert_eq!(code, 0, "{told}");
    for object in ["Secret shop/pg-tls", "ConfigMap shop/clients", "Service shop/pg", "ConfigMap shop/db-ca"] {
        assert!(told.contains(&format!("{object} is not in these files")), "{object}: {told}");
    }
    for object in ["Secret shop/us", "Secret shop/probe-password"] {
        assert!(told.contains(&format!("{object} is not in these files")), "{object}: {told}");
    }
    assert!(!told.contains("error") && !told.contains("warning"), "{told}");
    // Objects among the files are validated.
    let empty = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: pg-tls, namespace: shop}\n";
    let (code, told, _) = check(&["-"], &(load_balancer("shop", "pg", spec) + empty));
    assert!(code == 1 && told.contains("Secret shop/pg-tls has no tls.crt"), "{told}");
}

#[test]
fn mistakes_in_objects_that_no_load_balancer_refers_to_do_not_count() {
    let unrelated = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: other, namespace: shop}\ndata: {a: 'no base64!'}\n\
                     ---\napiVersion: v1\nkind: Secret\nmetadata: {name: sops}\ndata: {a: 'ENC[AES256_GCM,data:YQ==]'}\n\
                     sops: {version: 3.9.0}\n\
                     ---\napiVersion: v1\nkind: Secret\nmetadata: {generateName: job-}\n\
                     ---\napiVersion: v1\nkind: Service\nmetadata: {name: other, namespace: shop}\nspec: {prots: []}\n\
                     ---\napiVersion: v1\nkind: Service\nmetadata: {name: other, namespace: shop}\n";
    let all = load_balancer("shop", "pg", TO_AN_ADDRESS) + unrelated;
    for arguments in [&[][..], &["--strict"], &["--mode", "standalone"]] {
        let (code, told, _) = check(&[arguments, &["-"]].concat(), &all);
        assert!(code == 0 && !told.contains("error"), "{arguments:?}: {told}");
    }
    let spec = "listeners: [{port: 5432, tls: {certificateRefs: [{name: other}]}}], backends: [{service: {name: other, port: 1}}]";
    let (code, told, _) = check(&["-"], &(load_balancer("shop", "pg", spec) + unrelated));
    assert!(code == 1 && told.contains("Secret shop/other: data.a: is not base64"), "{told}");
    assert!(told.contains("spec.prots: unknown field"), "{told}");
    assert!(told.contains("Service shop/other is also declared at standard input:"), "{told}");
}

#[test]
fn secrets_with_encrypted_values_are_unknown_in_a_cluster() {
    let spec =
        "listeners: [{port: 5432, tls: {certificateRefs: [{name: pg-tls}]}}], backends: [{addresses: ['192.0.2.7:1']}]";
    for data in ["data: {tls.crt: 'ENC[AES256_GCM,data:YQ==]'}", "stringData: {tls.crt: <path:secret/data/pg#crt>}"] {
        let secret =
            format!("---\napiVersion: v1\nkind: Secret\nmetadata: {{name: pg-tls, namespace: shop}}\n{data}\n");
        let all = load_balancer("shop", "pg", spec) + &secret;
        let (code, told, _) = check(&["-"], &all);
        let unknown = "  unknown: spec.listeners[0].tls.certificateRefs[0]: Secret shop/pg-tls cannot be checked: the \
                       document contains encrypted values or placeholders";
        assert!(code == 0 && told.contains(unknown) && !told.contains("error"), "{data}: {told}");
        let (code, told, _) = check(&["--mode", "standalone", "-"], &all);
        assert!(
            code == 1 && told.contains("Secret shop/pg-tls cannot be read: the document contains encrypted values"),
            "{data}: {told}"
        );
    }
}

#[test]
fn manifests_without_a_namespace_are_in_that_of_the_context_or_of_the_flag() {
    let manifest = format!(
        "apiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: a}}\nspec: {{{TO_A_SERVICE}}}\n{}",
        load_balancer("shop", "b", TO_A_SERVICE)
    );
    let (code, told, _) = check(&["-"], &manifest);
    assert!(code == 0 && told.contains("default/a (") && told.contains("Service default/pg is not"), "{told}");
    let (code, told, _) = check(&["--namespace", "games", "-"], &manifest);
    assert!(code == 0 && told.contains("games/a (") && told.contains("Service games/pg is not"), "{told}");
    assert!(told.contains("shop/b ("), "{told}");
    let (code, told, errors) = check_in_empty_cluster(&["-"], &manifest);
    assert!(code == 1 && told.contains("Service team/pg does not exist"), "{told}{errors}");
    assert!(told.contains("Service shop/pg does not exist"), "{told}{errors}");
    let (code, told, errors) = check_in_empty_cluster(&["-n", "games", "-"], &manifest);
    assert!(code == 1 && told.contains("Service games/pg does not exist"), "{told}{errors}");
    let (code, _, errors) = check(&["-n", "Games", "-"], &manifest);
    assert!(code == 2 && errors.contains("`Games` is not a name"), "{errors}");
}

#[test]
fn a_folder_with_a_kustomization_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("kustomization.yaml"), "resources: [pg.yaml]\n").unwrap();
    fs::write(folder.path().join("pg.yaml"), load_balancer("shop", "pg", TO_AN_ADDRESS)).unwrap();
    let (code, told, _) = check(&[folder.path().to_str().unwrap()], "");
    assert!(code == 0 && told.ends_with("1 object of another kind was ignored\n"), "{told}");
}

#[test]
fn only_what_shares_an_address_conflicts() {
    for (spec, arguments, code) in [
        (TO_A_SERVICE, &[][..], 0),
        (TO_AN_ADDRESS, &[], 0),
        (TO_AN_ADDRESS, &["--mode", "cluster"], 0),
        (TO_AN_ADDRESS, &["--mode", "standalone"], 1),
        // The ports of nodes are shared by all load balancers.
        (&format!("placement: Host, {TO_A_SERVICE}"), &[], 1),
        ("listeners: [{port: 5432, address: 127.0.0.1}], backends: [{addresses: ['192.0.2.7:1']}]", &[], 1),
    ] {
        let both = load_balancer("shop", "pg", spec) + &load_balancer("games", "pg", spec);
        let (got, told, _) = check(&[arguments, &["-"]].concat(), &both);
        assert_eq!(got, code, "{spec} {arguments:?}: {told}");
    }
    let both = load_balancer("default", "a", TO_AN_ADDRESS) + &load_balancer("default", "b", TO_AN_ADDRESS);
    let (code, told, _) = check(&["-"], &both);
    assert!(code == 1 && told.contains("5432 is taken by default/a"), "{told}");
}

#[test]
fn a_node_port_belongs_to_one_load_balancer() {
    let spec = |ports: &str, of_service: &str| {
        format!(
            "service: {{type: {of_service}}}, listeners: [{ports}], backends: [{{service: {{name: pg, port: 5432}}}}]"
        )
    };
    let of = |port| format!("{{name: a{port}, port: {port}, nodePort: {port}}}");
    let first = spec(&format!("{}, {}", of(30001), of(30002)), "NodePort");
    let taken = "error: spec.listeners[0].nodePort: 30002 is also a nodePort of load balancer games/a: write another";
    for (port, of_service, code, sentence) in [
        (30002, "NodePort", 1, taken),
        (30002, "LoadBalancer", 1, taken),
        (30003, "NodePort", 0, "shop/b (standard input): accepted"),
        (30002, "ClusterIP", 1, "error: spec.listeners[0].nodePort: has no effect with service type ClusterIP"),
    ] {
        let second = spec(&of(port), of_service);
        let both = load_balancer("shop", "b", &second) + &load_balancer("games", "a", &first);
        let (got, told, _) = check(&["-"], &both);
        assert!(got == code && told.contains(sentence), "{port} {of_service}: {told}");
        assert!(told.contains("games/a (standard input): accepted"), "{told}");
    }
    // A load balancer without a node port takes none from others.
    let both = load_balancer("games", "a", &spec(&of(30001), "ClusterIP"))
        + &load_balancer("shop", "b", &spec(&of(30001), "NodePort"));
    let (_, told, _) = check(&["-"], &both);
    assert!(told.contains("shop/b (standard input): accepted"), "{told}");
}

#[test]
fn standalone_settings_are_refused_for_a_cluster() {
    for (spec, field) in [
        (
            "listeners: [{port: 1, address: 127.0.0.1}], backends: [{addresses: ['192.0.2.7:1']}]",
            "listeners[0].address",
        ),
        (
            "listeners: [{port: 1, tls: {certificateRefs: [{files: {certificate: a.crt, key: a.key}}]}}], backends: \
             [{addresses: ['192.0.2.7:1']}]",
            "listeners[0].tls.certificateRefs[0]",
        ),
        (
            "placement: Host, service: {type: ClusterIP}, listeners: [{port: 1}], backends: [{addresses: ['192.0.2.7:1']}]",
            "service",
        ),
    ] {
        let (code, told, _) = check(&["--mode", "cluster", "-"], &load_balancer("shop", "a", spec));
        assert!(code == 1 && told.contains(&format!("error: spec.{field}")), "{spec}: {told}");
    }
}

#[test]
fn settings_beyond_the_tenancy_rules_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let values =
        write("values.yaml", "replicas: 2\ntenancy: {allowedServiceTypes: [ClusterIP], maxListenersPerNamespace: 1}\n");
    let more = write("more.yaml", "tenancy: {allowedBackendNetworks: [192.0.2.0/24]}\n");
    let asks = format!("service: {{type: LoadBalancer}}, {TO_A_SERVICE}");
    let (code, told, _) = check(&["-"], &load_balancer("shop", "a", &asks));
    assert_eq!(code, 0, "{told}");
    for (spec, sentence) in [
        (&*asks, "spec.service.type: LoadBalancer is not allowed: the administrator allows ClusterIP"),
        (TO_AN_ADDRESS, "spec.backends[0].addresses[0]: 192.0.2.7:5432 is neither a pod"),
        (
            &format!("placement: Host, {TO_A_SERVICE}"),
            "5432 may not be opened on the nodes: the administrator allows none",
        ),
    ] {
        let (code, told, _) = check(&["--tenancy", &values, "-"], &load_balancer("shop", "a", spec));
        assert!(code == 1 && told.contains(sentence), "{spec}: {told}");
    }
    let (code, told, _) =
        check(&["--tenancy", &values, "--tenancy", &more, "-"], &load_balancer("shop", "a", TO_AN_ADDRESS));
    assert_eq!(code, 0, "{told}");
    let two = load_balancer("shop", "a", TO_A_SERVICE) + &load_balancer("shop", "b", TO_A_SERVICE);
    let (code, told, _) = check(&["--tenancy", &values, "-"], &two);
    assert!(code == 1 && told.contains("the administrator allows 1 listeners in namespace shop"), "{told}");

    // An exceeded quota is reported even for objects that are not in the files.
    let refers = "listeners: [{port: 5432, tls: {certificateRefs: [{name: pg-tls}]}}], backends: [{service: {name: pg, port: \
                  5432}}], healthCheck: {active: {type: Postgres, postgres: {user: a, passwordRef: {name: probe}}}}";
    let none = write("none.yaml", "tenancy: {maxSecretsPerNamespace: 0}\n");
    let (code, told, _) = check(&["--tenancy", &none, "-"], &load_balancer("shop", "a", refers));
    assert!(code == 1 && told.matches("the administrator allows no Secrets and ConfigMaps").count() == 2, "{told}");
    let unlimited = write("unlimited.yaml", "tenancy: {maxSecretsPerNamespace: null}\n");
    let (code, told, _) =
        check(&["--tenancy", &none, "--tenancy", &unlimited, "-"], &load_balancer("shop", "a", refers));
    assert_eq!(code, 0, "{told}");
    let nothing = write("nothing.yaml", "tenancy: {maxLoadBalancersPerNamespace: 0}\n");
    let (code, told, _) = check(&["--tenancy", &nothing, "-"], &load_balancer("shop", "a", TO_A_SERVICE));
    let sentence = "the administrator allows no load balancers in namespace shop: ask the administrator to allow some";
    assert!(code == 1 && told.contains(sentence), "{told}");

    for (arguments, sentence) in [
        (&["--tenancy", "/nowhere.yaml", "-"][..], "/nowhere.yaml: "),
        (&["--tenancy", &values, "--mode", "standalone", "-"], "--cluster and --tenancy require --mode cluster"),
        (&["--cluster", "-"], "cannot find a cluster"),
        (&["--output", "xml", "-"], "invalid value 'xml'"),
        (&[], "required arguments"),
    ] {
        let (code, told, errors) = check(arguments, &two);
        assert!(code == 2 && told.is_empty() && errors.contains(sentence), "{arguments:?}: {code} {errors}");
    }
}

#[test]
fn lists_are_read_with_what_the_api_server_leaves_out_in_them() {
    let item = |port: u16| {
        json!({
            "metadata": {"name": format!("lb-{port}"), "creationTimestamp": null},
            "spec": {"listeners": [{"port": port}], "backends": [{"service": {"name": "pg", "port": 5432}}]},
        })
    };
    let service = json!({"metadata": {"name": "pg"}, "spec": {"clusterIP": "None", "ports": [{"port": 5432}]}});
    let ours = json!({"apiVersion": "tcplb.io/v1alpha1", "kind": "TcpLoadBalancerList", "items": [item(1), item(2)]});
    let services = json!({"apiVersion": "v1", "kind": "ServiceList", "items": [service]});
    let slices = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSliceList", "items": [{
        "metadata": {"name": "pg-1", "labels": {"kubernetes.io/service-name": "pg"}},
        "addressType": "IPv4", "ports": [{"port": 5432}], "endpoints": [{"addresses": ["192.0.2.7"]}],
    }]});
    let all = json!({"apiVersion": "v1", "kind": "List", "items": [ours, services, slices]});
    for text in [format!("{all:#}"), format!("{ours}{services}{slices}"), format!("---\n{all}\n---\n# nothing\n")] {
        let (code, told, _) = check(&["-"], &text);
        assert_eq!(
            (code, &*told),
            (0, "default/lb-1 (standard input): accepted\ndefault/lb-2 (standard input): accepted\n")
        );
    }
    let (code, told, _) = check(&["-"], "apiVersion: v1\nkind: List\nitems: {a: 1}\n");
    assert!(code == 1 && told.contains("standard input:1: items: must be a list"), "{told}");
}

#[test]
fn other_kinds_are_counted_and_misspelled_kinds_get_a_hint() {
    let others = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Namespace\n\
                  metadata: {name: b}\n";
    let (code, told, _) = check(&["-"], &(first_manifest() + "\n" + others));
    assert!(code == 0 && told.ends_with("\n2 objects of other kinds were ignored\n"), "{told}");
    for (from, to, hint) in [
        ("tcplb.io/v1alpha1", "tcplb.io/v1", "apiVersion: must be tcplb.io/v1alpha1"),
        ("tcplb.io/v1alpha1", "tclpb.io/v1alpha1", "apiVersion: must be tcplb.io/v1alpha1"),
        ("tcplb.io/v1alpha1", "tcplb/v1alpha1", "apiVersion: must be tcplb.io/v1alpha1"),
        ("TcpLoadBalancer", "TCPLoadBalancer", "kind: must be TcpLoadBalancer"),
        ("TcpLoadBalancer", "TcpLoadbalancers", "kind: must be TcpLoadBalancer"),
        ("{name: first}", "{name: first, lables: {a: b}}", "metadata.lables: unknown field (did you mean `labels`?)"),
        ("{name: first}", "{name: first, labels: {a: 1}}", "metadata.labels.a: must be text: write \"1\""),
        (
            "{name: first}",
            "{name: first, labels: {a: b c}}",
            "metadata.labels.a: the text `b c` is not a valid label value",
        ),
        (
            "{name: first}",
            "{name: first, annotations: {a b: c}}",
            "metadata.annotations: `a b` is not a qualified name",
        ),
    ] {
        let (code, told, _) = check(&["-"], &first_manifest().replace(from, to));
        assert!(code == 1 && told.contains(hint), "{to}: {told}");
    }
}

#[test]
fn verdicts_are_written_as_json_and_as_annotations() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a,b.yaml");
    let wrong = load_balancer("shop", "wrong", &TO_A_SERVICE.replace("5432}]", "70000}]"));
    fs::write(&file, load_balancer("shop", "pg", TO_A_SERVICE) + &wrong + "---\nkind: Other\napiVersion: a/v1\n")
        .unwrap();
    let path = file.to_str().unwrap();
    let (code, output, _) = check(&["-o", "json", path, "/nowhere.yaml"], "");
    let report: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(code, 1);
    let counts = ["passed", "errors", "warnings", "unknown", "passedOver"].map(|field| report[field].clone());
    assert_eq!(counts, [json!(false), json!(2), json!(0), json!(1), json!(1)], "{report:#}");
    let first = &report["loadBalancers"][0];
    assert_eq!(
        (&first["namespace"], &first["name"], &first["file"], &first["line"], &first["mode"], &first["accepted"]),
        (&json!("shop"), &json!("pg"), &json!(path), &json!(2), &json!("cluster"), &json!(true))
    );
    assert_eq!(first["problems"][0]["level"], "unknown");
    assert_eq!(first["problems"][0]["field"], "spec.backends[0].service.name");
    assert!(report["problems"][0].as_str().unwrap().starts_with("/nowhere.yaml: no such file"));

    let (code, report, _) = check(&["--output", "github", path, "/nowhere.yaml"], "");
    let place = format!("file={},line=7,title=shop/wrong::", path.replace(',', "%2C"));
    assert_eq!(code, 1);
    assert!(report.contains(&format!("::error {place}spec.listeners[0].port: 70000 is out of range")), "{report}");
    assert!(
        report.contains("::notice file=") && report.contains("::error file=/nowhere.yaml::/nowhere.yaml: "),
        "{report}"
    );
}

#[test]
fn annotations_are_at_the_line_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let good = load_balancer("shop", "pg", TO_A_SERVICE);
    for (name, text, line) in [
        ("broken.yaml", format!("{good}---\na: [1\n---\n{good}"), 7),
        ("twice.yaml", "---\n---\na: 1\nb: 2\na: 3\n".into(), 5),
        ("broken.json", "{\"a\":\n 1,\n}".into(), 3),
        ("duplicate.yaml", good.repeat(2), 7),
        ("no-object.yaml", format!("{good}---\na: 1\n"), 7),
    ] {
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        let (code, told, _) = check(&["-o", "github", file.to_str().unwrap()], "");
        let place = format!("::error file={},line={line}::", file.display());
        assert!(code == 1 && told.contains(&place), "{name}: {told}");
        // If an object is declared twice, the first one counts.
        assert!(!told.contains("title=shop/pg") || told.contains("line=2,title=shop/pg"), "{name}: {told}");
    }
    // Standard input has no file to annotate.
    let (_, told, _) = check(&["-o", "github", "-"], &format!("{good}---\na: 1\n"));
    assert!(
        told.starts_with("::notice title=shop/pg::spec.") && told.contains("\n::error ::standard input:7: "),
        "{told}"
    );
}

#[test]
fn foreign_text_is_no_command_in_a_log_of_github_actions() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    let mut manifests = String::new();
    for name in ["::error ::x", "  ::stop-commands::x", "a\\n::add-mask::x", "a\\r::debug::x", "a##[add-mask]x"] {
        manifests += &load_balancer(&format!("\"{name}\""), "pg", TO_AN_ADDRESS);
        manifests += &load_balancer("shop", &format!("\"{name}\""), TO_AN_ADDRESS);
        let backends = format!("backends: [{{name: \"{name}\", addresses: [\"{name}\"]}}]");
        manifests += &load_balancer("shop", "pg", &format!("listeners: [{{port: 1}}], {backends}, \"{name}\": 1"));
    }
    fs::write(&file, manifests).unwrap();
    for arguments in [&["-o", "github"][..], &["-o", "github", "--tenancy", "/::error\n::debug::x"]] {
        let path = [file.to_str().unwrap()];
        let (_, told, errors) = check(&[arguments, &path].concat(), "");
        let lines: Vec<_> = told.split(['\n', '\r']).chain(errors.split(['\n', '\r'])).collect();
        assert!(lines.len() > 1, "{told}{errors}");
        for line in lines {
            let is_ours = ["::error file=", "::notice file=", "::error ::"].iter().any(|own| line.starts_with(own));
            let is_ours = is_ours && !line.starts_with("::error ::x");
            assert!(is_ours || !line.trim_start().starts_with("::"), "{line}");
            assert!(is_ours || !line.contains("##["), "{line}");
        }
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut manifest = String::new();
    // The output is larger than a pipe.
    for number in 1..=3000 {
        write!(
            manifest,
            "---\napiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: number-{number}}}\n\
             spec: {{listeners: [{{port: {number}}}], backends: [{{addresses: ['192.0.2.7:1']}}]}}\n"
        )
        .unwrap();
    }
    let path = folder.path().join("many.yaml");
    std::fs::write(&path, manifest).unwrap();
    let mut check = Command::new(env!("CARGO_BIN_EXE_tcplb"))
        .arg("check")
        .arg(path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 17];
    check.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"default/number-1 ");
    let output = check.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn fields_without_a_value_are_warned_about() {
    let spec = "\n  listeners:\n  - port: 5432\n    name: null\n    tls:\n    access: {allow: ~, deny: [192.0.2.9]}\n    limits:\n    # maxConnections: 7\n  \
                backends: [{addresses: ['192.0.2.7:5432']}]\n  connect: {}\nstatus: {conditions: null}";
    let manifest = format!(
        "apiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: a, creationTimestamp: null}}\nspec:{spec}\n"
    );
    let (code, told, _) = check(&["-"], &manifest);
    let warned = told.lines().filter_map(|line| line.strip_prefix("  warning: ")?.split_once(": "));
    let warned: Vec<_> = warned.collect();
    let sentence = "has no value, so it is ignored: write one (fields that belong to it are indented below it), or \
                    remove the field";
    let fields = ["access.allow", "limits", "name", "tls"].map(|field| format!("spec.listeners[0].{field}"));
    let expected: Vec<_> = fields.iter().map(|field| (field.as_str(), sentence)).collect();
    assert_eq!((code, warned), (0, expected), "{told}");
    assert_eq!(check(&["--strict", "-"], &manifest).0, 1);
}

#[test]
fn a_check_of_nothing_does_not_pass_unnoticed() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n";
    for input in [secret, "# no document\n", "---\n"] {
        assert_eq!(check(&["-"], input), (0, format!("{NO_LOAD_BALANCER}\n"), String::new()), "{input:?}");
        let (code, told, _) = check(&["--strict", "-"], input);
        assert!(code == 1 && told.starts_with(NO_LOAD_BALANCER), "{input:?}: {told}");
        let (_, told, _) = check(&["-o", "json", "-"], input);
        let report: Value = serde_json::from_str(&told).unwrap();
        assert_eq!((&report["warnings"], &report["passed"]), (&json!(1), &json!(true)), "{input:?}");
        assert_eq!(report["notes"], json!([NO_LOAD_BALANCER.strip_prefix("warning: ").unwrap()]), "{input:?}");
        let (_, told, _) = check(&["-o", "github", "-"], input);
        assert!(told.starts_with("::warning ::no TcpLoadBalancer found"), "{told}");
    }
    for input in ["", " \n\n", "\u{feff}"] {
        let (code, told, wrong) = check(&["-"], input);
        assert_eq!((code, &*told), (2, ""), "{input:?}");
        assert_eq!(wrong, "tcplb: standard input: is empty: pass manifests to it\n", "{input:?}");
    }
}

/// Objects that the API server refuses. `tcplb check` names the same field for those that are invalid outside of a
/// cluster too.
#[test]
fn objects_that_an_api_server_refuses_are_refused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apiserver/objects/bad");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    let check = Command::new(env!("CARGO_BIN_EXE_tcplb")).arg("check").args(&files).output().unwrap();
    let output = String::from_utf8(check.stdout).unwrap();
    let mut wrong = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let (field, _) = text.strip_prefix("# ").and_then(|text| text.split_once(": ")).expect("`# field: sentence`");
        let of_file = format!("({}): refused", file.display());
        let mut lines = output.lines().skip_while(|line| !line.ends_with(&of_file)).skip(1);
        let mut errors = lines.by_ref().take_while(|line| line.starts_with("  "));
        // An object without a valid name is part of its file only.
        let is_of_file = |line: &str| line.contains(&*file.to_string_lossy()) && line.contains(&format!(" {field} "));
        if !errors.any(|line| line.starts_with(&format!("  error: {field}"))) && !output.lines().any(is_of_file) {
            wrong.push(format!("{}: nothing of {field}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}\n{output}", wrong.join("\n"));
}
