use super::*;
use crate::chart::Panel;

const CLIENTS: usize = 2000;
const MOST_PER_SECOND: f64 = 150.0;
const SPREAD: f64 = 20.0;
/// When the primary is demoted: from then on it takes no connections.
const DEMOTED: f64 = 5.0;
const SECONDS: f64 = 35.0;

pub async fn run(program: &Path, folder: &Path) -> Result<(Chart, String)> {
    let (listener, primary, replica) =
        (local([127, 0, 0, 1], 28401), local([127, 0, 0, 1], 28402), local([127, 0, 0, 1], 28403));
    let mut servers = [Server::start(primary)?, Server::start(replica)?];
    let manifest = format!(
        "apiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: failover}}\nspec:\n  \
         listeners: [{{port: {}, address: 127.0.0.1}}]\n  backends:\n  - {{name: primary, addresses: [\"{primary}\"]}}\n  \
         - {{name: replica, addresses: [\"{replica}\"], priority: 1}}\n  \
         healthCheck: {{active: {{interval: 500ms, timeout: 500ms, unhealthyAfter: 2}}}}\n  \
         drain: {{endpointUnhealthy: {{after: {SPREAD}s, spread: {SPREAD}s, maxPerSecond: {MOST_PER_SECOND}}}}}\n",
        listener.port()
    );
    let _shown = Shown::start(program, folder, &manifest, listener).await?;
    let _clients = Clients::start(listener, CLIENTS, 4).await;
    while servers[0].open() < CLIENTS as u64 {
        sleep(LOOK).await;
    }
    let demote = |servers: &mut [Server]| {
        servers[0].refuse();
        Ok(())
    };
    let seen = watch(&mut servers, SECONDS, DEMOTED, demote).await?;
    let (moved, most) = (last(&seen.open[0], |open| open > 0.0) - DEMOTED, largest(&seen.new[1]));
    let figures = format!(
        "{CLIENTS} connections of a demoted primary moved in {moved:.1} s (its check takes 1 s to find it, the spread is \
         {SPREAD} s); the replacement got at most {most} in a second ({MOST_PER_SECOND} are allowed), and has {} at the end",
        servers[1].open()
    );
    let names = ["primary", "replacement"];
    let mut new = lines(&names, seen.new);
    let panels = vec![
        Panel { unit: "open connections".into(), lines: lines(&names, seen.open), limit: None },
        Panel {
            unit: "new connections of the replacement, in the second before".into(),
            lines: new.split_off(1),
            limit: Some((MOST_PER_SECOND, "maxPerSecond".into())),
        },
    ];
    let title = "A primary with 2,000 connections is demoted: drain.endpointUnhealthy over 20 s".into();
    let chart = Chart { title, seconds: SECONDS, panels, events: vec![(DEMOTED, "demoted".into())] };
    Ok((chart, figures))
}
