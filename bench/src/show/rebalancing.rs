use std::{path::Path, time::Duration};

use anyhow::Result;
use tokio::time::sleep;

use super::{
    clients::Clients,
    measurement::Measurement,
    outcome::{Outcome, lines},
    server::Server,
    shown::Shown,
    watch::{Seen, largest_average, last, until, watch},
};
use crate::{
    backend::local,
    chart::{Chart, Panel},
};

pub const MANIFEST: &str = include_str!("rebalancing.yaml");
/// The mark of lines that are added later.
const JOINS: &str = "  # joins";

const CLIENTS: usize = 5000;
const MOST_PER_MINUTE: f64 = 1500.0;
/// The share, plus 20 percent.
const MOST: f64 = CLIENTS as f64 / 4.0 * 1.2;
/// The time at which the fourth endpoint joins.
const JOINED: f64 = 5.0;
const SECONDS: f64 = 45.0;

pub async fn run(program: &Path, folder: &Path) -> Result<Outcome> {
    let listener = local([127, 0, 0, 1], 28411);
    let mut servers =
        (28412..=28415).map(|port| Server::start(local([127, 0, 0, 1], port))).collect::<Result<Vec<_>>>()?;
    let three: String =
        MANIFEST.lines().filter(|line| !line.ends_with(JOINS)).map(|line| format!("{line}\n")).collect();
    let shown = Shown::start(program, folder, &three, &[listener]).await?;
    let _clients = Clients::start(listener, CLIENTS, usize::MAX).await;
    until("all are there", || servers.iter().map(Server::open).sum::<u64>() == CLIENTS as u64).await?;
    // All idle connections must have been idle for some time.
    sleep(Duration::from_secs(5)).await;
    let join = |_: &mut [Server]| shown.change(MANIFEST);
    let seen = watch(&mut servers, SECONDS, JOINED, join).await?;
    let closed = servers.iter().map(Server::accepted).sum::<u64>() - CLIENTS as u64;
    Ok(outcome(seen, closed as f64))
}

fn outcome(seen: Seen, closed: f64) -> Outcome {
    let names = ["one", "two", "three", "four"];
    let even = last(&seen.new[3], |new| new > 0.0) - JOINED;
    let at = |server: usize, seconds: f64| {
        seen.open[server].iter().rfind(|(at, _)| *at <= seconds).map_or(0.0, |(_, open)| *open)
    };
    let at_the_end = (0..4).map(|server| at(server, SECONDS));
    // The excess of three endpoints. Each of these connections is closed once.
    let too_many = CLIENTS as f64 - 3.0 * MOST;
    let mut figures = vec![
        Measurement::new("seconds until no endpoint had too many", even, 15.0..=32.0),
        Measurement::new("closed", closed, too_many * 0.9..=too_many * 1.1),
        // The credit may be that of a quarter of a second.
        Measurement::new(
            "most new ones of the fourth in a second, averaged over 3 s",
            largest_average(&seen.new[3], 3.0),
            10.0..=MOST_PER_MINUTE / 60.0 * 1.4,
        ),
        Measurement::new("connections at the end", at_the_end.clone().sum::<f64>(), CLIENTS as f64..=CLIENTS as f64),
    ];
    for (server, name) in names.iter().enumerate().take(3) {
        let there = |seconds| at(server, seconds);
        let what =
            format!("connections of {name}: {} at first, {} half-way", there(JOINED), there(JOINED + even / 2.0));
        figures.push(Measurement::new(what, there(SECONDS), MOST * 0.98..=MOST));
    }
    let new = lines(&names, seen.new).split_off(3);
    let panels = vec![
        Panel {
            unit: "open connections".into(),
            lines: lines(&names, seen.open),
            limit: Some((MOST, "share and 20 %".into())),
        },
        Panel { unit: "new connections of the fourth, in the second before".into(), lines: new, limit: None },
    ];
    let title = "A fourth endpoint joins three with 5,000 connections: rebalance, LeastConnections".into();
    let chart = Chart { title, seconds: SECONDS, panels, events: vec![(JOINED, "joined".into())] };
    Outcome { chart, figures }
}
