use std::{future, time::Duration};

use tokio::time::{Instant, sleep_until};

/// Combines changes. The first one is due at once. Later ones are due after 50 ms without a change, and at the latest ten
/// times the duration of the last action (50 to 500 ms; 500 ms if unknown) after the first of them.
#[derive(Debug, Default)]
pub struct Settle {
    waiting: Option<PendingChange>,
    acted: Option<Instant>,
    /// The duration of the last action, if known.
    last_duration: Option<Duration>,
}

#[derive(Debug)]
struct PendingChange {
    since: Instant,
    due: Instant,
}

impl Settle {
    const QUIET: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_millis(500);

    /// Records a change at the current time.
    pub fn note(&mut self) {
        let now = Instant::now();
        let longest =
            self.last_duration.map_or(Self::LONGEST, |duration| (duration * 10).clamp(Self::QUIET, Self::LONGEST));
        match &mut self.waiting {
            None => {
                let follows = self.acted.is_some_and(|acted| now < acted + Self::QUIET);
                self.waiting = Some(PendingChange { since: now, due: if follows { now + Self::QUIET } else { now } });
            }
            // A change is often reported twice. A reading that is already due covers all changes until then.
            Some(waiting) if waiting.due <= now => {}
            Some(waiting) => waiting.due = (now + Self::QUIET).min(waiting.since + longest),
        }
    }

    /// Records the duration of the last action.
    pub fn record_duration(&mut self, duration: Duration) {
        self.last_duration = Some(duration);
    }

    /// Waits until the recorded changes are due, forever if there are none. Cancel safe.
    pub async fn due(&mut self) {
        match &self.waiting {
            Some(waiting) => sleep_until(waiting.due).await,
            None => future::pending().await,
        }
        self.waiting = None;
        self.acted = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    /// The time until the recorded changes are due, in milliseconds.
    async fn wait(settle: &mut Settle) -> u128 {
        let start = Instant::now();
        settle.due().await;
        start.elapsed().as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_change_is_acted_on_at_once_and_its_followers_together() {
        let mut settle = Settle::default();
        settle.note();
        assert_eq!(wait(&mut settle).await, 0);

        advance(Duration::from_millis(10)).await;
        settle.note();
        advance(Duration::from_millis(30)).await;
        settle.note();
        assert_eq!(wait(&mut settle).await, 50);

        advance(Duration::from_millis(50)).await;
        settle.note();
        assert_eq!(wait(&mut settle).await, 0, "a change after a quiet while is a first one again");
    }

    #[tokio::test(start_paused = true)]
    async fn further_changes_do_not_delay_a_due_change() {
        let mut settle = Settle::default();
        settle.note();
        settle.note();
        assert_eq!(wait(&mut settle).await, 0, "a change that is told twice");

        settle.note();
        advance(Duration::from_millis(50)).await;
        settle.note();
        assert_eq!(wait(&mut settle).await, 0, "a follower that has waited long enough");
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_acted_on_twice() {
        let (mut settle, mut acted) = (Settle::default(), 0);
        // A change each millisecond, until some time after the last one.
        for millisecond in 0..500 {
            if millisecond < 400 {
                settle.note();
            }
            tokio::select! {
                biased;
                () = settle.due() => acted += 1,
                () = tokio::time::sleep(Duration::from_millis(1)) => continue,
            }
            advance(Duration::from_millis(1)).await;
        }
        assert_eq!(acted, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn changes_without_end_are_acted_on_after_half_a_second() {
        let mut settle = Settle::default();
        settle.note();
        settle.due().await;
        let start = Instant::now();
        settle.note();
        for _ in 0..100 {
            tokio::select! {
                biased;
                () = settle.due() => break,
                () = tokio::time::sleep(Duration::from_millis(20)) => settle.note(),
            }
        }
        assert_eq!(start.elapsed().as_millis(), 500);
    }

    #[tokio::test(start_paused = true)]
    async fn changes_without_end_are_acted_on_sooner_while_actions_take_little_time() {
        for (took, expected) in [(1, 50), (20, 200), (90, 500)] {
            let mut settle = Settle::default();
            settle.note();
            settle.due().await;
            settle.record_duration(Duration::from_millis(took));
            let start = Instant::now();
            settle.note();
            loop {
                tokio::select! {
                    biased;
                    () = settle.due() => break,
                    () = tokio::time::sleep(Duration::from_millis(20)) => settle.note(),
                }
            }
            assert_eq!(start.elapsed().as_millis(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_change_nothing_is_due() {
        let mut settle = Settle::default();
        assert!(tokio::time::timeout(Duration::from_secs(3600), settle.due()).await.is_err());
    }
}
