//! Pages that requests share. The memory of pages does not grow with the number of clients that do not read them.

#[cfg(test)]
mod tests;

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, Bytes, HttpBody};
use futures::future::BoxFuture;
use hyper::body::{Frame, SizeHint};
use tokio::{
    sync::{Mutex as AsyncMutex, OnceCell, OwnedSemaphorePermit},
    time::Instant,
};
use tracing::warn;

use super::rendering::Rendering;
use crate::{log_limit::LogLimiter, upstream::in_place};

/// The maximum time between the start of a rendering and a request that gets its page.
const MAX_AGE: Duration = Duration::from_secs(1);
/// The number of pages of any size that clients can read at a time.
const MAX_PAGES: usize = 4;
/// The size of pages up to which clients can read any number of them, in bytes.
const MAX_BYTES: usize = 16 << 20;
/// The maximum size of a part of a page that is copied for a connection, in bytes.
pub const CHUNK: usize = 32 << 10;

/// Renders pages, and shares each of them between the requests with its key.
///
/// A request gets the page that others wait for or are still reading, unless its rendering began too early. A page is
/// freed when all of its requests are answered. If clients hold too many pages, the oldest one is discarded, and its
/// clients are disconnected.
#[derive(Debug)]
pub struct SharedPages<K> {
    rendering: Rendering,
    /// The pages with requests, the newest last.
    pages: Mutex<Vec<(K, Weak<SharedPage>)>>,
    log: LogLimiter,
}

impl<K: PartialEq> Default for SharedPages<K> {
    fn default() -> Self {
        Self::new(Rendering::default())
    }
}

impl<K: PartialEq> SharedPages<K> {
    pub fn new(rendering: Rendering) -> Self {
        Self { rendering, pages: Mutex::default(), log: LogLimiter::new() }
    }

    /// The page for a request with this key. `render` is called unless another request has rendered it.
    pub async fn page(&self, key: K, render: impl FnOnce() -> String) -> Body {
        let page = self.join(key);
        let shared = &page;
        let rendered = async move {
            let mut place = shared.place.lock().await;
            let _turn = place.get_or_insert_with(|| self.rendering.turn()).await;
            *place = None;
            in_place(|| {
                self.make_room();
                // It stays the same if the rendering panics and another request repeats it.
                shared.begun.get_or_init(Instant::now);
                PageText::new(render())
            })
        };
        page.text.get_or_init(|| rendered).await;
        Body::new(PageBody { page, position: 0 })
    }

    /// The newest page with this key if it is fresh, or a new one.
    fn join(&self, key: K) -> Arc<SharedPage> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.retain(|(_, page)| page.strong_count() > 0);
        let mut same = pages.iter().rev().filter(|(other, _)| *other == key);
        let fresh = same.find_map(|(_, page)| page.upgrade().filter(|page| page.is_fresh()));
        fresh.unwrap_or_else(|| {
            let page = Arc::<SharedPage>::default();
            pages.push((key, Arc::downgrade(&page)));
            page
        })
    }

    /// Discards the oldest pages if there is no room for another one.
    fn make_room(&self) {
        let held = self.held();
        let (mut count, mut bytes) = (held.len(), held.iter().map(|page| page.bytes()).sum::<usize>());
        for page in held {
            if count < MAX_PAGES || bytes <= MAX_BYTES {
                return;
            }
            (count, bytes) = (count - 1, bytes.saturating_sub(page.bytes()));
            page.discard();
            if self.log.allow() {
                // One reference is that of this function.
                let clients = Arc::strong_count(&page) - 1;
                warn!(
                    clients,
                    "disconnecting clients that read a page of the admin address too slowly, because there are newer \
                     pages: allow only known clients to connect to --admin (chart: networkPolicy.enabled), or reduce \
                     the size of /metrics with --endpoint-metrics off"
                );
            }
        }
    }

    /// The rendered pages, the oldest first.
    fn held(&self) -> Vec<Arc<SharedPage>> {
        let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.iter().filter_map(|(_, page)| page.upgrade()).filter(|page| page.bytes() > 0).collect()
    }
}

/// A page for the requests that wait for it or read it. Dropping the last reference frees it.
#[derive(Default)]
struct SharedPage {
    /// The place among the pages that wait to be rendered. It outlives the request that waits in it.
    place: AsyncMutex<Option<BoxFuture<'static, Option<OwnedSemaphorePermit>>>>,
    /// The start of the rendering.
    begun: OnceLock<Instant>,
    text: OnceCell<PageText>,
}

impl SharedPage {
    /// True if a request that arrives now may get it.
    fn is_fresh(&self) -> bool {
        self.begun.get().is_none_or(|begun| begun.elapsed() <= MAX_AGE)
            && self.text.get().is_none_or(|text| text.kept().is_some())
    }

    /// The size for the client, also of a discarded page.
    fn length(&self) -> usize {
        self.text.get().map_or(0, |text| text.length)
    }

    /// The size in memory. It is zero before the rendering and after the page was discarded.
    fn bytes(&self) -> usize {
        self.text.get().map_or(0, |text| text.kept().as_ref().map_or(0, String::len))
    }

    fn discard(&self) {
        if let Some(text) = self.text.get() {
            text.kept().take();
        }
    }

    /// A copy of the part at this position. `None`: the page was discarded, or ends before.
    fn chunk(&self, position: usize) -> Option<Bytes> {
        let kept = self.text.get()?.kept();
        let rest = kept.as_ref()?.as_bytes().get(position..)?;
        rest.chunks(CHUNK).next().map(Bytes::copy_from_slice)
    }
}

struct PageText {
    length: usize,
    /// `None`: discarded.
    kept: Mutex<Option<String>>,
}

impl PageText {
    fn new(text: String) -> Self {
        Self { length: text.len(), kept: Mutex::new(Some(text)) }
    }

    fn kept(&self) -> MutexGuard<'_, Option<String>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rest of a page for one request. The connection gets small copies, so a discarded page is freed at once, also
/// while its clients do not read.
struct PageBody {
    page: Arc<SharedPage>,
    position: usize,
}

impl HttpBody for PageBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.position >= this.page.length() {
            return Poll::Ready(None);
        }
        let Some(chunk) = this.page.chunk(this.position) else {
            return Poll::Ready(Some(Err(io::Error::other("the page was discarded"))));
        };
        this.position += chunk.len();
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.position >= self.page.length()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.page.length().saturating_sub(self.position) as u64)
    }
}
