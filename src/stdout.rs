//! Standard output of commands.

use std::io::{self, Write};

/// Prints a text. Without a terminal, or with `NO_COLOR`, its colours are removed. `false`: the reader has closed the
/// output.
///
/// # Errors
/// If the output cannot be written for another reason.
pub fn print(text: &str) -> io::Result<bool> {
    match anstream::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true),
    }
}
