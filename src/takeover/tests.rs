use super::*;

#[test]
fn sockets_arrive_under_their_addresses_and_the_offer_ends_when_they_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("takeover");
    assert!(ask(&path).unwrap().is_none(), "nobody offers yet");

    let listening = || Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
    let declared: SocketAddr = "[::]:4000".parse().unwrap();
    let many: Vec<_> = (0..SOCKETS_PER_MESSAGE + 1).map(|_| listening()).collect();
    let admin = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin_address = admin.local_addr().unwrap();
    let addresses: Vec<_> = many.iter().map(|socket| socket.local_addr().unwrap()).collect();
    let offer = Offer::at(&path).unwrap();
    let waiting = thread::spawn(move || offer.wait(|| vec![(declared, many.clone())], Some(&admin)));

    let given_up = ask(&path).unwrap().unwrap();
    drop(given_up);
    let (successor, inherited) = ask(&path).unwrap().unwrap();
    let got: Vec<_> = inherited.listeners[&declared].iter().map(|socket| socket.local_addr().unwrap()).collect();
    assert_eq!(got, addresses);
    assert_eq!(inherited.admin.unwrap().local_addr().unwrap(), admin_address);
    successor.serving().unwrap();
    waiting.join().unwrap();
}

/// A process that offers at the path and sends the given answer.
fn offering(path: &Path, answer: impl FnOnce(OwnedFd) + Send + 'static) -> thread::JoinHandle<()> {
    let listening = unix_socket().unwrap();
    rustix::net::bind(&listening, &SocketAddrUnix::new(path).unwrap()).unwrap();
    rustix::net::listen(&listening, 4).unwrap();
    thread::spawn(move || answer(rustix::net::accept(&listening).unwrap()))
}

fn cause(error: TakeoverError) -> String {
    std::error::Error::source(&error).unwrap().to_string()
}

#[test]
fn the_exchange_has_one_deadline_regardless_of_messages() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("takeover");
    let talking = offering(&path, |connection| {
        let deadline = Instant::now() + SENDING_TIMEOUT;
        let message = Message::Listener("127.0.0.1:1".parse().unwrap());
        while send(connection.as_fd(), &message, &[], deadline).is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let connection = unix_socket().unwrap();
    rustix::net::connect(&connection, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    let error = receive_all(&connection, Instant::now() + Duration::from_millis(300)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    drop(connection);
    talking.join().unwrap();
}

#[test]
fn a_process_that_accepts_nothing_is_not_waited_for_past_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("takeover");
    let listening = unix_socket().unwrap();
    let address = SocketAddrUnix::new(&path).unwrap();
    rustix::net::bind(&listening, &address).unwrap();
    rustix::net::listen(&listening, 0).unwrap();
    let first = unix_socket().unwrap();
    rustix::net::connect(&first, &address).unwrap();

    let error = ask_whom(&path, is_trusted, Instant::now() + Duration::from_millis(300)).unwrap_err();
    assert!(cause(error).contains("no answer from the other process in time"));
}

#[test]
fn only_listening_sockets_and_short_messages_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let deadline = || Instant::now() + SENDING_TIMEOUT;
    let message = Message::Listener("127.0.0.1:1".parse().unwrap());
    let (pipe, _other_end) = rustix::pipe::pipe().unwrap();
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = std::net::TcpStream::connect(listening.local_addr().unwrap()).unwrap();
    for (name, descriptor) in [("pipe", pipe), ("datagrams", datagrams.into()), ("connected", connected.into())] {
        let (path, message) = (folder.path().join(name), serde_json::to_string(&message).unwrap());
        let message: Message = serde_json::from_str(&message).unwrap();
        let sending = offering(&path, move |connection| {
            send(connection.as_fd(), &message, &[descriptor.as_fd()], deadline()).unwrap();
        });
        assert!(cause(ask(&path).unwrap_err()).contains("not a listening TCP socket"), "{name}");
        sending.join().unwrap();
    }
    let path = folder.path().join("long");
    let sending = offering(&path, |connection| {
        rustix::net::send(&connection, &[b' '; LONGEST_MESSAGE + 1], SendFlags::empty()).unwrap();
    });
    assert!(cause(ask(&path).unwrap_err()).contains("a message of more than 512 bytes"));
    sending.join().unwrap();
}

#[test]
fn only_peers_of_this_user_and_root_are_accepted() {
    let own = rustix::process::geteuid();
    assert!(is_trusted(own) && is_trusted(Uid::ROOT));
    assert!(!is_trusted(Uid::from_raw(own.as_raw() + 1)));
}

#[test]
fn sockets_of_another_users_process_are_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("takeover");
    let offer = Offer::at(&path).unwrap();
    let waiting = thread::spawn(move || offer.wait(Vec::<(SocketAddr, Vec<Arc<TcpListener>>)>::new, None));
    assert!(ask_whom(&path, |_| false, Instant::now() + SENDING_TIMEOUT).unwrap().is_none());
    let (successor, _) = ask(&path).unwrap().unwrap();
    successor.serving().unwrap();
    waiting.join().unwrap();
}

#[test]
fn a_path_that_a_dead_process_left_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("takeover");
    drop(Offer::at(&path).unwrap());
    assert!(ask(&path).unwrap().is_none());
    Offer::at(&path).unwrap();
}
