//! A load balancer and three backends in one process, as a demonstration.

use std::{
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use hyper::Uri;
use imbl::OrdMap;
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{
    runtime::on_control_runtime,
    serve::{bind_admin, first_report, proxy_options},
};
use crate::{
    admin::{self, AdminAccess, AllowedHosts, Instance},
    api::{AddressPort, Backend, Host, Listener, Name, TcpLoadBalancerSpec},
    cli::{self, AdminAddress},
    descriptors::{self, Budget},
    drain::DrainMode,
    kubectl::sample_of_address,
    metrics::EndpointSeries,
    model::{ObjectKey, Snapshot},
    proxy::{
        DrainOutcome, Monitor, Options, Proxy,
        access_log::{self, AccessLog, Events, Format, LineEncoder, ProcessIdentity},
    },
    state::{Configuration, ReadinessState},
    tcp,
    tools::backend::{self, EchoServer},
    top::{TerminationSignals, TopOptions, follow},
    traffic::bytes,
    translate::{Verdicts, translate},
    world::{Declared, World},
};

const NAMES: [&str; 3] = ["blue", "green", "red"];
/// The time limit of open connections at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// `tcplb demo`
pub fn run(arguments: &cli::Demo) -> anyhow::Result<ExitCode> {
    on_control_runtime(demonstrate(arguments))
}

async fn demonstrate(arguments: &cli::Demo) -> anyhow::Result<ExitCode> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let budget = descriptors::raise_limit(workers, descriptors::Manifests::Files)?;
    let mut termination = TerminationSignals::catch()?;
    let stop = CancellationToken::new();
    let backends = start_backends(&stop)?;
    let admin =
        bind_admin(AdminAddress::At(arguments.admin.socket_address()), None)?.context("the demo has admin pages")?;
    let address = SocketAddr::new(arguments.address, arguments.port);
    let (proxy, writer) = start_proxy(workers, budget)?;
    let state = configure(&proxy, address, &backends).await?;
    let page = admin_url(admin.local_addr()?);
    let pages = admin::Server {
        monitor: proxy.monitor(),
        state: state.clone(),
        instance: Instance { name: "demo".into(), node: None, started: Timestamp::now() },
        hosts: AllowedHosts::new(&[]),
        access: AdminAccess::Everyone,
        connections: budget.admin,
        endpoint_series: EndpointSeries::All,
    };
    tokio::spawn(pages.serve(tcp::listening(admin)?, stop.clone()));

    let options = TopOptions { introduction: introduction(address, &page), is_expanded: true, ..TopOptions::default() };
    let page: Uri = page.parse()?;
    follow(&options, || async { Ok(vec![sample_of_address(&page).await]) }, &mut termination).await?;
    let drained = shut_down(&proxy, &state, &mut termination).await?;
    let mut out = io::stdout();
    writeln!(out, "{}", summary(&proxy.monitor()))?;
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

/// Starts the backends on free ports. Returns their names and addresses.
fn start_backends(stop: &CancellationToken) -> io::Result<Vec<(&'static str, SocketAddr)>> {
    let mut backends = Vec::new();
    for name in NAMES {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let options = backend::EchoOptions { address, name: Some(name.into()), delay: Duration::ZERO, greeting: None };
        let backend = EchoServer::bind(options)?;
        backends.push((name, backend.address()));
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
async fn configure(
    proxy: &Proxy,
    address: SocketAddr,
    backends: &[(&'static str, SocketAddr)],
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
async fn shut_down(
    proxy: &Proxy,
    state: &ReadinessState,
    termination: &mut TerminationSignals,
) -> io::Result<DrainOutcome> {
    let seconds = DRAIN_TIMEOUT.as_secs();
    writeln!(io::stdout(), "\nshutting down: open connections have {seconds} s to end (Ctrl-C again: reset them now)")?;
    state.leave();
    proxy.stop_accepting().await;
    state.set_ready(false);
    Ok(tokio::select! {
        drained = proxy.drain(DrainMode::AsDeclared, DRAIN_TIMEOUT) => drained,
        () = termination.received() => proxy.drain(DrainMode::AsDeclared, Duration::ZERO).await,
    })
}

/// The instructions.
fn introduction(address: SocketAddr, page: &str) -> Vec<String> {
    let here = reachable(address);
    let try_it = format!("nc {} {}", here.ip(), here.port());
    let width = try_it.len().max(page.len());
    vec![
        format!("A load balancer on {address} with three backends that send their names and echo."),
        String::new(),
        format!("  {try_it:<width$}   connect several times, and type something"),
        format!("  {page:<width$}   the admin page"),
        format!("  {:<width$}   stop", "Ctrl-C"),
        String::new(),
    ]
}

fn admin_url(address: SocketAddr) -> String {
    format!("http://{}/", reachable(address))
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
fn compile(address: SocketAddr, backends: &[(&'static str, SocketAddr)]) -> (Snapshot, Verdicts) {
    let backend = |(name, address): &(&'static str, SocketAddr)| Backend {
        name: Some(Name((*name).into())),
        addresses: Some(vec![AddressPort { host: Host::Ip(address.ip()), port: address.port() }]),
        ..Backend::default()
    };
    let spec = TcpLoadBalancerSpec {
        listeners: vec![Listener { port: address.port(), address: Some(address.ip()), ..Listener::default() }],
        backends: backends.iter().map(backend).collect(),
        ..TcpLoadBalancerSpec::default()
    };
    let declared = Declared {
        spec: Some(Arc::new(spec)),
        problems: Vec::new(),
        without_value: Vec::new(),
        origin: "demo".into(),
        folder: Default::default(),
        identity: None,
        status: None,
    };
    let world = World { load_balancers: OrdMap::unit(ObjectKey::new("default", "demo"), declared), ..World::default() };
    translate(&world, &Snapshot::default(), Timestamp::now())
}

/// All connections and bytes since the start.
fn summary(monitor: &Monitor) -> String {
    let totals: Vec<_> = monitor.view().listeners.iter().map(|listener| listener.counters.totals()).collect();
    let accepted: u64 = totals.iter().map(|totals| totals.accepted).sum();
    let relayed: u64 = totals.iter().map(|totals| totals.bytes_to_backend + totals.bytes_to_client).sum();
    format!("{accepted} connections, {} relayed", bytes(relayed as f64))
}
