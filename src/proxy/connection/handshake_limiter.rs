use std::{future::poll_fn, pin::pin, rc::Rc, sync::Arc, task::ready};

use tokio::{
    sync::{Notify, Semaphore},
    task::yield_now,
};
use tokio_util::sync::PollSemaphore;

/// Keeps CPU-intensive work of one worker, such as TLS handshakes, from delaying other tasks: only a bounded number of
/// its steps run before all other ready tasks have been polled.
///
/// A step is one poll of the work. Work that waits for its peer takes no steps, so silent peers delay no other work.
/// Work that waits for a step gets it in order.
#[derive(Debug)]
pub struct HandshakeLimiter {
    at_once: usize,
    left: Arc<Semaphore>,
    used_up: Notify,
}

impl HandshakeLimiter {
    pub fn new(at_once: usize) -> Rc<Self> {
        Rc::new(Self { at_once, left: Arc::new(Semaphore::new(at_once)), used_up: Notify::new() })
    }

    /// Runs the work, with a permit for each step.
    pub async fn run<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        let mut limiter = PollSemaphore::new(self.left.clone());
        poll_fn(|cx| {
            if let Some(turn) = ready!(limiter.poll_acquire(cx)) {
                turn.forget();
            }
            if self.left.available_permits() == 0 {
                self.used_up.notify_one();
            }
            work.as_mut().poll(cx)
        })
        .await
    }

    /// Adds permits whenever they are used up and the other tasks have been polled. Never ends: spawn it as a task.
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
    use std::{
        cell::{Cell, RefCell},
        collections::VecDeque,
        pin::Pin,
        sync::Mutex,
        task::{Context, Poll, Wake, Waker},
    };

    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    #[tokio::test]
    async fn other_tasks_run_between_costly_steps() {
        let log = Rc::new(RefCell::new(String::new()));
        let costly = HandshakeLimiter::new(2);
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
    async fn cancelled_work_does_not_keep_its_place() {
        let costly = HandshakeLimiter::new(1);
        let local = LocalSet::new();
        let last = async {
            let renewing = costly.clone();
            let run = |costly: &Rc<HandshakeLimiter>| {
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

    /// Tasks to poll, in the order in which they were woken, as in the runtime.
    type Queue = Arc<Mutex<VecDeque<usize>>>;

    struct Task {
        number: usize,
        queue: Queue,
    }

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            let mut queue = self.queue.lock().unwrap();
            if !queue.contains(&self.number) {
                queue.push_back(self.number);
            }
        }
    }

    #[test]
    fn steps_are_bounded_between_renewals_and_all_work_is_done() {
        const AT_ONCE: usize = 3;
        const RENEWAL: usize = 0;
        for (seed, some_go) in (0..2000).zip([false, true].into_iter().cycle()) {
            let random = Rc::new(RefCell::new(fastrand::Rng::with_seed(seed)));
            let (costly, steps) = (HandshakeLimiter::new(AT_ONCE), Rc::new(Cell::new(0)));
            // Work whose peers have not answered yet.
            let peers: Rc<RefCell<Vec<Waker>>> = Rc::default();
            let work = |mut left: u32| -> Pin<Box<dyn Future<Output = ()>>> {
                let (costly, steps, peers, random) = (costly.clone(), steps.clone(), peers.clone(), random.clone());
                Box::pin(async move {
                    let work = poll_fn(|cx| {
                        steps.set(steps.get() + 1);
                        left -= 1;
                        match random.borrow_mut().bool() {
                            true => cx.waker().wake_by_ref(),
                            false => peers.borrow_mut().push(cx.waker().clone()),
                        }
                        if left == 0 { Poll::Ready(()) } else { Poll::Pending }
                    });
                    costly.run(work).await;
                })
            };
            let count = random.borrow_mut().usize(1..9);
            let mut tasks: Vec<_> = (0..count).map(|_| Some(work(random.borrow_mut().u32(1..6)))).collect();
            tasks.insert(RENEWAL, Some(Box::pin(costly.clone().renew())));
            let queue: Queue = Arc::new(Mutex::new((0..tasks.len()).collect()));
            while tasks.iter().skip(1).any(Option::is_some) {
                let answering = random.borrow_mut().usize(..10);
                if answering < peers.borrow().len() {
                    peers.borrow_mut().swap_remove(answering).wake();
                }
                let next = queue.lock().unwrap().pop_front();
                let Some(number) = next else {
                    let peer = peers.borrow_mut().pop();
                    peer.unwrap_or_else(|| panic!("seed {seed}: work is left, and nothing wakes it")).wake();
                    continue;
                };
                // Some clients disconnect. The permit of such a client may then be used by another task, beyond the
                // bound.
                if some_go && number != RENEWAL && random.borrow_mut().u8(..20) == 0 {
                    tasks[number] = None;
                }
                let Some(task) = &mut tasks[number] else { continue };
                let waker = Waker::from(Arc::new(Task { number, queue: queue.clone() }));
                if number == RENEWAL {
                    steps.set(0);
                }
                if task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                    tasks[number] = None;
                }
                assert!(some_go || steps.get() <= AT_ONCE, "seed {seed}: {} steps", steps.get());
            }
        }
    }

    #[tokio::test]
    async fn waiting_work_takes_no_permits() {
        let costly = HandshakeLimiter::new(1);
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
