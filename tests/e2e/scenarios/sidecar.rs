//! `tcplb sidecar` in an application's pod, with the published manifests.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::{
    clients::visit,
    cluster,
    scenario::{condition, scenario},
    scenarios::traffic::{reached, served},
    turns::Isolation,
};

/// The objects of manifests/sidecar.yaml and manifests/echo.yaml. They are changed for a cluster that pulls no images:
/// the image, and the application, which forwards connections at port 6000 to the address that the manifest's own
/// application connects to.
fn handed_out() -> Vec<Value> {
    let files = ["manifests/echo.yaml", "manifests/sidecar.yaml"];
    let read = |file| std::fs::read_to_string(cluster::root().join(file)).unwrap();
    let mut objects: Vec<Value> =
        files.into_iter().flat_map(|file| serde_saphyr::from_multiple::<Value>(&read(file)).unwrap()).collect();
    for pod in objects.iter_mut().filter_map(|object| object.pointer_mut("/spec/template/spec")) {
        for kind in ["initContainers", "containers"] {
            for container in pod.get_mut(kind).and_then(Value::as_array_mut).into_iter().flatten() {
                if container["name"] == "application" {
                    container.as_object_mut().unwrap().remove("command");
                    container["args"] =
                        json!(["standalone", "--listen=:6000", "--backend=127.0.0.1:5001", "--admin=127.0.0.1:9901"]);
                }
                container["image"] = cluster::image().into();
            }
        }
    }
    objects
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_reaches_its_backends_through_the_sidecar_of_its_pod() {
    scenario("sidecar", Isolation::Shared, async |scenario| {
        for object in handed_out() {
            scenario.try_apply_value(object).await.unwrap();
        }
        scenario.backends_are_ready(&scenario.namespace, "echo", 3).await;
        scenario.backends_are_ready(&scenario.namespace, "application", 1).await;
        let pod = scenario.pods_of("application").await.remove(0);
        let ip = pod.status.unwrap().pod_ip.unwrap().parse().unwrap();
        let application = SocketAddr::new(ip, 6000);
        served(application).await;
        assert_eq!(reached(application, 3).await.len(), 3);
        assert!(visit(SocketAddr::new(ip, 5001)).await.is_err(), "nobody else reaches the sidecar");

        let in_pods = |status: &tcplb::api::TcpLoadBalancerStatus| {
            condition(status, "Programmed").is_some_and(|programmed| {
                (programmed.status.as_str(), programmed.reason.as_str()) == ("Unknown", "ServedInPods")
            })
        };
        scenario.status("it is told who serves it", "echo", in_pods).await;
        assert!(scenario.kept_service("echo").await.is_none());
        scenario.scale("echo", 4).await;
        scenario.backends_are_ready(&scenario.namespace, "echo", 4).await;
        assert_eq!(reached(application, 4).await.len(), 4);
    })
    .await;
}
