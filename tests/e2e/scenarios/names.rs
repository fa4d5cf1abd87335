//! Backends that are declared by DNS names.

use serde_json::json;

use crate::{
    backends::PORT,
    clients::visit,
    scenario::{Scenario, is, is_not, scenario, sentence},
    scenarios::traffic::served,
    turns::Isolation,
};

impl Scenario {
    async fn load_balancer_to(&self, name: &str, target: &str) {
        self.apply(&format!(
            "
apiVersion: tcplb.io/v1alpha1
kind: TcpLoadBalancer
metadata: {{name: {name}}}
spec:
  listeners: [{{port: 5432}}]
  backends: [{{addresses: [\"{target}\"], resolveInterval: 1s}}]
"
        ))
        .await;
    }
}

/// The program is static and alone in its image, so its resolver is part of it. A cluster without DNS has /etc/hosts,
/// which the program must use.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_leads_to_its_permitted_addresses_only() {
    scenario("names", Isolation::Shared, async |scenario| {
        scenario.backends("echo", 1).await;
        let pod = scenario.pods_of("echo").await.remove(0);
        let name = pod.metadata.name.unwrap();
        let ip = pod.status.unwrap().pod_ip.unwrap();
        let own = scenario
            .install_own(json!({
                "replicas": 1,
                "shutdownDelaySeconds": 0,
                "tenancy": {"allowedBackendNetworks": [format!("{ip}/32"), "169.254.0.0/16"]},
            }))
            .await;
        let patch = json!({"spec": {"hostAliases": [
            {"ip": ip, "hostnames": ["db.example.com"]},
            {"ip": "169.254.169.254", "hostnames": ["metadata.example.com"]},
            {"ip": "192.0.2.7", "hostnames": ["elsewhere.example.com"]},
        ]}});
        own.roll_out(&scenario.client, 1, patch).await;

        scenario.load_balancer_to("right", &format!("db.example.com:{PORT}")).await;
        let address = scenario.programmed("right").await;
        served(address).await;
        assert_eq!(visit(address).await.unwrap(), name);
        scenario.status("it is told", "right", |status| is(status, "BackendsHealthy", "True")).await;

        for (name, ip) in [("metadata", "169.254.169.254"), ("elsewhere", "192.0.2.7")] {
            scenario.load_balancer_to(name, &format!("{name}.example.com:{PORT}")).await;
            let refused = |status: &_| is_not(status, "Accepted", "NotPermitted");
            let status = scenario.status("where it leads is refused", name, refused).await;
            assert!(sentence(&status, "Accepted").contains(ip), "{name}: {status:?}");
        }
        scenario.load_balancer_to("unknown", &format!("nobody.invalid:{PORT}")).await;
        let lost = |status: &_| is_not(status, "BackendsHealthy", "NoEndpoints");
        let status = scenario.status("it has no endpoint", "unknown", lost).await;
        assert!(sentence(&status, "ResolvedRefs").contains("nobody.invalid"), "{status:?}");
    })
    .await;
}
