//! Reads files of limited size.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

/// Reads a regular file with text of at most `most` bytes.
///
/// # Errors
/// If it cannot be read, is no regular file, is longer (`remedy` says what to do), or is not UTF-8.
pub fn text_of_file(file: &Path, most: u64, remedy: &str) -> io::Result<String> {
    let bytes = bytes_of_file(file, most, remedy)?;
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not text in UTF-8: save it as UTF-8"))
}

/// Reads a regular file of at most `most` bytes.
///
/// # Errors
/// If it cannot be read, is no regular file, or is longer (`remedy` says what to do).
pub fn bytes_of_file(file: &Path, most: u64, remedy: &str) -> io::Result<Vec<u8>> {
    // Opening a pipe could block forever.
    if !fs::metadata(file)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    read_at_most(File::open(file)?, most, remedy)
}

/// Reads to the end, but at most `most` bytes. The beginning of a longer text could mean something else.
///
/// # Errors
/// If it cannot be read or is longer (`remedy` says what to do).
pub fn read_at_most(input: impl Read, most: u64, remedy: &str) -> io::Result<Vec<u8>> {
    // A capacity that is sufficient for most files.
    let mut bytes = Vec::with_capacity(16 << 10);
    input.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        Err(io::Error::other(format!("it has more than {most} bytes: {remedy}")))
    } else {
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, Mode, mkfifoat};

    use super::*;

    #[test]
    fn only_regular_files_are_read_and_no_part_of_a_long_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        let read = |file: &Path| text_of_file(file, 5, "shorten it").map_err(|error| error.to_string());
        assert!(read(&file).unwrap_err().contains("No such file"));
        assert_eq!(read(folder.path()), Err("it is not a file".to_owned()));
        let pipe = folder.path().join("pipe");
        mkfifoat(CWD, pipe.as_path(), Mode::RUSR).unwrap();
        assert_eq!(read(&pipe), Err("it is not a file".to_owned()));
        for (content, expected) in [
            (&b"debug"[..], Ok("debug")),
            (b"debug\n", Err("it has more than 5 bytes: shorten it")),
            (b"d\xff", Err("it is not text in UTF-8: save it as UTF-8")),
        ] {
            fs::write(&file, content).unwrap();
            assert_eq!(read(&file).as_deref().map_err(String::as_str), expected);
        }
    }
}
