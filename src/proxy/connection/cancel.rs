use std::{collections::BTreeMap, sync::Arc};

use tokio_util::either::Either;

use super::{
    connect::{self, ClientInfo, Encryption},
    record::ConnectionRecord,
    sides::BackendConnection,
};
use crate::{
    proxy::{
        accounting::CloseReason,
        listener::routes::Routes,
        postgres::{CancelRequest, Requester},
        stream::{Stream, prefixed_io::PrefixedIo},
    },
    upstream::Endpoint,
};

/// Sends a request to cancel a PostgreSQL query to every server that may have its session.
pub async fn cancel(
    client: &mut PrefixedIo<Stream>,
    request: CancelRequest,
    routes: &Routes,
    record: &ConnectionRecord,
) -> CloseReason {
    let endpoints = routes.all().iter().flat_map(|route| route.subset.endpoints());
    let usable = endpoints.filter(|endpoint| endpoint.usable());
    let servers: BTreeMap<_, _> = usable.map(|endpoint| (endpoint.address(), endpoint)).collect();
    let client_info = ClientInfo::new(client.get_mut(), Encryption::OfBackend, record);
    let open = async |endpoint: Arc<Endpoint>| {
        let mut server = connect::open(&endpoint, &client_info).await?;
        // A reset could overtake the request.
        server.stream().ended_cleanly();
        Ok(match server {
            BackendConnection::Plain(server) => Either::Left(server),
            BackendConnection::Tls(server) => Either::Right(server),
        })
    };
    let state = &record.config.state;
    let from = Requester::new(state.id, record.client().ip());
    if !request.hand_over(&state.cancels, from, servers.into_values().map(open)).await {
        return CloseReason::CancelSuperseded;
    }
    client.get_mut().ended_cleanly();
    CloseReason::Complete
}
