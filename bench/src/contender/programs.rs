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
    Haproxy(TlsLibrary),
    Nginx(TlsLibrary),
    Envoy,
    Traefik,
}

/// The TLS library of a program that can use several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsLibrary {
    OpenSsl,
    AwsLc,
}

impl Program {
    pub const ALL: [Self; 7] = [
        Self::Tcplb,
        Self::Haproxy(TlsLibrary::OpenSsl),
        Self::Haproxy(TlsLibrary::AwsLc),
        Self::Nginx(TlsLibrary::OpenSsl),
        Self::Nginx(TlsLibrary::AwsLc),
        Self::Envoy,
        Self::Traefik,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Tcplb => OURS,
            Self::Haproxy(TlsLibrary::OpenSsl) => "HAProxy",
            Self::Haproxy(TlsLibrary::AwsLc) => "HAProxy AWS-LC",
            Self::Nginx(TlsLibrary::OpenSsl) => "nginx",
            Self::Nginx(TlsLibrary::AwsLc) => "nginx AWS-LC",
            Self::Envoy => "Envoy",
            Self::Traefik => "Traefik",
        }
    }

    /// The name in arguments and of the file in `target/peers`.
    pub fn key(self) -> String {
        self.name().to_lowercase().replace(' ', "-")
    }

    /// The arguments for one worker in the foreground.
    pub fn arguments(self, configuration: &Path) -> Vec<OsString> {
        let words: &[&str] = match self {
            Self::Tcplb => &["standalone", "--admin", "127.0.0.1:28490"],
            Self::Haproxy(_) => &["-db", "-f"],
            Self::Nginx(_) => &["-p", ".", "-e", "nginx.err", "-c"],
            Self::Envoy => &["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"],
            // Go starts one worker, since it finds one core.
            Self::Traefik => &["--configFile"],
        };
        words.iter().map(OsString::from).chain([configuration.as_os_str().to_owned()]).collect()
    }

    /// The path of the optimised tcplb, or of a peer from `bench/peers/install`.
    fn find(self) -> Option<PathBuf> {
        let target = env::current_exe().ok()?.parent()?.parent()?.to_path_buf();
        let path = match self {
            Self::Tcplb => target.join("release").join(OURS),
            _ => target.join("peers").join(self.key()),
        };
        path.exists().then_some(path)
    }

    fn version(self, path: &Path) -> Result<String> {
        let flag = match self {
            Self::Haproxy(_) => "-vv",
            Self::Nginx(_) => "-V",
            Self::Traefik => "version",
            Self::Tcplb | Self::Envoy => "--version",
        };
        let output = Command::new(path).arg(flag).output().with_context(|| format!("{} cannot run", path.display()))?;
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} {flag}: {text}", path.display());
        let version = version_in(&text).unwrap_or_else(|| text.trim().to_owned());
        Ok(match library_in(&text) {
            Some(library) => format!("{version} ({library})"),
            None => version,
        })
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
    env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.exists())
}

/// The first word that looks like a version, alone or as a part between slashes.
fn version_in(said: &str) -> Option<String> {
    said.split([' ', '/', '\n']).find(|part| is_version(part)).map(Into::into)
}

/// The TLS library in use, which a program names last.
fn library_in(said: &str) -> Option<String> {
    let words: Vec<&str> = said.split_whitespace().map(|word| word.trim_matches(['(', ')'])).collect();
    let named = words
        .array_windows()
        .rev()
        .find(|[name, version]| matches!(*name, "OpenSSL" | "AWS-LC") && is_version(version));
    named.map(|[name, version]| format!("{name} {version}"))
}

fn is_version(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_the_output_of_programs() {
        for (said, version) in [
            ("tcplb 0.1.0\n", "0.1.0"),
            ("HAProxy version 3.0.11-1+deb13u4 2026/10/15 - https://haproxy.org/\n", "3.0.11-1+deb13u4"),
            ("nginx version: nginx/1.26.3\nbuilt with OpenSSL 3.5.7 9 Jun 2026\n", "1.26.3"),
            ("envoy  version: 9e5580933739/1.40.0/Clean/RELEASE/BoringSSL\n", "1.40.0"),
            ("Version:      3.7.13\nCodename:     cheddar\nGo version:   go1.26.8\n", "3.7.13"),
        ] {
            assert_eq!(version_in(said).as_deref(), Some(version));
        }
    }

    #[test]
    fn the_library_in_use_is_the_last_one() {
        for (said, library) in [
            ("built with OpenSSL 3.5.7 9 Jun 2026 (running with OpenSSL 3.5.9 29 Sep 2026)", Some("OpenSSL 3.5.9")),
            (
                "Running on OpenSSL version : OpenSSL 1.1.1 (compatible; AWS-LC 5.12.0)\nOpenSSL library supports SNI",
                Some("AWS-LC 5.12.0"),
            ),
            ("tcplb 0.1.0\n", None),
        ] {
            assert_eq!(library_in(said).as_deref(), library);
        }
    }
}
