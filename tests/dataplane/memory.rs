//! What connections cost while they say nothing.

use std::{env, fs, io::Write, net::TcpStream, process::Command, thread};

use crate::rig::*;

const CONNECTIONS: usize = 2000;
/// Far more than the relay's buffer.
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
    // What the process needs once is not to be counted.
    let warm: Vec<_> = (0..50).map(|_| moved(&rig, &backend)).collect();
    let before = resident();
    let open: Vec<_> = (0..CONNECTIONS).map(|_| moved(&rig, &backend)).collect();
    let each = (resident() - before) / CONNECTIONS;
    println!("{each} bytes of resident memory for each of {CONNECTIONS} idle connections");
    assert!(each < 4 << 10, "{each} bytes for each connection");
    assert_eq!(rig.active() as usize, open.len() + warm.len());
}

/// A connection that has moved bytes both ways against a reader that was late.
fn moved(rig: &Rig, backend: &Backend) -> (TcpStream, TcpStream) {
    let (client, served) = rig.connect_to(backend);
    for (mut from, to) in [(&client, &served), (&served, &client)] {
        thread::scope(|scope| {
            let sending = scope.spawn(move || from.write_all(&vec![b'x'; EACH]).unwrap());
            let mut first = [0; 1];
            to.peek(&mut first).unwrap();
            std::io::copy(&mut std::io::Read::take(to, EACH as u64), &mut std::io::sink()).unwrap();
            sending.join().unwrap();
        });
    }
    (client, served)
}

/// Bytes of memory this process has (proc_pid_status(5)).
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}
