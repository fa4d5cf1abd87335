//! Third-party programs.
#![allow(dead_code, reason = "each test program uses a part")]

use std::{
    fs,
    io::{Read, Write},
    path::PathBuf,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use crate::harness::wait_until;

/// The path of an installed program. Includes directories outside of the usual `PATH`: those of administrators, and
/// that of PostgreSQL.
pub fn locate(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into(), "/sbin".into()]);
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let folders = folders.chain(versions.map(|version| version.path().join("bin")));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// The command of an installed program.
pub fn command(name: &str) -> Command {
    Command::new(locate(name).expect("checked by the test"))
}

/// A running program. Killed on drop.
pub struct Program {
    child: Child,
    input: Option<ChildStdin>,
    output: Arc<Mutex<Vec<u8>>>,
    complaints: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Program {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (output, complaints) = (Arc::default(), Arc::default());
        let readers =
            vec![gather(child.stdout.take().unwrap(), &output), gather(child.stderr.take().unwrap(), &complaints)];
        Self { input: child.stdin.take(), child, output, complaints, readers }
    }

    pub fn tell(&mut self, bytes: &[u8]) {
        let input = self.input.as_mut().expect("its input is open");
        if let Err(error) = input.write_all(bytes).and_then(|()| input.flush()) {
            panic!("cannot be told anything: {error}: {}", self.said());
        }
    }

    /// Closes its input.
    pub fn tell_no_more(&mut self) {
        self.input = None;
    }

    /// Waits until its output contains this text.
    pub fn says(&mut self, part: &str) {
        wait_until(&format!("`{part}` is said"), || {
            let over = self.child.try_wait().unwrap().is_some();
            if over {
                self.hear_the_rest();
            }
            let output = self.said();
            assert!(!over || output.contains(part), "ended without saying `{part}`: {output}");
            output.contains(part)
        });
    }

    /// Standard output so far, followed by standard error so far: the order between both is unknown.
    pub fn said(&self) -> String {
        self.output() + &text(&self.complaints)
    }

    /// The standard output so far.
    pub fn output(&self) -> String {
        text(&self.output)
    }

    /// Closes its input, and waits until it has ended by itself.
    pub fn ends(mut self) -> (ExitStatus, String) {
        self.tell_no_more();
        let mut status = None;
        wait_until("a program has ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        self.hear_the_rest();
        (status.unwrap(), self.said())
    }

    fn hear_the_rest(&mut self) {
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success(), "the process is there");
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gather(mut output: impl Read + Send + 'static, gathered: &Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    let gathered = gathered.clone();
    thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = output.read(&mut buffer) {
            gathered.lock().unwrap().extend_from_slice(&buffer[..count]);
        }
    })
}

fn text(said: &Mutex<Vec<u8>>) -> String {
    String::from_utf8_lossy(&said.lock().unwrap()).into_owned()
}
