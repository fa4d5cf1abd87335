//! The share of new connections of a server that returns.

use std::{cell::RefCell, net::SocketAddr, path::Path, rc::Rc, time::Duration};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, LocalSet, spawn_local},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    measurement::Measurement,
    outcome::{Outcome, lines},
    shown::Shown,
};
use crate::{
    backend::local,
    chart::{Chart, Panel},
};

pub const MANIFEST: &str = include_str!("slow-start.yaml");

const SERVERS: usize = 3;
const SLOW_START: f64 = 30.0;
const STOPS: f64 = 4.0;
const RETURNS: f64 = 12.0;
const SECONDS: f64 = 48.0;
const CONNECTIONS_PER_SECOND: u32 = 500;

/// The number of connections that each server answered, per second.
type SecondCounts = Rc<RefCell<Vec<[u32; SERVERS]>>>;

pub async fn run(program: &Path, folder: &Path) -> Result<Outcome> {
    let counts: SecondCounts = Rc::new(RefCell::new(vec![[0; SERVERS]; SECONDS as usize]));
    LocalSet::new().run_until(watch(program, folder, counts.clone())).await?;
    let counts = counts.borrow();
    Ok(outcome(&counts))
}

async fn watch(program: &Path, folder: &Path, counts: SecondCounts) -> Result<()> {
    let listen = local([127, 0, 0, 1], 28421);
    let addresses: Vec<SocketAddr> = (28422..).take(SERVERS).map(|port| local([127, 0, 0, 1], port)).collect();
    let mut servers = addresses
        .iter()
        .zip(0..)
        .map(|(address, number)| Ok(serve(open(*address)?, number)))
        .collect::<Result<Vec<_>>>()?;
    let _shown = Shown::start(program, folder, MANIFEST, &[listen]).await?;

    let begin = Instant::now();
    let at = |seconds: f64| begin + Duration::from_secs_f64(seconds);
    let clients = spawn_local(clients(listen, begin, counts));
    sleep_until(at(STOPS)).await;
    servers.pop().inspect(AbortHandle::abort);
    sleep_until(at(RETURNS)).await;
    let last = SERVERS - 1;
    servers.push(serve(open(addresses[last])?, last as u8));
    sleep_until(at(SECONDS)).await;
    clients.abort();
    servers.iter().for_each(AbortHandle::abort);
    Ok(())
}

/// Also works at an address whose listener was just closed.
fn open(address: SocketAddr) -> Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(TcpListener::from_std(listener)?)
}

/// Sends its number first, until it is aborted.
fn serve(listener: TcpListener, number: u8) -> AbortHandle {
    let serving = spawn_local(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            spawn_local(async move {
                let _ = connection.write_all(&[number]).await;
                let _ = connection.read(&mut [0]).await;
            });
        }
    });
    serving.abort_handle()
}

/// A fixed number of clients per second, independent of the duration of each.
async fn clients(listen: SocketAddr, begin: Instant, counts: SecondCounts) {
    let mut ticks = interval(Duration::from_secs(1) / CONNECTIONS_PER_SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        ticks.tick().await;
        let counts = counts.clone();
        spawn_local(async move {
            let second = begin.elapsed().as_secs() as usize;
            let mut number = [0];
            let Ok(mut connection) = TcpStream::connect(listen).await else { return };
            if connection.read_exact(&mut number).await.is_ok()
                && let Some(counts) = counts.borrow_mut().get_mut(second)
            {
                counts[usize::from(number[0])] += 1;
            }
        });
    }
}

fn outcome(counts: &[[u32; SERVERS]]) -> Outcome {
    let share = |server: usize| -> Vec<(f64, f64)> {
        let percent =
            |counts: &[u32; SERVERS]| f64::from(counts[server]) * 100.0 / f64::from(counts.iter().sum::<u32>().max(1));
        // The middle of its second.
        (0..).zip(counts).map(|(second, counts)| (f64::from(second) + 0.5, percent(counts))).collect()
    };
    let documented = |at: f64| {
        let part = ((at - RETURNS) / SLOW_START).clamp(0.1, 1.0);
        100.0 * part / (part + (SERVERS - 1) as f64)
    };
    let expected = (RETURNS as u32..=SECONDS as u32).map(f64::from).map(|at| (at, documented(at)));
    // Excludes the second in which the return is detected.
    let ramp = share(SERVERS - 1).into_iter().filter(|(at, _)| *at > RETURNS + 1.0);
    let off = ramp.map(|(at, percent)| (percent - documented(at)).abs()).fold(0.0, f64::max);
    let all = f64::from(CONNECTIONS_PER_SECOND) * SECONDS;
    let answered = counts.iter().flatten().sum::<u32>();
    let figures = vec![
        Measurement::new("most percentage points off the documented share in a second", off, 0.0..=5.0),
        Measurement::new("connections that were answered", answered, all * 0.98..=all),
    ];
    let names = ["one", "another", "the one that returns", "as documented"];
    let shares = (0..SERVERS).map(share).chain([expected.collect()]).collect();
    let lines = lines(&names, shares);
    let chart = Chart {
        title: format!("slowStart: {SLOW_START}s, three servers, {CONNECTIONS_PER_SECOND} new connections per second"),
        seconds: SECONDS,
        panels: vec![Panel { unit: "share of new connections, %".into(), lines, limit: None }],
        events: vec![(STOPS, "one stops".into()), (RETURNS, "it returns".into())],
    };
    Outcome { chart, figures }
}
