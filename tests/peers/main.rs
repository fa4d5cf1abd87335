//! Software that people use, on both sides of the built program. Where one is not installed, its tests are skipped.

#[path = "../harness/authority.rs"]
mod authority;
mod checks;
mod haproxy;
#[path = "../harness/mod.rs"]
mod harness;
mod mutual_tls;
mod openssl;
mod postgres;
mod program;
mod prometheus;
mod redis;

/// Leaves a test whose programs are not all installed.
macro_rules! needs {
    ($($program:literal),+) => {
        $(if crate::program::locate($program).is_none() {
            return crate::harness::lacks($program);
        })+
    };
}
use needs;
