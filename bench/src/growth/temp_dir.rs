//! Temporary folders.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::Result;

/// A temporary folder. Dropping it removes the folder.
pub struct TempDir {
    pub path: PathBuf,
}

impl TempDir {
    pub fn create(name: &str) -> Result<Self> {
        let path = env::temp_dir().join(format!("tcplb-growth-{}-{name}", std::process::id()));
        remove(&path);
        fs::create_dir_all(&path)?;
        Ok(Self { path })
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(folder: &Path) {
    // The folder does not exist yet, or the system removes it later.
    let _ = fs::remove_dir_all(folder);
}
