//! The available programs on this machine, and their commands.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// The name of the program that this benchmark is for.
pub const OURS: &str = "tcplb";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Tcplb,
    Haproxy,
    Nginx,
    Envoy,
}

impl Program {
    pub const ALL: [Self; 4] = [Self::Tcplb, Self::Haproxy, Self::Nginx, Self::Envoy];

    pub fn name(self) -> &'static str {
        match self {
            Self::Tcplb => OURS,
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
            Self::Envoy => "Envoy",
        }
    }

    /// The arguments for one worker in the foreground.
    pub fn arguments(self, configuration: &Path) -> Vec<OsString> {
        let configuration = configuration.as_os_str().to_owned();
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        match self {
            Self::Tcplb => [words(&["standalone", "--admin", "127.0.0.1:28490"]), vec![configuration]].concat(),
            Self::Haproxy => [words(&["-db", "-f"]), vec![configuration]].concat(),
            Self::Nginx => [words(&["-p", ".", "-e", "nginx.err", "-c"]), vec![configuration]].concat(),
            Self::Envoy => {
                let quiet = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"];
                [words(&quiet), vec![configuration]].concat()
            }
        }
    }

    fn find(self) -> Option<PathBuf> {
        let target = env::current_exe().ok()?.parent()?.parent()?.to_path_buf();
        match self {
            Self::Tcplb => Some(target.join("release/tcplb")),
            // The destination of bench/peers/install.
            Self::Envoy => Some(target.join("peers/envoy")),
            Self::Haproxy => in_path("haproxy"),
            // The Debian package of the stream module, which the configuration loads.
            Self::Nginx => {
                in_path("nginx").filter(|_| Path::new("/usr/lib/nginx/modules/ngx_stream_module.so").exists())
            }
        }
        .filter(|path| path.exists())
    }

    fn version(self, path: &Path) -> Result<String> {
        let flag = if matches!(self, Self::Haproxy | Self::Nginx) { "-v" } else { "--version" };
        let output = Command::new(path).arg(flag).output().with_context(|| format!("{} cannot run", path.display()))?;
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} {flag}: {text}", path.display());
        Ok(version_in(&text).unwrap_or_else(|| text.trim().to_owned()))
    }
}

/// The available programs with versions, and the names of missing ones.
pub struct Programs {
    pub found: Vec<(Program, PathBuf, String)>,
    pub absent: Vec<Program>,
}

impl Programs {
    pub fn find() -> Result<Self> {
        let mut programs = Self { found: Vec::new(), absent: Vec::new() };
        for program in Program::ALL {
            match program.find() {
                Some(path) => {
                    let version = program.version(&path)?;
                    programs.found.push((program, path, version));
                }
                None => programs.absent.push(program),
            }
        }
        ensure!(!programs.absent.contains(&Program::Tcplb), "tcplb is not built: run `cargo build --release` first");
        Ok(programs)
    }
}

pub fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|path| path.exists())
}

/// The first word that looks like a version, alone or as a part between slashes.
fn version_in(said: &str) -> Option<String> {
    let looks_like_one = |part: &&str| part.starts_with(|first: char| first.is_ascii_digit()) && part.contains('.');
    said.split([' ', '/', '\n']).find(looks_like_one).map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_the_output_of_programs() {
        for (said, version) in [
            ("tcplb 0.1.0\n", "0.1.0"),
            ("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\n", "2.6.12-1+deb12u4"),
            ("nginx version: nginx/1.22.1\n", "1.22.1"),
            ("envoy  version: 9e5580933739/1.40.0/Clean/RELEASE/BoringSSL\n", "1.40.0"),
        ] {
            assert_eq!(version_in(said).as_deref(), Some(version));
        }
    }
}
