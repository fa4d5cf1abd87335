use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use anyhow::Result;
use tokio::{io::AsyncReadExt, net::TcpStream, task::JoinSet};

use crate::backend::listen;

/// A server that reads the received data and counts its connections.
pub struct Server {
    counts: Arc<ConnectionCounts>,
    _accepting: JoinSet<()>,
}

#[derive(Default)]
struct ConnectionCounts {
    accepted: AtomicU64,
    ended: AtomicU64,
}

impl Server {
    pub fn start(address: SocketAddr) -> Result<Self> {
        let (listener, counts) = (listen(address)?, Arc::new(ConnectionCounts::default()));
        let counted = counts.clone();
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, counted.clone()));
            }
        });
        Ok(Self { counts, _accepting: accepting })
    }

    pub fn open(&self) -> u64 {
        self.accepted() - self.counts.ended.load(Relaxed)
    }

    /// The number of connections with data. Probes send none.
    pub fn accepted(&self) -> u64 {
        self.counts.accepted.load(Relaxed)
    }
}

async fn serve(mut stream: TcpStream, counts: Arc<ConnectionCounts>) {
    let mut buffer = [0; 64];
    if !stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
        return;
    }
    counts.accepted.fetch_add(1, Relaxed);
    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    counts.ended.fetch_add(1, Relaxed);
}
