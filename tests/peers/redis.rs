//! redis-server behind the program, redis-cli in front of it.

use std::{net::SocketAddr, process::Command};

use crate::{
    harness::{Folder, Tcplb, free_address, manifest, run, wait_until},
    needs,
    program::{Program, command},
};

/// Detects changes of a server quickly.
const QUICK_CHECKS: &str = "healthCheck: {active: {interval: 100ms, healthyAfter: 1}}\n";

#[test]
fn redis_answers_as_if_there_were_nothing_between() {
    needs!("redis-server", "redis-cli");
    let redis = Redis::start(free_address());
    let front = Front::of(redis.address, "");
    assert_eq!(front.ask(&["PING"]), "PONG\n");
    assert_eq!(front.ask(&["SET", "greeting", "hello"]), "OK\n");
    assert_eq!(ask(redis.address, &["GET", "greeting"]), "hello\n");
}

#[test]
fn a_value_of_many_megabytes_comes_back_as_it_was() {
    needs!("redis-server", "redis-cli");
    let redis = Redis::start(free_address());
    let front = Front::of(redis.address, "");
    let value: String = (0..2_000_000).map(|number| format!("{number:08x}")).collect();
    let mut setting = Program::start(cli(front.address).args(["-x", "SET", "big"]));
    setting.tell(value.as_bytes());
    assert_eq!(setting.ends().1, "OK\n");
    let answer = front.ask(&["GET", "big"]);
    assert!(answer.trim_end() == value, "{} bytes came back of {}", answer.len(), value.len());
}

#[test]
fn a_silent_subscriber_hears_what_is_published_much_later() {
    needs!("redis-server", "redis-cli");
    let redis = Redis::start(free_address());
    // The timeout does not affect a connection with two open directions.
    let front = Front::of(redis.address, "timeouts: {halfClosed: 1s}\n");
    let mut subscriber = Program::start(cli(front.address).args(["SUBSCRIBE", "news"]));
    subscriber.says("subscribe\nnews\n1\n");
    // Other connections are opened and closed during this time, for longer than that timeout.
    let begun = std::time::Instant::now();
    while begun.elapsed() < std::time::Duration::from_secs(2) {
        assert_eq!(front.ask(&["PING"]), "PONG\n");
    }
    assert_eq!(front.ask(&["PUBLISH", "news", "rain"]), "1\n");
    subscriber.says("message\nnews\nrain\n");
}

#[test]
fn a_client_that_has_ended_its_direction_still_gets_its_answer() {
    needs!("redis-server", "redis-cli", "nc");
    let redis = Redis::start(free_address());
    let front = Front::of(redis.address, "");
    let port = front.address.port().to_string();
    let mut nc = Program::start(command("nc").args(["-N", "127.0.0.1", &port]));
    nc.tell(b"PING\r\nECHO last\r\n");
    let (status, said) = nc.ends();
    assert_eq!((status.success(), said.as_str()), (true, "+PONG\r\n$4\r\nlast\r\n"));
}

#[test]
fn clients_learn_that_a_server_died_and_reach_it_again_when_it_is_back() {
    needs!("redis-server", "redis-cli");
    let address = free_address();
    let mut redis = Redis::start(address);
    let front = Front::of(address, QUICK_CHECKS);
    let mut subscriber = Program::start(cli(front.address).args(["SUBSCRIBE", "news"]));
    subscriber.says("subscribe\nnews\n1\n");
    redis.program.kill();
    wait_until("the subscriber learns of it", || front.tcplb.metric("tcplb_connections_active", &[]) == 0.0);
    drop(subscriber);
    wait_until("the server is known to be gone", || front.tcplb.metric("tcplb_endpoint_usable", &[]) == 0.0);
    let answer = front.ask(&["PING"]);
    assert!(!answer.contains("PONG"), "refused, not left waiting: `{answer}`");
    let _redis = Redis::start(address);
    wait_until("the server is reached again", || front.ask(&["PING"]) == "PONG\n");
}

#[test]
fn a_benchmark_of_fifty_pipelining_clients_ends_without_an_error() {
    needs!("redis-server", "redis-cli", "redis-benchmark");
    let redis = Redis::start(free_address());
    let front = Front::of(redis.address, "connect: {preconnect: {perEndpoint: 8}}\n");
    let port = front.address.port().to_string();
    let options =
        ["-p", &port, "-n", "20000", "-c", "50", "-P", "16", "-d", "1000", "--csv", "-t", "set,get,lrange_100"];
    let (status, said) = Program::start(command("redis-benchmark").args(["-h", "127.0.0.1"]).args(options)).ends();
    assert!(status.success() && said.contains("\"GET\"") && !said.contains("rror"), "{said}");
    wait_until("all connections have ended", || front.tcplb.metric("tcplb_connections_active", &[]) == 0.0);
    let closed =
        |reason: &str| front.tcplb.metric("tcplb_connections_closed_total", &[&format!("reason=\"{reason}\"")]);
    assert_eq!(
        closed("backend_reset") + closed("internal") + closed("connect_failed"),
        0.0,
        "{}",
        front.tcplb.metrics()
    );
}

#[test]
fn redis_without_tls_is_reached_with_tls() {
    needs!("redis-server", "redis-cli");
    if !Program::start(command("redis-cli").arg("--help")).ends().1.contains("--tls") {
        return crate::harness::lacks("a redis-cli that speaks TLS");
    }
    let redis = Redis::start(free_address());
    let folder = Folder::new();
    assert_eq!(run(&["cert", "redis.example.test", "--out", folder.path()]).0, 0);
    let (certificate, key) = (folder.join("redis.example.test.crt"), folder.join("redis.example.test.key"));
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let (listen, backend) = (free_address(), redis.address.to_string());
    let options = ["--listen", &listen.to_string(), "--backend", &backend, "--tls-certificate", certificate];
    let _tcplb = Tcplb::standalone(&[&options[..], &["--tls-key", key]].concat()).ready();
    let tls = || {
        let mut cli = cli(listen);
        cli.args(["--tls", "--sni", "redis.example.test", "--cacert", certificate]);
        cli
    };
    let value = "x".repeat(3_000_000);
    let mut setting = Program::start(tls().args(["-x", "SET", "big"]));
    setting.tell(value.as_bytes());
    assert_eq!(setting.ends().1, "OK\n");
    let answer = Program::start(tls().args(["GET", "big"])).ends().1;
    assert!(answer.trim_end() == value, "{} bytes came back of {}", answer.len(), value.len());
    assert_eq!(ask(redis.address, &["STRLEN", "big"]), "3000000\n");
    assert!(!ask(listen, &["PING"]).contains("PONG"), "not without TLS");
}

/// A redis-server without persistence.
pub struct Redis {
    pub address: SocketAddr,
    program: Program,
    _folder: Folder,
}

impl Redis {
    pub fn start(address: SocketAddr) -> Self {
        Self::start_with(address, &[])
    }

    pub fn start_with(address: SocketAddr, more: &[&str]) -> Self {
        let folder = Folder::new();
        let port = address.port().to_string();
        let options =
            ["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no", "--dir", folder.path()];
        let mut program = Program::start(command("redis-server").args(options).args(more));
        program.says("Ready to accept connections");
        Self { address, program, _folder: folder }
    }
}

/// The load balancer in front of one server.
struct Front {
    address: SocketAddr,
    tcplb: Tcplb,
    _folder: Folder,
}

impl Front {
    fn of(server: SocketAddr, more: &str) -> Self {
        let (address, folder) = (free_address(), Folder::new());
        let path = folder.write("redis.yaml", &manifest("redis", address.port(), &[server], more));
        Self { address, tcplb: Tcplb::standalone(&[&path]).ready(), _folder: folder }
    }

    fn ask(&self, arguments: &[&str]) -> String {
        ask(self.address, arguments)
    }
}

fn cli(server: SocketAddr) -> Command {
    let mut command = command("redis-cli");
    command.args(["-h", &server.ip().to_string(), "-p", &server.port().to_string()]);
    command
}

/// The output of redis-cli.
pub fn ask(server: SocketAddr, arguments: &[&str]) -> String {
    Program::start(cli(server).args(arguments)).ends().1
}
