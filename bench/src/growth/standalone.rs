//! `tcplb standalone` with many manifests, and changes of files.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use tokio::net::TcpListener;

use super::{
    activity::CalmPeriod,
    address_block::AddressBlock,
    certificate::{CertificateIssuer, has_certificate},
    operation::Action,
    plan::GrowthPlan,
    process::{MeteredProcess, ProcessOptions},
};
use crate::backend::listen;

/// The port of endpoints. Nothing listens on it, except for the probed endpoint.
const ENDPOINT_PORT: u16 = 9000;
/// Changes are combined for ten times the duration of the work, from 50 to 500 ms.
pub const CALM: CalmPeriod = CalmPeriod { min: Duration::from_millis(300), max: Duration::from_millis(700) };

/// A process and its manifests.
pub struct Standalone {
    pub process: MeteredProcess,
    manifests: PathBuf,
    addresses: AddressBlock,
    load_balancers: usize,
    endpoints: usize,
    issuer: CertificateIssuer,
    /// The backend of the probed endpoint while it listens.
    backend: Option<TcpListener>,
    /// The number of changes so far.
    round: usize,
}

impl Standalone {
    pub async fn start(plan: &GrowthPlan, load_balancers: usize, folder: &Path) -> Result<Self> {
        let (addresses, issuer, manifests) =
            (AddressBlock::reserve()?, CertificateIssuer::generate()?, folder.join("manifests"));
        fs::create_dir_all(&manifests)?;
        for index in 0..load_balancers {
            let manifest = Manifest { index, endpoints: plan.endpoints, addresses: &addresses };
            fs::write(manifests.join(format!("{}.yaml", name(index))), manifest.text(false))?;
            if has_certificate(index) {
                let certificate = issuer.issue(&name(index))?;
                fs::write(manifests.join(format!("{}.key", name(index))), certificate.key)?;
                fs::write(manifests.join(format!("{}.crt", name(index))), certificate.chain)?;
            }
        }
        let backend = Some(listen((addresses.endpoint(0), ENDPOINT_PORT).into())?);
        let mut process = start(plan, &addresses, &manifests, folder).await?;
        process.prepare().await?;
        let endpoints = plan.endpoints;
        Ok(Self { process, manifests, addresses, load_balancers, endpoints, issuer, backend, round: 0 })
    }

    /// Performs an action and waits until it takes effect. Returns the time until then.
    pub async fn perform(&mut self, action: Action) -> Result<Duration> {
        self.round += 1;
        let started = Instant::now();
        match action {
            Action::Endpoint => {
                let (index, replaced) = (self.load_balancers / 2, self.round % 2 == 1);
                let manifest = Manifest { index, endpoints: self.endpoints, addresses: &self.addresses };
                self.replace(&format!("{}.yaml", name(index)), &manifest.text(replaced))?;
                self.process.wait_for_log(&["configured", &name(index)]).await?;
            }
            Action::Certificate => {
                let index = (0..self.load_balancers).rfind(|index| has_certificate(*index));
                let index = index.expect("there are ten load balancers");
                // All certificates have the same key, so a certificate is never seen with another key.
                let certificate = self.issuer.issue(&name(index))?;
                self.replace(&format!("{}.crt", name(index)), &certificate.chain)?;
                self.process.wait_for_log(&["configured", &name(index)]).await?;
            }
            Action::HealthFlip => {
                let expected = match self.backend.take() {
                    Some(_) => "endpoint unhealthy",
                    None => {
                        self.backend = Some(listen((self.addresses.endpoint(0), ENDPOINT_PORT).into())?);
                        "endpoint healthy"
                    }
                };
                self.process.wait_for_log(&[expected, &name(0)]).await?;
            }
            Action::Page(path) => self.process.request_page(path).await?,
            Action::Status | Action::Connection | Action::Failure => {
                bail!("{action:?} is not an action with many manifests")
            }
        }
        Ok(started.elapsed())
    }

    /// Replaces a file by a rename, as with ConfigMaps.
    fn replace(&self, name: &str, text: &str) -> Result<()> {
        let written = self.manifests.with_file_name("written");
        fs::write(&written, text)?;
        Ok(fs::rename(&written, self.manifests.join(name))?)
    }
}

/// Starts a process that serves a folder of manifests.
pub async fn start(
    plan: &GrowthPlan,
    addresses: &AddressBlock,
    manifests: &Path,
    folder: &Path,
) -> Result<MeteredProcess> {
    let (admin, manifests) = (addresses.admin(), manifests.display().to_string());
    let words = ["standalone", "--admin", &admin.to_string(), "--workers", "1", "--access-log", "off", &manifests];
    MeteredProcess::start(ProcessOptions {
        program: &plan.program,
        arguments: words.map(str::to_owned).to_vec(),
        environment: Vec::new(),
        quantity: plan.quantity,
        folder,
        admin,
        cores: plan.cores,
        calm: CALM,
    })
    .await
}

fn name(index: usize) -> String {
    format!("lb-{index:05}")
}

/// The manifest of one load balancer.
struct Manifest<'a> {
    index: usize,
    endpoints: usize,
    addresses: &'a AddressBlock,
}

impl Manifest<'_> {
    /// `replaced`: the last endpoint has another address. The first load balancer has one endpoint, which is probed.
    fn text(&self, replaced: bool) -> String {
        let Self { index, endpoints, addresses } = *self;
        let name = name(index);
        let last = if replaced { endpoints } else { endpoints - 1 };
        let hosts: Vec<usize> = if index == 0 { vec![0] } else { (1..endpoints).chain([last + 1]).collect() };
        let endpoints: String =
            hosts.iter().map(|host| format!("    - {}:{ENDPOINT_PORT}\n", addresses.endpoint(*host))).collect();
        let check = match index {
            0 => "{type: TCP, interval: 500ms, unhealthyAfter: 1, healthyAfter: 1, jitterPercent: 0}",
            _ => "{type: None}",
        };
        let listener = addresses.listener(index);
        let tls = if has_certificate(index) {
            format!("\n    tls: {{certificateRefs: [{{files: {{certificate: {name}.crt, key: {name}.key}}}}]}}")
        } else {
            String::new()
        };
        format!(
            "apiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata:\n  name: {name}\nspec:\n  listeners:\n  - \
             port: {}\n    address: {}{tls}\n  backends:\n  - addresses:\n{endpoints}  healthCheck:\n    active: \
             {check}\n",
            listener.port(),
            listener.ip(),
        )
    }
}
