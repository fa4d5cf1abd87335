use std::{
    io,
    sync::{Arc, OnceLock},
};

use crate::upstream::dial::is_local;

/// The first shortage of this host that the socket of a probe reported, as an error code. HTTP and TLS libraries do not
/// always pass the code on.
#[derive(Clone, Default)]
pub(super) struct ShortageRecord(Arc<OnceLock<i32>>);

impl ShortageRecord {
    /// Records a shortage, and returns the error.
    pub fn recorded(&self, error: io::Error) -> io::Error {
        if is_local(&error)
            && let Some(code) = error.raw_os_error()
        {
            let _ = self.0.set(code);
        }
        error
    }

    /// The recorded shortage; [`is_local`] recognises it.
    pub fn error(&self) -> Option<io::Error> {
        self.0.get().map(|code| io::Error::from_raw_os_error(*code))
    }
}
