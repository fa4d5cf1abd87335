//! The tar.gz file of a bundle. Everything that is written has been redacted.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use flate2::{Compression, write::GzEncoder};
use serde_json::Value;
use tar::{Builder, EntryType, Header};

use super::{names::NameHasher, redact, secrets::SecretTexts};

/// An archive that is being written. All its files are in one folder.
pub struct Archive<W: Write> {
    builder: Builder<GzEncoder<W>>,
    folder: String,
    /// The time of all files, in Unix time.
    time: u64,
    /// The names to be hashed. `None`: names stay.
    names: Option<NameHasher>,
    secrets: SecretTexts,
}

/// The file of an incomplete archive, `FILE.part`. It is removed on drop, unless it has been completed.
#[derive(Debug)]
pub struct PartFile {
    part: PathBuf,
    path: PathBuf,
}

impl PartFile {
    /// Gives the file its name.
    pub fn complete(self) -> anyhow::Result<()> {
        refuse_existing(&self.path)?;
        let renamed = fs::rename(&self.part, &self.path);
        renamed.with_context(|| format!("cannot rename {} to {}", self.part.display(), self.path.display()))
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        // A completed file no longer has this name.
        let _ = fs::remove_file(&self.part);
    }
}

/// Creates the file for an archive, which only the user can read. `-`: standard output.
pub fn create(path: &Path) -> anyhow::Result<(Box<dyn Write>, Option<PartFile>)> {
    if path == Path::new("-") {
        let output: Box<dyn Write> = Box::new(io::stdout());
        return Ok((output, None));
    }
    refuse_existing(path)?;
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    // An interrupted run leaves its file.
    let _ = fs::remove_file(&part);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
    let file = file.with_context(|| format!("cannot create {}: write another name with --output", part.display()))?;
    let output: Box<dyn Write> = Box::new(io::BufWriter::new(file));
    Ok((output, Some(PartFile { part, path: path.to_owned() })))
}

/// # Errors
/// If the file exists: archives are not overwritten.
pub fn refuse_existing(path: &Path) -> anyhow::Result<()> {
    if path != Path::new("-") && path.symlink_metadata().is_ok() {
        bail!("cannot create {}: it exists: write another name with --output", path.display());
    }
    Ok(())
}

impl<W: Write> Archive<W> {
    pub fn new(output: W, folder: &str, time: u64, names: Option<NameHasher>, secrets: SecretTexts) -> Self {
        let builder = Builder::new(GzEncoder::new(output, Compression::default()));
        Self { builder, folder: folder.to_owned(), time, names, secrets }
    }

    /// Adds a document.
    pub fn json(&mut self, path: &str, value: Value) -> io::Result<()> {
        let mut value = redact::object(value);
        self.secrets.json(&mut value);
        if let Some(names) = &self.names {
            names.json(&mut value);
        }
        let text = serde_json::to_string_pretty(&value).unwrap_or_default() + "\n";
        self.file(path, &redact::text(&text))
    }

    /// Adds a list of objects.
    pub fn objects(&mut self, path: &str, objects: Vec<Value>) -> io::Result<()> {
        self.json(path, objects.into_iter().map(redact::object).collect())
    }

    pub fn text(&mut self, path: &str, text: &str) -> io::Result<()> {
        let text = self.secrets.text(&redact::text(text));
        match self.names.as_ref().map(|names| names.text(&text)) {
            Some(hashed) => self.file(path, &hashed),
            None => self.file(path, &text),
        }
    }

    fn file(&mut self, path: &str, text: &str) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.time);
        let path = match &self.names {
            Some(names) => format!("{}/{}", self.folder, names.text(path)),
            None => format!("{}/{path}", self.folder),
        };
        self.builder.append_data(&mut header, path, text.as_bytes())
    }

    pub fn finish(self) -> io::Result<W> {
        let mut output = self.builder.into_inner()?.finish()?;
        output.flush()?;
        Ok(output)
    }
}

/// The files of an archive.
#[cfg(test)]
pub fn unpacked(archive: &[u8]) -> std::collections::BTreeMap<String, String> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(archive));
    let files = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut text = String::new();
        io::Read::read_to_string(&mut entry, &mut text).unwrap();
        (path, text)
    });
    files.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_archive_contains_redacted_files_in_one_folder() {
        let key = "-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY-----";
        let secret = json!({"kind": "Secret", "data": {"key": "hunter2"}});
        let mut archive = Archive::new(Vec::new(), "bundle", 1_800_000_000, None, SecretTexts::default());
        archive.json("a/secret.json", secret.clone()).unwrap();
        archive.objects("a/list.json", vec![secret, json!({"kind": "Pod"})]).unwrap();
        archive.json("a/key.json", json!({"message": key})).unwrap();
        archive.text("log.txt", &format!("shop {key}\n")).unwrap();
        let files = unpacked(&archive.finish().unwrap());
        assert_eq!(files["bundle/a/secret.json"], "\"<removed>\"\n");
        assert_eq!(files["bundle/a/list.json"], "[\n  \"<removed>\",\n  {\n    \"kind\": \"Pod\"\n  }\n]\n");
        assert_eq!(files["bundle/a/key.json"], "{\n  \"message\": \"<removed>\"\n}\n");
        assert_eq!(files["bundle/log.txt"], "shop <removed>\n");
    }

    #[test]
    fn names_in_paths_and_contents_are_hashed() {
        let mut names = NameHasher::new().unwrap();
        names.add("shop");
        let shop = names.hash("shop");
        let mut archive = Archive::new(Vec::new(), "bundle", 0, Some(names), SecretTexts::default());
        archive.text("namespaces/shop/log.txt", "shop/pg").unwrap();
        let files = unpacked(&archive.finish().unwrap());
        assert_eq!(files[&format!("bundle/namespaces/{shop}/log.txt")], format!("{shop}/pg"));
    }

    #[test]
    fn texts_of_checks_are_removed_before_names_are_hashed() {
        let (mut names, mut secrets) = (NameHasher::new().unwrap(), SecretTexts::default());
        names.add("shop");
        let shop = names.hash("shop");
        secrets.add_checks(&json!({"expect": {"text": "shop/hunter2"}}));
        let mut archive = Archive::new(Vec::new(), "bundle", 0, Some(names), secrets);
        archive.json("a.json", json!({"message": "shop: got shop/hunter2"})).unwrap();
        archive.text("log.txt", "shop: got shop/hunter2").unwrap();
        let files = unpacked(&archive.finish().unwrap());
        assert_eq!(files["bundle/a.json"], format!("{{\n  \"message\": \"{shop}: got <removed>\"\n}}\n"));
        assert_eq!(files["bundle/log.txt"], format!("{shop}: got <removed>"));
    }

    #[test]
    fn only_complete_archives_get_the_name_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle.tar.gz");
        let content = || {
            let files = fs::read_dir(folder.path()).unwrap();
            files.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<String>>()
        };

        let (mut output, part) = create(&path).unwrap();
        output.write_all(b"incomplete").unwrap();
        assert_eq!(content(), ["bundle.tar.gz.part"]);
        drop((output, part));
        assert!(content().is_empty());

        fs::write(folder.path().join("bundle.tar.gz.part"), "of an interrupted run").unwrap();
        let (mut output, part) = create(&path).unwrap();
        output.write_all(b"complete").unwrap();
        drop(output);
        part.unwrap().complete().unwrap();
        assert_eq!(content(), ["bundle.tar.gz"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "complete");

        let error = create(&path).err().unwrap().to_string();
        assert!(error.starts_with("cannot create") && error.contains("it exists"), "{error}");
        assert_eq!(content(), ["bundle.tar.gz"]);
    }
}
