//! The notes that Helm prints after an installation.

use crate::helm;

/// `None`: Helm is not installed.
fn notes(values: &str) -> Option<String> {
    let options = ["install", "tcplb", "charts/tcplb", "--dry-run=client", "--hide-secret", "--set", values];
    helm(&options).map(|notes| notes.unwrap().split_once("NOTES:").expect("notes").1.to_owned())
}

#[test]
fn the_notes_name_the_setting_for_addresses_outside_of_the_cluster() {
    let Some(text) = notes("replicas=2") else { return };
    assert!(text.contains("--set 'tenancy.allowedServiceTypes={ClusterIP,LoadBalancer}'"), "{text}");
    let text = notes("tenancy.allowedServiceTypes={ClusterIP,LoadBalancer}").unwrap();
    assert!(!text.contains("--set"), "{text}");
}

#[test]
fn the_notes_for_placement_host_show_an_example_that_is_permitted() {
    for (values, namespace, port) in [
        ("host.allowedPorts={9000-9999},host.namespaces={databases}", "databases", 9000),
        ("host.allowedPorts={9901-9999}", "default", 9902),
        ("host.allowedPorts={443},host.namespaces={a,b},watchNamespaces={b,c}", "b", 443),
        ("host.allowedPorts={443},watchNamespaces={c}", "c", 443),
    ] {
        let Some(text) = notes(&format!("kind=None,host.enabled=true,{values}")) else { return };
        assert!(text.contains(&format!("metadata: {{name: postgres, namespace: {namespace}}}")), "{text}");
        assert!(text.contains(&format!("listeners: [{{port: {port}}}]")) && text.contains("placement: Host"), "{text}");
        assert!(text.contains("rollout status daemonset/tcplb-host"), "{text}");
        for without in ["allowedServiceTypes", "rollout status none", "rollout status deployment"] {
            assert!(!text.contains(without), "{without}: {text}");
        }
    }
}

#[test]
fn the_notes_name_every_workload_that_starts() {
    let Some(text) = notes("host.enabled=true,host.allowedPorts={9000}") else { return };
    for workload in ["deployment/tcplb", "daemonset/tcplb-host"] {
        assert!(text.contains(&format!("rollout status {workload}\n")), "{workload}: {text}");
    }
    assert!(text.contains("listeners: [{port: 5432}]") && !text.contains("placement: Host"), "{text}");
}
