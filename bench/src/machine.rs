//! The machine and versions of a measurement.

use std::{fs, process::Command};

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Machine {
    pub kernel: String,
    pub cpu: String,
    pub cores: usize,
    pub memory_gib: f64,
}

impl Machine {
    pub fn this() -> Self {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let models: Vec<&str> = cpus.lines().filter_map(|line| line.strip_prefix("model name")).collect();
        let memory = rustix::system::sysinfo();
        Self {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            cpu: models.first().map_or("unknown", |model| model.trim_start_matches([' ', '\t', ':'])).to_owned(),
            cores: cpus.lines().filter(|line| line.starts_with("processor")).count(),
            memory_gib: memory.totalram as f64 * f64::from(memory.mem_unit) / f64::from(1 << 30),
        }
    }
}

/// The files that make the program.
const SOURCES: [&str; 4] = ["--", "src", "Cargo.toml", "Cargo.lock"];

/// The last commit that changes the program, with a mark if the working tree has changes of the program.
pub fn revision() -> String {
    let commit = git(&["log", "-1", "--format=%h"]).unwrap_or_else(|| "unknown".into());
    let changes = git(&["status", "--porcelain"]).unwrap_or_default();
    if changes.is_empty() { commit } else { commit + "-dirty" }
}

fn git(arguments: &[&str]) -> Option<String> {
    let repository = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let output = Command::new("git").args(arguments).args(SOURCES).current_dir(repository).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
