//! Sessions that clients can resume. They contain the certificates of the client, so their size is limited.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustls::server::{ProducesTickets, StoresServerSessions};

/// The largest session, in bytes. A client with a larger one does a full handshake each time.
const MAX_SESSION: usize = 8 << 10;
/// The bytes of a cached session besides its content: its entries in both collections.
const OVERHEAD: usize = 200;

/// A session cache for the clients of one listener that discards the oldest sessions when it is full.
pub(super) struct SessionCache {
    /// In bytes.
    limit: usize,
    sessions: Mutex<CachedSessions>,
}

#[derive(Default)]
struct CachedSessions {
    by_id: HashMap<Arc<[u8]>, Box<[u8]>>,
    /// The identifiers, the oldest first.
    oldest: VecDeque<Arc<[u8]>>,
    bytes: usize,
}

impl SessionCache {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, sessions: Mutex::default() })
    }

    fn sessions(&self) -> MutexGuard<'_, CachedSessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoresServerSessions for SessionCache {
    fn put(&self, id: Vec<u8>, session: Vec<u8>) -> bool {
        if session.len() > MAX_SESSION {
            return false;
        }
        let mut sessions = self.sessions();
        sessions.insert(id.into(), session.into());
        while sessions.bytes > self.limit && sessions.discard_oldest() {}
        true
    }

    fn get(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.sessions().by_id.get(id).map(|session| session.to_vec())
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        let mut sessions = self.sessions();
        let session = sessions.remove(id)?;
        sessions.oldest.retain(|other| **other != *id);
        Some(session.into())
    }

    fn can_cache(&self) -> bool {
        true
    }
}

impl CachedSessions {
    fn insert(&mut self, id: Arc<[u8]>, session: Box<[u8]>) {
        self.bytes += size(&id, &session);
        match self.by_id.insert(id.clone(), session) {
            Some(before) => self.bytes -= size(&id, &before),
            None => self.oldest.push_back(id),
        }
    }

    fn remove(&mut self, id: &[u8]) -> Option<Box<[u8]>> {
        let session = self.by_id.remove(id)?;
        self.bytes -= size(id, &session);
        Some(session)
    }

    /// False if there is no session.
    fn discard_oldest(&mut self) -> bool {
        let Some(id) = self.oldest.pop_front() else { return false };
        self.remove(&id).is_some()
    }
}

fn size(id: &[u8], session: &[u8]) -> usize {
    id.len() + session.len() + OVERHEAD
}

impl fmt::Debug for SessionCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionCache").field("limit", &self.limit).finish_non_exhaustive()
    }
}

/// Issues no tickets for sessions above [`MAX_SESSION`].
#[derive(Debug)]
pub(super) struct LimitedTickets(pub Arc<dyn ProducesTickets>);

impl ProducesTickets for LimitedTickets {
    fn enabled(&self) -> bool {
        self.0.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.0.lifetime()
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        if session.len() > MAX_SESSION { None } else { self.0.encrypt(session) }
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.0.decrypt(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_sessions_have_a_bounded_size_and_the_oldest_are_discarded() {
        let limit = 10 * size(b"0000", &[0; 1000]);
        let cache = SessionCache::new(limit);
        let id = |number: usize| format!("{number:04}").into_bytes();
        for number in 0..100 {
            assert!(cache.put(id(number), vec![b'x'; 1000]));
            assert!(cache.sessions().bytes <= limit);
        }
        let kept = |numbers: std::ops::Range<usize>| numbers.filter(|number| cache.get(&id(*number)).is_some()).count();
        assert_eq!((kept(0..90), kept(90..100)), (0, 10));
        assert!(cache.put(id(100), vec![b'x'; 5000]));
        assert!(kept(90..101) < 7 && cache.get(&id(100)).is_some(), "larger sessions are fewer");

        assert!(!cache.put(id(101), vec![b'x'; MAX_SESSION + 1]));
        assert_eq!(cache.get(&id(101)), None);
        assert!(cache.put(id(100), vec![b'y']));
        assert_eq!(cache.take(&id(100)).as_deref(), Some(&b"y"[..]));
        assert_eq!(cache.take(&id(100)), None);
        while cache.sessions().discard_oldest() {}
        let sessions = cache.sessions();
        assert_eq!((sessions.bytes, sessions.by_id.len(), sessions.oldest.len()), (0, 0, 0));
    }
}
