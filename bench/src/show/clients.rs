use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

/// The interval of messages of a busy client.
const BUSY: Duration = Duration::from_secs(1);

/// Clients with one connection each, which they reopen at once when it is closed.
pub struct Clients {
    _tasks: JoinSet<()>,
}

impl Clients {
    /// Every `busy`th client sends messages all the time. The others send nothing after a greeting.
    pub async fn start(address: SocketAddr, count: usize, busy: usize) -> Self {
        let mut tasks = JoinSet::new();
        for number in 0..count {
            tasks.spawn(stay(address, number % busy == 0));
            if number % 20 == 0 {
                // Accept queues are short, and their overflow is not part of the chart.
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
