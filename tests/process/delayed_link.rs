//! Two network namespaces with a slow link between them: some states of a connection are visible only while packets are
//! delayed.
//!
//! The kernel's own delay (`netem`) is missing in many kernels. Here a thread for each direction carries the packets
//! from one TUN device to the other.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    net::SocketAddr,
    os::fd::AsFd,
    process::Command,
    sync::{Arc, mpsc::channel},
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::harness::{Tcplb, is_root, skip};

/// The delay of a packet in each direction.
const DELAY: Duration = Duration::from_millis(10);
const CLIENT: [u8; 4] = [10, 99, 50, 1];
const SERVER: [u8; 4] = [10, 99, 50, 2];

/// Removed with its namespaces when the last clone is dropped.
#[derive(Clone)]
pub struct DelayedLink(Arc<NameSpaces>);

struct NameSpaces {
    client: String,
    server: String,
}

impl DelayedLink {
    /// `None`, with a message, if this user or this kernel cannot create a link.
    pub fn open() -> Option<Self> {
        if !is_root() {
            skip("only root makes network name spaces");
            return None;
        }
        let opened = Self::try_open();
        opened.inspect_err(|error| skip(&format!("no network name spaces or no TUN devices: {error}"))).ok()
    }

    fn try_open() -> io::Result<Self> {
        use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
        static NEXT: AtomicU32 = AtomicU32::new(0);

        let unique = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let names = NameSpaces { client: format!("tcplb-c-{unique}"), server: format!("tcplb-s-{unique}") };
        let ends = [(&names.client, CLIENT, format!("tc{unique}")), (&names.server, SERVER, format!("ts{unique}"))];
        let mut devices = Vec::new();
        for (name_space, address, device) in ends {
            ip(&["netns", "add", name_space])?;
            // Created here and moved: the descriptor stays valid.
            devices.push(tun(&device)?);
            ip(&["link", "set", &device, "netns", name_space])?;
            let [a, b, c, d] = address;
            ip(&["-n", name_space, "address", "add", &format!("{a}.{b}.{c}.{d}/24"), "dev", &device])?;
            ip(&["-n", name_space, "link", "set", &device, "up"])?;
            ip(&["-n", name_space, "link", "set", "lo", "up"])?;
        }
        let [client, server] = <[File; 2]>::try_from(devices).expect("a device for each end");
        carry(client.try_clone()?, server.try_clone()?);
        carry(server, client);
        Ok(Self(Arc::new(names)))
    }

    /// An address in the server's network namespace that clients reach over the link.
    pub fn server_address(&self, port: u16) -> SocketAddr {
        (SERVER, port).into()
    }

    /// The words in front of a command that runs it in the server's network namespace.
    pub fn around_server(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.0.server].map(String::from).into()
    }

    /// Moves this thread into the clients' network namespace.
    pub fn enter(&self) {
        let name_space = File::open(format!("/var/run/netns/{}", self.0.client)).unwrap();
        move_into_link_name_space(name_space.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    /// Runs a function in the clients' network namespace.
    pub fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            self.enter();
            body()
        };
        thread::scope(|scope| scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }

    /// A test backend in the server's network namespace.
    pub fn backend(&self, listen: &str) -> Tcplb {
        let around = self.around_server();
        let mut command = Command::new(&around[0]);
        command.args(&around[1..]).args([env!("CARGO_BIN_EXE_tcplb"), "backend", "--listen", listen]);
        let mut backend = Tcplb::spawn(command, listen.parse().unwrap());
        backend.logged("backend is listening");
        backend
    }
}

impl Drop for NameSpaces {
    fn drop(&mut self) {
        for name in [&self.client, &self.server] {
            let _ = ip(&["netns", "delete", name]);
        }
    }
}

fn ip(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())))
}

/// Carries packets from one device to the other until one of them is removed.
fn carry(mut from: File, mut to: File) {
    let (taken, waiting) = channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut packet = [0; 65536];
        while let Ok(length) = from.read(&mut packet) {
            if taken.send((Instant::now() + DELAY, packet[..length].to_vec())).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (due, packet) in waiting {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            // A device that is not up yet or already removed loses packets, like a real link.
            let _ = to.write(&packet);
        }
    });
}

/// Creates a TUN device that lives as long as the file. Packets that are written to the file are received; packets that
/// are sent can be read.
fn tun(name: &str) -> io::Result<File> {
    use rustix::ioctl::{Setter, ioctl, opcode};

    /// `struct ifreq` of `<linux/if.h>`.
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: u16,
        rest: [u8; 22],
    }
    /// `TUNSETIFF` of `<linux/if_tun.h>`.
    const SET: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 202);
    const TUN_WITHOUT_HEADERS: u16 = 0x0001 | 0x1000;

    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut request = Request { name: [0; 16], flags: TUN_WITHOUT_HEADERS, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads a `struct ifreq`, whose layout `Request` has.
    unsafe { ioctl(&file, Setter::<SET, Request>::new(request))? };
    Ok(file)
}
