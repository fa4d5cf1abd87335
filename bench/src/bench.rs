//! The constant environment of a command: programs, certificates, backends, and a temporary folder.

use std::{env, fs, path::PathBuf};

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    axes::{AXES, ONE_WORKER, Way, Work},
    backend::{Backends, Opening, local},
    contender::{Contender, OURS, Program, Programs, certificates::Certificates},
    machine::{Machine, revision},
    results::Run,
};

pub struct Bench {
    pub programs: Programs,
    pub folder: PathBuf,
    pub certificates: Certificates,
    pub backends: Backends,
}

impl Bench {
    pub fn prepare() -> Result<Self> {
        raise_descriptor_limit()?;
        let folder = env::current_exe()?.with_file_name("bench-run");
        fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        let certificates = Certificates::write(&folder)?;
        Ok(Self { programs: Programs::find()?, folder, certificates, backends: backends()? })
    }

    /// A contender for comparisons: with one worker, and without a log, because some programs have none.
    pub fn usual(&self, program: Program) -> Option<Contender> {
        let (_, path, _) = self.programs.found.iter().find(|(found, ..)| *found == program)?;
        let contender = Contender::usual(program, path.clone());
        Some(match contender.name {
            OURS => Contender { arguments: ONE_WORKER, ..contender },
            _ => contender,
        })
    }

    /// tcplb in one of several ways.
    pub fn ours(&self, way: &Way) -> Option<Contender> {
        let Way { name, configuration, arguments, cores } = *way;
        Some(Contender { name, configuration, arguments, cores, ..self.usual(Program::Tcplb)? })
    }

    pub fn describe(&self, wants: impl Fn(Program) -> bool) -> Run {
        let (taken, unwanted): (Vec<_>, Vec<_>) = self.programs.found.iter().partition(|(program, ..)| wants(*program));
        let absent = self.programs.absent.iter().chain(unwanted.iter().map(|(program, ..)| program));
        Run {
            machine: Machine::this(),
            revision: revision(),
            versions: taken.iter().map(|(program, _, version)| (program.name().to_owned(), version.clone())).collect(),
            left_out: absent.map(|program| program.name().into()).collect(),
        }
    }
}

/// Raises the limit to its maximum. Contenders inherit it.
pub fn raise_descriptor_limit() -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// The backends of all configurations.
fn backends() -> Result<Backends> {
    let mut backends = Backends::new();
    for port in 28301..=28303 {
        backends.add(local([127, 0, 0, 1], port), Opening::None)?;
        backends.add(local([127, 0, 0, 1], port + 10), Opening::ProxyV2)?;
    }
    for axis in AXES {
        if let Work::Change(many) = axis.work {
            many.add_backends(&mut backends)?;
        }
    }
    Ok(backends)
}
