use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::upstream::in_place;

/// Renders one page at a time, while another thread answers probes.
///
/// Rendering the page of a large configuration takes long, and may wait for a lock that the control thread holds.
#[derive(Clone, Debug)]
pub struct Rendering(pub Arc<Semaphore>);

impl Default for Rendering {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Rendering {
    pub async fn run<T>(&self, render: impl FnOnce() -> T) -> T {
        // The semaphore is never closed.
        let _turn = self.0.acquire().await;
        in_place(render)
    }
}
