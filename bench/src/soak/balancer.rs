//! Load balancers under test, and their manifests.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use anyhow::{Context, Result};
use rustls::pki_types::CertificateDer;

use super::{
    backends,
    certificates::{CertificateAuthority, IssuedCertificate},
    timeline::Timeline,
    transport::Transport,
};

pub const ALGORITHMS: [&str; 5] = ["RoundRobin", "LeastConnections", "PowerOfTwo", "Random", "Maglev"];

/// The smallest number of endpoints. One backend can be dead, and another one not yet known to be back.
pub const MIN_ENDPOINTS: usize = 3;

/// The constant properties of a load balancer.
#[derive(Clone, Copy, Debug)]
pub struct LoadBalancerVariant {
    pub name: &'static str,
    pub transport: Transport,
    /// Edits remove it and add it again.
    pub is_transient: bool,
    pub preconnects: bool,
}

pub const VARIANTS: [LoadBalancerVariant; 7] = [
    LoadBalancerVariant { name: "plain-0", transport: Transport::Plain, is_transient: false, preconnects: false },
    LoadBalancerVariant { name: "plain-1", transport: Transport::Plain, is_transient: false, preconnects: false },
    LoadBalancerVariant { name: "preconnect", transport: Transport::Plain, is_transient: false, preconnects: true },
    LoadBalancerVariant { name: "tls-0", transport: Transport::Tls, is_transient: false, preconnects: false },
    LoadBalancerVariant { name: "tls-1", transport: Transport::Tls, is_transient: false, preconnects: false },
    LoadBalancerVariant {
        name: "transient-plain",
        transport: Transport::Plain,
        is_transient: true,
        preconnects: false,
    },
    LoadBalancerVariant { name: "transient-tls", transport: Transport::Tls, is_transient: true, preconnects: false },
];

/// A load balancer. Edits change its files, and the expectations of clients.
pub struct LoadBalancer {
    pub name: String,
    pub variant: LoadBalancerVariant,
    pub address: SocketAddr,
    pub settings: Mutex<Settings>,
    folder: PathBuf,
    serves: AtomicBool,
    /// All certificates. The index is the version.
    issued: Mutex<Vec<CertificateDer<'static>>>,
    timeline: Arc<Timeline>,
}

/// The declared state, which edits change.
#[derive(Clone, Debug)]
pub struct Settings {
    pub endpoints: Vec<usize>,
    pub algorithm: &'static str,
    pub is_removed: bool,
}

/// The method of replacing a file.
#[derive(Clone, Copy, Debug)]
pub enum FileReplacement {
    /// A new file is renamed over it.
    Rename,
    /// The file is truncated and written in two parts.
    InPlace,
}

impl LoadBalancer {
    pub fn new(
        instance: &str,
        variant: LoadBalancerVariant,
        address: SocketAddr,
        folder: &Path,
        timeline: Arc<Timeline>,
    ) -> Self {
        let endpoints = (0..backends::COUNT).collect();
        Self {
            name: format!("{instance}-{}", variant.name),
            variant,
            address,
            settings: Mutex::new(Settings { endpoints, algorithm: ALGORITHMS[0], is_removed: false }),
            folder: folder.into(),
            serves: AtomicBool::new(true),
            issued: Mutex::default(),
            timeline,
        }
    }

    pub fn is_tls(&self) -> bool {
        self.variant.transport == Transport::Tls
    }

    /// True if clients may connect.
    pub fn serves(&self) -> bool {
        self.serves.load(Relaxed)
    }

    /// Writes the manifest for the declared settings.
    pub fn write(&self, replacement: FileReplacement) -> Result<()> {
        replace(&self.manifest_file(), &self.manifest(), replacement)
    }

    /// Replaces the manifest by an invalid text.
    pub fn write_invalid(&self, text: &str, replacement: FileReplacement) -> Result<()> {
        replace(&self.manifest_file(), text, replacement)
    }

    /// Writes a new certificate, and records its version.
    pub fn rotate_certificate(&self, authority: &CertificateAuthority, replacement: FileReplacement) -> Result<()> {
        let IssuedCertificate { certificate, pem } = authority.issue()?;
        self.issued.lock().unwrap().push(certificate);
        replace(&self.certificate_file(), &pem, replacement)?;
        self.timeline.rotate_certificate(&self.name);
        Ok(())
    }

    /// Replaces the certificate by an invalid text.
    pub fn write_invalid_certificate(&self, replacement: FileReplacement) -> Result<()> {
        replace(&self.certificate_file(), "-----BEGIN CERTIFICATE-----\n", replacement)
    }

    /// The version of a certificate of this load balancer.
    pub fn version_of(&self, certificate: &CertificateDer<'_>) -> Option<usize> {
        self.issued.lock().unwrap().iter().position(|issued| issued == certificate)
    }

    /// Deletes the manifest. Clients stop connecting.
    pub fn remove(&self) -> Result<()> {
        self.settings.lock().unwrap().is_removed = true;
        self.serves.store(false, Relaxed);
        self.timeline.remove_balancer(&self.name);
        let file = self.manifest_file();
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))
    }

    /// Lets clients connect again.
    pub fn restore(&self) {
        self.timeline.restore_balancer(&self.name);
        self.serves.store(true, Relaxed);
    }

    pub fn manifest(&self) -> String {
        let Self { name, address, variant, .. } = self;
        let Settings { endpoints, algorithm, .. } = self.settings.lock().unwrap().clone();
        let addresses: Vec<_> =
            endpoints.iter().map(|backend| format!("\"{}\"", backends::address(*backend))).collect();
        let (tls, connect) = (self.tls_field(), if variant.preconnects { PRECONNECT } else { "" });
        format!(
            "apiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: {name}}}\nspec:\n  \
             listeners: [{{port: {}, address: {}{tls}}}]\n  backends: [{{addresses: [{}]}}]\n  \
             loadBalancing: {{algorithm: {algorithm}}}\n{TIMEOUTS}{HEALTH_CHECK}{connect}",
            address.port(),
            address.ip(),
            addresses.join(", "),
        )
    }

    fn tls_field(&self) -> String {
        let file = format!("{}.pem", self.name);
        let reference = format!("{{files: {{certificate: {file}, key: {file}}}}}");
        if self.is_tls() { format!(", tls: {{certificateRefs: [{reference}]}}") } else { String::new() }
    }

    fn manifest_file(&self) -> PathBuf {
        self.folder.join(format!("{}.yaml", self.name))
    }

    fn certificate_file(&self) -> PathBuf {
        self.folder.join(format!("{}.pem", self.name))
    }
}

/// On a busy machine, clients may need as long for a handshake as for any other step.
const TIMEOUTS: &str = "  timeouts: {handshake: 30s}\n";
const HEALTH_CHECK: &str =
    "  healthCheck: {active: {type: TCP, interval: 1s, unhealthyInterval: 500ms, timeout: 1s}}\n";
const PRECONNECT: &str = "  connect: {preconnect: {perEndpoint: 2}}\n";

fn replace(file: &Path, text: &str, replacement: FileReplacement) -> Result<()> {
    let written = match replacement {
        FileReplacement::Rename => {
            let aside = file.with_extension("new");
            fs::write(&aside, text).and_then(|()| fs::rename(&aside, file))
        }
        FileReplacement::InPlace => write_in_parts(file, text),
    };
    written.with_context(|| format!("cannot write {}", file.display()))
}

fn write_in_parts(file: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;

    let (first, second) = text.as_bytes().split_at(text.len() / 2);
    let mut file = fs::File::create(file)?;
    file.write_all(first)?;
    file.write_all(second)
}
