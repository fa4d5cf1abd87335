//! Imitates the part of an API server that tcplb uses: lists with pages, watches, reads and writes of objects.
//!
//! Label selectors are ignored: all stored EndpointSlices have the label that tcplb selects. Of patches, only
//! server-side apply by a single writer is simulated.

mod collection;
mod path;
mod requests;
mod store;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context, Result};
use axum::Router;
use store::ObjectStore;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// A running server. Dropping it stops it.
pub struct ApiServer {
    pub objects: Arc<ObjectStore>,
    pub address: SocketAddr,
    _serving: AbortOnDropHandle<()>,
}

impl ApiServer {
    /// Starts a server on a free port.
    pub async fn start(address: Ipv4Addr, other_leader: Option<&'static str>) -> Result<Self> {
        let objects = Arc::new(ObjectStore::new(other_leader));
        let router = Router::new().fallback(requests::answer).with_state(objects.clone());
        let listener = TcpListener::bind((address, 0)).await.with_context(|| format!("cannot listen on {address}"))?;
        let address = listener.local_addr()?;
        let serving = tokio::spawn(async move {
            // It ends only with its task.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { objects, address, _serving: AbortOnDropHandle::new(serving) })
    }
}
