//! What connections cost while they say nothing.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::TcpStream,
    process::Command,
    thread,
    time::Duration,
};

use crate::rig::*;

const CONNECTIONS: usize = 2000;
/// More than the relay's buffer.
const EACH: usize = 256 << 10;
const ALONE: &str = "DATAPLANE_MEMORY_ALONE";

/// Memory is of a whole process, so this test has one for itself.
#[test]
fn an_idle_connection_holds_no_buffer_however_much_it_moved_before() {
    if env::var_os(ALONE).is_some() {
        return measure();
    }
    let name = "memory::an_idle_connection_holds_no_buffer_however_much_it_moved_before";
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    println!("{said}");
}

fn measure() {
    let backend = Backend::new();
    let rig = Rig::new(&[backend.address]);
    let connected = |count| (0..count).map(|_| rig.connect_to(&backend)).collect::<Vec<_>>();
    // What the process needs once is not to be counted.
    let warm = connected(50);
    warm.iter().for_each(|(client, served)| moves(client, served, EACH));

    let before = resident();
    let open = connected(CONNECTIONS);
    for (client, served) in &open {
        moves(client, served, EACH);
        moves(served, client, EACH);
    }
    let each = (resident() - before) / CONNECTIONS;
    println!("{each} bytes of resident memory for each of {CONNECTIONS} idle connections");
    assert!(each < 3 << 10, "{each} bytes for each connection");

    let before = resident();
    for (client, served) in &warm {
        stalls_and_moves(client, served);
    }
    let each = resident().saturating_sub(before) / warm.len();
    assert!(each < 16 << 10, "{each} bytes for each connection that had to wait for its reader");
    assert_eq!(rig.active() as usize, open.len() + warm.len());
}

/// The kernel's buffers take all of it before any is read.
fn moves(mut from: &TcpStream, mut to: &TcpStream, count: usize) {
    from.write_all(&vec![b'x'; count]).unwrap();
    to.read_exact(&mut vec![0; count]).unwrap();
}

/// More than they take: the relay has to wait with what it read.
fn stalls_and_moves(mut from: &TcpStream, to: &TcpStream) {
    from.set_nonblocking(true).unwrap();
    let (mut sent, mut blocked) = (0, 0);
    while blocked < 20 {
        match from.write(&[b'x'; 64 << 10]) {
            Ok(count) => (sent, blocked) = (sent + count, 0),
            Err(_) => {
                blocked += 1;
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
    from.set_nonblocking(false).unwrap();
    io::copy(&mut to.take(sent as u64), &mut io::sink()).unwrap();
}

/// Bytes of memory this process has (proc_pid_status(5)).
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}
