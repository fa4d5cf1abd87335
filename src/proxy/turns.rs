use std::{future::poll_fn, pin::pin, rc::Rc, sync::Arc, task::ready};

use tokio::{
    sync::{Notify, Semaphore},
    task::yield_now,
};
use tokio_util::sync::PollSemaphore;

/// Keeps costly work of one worker, such as TLS handshakes, from holding up everything else: only so many steps of it
/// run before all other tasks that are ready have had their turn.
///
/// A step is one poll of the work. Work that waits for its peer takes no turns meanwhile, so peers that say nothing
/// hold up nobody; work that waits for a turn gets it in order.
#[derive(Debug)]
pub struct Turns {
    at_once: usize,
    left: Arc<Semaphore>,
    used_up: Notify,
}

impl Turns {
    pub fn new(at_once: usize) -> Rc<Self> {
        Rc::new(Self { at_once, left: Arc::new(Semaphore::new(at_once)), used_up: Notify::new() })
    }

    /// Runs the work, each step of it in its turn.
    pub async fn run<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        let mut turns = PollSemaphore::new(self.left.clone());
        poll_fn(|cx| {
            if let Some(turn) = ready!(turns.poll_acquire(cx)) {
                turn.forget();
            }
            if self.left.available_permits() == 0 {
                self.used_up.notify_one();
            }
            work.as_mut().poll(cx)
        })
        .await
    }

    /// Gives new turns whenever they are used up and the others had theirs. Never ends: a task of its own.
    pub async fn renew(self: Rc<Self>) {
        loop {
            self.used_up.notified().await;
            yield_now().await;
            self.left.add_permits(self.at_once - self.left.available_permits());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    #[tokio::test]
    async fn others_have_their_turn_between_costly_steps() {
        let log = Rc::new(RefCell::new(String::new()));
        let costly = Turns::new(2);
        let say = |what: char| {
            let log = log.clone();
            async move { log.borrow_mut().push(what) }
        };
        let local = LocalSet::new();
        local
            .run_until(async {
                spawn_local(costly.clone().renew());
                for _ in 0..6 {
                    let (costly, step) = (costly.clone(), say('c'));
                    spawn_local(async move { costly.run(step).await });
                }
                let other = say('o');
                spawn_local(other).await.unwrap();
                while log.borrow().len() < 7 {
                    yield_now().await;
                }
            })
            .await;
        let log = log.borrow();
        let before = log.find('o').unwrap();
        assert!(before <= 2, "{log}: the other task came after more than two costly steps");
        assert_eq!(log.len(), 7, "{log}");
    }

    #[tokio::test]
    async fn work_that_is_given_up_does_not_keep_its_place() {
        let costly = Turns::new(1);
        let local = LocalSet::new();
        let last = async {
            let renewing = costly.clone();
            let run = |costly: &Rc<Turns>| {
                let costly = costly.clone();
                spawn_local(async move { costly.run(async {}).await })
            };
            run(&costly).await.unwrap();
            let given_up: Vec<_> = (0..3).map(|_| run(&costly)).collect();
            let last = run(&costly);
            yield_now().await;
            given_up.iter().for_each(tokio::task::JoinHandle::abort);
            spawn_local(renewing.renew());
            last.await.unwrap();
        };
        let patience = std::time::Duration::from_secs(10);
        tokio::time::timeout(patience, local.run_until(last)).await.expect("the last one has its turn");
    }

    #[tokio::test]
    async fn work_that_waits_takes_no_turns() {
        let costly = Turns::new(1);
        let local = LocalSet::new();
        local
            .run_until(async {
                spawn_local(costly.clone().renew());
                for _ in 0..10 {
                    let costly = costly.clone();
                    spawn_local(async move { costly.run(std::future::pending::<()>()).await });
                }
                let done = {
                    let costly = costly.clone();
                    spawn_local(async move { costly.run(async { 7 }).await })
                };
                assert_eq!(done.await.unwrap(), 7);
            })
            .await;
    }
}
