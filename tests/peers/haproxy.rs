//! HAProxy, the origin of the PROXY protocol, on both sides of the built program.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
};

use socket2::{Domain, Socket, Type};

use crate::{
    harness::{EchoServer, Folder, Tcplb, WAIT_LIMIT, free_address, wait_until},
    needs,
    program::{Program, command},
};

/// The default source address of HAProxy, which listeners behind it trust.
const TRUSTED: &str = "127.0.0.1/32";

/// The options of HAProxy to announce a client.
const ANNOUNCEMENTS: [&str; 4] = [
    "send-proxy",
    "send-proxy-v2",
    "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority",
    "send-proxy-v2-ssl-cn",
];

#[test]
fn the_client_that_haproxy_announces_is_the_one_that_counts() {
    needs!("haproxy");
    for announcement in ANNOUNCEMENTS {
        let server = EchoServer::start(Some("echo"));
        let more = "access: {deny: [127.7.7.9]}";
        let mut tcplb = Balancer::start(server.address, "Required", more, "");
        let front = free_address();
        let _haproxy = HaProxy::start(&in_front(front, tcplb.address, announcement));

        let (heard, client) = talk("127.7.7.7", front).unwrap();
        assert_eq!(heard, "echo\nsaid\n", "{announcement}");
        assert!(is_refused("127.7.7.9", front), "{announcement}: denied");
        assert!(is_refused("127.7.7.7", tcplb.address), "{announcement}: not without HAProxy");

        tcplb.waits_for_closed("access_denied", 1);
        tcplb.waits_for_closed("proxy_untrusted", 1);
        let log = tcplb.end();
        assert!(
            log.lines().any(|line| line.contains(&format!("client={client} ")) && line.contains("peer=127.0.0.1:"))
        );
    }
}

#[test]
fn an_optional_header_is_read_from_haproxy_and_not_waited_for_from_others() {
    needs!("haproxy");
    for announcement in ANNOUNCEMENTS {
        let server = EchoServer::start(Some("echo"));
        let mut tcplb = Balancer::start(server.address, "Optional", "", "");
        let front = free_address();
        let _haproxy = HaProxy::start(&in_front(front, tcplb.address, announcement));
        let clients = [("127.7.7.7", front), ("127.7.7.8", tcplb.address)].map(|(source, server)| {
            let (heard, client) = talk(source, server).unwrap();
            assert_eq!(heard, "echo\nsaid\n", "{announcement}");
            client
        });
        tcplb.waits_for_closed("complete", 2);
        let log = tcplb.end();
        for client in clients {
            assert!(log.contains(&format!("client={client} ")), "{announcement}: {client} in {log}");
        }
    }
}

#[test]
fn haproxy_learns_the_client_from_the_header_that_is_sent() {
    needs!("haproxy");
    for version in ["V1", "V2"] {
        let back = free_address();
        let _haproxy = HaProxy::start(&behind(back));
        for listen in ["127.0.0.1", "::1"] {
            let tcplb = Balancer::sending(listen, back, version);
            let client = if listen == "::1" { "::1" } else { "127.7.7.7" };
            let (answer, client) = ask(client, tcplb.address);
            assert_eq!(answer, told(client, tcplb.address), "{version}");
        }
    }
}

#[test]
fn the_clients_address_is_kept_from_haproxy_to_haproxy() {
    needs!("haproxy");
    for announcement in ANNOUNCEMENTS {
        for version in ["V1", "V2"] {
            let (back, front4, front6) = (free_address(), free_address(), free_address());
            let front6 = SocketAddr::new("::1".parse().unwrap(), front6.port());
            let tcplb = Balancer::start(back, "Required", "", version);
            let _behind = HaProxy::start(&behind(back));
            let _in_front = [front4, front6].map(|front| HaProxy::start(&in_front(front, tcplb.address, announcement)));
            for (client, front) in [("127.7.7.7", front4), ("::1", front6)] {
                let (answer, client) = ask(client, front);
                assert_eq!(answer, told(client, front), "{announcement}, then {version}");
            }
        }
    }
}

#[test]
fn health_checks_of_haproxy_use_up_no_clients_rate() {
    needs!("haproxy");
    let server = EchoServer::start(Some("echo"));
    let limits = "limits: {maxConnectionsPerSource: 1, newConnectionsPerSource: {count: 1, per: 1h, burst: 1}}";
    let tcplb = Balancer::start(server.address, "Required", limits, "");
    let front = free_address();
    // The interval is also the time limit of a check.
    let haproxy = HaProxy::start(&in_front(front, tcplb.address, "send-proxy-v2 check inter 200ms rise 1 fall 1"));
    wait_until("many checks were made", || tcplb.process.metric("tcplb_connections_closed_total", &[]) >= 50.0);
    assert_eq!(haproxy.server_state(), ("UP".into(), "0".into()), "status, and failed checks");
    for reason in ["source_rate", "source_full", "proxy_invalid", "internal"] {
        assert_eq!(tcplb.closed(reason), 0.0, "{reason}");
    }
    // Includes the source address of the checks.
    for source in ["127.7.7.7", "127.0.0.1"] {
        assert_eq!(talk(source, front).unwrap().0, "echo\nsaid\n", "the first of {source}");
        assert!(is_refused(source, front), "the second of {source}");
    }
    let refused = || tcplb.closed("source_rate") + tcplb.closed("source_full");
    wait_until("two are refused for their source", || refused() >= 2.0);
}

/// The load balancer in front of one server.
struct Balancer {
    address: SocketAddr,
    process: Tcplb,
    _folder: Folder,
}

impl Balancer {
    /// Trusts the headers of HAProxy, and sends headers, too, if a version is given.
    fn start(server: SocketAddr, mode: &str, listener: &str, sent: &str) -> Self {
        let proxy = format!("proxyProtocol: {{mode: {mode}, trustedNetworks: [{TRUSTED}]}}");
        Self::with("127.0.0.1", server, &format!("    {proxy}\n    {listener}\n"), sent)
    }

    fn sending(address: &str, server: SocketAddr, version: &str) -> Self {
        Self::with(address, server, "", version)
    }

    fn with(address: &str, server: SocketAddr, listener: &str, sent: &str) -> Self {
        let (folder, port) = (Folder::new(), free_address().port());
        let sent = if sent.is_empty() { String::new() } else { format!(", proxyProtocol: {sent}") };
        // Only HAProxy's own checks must count.
        let manifest = format!(
            "apiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: proxy}}\nspec:\n  listeners:\n  - port: \
             {port}\n    address: \"{address}\"\n{listener}  backends: [{{addresses: [\"{server}\"]{sent}}}]\n  healthCheck: \
             {{active: {{type: None}}}}\n"
        );
        let path = folder.write("proxy.yaml", &manifest);
        let address = SocketAddr::new(address.parse().unwrap(), port);
        Self { address, process: Tcplb::standalone(&[&path]).ready(), _folder: folder }
    }

    fn closed(&self, reason: &str) -> f64 {
        self.process.metric("tcplb_connections_closed_total", &[&format!("reason=\"{reason}\"")])
    }

    /// HAProxy may retry a refused connection, so there may be more of them.
    fn waits_for_closed(&self, reason: &str, count: u32) {
        wait_until(&format!("{count} closed for {reason}"), || self.closed(reason) >= f64::from(count));
    }

    /// Stops it, and returns its access log.
    fn end(&mut self) -> String {
        self.process.signal("TERM");
        self.process.ended().1
    }
}

/// A running HAProxy.
pub struct HaProxy {
    _program: Program,
    folder: Folder,
}

impl HaProxy {
    pub fn start(proxies: &str) -> Self {
        let folder = Folder::new();
        let control = folder.join("control");
        let configuration = format!(
            "global\n  stats socket {} mode 600\n\ndefaults\n  timeout connect 10s\n  timeout client 60s\n  timeout server \
             60s\n\n{proxies}",
            control.display()
        );
        let path = folder.write("haproxy.cfg", &configuration);
        let mut program = Program::start(command("haproxy").args(["-db", "-f", &path]));
        wait_until("HAProxy listens", || {
            assert!(program.is_running(), "{}", program.said());
            // A connection to the port would be forwarded.
            asked(&control, "show info\n").is_ok_and(|answer| answer.contains("HAProxy"))
        });
        Self { _program: program, folder }
    }

    /// The state of its only server, and the number of failed checks of it.
    fn server_state(&self) -> (String, String) {
        let table = asked(&self.folder.join("control"), "show stat\n").unwrap();
        let head: Vec<&str> = table.lines().next().unwrap().trim_start_matches("# ").split(',').collect();
        let row: Vec<&str> =
            table.lines().find(|line| line.starts_with("behind,server,")).unwrap().split(',').collect();
        let of = |name: &str| row[head.iter().position(|column| *column == name).unwrap()].to_owned();
        (of("status"), of("chkfail"))
    }
}

/// The answer of HAProxy's control socket.
fn asked(control: &Path, command: &str) -> io::Result<String> {
    let mut control = UnixStream::connect(control)?;
    control.write_all(command.as_bytes())?;
    let mut answer = String::new();
    control.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A configuration that forwards connections and announces their clients.
fn in_front(listen: SocketAddr, server: SocketAddr, announcement: &str) -> String {
    format!(
        "frontend front\n  mode tcp\n  bind {listen}\n  unique-id-format %[uuid()]\n  default_backend behind\n\n\
         backend behind\n  mode tcp\n  server server {server} {announcement}\n"
    )
}

/// A configuration that answers HTTP requests with the addresses in the PROXY header.
fn behind(listen: SocketAddr) -> String {
    let answer = "%[src] %[src_port] %[dst] %[dst_port]";
    format!(
        "frontend teller\n  mode http\n  bind {listen} accept-proxy\n  \
         http-request return status 200 content-type text/plain lf-string \"{answer}\"\n"
    )
}

/// The answer of [`behind`].
fn told(client: SocketAddr, asked: SocketAddr) -> String {
    format!("{} {} {} {}", client.ip(), client.port(), asked.ip(), asked.port())
}

/// Connects from an address, sends a line, and ends its direction. Returns the answer, and the local address with its
/// port.
pub fn talk(source: &str, server: SocketAddr) -> io::Result<(String, SocketAddr)> {
    let mut stream = connect(source, server)?;
    let mut heard = String::new();
    stream.write_all(b"said\n")?;
    stream.shutdown(Shutdown::Write)?;
    stream.read_to_string(&mut heard)?;
    Ok((heard, stream.local_addr()?))
}

/// True if a server that sends first sends nothing to this client: HAProxy forwards a reset as an end.
fn is_refused(source: &str, server: SocketAddr) -> bool {
    talk(source, server).map_or(true, |(heard, _)| heard.is_empty())
}

fn connect(source: &str, server: SocketAddr) -> io::Result<TcpStream> {
    let source = SocketAddr::new(source.parse().unwrap(), 0);
    let socket = Socket::new(Domain::for_address(source), Type::STREAM, None)?;
    socket.bind(&source.into())?;
    socket.connect_timeout(&server.into(), WAIT_LIMIT)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(WAIT_LIMIT))?;
    Ok(stream)
}

/// The body of the answer to a plain HTTP request, and the local address of the request.
pub fn ask(source: &str, server: SocketAddr) -> (String, SocketAddr) {
    let mut stream = connect(source, server).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: teller\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: `{answer}`"));
    (body.to_owned(), stream.local_addr().unwrap())
}
