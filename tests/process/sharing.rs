//! Several processes on one address, only on request.

use std::collections::BTreeSet;

use crate::harness::{EchoServer, Tcplb, free_address, run, wait_until, who_answers};

#[test]
fn two_processes_share_an_address_when_both_are_asked_to() {
    let (one, two) = (EchoServer::start(Some("hello from one")), EchoServer::start(Some("hello from two")));
    let address = free_address().to_string();
    let start = |backend: &EchoServer| {
        let backend = backend.address.to_string();
        Tcplb::standalone(&["--reuse-port", "--workers", "2", "--listen", &address, "--backend", &backend]).ready()
    };
    let _first = start(&one);
    let mut second = start(&two);
    let mut reached = BTreeSet::new();
    wait_until("both processes get connections", || {
        reached.insert(who_answers(address.parse().unwrap()));
        reached.len() == 2
    });
    second.signal("TERM");
    assert_eq!(second.ended().0.code(), Some(0));
    for _ in 0..20 {
        assert_eq!(who_answers(address.parse().unwrap()), "one");
    }
}

#[test]
fn an_address_is_never_shared_without_asking() {
    let server = EchoServer::start(None);
    let (address, backend) = (free_address(), server.address.to_string());
    let listen = address.to_string();
    for holders in [&[][..], &["--reuse-port"]] {
        let arguments = [holders, &["--workers", "2", "--listen", &listen, "--backend", &backend]].concat();
        let mut holder = Tcplb::standalone(&arguments).ready();
        for listen in [&listen, &format!(":{}", address.port()), &format!("0.0.0.0:{}", address.port())] {
            let (code, _, error) =
                run(&["standalone", "--admin", "off", "--workers", "2", "--listen", listen, "--backend", &backend]);
            assert_eq!(code, 1, "{holders:?} {listen}: {error}");
            assert!(error.contains(&format!("port {} is in use", address.port())), "{holders:?} {listen}: {error}");
        }
        holder.signal("TERM");
        holder.ended();
    }
}
