use super::limits::MAX_V1;

/// Detects a PROXY signature in the first bytes of a client: a backend that trusts this proxy could believe a header
/// that a client forged.
///
/// Bytes may be passed on while the guard is undecided: the beginning of a signature is harmless, and a client that
/// sends no more is not delayed.
#[derive(Clone, Copy, Debug, Default)]
pub struct SignatureGuard {
    first: [u8; V2.len()],
    seen: usize,
}

impl SignatureGuard {
    pub fn new() -> Self {
        Self::default()
    }

    /// Inspects the next bytes of the client, before any of them is passed on.
    pub fn inspect(&mut self, chunk: &[u8]) -> Inspection {
        let taken = chunk.len().min(self.first.len() - self.seen);
        self.first[self.seen..self.seen + taken].copy_from_slice(&chunk[..taken]);
        self.seen += taken;
        match find(&self.first[..self.seen]) {
            Match::Complete(_) => Inspection::Forbidden,
            Match::Partial => Inspection::Undecided,
            Match::None => Inspection::Clean,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inspection {
    /// The chunk completes a signature: nothing of it may be passed on.
    Forbidden,
    /// All bytes so far begin a signature: pass the chunk on and inspect the next one.
    Undecided,
    /// No signature: later bytes need no inspection.
    Clean,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    Complete(Version),
    Partial,
    None,
}

const V1: &[u8; 6] = b"PROXY ";
const V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const _: () = assert!(V1.len() < V2.len() && V2.len() < MAX_V1);

/// Matches `bytes`, the first of a stream, with a signature or its beginning.
pub(super) fn find(bytes: &[u8]) -> Match {
    if bytes.starts_with(V1) {
        Match::Complete(Version::V1)
    } else if bytes.starts_with(V2) {
        Match::Complete(Version::V2)
    } else if V1.starts_with(bytes) || V2.starts_with(bytes) {
        Match::Partial
    } else {
        Match::None
    }
}
