//! `kubectl tcplb bundle`: an archive for the analysis of a problem. It contains no secrets.

mod archive;
mod gather;
mod names;
mod redact;
mod secrets;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use jiff::Timestamp;

use self::{archive::Archive, gather::BundleSource};
use super::connection::ClusterConnection;
use crate::{cli::BundleFlags, printable::printable};

/// The maximum length of a message about a missing part, in bytes.
const MAX_MESSAGE: usize = 4096;

/// Runs the command. Parts that cannot be read are missing in the archive, and listed in it.
///
/// # Errors
/// If nothing can be read, or the archive cannot be written. With `--hash-names`, if not all names can be read.
pub async fn run(connection: &ClusterConnection, flags: &BundleFlags) -> anyhow::Result<ExitCode> {
    let now = Timestamp::now();
    let folder = format!("tcplb-bundle-{}", now.strftime("%Y%m%dT%H%M%SZ"));
    let path = flags.output.clone().unwrap_or_else(|| PathBuf::from(format!("{folder}.tar.gz")));
    archive::refuse_existing(&path)?;
    let source = BundleSource::read(connection, flags).await?;
    let names = if flags.hash_names { Some(source.names()?) } else { None };
    let seconds = u64::try_from(now.as_second()).unwrap_or_default();
    let (output, part) = archive::create(&path)?;
    let mut archive = Archive::new(output, &folder, seconds, names, source.secrets());
    let missing = gather::write(connection, flags, source, &mut archive).await?;
    archive.finish()?;
    if let Some(part) = part {
        part.complete()?;
    }
    report(&path, &missing)?;
    Ok(ExitCode::SUCCESS)
}

fn report(path: &Path, missing: &[String]) -> io::Result<()> {
    let mut errors = io::stderr().lock();
    for part in missing {
        writeln!(errors, "missing: {}", printable(part, MAX_MESSAGE))?;
    }
    match path == Path::new("-") {
        true => Ok(()),
        false => writeln!(io::stdout(), "{}", path.display()),
    }
}
