//! Authorization of admin requests by a real API server, with the permissions that the chart grants to proxies.

use std::net::IpAddr;

use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{Namespace, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tcplb::authorization::{AUDIENCE, Authorizer, Unauthorized};
use tokio::time::Instant;

use crate::{
    harness::WAIT_LIMIT,
    source::alone::{ADMINISTRATOR, Alone, RESTRICTED_USER},
};

const RBAC: &str = "rbac.authorization.k8s.io";
const RBAC_V1: &str = "rbac.authorization.k8s.io/v1";
const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const LEADER: &str = "system:serviceaccount:lb:leader";

#[tokio::test]
async fn tokens_of_the_audience_are_authorized_by_permissions_and_no_others() {
    let Some(alone) = Alone::start() else { return };
    let mut api = alone.api();
    api.ready().await;
    let administrator = api.client(ADMINISTRATOR);
    apply(&Api::<Namespace>::all(administrator.clone()), "v1", "Namespace", "lb", json!({})).await;
    let accounts: Api<ServiceAccount> = Api::namespaced(administrator.clone(), "lb");
    for name in ["leader", "guest"] {
        apply(&accounts, "v1", "ServiceAccount", name, json!({})).await;
    }
    may_read_reports(&administrator).await;
    // The permissions of the proxies are not granted yet.
    let authorizer = || Authorizer::new(api.client(RESTRICTED_USER), "lb");
    let leaders = token(&accounts, "leader", Some(AUDIENCE)).await;
    let failed = authorizer().authorize(&leaders, "report", SOURCE).await;
    assert!(matches!(&failed, Err(Unauthorized::ReviewFailed(why)) if why.contains("tokenreviews")), "{failed:?}");
    may_review(&administrator).await;

    let proxy = authorizer();
    let deadline = Instant::now() + WAIT_LIMIT;
    // The API server applies new permissions after a moment.
    while proxy.authorize(&leaders, "report", SOURCE).await.is_err() {
        assert!(Instant::now() < deadline, "the permissions are not applied");
        tokio::task::yield_now().await;
    }
    let forbidden = Err(Unauthorized::Forbidden(LEADER.into()));
    assert_eq!(proxy.authorize(&leaders, "snapshot", SOURCE).await, forbidden);
    let guests = token(&accounts, "guest", Some(AUDIENCE)).await;
    let forbidden = Err(Unauthorized::Forbidden("system:serviceaccount:lb:guest".into()));
    assert_eq!(proxy.authorize(&guests, "report", SOURCE).await, forbidden);
    let of_the_api_server = token(&accounts, "leader", None).await;
    let of_another = token(&accounts, "leader", Some("other")).await;
    let (head, signature) = leaders.rsplit_once('.').unwrap();
    let forged = format!("{head}.{}", signature.chars().rev().collect::<String>());
    for wrong in [&of_the_api_server, &of_another, &forged, ADMINISTRATOR, "garbage"] {
        let outcome = proxy.authorize(wrong, "report", SOURCE).await;
        assert_eq!(outcome, Err(Unauthorized::InvalidToken), "{wrong}");
    }

    accounts.delete("guest", &DeleteParams::default()).await.unwrap();
    let deadline = Instant::now() + WAIT_LIMIT;
    // A new process has no decisions of the past.
    while authorizer().authorize(&guests, "report", SOURCE).await != Err(Unauthorized::InvalidToken) {
        assert!(Instant::now() < deadline, "the token of a deleted account stays valid");
        tokio::task::yield_now().await;
    }
    api.kill();
    assert_eq!(proxy.authorize(&leaders, "report", SOURCE).await, Ok(()), "known");
    let unknown = proxy.authorize("unknown", "report", SOURCE).await;
    assert!(matches!(unknown, Err(Unauthorized::ReviewFailed(_))), "{unknown:?}");
}

/// The permission of the leader, as in the chart.
async fn may_read_reports(client: &Client) {
    let rule = json!({"apiGroups": ["tcplb.io"], "resources": ["replicas/report"], "verbs": ["get"]});
    let subject = json!({"kind": "ServiceAccount", "name": "leader", "namespace": "lb"});
    grant_in_namespace(client, "reports", rule, subject).await;
}

/// The permissions of proxies to ask the API server, as in the chart.
async fn may_review(client: &Client) {
    let user = json!({"kind": "User", "name": RESTRICTED_USER, "apiGroup": RBAC});
    let rule = json!({
        "apiGroups": ["authorization.k8s.io"], "resources": ["localsubjectaccessreviews"], "verbs": ["create"],
    });
    grant_in_namespace(client, "proxies", rule, user.clone()).await;
    let rule = json!({"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]});
    let roles = Api::<ClusterRole>::all(client.clone());
    apply(&roles, RBAC_V1, "ClusterRole", "proxies", json!({"rules": [rule]})).await;
    let binding = json!({
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "proxies"}, "subjects": [user],
    });
    let bindings = Api::<ClusterRoleBinding>::all(client.clone());
    apply(&bindings, RBAC_V1, "ClusterRoleBinding", "proxies", binding).await;
}

async fn grant_in_namespace(client: &Client, name: &str, rule: Value, subject: Value) {
    let roles = Api::<Role>::namespaced(client.clone(), "lb");
    apply(&roles, RBAC_V1, "Role", name, json!({"rules": [rule]})).await;
    let binding = json!({"roleRef": {"apiGroup": RBAC, "kind": "Role", "name": name}, "subjects": [subject]});
    let bindings = Api::<RoleBinding>::namespaced(client.clone(), "lb");
    apply(&bindings, RBAC_V1, "RoleBinding", name, binding).await;
}

/// A token of a service account. `None`: for the API server.
async fn token(accounts: &Api<ServiceAccount>, account: &str, audience: Option<&str>) -> String {
    let audiences = audience.into_iter().map(str::to_owned).collect();
    let request =
        TokenRequest { spec: TokenRequestSpec { audiences, ..TokenRequestSpec::default() }, ..TokenRequest::default() };
    let created = accounts.create_token_request(account, &PostParams::default(), &request).await.unwrap();
    serde_json::to_value(created).unwrap()["status"]["token"].as_str().unwrap().to_owned()
}

async fn apply<T>(api: &Api<T>, version: &str, kind: &str, name: &str, mut object: Value)
where
    T: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    object["apiVersion"] = version.into();
    object["kind"] = kind.into();
    object["metadata"] = json!({"name": name});
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    let applied = api.patch(&object.name_any(), &PatchParams::apply("test"), &Patch::Apply(&object)).await;
    applied.unwrap_or_else(|error| panic!("{kind} {name}: {error}"));
}
