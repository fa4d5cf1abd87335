use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

/// How often a busy client says something.
const BUSY: Duration = Duration::from_secs(1);

/// Clients, each with one connection, which it opens again at once when it is closed.
pub struct Clients {
    _tasks: JoinSet<()>,
}

impl Clients {
    /// Every `busy`th says something all the time, the others nothing after a greeting.
    pub async fn start(address: SocketAddr, count: usize, busy: usize) -> Self {
        let mut tasks = JoinSet::new();
        for number in 0..count {
            tasks.spawn(stay(address, number % busy == 0));
            if number % 20 == 0 {
                // Queues are short; this is not what is shown.
                sleep(Duration::from_millis(5)).await;
            }
        }
        Self { _tasks: tasks }
    }
}

async fn stay(address: SocketAddr, is_busy: bool) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            while stream.write_all(b"!").await.is_ok() {
                let pause = if is_busy { BUSY } else { Duration::MAX };
                if timeout(pause, stream.read(&mut [0])).await.is_ok() {
                    break;
                }
            }
        }
        sleep(Duration::from_millis(10)).await;
    }
}
