//! The questions to the API server.

use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{LocalSubjectAccessReview, ResourceAttributes, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams, core::ObjectMeta};

use crate::printable::printable;

/// The audience of tokens. Other services do not accept a token of this audience, so it can be sent over plain HTTP.
pub const AUDIENCE: &str = "tcplb";
/// The API group and the resource of the permission to read the admin pages of replicas. There are no such objects.
pub const GROUP: &str = "tcplb.io";
pub const RESOURCE: &str = "replicas";
/// The maximum length of an error and of the name of a user in messages, in bytes.
const MAX_TEXT: usize = 512;

/// Asks the API server about tokens.
pub struct Reviewer {
    client: Client,
    namespace: String,
}

/// The answer of the API server about the holder of a token.
pub enum TokenHolder {
    Authorized,
    Unauthenticated,
    /// The name of the user.
    Forbidden(String),
}

impl Reviewer {
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { client, namespace: namespace.to_owned() }
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// # Errors
    /// If the API server does not decide.
    pub async fn review(&self, token: &str, subresource: &str) -> Result<TokenHolder, String> {
        let Some(user) = self.authenticate(token).await.map_err(|error| text(&error))? else {
            return Ok(TokenHolder::Unauthenticated);
        };
        let name = printable(user.username.as_deref().unwrap_or_default(), MAX_TEXT).into_owned();
        let allowed = self.may_get(user, subresource).await.map_err(|error| text(&error))?;
        Ok(if allowed { TokenHolder::Authorized } else { TokenHolder::Forbidden(name) })
    }

    /// The user of a token of the audience.
    async fn authenticate(&self, token: &str) -> kube::Result<Option<UserInfo>> {
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![AUDIENCE.to_owned()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let review = Api::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        let Some(status) = review.status.filter(|status| status.authenticated == Some(true)) else { return Ok(None) };
        // An API server that does not know the audiences of a token leaves them empty.
        let is_ours = status.audiences.iter().flatten().any(|audience| audience == AUDIENCE);
        Ok(status.user.filter(|_| is_ours))
    }

    async fn may_get(&self, user: UserInfo, subresource: &str) -> kube::Result<bool> {
        let attributes = ResourceAttributes {
            namespace: Some(self.namespace.clone()),
            verb: Some("get".to_owned()),
            group: Some(GROUP.to_owned()),
            resource: Some(RESOURCE.to_owned()),
            subresource: Some(subresource.to_owned()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: user.username,
            uid: user.uid,
            groups: user.groups,
            extra: user.extra,
            resource_attributes: Some(attributes),
            non_resource_attributes: None,
        };
        let metadata = ObjectMeta { namespace: Some(self.namespace.clone()), ..ObjectMeta::default() };
        let review = LocalSubjectAccessReview { metadata, spec, status: None };
        let reviews = Api::namespaced(self.client.clone(), &self.namespace);
        let status = reviews.create(&PostParams::default(), &review).await?.status;
        Ok(status.is_some_and(|status| status.allowed && status.denied != Some(true)))
    }
}

fn text(error: &kube::Error) -> String {
    let text = match error {
        kube::Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    };
    printable(&text, MAX_TEXT).into_owned()
}
