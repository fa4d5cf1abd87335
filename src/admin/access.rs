//! Access to the pages with tenant data. Probes and metrics are open.

#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
    http::{
        HeaderMap, StatusCode,
        header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use tokio::{net::TcpStream, time::sleep};

use crate::{
    authorization::{AUDIENCE, Authorizer, GROUP, RESOURCE, Unauthorized},
    model::REPORT_TRAFFIC,
};

/// The time after which the token of a stream is reviewed again.
const REVIEW_INTERVAL: Duration = Duration::from_secs(60);

/// The clients that may read tenant data.
#[derive(Clone)]
pub enum AdminAccess {
    /// All clients that can connect.
    Everyone,
    /// Clients at loopback addresses.
    Loopback,
    /// Clients at loopback addresses, and those with a token that the API server accepts.
    Kubernetes(Arc<Authorizer>),
}

/// A page with tenant data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenantPage {
    Overview,
    Snapshot,
    Report,
    /// The traffic of this replica, for the page of the leader.
    Traffic,
    Connections,
}

impl TenantPage {
    pub const fn path(self) -> &'static str {
        match self {
            Self::Overview => "/",
            Self::Snapshot => "/snapshot",
            Self::Report => "/report",
            Self::Traffic => REPORT_TRAFFIC,
            Self::Connections => "/connections",
        }
    }

    /// The subresource of `replicas` in permissions.
    const fn subresource(self) -> &'static str {
        match self {
            Self::Overview => "page",
            Self::Snapshot => "snapshot",
            Self::Report | Self::Traffic => "report",
            Self::Connections => "connections",
        }
    }
}

/// The two ends of a connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionEnds {
    client: SocketAddr,
    /// `None`: unknown.
    server: Option<SocketAddr>,
}

impl ConnectionEnds {
    pub fn of(stream: &TcpStream, client: SocketAddr) -> Self {
        Self { client, server: stream.local_addr().ok() }
    }

    /// True if both ends are loopback addresses. Proxies of service meshes connect from a loopback address to the
    /// address of the pod, in the name of clients elsewhere.
    fn are_loopback(self) -> bool {
        let is_loopback = |address: SocketAddr| address.ip().to_canonical().is_loopback();
        is_loopback(self.client) && self.server.is_some_and(is_loopback)
    }
}

/// Answers a request if its client may read the page.
pub async fn authorize(
    State((access, page)): State<(AdminAccess, TenantPage)>,
    Extension(ends): Extension<ConnectionEnds>,
    request: Request,
    next: Next,
) -> Response {
    if let Some(refusal) = refusal(&access, page, ends, request.headers()).await {
        return refusal;
    }
    match (access, bearer_token(request.headers()).map(str::to_owned)) {
        (AdminAccess::Kubernetes(authorizer), Some(token))
            if page == TenantPage::Connections && !ends.are_loopback() =>
        {
            let revoked = revocation(authorizer, token, page, ends.client.ip());
            let response = next.run(request).await;
            response.map(|body| Body::from_stream(body.into_data_stream().take_until(revoked)))
        }
        _ => next.run(request).await,
    }
}

/// Ends when a client may no longer read a page, since a stream does not end by itself.
async fn revocation(authorizer: Arc<Authorizer>, token: String, page: TenantPage, client: IpAddr) {
    loop {
        sleep(REVIEW_INTERVAL).await;
        let authorized = authorizer.authorize(&token, page.subresource(), client).await;
        if matches!(authorized, Err(Unauthorized::InvalidToken | Unauthorized::Forbidden(_))) {
            return;
        }
    }
}

async fn refusal(
    access: &AdminAccess,
    page: TenantPage,
    ends: ConnectionEnds,
    headers: &HeaderMap,
) -> Option<Response> {
    match access {
        AdminAccess::Everyone => None,
        _ if ends.are_loopback() => None,
        AdminAccess::Loopback => Some((StatusCode::FORBIDDEN, LOOPBACK_ONLY).into_response()),
        AdminAccess::Kubernetes(authorizer) => {
            let Some(token) = bearer_token(headers) else { return Some(no_token(authorizer, page)) };
            let authorized = authorizer.authorize(token, page.subresource(), ends.client.ip()).await;
            authorized.err().map(|why| unauthorized(&why, authorizer, page))
        }
    }
}

const LOOPBACK_ONLY: &str = "this page shows tenant data, and is available from loopback addresses only: request it on \
                             127.0.0.1 of this host or pod, for example through `kubectl port-forward`, or start tcplb \
                             with --admin-authorization none\n";

/// The token of a request (RFC 6750).
fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' ')).filter(|token| !token.is_empty())
}

fn no_token(authorizer: &Authorizer, page: TenantPage) -> Response {
    let sentence = format!(
        "this page shows tenant data and requires a token: use `kubectl port-forward`, or send the header \
         `Authorization: Bearer TOKEN` with a token of `kubectl create token SERVICEACCOUNT --audience {AUDIENCE}` whose \
         user may `get` {RESOURCE}/{} of {GROUP} in namespace {}\n",
        page.subresource(),
        authorizer.namespace()
    );
    challenge(StatusCode::UNAUTHORIZED, "Bearer", sentence)
}

fn unauthorized(why: &Unauthorized, authorizer: &Authorizer, page: TenantPage) -> Response {
    match why {
        Unauthorized::InvalidToken => {
            let sentence = format!(
                "{why}: create another one with `kubectl create token SERVICEACCOUNT --audience {AUDIENCE}`, or use \
                 `kubectl port-forward`\n"
            );
            challenge(StatusCode::UNAUTHORIZED, "Bearer error=\"invalid_token\"", sentence)
        }
        Unauthorized::Forbidden(_) => {
            let sentence = format!(
                "{why}: bind a Role with the rule {{apiGroups: [{GROUP}], resources: [{RESOURCE}/{}], verbs: [get]}} in \
                 namespace {}, or use `kubectl port-forward`\n",
                page.subresource(),
                authorizer.namespace()
            );
            challenge(StatusCode::FORBIDDEN, "Bearer error=\"insufficient_scope\"", sentence)
        }
        Unauthorized::TooManyReviews | Unauthorized::ReviewFailed(_) => {
            let sentence = format!("{why}: try again, or use `kubectl port-forward`\n");
            (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], sentence).into_response()
        }
    }
}

fn challenge(status: StatusCode, challenge: &'static str, sentence: String) -> Response {
    (status, [(WWW_AUTHENTICATE, challenge)], sentence).into_response()
}
