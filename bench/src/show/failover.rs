use std::path::Path;

use anyhow::Result;

use super::{
    clients::Clients,
    measurement::Measurement,
    outcome::{Outcome, lines},
    role::Role,
    server::Server,
    shown::Shown,
    watch::{Seen, largest_average, last, until, watch},
};
use crate::{
    backend::local,
    chart::{Chart, Panel},
};

pub const MANIFEST: &str = include_str!("failover.yaml");

const CLIENTS: usize = 2000;
const SPREAD: f64 = 20.0;
const MOST_PER_SECOND: f64 = 60.0;
/// The time at which the other server becomes the primary.
const DEMOTED: f64 = 5.0;
const SECONDS: f64 = 48.0;
/// The maximum time in which two checks detect it.
const FOUND: f64 = 2.0;

/// Two load balancers in front of the same two databases. One of them also has a rate limit.
pub async fn run(program: &Path, folder: &Path) -> Result<Outcome> {
    let listeners = [28401, 28403].map(|port| local([127, 0, 0, 1], port));
    let [primary, replica] = [[127, 0, 0, 2], [127, 0, 0, 3]];
    let roles = [Role::start(local(primary, 28408), true)?, Role::start(local(replica, 28408), false)?];
    let server = |host, port| Server::start(local(host, port));
    let mut servers =
        [server(primary, 28402)?, server(primary, 28404)?, server(replica, 28402)?, server(replica, 28404)?];
    let _shown = Shown::start(program, folder, MANIFEST, &listeners).await?;
    let _clients = [Clients::start(listeners[0], CLIENTS, 4).await, Clients::start(listeners[1], CLIENTS, 4).await];
    until("all are at the primary", || servers[..2].iter().all(|server| server.open() == CLIENTS as u64)).await?;
    let change_roles = |_: &mut [Server]| {
        roles.iter().zip([false, true]).for_each(|(role, is_primary)| role.becomes(is_primary));
        Ok(())
    };
    let seen = watch(&mut servers, SECONDS, DEMOTED, change_roles).await?;
    Ok(outcome(seen))
}

fn outcome(seen: Seen) -> Outcome {
    let moved = |server: usize| last(&seen.open[server], |open| open > 0.0) - DEMOTED;
    let at_the_end = |server: usize| seen.open[server].last().map_or(0.0, |(_, open)| *open);
    let by_rate = CLIENTS as f64 / MOST_PER_SECOND;
    let figures = vec![
        Measurement::new("seconds until all had left the primary", moved(0), SPREAD * 0.85..=SPREAD + FOUND + 2.0),
        Measurement::new(
            "seconds until all had left the primary, with maxPerSecond",
            moved(1),
            by_rate * 0.85..=by_rate + FOUND + 4.0,
        ),
        // A linear drain requires 100 closes, at times that vary by a half.
        Measurement::new(
            "most new ones of the replacement in a second, averaged over 3 s",
            largest_average(&seen.new[2], 3.0),
            90.0..=150.0,
        ),
        Measurement::new(
            "most new ones of the replacement in a second, averaged over 3 s, with maxPerSecond",
            largest_average(&seen.new[3], 3.0),
            50.0..=MOST_PER_SECOND * 1.2,
        ),
        Measurement::new("connections of the replacement at the end", at_the_end(2), CLIENTS as f64..=CLIENTS as f64),
        Measurement::new(
            "connections of the replacement at the end, with maxPerSecond",
            at_the_end(3),
            CLIENTS as f64..=CLIENTS as f64,
        ),
    ];
    let names = ["primary", "primary, rate", "replacement", "replacement, rate"];
    let new = lines(&names, seen.new).split_off(2);
    let panels = vec![
        Panel { unit: "open connections".into(), lines: lines(&names, seen.open), limit: None },
        Panel {
            unit: "new connections of the replacement, in the second before".into(),
            lines: new,
            limit: Some((MOST_PER_SECOND, "maxPerSecond: 60".into())),
        },
    ];
    let title = "A primary with 2,000 connections is demoted: spread over 20 s, and at a rate of 60 a second";
    let chart = Chart { title: title.into(), seconds: SECONDS, panels, events: vec![(DEMOTED, "demoted".into())] };
    Outcome { chart, figures }
}
