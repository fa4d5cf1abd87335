//! Sources of manifests: a [`World`](crate::world::World) is gathered from files and flags, or from a cluster.
//!
//! [`Files`] reads them on request and remembers the last good state: an invalid edit of an object, an unreadable file
//! or a missing path does not interrupt service. While a file is being written, its previous content applies.
//! [`FileWatch`] notices changes. [`Cluster`] does the same for objects behind an API server, with a watch for each
//! kind. [`Settle`] combines changes that arrive together, and [`Names`] looks up DNS names:
//!
//! ```text
//! FileWatch, SIGHUP ─────► Settle ─► Files::read ────┐
//! Cluster::changed ──► Settle ─► Cluster::world ─┼─► World
//! Names ───────────────────────► Names::known ───┘
//! ```
//!
//! [`documents`] reads the text of one file, and [`schema`] checks one load balancer.

mod bounded_file;
mod cluster;
pub mod documents;
mod file_watch;
mod files;
mod limits;
mod names;
mod problem;
pub mod schema;
mod settle;
mod unfinished;

pub use bounded_file::text_of_file;
pub use cluster::{
    Changed, Cluster, Home, REFUSAL_DELAY, Scope, connect, installed_schema, refused_token, with_causes,
};
pub use file_watch::{ChangedPaths, FileWatch};
pub use files::{Files, decoded};
pub use names::{Names, resolve};
pub use problem::FileProblem;
pub use settle::Settle;
