use std::{fs, time::Instant};

use super::{Checked, in_time};
use crate::{
    harness::{Folder, free_address, run, wait_until},
    needs,
    redis::{Redis, ask},
};

#[test]
fn writes_follow_the_primary_when_two_redis_servers_change_their_roles() {
    needs!("redis-server", "redis-cli");
    let [one, other] = [(); 2].map(|()| Redis::start(free_address()));
    let become_replica = |of: &str| {
        let (replica, primary) = if of == "one" { (&other, &one) } else { (&one, &other) };
        assert_eq!(ask(primary.address, &["REPLICAOF", "NO", "ONE"]), "OK\n");
        assert_eq!(ask(replica.address, &["REPLICAOF", "127.0.0.1", &primary.address.port().to_string()]), "OK\n");
        wait_until("the replica follows", || ask(replica.address, &["INFO", "replication"]).contains("link_status:up"));
    };
    for server in [&one, &other] {
        ask(server.address, &["ACL", "SETUSER", "tcplb", "on", ">sesame", "-@all", "+ping", "+role"]);
    }
    become_replica("one");
    let example = Checked::example("redis.yaml", &[("127.0.0.1:6379", one.address), ("127.0.0.1:6380", other.address)]);
    example.goes_to(&[one.address]);
    drop(example);
    let both = [one.address, other.address];
    let writes = Checked::new(&both, "type: Redis, redis: {role: Primary}");
    let reads = Checked::new(&both, "type: Redis, redis: {role: Replica}");
    let all = Checked::new(&both, "type: Redis");
    let expect = |primary: &Redis, replica: &Redis| {
        let begun = Instant::now();
        writes.goes_to(&[primary.address]);
        reads.goes_to(&[replica.address]);
        in_time(begun.elapsed(), &writes);
        all.goes_to(&both);
        for _ in 0..4 {
            assert_eq!(ask(writes.address, &["SET", "key", "value"]), "OK\n");
            assert!(ask(reads.address, &["SET", "key", "value"]).contains("READONLY"));
        }
    };
    expect(&one, &other);
    writes.fails_saying("is a replica, expected a primary");
    become_replica("other");
    expect(&other, &one);
    reads.fails_saying("is a primary, expected a replica");
}

#[test]
fn a_replica_gets_no_connection_before_its_role_is_known() {
    needs!("redis-server", "redis-cli");
    let primary = Redis::start(free_address());
    let port = primary.address.port().to_string();
    let replica = Redis::start_with(free_address(), &["--replicaof", "127.0.0.1", &port]);
    let writes = Checked::new(&[replica.address], "type: Redis, redis: {role: Primary}");
    for _ in 0..20 {
        let answer = ask(writes.address, &["SET", "key", "value"]);
        assert!(!answer.contains("READONLY"), "{answer}");
    }
    let connections = writes.tcplb.metric("tcplb_endpoint_connections_total", &[]);
    assert_eq!(connections, 0.0);
}

#[test]
fn logins_of_checks_do_not_fail() {
    needs!("redis-server", "redis-cli");
    let user = ["--user", "tcplb", "on", ">sesame", "-@all", "+ping", "+role"];
    let redis = Redis::start_with(free_address(), &[&["--requirepass", "root"][..], &user].concat());
    let password = &[("password", "sesame\n")];
    let check = "type: Redis, redis: {role: Primary, user: tcplb, passwordRef: {file: password}}";
    let right = Checked::with(&[redis.address], check, "", password);
    let stranger = Checked::new(&[redis.address], "type: Redis");
    right.goes_to(&[redis.address]);
    stranger.goes_to(&[redis.address]);
    right.has_probed("passed", 10);
    stranger.has_probed("passed", 10);
    let refused = || ask(redis.address, &["--no-auth-warning", "-a", "root", "ACL", "LOG"]);
    assert_eq!(refused().trim(), "");

    let wrong = Checked::with(&[redis.address], check, "", &[("password", "wrong")]);
    wrong.fails_saying("the login was answered `-WRONGPASS`");
    assert!(refused().contains("tcplb"), "what is refused is in that log");
    assert!(!wrong.usable(redis.address));
    let output = format!("{}{}{}", wrong.tcplb.snapshot(), right.tcplb.snapshot(), right.tcplb.output());
    assert!(!output.contains("sesame"), "{output}");
}

#[test]
fn a_check_of_redis_goes_over_tls_as_connections_do() {
    needs!("redis-server", "redis-cli");
    let (folder, tls) = (Folder::new(), free_address());
    assert_eq!(run(&["cert", "db.example.test", "--out", folder.path()]).0, 0);
    let file = |kind: &str| folder.join(&format!("db.example.test.{kind}")).display().to_string();
    let port = tls.port().to_string();
    let options = ["--tls-port", &port, "--tls-auth-clients", "no", "--tls-cert-file", &file("crt")];
    let redis = Redis::start_with(free_address(), &[&options[..], &["--tls-key-file", &file("key")]].concat());
    let plain = Checked::new(&[tls], "type: Redis");
    plain.goes_to(&[]);
    let text = fs::read_to_string(plain.folder.join("checked.yaml")).unwrap();
    let over_tls = |name: &str| {
        let tls = format!("tls: {{serverName: {name}, caRefs: [{{files: {{ca: {}}}}}]}}", file("crt"));
        text.replace("backends: [{", &format!("backends: [{{{tls}, "))
    };
    plain.folder.write("checked.yaml", &over_tls("db.example.test"));
    plain.tcplb.signal("HUP");
    plain.goes_to(&[tls]);
    plain.folder.write("checked.yaml", &over_tls("other.example.test"));
    plain.tcplb.signal("HUP");
    plain.goes_to(&[]);
    plain.fails_saying("TLS handshake: invalid peer certificate");

    // Plaintext where configured, here on another port.
    let elsewhere = format!("transport: Plain, port: {}, type: Redis", redis.address.port());
    let text = over_tls("other.example.test").replace("type: Redis", &elsewhere);
    plain.folder.write("checked.yaml", &text);
    plain.tcplb.signal("HUP");
    plain.goes_to(&[tls]);
}
