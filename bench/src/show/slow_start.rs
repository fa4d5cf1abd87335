use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::chart::Panel;

const SLOW_START: f64 = 30.0;
const STARTS: f64 = 6.0;
const SECONDS: f64 = 44.0;
const CLIENTS_PER_SECOND: u32 = 500;
const SERVERS: usize = 3;

pub async fn run(program: &Path, folder: &Path) -> Result<(Chart, String)> {
    let address = |number: u16| local([127, 0, 0, 1], 28410 + number);
    let listener = address(0);
    // The last one is elsewhere until it starts.
    let mut servers = [Server::start(address(1))?, Server::start(address(2))?, Server::start(address(9))?];
    let manifest = format!(
        "apiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: slow-start}}\nspec:\n  \
         listeners: [{{port: {}, address: 127.0.0.1}}]\n  backends: [{{addresses: [\"{}\", \"{}\", \"{}\"]}}]\n  \
         loadBalancing: {{slowStart: {SLOW_START}s}}\n  \
         healthCheck: {{active: {{interval: 200ms, unhealthyAfter: 1, healthyAfter: 1}}}}\n",
        listener.port(),
        address(1),
        address(2),
        address(3)
    );
    let _shown = Shown::start(program, folder, &manifest, listener).await?;
    let mut visits = tokio::task::JoinSet::new();
    visits.spawn(visit_again_and_again(listener));
    let start = |servers: &mut [Server]| {
        servers[SERVERS - 1] = Server::start(address(3))?;
        Ok(())
    };
    let seen = watch(&mut servers, SECONDS, STARTS, start).await?;

    let shares: Vec<_> = (0..SERVERS).map(|server| share(&seen.new, server)).collect();
    let expected: Vec<_> = (0..).map(f64::from).take_while(|at| *at <= SECONDS - STARTS).map(documented).collect();
    let at = |seconds: f64| shares[SERVERS - 1].iter().rfind(|(at, _)| *at <= STARTS + seconds).map_or(0.0, |it| it.1);
    let figures = format!(
        "of {CLIENTS_PER_SECOND} new connections a second the third server got {:.0} % 2 s after it had started, {:.0} % after \
         15 s, and {:.0} % after {SLOW_START} s",
        at(2.0),
        at(15.0),
        at(SLOW_START + 2.0)
    );
    let mut lines = lines(&["one", "another", "the third"], shares);
    lines.push(Line { name: "as documented".into(), points: expected });
    let panels =
        vec![Panel { unit: "share of the new connections of the second before, %".into(), lines, limit: None }];
    let title = format!("slowStart: {SLOW_START}s, {CLIENTS_PER_SECOND} new connections per second");
    Ok((Chart { title, seconds: SECONDS, panels, events: vec![(STARTS, "a third server starts".into())] }, figures))
}

/// As many as they are in a second, however long each takes.
async fn visit_again_and_again(listener: SocketAddr) {
    let mut ticks = interval(Duration::from_secs(1) / CLIENTS_PER_SECOND);
    loop {
        ticks.tick().await;
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(listener).await?;
            stream.write_all(b"?").await?;
            stream.shutdown().await?;
            stream.read_to_end(&mut Vec::new()).await
        });
    }
}

fn share(new: &[Vec<(f64, f64)>], server: usize) -> Vec<(f64, f64)> {
    let of_all = |(index, (at, own)): (usize, &(f64, f64))| {
        let all: f64 = new.iter().map(|counts| counts[index].1).sum();
        (*at, own * 100.0 / all.max(1.0))
    };
    new[server].iter().enumerate().map(of_all).collect()
}

/// What docs/balancing.md says, of the second before this one.
fn documented(after: f64) -> (f64, f64) {
    let part = ((after - 0.5) / SLOW_START).clamp(0.1, 1.0);
    (STARTS + after, 100.0 * part / (part + (SERVERS - 1) as f64))
}
