//! Objects that the chart renders from its values.

use serde_json::{Value, json};

use crate::{examples::takes_arguments_of, helm, objects, of_kind, render};

#[test]
fn the_crd_is_the_programs_own_and_stays() {
    let Some(objects) = objects(&[]) else { return };
    let rendered = of_kind(&objects, "CustomResourceDefinition")[0];
    let own = serde_json::to_value(tcplb::api::crd()).unwrap();
    assert!(number_free(&rendered["spec"]) == number_free(&own["spec"]), "it is rendered as something else");
    assert_eq!(rendered["metadata"]["name"], own["metadata"]["name"]);
    for (key, value) in own["metadata"]["annotations"].as_object().into_iter().flatten() {
        assert_eq!(rendered["metadata"]["annotations"][key], *value);
    }
    assert_eq!(rendered["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
}

/// Replaces numbers by text: YAML and JSON have one kind of number, Rust several.
fn number_free(value: &Value) -> Value {
    match value {
        Value::Number(number) => Value::String(number.as_f64().unwrap().to_string()),
        Value::Array(values) => values.iter().map(number_free).collect(),
        Value::Object(values) => values.iter().map(|(key, value)| (key.clone(), number_free(value))).collect(),
        other => other.clone(),
    }
}

/// The controller creates the same object again, and Helm finds nothing to change.
#[test]
fn the_anchor_says_what_it_is_for_as_the_controller_does() {
    let Some(objects) = objects(&[]) else { return };
    let maps = of_kind(&objects, "ConfigMap");
    let anchor = maps.iter().find(|map| map["metadata"]["name"] == "tcplb-anchor").unwrap();
    let description = &anchor["metadata"]["annotations"]["kubernetes.io/description"];
    assert_eq!(*description, tcplb::controller::ANCHOR_DESCRIPTION);
}

#[test]
fn the_workload_is_named_and_may_be_read() {
    for kind in ["Deployment", "DaemonSet"] {
        let Some(objects) = objects(&["--set", &format!("kind={kind}")]) else { return };
        let workload = of_kind(&objects, kind)[0];
        let arguments = workload["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap();
        assert!(arguments.contains(&json!(format!("--workload={kind}/tcplb"))), "{arguments:?}");
        let rules = of_kind(&objects, "Role").into_iter().flat_map(|role| role["rules"].as_array().unwrap());
        let resource = format!("{}s", kind.to_lowercase());
        let expected =
            json!({"apiGroups": ["apps"], "resources": [resource], "resourceNames": ["tcplb"], "verbs": ["get"]});
        assert!(rules.into_iter().any(|rule| *rule == expected), "{kind}");
    }
}

#[test]
fn pods_get_the_time_that_delay_and_drain_take_and_some_more() {
    let gateway = "shutdownDelaySeconds=7,maxDrainSeconds=100";
    let host = "host.enabled=true,host.allowedPorts={5432},host.shutdownDelaySeconds=2,host.maxDrainSeconds=20";
    let Some(objects) = objects(&["--set", gateway, "--set", host]) else { return };
    for (kind, grace, delay, drain) in [("Deployment", 122, 7, 100), ("DaemonSet", 37, 2, 20)] {
        let pod = &of_kind(&objects, kind)[0]["spec"]["template"]["spec"];
        assert_eq!(pod["terminationGracePeriodSeconds"], grace, "{kind}");
        let arguments = pod["containers"][0]["args"].as_array().unwrap();
        for argument in [format!("--shutdown-delay={delay}s"), format!("--max-drain={drain}s")] {
            assert!(arguments.contains(&json!(argument)), "{kind}: {arguments:?}");
        }
    }
}

#[test]
fn containers_may_do_nothing_that_they_do_not_need() {
    let Some(objects) = objects(&["--set", "host.enabled=true,host.allowedPorts={5432}"]) else { return };
    for kind in ["Deployment", "DaemonSet"] {
        let pod = &of_kind(&objects, kind)[0]["spec"]["template"]["spec"];
        let (shared, own) = (&pod["securityContext"], &pod["containers"][0]["securityContext"]);
        assert_eq!(shared["runAsNonRoot"], true, "{kind}");
        assert_eq!(shared["seccompProfile"]["type"], "RuntimeDefault", "{kind}");
        assert_eq!(own["readOnlyRootFilesystem"], true, "{kind}");
        assert_eq!(own["allowPrivilegeEscalation"], false, "{kind}");
        assert_eq!(own["capabilities"], json!({"drop": ["ALL"]}), "{kind}");
    }
}

#[test]
fn ports_below_1024_take_root_with_one_capability_and_nothing_else() {
    let Some(objects) = objects(&["--values", "charts/tcplb/examples/host-low-ports.yaml"]) else { return };
    let pod = &of_kind(&objects, "DaemonSet")[0]["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsUser"], 0);
    let own = &pod["containers"][0]["securityContext"];
    assert_eq!(own["capabilities"], json!({"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}));
    assert_eq!(own["allowPrivilegeEscalation"], false, "what is general stays");
}

#[test]
fn a_new_version_of_the_chart_alone_replaces_no_pod() {
    let Some(objects) = objects(&["--set", "host.enabled=true,host.allowedPorts={5432}"]) else { return };
    for kind in ["Deployment", "DaemonSet"] {
        let labels = &of_kind(&objects, kind)[0]["spec"]["template"]["metadata"]["labels"];
        let names: Vec<_> = labels.as_object().unwrap().keys().collect();
        let constant = ["app.kubernetes.io/component", "app.kubernetes.io/instance", "app.kubernetes.io/name"];
        assert_eq!(names, constant, "{kind}");
    }
}

#[test]
fn a_change_of_the_log_level_replaces_no_pod() {
    let rendered = |level: &str| {
        let values = format!("host.enabled=true,host.allowedPorts={{5432}},log.level={level}");
        objects(&["--set", &values])
    };
    let (Some(before), Some(after)) = (rendered("info"), rendered("debug")) else { return };
    let changed: Vec<_> = before.iter().zip(&after).filter(|(before, after)| before != after).collect();
    let [(before, after)] = changed[..] else { panic!("only the ConfigMap changes: {changed:#?}") };
    assert_eq!((&before["kind"], &before["metadata"]["name"]), (&"ConfigMap".into(), &"tcplb-log".into()));
    assert_eq!((&before["data"]["filter"], &after["data"]["filter"]), (&"info".into(), &"debug".into()));
}

#[test]
fn proxies_have_a_token_for_the_reports_of_each_other() {
    let values = "host.enabled=true,host.allowedPorts={5432}";
    let Some(objects) = objects(&["--set", values]) else { return };
    for kind in ["Deployment", "DaemonSet"] {
        let pod = &of_kind(&objects, kind)[0]["spec"]["template"]["spec"];
        let volumes = pod["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == "admin-token").unwrap();
        let token = json!({"serviceAccountToken": {"audience": "tcplb", "expirationSeconds": 3600, "path": "token"}});
        assert_eq!(volume["projected"]["sources"], json!([token]), "{kind}");
        let container = &pod["containers"][0];
        let mount = json!({"name": "admin-token", "mountPath": "/var/run/secrets/tcplb", "readOnly": true});
        assert!(container["volumeMounts"].as_array().unwrap().contains(&mount), "{kind}");
        let arguments = container["args"].as_array().unwrap();
        for argument in ["--admin-authorization=kubernetes", "--admin-token-file=/var/run/secrets/tcplb/token"] {
            assert!(arguments.contains(&json!(argument)), "{kind}: {arguments:?}");
        }
    }
}

#[test]
fn without_authorization_there_are_no_tokens_and_no_permissions_to_review_them() {
    let values = "host.enabled=true,host.allowedPorts={5432},admin.authorization=none";
    let Some(rendered) = render(&["--set", values]) else { return };
    assert!(rendered.contains("--admin-authorization=none"));
    for word in ["admin-token", "tokenreviews", "localsubjectaccessreviews", "replicas/report"] {
        assert!(!rendered.contains(word), "{word}");
    }
    let namespaced = ["--values", "charts/tcplb/examples/namespaced.yaml"];
    let Some(objects) = objects(&namespaced) else { return };
    assert!(of_kind(&objects, "ClusterRole").is_empty() && of_kind(&objects, "ClusterRoleBinding").is_empty());
}

#[test]
fn services_select_the_proxies_and_nothing_else() {
    let Some(objects) = objects(&["--set", "host.enabled=true,host.allowedPorts={5432}"]) else { return };
    let deployment = of_kind(&objects, "Deployment")[0];
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    let arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap();
    let selector =
        arguments.iter().find_map(|argument| argument.as_str()?.strip_prefix("--service-selector=")).unwrap();
    for label in selector.split(',') {
        let (key, value) = label.split_once('=').unwrap();
        assert_eq!(labels[key], value);
    }
    let host = &of_kind(&objects, "DaemonSet")[0]["spec"]["template"]["metadata"]["labels"];
    assert!(!selector.contains(&format!("component={}", host["app.kubernetes.io/component"].as_str().unwrap())));
    let replicas = of_kind(&objects, "Service");
    let replicas = replicas.iter().find(|service| service["metadata"]["name"] == "tcplb-replicas").unwrap();
    assert_eq!(
        (&replicas["spec"]["clusterIP"], &replicas["spec"]["ports"][0]["name"]),
        (&json!("None"), &json!("admin"))
    );
    assert_eq!(replicas["spec"]["publishNotReadyAddresses"], Value::Null, "only proxies that are ready count");
}

#[test]
fn the_network_policy_lets_the_charts_test_in_and_no_service_leads_to_it() {
    let Some(objects) = objects(&["--set", "networkPolicy.enabled=true"]) else { return };
    let labels = &of_kind(&objects, "Pod")[0]["metadata"]["labels"];
    let rules = of_kind(&objects, "NetworkPolicy")[0]["spec"]["ingress"].as_array().unwrap();
    let admin = rules.iter().find(|rule| rule["ports"][0]["port"] == 9900).unwrap();
    let mut sources = admin["from"].as_array().unwrap().iter();
    assert!(sources.any(|source| selects(&source["podSelector"]["matchLabels"], labels)), "{labels} from {admin}");
    for service in of_kind(&objects, "Service") {
        assert!(!selects(&service["spec"]["selector"], labels), "{}", service["metadata"]["name"]);
    }
}

fn selects(selector: &Value, labels: &Value) -> bool {
    selector.as_object().is_some_and(|selector| selector.iter().all(|(key, value)| labels[key] == *value))
}

#[test]
fn an_autoscaler_is_not_contradicted() {
    let Some(objects) = objects(&["--set", "autoscaling.enabled=true"]) else { return };
    assert_eq!(of_kind(&objects, "Deployment")[0]["spec"].get("replicas"), None);
    assert_eq!(of_kind(&objects, "HorizontalPodAutoscaler").len(), 1);
}

#[test]
fn what_cannot_work_is_refused_with_a_sentence() {
    for (values, sentence) in [
        ("host.enabled=true", "name the ports that load balancers may open on nodes"),
        ("kind=None", "nothing would run"),
        ("replica=3", "additional properties 'replica' not allowed"),
        ("tenancy.allowedServiceTypes={ExternalName}", "value must be one of 'ClusterIP', 'NodePort', 'LoadBalancer'"),
        ("ports.first=80", "minimum: got 80, want 1,024"),
        ("ports.first=25000,ports.last=24000", "ports.first is above ports.last"),
        ("ports.first=20000,ports.last=25000", "more than 5000 ports"),
        ("secrets.access=Namespaces", "secrets.namespaces is empty"),
        ("kind=DaemonSet,autoscaling.enabled=true", "autoscaling.enabled is true and kind is DaemonSet"),
        (
            "kind=DaemonSet,podDisruptionBudget.enabled=true",
            "podDisruptionBudget.enabled is true and kind is DaemonSet",
        ),
        ("serviceAccount.create=false", "serviceAccount.create is false and serviceAccount.name is empty"),
        (r"commonLabels.app\.kubernetes\.io/component=x", "commonLabels has app.kubernetes.io/component"),
        ("tenancy.allowedBackendNetworks={10.0.0.1/8}", "10.0.0.1/8 has bits set after its prefix"),
        ("tenancy.deniedBackendNetworks={1.2.3.4/0}", "1.2.3.4/0 has bits set after its prefix"),
        ("tenancy.deniedBackendNetworks={::1/0}", "::1/0 has bits set after its prefix"),
        ("tenancy.deniedBackendNetworks={010.0.0.0/8}", "'010.0.0.0/8' does not match"),
        ("tenancy.deniedBackendNetworks={10.0.0.0/08}", "'10.0.0.0/08' does not match"),
        ("tenancy.deniedBackendNetworks={10.0.0.0/33}", "'10.0.0.0/33' does not match"),
        ("tenancy.deniedBackendNetworks={::ffff:10.0.0.0/8}", "'::ffff:10.0.0.0/8' does not match"),
        ("tenancy.allowedBackendNetworks={2001:db8::1/32}", "2001:db8::1/32 has bits set after its prefix"),
        ("tenancy.deniedBackendNetworks={fe80::/8}", "fe80::/8 has bits set after its prefix"),
        ("tenancy.deniedBackendNetworks={::ffff:10.0.0.1/104}", "::ffff:10.0.0.1/104 has bits set after its prefix"),
        ("tenancy.deniedBackendNetworks={1:2:3:4:5:6:7:8:9}", "1:2:3:4:5:6:7:8:9 is not a network"),
        ("tenancy.deniedBackendNetworks={1::2::3}", "1::2::3 is not a network"),
        ("tenancy.deniedBackendNetworks={12345::}", "12345:: is not a network"),
        ("tenancy.deniedBackendNetworks={1:2:3:4::5:6:7:8}", "1:2:3:4::5:6:7:8 is not a network"),
        ("host.enabled=true,host.allowedPorts={9000-8000}", "9000-8000 is not a range of ports"),
        ("host.enabled=true,host.allowedPorts={9000-99999}", "9000-99999 is not a range of ports"),
        ("host.enabled=true,host.allowedPorts={99999-99999}", "99999-99999 is not a range of ports"),
        ("host.enabled=true,host.allowedPorts={9901}", "9901 is host.adminPort"),
        ("host.enabled=true,host.allowedPorts={080-90}", "'080-90' does not match"),
        (
            "autoscaling.enabled=true,autoscaling.minReplicas=5,autoscaling.maxReplicas=2",
            "autoscaling.minReplicas is above autoscaling.maxReplicas: 5, 2",
        ),
        (
            r"commonLabels.rbac\.authorization\.k8s\.io/aggregate-to-view=x",
            "commonLabels has rbac.authorization.k8s.io/aggregate-to-view",
        ),
    ] {
        match helm(&["template", "tcplb", "charts/tcplb", "--set", values]) {
            Some(answer) => {
                let error = answer.expect_err(values);
                assert!(error.contains(sentence), "{values}: {error}");
            }
            None => return,
        }
    }
}

#[test]
fn labels_of_users_are_added_and_those_that_selectors_use_stay() {
    let labels = r"team=db,app\.kubernetes\.io/name=other,app\.kubernetes\.io/component=other";
    let sets = ["podLabels", "host.podLabels"]
        .map(|value| labels.split(',').map(|label| format!("{value}.{label}")).collect::<Vec<_>>().join(","));
    let common = r"commonLabels.team=all,commonLabels.app\.kubernetes\.io/name=other,commonLabels.cost=1";
    let host = "host.enabled=true,host.allowedPorts={5432}";
    let options = ["--set", &sets[0], "--set", &sets[1], "--set-string", common, "--set", host];
    let Some(objects) = objects(&options) else { return };
    for (kind, component) in [("Deployment", "gateway"), ("DaemonSet", "host")] {
        let workload = of_kind(&objects, kind)[0];
        let pods = &workload["spec"]["template"]["metadata"]["labels"];
        assert!(selects(&workload["spec"]["selector"]["matchLabels"], pods), "{kind}: {pods}");
        assert_eq!((&pods["team"], &pods["cost"]), (&json!("db"), &json!("1")), "{kind}");
        assert_eq!(pods["app.kubernetes.io/component"], component);
        assert_eq!(workload["metadata"]["labels"]["app.kubernetes.io/name"], "tcplb", "{kind}");
        assert_eq!(workload["metadata"]["labels"]["team"], "all", "{kind}");
    }
}

#[test]
fn a_disruption_budget_is_for_deployments_unless_it_is_disabled() {
    for (values, count) in [("kind=Deployment", 1), ("kind=DaemonSet", 0), ("podDisruptionBudget.enabled=false", 0)] {
        let Some(objects) = objects(&["--set", values]) else { return };
        assert_eq!(of_kind(&objects, "PodDisruptionBudget").len(), count, "{values}");
    }
}

#[test]
fn leases_are_part_of_the_release_unless_a_gitops_tool_leaves_them_out() {
    for (create, count) in [("true", 2), ("false", 0)] {
        let values = format!("host.enabled=true,host.allowedPorts={{5432}},lease.create={create}");
        let Some(objects) = objects(&["--set", &values]) else { return };
        assert_eq!(of_kind(&objects, "Lease").len(), count, "lease.create={create}");
        // Without these Leases in the release, the program creates them.
        for role in of_kind(&objects, "Role") {
            let rules = role["rules"].as_array().unwrap();
            let creates = |rule: &&Value| rule["resources"] == json!(["leases"]) && rule["verbs"] == json!(["create"]);
            assert!(rules.iter().any(|rule| creates(&rule)), "{}", role["metadata"]["name"]);
        }
    }
}

#[test]
fn each_placement_has_an_admin_service_that_the_charts_test_asks() {
    let Some(objects) = objects(&["--set", "host.enabled=true,host.allowedPorts={5432}"]) else { return };
    let containers = of_kind(&objects, "Pod")[0]["spec"]["containers"].as_array().unwrap();
    for (service, workload, port) in [("tcplb-admin", "Deployment", 9900), ("tcplb-host-admin", "DaemonSet", 9901)] {
        let services = of_kind(&objects, "Service");
        let found = services.iter().find(|object| object["metadata"]["name"] == service).expect(service);
        assert_eq!(found["spec"]["ports"][0]["port"], port);
        let pods = &of_kind(&objects, workload)[0]["spec"]["template"]["metadata"]["labels"];
        assert!(selects(&found["spec"]["selector"], pods), "{service} leads to no proxy");
        let variable = format!("{}_SERVICE_HOST", service.to_uppercase().replace('-', "_"));
        let url = format!("http://$({variable}):{port}/readyz");
        let asks = |container: &Value| container["args"].as_array().unwrap().contains(&json!(url));
        assert!(containers.iter().any(asks), "{url}");
    }
}

#[test]
fn the_chart_can_be_a_dependency_that_is_switched_off() {
    let parent = tempfile::tempdir().unwrap();
    let chart = format!("file://{}", crate::root().join("charts/tcplb").display());
    let text = format!(
        "apiVersion: v2\nname: parent\nversion: 1.0.0\ndependencies:\n\
         - {{name: tcplb, version: '*', repository: '{chart}', condition: tcplb.enabled}}\n"
    );
    std::fs::write(parent.path().join("Chart.yaml"), text).unwrap();
    let folder = parent.path().to_str().unwrap();
    let Some(built) = helm(&["dependency", "build", folder]) else { return };
    built.unwrap();
    for (enabled, count) in [("true", 1), ("false", 0)] {
        let values = format!("tcplb.enabled={enabled},tcplb.replicas=3,global.registry=example");
        let rendered = helm(&["template", "release", folder, "--set", &values]).unwrap().unwrap();
        let objects = crate::documents(&rendered);
        assert_eq!(of_kind(&objects, "Deployment").len(), count, "tcplb.enabled={enabled}");
    }
}

/// The program parses the networks that the chart renders, so that both agree on their syntax.
#[test]
fn networks_that_the_chart_accepts_are_accepted_by_the_program() {
    let networks = [
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.1.2.3",
        "128.0.0.0/1",
        "255.255.255.255/32",
        "::/0",
        "::1",
        "FD00::/8",
        "8000::/1",
        "fe80::/9",
        "fe80::/10",
        "2001:db8::/32",
        "fd00::ab0/124",
        "2001:db8::8000:0/113",
        "1:2:3:4:5:6:7:8",
        "1:2:3:4:5:6:7::",
        "::ffff:10.0.0.0/104",
    ];
    let values = networks.join(",");
    let options = format!("tenancy.allowedBackendNetworks={{{values}}},tenancy.deniedBackendNetworks={{{values}}}");
    let Some(objects) = objects(&["--set", &options]) else { return };
    takes_arguments_of(&of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]);
}

#[test]
fn a_quota_of_null_is_no_limit() {
    let quotas = ["load-balancers", "listeners", "secrets"].map(|what| format!("--max-{what}-per-namespace="));
    let values = ["maxLoadBalancersPerNamespace", "maxListenersPerNamespace", "maxSecretsPerNamespace"];
    for (value, expected) in [("null", [None, None, Some("unlimited")]), ("0", [Some("0"); 3])] {
        let values = values.map(|name| format!("tenancy.{name}={value}")).join(",");
        let Some(objects) = objects(&["--set", &values]) else { return };
        let container = &of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0];
        takes_arguments_of(container);
        let arguments: Vec<_> = container["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let given = |flag: &String| arguments.iter().find_map(|argument| argument.strip_prefix(flag.as_str()));
        assert_eq!(quotas.each_ref().map(given), expected, "{value}");
    }
}

/// Helm removes a value that is null.
#[test]
fn security_contexts_can_be_removed() {
    let values = "securityContext=null,podSecurityContext=null,host.securityContext=null,host.podSecurityContext=null";
    let host = "host.enabled=true,host.allowedPorts={5432}";
    let Some(objects) = objects(&["--set", values, "--set", host]) else { return };
    for kind in ["Deployment", "DaemonSet"] {
        let pod = &of_kind(&objects, kind)[0]["spec"]["template"]["spec"];
        for context in [&pod["securityContext"], &pod["containers"][0]["securityContext"]] {
            assert!(context.is_null() || *context == json!({}), "{kind}: {context}");
        }
    }
}
