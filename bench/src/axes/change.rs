//! A change of one endpoint among many: the time until it takes effect, its cost, and the disturbed connections.

mod configurations;
mod endpoints;
mod envoy;
mod many;
mod traefik;

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use configurations::Change;
pub use many::Many;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

use super::round::Round;
use crate::{
    backend::WHO,
    contender::{Contender, Running},
    load::{
        Failures,
        client::{Client, Stream, echo},
    },
};

/// The number of open connections during the change: on the changing load balancer, and as many on others.
const HELD: u16 = 20;

/// The pause after the start of a program, so that its start does not count as part of the change.
const STARTING: Duration = Duration::from_secs(1);

/// The time over which the cost of a change is measured.
const COST: Duration = Duration::from_secs(3);

/// The time limit of a change.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);

pub async fn round(contender: &Contender, many: Many, folder: &Path) -> Result<Round> {
    let change = Change::prepare(contender, many, folder)?;
    let mut running = change.start(contender)?;
    for load_balancer in [0, many.load_balancers - 1, many.changing()] {
        running.ready(&Many::client(load_balancer)).await?;
    }
    let mut held = hold(many).await?;
    let mut failures = Failures::default();
    sleep(STARTING).await;

    let begun = Instant::now();
    change.apply(&running)?;
    let effect = answers(many, many.endpoints + 1, begun, &mut failures).await?;
    let mut disturbed = failures.count;
    for connection in &mut held {
        disturbed += u64::from(echo(connection).await.is_err());
    }
    let cpu = cost(&change, &running).await?;
    answers(many, many.endpoints, Instant::now(), &mut failures).await?;
    Ok(Round::default()
        .with("effect", effect.as_secs_f64() * 1e3)
        .with("cpu", cpu.as_secs_f64() * 1e3)
        .with("disturbed", disturbed as f64))
}

async fn hold(many: Many) -> Result<Vec<Stream>> {
    let mut held = Vec::new();
    for number in 0..HELD {
        held.push(Many::client(many.changing()).connect_and_echo().await?);
        held.push(Many::client(number % many.load_balancers).connect_and_echo().await?);
    }
    Ok(held)
}

/// Connects until this endpoint answers. Each endpoint answers once in as many connections as there are endpoints.
async fn answers(many: Many, endpoint: u8, begun: Instant, failures: &mut Failures) -> Result<Duration> {
    let (client, awaited) = (Many::client(many.changing()), Many::host(endpoint));
    while begun.elapsed() < CHANGE_TIMEOUT {
        match who(&client).await {
            Ok(host) if host == awaited => return Ok(begun.elapsed()),
            Ok(_) => {}
            Err(_) => failures.count += 1,
        }
    }
    bail!("the change had no effect within {CHANGE_TIMEOUT:?}")
}

async fn who(client: &Client) -> io::Result<[u8; 4]> {
    let mut stream = client.connect().await?;
    stream.write_all(&[WHO]).await?;
    let mut host = [0; 4];
    stream.read_exact(&mut host).await?;
    Ok(host)
}

/// The CPU time of undoing the change without clients, minus the CPU time of an equal period without a change.
async fn cost(change: &Change, running: &Running) -> Result<Duration> {
    sleep(COST).await;
    let start = running.processes().cpu()?;
    sleep(COST).await;
    let before = running.processes().cpu()?;
    change.undo(running)?;
    sleep(COST).await;
    let after = running.processes().cpu()?;
    Ok(after.saturating_sub(before).saturating_sub(before.saturating_sub(start)))
}
