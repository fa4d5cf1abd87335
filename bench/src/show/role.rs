use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::backend::listen;

/// An HTTP server that reports the role of a database, like Patroni: 200 for the primary, otherwise 503.
pub struct Role {
    is_primary: Arc<AtomicBool>,
    _answering: JoinSet<()>,
}

impl Role {
    pub fn start(address: SocketAddr, is_primary: bool) -> Result<Self> {
        let (listener, is_primary) = (listen(address)?, Arc::new(AtomicBool::new(is_primary)));
        let (asked, mut answering) = (is_primary.clone(), JoinSet::new());
        answering.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, asked.load(Relaxed)));
            }
        });
        Ok(Self { is_primary, _answering: answering })
    }

    pub fn becomes(&self, is_primary: bool) {
        self.is_primary.store(is_primary, Relaxed);
    }
}

async fn answer(mut stream: TcpStream, is_primary: bool) {
    let status = if is_primary { "200 OK" } else { "503 Service Unavailable" };
    let response = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    // The request is small and arrives at once. A failed write does not matter.
    if stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {
        let _ = stream.write_all(response.as_bytes()).await;
    }
}
