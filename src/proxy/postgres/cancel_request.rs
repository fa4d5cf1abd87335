use std::fmt;

/// A request to cancel a query: the whole message, with the key of a session.
pub struct CancelRequest(pub Vec<u8>);

impl fmt::Debug for CancelRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelRequest").finish_non_exhaustive()
    }
}
