//! Where manifests come from: a [`World`](crate::world::World) gathered from files and flags, or from a cluster.
//!
//! [`Files`] reads it whenever it is asked to, and remembers what was last good: an object that became wrong, a file
//! that can no longer be read, or a path that is gone costs nothing that is served. While a file is being written, what
//! it declared before counts. [`Watch`] tells when to read. [`Cluster`] does the same for objects behind an API server,
//! with a watch for each kind of them. [`Settle`] lets changes that come together count as one, and [`Names`] tells when
//! an answer says something new:
//!
//! ```text
//! Watch, SIGHUP ─────► Settle ─► Files::read ────┐
//! Cluster::changed ──► Settle ─► Cluster::world ─┼─► World
//! Names ───────────────────────► Names::known ───┘
//! ```
//!
//! [`documents`] reads the text of one file, [`schema`] checks one load balancer.

mod cluster;
pub mod documents;
mod files;
mod limits;
mod names;
mod problem;
pub mod schema;
mod settle;
mod unfinished;
mod watch;

pub use cluster::{
    Changed, Cluster, Home, REFUSAL_DELAY, Scope, connect, installed_schema, refused_token, with_causes,
};
pub use files::{Files, decoded};
pub use names::{Names, resolve};
pub use problem::FileProblem;
pub use settle::Settle;
pub use watch::{Interest, Watch};
