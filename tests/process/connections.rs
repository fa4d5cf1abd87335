//! The lists of open connections, and the streams of those that end.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
};

use serde_json::Value;

use crate::{
    access_log::check,
    harness::{
        Client, EchoServer, Folder, Tcplb, WAIT_LIMIT, free_address, http_get, http_request, manifest, wait_until,
    },
};

/// Two load balancers, `a` and `b`, with a backend each.
struct Rig {
    tcplb: Tcplb,
    a: SocketAddr,
    b: SocketAddr,
    backends: [EchoServer; 2],
    _folder: Folder,
}

impl Rig {
    fn start(more: &[&str]) -> Self {
        let backends = [EchoServer::start(None), EchoServer::start(None)];
        let [a, b] = std::array::from_fn(|_| free_address());
        let folder = Folder::new();
        let text = manifest("a", a.port(), &[backends[0].address], "")
            + "---\n"
            + &manifest("b", b.port(), &[backends[1].address], "");
        let file = folder.write("both.yaml", &text);
        let tcplb = Tcplb::standalone(&[&["--workers", "2", &file], more].concat()).ready();
        Self { tcplb, a, b, backends, _folder: folder }
    }

    /// Connections that have moved as many bytes in each direction as listed.
    fn clients(&self, address: SocketAddr, bytes: &[usize]) -> Vec<Client> {
        let client = |bytes: &usize| {
            let mut client = Client::connect(address);
            client.echo(&"x".repeat(bytes - 1)).unwrap();
            client
        };
        bytes.iter().map(client).collect()
    }

    fn list(&self, query: &str) -> Value {
        let (status, text) = http_get(self.tcplb.admin, &format!("/connections{query}")).unwrap();
        assert_eq!(status, 200, "{query}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The bytes to clients of the listed connections.
    fn bytes(&self, query: &str) -> Vec<u64> {
        let list = self.list(query);
        let connections = list["connections"].as_array().unwrap();
        connections.iter().map(|connection| connection["bytesToClient"].as_u64().unwrap()).collect()
    }

    /// These durations of the listed connections, of which there are four.
    fn times(&self, query: &str, field: &str) -> Vec<f64> {
        let list = self.list(query);
        let times = list["connections"].as_array().unwrap().iter();
        let times: Vec<f64> = times.map(|connection| connection[field].as_f64().unwrap()).collect();
        assert_eq!(times.len(), 4, "{list}");
        times
    }

    fn follow(&self, query: &str) -> Stream {
        let mut stream = TcpStream::connect(self.tcplb.admin).unwrap();
        stream.set_read_timeout(Some(WAIT_LIMIT)).unwrap();
        // HTTP/1.0 responses are not chunked.
        write!(stream, "GET /connections?follow=true{query} HTTP/1.0\r\n\r\n").unwrap();
        let mut stream = Stream(BufReader::new(stream));
        let head: Vec<String> = std::iter::from_fn(|| Some(stream.line()).filter(|line| !line.is_empty())).collect();
        assert!(head[0].contains(" 200 "), "{head:?}");
        assert!(head.iter().any(|line| line == "content-type: application/x-ndjson"), "{head:?}");
        stream
    }
}

struct Stream(BufReader<TcpStream>);

impl Stream {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn event(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: `{line}`"))
    }
}

#[test]
fn open_connections_are_sorted_limited_and_filtered() {
    let rig = Rig::start(&[]);
    assert_eq!(rig.list("")["matching"], 0);
    let first = rig.clients(rig.a, &[30, 10, 20]);
    let second = rig.clients(rig.b, &[500]);
    wait_until("all connections are counted", || rig.bytes("?sort=bytes") == [500, 30, 20, 10]);
    assert_eq!(rig.bytes("?sort=bytes&limit=2"), [500, 30]);
    assert_eq!(rig.list("?limit=1")["matching"], 4);
    // Several connections may be accepted in the same millisecond.
    assert!(rig.times("?sort=age", "ageSeconds").is_sorted_by(|one, next| one >= next));
    assert!(rig.times("?sort=newest", "ageSeconds").is_sorted());
    assert!(rig.times("?sort=idle", "idleSeconds").is_sorted_by(|one, next| one >= next));

    let connection = rig.list("?sort=bytes&limit=1")["connections"][0].clone();
    let client = second[0].0.get_ref().local_addr().unwrap();
    assert_eq!(connection["client"], client.to_string());
    assert_eq!(connection["endpoint"], rig.backends[1].address.to_string());
    assert_eq!((&connection["port"], &connection["bytesToBackend"]), (&rig.b.port().into(), &500.into()));
    assert!(connection["ageSeconds"].as_f64().unwrap() >= connection["idleSeconds"].as_f64().unwrap());

    let name = connection["loadBalancer"].as_str().unwrap();
    for (query, expected) in [
        (format!("?loadBalancer={name}"), &[500][..]),
        (format!("?sort=bytes&listener={}", rig.a.port()), &[30, 20, 10]),
        (format!("?endpoint={}", rig.backends[1].address), &[500]),
        (format!("?client={client}").replace(&format!(":{}", client.port()), "/32&sort=bytes"), &[500, 30, 20, 10]),
        ("?client=192.0.2.0/24".into(), &[]),
        ("?namespace=elsewhere".into(), &[]),
    ] {
        assert_eq!(rig.bytes(&query), expected, "{query}");
    }
    for wrong in ["?limit=0", "?limit=99999999999", "?sort=%00", "?listner=1", "?client=%ff"] {
        let (status, text) = http_get(rig.tcplb.admin, &format!("/connections{wrong}")).unwrap();
        assert!(status == 400 && text.contains("is not valid"), "{wrong}: {text}");
    }
    let head = format!("HEAD /connections HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", rig.tcplb.admin);
    assert_eq!(http_request(rig.tcplb.admin, &head).unwrap().status, 200);
    first.into_iter().chain(second).for_each(|client| client.finish().unwrap());
    wait_until("they have ended", || rig.list("")["matching"] == 0);
}

#[test]
fn ids_are_those_of_the_access_log() {
    let mut rig = Rig::start(&["--access-log-format", "json"]);
    let clients = rig.clients(rig.a, &[1, 2, 3]);
    let ids = |all: &[Value], field: &str| -> BTreeSet<String> {
        all.iter().map(|one| one[field].as_str().unwrap().to_owned()).collect()
    };
    let listed = rig.list("");
    let listed = ids(listed["connections"].as_array().unwrap(), "id");
    clients.into_iter().for_each(|client| client.finish().unwrap());
    rig.tcplb.signal("TERM");
    let (_, output) = rig.tcplb.ended();
    let logged: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(listed, ids(&logged, "connection_id"));
}

#[test]
fn followers_get_the_connections_that_end_also_without_an_access_log() {
    let rig = Rig::start(&["--access-log", "off"]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/access-log.schema.json");
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut all = rig.follow("");
    let mut of_b = rig.follow(&format!("&listener={}", rig.b.port()));
    for (address, bytes) in [(rig.a, 5), (rig.b, 7)] {
        rig.clients(address, &[bytes]).pop().unwrap().finish().unwrap();
    }
    let events = [all.event(), all.event()];
    for event in &events {
        let mut wrong = Vec::new();
        check(&schema, &schema, event, "", &mut wrong);
        assert!(wrong.is_empty(), "{wrong:#?}: {event}");
        assert_eq!((&event["event"], &event["reason"]), (&"end".into(), &"complete".into()));
        assert!(event["backend"].is_string() && event["endpoint"].is_string(), "{event}");
    }
    let bytes: BTreeSet<u64> = events.iter().map(|event| event["bytes_to_client"].as_u64().unwrap()).collect();
    assert_eq!(bytes, BTreeSet::from([5, 7]));
    assert_eq!(of_b.event()["bytes_to_client"], 7);
}

#[test]
fn few_clients_follow_at_a_time() {
    let rig = Rig::start(&[]);
    let mut following: Vec<Stream> = (0..4).map(|_| rig.follow("")).collect();
    let (status, text) = http_get(rig.tcplb.admin, "/connections?follow=true").unwrap();
    assert!(status == 503 && text.contains("follow the connections already"), "{status} {text}");
    following.pop();
    wait_until("a closed stream makes room", || {
        let mut stream = TcpStream::connect(rig.tcplb.admin).unwrap();
        stream.set_read_timeout(Some(WAIT_LIMIT)).unwrap();
        write!(stream, "GET /connections?follow=true HTTP/1.0\r\n\r\n").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line.contains(" 200 ")
    });
    assert!(rig.tcplb.answers("/livez", 200));
}
