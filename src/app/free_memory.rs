//! Returns free memory to the system after many connections have closed.

use std::time::Duration;

use tokio::{task::spawn_blocking, time::sleep};

use crate::{memory, proxy::Monitor};

/// The interval at which open connections are counted.
const INTERVAL: Duration = Duration::from_secs(2);
/// The minimum time between two returns, since each one locks the memory of the workers.
const PAUSE: Duration = Duration::from_secs(60);
/// With fewer connections there is little to return.
const FEW: usize = 500;

/// Returns free memory whenever half of the connections have closed.
pub async fn return_when_connections_close(monitor: Monitor) {
    let mut peak = Peak::default();
    loop {
        sleep(INTERVAL).await;
        if peak.has_halved(monitor.open_by_worker().sum()) {
            // Fails only if the process ends.
            let _ = spawn_blocking(memory::return_free).await;
            sleep(PAUSE).await;
        }
    }
}

/// The largest number of open connections since memory was returned.
#[derive(Default)]
struct Peak(usize);

impl Peak {
    /// True if half of the connections have closed. The next peak then starts with this number.
    fn has_halved(&mut self, open: usize) -> bool {
        self.0 = self.0.max(open);
        let has_halved = self.0 >= FEW && open <= self.0 / 2;
        if has_halved {
            self.0 = open;
        }
        has_halved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_returned_each_time_that_half_of_many_connections_have_closed() {
        let mut peak = Peak::default();
        let returned: Vec<_> = [0, 499, 0, 3000, 1501, 1500, 1400, 751, 750, 0, 0, 500, 251, 250]
            .into_iter()
            .filter(|open| peak.has_halved(*open))
            .collect();
        assert_eq!(returned, [1500, 750, 0, 250]);
    }
}
