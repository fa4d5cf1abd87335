use std::time::Instant;

use super::{Checked, in_time};
use crate::{
    harness::{Folder, run, wait_until},
    needs,
    postgres::Postgres,
};

const ROLE: &str = "user: tcplb, passwordRef: {file: password}, role";

#[test]
fn writes_follow_the_primary_when_a_postgresql_replica_is_promoted() {
    needs!("psql", "initdb", "postgres", "pg_basebackup");
    let mut primary = Postgres::start_with(None);
    primary.answers("CREATE ROLE tcplb LOGIN PASSWORD 'sesame'");
    primary.admit("host all tcplb 127.0.0.1/32 scram-sha-256");
    let replica = primary.replica();
    let both = [primary.address, replica.address];
    let servers = [("127.0.0.1:5432", primary.address), ("127.0.0.1:5433", replica.address)];
    let password = &[("password", "sesame\n")];
    let checked =
        |role: &str| Checked::with(&both, &format!("type: Postgres, postgres: {{{ROLE}: {role}}}"), "", password);
    let (writes, reads) = (checked("Primary"), checked("Replica"));
    writes.goes_to(&[primary.address]);
    reads.goes_to(&[replica.address]);
    writes.fails_saying("is a replica, expected a primary");
    reads.fails_saying("is a primary, expected a replica");
    writes.has_probed("passed", 10);
    for server in [&primary, &replica] {
        let log = server.log();
        assert!(log.contains("connection authorized: user=tcplb database=postgres application_name=tcplb"), "{log}");
        for complaint in ["FATAL", "ERROR", "could not", "unexpected EOF", "incomplete startup", "reset by peer"] {
            assert!(!log.contains(complaint), "{complaint}: {log}");
        }
    }

    assert_eq!(replica.answers("SELECT pg_promote()"), "t\n");
    let begun = Instant::now();
    primary.stop();
    writes.goes_to(&[replica.address]);
    in_time(begun.elapsed(), &writes);
    reads.goes_to(&[]);
    Checked::example("postgres.yaml", &servers).goes_to(&[replica.address]);
    assert!(!writes.tcplb.snapshot().to_string().contains("sesame"));
}

#[test]
fn a_postgresql_without_accounts_is_healthy_and_logs_nothing() {
    needs!("psql", "initdb", "postgres");
    let folder = Folder::new();
    assert_eq!(run(&["cert", "db.example.test", "--out", folder.path()]).0, 0);
    let pair = ["crt", "key"].map(|kind| folder.join(&format!("db.example.test.{kind}")));
    for server in [Postgres::start_with(None), Postgres::start_with(Some(&pair))] {
        let checked = Checked::new(&[server.address], "type: Postgres");
        checked.goes_to(&[server.address]);
        checked.has_probed("passed", 10);
        let log = server.log();
        let after = log.split("ready to accept connections").nth(1).unwrap();
        assert!(after.lines().all(|line| line.is_empty() || line.contains("connection received")), "{log}");
        let stranger = Checked::new(&[server.address], "type: Postgres, postgres: {user: nobody}");
        stranger.fails_saying("it says: role \"nobody\" does not exist");
    }
}

#[test]
fn a_check_of_postgresql_goes_over_tls_as_connections_do() {
    needs!("psql", "initdb", "postgres");
    let folder = Folder::new();
    assert_eq!(run(&["cert", "db.example.test", "--out", folder.path()]).0, 0);
    let pair = ["crt", "key"].map(|kind| folder.join(&format!("db.example.test.{kind}")));
    let server = Postgres::start_with(Some(&pair));
    server.answers("SET password_encryption = 'md5'; CREATE ROLE tcplb LOGIN PASSWORD 'sesame'");
    // The password is sent as clear text within TLS, and not at all without TLS.
    server.admit("hostssl all tcplb 127.0.0.1/32 password\nhost all tcplb 127.0.0.1/32 reject");
    let check = format!("type: Postgres, postgres: {{{ROLE}: Primary}}");
    let password = &[("password", "sesame")];
    let plain = Checked::with(&[server.address], &check, "", password);
    plain.fails_saying("it says: pg_hba.conf rejects connection");
    let authority = pair[0].display();
    let tls =
        format!("tls: {{serverName: db.example.test, caRefs: [{{files: {{ca: {authority}}}}}], startTls: Postgres}}");
    let text = std::fs::read_to_string(plain.folder.join("checked.yaml")).unwrap();
    plain.folder.write("checked.yaml", &text.replace("backends: [{", &format!("backends: [{{{tls}, ")));
    plain.tcplb.signal("HUP");
    wait_until("checks go over TLS", || plain.usable(server.address));
    let authorized = "connection authorized: user=tcplb database=postgres application_name=tcplb SSL enabled";
    wait_until("the server logs the login", || server.log().contains(authorized));
}
