use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::upstream::in_place;

/// Renders pages one at a time, and lets another thread answer probes while it does.
///
/// A page of a large configuration takes long to render, and may wait for a lock that control work holds.
#[derive(Clone, Debug)]
pub struct Rendering(Arc<Semaphore>);

impl Default for Rendering {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Rendering {
    pub async fn run<T>(&self, render: impl FnOnce() -> T) -> T {
        // It is never closed.
        let _turn = self.0.acquire().await;
        in_place(render)
    }
}
