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

/// The measured commit, with a mark if the working tree has changes.
pub fn revision() -> String {
    let output =
        Command::new("git").args(["describe", "--always", "--dirty"]).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let success = output.ok().filter(|output| output.status.success());
    success.map_or_else(|| "unknown".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
