//! Reads the report of a replica, as a leader does.

use std::{net::SocketAddr, time::Duration};

use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::growth::http;

/// The header that requests only the changed parts of a report.
const CHANGES_ONLY: &str = "A-IM: tcplb-changes\r\n";
const PAUSE: Duration = Duration::from_secs(1);

/// Requests each report of a replica, until it is dropped.
pub struct ReportReader {
    _reading: AbortOnDropHandle<()>,
}

impl ReportReader {
    pub fn start(replica: SocketAddr) -> Self {
        Self { _reading: AbortOnDropHandle::new(tokio::spawn(read(replica))) }
    }
}

async fn read(replica: SocketAddr) {
    let mut tag = None;
    loop {
        let unless = tag.as_ref().map(|tag| format!("?unless={tag}")).unwrap_or_default();
        match http::get_with(replica, &format!("/report{unless}"), CHANGES_ONLY).await {
            // An unchanged report has no tag.
            Ok(response) => tag = response.tag.or(tag),
            Err(_) => sleep(PAUSE).await,
        }
    }
}
