//! The compared programs, each with its arguments.

pub mod certificates;
mod programs;
mod running;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
pub use programs::{OURS, Program, Programs, TlsLibrary, in_path};
pub use running::Running;

use crate::cores;

/// A measured program with its configuration and arguments.
#[derive(Clone, Debug)]
pub struct Contender {
    pub name: &'static str,
    pub program: Program,
    pub path: PathBuf,
    /// The path of its configuration in bench/.
    pub configuration: &'static str,
    /// Additional arguments.
    pub arguments: &'static [&'static str],
    pub cores: &'static [usize],
}

impl Contender {
    /// The contender for comparisons.
    pub fn usual(program: Program, path: PathBuf) -> Self {
        let configuration = match program {
            Program::Tcplb => "tcplb/default.yaml",
            Program::Haproxy(_) => "peers/haproxy.cfg",
            Program::Nginx(_) => "peers/nginx.conf",
            Program::Envoy => "peers/envoy.yaml",
            Program::Traefik => "peers/traefik.yaml",
        };
        Self { name: program.name(), program, path, configuration, arguments: &[], cores: cores::CONTENDER }
    }

    /// Starts it with its own configuration, in a folder with the certificates.
    pub fn start(&self, folder: &Path) -> Result<Running> {
        self.start_under(Vec::new(), folder)
    }

    /// Starts it as an argument of another program.
    pub fn start_under(&self, mut other: Vec<OsString>, folder: &Path) -> Result<Running> {
        let committed = committed(self.configuration);
        let name = committed.file_name().expect("it is a file");
        copy_files(committed.parent().expect("it is in a folder"), folder)?;
        other.extend(self.command(&folder.join(name)));
        Running::start(self.name, &other, folder, self.cores)
    }

    /// Starts it with another configuration.
    pub fn start_with(&self, configuration: &Path, folder: &Path) -> Result<Running> {
        Running::start(self.name, &self.command(configuration), folder, self.cores)
    }

    /// The program and its arguments.
    fn command(&self, configuration: &Path) -> Vec<OsString> {
        let mut command = vec![self.path.clone().into_os_string()];
        command.extend(self.program.arguments(configuration));
        command.extend(self.arguments.iter().map(OsString::from));
        command
    }
}

/// Copies the files of a folder, because a configuration may refer to others.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("{} cannot be read", from.display()))? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))
            .with_context(|| format!("{} cannot be copied", entry.path().display()))?;
    }
    Ok(())
}

/// The path of a committed file in this folder.
pub fn committed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
