//! The manifests for installations without Helm.

use serde_json::Value;

use crate::{documents, examples::show_to_api_server, harness, is_current, of_kind, read, render, root};

const INSTALL: &str = "manifests/install.yaml";
const ECHO: &str = "manifests/echo.yaml";
const SIDECAR: &str = "manifests/sidecar.yaml";

const HEAD: &str = "\
# tcplb, in namespace tcplb-system: the chart with its default values, for installation without Helm.
#
# The nodes must find the image. For an image in your own registry:
#
#   sed 's|image: \"tcplb:|image: \"registry.example.com/tcplb:|' manifests/install.yaml | kubectl apply --server-side -f -
#
# Generated (`make generate`). Other values: helm template tcplb charts/tcplb --namespace tcplb-system --set …
---
apiVersion: v1
kind: Namespace
metadata:
  name: tcplb-system
";

#[test]
fn the_charts_copy_of_the_crd_and_the_manifest_are_current() {
    is_current("charts/tcplb/files/tcploadbalancers.yaml", &read("crds/tcploadbalancers.yaml"));
    let Some(rendered) = render(&["--skip-tests"]) else { return };
    // Lines of Helm are dropped.
    let helms = |line: &&str| {
        ["helm.sh/", "app.kubernetes.io/managed-by: Helm", "# Source: "]
            .iter()
            .any(|mark| line.trim().starts_with(mark))
    };
    let lines = rendered.lines().filter(|line| !helms(line) && !line.is_empty());
    is_current(INSTALL, &format!("{HEAD}{}\n", lines.collect::<Vec<_>>().join("\n")));
}

#[test]
fn an_api_server_accepts_the_manifests() {
    for file in [INSTALL, SIDECAR, ECHO] {
        // A namespace in a dry run does not exist afterwards, so the objects use an existing one.
        let text = read(file).replace("tcplb-system", "default");
        let mut objects = documents(&text);
        objects.retain(|object: &Value| object["kind"] != "Namespace" && object["kind"] != "TcpLoadBalancer");
        let Some(answer) = show_to_api_server(&objects) else { return };
        answer.unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

#[test]
fn the_load_balancer_of_the_sidecar_is_accepted() {
    let files = [SIDECAR, ECHO].map(|file| root().join(file).display().to_string());
    let (code, said, complaints) = harness::run(&["check", &files[0], &files[1]]);
    assert_eq!(code, 0, "{said}{complaints}");
}

#[test]
fn only_the_sidecar_gets_a_token_and_only_for_its_own_objects() {
    let objects = documents(&read(SIDECAR));
    let pod = &of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["initContainers"][0]["restartPolicy"], "Always");
    let token = "/var/run/secrets/kubernetes.io/serviceaccount";
    let has_token = |container: &Value| container["volumeMounts"].to_string().contains(token);
    assert!(has_token(&pod["initContainers"][0]));
    assert!(!pod["containers"].as_array().unwrap().iter().any(has_token));
    for rule in of_kind(&objects, "Role")[0]["rules"].as_array().unwrap() {
        let named = rule["resourceNames"].is_array() || rule["resources"] == serde_json::json!(["endpointslices"]);
        assert!(named, "a rule that names no object: {rule}");
    }
}
