//! Instructions and system calls of one operation. Times vary with the machine and its load; these counts hardly do.
//! The cost of start and end cancels out: the work is done once and then twice, and the difference counts.

pub mod callgrind;
mod contenders;
mod counter;
mod operation;
mod smoke;
mod strace;
mod work;

pub use contenders::contenders;
pub use counter::{Counter, OperationCounts};
pub use smoke::{Purpose, smoke};
pub use work::WORKS;
