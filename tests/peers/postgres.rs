//! A PostgreSQL server behind, psql in front.

use std::{
    net::SocketAddr,
    os::unix::{fs::chown, process::CommandExt},
    process::Command,
};

use crate::{
    harness::{Folder, Tcplb, free_address, manifest},
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

    // A cancel is a connection of its own, with the session's key.
    session.tell(b"SELECT 'begun';\nSELECT pg_sleep(600);\n");
    session.says("begun\n");
    let mut watching = psql(address);
    while !watching.said().contains("sleeps|1\n") {
        watching.tell(b"SELECT 'sleeps', count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep';\n");
        watching.says("sleeps|");
    }
    session.signal("INT");
    session.says("canceling statement due to user request");
    watching.tell(b"SELECT 'goes', 'on';\n");
    watching.says("goes|on\n");
    assert_eq!(tcplb.metric("tcplb_connections_closed_total", &["reason=\"backend_reset\""]), 0.0);
}

/// A server with an empty database that trusts everyone.
struct Postgres {
    address: SocketAddr,
    _program: Program,
    _folder: Folder,
}

impl Postgres {
    fn start() -> Self {
        let (address, folder) = (free_address(), Folder::new());
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            chown(folder.path(), Some(UNPRIVILEGED), Some(UNPRIVILEGED)).unwrap();
        }
        let unprivileged = |name: &str| {
            let mut command = command(name);
            command.current_dir(folder.path());
            if is_root {
                command.uid(UNPRIVILEGED).gid(UNPRIVILEGED);
            }
            command
        };
        let options = ["--pgdata", "data", "--auth", "trust", "--username", "postgres", "--no-sync", "--locale", "C"];
        let (status, said) = Program::start(unprivileged("initdb").args(options)).ends();
        assert!(status.success(), "{said}");
        let port = address.port().to_string();
        let options = ["-D", "data", "-h", "127.0.0.1", "-p", &port, "-k", folder.path(), "-F"];
        let mut program = Program::start(unprivileged("postgres").args(options));
        program.says("ready to accept connections");
        Self { address, _program: program, _folder: folder }
    }
}

/// A session that takes statements from its input.
fn psql(server: SocketAddr) -> Program {
    let (host, port) = (server.ip().to_string(), server.port().to_string());
    let mut command: Command = command("psql");
    command.args(["-h", &host, "-p", &port, "-U", "postgres", "-X", "-q", "-A", "-t", "postgres"]);
    Program::start(&mut command)
}
