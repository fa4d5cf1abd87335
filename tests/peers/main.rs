//! Common software on both sides of the built program. Tests of software that is not installed are skipped.

#![expect(clippy::unwrap_used, reason = "tests panic on unexpected values")]

mod admin_page;
mod alerts;
#[path = "../harness/authority.rs"]
mod authority;
mod browser;
mod checks;
mod haproxy;
#[path = "../harness/mod.rs"]
mod harness;
mod monitoring;
mod mutual_tls;
mod openssl;
mod postgres;
#[path = "../harness/program.rs"]
mod program;
mod prometheus;
#[path = "../harness/prometheus_server.rs"]
mod prometheus_server;
mod queries;
mod redis;

/// Skips a test unless all of its programs are installed.
macro_rules! needs {
    ($($program:literal),+) => {
        $(if crate::program::locate($program).is_none() {
            return crate::harness::lacks($program);
        })+
    };
}
use needs;
