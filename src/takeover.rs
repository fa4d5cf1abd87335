//! Passes the listening sockets of a running process to its replacement, over a Unix socket.
//!
//! Closing one of several sockets that share an address resets the connections in its queue. A socket that another
//! process also holds loses none. The new process requests and receives every socket, then reports that it serves. Only
//! then does the old process stop accepting.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};
use rustix::process::Uid;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The time limit of the whole exchange for a successor, until it serves.
const SERVING_TIMEOUT: Duration = Duration::from_secs(60);
/// The time limit for the old process to accept the connection and to send all its sockets.
const SENDING_TIMEOUT: Duration = Duration::from_secs(20);
/// The pause after a failed takeover.
const PAUSE: Duration = Duration::from_millis(200);
/// The number of sockets in one message. The limit of the kernel is 253.
const SOCKETS_PER_MESSAGE: usize = 128;
const LONGEST_MESSAGE: usize = 512;
/// More messages than all ports of an address require.
const MAX_MESSAGES: usize = 1 << 17;

/// All listening sockets of a process.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// By the address for which they were opened.
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
    #[error("cannot offer a takeover at {}: use a path in an existing folder that this user may write to", path.display())]
    Offer {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The content of a message, or of its sockets.
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

/// The new process's side. It has the sockets, and the old process waits for the message that they are served.
#[derive(Debug)]
pub struct Successor {
    connection: OwnedFd,
}

/// Requests the sockets of the process that offers them at `path`. `None`: there is no such process.
///
/// Only a process of this user or of root is trusted. A process that passes sockets on can also keep them and receive a
/// part of all new connections.
pub fn ask(path: &Path) -> Result<Option<(Successor, Inheritance)>, TakeoverError> {
    ask_whom(path, is_trusted, Instant::now() + SENDING_TIMEOUT)
}

fn ask_whom(
    path: &Path,
    is_trusted: fn(Uid) -> bool,
    deadline: Instant,
) -> Result<Option<(Successor, Inheritance)>, TakeoverError> {
    let failed = |source: io::Error| TakeoverError::Ask { path: path.to_owned(), source };
    let connection = unix_socket().map_err(failed)?;
    // The send timeout applies to connecting too: the queue of a process that accepts nothing is full.
    time_left(deadline)
        .and_then(|left| Ok(sockopt::set_socket_timeout(&connection, sockopt::Timeout::Send, Some(left))?))
        .map_err(failed)?;
    match rustix::net::connect(&connection, &SocketAddrUnix::new(path).map_err(|error| failed(error.into()))?) {
        Ok(()) => {}
        Err(Errno::NOENT | Errno::CONNREFUSED) => return Ok(None),
        Err(Errno::AGAIN) => return Err(failed(too_slow())),
        Err(error) => return Err(failed(error.into())),
    }
    let offering = sockopt::socket_peercred(&connection).map_err(|error| failed(error.into()))?.uid;
    if !is_trusted(offering) {
        tracing::error!(
            path = %path.display(), user = offering.as_raw(),
            "the socket belongs to a process of another user, and nothing is taken over from it: set --takeover to a \
             path in a directory that no other user may write to"
        );
        return Ok(None);
    }
    let inheritance = receive_all(&connection, deadline).map_err(failed)?;
    Ok(Some((Successor { connection }, inheritance)))
}

impl Successor {
    /// Notifies the old process that it may stop accepting.
    pub fn serving(self) -> io::Result<()> {
        send(self.connection.as_fd(), &Message::Serving, &[], Instant::now() + SENDING_TIMEOUT)
    }
}

fn is_trusted(user: Uid) -> bool {
    user == rustix::process::geteuid() || user.is_root()
}

fn receive_all(connection: &OwnedFd, deadline: Instant) -> io::Result<Inheritance> {
    let mut inheritance = Inheritance::default();
    for _ in 0..MAX_MESSAGES {
        let (message, sockets) = receive(connection.as_fd(), deadline)?;
        match message {
            Message::Listener(address) => inheritance.listeners.entry(address).or_default().extend(sockets),
            Message::Admin => inheritance.admin = sockets.into_iter().next(),
            Message::Complete => return Ok(inheritance),
            Message::Serving => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    Err(io::Error::other(format!("the other process sent more than {MAX_MESSAGES} messages")))
}

/// Warns if other users may write to the folder, because they could offer sockets in place of a process of this user.
fn warn_of_shared_folder(path: &Path) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(metadata) = fs::metadata(folder) else { return };
    let others_may_write = metadata.mode() & 0o022 != 0;
    if others_may_write || !is_trusted(Uid::from_raw(metadata.uid())) {
        tracing::warn!(
            directory = %folder.display(), owner = metadata.uid(), mode = format!("{:o}", metadata.mode() & 0o7777),
            "other users may write to the directory of --takeover and remove the socket, so a successor may not find \
             this process: use a directory of this user with mode 700"
        );
    }
}

/// The old process's side, which waits for successors.
#[derive(Debug)]
pub struct Offer {
    path: PathBuf,
    listening: OwnedFd,
}

impl Offer {
    /// Offers the sockets at `path` and replaces any earlier offer. Only processes of this user and of root get an
    /// answer.
    pub fn at(path: &Path) -> Result<Self, TakeoverError> {
        warn_of_shared_folder(path);
        Self::bind(path).map_err(|source| TakeoverError::Offer { path: path.to_owned(), source })
    }

    fn bind(path: &Path) -> io::Result<Self> {
        match fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "another kind of file exists there, and is not replaced",
                ));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // The socket is created under another name and moved, so that the path always leads to a process that answers.
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

    /// Waits (blocking) for a successor that has received the sockets and serves them.
    ///
    /// A successor that ends before it serves has no effect, and the wait continues.
    pub fn wait<S: AsFd>(&self, sockets: impl Fn() -> Vec<(SocketAddr, Vec<Arc<S>>)>, admin: Option<&TcpListener>) {
        loop {
            match self.serve_one(&sockets, admin) {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(path = %self.path.display(), %error, "takeover aborted");
                    // Without free descriptors, the next attempt would fail immediately too.
                    thread::sleep(PAUSE);
                }
            }
        }
    }

    fn serve_one<S: AsFd>(
        &self,
        sockets: &impl Fn() -> Vec<(SocketAddr, Vec<Arc<S>>)>,
        admin: Option<&TcpListener>,
    ) -> io::Result<()> {
        let connection = retry_on_intr(|| rustix::net::accept_with(&self.listening, SocketFlags::CLOEXEC))?;
        if !is_trusted(sockopt::socket_peercred(&connection)?.uid) {
            return Err(io::Error::other("requested by another user"));
        }
        let deadline = Instant::now() + SERVING_TIMEOUT;
        for (address, sockets) in sockets() {
            for some in sockets.chunks(SOCKETS_PER_MESSAGE) {
                let some: Vec<BorrowedFd<'_>> = some.iter().map(|socket| socket.as_fd()).collect();
                send(connection.as_fd(), &Message::Listener(address), &some, deadline)?;
            }
        }
        if let Some(admin) = admin {
            send(connection.as_fd(), &Message::Admin, &[admin.as_fd()], deadline)?;
        }
        send(connection.as_fd(), &Message::Complete, &[], deadline)?;
        match receive(connection.as_fd(), deadline)? {
            (Message::Serving, _) => Ok(()),
            (Message::Listener(_) | Message::Admin | Message::Complete, _) => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// A socket that preserves message boundaries.
fn unix_socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// The remaining time until the deadline of the whole exchange.
fn time_left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    // For a socket, a timeout of zero means no timeout.
    if left < Duration::from_millis(1) { Err(too_slow()) } else { Ok(left) }
}

fn too_slow() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer from the other process in time")
}

fn send(
    connection: BorrowedFd<'_>,
    message: &Message,
    sockets: &[BorrowedFd<'_>],
    deadline: Instant,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_PER_MESSAGE))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let text = serde_json::to_vec(message)?;
    sockopt::set_socket_timeout(connection, sockopt::Timeout::Send, Some(time_left(deadline)?))?;
    retry_on_intr(|| rustix::net::sendmsg(connection, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL))
        .map_err(|errno| if errno == Errno::AGAIN { too_slow() } else { errno.into() })?;
    Ok(())
}

fn receive(connection: BorrowedFd<'_>, deadline: Instant) -> io::Result<(Message, Vec<TcpListener>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_PER_MESSAGE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut text = [0; LONGEST_MESSAGE];
    sockopt::set_socket_timeout(connection, sockopt::Timeout::Recv, Some(time_left(deadline)?))?;
    // Other threads handle signals, but this thread may be interrupted by them.
    let received = retry_on_intr(|| {
        rustix::net::recvmsg(connection, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })
    .map_err(|errno| if errno == Errno::AGAIN { too_slow() } else { errno.into() })?;
    let mut sockets = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            for descriptor in descriptors {
                sockets.push(listening(descriptor)?);
            }
        }
    }
    if received.bytes == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other process closed the connection"));
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::other(format!("the other process sent a message of more than {LONGEST_MESSAGE} bytes")));
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other(
            "the received descriptors exceed the limit of this process: raise its limit of open files",
        ));
    }
    Ok((serde_json::from_slice(&text[..received.bytes])?, sockets))
}

/// Converts a descriptor to a TCP socket. Fails unless it is a listening one.
fn listening(descriptor: OwnedFd) -> io::Result<TcpListener> {
    let is_tcp = sockopt::socket_domain(&descriptor)
        .is_ok_and(|domain| [AddressFamily::INET, AddressFamily::INET6].contains(&domain))
        && sockopt::socket_type(&descriptor).is_ok_and(|kind| kind == SocketType::STREAM)
        && sockopt::socket_acceptconn(&descriptor).unwrap_or(false);
    if is_tcp {
        Ok(descriptor.into())
    } else {
        Err(io::Error::other("the other process sent a descriptor that is not a listening TCP socket"))
    }
}

/// The inheritance in these messages, for `fuzz/`.
///
/// # Errors
/// If they are not a complete offer.
#[cfg(feature = "fuzzing")]
pub fn receive_messages<'a>(messages: impl Iterator<Item = &'a [u8]>) -> io::Result<Inheritance> {
    let (offering, asking) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    for message in messages {
        if rustix::net::send(&offering, message, SendFlags::NOSIGNAL).is_err() {
            break;
        }
    }
    drop(offering);
    receive_all(&asking, Instant::now() + Duration::from_secs(1))
}

#[cfg(test)]
mod tests;
