//! The API server, the CustomResourceDefinition and the permissions of the user.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use crate::{
    api::{SCHEMA_HASH, schema_hash},
    kubectl::{
        doctor::{
            document::{CheckName, CheckResult, count},
            facts::DoctorFacts,
            needed_permissions,
        },
        permission::AccessError,
    },
};

/// The oldest supported version of Kubernetes, as in Chart.yaml.
const OLDEST: (u32, u32) = (1, 33);

pub fn api(facts: &DoctorFacts) -> CheckResult {
    match &facts.server {
        Err(error) => CheckResult::error(CheckName::Api, format!("the API server cannot be used: {error}")),
        Ok(server) if server.version < OLDEST => {
            let (version, (major, minor)) = (&server.git_version, OLDEST);
            let text = format!("Kubernetes {version} is too old: upgrade the cluster to {major}.{minor} or newer");
            CheckResult::error(CheckName::Api, text)
        }
        Ok(server) => CheckResult::ok(CheckName::Api, format!("Kubernetes {} answers", server.git_version)),
    }
}

pub fn crd(facts: &DoctorFacts) -> CheckResult {
    let is_before = facts.installation.is_none();
    match &facts.crd {
        Err(error) => CheckResult::warning(CheckName::Crd, format!("the definition is not checked: {error}")),
        Ok(None) if is_before => CheckResult::ok(CheckName::Crd, "no definition is installed yet"),
        Ok(None) => CheckResult::error(
            CheckName::Crd,
            "the CustomResourceDefinition is not installed: install the chart with crd.install=true, or run `tcplb crd \
             | kubectl apply --server-side -f -`",
        ),
        Ok(Some(crd)) => installed(crd, is_before),
    }
}

fn installed(crd: &CustomResourceDefinition, is_before: bool) -> CheckResult {
    let conditions = crd.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let broken = conditions.clone().find(|condition| {
        let expected = ["Established", "NamesAccepted"].contains(&condition.type_.as_str());
        expected && condition.status == "False"
    });
    let hash = crd.metadata.annotations.as_ref().and_then(|annotations| annotations.get(SCHEMA_HASH));
    if let Some(broken) = broken {
        let message = broken.message.as_deref().unwrap_or_default();
        let text = format!(
            "the API server does not serve the definition ({} is False): {message}: remove the conflicting definition",
            broken.type_
        );
        return CheckResult::error(CheckName::Crd, text);
    }
    if hash.is_some_and(|hash| *hash == schema_hash()) {
        return CheckResult::ok(CheckName::Crd, "the definition matches this version");
    }
    let version = env!("CARGO_PKG_VERSION");
    let remedy = if is_before {
        "the chart replaces it with crd.install=true"
    } else {
        "if the replicas have this version too, install the output of `tcplb crd`, because the API server silently \
         drops fields that it does not know"
    };
    let text = format!("the definition does not match version {version} of this program: {remedy}");
    CheckResult::warning(CheckName::Crd, text)
}

pub fn permissions(facts: &DoctorFacts) -> Vec<CheckResult> {
    let missing = facts.permissions.iter().filter_map(|(permission, allowed)| match allowed {
        Ok(true) => None,
        Ok(false) if facts.installation.is_none() => {
            let text = format!("this user may not {permission}: the installation needs it");
            Some(CheckResult::error(CheckName::Permissions, text))
        }
        Ok(false) => {
            let denied = AccessError::Denied(permission.clone()).to_string();
            let text = match needed_permissions::purpose(permission) {
                Some(commands) => format!("{denied} (for {commands})"),
                None => denied,
            };
            Some(CheckResult::warning(CheckName::Permissions, text))
        }
        Err(error) => Some(CheckResult::warning(CheckName::Permissions, error.to_string())),
    });
    let missing: Vec<_> = missing.collect();
    if missing.is_empty() {
        let purpose = if facts.installation.is_none() { "to install the chart" } else { "for all commands" };
        let text =
            format!("this user has the {} that are needed {purpose}", count(facts.permissions.len(), "permission"));
        return vec![CheckResult::ok(CheckName::Permissions, text)];
    }
    missing
}
