//! A load balancer and three backends in one process, as a demonstration.

mod rates;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, IsTerminal, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use imbl::OrdMap;
use jiff::Timestamp;
use tokio::{
    net::TcpListener,
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use self::rates::{Rates, Sample};
use super::{
    runtime::on_control_runtime,
    serve::{bind_admin, first_report, proxy_options},
    shutdown::Signals,
};
use crate::{
    admin::{self, AdminAccess, AllowedHosts, Instance},
    api::{AddressPort, Host},
    cli::{self, AdminAddress, ListenAddress, Simple},
    descriptors::{self, Budget},
    drain::DrainMode,
    metrics::EndpointSeries,
    model::{ObjectKey, Snapshot},
    proxy::{
        DrainOutcome, Monitor, Options, Proxy,
        access_log::{self, AccessLog, Events, Format, LineEncoder, ProcessIdentity},
    },
    state::{Configuration, ReadinessState},
    tools::backend::{self, EchoServer},
    traffic::bytes,
    translate::{Verdicts, translate},
    world::{Declared, World},
};

const NAMES: [&str; 3] = ["blue", "green", "red"];
const REFRESH: Duration = Duration::from_millis(500);
/// The number of refreshes per printed line without a terminal.
const REFRESH_LINES: u32 = 10;
/// The time limit of open connections after Ctrl-C.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// `tcplb demo`
pub fn run(arguments: &cli::Demo) -> anyhow::Result<ExitCode> {
    on_control_runtime(demonstrate(arguments))
}

async fn demonstrate(arguments: &cli::Demo) -> anyhow::Result<ExitCode> {
    let signals = Signals::catch()?;
    let stop = CancellationToken::new();
    let backends = start_backends(&stop)?;
    let admin = bind_admin(AdminAddress::At(arguments.admin), None)?.context("the demo has admin pages")?;
    let address = SocketAddr::new(arguments.address, arguments.port);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let budget = descriptors::raise_limit(workers, descriptors::Manifests::Files);
    let (proxy, writer) = start_proxy(workers, budget)?;
    let state = configure(&proxy, address, backends.keys()).await?;
    let listener = TcpListener::from_std(admin)?;
    let introduction = introduction(address, listener.local_addr()?);
    let pages = admin::Server {
        monitor: proxy.monitor(),
        state: state.clone(),
        instance: Instance { name: "demo".into(), node: None, started: Timestamp::now() },
        hosts: AllowedHosts::new(&[]),
        access: AdminAccess::Everyone,
        connections: budget.admin,
        endpoint_series: EndpointSeries::All,
    };
    tokio::spawn(pages.serve(listener, stop.clone()));

    let mut display = Display::new(proxy.monitor(), backends);
    display.show_until_signal(&signals, &introduction).await?;
    let drained = shut_down(&proxy, &state, &signals).await?;
    let mut out = io::stdout();
    writeln!(out, "{}", display.summary())?;
    let closed = drained.closed + drained.reset;
    if drained.by_themselves + closed > 0 {
        let by_themselves = drained.by_themselves;
        writeln!(
            out,
            "of the connections open at shutdown, {by_themselves} ended by themselves and {closed} were closed"
        )?;
    }
    stop.cancel();
    proxy.stop();
    writer.finish(proxy.monitor().access_log(), DRAIN_TIMEOUT);
    Ok(ExitCode::SUCCESS)
}

/// Starts the backends on free ports. Returns their names by address.
fn start_backends(stop: &CancellationToken) -> io::Result<BTreeMap<SocketAddr, &'static str>> {
    let mut backends = BTreeMap::new();
    for name in NAMES {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let options = backend::EchoOptions { address, name: Some(name.into()), delay: Duration::ZERO, greeting: None };
        let backend = EchoServer::bind(options)?;
        backends.insert(backend.address(), name);
        tokio::spawn(backend.serve(stop.clone()));
    }
    Ok(backends)
}

fn start_proxy(workers: usize, budget: Budget) -> anyhow::Result<(Proxy, access_log::Writer)> {
    let encoder = LineEncoder { format: Format::Text, process: ProcessIdentity::new("demo") };
    let (access_log, writer) = AccessLog::start(Events::None, encoder, io::sink());
    // The backends' ends of the connections are in this process too.
    let options = Options { descriptors: budget.serving / 2, ..proxy_options(workers, &budget, access_log) };
    Ok((Proxy::start(options, &Handle::current()).context("cannot start the workers")?, writer))
}

/// Applies the configuration.
///
/// # Errors
/// If the address cannot be bound.
async fn configure<'a>(
    proxy: &Proxy,
    address: SocketAddr,
    backends: impl Iterator<Item = &'a SocketAddr>,
) -> anyhow::Result<Arc<ReadinessState>> {
    let (snapshot, verdicts) = compile(address, backends);
    let report = first_report(proxy, Arc::new(snapshot)).await?;
    if let Some((_, why)) = report.unbound().next() {
        anyhow::bail!("{why} (--address, --port)");
    }
    let state = Arc::new(ReadinessState::default());
    state.set_configuration(Configuration { verdicts: Arc::new(verdicts), ..Configuration::default() });
    state.set_ready(true);
    Ok(state)
}

/// Stops accepting connections, and drains.
async fn shut_down(proxy: &Proxy, state: &ReadinessState, signals: &Signals) -> io::Result<DrainOutcome> {
    let seconds = DRAIN_TIMEOUT.as_secs();
    writeln!(io::stdout(), "\nshutting down: open connections have {seconds} s to end (Ctrl-C again: reset them now)")?;
    state.leave();
    proxy.stop_accepting().await;
    state.set_ready(false);
    Ok(tokio::select! {
        drained = proxy.drain(DrainMode::AsDeclared, DRAIN_TIMEOUT) => drained,
        () = signals.second() => proxy.drain(DrainMode::AsDeclared, Duration::ZERO).await,
    })
}

/// The instructions.
fn introduction(address: SocketAddr, admin: SocketAddr) -> String {
    let here = reachable(address);
    let (try_it, page) = (format!("nc {} {}", here.ip(), here.port()), format!("http://{}/", reachable(admin)));
    let width = try_it.len().max(page.len());
    format!(
        "A load balancer on {address} with three backends that send their names and echo.\n\n  \
         {try_it:<width$}   connect several times, and type something\n  \
         {page:<width$}   the admin page\n  \
         {:<width$}   stop\n\n",
        "Ctrl-C"
    )
}

/// The address at which this host reaches a listener. For a listener on all addresses, it is loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Compiles the manifest in the usual way.
fn compile<'a>(address: SocketAddr, backends: impl Iterator<Item = &'a SocketAddr>) -> (Snapshot, Verdicts) {
    let simple = Simple {
        listen: Some(ListenAddress { host: Some(address.ip()), port: address.port() }),
        backends: backends.map(|address| AddressPort { host: Host::Ip(address.ip()), port: address.port() }).collect(),
        ..Simple::default()
    };
    let spec = simple.spec().ok().flatten().map(Arc::new);
    let declared = Declared {
        spec,
        problems: Vec::new(),
        origin: "demo".into(),
        folder: Default::default(),
        identity: None,
        status: None,
    };
    let world = World { load_balancers: OrdMap::unit(ObjectKey::new("default", "demo"), declared), ..World::default() };
    translate(&world, &Snapshot::default(), Timestamp::now())
}

/// The live picture: updated in place on a terminal, otherwise a line at intervals.
struct Display {
    monitor: Monitor,
    names: BTreeMap<SocketAddr, &'static str>,
    rates: Rates,
    drawn: usize,
    shown: u32,
}

impl Display {
    fn new(monitor: Monitor, names: BTreeMap<SocketAddr, &'static str>) -> Self {
        let rates = Rates::since(Sample { at: Instant::now(), accepted: 0, bytes: 0 });
        Self { monitor, names, rates, drawn: 0, shown: 0 }
    }

    async fn show_until_signal(&mut self, signals: &Signals, introduction: &str) -> io::Result<()> {
        write!(io::stdout(), "{introduction}")?;
        let mut refresh = interval(REFRESH);
        // After a pause (Ctrl-Z) only one picture is drawn, not all missed ones.
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut resized = signal(SignalKind::window_change())?;
        loop {
            tokio::select! {
                _ = refresh.tick() => self.show()?,
                _ = resized.recv() => self.start_again(introduction)?,
                () = signals.first() => return Ok(()),
            }
        }
    }

    fn show(&mut self) -> io::Result<()> {
        let terminal = io::stdout().is_terminal();
        self.shown += 1;
        if !terminal && self.shown % REFRESH_LINES != 1 {
            return Ok(());
        }
        let picture = self.picture();
        let mut out = io::stdout().lock();
        if !terminal {
            return writeln!(out, "{picture}");
        }
        if self.drawn > 0 {
            // Moves to the first line of the previous picture and clears from there.
            write!(out, "\x1b[{}A\x1b[J", self.drawn)?;
        }
        self.drawn = picture.lines().count();
        // Lines are truncated at the width of the terminal, because wrapped lines would exceed the cleared area.
        write!(out, "\x1b[?7l{picture}\x1b[?7h")?;
        out.flush()
    }

    /// Redraws everything after a resize, because the terminal may have moved lines.
    fn start_again(&mut self, introduction: &str) -> io::Result<()> {
        if !io::stdout().is_terminal() {
            return Ok(());
        }
        write!(io::stdout(), "\x1b[H\x1b[2J{introduction}")?;
        self.drawn = 0;
        self.show()
    }

    fn picture(&mut self) -> String {
        let now = self.sample();
        let rate = self.rates.observe(now);
        let mut text = format!("{:<8} {:>6} {:>10}   {:<9} address\n", "backend", "open", "total", "health");
        let mut open = 0;
        for (_, upstream) in &*self.monitor.view().upstreams {
            let mut endpoints: Vec<_> = upstream.endpoints().iter().cloned().collect();
            endpoints.sort_by_key(|endpoint| self.names.get(&endpoint.address()));
            for endpoint in endpoints {
                let address = endpoint.address();
                open += endpoint.active();
                let _ = writeln!(
                    text,
                    "{:<8} {:>6} {:>10}   {:<9} {address}",
                    self.names.get(&address).unwrap_or(&""),
                    endpoint.active(),
                    endpoint.connections(),
                    if endpoint.usable() { "healthy" } else { "unusable" },
                );
            }
        }
        let _ = writeln!(
            text,
            "{:<8} {open:>6} {:>10}   {:.1} new connections/s, {}/s relayed",
            "all",
            now.accepted,
            rate.accepted,
            bytes(rate.bytes)
        );
        text
    }

    fn sample(&self) -> Sample {
        let totals =
            self.monitor.view().listeners.iter().map(|listener| listener.counters.totals()).collect::<Vec<_>>();
        Sample {
            at: Instant::now(),
            accepted: totals.iter().map(|totals| totals.accepted).sum(),
            bytes: totals.iter().map(|totals| totals.bytes_to_backend + totals.bytes_to_client).sum(),
        }
    }

    fn summary(&self) -> String {
        let sample = self.sample();
        format!("{} connections, {} relayed", sample.accepted, bytes(sample.bytes as f64))
    }
}
