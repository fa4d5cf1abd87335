//! The environment of a round.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::{net::TcpStream, task::JoinSet, time::sleep};
use tokio_util::either::Either;

use super::Door;
use crate::{
    backend::Backends,
    contender::{Running, certificates::Certificates},
    load::client::{Client, Stream},
};

/// The unmeasured time at the start of each round.
const WARM_UP: Duration = Duration::from_millis(500);

/// The number of connections that are opened concurrently before a round.
const OPENED_AT_ONCE: usize = 32;

pub struct Stage<'a> {
    pub contender: &'a Running,
    pub certificates: &'a Certificates,
    pub backends: &'a Backends,
    pub door: Door,
    /// The duration of the measurement.
    pub duration: Duration,
}

/// The results of the measurement.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub count: u64,
    pub cpu: Duration,
    pub elapsed: Duration,
}

impl Stage<'_> {
    /// A client with its own store of TLS sessions.
    pub fn client(&self) -> Result<Client> {
        self.door.client(self.certificates)
    }

    /// Measures the contender while `count` counts operations.
    pub async fn watch(&self, count: impl Fn() -> u64) -> Result<Window> {
        self.watch_from(|| {}, count).await
    }

    /// Like [`Self::watch`], with a call of `begin` when the measurement begins.
    pub async fn watch_from(&self, begin: impl FnOnce(), count: impl Fn() -> u64) -> Result<Window> {
        sleep(WARM_UP).await;
        begin();
        let processes = self.contender.processes();
        let (begun, counted, cpu) = (Instant::now(), count(), processes.cpu()?);
        sleep(self.duration).await;
        let window =
            Window { count: count() - counted, cpu: processes.cpu()?.saturating_sub(cpu), elapsed: begun.elapsed() };
        ensure!(window.count > 0, "nothing was done within {:?}", window.elapsed);
        Ok(window)
    }

    /// Opens connections, each of which has answered once.
    pub async fn open(&self, count: usize) -> Result<Vec<Stream>> {
        let client = self.client()?;
        let (mut open, mut opening) = (Vec::with_capacity(count), JoinSet::new());
        for _ in 0..count {
            if opening.len() == OPENED_AT_ONCE {
                open.extend(opening.join_next().await.transpose()?.transpose()?);
            }
            let client = client.clone();
            opening.spawn(async move { client.connect_and_echo().await });
        }
        for connection in opening.join_all().await {
            open.push(connection?);
        }
        Ok(open)
    }

    /// Opens connections without TLS, each of which has answered once.
    pub async fn open_plain(&self, count: usize) -> Result<Vec<TcpStream>> {
        let plain = |stream| match stream {
            Either::Left(plain) => Ok(plain),
            Either::Right(_) => anyhow::bail!("this door has TLS"),
        };
        self.open(count).await?.into_iter().map(plain).collect()
    }
}

impl Window {
    pub fn per_second(&self) -> f64 {
        self.count as f64 / self.elapsed.as_secs_f64()
    }

    /// The CPU time of each operation in microseconds.
    pub fn cpu_of_each(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.count as f64
    }

    /// The contender's utilization of its core.
    pub fn utilisation(&self) -> f64 {
        self.cpu.as_secs_f64() / self.elapsed.as_secs_f64()
    }
}
