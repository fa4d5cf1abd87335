use tokio::{task::JoinHandle, time::Instant};

use super::*;

fn options() -> EchoOptions {
    EchoOptions { address: (Ipv4Addr::LOCALHOST, 0).into(), name: None, delay: Duration::ZERO, greeting: None }
}

struct Running {
    address: SocketAddr,
    connections: Arc<Connections>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

fn start(options: EchoOptions) -> Running {
    let backend = EchoServer::bind(options).unwrap();
    let (address, connections, cancel) = (backend.address(), backend.connections(), CancellationToken::new());
    let task = tokio::spawn(backend.serve(cancel.clone()));
    Running { address, connections, cancel, task }
}

async fn all_said_by(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn everything_is_echoed_before_it_closes() {
    let backend = start(options());
    let request = "0123456789".repeat(100_000);
    let mut stream = TcpStream::connect(backend.address).await.unwrap();
    let (mut from, mut to) = stream.split();
    let mut answer = String::new();
    let send = async {
        to.write_all(request.as_bytes()).await.unwrap();
        to.shutdown().await.unwrap();
    };
    tokio::join!(send, async { from.read_to_string(&mut answer).await.unwrap() });
    assert!(answer == request, "{} of {} bytes came back", answer.len(), request.len());
}

#[tokio::test]
async fn the_backend_sends_its_name_then_the_greeting() {
    for (name, greeting, said) in [
        (None, None, ""),
        (Some("blue"), None, "hello from blue\n"),
        (None, Some("220 ready\r\n"), "220 ready\r\n"),
        (Some("blue"), Some("220 ready"), "hello from blue\n220 ready\n"),
    ] {
        let backend =
            start(EchoOptions { name: name.map(Into::into), greeting: greeting.map(Into::into), ..options() });
        assert_eq!(all_said_by(backend.address, b"").await, said);
        assert_eq!(all_said_by(backend.address, b"ping").await, format!("{said}ping"));
    }
}

#[tokio::test]
async fn each_answer_waits_for_the_delay() {
    let delay = Duration::from_millis(30);
    let backend = start(EchoOptions { delay, ..options() });
    let start = Instant::now();
    assert_eq!(all_said_by(backend.address, b"ping").await, "ping");
    assert!(start.elapsed() >= delay);
}

#[tokio::test]
async fn connections_are_counted_while_they_are_open() {
    let backend = start(options());
    let mut first = TcpStream::connect(backend.address).await.unwrap();
    first.write_all(b"a").await.unwrap();
    first.read_exact(&mut [0]).await.unwrap();
    assert_eq!((backend.connections.open(), backend.connections.total()), (1, 1));

    all_said_by(backend.address, b"b").await;
    first.shutdown().await.unwrap();
    first.read_to_end(&mut Vec::new()).await.unwrap();
    backend.cancel.cancel();
    backend.task.await.unwrap();
    assert_eq!((backend.connections.open(), backend.connections.total()), (0, 2));
}

#[tokio::test]
async fn cancelling_closes_open_connections_and_frees_the_port() {
    let backend = start(EchoOptions { name: Some("blue".into()), ..options() });
    let mut stream = TcpStream::connect(backend.address).await.unwrap();
    stream.read_exact(&mut [0; 16]).await.unwrap();
    backend.cancel.cancel();
    backend.task.await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    EchoServer::bind(EchoOptions { address: backend.address, ..options() }).unwrap();
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let backend = start(options());
    let error = EchoServer::bind(EchoOptions { address: backend.address, ..options() }).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    let sentence = format!("cannot listen on {}: another program uses the port", backend.address);
    assert!(error.to_string().starts_with(&sentence), "{error}");
}

#[tokio::test]
async fn every_address_means_both_families() {
    let backend = start(EchoOptions { address: (Ipv6Addr::UNSPECIFIED, 0).into(), ..options() });
    assert_eq!(all_said_by((Ipv4Addr::LOCALHOST, backend.address.port()).into(), b"ping").await, "ping");
}
