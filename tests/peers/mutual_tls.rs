//! Client certificates, and TLS towards backends, with OpenSSL, HAProxy, Redis and PostgreSQL.

use std::{net::SocketAddr, path::PathBuf};

use crate::{
    authority::{Authority, Issued},
    haproxy::{HaProxy, ask, talk},
    harness::{EchoServer, Folder, Tcplb, free_address, wait_until},
    needs,
    postgres::Postgres,
    program::{Program, command},
};

/// The files of an authority and of its certificates.
struct Files {
    folder: Folder,
    authority: Authority,
}

impl Files {
    fn new() -> Self {
        let (folder, authority) = (Folder::new(), Authority::new());
        folder.write("ca.crt", &authority.pem());
        Self { folder, authority }
    }

    /// Writes `NAME.crt`, `NAME.key`, and both in `NAME.pem`.
    fn issue(&self, name: &str) -> Issued {
        let issued = self.authority.issue(name);
        self.folder.write(&format!("{name}.crt"), &issued.certificate);
        self.folder.write(&format!("{name}.key"), &issued.key);
        self.folder.write(&format!("{name}.pem"), &format!("{}{}", issued.certificate, issued.key));
        issued
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// The load balancer with these settings of its listener and backend.
    fn tcplb(&self, server: SocketAddr, listener: &str, backend: &str) -> (SocketAddr, Tcplb) {
        let address = free_address();
        let manifest = format!(
            "apiVersion: tcplb.io/v1alpha1
kind: TcpLoadBalancer
metadata: {{name: mutual}}
spec:
  listeners: [{{port: {}, address: 127.0.0.1, {listener}}}]
  backends: [{{addresses: [\"{server}\"], {backend}}}]
  healthCheck: {{active: {{type: None}}}}
",
            address.port()
        );
        (address, Tcplb::standalone(&[&self.folder.write(&format!("{address}.yaml"), &manifest)]).ready())
    }
}

/// Settings with client validation.
const VALIDATED: &str = "tls: {certificateRefs: [{files: {certificate: front.example.test.crt, key: \
                         front.example.test.key}}], clientValidation: {caRefs: [{files: {ca: ca.crt, crl: ca.crl}}]}}";
/// TLS towards a backend that requires a client certificate.
const ENCRYPTED: &str = "serverName: back.example.test, caRefs: [{files: {ca: ca.crt}}], certificateRef: {files: \
                         {certificate: tcplb.crt, key: tcplb.key}}";

#[test]
fn openssl_gets_through_with_a_certificate_that_is_not_revoked() {
    needs!("openssl");
    let files = Files::new();
    let (_, alice, bob) = (files.issue("front.example.test"), files.issue("alice"), files.issue("bob"));
    files.folder.write("ca.crl", &files.authority.revoked(&[&bob]));
    let server = EchoServer::start(Some("echo"));
    let (address, mut tcplb) = files.tcplb(server.address, VALIDATED, "");
    let client = |who: Option<&str>, version: &str| {
        let mut client = command("openssl");
        client.args(["s_client", "-connect", &address.to_string(), version]);
        if let Some(who) = who {
            client.args(["-cert", &files.path(&format!("{who}.crt")), "-key", &files.path(&format!("{who}.key"))]);
        }
        Program::start(&mut client)
    };
    for version in ["-tls1_2", "-tls1_3"] {
        let mut shown = client(Some("alice"), version);
        shown.says("echo\n");
        assert!(shown.ends().0.success());
        // With TLS 1.3 a client has completed its handshake before it learns of the refusal.
        let mut revoked = client(Some("bob"), version);
        revoked.says("alert certificate revoked");
        let mut anonymous = client(None, version);
        anonymous.says("alert certificate required");
    }
    // A certificate is revoked while the program runs.
    files.folder.write("ca.crl", &files.authority.revoked(&[&alice, &bob]));
    let refused = || tcplb.metric("tcplb_tls_handshakes_total", &["result=\"refused\""]);
    wait_until("alice is refused", || {
        let before = refused();
        drop(client(Some("alice"), "-tls1_3").ends());
        refused() > before
    });
    tcplb.signal("TERM");
    let log = tcplb.ended().1;
    assert_eq!(log.matches("tls_client=\"CN=alice\"").count(), log.matches("tls_client=").count(), "{log}");
    assert!(log.contains("tls_client=\"CN=alice\"") && log.contains("reason=tls_client_certificate"), "{log}");
}

#[test]
fn an_openssl_server_gets_a_certificate_and_its_name_is_verified() {
    needs!("openssl");
    let files = Files::new();
    for name in ["back.example.test", "other.example.test", "tcplb"] {
        files.issue(name);
    }
    let served = |name: &str| {
        let address = free_address();
        let mut server = command("openssl");
        server.args(["s_server", "-accept", &address.to_string(), "-rev", "-Verify", "1", "-verify_return_error"]);
        server.args(["-CAfile", &files.path("ca.crt"), "-cert", &files.path(&format!("{name}.crt"))]);
        server.args(["-key", &files.path(&format!("{name}.key"))]);
        let mut server = Program::start(&mut server);
        server.says("ACCEPT");
        (address, server)
    };
    let (right, mut server) = served("back.example.test");
    let (address, _tcplb) = files.tcplb(right, "", &format!("tls: {{{ENCRYPTED}}}"));
    let mut client = Program::start(command("nc").args(["127.0.0.1", &address.port().to_string()]));
    client.tell(b"desrever\n");
    client.says("reversed\n");
    server.says("CN = tcplb");

    let (wrong, _server) = served("other.example.test");
    let (address, tcplb) = files.tcplb(wrong, "", &format!("tls: {{{ENCRYPTED}}}"));
    assert!(talk("127.0.0.1", address).map_or(true, |(heard, _)| heard.is_empty()));
    wait_until("it is told why", || {
        let snapshot = tcplb.snapshot().to_string();
        snapshot.contains("not valid for name") && snapshot.contains("back.example.test")
    });
    wait_until("it is counted", || tcplb.metric("tcplb_connections_closed_total", &["reason=\"backend_tls\""]) == 1.0);
}

#[test]
fn haproxy_shows_its_certificate_in_front_and_learns_who_connected_behind() {
    needs!("haproxy", "openssl");
    let files = Files::new();
    for name in ["front.example.test", "back.example.test", "haproxy", "tcplb"] {
        files.issue(name);
    }
    files.folder.write("ca.crl", &files.authority.revoked(&[]));
    let (front, back) = (free_address(), free_address());
    let teller = |encrypted: &str| {
        format!(
            "frontend teller\n  mode http\n  bind {back} accept-proxy {encrypted}\n  http-request return status 200 \
             content-type text/plain lf-string \"%[fc_pp_authority] %[ssl_c_s_dn(cn)]\"\n"
        )
    };
    let (certificate, ca) = (files.path("back.example.test.pem"), files.path("ca.crt"));
    let _behind = HaProxy::start(&teller(&format!("ssl crt {certificate} ca-file {ca} verify required")));
    let (address, mut tcplb) = files.tcplb(back, VALIDATED, &format!("proxyProtocol: V2, tls: {{{ENCRYPTED}}}"));
    let server = format!(
        "ssl crt {} ca-file {ca} verify required verifyhost front.example.test sni str(front.example.test)",
        files.path("haproxy.pem")
    );
    let _in_front = HaProxy::start(&format!(
        "frontend front\n  mode tcp\n  bind {front}\n  default_backend behind\n\nbackend behind\n  mode tcp\n  server \
         server {address} {server}\n"
    ));
    let (answer, _) = ask("127.0.0.1", front);
    assert_eq!(answer, "front.example.test tcplb", "the name that was asked for, and who asks");
    tcplb.signal("TERM");
    let log = tcplb.ended().1;
    assert!(log.contains("tls_client=\"CN=haproxy\""), "{log}");
}

#[test]
fn a_redis_that_speaks_tls_only_is_reached_without() {
    needs!("redis-server", "redis-cli");
    let files = Files::new();
    for name in ["back.example.test", "tcplb"] {
        files.issue(name);
    }
    let address = free_address();
    let mut server = command("redis-server");
    server.args(["--bind", "127.0.0.1", "--port", "0", "--tls-port", &address.port().to_string(), "--save", ""]);
    server.args(["--dir", files.folder.path(), "--tls-auth-clients", "yes"]);
    server.args(["--tls-cert-file", &files.path("back.example.test.crt")]);
    server.args(["--tls-key-file", &files.path("back.example.test.key")]);
    server.args(["--tls-ca-cert-file", &files.path("ca.crt")]);
    let mut server = Program::start(&mut server);
    server.says("Ready to accept connections");
    let (front, tcplb) = files.tcplb(address, "", &format!("tls: {{{ENCRYPTED}}}"));
    let cli = || {
        let mut cli = command("redis-cli");
        cli.args(["-p", &front.port().to_string()]);
        cli
    };
    let value = "x".repeat(3_000_000);
    let mut setting = Program::start(cli().args(["-x", "SET", "big"]));
    setting.tell(value.as_bytes());
    assert_eq!(setting.ends().1, "OK\n");
    let answer = Program::start(cli().args(["GET", "big"])).ends().1;
    assert!(answer.trim_end() == value, "{} bytes came back of {}", answer.len(), value.len());
    let handshakes = |result| tcplb.metric("tcplb_backend_tls_handshakes_total", &[&format!("result=\"{result}\"")]);
    assert_eq!(handshakes("full") + handshakes("resumed"), 2.0);
}

#[test]
fn postgres_is_asked_for_tls_on_behalf_of_clients_without() {
    needs!("psql", "initdb", "postgres");
    let files = Files::new();
    files.issue("back.example.test");
    let pair: [PathBuf; 2] = ["crt", "key"].map(|kind| files.folder.join(&format!("back.example.test.{kind}")));
    let server = Postgres::start_with(Some(&pair));
    files.issue("front.example.test");
    let back = "tls: {serverName: back.example.test, caRefs: [{files: {ca: ca.crt}}], startTls: Postgres}";
    let front = "tls: {startTls: Postgres, certificateRefs: [{files: {certificate: front.example.test.crt, key: \
                 front.example.test.key}}]}";
    // Clients with TLS negotiate it with the program; the others use no TLS.
    for (listener, mode) in [("", "disable"), (front, "require")] {
        let (address, _tcplb) = files.tcplb(server.address, listener, back);
        let about = format!("host=127.0.0.1 port={} user=postgres dbname=postgres sslmode={mode}", address.port());
        let mut session = Program::start(command("psql").args(["-X", "-q", "-A", "-t", &about]));
        session.tell(b"SELECT 'encrypted', ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid();\n");
        session.says("encrypted|t|TLSv1.3\n");
    }
}
