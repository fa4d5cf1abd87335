//! An own etcd and kube-apiserver on this machine, for failures that no shared cluster may be exposed to.

use std::{
    env, fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use axum::http::Request;
use kube::{Client, Config, config::AuthInfo};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::harness::{self, free_address};

/// An etcd, for any number of API servers. Stopped on drop.
pub struct Alone {
    etcd: Child,
    address: SocketAddr,
    folder: TempDir,
}

/// An API server. Killed on drop, as by a power failure.
pub struct Api {
    running: Option<Child>,
    address: SocketAddr,
    etcd: SocketAddr,
    folder: PathBuf,
}

/// The token of a user with all permissions, and of one with the permissions that a test grants.
pub const ADMINISTRATOR: &str = "administrator";
pub const RESTRICTED_USER: &str = "restricted";

impl Alone {
    /// `None`: the programs are not installed, which is printed.
    pub fn start() -> Option<Self> {
        let (Some(etcd), Some(_)) = (program("etcd"), program("kube-apiserver")) else {
            harness::skip("etcd and kube-apiserver are not installed");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let (address, peers) = (free_address(), free_address());
        let key = rcgen::KeyPair::generate().unwrap();
        fs::write(folder.path().join("accounts.key"), key.serialize_pem()).unwrap();
        fs::write(folder.path().join("accounts.pub"), key.public_key_pem()).unwrap();
        let users =
            format!("{ADMINISTRATOR},{ADMINISTRATOR},1,system:masters\n{RESTRICTED_USER},{RESTRICTED_USER},2\n");
        fs::write(folder.path().join("users.csv"), users).unwrap();
        let etcd = Command::new(etcd)
            .current_dir(folder.path())
            .args(["--data-dir=etcd", "--unsafe-no-fsync", "--log-level=error"])
            .arg(format!("--listen-client-urls=http://{address}"))
            .arg(format!("--advertise-client-urls=http://{address}"))
            .arg(format!("--listen-peer-urls=http://{peers}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self { etcd, address, folder })
    }

    /// Starts another API server, which may not be ready yet.
    pub fn api(&self) -> Api {
        let folder = self.folder.path().to_owned();
        let mut api = Api { running: None, address: free_address(), etcd: self.address, folder };
        api.start();
        api
    }

    /// Compacts the history: a watch that is interrupted now cannot continue from its last version.
    pub fn compact(&self) {
        let revision = self.ask_etcd("/v3/kv/range", &json!({"key": "AA=="}))["header"]["revision"].clone();
        self.ask_etcd("/v3/kv/compaction", &json!({"revision": revision, "physical": true}));
    }

    fn ask_etcd(&self, path: &str, question: &Value) -> Value {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let (host, body) = (self.address, question.to_string());
        let head = format!("POST {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{answer}");
        serde_json::from_str(body).unwrap()
    }
}

impl Api {
    pub fn start(&mut self) {
        let name = self.address.port();
        let log = fs::File::options().create(true).append(true).open(self.log()).unwrap();
        let api = Command::new(program("kube-apiserver").unwrap())
            .current_dir(&self.folder)
            .arg(format!("--etcd-servers=http://{}", self.etcd))
            .arg(format!("--secure-port={name}"))
            .arg(format!("--cert-dir=certificates-{name}"))
            .args(["--bind-address=127.0.0.1", "--token-auth-file=users.csv", "--authorization-mode=RBAC"])
            .args(["--service-cluster-ip-range=10.0.0.0/24", "--endpoint-reconciler-type=none"])
            .args(["--service-account-issuer=https://kubernetes.default.svc"])
            .args(["--service-account-key-file=accounts.pub", "--service-account-signing-key-file=accounts.key"])
            .arg("--disable-admission-plugins=ServiceAccount")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.running = Some(api);
    }

    /// Waits until the API server answers requests.
    pub async fn ready(&self) {
        let client = self.client(ADMINISTRATOR);
        let deadline = Instant::now() + 3 * harness::WAIT_LIMIT;
        let question = || Request::get("/readyz").body(Vec::new()).unwrap();
        while client.request_text(question()).await.is_err() {
            let log = || fs::read_to_string(self.log()).unwrap_or_default();
            assert!(Instant::now() < deadline, "the API server is not ready:\n{}", log());
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Kills it, as by a power failure.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.kill().unwrap();
            running.wait().unwrap();
        }
    }

    pub fn client(&self, user: &str) -> Client {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut config = Config::new(format!("https://{}", self.address).parse().unwrap());
        config.accept_invalid_certs = true;
        config.auth_info = AuthInfo { token: Some(user.to_owned().into()), ..AuthInfo::default() };
        Client::try_from(config).unwrap()
    }

    /// A kubeconfig for this API server and user.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "here", "cluster": {
                "server": format!("https://{}", self.address), "insecure-skip-tls-verify": true,
            }}],
            "users": [{"name": user, "user": {"token": user}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": user}}],
        });
        let file = self.folder.join(format!("{user}-{}.conf", self.address.port()));
        fs::write(&file, config.to_string()).unwrap();
        file
    }

    fn log(&self) -> PathBuf {
        self.folder.join(format!("api-{}.log", self.address.port()))
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.etcd.kill();
        let _ = self.etcd.wait();
    }
}

/// The path of a program: in `PATH`, or where the scripts of the test cluster build it.
fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let built = PathBuf::from(env::var_os("HOME")?).join(".cache/tcplb-cluster/bin");
    env::split_paths(&path).chain([built]).map(|folder| folder.join(name)).find(|program| program.is_file())
}
