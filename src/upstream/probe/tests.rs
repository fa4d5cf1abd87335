mod shortages;

use std::{
    net::Ipv4Addr,
    num::NonZeroU16,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use hyper::header::{HeaderName, HeaderValue};
use proptest::prelude::*;
use tokio::{net::TcpListener, runtime::Runtime, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::{
    capacity::TenantPlaces,
    model::{
        BackendTlsTerms, Exchange, GrpcHealth, Hidden, HttpRequest, MySqlSession, Password, PostgresSession,
        RedisSession, Role, StartTls,
    },
};

const PROBE_TIMEOUT: Duration = Duration::from_secs(20);

fn check(probe: Probe) -> ActiveCheck {
    let one = NonZeroU16::MIN;
    ActiveCheck {
        probe,
        port: None,
        transport: Transport::AsConnections,
        interval: Duration::from_millis(5),
        unhealthy_interval: Duration::from_millis(5),
        jitter_percent: 0,
        timeout: PROBE_TIMEOUT,
        healthy_after: one,
        unhealthy_after: one,
    }
}

fn target(address: SocketAddr, probe: Probe) -> ProbeTarget {
    ProbeTarget { address, check: Arc::new(check(probe)), proxy_protocol: None, tls: None }
}

/// A server with a script: for each line it reads the first part, checks it, and sends the second part. After the last
/// line it ends its direction, and reads until the end. It is stopped on drop.
struct Scripted {
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Scripted {
    async fn new(lines: &[(&'static [u8], &'static [u8])]) -> Self {
        let (listener, lines) = (TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(), lines.to_vec());
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                for (told, said) in &lines {
                    let mut heard = vec![0; told.len()];
                    if stream.read_exact(&mut heard).await.is_err() {
                        break;
                    }
                    assert_eq!(heard.escape_ascii().to_string(), told.escape_ascii().to_string());
                    stream.write_all(said).await.unwrap();
                }
                let _ = stream.shutdown().await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        });
        Self { address, _task: AbortOnDropHandle::new(task) }
    }
}

/// The outcome of one probe of a scripted server.
async fn found(probe: Probe, lines: &[(&'static [u8], &'static [u8])]) -> ProbeResult {
    let server = Scripted::new(lines).await;
    asked(target(server.address, probe)).await
}

async fn asked(target: ProbeTarget) -> ProbeResult {
    target.ask(Instant::now() + target.check.timeout).await.map(drop).map_err(|failure| failure.to_string())
}

fn expect(send: &'static [u8], expect: &'static [u8]) -> Probe {
    Probe::Exchange(Exchange { send: Hidden::new(send.into()), expect: expect.into() })
}

fn password(text: &str) -> Option<Password> {
    Some(Hidden::new(text.into()))
}

fn redis(password: Option<Password>, role: Role) -> Probe {
    Probe::Redis(RedisSession { user: None, password, role })
}

#[tokio::test]
async fn an_exchange_passes_when_the_expected_bytes_arrive() {
    const PING: &[u8] = b"PING\r\n";
    for (probe, lines, expected) in [
        (expect(PING, b"+PONG"), &[(PING, &b"+PONG\r\n"[..])][..], ""),
        (expect(b"", b"220 "), &[(b"", b"220 ready\r\n")], ""),
        (expect(PING, b"N"), &[(PING, b"+PO"), (b"", b"NG")], ""),
        (expect(PING, b"+PONG"), &[(PING, b"")], "answered nothing, then closed the connection, expected `+PONG`"),
        (
            expect(PING, b"+PONG"),
            &[(PING, b"-ERR unknown command 'PING'\r\n")],
            "answered 29 other bytes and no more, then closed the connection, expected `+PONG`",
        ),
        (
            expect(b"", b"220 "),
            &[(b"", b"-LOADING \x1b[1m\r\n")],
            r"answered `-LOADING \x1b[1m` and no more, then closed the connection, expected `220`",
        ),
    ] {
        assert_eq!(found(probe, lines).await.err().unwrap_or_default(), expected);
    }
}

#[tokio::test]
async fn an_unanswered_probe_times_out_and_reports_received_bytes() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let _server = AbortOnDropHandle::new(tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(b"wait").await.unwrap();
            open.push(stream);
        }
    }));
    let session = PostgresSession { user: "u".into(), password: None, database: "d".into(), role: Role::Any };
    for (probe, expected) in [
        (expect(b"", b"ready"), "answered `wait` and no more in time, expected `ready`"),
        (Probe::Redis(RedisSession { user: None, password: None, role: Role::Any }), "no answer within 1s"),
        (Probe::Postgres(Some(session)), "no answer within 1s"),
        (Probe::Tls(None), "TLS handshake: received corrupt message of type InvalidContentType"),
    ] {
        let mut target = target(address, probe);
        Arc::make_mut(&mut target.check).timeout = Duration::from_secs(1);
        if matches!(target.check.probe, Probe::Tls(_)) {
            target.tls = Some(ProbeTlsClient::accepting_any_certificate(None));
        }
        let outcome = timeout(PROBE_TIMEOUT, asked(target)).await.expect("it ends");
        assert_eq!(outcome.unwrap_err(), expected);
    }
}

#[tokio::test]
async fn an_endless_answer_is_read_up_to_the_bound() {
    // The kernel's buffers on both sides count too.
    const MOST_SENT: usize = 16 << 20;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let _server = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            while stream.write_all(&[b'x'; 1024]).await.is_ok() {
                counted.fetch_add(1024, SeqCst);
            }
        }
    }));
    let http = HttpRequest { path: PATH, headers: Vec::new(), statuses: vec![200..=200] };
    for probe in [
        expect(b"", b"ready"),
        redis(None, Role::Any),
        Probe::Http(http),
        Probe::Grpc(GrpcHealth { service: "".into() }),
        Probe::MySql(MySqlSession { user: "u".into(), password: None, role: Role::Any }),
    ] {
        let outcome = timeout(PROBE_TIMEOUT, asked(target(address, probe))).await.expect("it ends before its timeout");
        assert!(outcome.is_err());
        assert!(sent.swap(0, SeqCst) < MOST_SENT);
    }
    let connection = target(address, Probe::Tcp).ask(Instant::now() + PROBE_TIMEOUT).await.unwrap();
    timeout(PROBE_TIMEOUT, close(connection)).await.expect("it ends");
    assert!(sent.load(SeqCst) < MOST_SENT);
}

const PATH: hyper::http::uri::PathAndQuery = hyper::http::uri::PathAndQuery::from_static("/primary");

#[tokio::test]
async fn a_status_passes_if_it_is_one_of_the_expected() {
    const ASKED: &[u8] = b"GET /primary HTTP/1.1\r\nhost: db:8008\r\n";
    for (status, expected) in [
        (&b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"[..], ""),
        (b"HTTP/1.0 204 None\r\n\r\n", ""),
        (b"HTTP/1.1 503 Unavailable\r\ncontent-length: 3\r\n\r\nno!", "HTTP status 503, expected 200 or 204-299"),
        (b"HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n", "HTTP status 302, expected 200 or 204-299"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "HTTP: invalid HTTP version parsed"),
        (b"", "HTTP: connection closed before message completed"),
    ] {
        let request = HttpRequest {
            path: PATH,
            headers: vec![(hyper::header::HOST, "db:8008".parse().unwrap())],
            statuses: vec![200..=200, 204..=299],
        };
        assert_eq!(found(Probe::Http(request), &[(ASKED, status)]).await.err().unwrap_or_default(), expected);
    }
}

#[tokio::test]
async fn headers_of_the_same_name_are_all_sent() {
    const ASKED: &[u8] = b"GET /primary HTTP/1.1\r\nhost: db\r\nuser-agent: probe\r\nconnection: close\r\n\
                           x-token: one\r\nx-token: two\r\n\r\n";
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let headers = [("host", "db"), ("x-token", "one"), ("user-agent", "probe"), ("x-token", "two")]
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .to_vec();
    let request = HttpRequest { path: PATH, headers, statuses: vec![200..=200] };
    assert_eq!(found(Probe::Http(request), &[(ASKED, OK)]).await, Ok(()));
}

#[tokio::test]
async fn the_body_of_a_response_decides_nothing() {
    const ASKED: &[u8] = b"GET /primary HTTP/1.1\r\n";
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n";
    let probe = || Probe::Http(HttpRequest { path: PATH, headers: Vec::new(), statuses: vec![200..=200] });
    let long = [HEAD, &[b'x'; 200_000]].concat().leak();
    assert_eq!(found(probe(), &[(ASKED, long)]).await, Ok(()));
    assert_eq!(found(probe(), &[(ASKED, HEAD)]).await, Ok(()), "it ends too early");

    // The server waits for more input and sends nothing.
    let slow = Scripted::new(&[(ASKED, HEAD), (&[b'x'; 4096], b"")]).await;
    let mut target = target(slow.address, probe());
    Arc::make_mut(&mut target.check).timeout = Duration::from_millis(100);
    assert_eq!(asked(target).await, Ok(()), "it does not end");
}

#[tokio::test]
async fn redis_is_up_or_has_a_role() {
    const REPEATED: &str = "the answer repeats the password of the check and is not shown";
    const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
    const ROLE: &[u8] = b"*1\r\n$4\r\nROLE\r\n";
    const AUTH: &[u8] = b"*2\r\n$4\r\nAUTH\r\n$6\r\nsesame\r\n";
    const PONG: &[u8] = b"+PONG\r\n";
    const MASTER: &[u8] = b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n";
    const REPLICA: &[u8] = b"*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:1\r\n$9\r\nconnected\r\n:0\r\n";
    for (probe, lines, expected) in [
        (redis(None, Role::Any), &[(PING, PONG)][..], ""),
        (redis(None, Role::Any), &[(PING, b"-NOAUTH Authentication required.\r\n")], ""),
        (
            redis(None, Role::Primary),
            &[(PING, b"-NOAUTH Authentication required.\r\n")],
            "answered `-NOAUTH Authentication required.`, expected `+PONG`",
        ),
        (
            redis(None, Role::Any),
            &[(PING, b"-MASTERDOWN Link with MASTER is down\r\n")],
            "answered `-MASTERDOWN Link with MASTER is down`, expected `+PONG`",
        ),
        (redis(password("sesame"), Role::Any), &[(AUTH, b"+OK\r\n"), (PING, PONG)], ""),
        (
            redis(password("sesame"), Role::Any),
            &[(AUTH, b"-ERR unknown command 'AUTH', with args beginning with: 'sesame'\r\n")],
            "the login was answered `-ERR`, expected `+OK`",
        ),
        (redis(password("sesame"), Role::Any), &[(AUTH, b"-ERR 'sesame'")], REPEATED),
        (redis(password("sesame"), Role::Any), &[(AUTH, b"+OK\r\n"), (PING, b"-ERR sesame?\r\n")], REPEATED),
        (
            redis(password("sesame"), Role::Any),
            &[(AUTH, b"+OK\r\n"), (PING, b"-LOADING Redis is loading the dataset\r\n")],
            "answered `-LOADING Redis is loading the dataset`, expected `+PONG`",
        ),
        (redis(None, Role::Primary), &[(PING, PONG), (ROLE, MASTER)], ""),
        (redis(None, Role::Replica), &[(PING, PONG), (ROLE, REPLICA)], ""),
        (redis(None, Role::Primary), &[(PING, PONG), (ROLE, REPLICA)], "is a replica, expected a primary"),
        (redis(None, Role::Replica), &[(PING, PONG), (ROLE, MASTER)], "is a primary, expected a replica"),
        (
            redis(None, Role::Primary),
            &[(PING, PONG), (ROLE, b"*2\r\n$8\r\nsentinel\r\n*0\r\n")],
            "is a `sentinel`, expected a primary",
        ),
        (redis(None, Role::Any), &[(PING, b"+PO")], "closed the connection after `+PO`"),
    ] {
        assert_eq!(found(probe, lines).await.err().unwrap_or_default(), expected);
    }
}

/// A MySQL packet, with its header.
fn packet(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[bytes.len() as u8, 0, 0, number], bytes].concat()
}

#[tokio::test]
async fn mysql_logins_use_the_servers_method() {
    const GREETING: &[u8] = b"\x0a8.0.36\0\x01\0\0\0abcdefgh\0\x00\x82\x21\x02\0\x08\0\x15\0\0\0\0\0\0\0\0\0\0\
                              ijklmnopqrst\0caching_sha2_password\0";
    const FAST: &[u8] = b"\x01\x03";
    const IN_FULL: &[u8] = b"\x01\x04";
    const OK: &[u8] = b"\0\0\0\x02\0\0\0";
    let one = |value: &str| {
        let row = [&[value.len() as u8], value.as_bytes()].concat();
        let end = b"\xfe\0\0\x02\0";
        [packet(1, b"\x01"), packet(2, b"\x03def"), packet(3, end), packet(4, &row), packet(5, end)].concat()
    };
    let refused = |words: &[u8]| packet(2, &[b"\xff\x15\x04#28000", words].concat());
    let logged_in = || [packet(2, FAST), packet(3, OK)].concat();
    for (role, answers, expected) in [
        (Role::Any, logged_in(), ""),
        (Role::Primary, [logged_in(), one("0")].concat(), ""),
        (Role::Primary, [logged_in(), one("1")].concat(), "is a replica, expected a primary"),
        (Role::Replica, [logged_in(), one("ON")].concat(), ""),
        (Role::Replica, [logged_in(), one("OFF")].concat(), "is a primary, expected a replica"),
        (Role::Any, packet(2, IN_FULL), "the server requests the plaintext password, which is sent over TLS only"),
        (Role::Any, refused(b"Access denied"), "it says: Access denied"),
        (
            Role::Any,
            packet(2, b"\xfeclient_ed25519\0abcde"),
            "the server requests a login by client_ed25519, expected mysql_native_password or caching_sha2_password",
        ),
    ] {
        let probe = Probe::MySql(MySqlSession { user: "u".into(), password: password("sesame"), role });
        let answer = [packet(0, GREETING), answers].concat().leak();
        assert_eq!(found(probe, &[(b"", answer)]).await.err().unwrap_or_default(), expected);
    }
    let session = || Probe::MySql(MySqlSession { user: "u".into(), password: None, role: Role::Any });
    let full = packet(0, b"\xff\x10\x04Too many connections").leak();
    assert_eq!(found(session(), &[(b"", full)]).await.unwrap_err(), "it says: Too many connections");
    let other = found(session(), &[(b"", b"220 mail.example.test ESMTP\r\n")]).await;
    assert_eq!(other.unwrap_err(), "closed the connection without an answer");
}

#[tokio::test]
async fn postgresql_is_recognised_without_an_account() {
    const QUESTION: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
    let any = || Probe::Postgres(None);
    assert_eq!(found(any(), &[(QUESTION, b"N")]).await, Ok(()));
    let wrong = found(any(), &[(QUESTION, b"H")]).await.unwrap_err();
    assert_eq!(wrong, "answered `H`, expected PostgreSQL");
    assert!(found(any(), &[(QUESTION, b"")]).await.is_err());
}

#[tokio::test]
async fn a_password_is_not_given_away_in_the_clear() {
    const STARTUP: &[u8] = b"\0\0\0\x32\0\x03\0\0user\0u\0database\0d\0application_name\0tcplb\0\0";
    let session = |password| {
        Probe::Postgres(Some(PostgresSession { user: "u".into(), password, database: "d".into(), role: Role::Any }))
    };
    let in_the_clear = &[(STARTUP, &b"R\0\0\0\x08\0\0\0\x03"[..])];
    let outcome = found(session(password("sesame")), in_the_clear).await;
    assert_eq!(outcome.unwrap_err(), "the server requests the plaintext password, expected TLS or SCRAM");
    let outcome = found(session(None), in_the_clear).await;
    assert_eq!(outcome.unwrap_err(), "the server requests a password for u, but the check has none");
    let refused = &[(STARTUP, &b"E\0\0\0\x27SFATAL\0C57P03\0Mthe system is down\0\0"[..])];
    assert_eq!(found(session(None), refused).await.unwrap_err(), "it says: the system is down");
}

#[tokio::test]
async fn a_password_is_hashed_only_so_often_and_for_so_many_at_a_time() {
    const STARTUP: &[u8] = b"\0\0\0\x32\0\x03\0\0user\0u\0database\0d\0application_name\0tcplb\0\0";
    // The nonce differs from the one that is sent.
    let challenged = |iterations: &str| {
        let challenge = [&b"\0\0\0\x0br=x,s=c2FsdA==,i="[..], iterations.as_bytes()].concat();
        let length = u8::try_from(challenge.len() + 4).unwrap();
        let asked = [&b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0R\0\0\0"[..], &[length], &challenge].concat();
        [(STARTUP, &*asked.leak())]
    };
    let session = || {
        let (user, database) = ("u".into(), "d".into());
        Probe::Postgres(Some(PostgresSession { user, password: password("sesame"), database, role: Role::Any }))
    };
    for (iterations, expected) in [
        ("20000", "unexpected answer, expected PostgreSQL"),
        (
            "20001",
            "the server requests 20001 iterations of SCRAM, expected at most 20000: lower scram_iterations, and set \
             the password again",
        ),
    ] {
        assert_eq!(found(session(), &challenged(iterations)).await.unwrap_err(), expected);
    }

    let _turns = postgres::HASHES.acquire_many(postgres::MOST_HASHES as u32).await.unwrap();
    let server = Scripted::new(&challenged("4096")).await;
    let mut target = target(server.address, session());
    Arc::make_mut(&mut target.check).timeout = Duration::from_millis(100);
    let waiting = timeout(PROBE_TIMEOUT, asked(target)).await.expect("it ends");
    assert_eq!(waiting.unwrap_err(), "no answer within 100ms");
}

#[tokio::test]
async fn probes_send_a_proxy_header_without_addresses() {
    for (version, header) in
        [(ProxyVersion::V1, &b"PROXY UNKNOWN\r\n"[..]), (ProxyVersion::V2, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")]
    {
        let server = Scripted::new(&[(header, b""), (b"PING", b"PONG")]).await;
        let target = ProbeTarget { proxy_protocol: Some(version), ..target(server.address, expect(b"PING", b"PONG")) };
        assert_eq!(asked(target.clone()).await, Ok(()));
        let other = Scripted::new(&[(b"PING", b"PONG")]).await;
        let mut elsewhere = target;
        Arc::make_mut(&mut elsewhere.check).port = NonZeroU16::new(other.address.port());
        assert_eq!(asked(elsewhere).await, Ok(()), "but not on another port");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unhealthy_endpoint_is_probed_at_the_unhealthy_interval() {
    let (told, mut times) = tokio::sync::mpsc::unbounded_channel();
    let begun = Instant::now();
    let mut target = target(([127, 0, 0, 1], 1).into(), Probe::Tcp);
    let check = Arc::make_mut(&mut target.check);
    check.interval = Duration::from_secs(60);
    check.unhealthy_interval = Duration::from_secs(1);
    let report = move |_| {
        let since = begun.elapsed().as_secs();
        told.send(since).unwrap();
        !(60..=62).contains(&since)
    };
    let _probing = AbortOnDropHandle::new(tokio::spawn(probe(
        Arc::new(target),
        TenantPlaces::new(1).queue(&"a".into()),
        Duration::ZERO,
        report,
    )));
    for expected in [0, 60, 61, 62, 63, 123] {
        assert_eq!(times.recv().await, Some(expected));
    }
}

#[test]
fn intervals_vary_by_no_more_than_the_jitter() {
    let interval = Duration::from_secs(10);
    let all: Vec<_> = (0..1000).map(|_| jittered(interval, 10)).collect();
    assert!(all.iter().all(|jittered| (9.0..=11.0).contains(&jittered.as_secs_f64())));
    assert!(all.iter().any(|jittered| *jittered < interval) && all.iter().any(|jittered| *jittered > interval));
    assert_eq!(jittered(interval, 0), interval);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A probe ends without a panic for any answer of a server, and its reason is short and printable.
    #[test]
    fn any_answer_is_an_answer(answer in prop::collection::vec(any::<u8>(), 0..200), kind in 0..7) {
        let session = MySqlSession { user: "u".into(), password: password("p"), role: Role::Primary };
        let postgres =
            PostgresSession { user: "u".into(), password: password("p"), database: "d".into(), role: Role::Primary };
        let probe = match kind {
            0 => expect(b"", b"expected"),
            1 => Probe::Http(HttpRequest { path: PATH, headers: Vec::new(), statuses: vec![200..=200] }),
            2 => Probe::Grpc(GrpcHealth { service: "".into() }),
            3 => Probe::Postgres(Some(postgres)),
            4 => Probe::Postgres(None),
            5 => Probe::MySql(session),
            _ => redis(password("p"), Role::Primary),
        };
        let outcome = Runtime::new().unwrap().block_on(async {
            let answer: &'static [u8] = answer.leak();
            timeout(PROBE_TIMEOUT, found(probe, &[(b"", answer)])).await
        });
        let reason = outcome.expect("it ends").err().unwrap_or_default();
        prop_assert!(reason.len() < 700 && !reason.contains(|c: char| c.is_control()), "{reason:?}");
    }
}

#[test]
fn only_postgresql_is_asked_for_tls_behind_another_port() {
    let address = SocketAddr::from(([192, 0, 2, 7], 5432));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let terms = BackendTlsTerms {
        server_name: Some("db.example.com".try_into().unwrap()),
        authorities: None,
        certificate: None,
        start_tls: Some(StartTls::Postgres),
    };
    let tls = Arc::new(BackendTls { terms, client: crate::model::TlsClientConfig::new(client, None) });
    let asked = ProbeTlsClient::of(&tls, None, address);
    let unasked = asked.clone().without_asking();
    assert!(asked != unasked);
    let backend = Backend { tls: Some(tls), ..Backend::default() };
    for (probe, port, expected) in [
        (Probe::Tls(None), None, asked.clone().that_never_resumes()),
        (Probe::Tls(None), Some(5432), asked.clone().that_never_resumes()),
        (Probe::Tls(None), Some(8008), unasked.clone().that_never_resumes()),
        (Probe::Postgres(None), Some(6432), asked),
        (Probe::Redis(RedisSession { user: None, password: None, role: Role::Any }), Some(8008), unasked),
    ] {
        let check = ActiveCheck { port: port.and_then(NonZeroU16::new), ..check(probe) };
        assert!(ProbeTarget::tls(&backend, &check, address) == Some(expected), "{check:?}");
    }
    for (port, is_encrypted) in [(None, true), (Some(5432), true), (Some(8008), false)] {
        let probe = Probe::Redis(RedisSession { user: None, password: None, role: Role::Any });
        let port = port.and_then(NonZeroU16::new);
        let check = ActiveCheck { port, transport: Transport::ByPort, ..check(probe) };
        assert_eq!(ProbeTarget::tls(&backend, &check, address).is_some(), is_encrypted, "{port:?}");
    }
}

#[test]
fn a_probe_between_its_runs_needs_little_memory() {
    let target = target((Ipv4Addr::LOCALHOST, 1).into(), Probe::Tcp);
    let size = size_of_val(&probe(Arc::new(target), TenantPlaces::new(1).queue(&"a".into()), Duration::ZERO, |_| true));
    assert!(size <= 280, "{size} bytes for each endpoint");
}
