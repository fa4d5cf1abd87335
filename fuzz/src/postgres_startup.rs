use futures::FutureExt;
use tcplb::proxy::{
    fuzzing::PrefixedIo,
    postgres::{self, PostgresStartup, StartupError},
};

use crate::stream::Script;

/// An SSLRequest, a GSSENCRequest and a StartupMessage or CancelRequest of the longest lengths.
const MAX_READ: usize = 8 + 8 + 10_000;

/// The first messages of PostgreSQL sessions: reading is bounded, each request is answered once, and a session starts
/// only if no plaintext follows the SSLRequest.
pub fn postgres_startup(data: &[u8]) {
    let Some((&seed, bytes)) = data.split_first() else { return };
    let (prefix, bytes) =
        if seed & 1 == 1 { bytes.split_at(usize::from(seed >> 1) % (bytes.len() + 1)) } else { (&[][..], bytes) };
    let script = Script::new(bytes, &[1 + usize::from(seed >> 3)]);
    let is_silent = seed & 2 == 2;
    let mut client = PrefixedIo::new(prefix.to_vec(), if is_silent { script.then_silent() } else { script });
    let outcome = postgres::open(&mut client).now_or_never();
    let script = client.get_mut();
    assert!(prefix.len() + bytes.len() - script.unread.len() <= MAX_READ + prefix.len(), "reading is not bounded");
    let answer = &*script.written;
    match outcome {
        None => assert!(is_silent && script.unread.is_empty() && [&b""[..], b"N"].contains(&answer)),
        Some(Ok(PostgresStartup::AskedForTls)) => assert!([&b"S"[..], b"NS"].contains(&answer)),
        Some(Err(StartupError::Unencrypted)) => {
            let refusal = answer.strip_prefix(b"N").unwrap_or(answer);
            assert!(refusal.starts_with(b"E") && refusal.len() < 200);
        }
        Some(Ok(PostgresStartup::DirectTls | PostgresStartup::Cancel(_)) | Err(_)) => {
            assert!([&b""[..], b"N"].contains(&answer))
        }
    }
}
