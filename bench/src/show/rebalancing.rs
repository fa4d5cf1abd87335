use super::*;
use crate::chart::Panel;

const CLIENTS: usize = 5000;
const MOST_PER_MINUTE: f64 = 1500.0;
const PERCENT: f64 = 20.0;
/// When the fourth joins.
const JOINED: f64 = 5.0;
const SECONDS: f64 = 45.0;

pub async fn run(program: &Path, folder: &Path) -> Result<(Chart, String)> {
    let listener = local([127, 0, 0, 1], 28411);
    let addresses: Vec<SocketAddr> = (28412..=28415).map(|port| local([127, 0, 0, 1], port)).collect();
    let mut servers = addresses.iter().map(|address| Server::start(*address)).collect::<Result<Vec<_>>>()?;
    let shown = Shown::start(program, folder, &manifest(listener, &addresses[..3]), listener).await?;
    let _clients = Clients::start(listener, CLIENTS, usize::MAX).await;
    while servers.iter().map(Server::open).sum::<u64>() < CLIENTS as u64 {
        sleep(LOOK).await;
    }
    // Whoever is idle has been so for a while.
    sleep(Duration::from_secs(5)).await;
    let before: Vec<u64> = servers.iter().map(Server::open).collect();
    let join = |_: &mut [Server]| shown.change(&manifest(listener, &addresses));
    let seen = watch(&mut servers, SECONDS, JOINED, join).await?;
    let after: Vec<u64> = servers.iter().map(Server::open).collect();
    let closed = servers.iter().map(Server::accepted).sum::<u64>() - CLIENTS as u64;
    let most = largest(&seen.new[3]);
    let even = last(&seen.new[3], |new| new > 0.0) - JOINED;
    let at = |seconds: f64| -> Vec<f64> {
        let at =
            |points: &Vec<(f64, f64)>| points.iter().find(|(at, _)| *at >= seconds).map_or(0.0, |(_, value)| *value);
        seen.open.iter().map(at).collect()
    };
    let figures = format!(
        "before: {before:?}; {:.0} s after a fourth joined: {:?}; after {even:.1} s: {after:?}, the most allowed being {}; \
         {closed} were closed, at most {most} in a second ({MOST_PER_MINUTE} are allowed in a minute)",
        even / 2.0,
        at(JOINED + even / 2.0),
        CLIENTS as f64 / 4.0 * (1.0 + PERCENT / 100.0)
    );
    let names = ["one", "two", "three", "four"];
    let mut new = lines(&names, seen.new);
    let panels = vec![
        Panel {
            unit: "open connections".into(),
            lines: lines(&names, seen.open),
            limit: Some((CLIENTS as f64 / 4.0 * (1.0 + PERCENT / 100.0), "share and 20 %".into())),
        },
        Panel {
            unit: "new connections of the fourth, in the second before".into(),
            lines: new.split_off(3),
            limit: None,
        },
    ];
    let title = "A fourth endpoint joins three with 5,000 connections: rebalance, LeastConnections".into();
    let chart = Chart { title, seconds: SECONDS, panels, events: vec![(JOINED, "joined".into())] };
    Ok((chart, figures))
}

fn manifest(listener: SocketAddr, backends: &[SocketAddr]) -> String {
    let addresses: Vec<String> = backends.iter().map(|address| format!("\"{address}\"")).collect();
    format!(
        "apiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: rebalancing}}\nspec:\n  \
         listeners: [{{port: {}, address: 127.0.0.1}}]\n  backends: [{{addresses: [{}]}}]\n  \
         loadBalancing: {{algorithm: LeastConnections}}\n  \
         rebalance: {{maxImbalancePercent: {PERCENT}, maxClosesPerMinute: {MOST_PER_MINUTE}, minAge: 1s}}\n",
        listener.port(),
        addresses.join(", ")
    )
}
