use std::{
    iter::zip,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use axum::body::to_bytes;
use futures::future::{join_all, ready};
use tokio::time::advance;

use super::*;

const CLIENTS: usize = 8;

impl<K: PartialEq> SharedPages<K> {
    fn bytes(&self) -> usize {
        self.held().iter().map(|page| page.bytes()).sum()
    }
}

async fn text(body: Body) -> Result<Bytes, axum::Error> {
    to_bytes(body, usize::MAX).await
}

fn pages() -> SharedPages<&'static str> {
    SharedPages::default()
}

/// Polls the future once.
async fn begin(waiting: &mut (impl Future + Unpin)) {
    tokio::select! {
        biased;
        _ = waiting => panic!("it does not wait"),
        () = ready(()) => {}
    }
}

#[tokio::test]
async fn requests_that_wait_share_a_rendering_for_each_key() {
    let (pages, renderings) = (pages(), AtomicUsize::new(0));
    let turn = pages.rendering.turn().await;
    let keys = ["a", "b"].repeat(CLIENTS);
    let requests = keys.iter().map(|&key| {
        let renderings = &renderings;
        pages.page(key, move || {
            renderings.fetch_add(1, Relaxed);
            format!("page {key}")
        })
    });
    let mut requests = Box::pin(join_all(requests));
    begin(&mut requests).await;
    drop(turn);
    for (key, body) in zip(&keys, requests.await) {
        assert_eq!(text(body).await.unwrap(), format!("page {key}"));
    }
    assert_eq!(renderings.load(Relaxed), 2);
    assert_eq!(pages.bytes(), 0, "pages are freed after the last request");
}

#[tokio::test(start_paused = true)]
async fn a_request_gets_no_page_that_is_older_than_the_documented_age() {
    let pages = pages();
    let first = pages.page("a", || "first".into()).await;
    advance(MAX_AGE).await;
    let second = pages.page("a", || "second".into()).await;
    advance(Duration::from_millis(1)).await;
    let third = pages.page("a", || "third".into()).await;
    for (body, expected) in [(first, "first"), (second, "first"), (third, "third")] {
        assert_eq!(body.size_hint().exact(), Some(5));
        assert_eq!(text(body).await.unwrap(), expected);
    }
    let fourth = pages.page("a", || "fourth".into()).await;
    assert_eq!(text(fourth).await.unwrap(), "fourth", "a page without requests is freed");
}

#[tokio::test]
async fn a_page_keeps_its_place_if_the_client_of_the_first_request_leaves() {
    let (pages, renderings) = (pages(), AtomicUsize::new(0));
    let number = || renderings.fetch_add(1, Relaxed).to_string();
    let turn = pages.rendering.turn().await;
    let mut leaves = Box::pin(pages.page("a", number));
    let mut other = Box::pin(pages.page("b", number));
    let mut stays = Box::pin(pages.page("a", number));
    begin(&mut leaves).await;
    begin(&mut other).await;
    begin(&mut stays).await;
    drop(leaves);
    drop(turn);
    let (other, stays) = tokio::join!(other, stays);
    assert_eq!(text(stays).await.unwrap(), "0");
    assert_eq!(text(other).await.unwrap(), "1");
}

#[tokio::test(start_paused = true)]
async fn the_bytes_of_large_pages_do_not_grow_with_the_clients_that_do_not_read() {
    const SIZE: usize = MAX_BYTES / 2;
    for clients in [CLIENTS, 2 * CLIENTS, 4 * CLIENTS] {
        let pages = pages();
        let mut unread = Vec::new();
        for _ in 0..clients {
            unread.push(pages.page("a", || "x".repeat(SIZE)).await);
            assert!(pages.bytes() <= MAX_PAGES * SIZE);
            advance(2 * MAX_AGE).await;
        }
        assert_eq!(pages.bytes(), MAX_PAGES * SIZE, "{clients} clients");
        let (newest, oldest) = (unread.pop().unwrap(), unread.swap_remove(0));
        assert_eq!(text(newest).await.unwrap().len(), SIZE);
        let error = text(oldest).await.unwrap_err().to_string();
        assert!(error.contains("discarded"), "{error}");
        drop(unread);
        assert_eq!(pages.bytes(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn no_client_of_small_pages_is_disconnected() {
    let pages = pages();
    let mut unread = Vec::new();
    for _ in 0..5 * MAX_PAGES {
        unread.push(pages.page("a", || "x".repeat(2 * CHUNK + 1)).await);
        advance(2 * MAX_AGE).await;
    }
    for body in unread {
        assert_eq!(text(body).await.unwrap().len(), 2 * CHUNK + 1);
    }
}
