//! PostgreSQL behind the program, psql in front of it.

use std::{
    fs,
    net::SocketAddr,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::PathBuf,
    process::Command,
};

use crate::{
    harness::{Folder, Tcplb, free_address, is_root, manifest, run, wait_until},
    needs,
    program::{Program, command},
};

/// `nobody`: the server refuses to run as root.
const UNPRIVILEGED: u32 = 65534;

#[test]
fn postgres_sessions_tables_and_cancels_pass_through() {
    needs!("psql", "initdb", "postgres");
    let server = Postgres::start();
    let (address, folder) = (free_address(), Folder::new());
    let path = folder.write("postgres.yaml", &manifest("postgres", address.port(), &[server.address], ""));
    let tcplb = Tcplb::standalone(&[&path]).ready();

    let mut session = psql(address);
    session.tell(b"CREATE TABLE numbers AS SELECT n, md5(n::text) AS hash FROM generate_series(1, 100000) n;\n");
    session.tell(b"SELECT 'sum', sum(n) FROM numbers;\n");
    session.says("sum|5000050000\n");

    let mut export = psql(address);
    export.tell(b"COPY numbers TO STDOUT;\n");
    export.says("\n100000\t");
    let (status, table) = export.ends();
    assert!(status.success() && table.lines().count() == 100_000, "{} lines", table.lines().count());

    let mut import = psql(address);
    import.tell(b"CREATE TABLE copied (n int, hash text);\nCOPY copied FROM STDIN;\n");
    import.tell(table.as_bytes());
    import.tell(b"\\.\nSELECT 'same', count(*) FROM numbers NATURAL JOIN copied;\n");
    import.says("same|100000\n");

    // A cancel request uses its own connection, with the key of the session.
    session.tell(b"SELECT 'begun';\nSELECT pg_sleep(600);\n");
    session.says("begun\n");
    server.has_sleeper();
    session.signal("INT");
    session.says("canceling statement due to user request");
    let mut watching = psql(address);
    watching.tell(b"SELECT 'goes', 'on';\n");
    watching.says("goes|on\n");
    assert_eq!(tcplb.metric("tcplb_connections_closed_total", &["reason=\"backend_reset\""]), 0.0);
}

#[test]
fn sessions_are_routed_by_server_name_and_cancelled_wherever_they_are() {
    needs!("psql", "initdb", "postgres");
    let servers = RoutedServers::start();
    let verified = "sslmode=verify-full";
    let mut passed_through = servers.open("passed.example.test", verified);
    let seen_port = port(&mut passed_through);
    assert!(seen_port.contains(&format!("port|{}|encrypted|t", servers.encrypted.address.port())), "{seen_port}");
    for expected in &servers.plain {
        // The endpoints are used in turn (round robin).
        let mut session = servers.open("ends-here.example.test", verified);
        let seen_port = port(&mut session);
        assert!(seen_port.contains(&format!("port|{}|encrypted|f", expected.address.port())), "{seen_port}");
        is_cancelled(&mut session, expected);
    }
    is_cancelled(&mut passed_through, &servers.encrypted);

    for (name, how, told) in [
        ("ends-here.example.test", "sslmode=disable", "TLS is required here"),
        ("nowhere.example.test", "sslmode=require", "unrecognized name"),
        ("passed.example.test", "sslmode=require sslsni=0", "SSL error"),
    ] {
        let (status, output) = servers.open(name, how).ends();
        assert!(!status.success() && output.contains(told), "{name}, {how}: {output}");
    }
    let closed =
        |reason: &str| servers.tcplb.metric("tcplb_connections_closed_total", &[&format!("reason=\"{reason}\"")]);
    wait_until("all are counted", || (closed("no_route"), closed("tls_failed")) == (2.0, 1.0));
}

/// Servers behind one listener: it terminates TLS for two of them, and passes it through for another one.
struct RoutedServers {
    plain: [Postgres; 2],
    encrypted: Postgres,
    /// With the certificates of the two names.
    folder: Folder,
    address: SocketAddr,
    tcplb: Tcplb,
}

impl RoutedServers {
    fn start() -> Self {
        let folder = Folder::new();
        let pair = |name: &str| {
            let (code, _, complaints) = run(&["cert", name, "--out", folder.path()]);
            assert_eq!((code, complaints.as_str()), (0, ""));
            ["crt", "key"].map(|kind| folder.join(&format!("{name}.{kind}")))
        };
        let [_, _] = pair("ends-here.example.test");
        let passed = pair("passed.example.test");
        let (plain, encrypted) = ([Postgres::start(), Postgres::start()], Postgres::start_with(Some(&passed)));
        let address = free_address();
        let manifest = format!(
            "apiVersion: tcplb.io/v1alpha1
kind: TcpLoadBalancer
metadata: {{name: postgres}}
spec:
  listeners:
  - port: {}
    address: 127.0.0.1
    tls:
      startTls: Postgres
      certificateRefs: [{{files: {{certificate: ends-here.example.test.crt, key: ends-here.example.test.key}}}}]
    routes:
    - {{serverNames: [ends-here.example.test], backends: [plain]}}
    - {{serverNames: [passed.example.test], backends: [encrypted], tls: {{mode: Passthrough}}}}
  backends:
  - {{name: plain, addresses: [\"{}\", \"{}\"]}}
  - {{name: encrypted, addresses: [\"{}\"]}}
",
            address.port(),
            plain[0].address,
            plain[1].address,
            encrypted.address
        );
        let tcplb = Tcplb::standalone(&[&folder.write("postgres.yaml", &manifest)]).ready();
        Self { plain, encrypted, folder, address, tcplb }
    }

    /// A session with this server name and these additional settings.
    fn open(&self, name: &str, more: &str) -> Program {
        let root = self.folder.join(&format!("{name}.crt"));
        let about = format!(
            "host={name} hostaddr=127.0.0.1 port={} user=postgres dbname=postgres sslrootcert={} {more}",
            self.address.port(),
            root.display()
        );
        Program::start(command("psql").args(["-X", "-q", "-A", "-t", &about]))
    }
}

/// The server's answer about the port and the encryption of a session.
fn port(session: &mut Program) -> String {
    session
        .tell(b"SELECT 'port', inet_server_port(), 'encrypted', ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid();\n");
    session.says("port|");
    session.says("\n");
    session.said()
}

/// Cancels a statement of a session with this server.
fn is_cancelled(session: &mut Program, server: &Postgres) {
    session.tell(b"SELECT 'begun';\nSELECT pg_sleep(600);\n");
    session.says("begun\n");
    server.has_sleeper();
    session.signal("INT");
    session.says("canceling statement due to user request");
}

/// A server with an empty database that trusts all local clients.
pub struct Postgres {
    pub address: SocketAddr,
    program: Program,
    folder: Folder,
}

impl Postgres {
    fn start() -> Self {
        Self::start_with(None)
    }

    /// With TLS if there is a certificate with its key.
    pub fn start_with(pair: Option<&[PathBuf; 2]>) -> Self {
        let folder = Folder::new();
        if is_root() {
            chown(folder.path(), Some(UNPRIVILEGED), Some(UNPRIVILEGED)).unwrap();
        }
        let options = ["--pgdata", "data", "--auth", "trust", "--username", "postgres", "--no-sync", "--locale", "C"];
        let (status, said) = Program::start(unprivileged("initdb", &folder).args(options)).ends();
        assert!(status.success(), "{said}");
        let mut settings = Vec::new();
        if let Some(pair) = pair {
            settings.push("ssl=on".to_owned());
            for (file, setting) in pair.iter().zip(["ssl_cert_file", "ssl_key_file"]) {
                let own = folder.join(setting);
                fs::copy(file, &own).unwrap();
                fs::set_permissions(&own, fs::Permissions::from_mode(0o600)).unwrap();
                if is_root() {
                    chown(&own, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).unwrap();
                }
                settings.push(format!("{setting}={}", own.display()));
            }
        }
        Self::serve(folder, &settings)
    }

    /// A replica of this server.
    pub fn replica(&self) -> Self {
        let folder = Folder::new();
        if is_root() {
            chown(folder.path(), Some(UNPRIVILEGED), Some(UNPRIVILEGED)).unwrap();
        }
        let port = self.address.port().to_string();
        let options = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-D", "data", "-R", "-c", "fast"];
        let (status, said) = Program::start(unprivileged("pg_basebackup", &folder).args(options)).ends();
        assert!(status.success(), "{said}");
        Self::serve(folder, &[])
    }

    fn serve(folder: Folder, settings: &[String]) -> Self {
        let address = free_address();
        let port = address.port().to_string();
        let mut command = unprivileged("postgres", &folder);
        command.args(["-D", "data", "-h", "127.0.0.1", "-p", &port, "-k", folder.path(), "-F"]);
        for setting in settings.iter().map(String::as_str).chain(["log_connections=on"]) {
            command.args(["-c", setting]);
        }
        let mut program = Program::start(&mut command);
        program.says("ready to accept");
        Self { address, program, folder }
    }

    /// Adds these lines in front of all others about logins.
    pub fn admit(&self, lines: &str) {
        let file = self.folder.join("data/pg_hba.conf");
        let rest = fs::read_to_string(&file).unwrap();
        fs::write(file, format!("{lines}\n{rest}")).unwrap();
        assert_eq!(self.answers("SELECT pg_reload_conf()"), "t\n");
    }

    /// The answer of the server to a statement.
    pub fn answers(&self, statement: &str) -> String {
        let mut session = psql(self.address);
        session.tell(format!("{statement};\n").as_bytes());
        session.ends().1
    }

    /// The log of the server.
    pub fn log(&self) -> String {
        self.program.said()
    }

    /// Stops the server as quickly as possible.
    pub fn stop(&mut self) {
        self.program.signal("INT");
        wait_until("the server has stopped", || !self.program.is_running());
    }

    /// Waits until a session sleeps.
    fn has_sleeper(&self) {
        let mut watching = psql(self.address);
        while !watching.said().contains("sleeps|1\n") {
            watching.tell(b"SELECT 'sleeps', count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep';\n");
            watching.says("sleeps|");
        }
    }
}

/// A program of the server, to run in a folder.
fn unprivileged(name: &str, folder: &Folder) -> Command {
    let mut command = command(name);
    command.current_dir(folder.path());
    if is_root() {
        command.uid(UNPRIVILEGED).gid(UNPRIVILEGED);
    }
    command
}

/// A session that reads statements from its input.
fn psql(server: SocketAddr) -> Program {
    let (host, port) = (server.ip().to_string(), server.port().to_string());
    let mut command: Command = command("psql");
    command.args(["-h", &host, "-p", &port, "-U", "postgres", "-X", "-q", "-A", "-t", "postgres"]);
    Program::start(&mut command)
}
