use std::{net::SocketAddr, process::Command, time::Instant};

use super::{Checked, in_time};
use crate::{
    harness::{Folder, free_address, wait_until},
    needs,
    program::{Program, command},
};

#[test]
fn writes_follow_the_primary_when_mariadb_servers_change_their_roles() {
    needs!("mariadbd", "mariadb", "mariadb-install-db");
    let servers = [(); 2].map(|()| MariaDb::start());
    let [one, other] = &servers;
    for server in &servers {
        server.asked("CREATE USER tcplb IDENTIFIED BY 'sesame'");
        server.asked("CREATE USER unguarded");
    }
    other.asked("SET GLOBAL read_only = 1");
    let both = [one.address, other.address];
    let own = [("127.0.0.1:3306", one.address), ("127.0.0.1:3307", other.address)];
    // It runs until the counters have been read, since its end may cut a check off.
    let example = Checked::example("mysql.yaml", &own);
    example.goes_to(&[one.address]);
    let password = &[("password", "sesame\n")];
    let role =
        |role: &str| format!("type: MySQL, mysql: {{user: tcplb, passwordRef: {{file: password}}, role: {role}}}");
    let writes = Checked::with(&both, &role("Primary"), "", password);
    let reads = Checked::with(&both, &role("Replica"), "", password);
    let all = Checked::new(&both, "type: MySQL, mysql: {user: unguarded}");
    writes.goes_to(&[one.address]);
    reads.goes_to(&[other.address]);
    all.goes_to(&both);
    writes.fails_saying("is a replica, expected a primary");

    one.asked("SET GLOBAL read_only = 1");
    other.asked("SET GLOBAL read_only = 0");
    let begun = Instant::now();
    writes.goes_to(&[other.address]);
    reads.goes_to(&[one.address]);
    in_time(begun.elapsed(), &writes);
    [&writes, &reads, &all].iter().for_each(|checked| checked.has_probed("passed", 10));
    for server in &servers {
        assert_eq!(
            server.asked("SHOW GLOBAL STATUS LIKE 'Aborted%'"),
            "Aborted_clients\t0\nAborted_connects\t0\nAborted_connects_preauth\t0\n"
        );
        // One error would block the host.
        assert_eq!(asked_at(writes.address, "SELECT 'served'"), "served\n");
    }
    let snapshot = writes.tcplb.snapshot().to_string();
    assert!(!snapshot.contains("sesame"), "{snapshot}");
}

#[test]
fn a_wrong_password_and_a_bare_connection_are_what_mariadb_counts() {
    needs!("mariadbd", "mariadb", "mariadb-install-db");
    let server = MariaDb::start();
    server.asked("CREATE USER tcplb IDENTIFIED BY 'sesame'");
    let check = "type: MySQL, mysql: {user: tcplb, passwordRef: {file: password}}";
    let wrong = Checked::with(&[server.address], check, "", &[("password", "wrong")]);
    wrong.fails_saying("it says: Access denied for user 'tcplb'");
    drop(wrong);
    let bare = Checked::new(&[server.address], "type: TCP");
    bare.has_probed("passed", 3);
    let counted = || server.asked("SHOW GLOBAL STATUS LIKE 'Aborted_connects'");
    wait_until("it counts them", || counted() != "Aborted_connects\t0\n");
}

/// A server with an empty database, which blocks a host after one error. Its administrator connects to its Unix socket.
struct MariaDb {
    address: SocketAddr,
    _program: Program,
    folder: Folder,
}

impl MariaDb {
    fn start() -> Self {
        let (address, folder) = (free_address(), Folder::new());
        let data = format!("--datadir={}", folder.join("data").display());
        let user = format!(
            "--user={}",
            if crate::harness::is_root() { "root".into() } else { std::env::var("USER").unwrap_or_default() }
        );
        // A server that starts deletes the temporary tables of others in the same folder.
        let with_own_tables = |name: &str| {
            let mut command = command(name);
            command.env("TMPDIR", folder.path());
            command
        };
        let options = ["--no-defaults", &data, &user, "--auth-root-authentication-method=normal", "--skip-test-db"];
        let (status, said) = Program::start(with_own_tables("mariadb-install-db").args(options)).ends();
        assert!(status.success(), "{said}");
        let port = format!("--port={}", address.port());
        let socket = format!("--socket={}", folder.join("socket").display());
        let options = ["--no-defaults", &data, &user, "--bind-address=127.0.0.1", &port, &socket];
        let quick = ["--max-connect-errors=1", "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=16M"];
        let mut program = Program::start(with_own_tables("mariadbd").args(options).args(quick));
        program.says("ready for connections");
        Self { address, _program: program, folder }
    }

    fn asked(&self, statement: &str) -> String {
        let mut client = client();
        let (status, said) = Program::start(
            client.arg(format!("--socket={}", self.folder.join("socket").display())).args(["-e", statement]),
        )
        .ends();
        assert!(status.success(), "{said}");
        said
    }
}

/// The answer to a statement from the server at an address.
fn asked_at(address: SocketAddr, statement: &str) -> String {
    let port = address.port().to_string();
    let options = ["--host=127.0.0.1", "--port", &port, "--user=unguarded", "-e", statement];
    Program::start(client().args(options)).ends().1
}

fn client() -> Command {
    let mut client = command("mariadb");
    client.args(["--no-defaults", "--batch", "--skip-column-names"]);
    client
}
