//! Passing the listening sockets of a running process to the one that replaces it, over a Unix socket.
//!
//! Closing one of several sockets that share an address resets the connections that wait in its queue; a socket that
//! another process has too loses none. The new process asks, gets every socket, says when it serves, and only then
//! does the old one stop accepting.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{FileTypeExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How long the new process may take until it serves.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait after a takeover that was given up.
const PAUSE: Duration = Duration::from_millis(200);
/// How many sockets go with one message; the kernel's limit is 253.
const SOCKETS_PER_MESSAGE: usize = 128;
const LONGEST_MESSAGE: usize = 512;

/// Everything a process listens on.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// By the address they were opened for.
    pub listeners: BTreeMap<SocketAddr, Vec<TcpListener>>,
    pub admin: Option<TcpListener>,
}

#[derive(Debug, Error)]
pub enum TakeoverError {
    #[error("cannot take over through {}", path.display())]
    Ask {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot offer a takeover at {}: write a path in a folder that exists and this user may write to", path.display())]
    Offer {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What one message, or its sockets, say.
#[derive(Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
enum Message {
    Listener(SocketAddr),
    Admin,
    /// All sockets have been sent.
    Complete,
    /// The new process serves.
    Serving,
}

/// The new process's side: it has the sockets, and the old process waits to hear that they are served.
#[derive(Debug)]
pub struct Successor {
    connection: OwnedFd,
}

/// Asks the process that offers at `path` for its sockets. `None`: there is no such process.
pub fn ask(path: &Path) -> Result<Option<(Successor, Inheritance)>, TakeoverError> {
    let failed = |source: io::Error| TakeoverError::Ask { path: path.to_owned(), source };
    let connection = unix_socket().map_err(failed)?;
    match rustix::net::connect(&connection, &SocketAddrUnix::new(path).map_err(|error| failed(error.into()))?) {
        Ok(()) => {}
        Err(Errno::NOENT | Errno::CONNREFUSED) => return Ok(None),
        Err(error) => return Err(failed(error.into())),
    }
    let inheritance = receive_all(&connection).map_err(failed)?;
    Ok(Some((Successor { connection }, inheritance)))
}

impl Successor {
    /// Tells the old process that it may stop accepting.
    pub fn serving(self) -> io::Result<()> {
        send(self.connection.as_fd(), &Message::Serving, &[])
    }
}

fn receive_all(connection: &OwnedFd) -> io::Result<Inheritance> {
    sockopt::set_socket_timeout(connection, sockopt::Timeout::Recv, Some(PATIENCE))?;
    let mut inheritance = Inheritance::default();
    loop {
        let (message, sockets) = receive(connection.as_fd())?;
        match message {
            Message::Listener(address) => inheritance.listeners.entry(address).or_default().extend(sockets),
            Message::Admin => inheritance.admin = sockets.into_iter().next(),
            Message::Complete => return Ok(inheritance),
            Message::Serving => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// The old process's side: waits for successors.
#[derive(Debug)]
pub struct Offer {
    path: PathBuf,
    listening: OwnedFd,
}

impl Offer {
    /// Offers at `path`, in place of whoever did before. Only processes of this user are answered.
    pub fn at(path: &Path) -> Result<Self, TakeoverError> {
        Self::bind(path).map_err(|source| TakeoverError::Offer { path: path.to_owned(), source })
    }

    fn bind(path: &Path) -> io::Result<Self> {
        match fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is something else, which stays"));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Made aside and moved into place: the path always leads to a process that answers.
        let aside = path.with_extension(format!("{}.new", std::process::id()));
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listening = unix_socket()?;
        rustix::net::bind(&listening, &SocketAddrUnix::new(&*aside)?)?;
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o600))?;
        rustix::net::listen(&listening, 4)?;
        fs::rename(&aside, path)?;
        Ok(Self { path: path.to_owned(), listening })
    }

    /// Waits (blocking) for a successor that has been given the sockets and serves them.
    ///
    /// One that goes away before it serves changes nothing: the next one is waited for.
    pub fn wait(&self, sockets: impl Fn() -> Vec<(SocketAddr, Vec<Arc<TcpListener>>)>, admin: Option<&TcpListener>) {
        loop {
            match self.serve_one(&sockets, admin) {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(path = %self.path.display(), %error, "a takeover was given up");
                    // Without descriptors left, the next attempt would fail as quickly.
                    thread::sleep(PAUSE);
                }
            }
        }
    }

    fn serve_one(
        &self,
        sockets: &impl Fn() -> Vec<(SocketAddr, Vec<Arc<TcpListener>>)>,
        admin: Option<&TcpListener>,
    ) -> io::Result<()> {
        let connection = retry_on_intr(|| rustix::net::accept_with(&self.listening, SocketFlags::CLOEXEC))?;
        if sockopt::socket_peercred(&connection)?.uid != rustix::process::geteuid() {
            return Err(io::Error::other("it was asked for by another user"));
        }
        sockopt::set_socket_timeout(&connection, sockopt::Timeout::Recv, Some(PATIENCE))?;
        sockopt::set_socket_timeout(&connection, sockopt::Timeout::Send, Some(PATIENCE))?;
        for (address, sockets) in sockets() {
            for some in sockets.chunks(SOCKETS_PER_MESSAGE) {
                let some: Vec<BorrowedFd<'_>> = some.iter().map(|socket| socket.as_fd()).collect();
                send(connection.as_fd(), &Message::Listener(address), &some)?;
            }
        }
        if let Some(admin) = admin {
            send(connection.as_fd(), &Message::Admin, &[admin.as_fd()])?;
        }
        send(connection.as_fd(), &Message::Complete, &[])?;
        match receive(connection.as_fd())? {
            (Message::Serving, _) => Ok(()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Sockets that keep messages apart.
fn unix_socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

fn send(connection: BorrowedFd<'_>, message: &Message, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_PER_MESSAGE))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let text = serde_json::to_vec(message)?;
    rustix::net::sendmsg(connection, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(connection: BorrowedFd<'_>) -> io::Result<(Message, Vec<TcpListener>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_PER_MESSAGE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut text = [0; LONGEST_MESSAGE];
    // Signals are for other threads, and may come by this one.
    let received = retry_on_intr(|| {
        rustix::net::recvmsg(connection, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })
    .map_err(|errno| match errno {
        Errno::AGAIN => io::Error::new(io::ErrorKind::TimedOut, "the other process does not answer"),
        errno => errno.into(),
    })?;
    if received.bytes == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other process went away"));
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other("this process may not open as many descriptors as it was sent: raise its limit"));
    }
    let mut sockets = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            sockets.extend(descriptors.map(TcpListener::from));
        }
    }
    Ok((serde_json::from_slice(&text[..received.bytes])?, sockets))
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_path_that_a_dead_process_left_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("takeover");
        drop(Offer::at(&path).unwrap());
        assert!(ask(&path).unwrap().is_none());
        Offer::at(&path).unwrap();
    }
}
