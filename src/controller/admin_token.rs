//! The token that the leader sends to the admin pages of replicas.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use hyper::header::HeaderValue;
use tokio::task::spawn_blocking;

use crate::source::text_of_file;

/// The maximum length of the file, in bytes.
const MAX_FILE: u64 = 16 << 10;

/// A file with a token. It is read for each request, because Kubernetes replaces it before the token expires. Without a
/// file, requests have no token.
#[derive(Clone, Debug, Default)]
pub struct AdminToken(Option<Arc<Path>>);

impl AdminToken {
    pub fn in_file(path: Option<PathBuf>) -> Self {
        Self(path.map(Into::into))
    }

    /// The value of the header `Authorization`. `None`: there is no file.
    ///
    /// # Errors
    /// A sentence, if the file cannot be read or has no token.
    pub async fn authorization(&self) -> Result<Option<HeaderValue>, String> {
        let Some(path) = self.0.clone() else { return Ok(None) };
        let file = path.clone();
        let read = spawn_blocking(move || text_of_file(&file, MAX_FILE, "write only the token into it"))
            .await
            .map_err(io::Error::other)
            .flatten();
        let failure = |error: &dyn std::fmt::Display| format!("the token file {} {error}", path.display());
        let text = read.map_err(|error| failure(&format_args!("cannot be read: {error}")))?;
        let header = HeaderValue::try_from(format!("Bearer {}", text.trim()));
        // The error does not quote the token.
        let mut header = header.map_err(|_| failure(&"has no token"))?;
        if text.trim().is_empty() {
            return Err(failure(&"is empty"));
        }
        header.set_sensitive(true);
        Ok(Some(header))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_replaced_token_is_read_for_the_next_request() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let token = AdminToken::in_file(Some(path.clone()));
        assert!(token.authorization().await.unwrap_err().contains("cannot be read"));
        for content in ["first", "second\n"] {
            fs::write(&path, content).unwrap();
            let header = token.authorization().await.unwrap().unwrap();
            assert_eq!(header.to_str().unwrap(), format!("Bearer {}", content.trim()));
            assert!(header.is_sensitive() && !format!("{header:?}").contains(content.trim()));
        }
        for (content, expected) in [("", "is empty"), (" \n", "is empty"), ("se\ncret", "has no token")] {
            fs::write(&path, content).unwrap();
            let error = token.authorization().await.unwrap_err();
            assert!(error.ends_with(expected) && !error.contains("cret"), "{error}");
        }
        fs::write(&path, "x".repeat(20_000)).unwrap();
        let error = token.authorization().await.unwrap_err();
        assert!(
            error.ends_with("cannot be read: it has more than 16384 bytes: write only the token into it"),
            "{error}"
        );
        let no_file = AdminToken::in_file(Some(folder.path().to_owned()));
        assert!(no_file.authorization().await.unwrap_err().ends_with("cannot be read: it is not a file"));
        assert_eq!(AdminToken::default().authorization().await, Ok(None));
    }
}
