//! Runs the built program as a process, and observes it from outside.
#![allow(dead_code, reason = "each test program uses a part")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The time limit of each wait.
pub const WAIT_LIMIT: Duration = Duration::from_secs(30);

/// A running `tcplb`. Killed on drop.
pub struct Tcplb {
    child: Child,
    /// The lines of standard error.
    log: Receiver<String>,
    /// Lines that were read.
    pub seen: Vec<String>,
    pub admin: SocketAddr,
    /// The standard output so far.
    output: Arc<Mutex<String>>,
    /// Ends when standard output is closed.
    reading: Option<thread::JoinHandle<()>>,
}

impl Tcplb {
    /// Starts `tcplb standalone` with its own admin address.
    pub fn standalone(arguments: &[&str]) -> Self {
        Self::standalone_with(arguments, |command| command)
    }

    /// Starts `tcplb standalone` with a prepared command (environment, a wrapper for a network namespace).
    pub fn standalone_with(arguments: &[&str], prepare: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let admin = free_address();
        let mut command = program();
        command.arg("standalone").arg("--admin").arg(admin.to_string()).args(arguments);
        prepare(&mut command);
        Self::spawn(command, admin)
    }

    /// Runs a prepared command.
    pub fn spawn(mut command: Command, admin: SocketAddr) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("tcplb can be started");
        let (lines, log) = channel();
        let stderr = child.stderr.take().unwrap();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    return;
                }
            }
        });
        let mut stdout = child.stdout.take().unwrap();
        let output = Arc::new(Mutex::new(String::new()));
        let written = output.clone();
        let reading = thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                written.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Self { child, log, seen: Vec::new(), admin, output, reading: Some(reading) }
    }

    /// Waits until it serves.
    pub fn ready(mut self) -> Self {
        wait_until("tcplb is ready", || {
            self.read_log();
            if let Some(status) = self.child.try_wait().unwrap() {
                thread::sleep(Duration::from_millis(100));
                self.read_log();
                panic!("tcplb ended with {status}: {:#?}", self.seen);
            }
            http_get(self.admin, "/readyz").is_some_and(|(status, _)| status == 200)
        });
        self
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Waits for a log line that contains this text, and returns it.
    pub fn logged(&mut self, part: &str) -> String {
        let deadline = Instant::now() + WAIT_LIMIT;
        if let Some(line) = self.seen.iter().find(|line| line.contains(part)) {
            return line.clone();
        }
        loop {
            match self.log.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(part) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("`{part}` was not logged: {:#?}", self.seen)
                }
            }
        }
    }

    /// Discards the log so far, so that [`Self::logged`] waits for a new line.
    pub fn forget_log(&mut self) {
        self.read_log();
        self.seen.clear();
    }

    fn read_log(&mut self) {
        self.seen.extend(self.log.try_iter());
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(format!("-{signal}")).arg(self.pid().to_string()).status().unwrap();
        assert!(status.success(), "the process is there");
    }

    /// Waits until the process has ended by itself. Returns its status and its standard output.
    pub fn ended(&mut self) -> (ExitStatus, String) {
        let mut status = None;
        wait_until("tcplb has ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        if let Some(reading) = self.reading.take() {
            reading.join().unwrap();
        }
        // The other end of the log is closed: this reads all of it.
        self.seen.extend(self.log.iter());
        (status.unwrap(), self.output())
    }

    /// The standard output so far.
    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// Waits until standard output contains this text.
    pub fn printed(&self, part: &str) {
        wait_until(&format!("`{part}` is printed"), || self.output().contains(part));
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// The value of a metric: the sum over all series that have all of these labels (`name="value"`).
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        metric(&self.metrics(), name, labels)
    }

    pub fn metrics(&self) -> String {
        http_get(self.admin, "/metrics").expect("metrics are served").1
    }

    /// True if the admin pages answer with this status at a path.
    pub fn answers(&self, path: &str, status: u16) -> bool {
        http_get(self.admin, path).is_some_and(|(answered, _)| answered == status)
    }

    pub fn snapshot(&self) -> serde_json::Value {
        serde_json::from_str(&http_get(self.admin, "/snapshot").expect("the snapshot is served").1).unwrap()
    }
}

impl Drop for Tcplb {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The built program.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcplb"));
    for variable in ["LISTEN", "BACKENDS", "LB_MODE", "POOL_SIZE", "RUST_LOG"] {
        command.env_remove(variable);
    }
    command
}

/// Runs the built program to its end. Returns its exit code, standard output and standard error.
pub fn run(arguments: &[&str]) -> (i32, String, String) {
    let mut command = program();
    command.args(arguments);
    let mut running = Tcplb::spawn(command, ([127, 0, 0, 1], 0).into());
    let (status, output) = running.ended();
    let errors = running.seen.iter().map(|line| format!("{line}\n")).collect();
    (status.code().unwrap_or(-1), output, errors)
}

/// The sum of a metric's series that have all of these labels.
pub fn metric(text: &str, name: &str, labels: &[&str]) -> f64 {
    text.lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

/// Raises the limit of open files of this program and its children to the maximum.
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Prints, despite captured output, that the running test is skipped on this machine. `make test` collects these lines.
pub fn skip(why: &str) {
    let line = format!("{}: {why}\n", thread::current().name().unwrap_or("a test"));
    let _ = write!(std::io::stderr(), "SKIPPED {line}");
    if let Some(path) = std::env::var_os("SKIPPED_TESTS") {
        let file = fs::File::options().create(true).append(true).open(path);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}

/// True if `KUBECONFIG` is that of a test cluster, which the variable with the tested image shows. No other cluster is
/// used just because the shell is configured for it.
pub fn has_test_cluster() -> bool {
    std::env::var_os("KUBECONFIG").is_some() && std::env::var_os("E2E_IMAGE").is_some_and(|image| !image.is_empty())
}

pub const NO_CLUSTER: &str = "there is no cluster: `make e2e` brings one up";

/// Skips the running test because a program is missing. Continuous integration installs all programs: there, the test
/// fails.
pub fn lacks(program: &str) {
    assert!(std::env::var_os("CI").is_none(), "{program} is not installed, and .ci/run is to see to it that it is");
    skip(&format!("{program} is not installed"));
}

/// Sends a plain HTTP request. Returns status and body, or `None` without an answer.
pub fn http_get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    http_request(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"))
        .map(|response| (response.status, response.body))
}

/// A response to a plain HTTP request.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// Names are in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

/// Sends this request unchanged; it must request the end of the connection. Returns the response, or `None` without an
/// answer.
pub fn http_request(address: SocketAddr, request: &str) -> Option<Response> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(WAIT_LIMIT)).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let headers = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let headers: Vec<_> = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    let is_chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let body = if is_chunked { unchunked(body) } else { body.into() };
    Some(Response { status, headers, body })
}

fn unchunked(body: &str) -> String {
    let (mut rest, mut text) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        text.push_str(&after[..size]);
        rest = &after[size + 2..];
    }
    text
}

/// An unused address of this host. Each call returns another one.
///
/// The kernel's ephemeral range is avoided: the local port of a client could take the address before it is used.
pub fn free_address() -> SocketAddr {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed);
        let start = (std::process::id() % 110) as u16 * 100;
        let port = 20_000 + (start + offset) % 11_000;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().unwrap();
        }
    }
}

/// Repeats a check until it succeeds, up to the time limit. The check is about a state, never a time.
pub fn wait_until(what: &str, holds: impl FnMut() -> bool) {
    wait_within(WAIT_LIMIT, what, holds);
}

/// The same, with another time limit.
pub fn wait_within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// An echo server on its own thread. If it has a name, it sends the name first.
pub struct EchoServer {
    pub address: SocketAddr,
}

impl EchoServer {
    pub fn start(name: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                thread::Builder::new()
                    .stack_size(128 * 1024)
                    .spawn(move || {
                        let mut client = client;
                        if let Some(name) = name {
                            let _ = writeln!(client, "{name}");
                        }
                        let mut buffer = [0; 16 * 1024];
                        while let Ok(count @ 1..) = client.read(&mut buffer) {
                            if client.write_all(&buffer[..count]).is_err() {
                                return;
                            }
                        }
                    })
                    .unwrap();
            }
        });
        Self { address }
    }
}

/// A test backend in its own process. Killed on drop.
pub struct Backend {
    child: Child,
    pub address: SocketAddr,
}

impl Backend {
    /// A backend that sends its name first on each connection.
    pub fn named(name: &str) -> Self {
        let address = free_address();
        Self::start(program().args(["backend", "--listen", &address.to_string(), "--name", name]), address)
    }

    /// Runs a prepared command, and waits until it accepts.
    pub fn start(command: &mut Command, address: SocketAddr) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let backend = Self { child, address };
        wait_until("the backend listens", || TcpStream::connect(address).is_ok());
        backend
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection of a client.
pub struct Client(pub BufReader<TcpStream>);

impl Client {
    /// Connects; panics if no server listens.
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).unwrap_or_else(|error| panic!("{address}: {error}"))
    }

    pub fn try_connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, WAIT_LIMIT)?;
        stream.set_read_timeout(Some(WAIT_LIMIT))?;
        stream.set_write_timeout(Some(WAIT_LIMIT))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The name that the backend sends first, without `hello from`.
    pub fn backend(&mut self) -> String {
        self.line().unwrap().trim_start_matches("hello from ").to_owned()
    }

    /// Reads a line, without its line end.
    pub fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Sends a line to a backend that echoes, and waits for the echo.
    pub fn echo(&mut self, text: &str) -> std::io::Result<()> {
        self.0.get_mut().write_all(format!("{text}\n").as_bytes())?;
        let answer = self.line()?;
        if answer == text { Ok(()) } else { Err(std::io::Error::other(format!("`{answer}` instead of `{text}`"))) }
    }

    /// Waits until the peer ends the connection. Returns an error unless the end is clean.
    pub fn end(&mut self) -> std::io::Result<()> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).map(drop)
    }

    /// Ends the client's direction, and waits for the end from the peer.
    pub fn finish(mut self) -> std::io::Result<()> {
        self.0.get_ref().shutdown(std::net::Shutdown::Write)?;
        self.end()
    }
}

/// Connects, checks an echo, and ends cleanly.
pub fn visit(address: SocketAddr) -> std::io::Result<()> {
    let mut client = Client::try_connect(address)?;
    client.echo("there and back")?;
    client.finish()
}

/// Connects to a load balancer whose backends send their names. Returns the name.
pub fn who_answers(address: SocketAddr) -> String {
    let mut client = Client::connect(address);
    let name = client.backend();
    client.finish().unwrap();
    name
}

/// True if the tests run as root.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// A folder for one test, removed with it.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file atomically: to another name, then renamed.
    pub fn write(&self, name: &str, text: &str) -> String {
        let (aside, path) = (self.join(&format!(".{name}.new")), self.join(name));
        fs::write(&aside, text).unwrap();
        fs::rename(&aside, &path).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// The manifest of a load balancer on 127.0.0.1 with these backends, and further lines of its spec.
pub fn manifest(name: &str, port: u16, backends: &[SocketAddr], more: &str) -> String {
    let addresses: Vec<String> = backends.iter().map(|address| format!("\"{address}\"")).collect();
    let more: String = more.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: {name}}}\nspec:\n  \
         listeners: [{{port: {port}, address: 127.0.0.1}}]\n  backends: [{{addresses: [{}]}}]\n{more}",
        addresses.join(", ")
    )
}
