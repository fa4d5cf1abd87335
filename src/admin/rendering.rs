use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::upstream::in_place;

/// The number of renderings that can be in progress at a time: metrics, tenant pages, reports, traffic and a list of
/// connections.
pub const MAX_RENDERINGS: usize = 5;

/// Renders one page at a time, while another thread answers probes.
///
/// Rendering the page of a large configuration takes long, and may wait for a lock that the control thread holds.
#[derive(Clone, Debug)]
pub struct Rendering(Arc<Semaphore>);

impl Default for Rendering {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Rendering {
    pub async fn run<T>(&self, render: impl FnOnce() -> T) -> T {
        let _turn = self.turn().await;
        in_place(render)
    }

    /// Waits until no other page is being rendered. Renderings begin in the order of the first polls.
    pub fn turn(&self) -> BoxFuture<'static, Option<OwnedSemaphorePermit>> {
        let semaphore = self.0.clone();
        // The semaphore is never closed.
        Box::pin(async move { semaphore.acquire_owned().await.ok() })
    }
}
