//! The live table: `tcplb top` of a running process, and `tcplb demo`.

use std::{
    fs,
    io::{Read, Write},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};

use crate::harness::{EchoServer, Tcplb, free_address, run, visit, wait_until, who_answers};

/// A load balancer that has served one connection.
fn served() -> (Tcplb, SocketAddr) {
    let (server, listen) = (EchoServer::start(None), free_address());
    let tcplb = Tcplb::standalone(&["--listen", &listen.to_string(), "--backend", &server.address.to_string()]).ready();
    visit(listen).unwrap();
    (tcplb, server.address)
}

#[test]
fn the_table_is_printed_once_without_a_terminal() {
    let (tcplb, backend) = served();
    let url = format!("http://{}", tcplb.admin);
    let (code, text, errors) = run(&["top", &url, "--interval", "1s"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    assert!(text.starts_with("NAME ") && text.contains(&backend.to_string()), "{text}");
    let (code, wide, _) = run(&["top", &url, "--interval", "1s", "-o", "wide"]);
    assert!(code == 0 && wide.contains(&format!("\n    {url}")), "{wide}");
    let (code, yaml, _) = run(&["top", &url, "--interval", "1s", "-o", "yaml"]);
    assert!(code == 0 && yaml.starts_with("replicas: 1\nrows:\n"), "{yaml}");
    let (code, json, _) = run(&["top", &url, "--interval", "1s", "-o", "json", "--filter", "nothing"]);
    let document: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, document["replicas"].as_u64()), (0, Some(1)));
    assert_eq!(document["rows"], json!([]));
}

#[test]
fn a_process_that_cannot_be_read_is_an_error() {
    let url = format!("http://{}", free_address());
    let (code, text, errors) = run(&["top", &url, "--interval", "1s"]);
    assert_eq!((code, text.as_str()), (1, ""));
    assert!(errors.contains("no replica can be read: cannot connect to its admin port"), "{errors}");
    let (code, _, errors) = run(&["top", "https://127.0.0.1:9900"]);
    assert_eq!(code, 2);
    assert!(errors.contains("write for example http://127.0.0.1:9900"), "{errors}");
}

/// The sequences for the beginning and the end of an alternate screen.
const ALTERNATE: &str = "\u{1b}[?1049h";
const NORMAL: &str = "\u{1b}[?1049l";

/// The program in a terminal that `script` provides. Killed on drop.
struct Terminal {
    script: Child,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn start(arguments: &str) -> Self {
        let program = env!("CARGO_BIN_EXE_tcplb");
        let mut command = Command::new("script");
        command.args([
            "--quiet",
            "--flush",
            "--return",
            "--command",
            &format!("stty rows 24 columns 100; exec {program} {arguments}"),
            "/dev/null",
        ]);
        let mut script = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = script.stdout.take().unwrap();
        let shown = Arc::<Mutex<Vec<u8>>>::default();
        let written = shown.clone();
        thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                written.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Self { script, shown }
    }

    fn shows(&self, part: &str) {
        wait_until(&format!("{part:?} is shown"), || {
            String::from_utf8_lossy(&self.shown.lock().unwrap()).contains(part)
        });
    }

    fn press(&mut self, key: &[u8]) {
        self.script.stdin.as_mut().unwrap().write_all(key).unwrap();
    }

    fn ends(&mut self) -> Option<i32> {
        let mut status = None;
        wait_until("the terminal has ended", || {
            status = self.script.try_wait().unwrap();
            status.is_some()
        });
        self.shows(NORMAL);
        status.unwrap().code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

#[test]
fn the_terminal_is_restored_after_a_key_and_after_a_signal() {
    let (tcplb, _) = served();
    let arguments = format!("top http://{} --interval 1s", tcplb.admin);
    let mut terminal = Terminal::start(&arguments);
    terminal.shows(ALTERNATE);
    terminal.shows("NEW/S");
    terminal.press(b"q");
    assert_eq!(terminal.ends(), Some(0));

    let mut terminal = Terminal::start(&arguments);
    terminal.shows("NEW/S");
    let children = format!("/proc/{0}/task/{0}/children", terminal.script.id());
    let child = fs::read_to_string(children).unwrap();
    assert!(Command::new("kill").arg("-TERM").arg(child.trim()).status().unwrap().success());
    assert_eq!(terminal.ends(), Some(0));
}

#[test]
fn the_demo_shows_the_table_below_its_instructions_and_ends_after_ctrl_c() {
    let (address, admin) = (free_address(), free_address());
    let mut terminal = Terminal::start(&format!("demo --port {} --admin {admin}", address.port()));
    // Words are separate, since the cursor skips blanks.
    for word in [&*address.port().to_string(), &format!("http://{admin}/"), "blue", "green", "red"] {
        terminal.shows(word);
    }
    who_answers(address);
    terminal.press(b"\x03");
    assert_eq!(terminal.ends(), Some(0));
    terminal.shows("1 connections, ");
}
