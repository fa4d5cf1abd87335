//! Random edits of the files of an instance.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use fastrand::Rng;
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    backends,
    balancer::{ALGORITHMS, FileReplacement, LoadBalancer, MIN_ENDPOINTS},
    clients::ClientContext,
    instance::{Instance, Setup},
    record::{ClientEnd, ClientKind},
};

/// The time after which a new load balancer must serve, on a busy machine.
const SERVICE_TIMEOUT: Duration = Duration::from_secs(20);

/// A kind of edits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Edit {
    AddEndpoint,
    RemoveEndpoint,
    ChangeAlgorithm,
    RotateCertificate,
    RemoveObject,
    AddObject,
    /// Replaces a file by an invalid one.
    InvalidateFile,
    RepairFile,
}

/// Edits the files of one instance, one edit after the other.
pub struct Editor {
    setup: Arc<Setup>,
    instance: Arc<Instance>,
    clients: ClientContext,
    rng: Rng,
    invalid: Option<Arc<LoadBalancer>>,
    restoring: JoinSet<()>,
    counts: BTreeMap<Edit, u64>,
}

impl Editor {
    pub fn new(setup: Arc<Setup>, instance: Arc<Instance>, clients: ClientContext, rng: Rng) -> Self {
        Self { setup, instance, clients, rng, invalid: None, restoring: JoinSet::new(), counts: BTreeMap::new() }
    }

    /// The number of edits of each kind so far.
    pub fn counts(&self) -> &BTreeMap<Edit, u64> {
        &self.counts
    }

    /// Makes a random edit. An invalid file is repaired first.
    pub fn edit(&mut self) -> Result<()> {
        while self.restoring.try_join_next().is_some() {}
        let (balancer, edit) = match self.invalid.take() {
            Some(balancer) => (balancer, Edit::RepairFile),
            None => self.choose(),
        };
        let replacement = self.replacement();
        self.setup.timeline.note(format!("{}: {edit:?}", balancer.name));
        *self.counts.entry(edit).or_default() += 1;
        match edit {
            Edit::AddEndpoint => self.add_endpoint(&balancer, replacement),
            Edit::RemoveEndpoint => self.remove_endpoint(&balancer, replacement),
            Edit::ChangeAlgorithm => {
                balancer.settings.lock().unwrap().algorithm = ALGORITHMS[self.rng.usize(..ALGORITHMS.len())];
                balancer.write(replacement)
            }
            Edit::RotateCertificate => balancer.rotate_certificate(&self.setup.authority, replacement),
            Edit::RemoveObject => balancer.remove(),
            Edit::AddObject => self.add_object(balancer, replacement),
            Edit::InvalidateFile => self.invalidate(balancer, replacement),
            Edit::RepairFile => self.repair(&balancer, replacement),
        }
    }

    /// True if a successor can start: it knows no earlier versions of invalid files.
    pub fn allows_takeover(&self) -> bool {
        self.invalid.is_none()
    }

    /// Repairs an invalid file, and waits until added objects are served.
    pub async fn finish(&mut self) -> Result<()> {
        if self.invalid.is_some() {
            self.edit()?;
        }
        while self.restoring.join_next().await.is_some() {}
        Ok(())
    }

    fn choose(&mut self) -> (Arc<LoadBalancer>, Edit) {
        loop {
            let balancer = self.instance.balancers[self.rng.usize(..self.instance.balancers.len())].clone();
            if let Some(edit) = self.rng.choice(self.possible(&balancer)) {
                return (balancer, edit);
            }
        }
    }

    /// The possible edits of a load balancer. Repeated ones are more probable.
    fn possible(&self, balancer: &LoadBalancer) -> Vec<Edit> {
        let settings = balancer.settings.lock().unwrap().clone();
        if settings.is_removed {
            return vec![Edit::AddObject];
        }
        if !balancer.serves() {
            return Vec::new();
        }
        let mut edits = vec![Edit::ChangeAlgorithm];
        if settings.endpoints.len() < backends::COUNT {
            edits.extend([Edit::AddEndpoint; 2]);
        }
        if settings.endpoints.len() > MIN_ENDPOINTS {
            edits.extend([Edit::RemoveEndpoint; 2]);
        }
        if balancer.is_tls() {
            edits.extend([Edit::RotateCertificate; 2]);
        }
        if balancer.variant.is_transient {
            edits.extend([Edit::RemoveObject; 3]);
        }
        // A successor knows no earlier version of an invalid file.
        if !self.instance.is_taking_over() {
            edits.push(Edit::InvalidateFile);
        }
        edits
    }

    /// A successor must not find an incomplete file, since it knows no earlier version.
    fn replacement(&mut self) -> FileReplacement {
        if self.rng.bool() || self.instance.is_taking_over() {
            FileReplacement::Rename
        } else {
            FileReplacement::InPlace
        }
    }

    fn add_endpoint(&mut self, balancer: &LoadBalancer, replacement: FileReplacement) -> Result<()> {
        let endpoints = balancer.settings.lock().unwrap().endpoints.clone();
        let absent = (0..backends::COUNT).filter(|backend| !endpoints.contains(backend)).collect::<Vec<_>>();
        if let Some(backend) = self.rng.choice(absent) {
            self.setup.timeline.add_endpoint(&balancer.name, backend);
            balancer.settings.lock().unwrap().endpoints.push(backend);
        }
        balancer.write(replacement)
    }

    fn remove_endpoint(&mut self, balancer: &LoadBalancer, replacement: FileReplacement) -> Result<()> {
        let removed = {
            let endpoints = &mut balancer.settings.lock().unwrap().endpoints;
            let position = self.rng.usize(..endpoints.len());
            endpoints.remove(position)
        };
        balancer.write(replacement)?;
        self.setup.timeline.remove_endpoint(&balancer.name, removed);
        Ok(())
    }

    /// Adds a removed load balancer again. Clients connect once it has served a connection.
    fn add_object(&mut self, balancer: Arc<LoadBalancer>, replacement: FileReplacement) -> Result<()> {
        balancer.settings.lock().unwrap().is_removed = false;
        balancer.write(replacement)?;
        let (clients, setup, mut rng) = (self.clients.clone(), self.setup.clone(), self.rng.fork());
        self.restoring.spawn(async move {
            let (deadline, stop) = (Instant::now() + SERVICE_TIMEOUT, CancellationToken::new());
            while clients.visit(&balancer, ClientKind::Short, &mut rng, &stop).await.ok() != Some(ClientEnd::Complete) {
                if Instant::now() > deadline {
                    return setup.failures.add(&format!("{}: not served after it was added", balancer.name));
                }
                sleep(Duration::from_millis(20)).await;
            }
            balancer.restore();
        });
        Ok(())
    }

    fn invalidate(&mut self, balancer: Arc<LoadBalancer>, replacement: FileReplacement) -> Result<()> {
        let manifest = balancer.manifest();
        match self.rng.u8(..4) {
            0 => balancer.write_invalid("apiVersion: [", replacement)?,
            1 => balancer.write_invalid(&format!("{manifest}  unknownField: 1\n"), replacement)?,
            2 if balancer.is_tls() => balancer.write_invalid_certificate(replacement)?,
            _ => balancer.write_invalid(&manifest.replace("algorithm: ", "algorithm: No"), replacement)?,
        }
        self.invalid = Some(balancer);
        Ok(())
    }

    fn repair(&mut self, balancer: &LoadBalancer, replacement: FileReplacement) -> Result<()> {
        if balancer.is_tls() {
            balancer.rotate_certificate(&self.setup.authority, replacement)?;
        }
        balancer.write(replacement)
    }
}
