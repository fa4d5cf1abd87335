//! A TCP load balancer for Kubernetes.
//!
//! Manifests are compiled: a *source* gathers them into a `World`, *translate* makes one `Snapshot` of it, the *proxy*
//! makes sockets and connections equal to that. ARCHITECTURE.md has the reasons. The modules, in reading order:
//!
//! - [`cli`]: the commands and their arguments;
//! - [`app`]: wires everything below into a process, and owns the order in which it starts and stops;
//! - [`api`]: what users write: the spec, its scalars, the schema that is published;
//! - [`model`]: what the proxy is told and answers: `Snapshot` and `Report`, plain and valid data;
//! - [`world`]: everything that is known at one moment, as plain data: load balancers, what they refer to, quotas, ports;
//! - [`source`]: where manifests come from: a cluster, files, flags, DNS names; what watches them, and when changes have
//!   settled;
//! - [`translate`]: from a `World` to a `Snapshot`, and a verdict for each load balancer. Pure;
//! - [`proxy`]: the data plane: listening sockets, workers, and the way of a connection;
//! - [`upstream`]: live state of endpoints that outlives snapshots: balancing, health, ejection, preconnected sockets;
//! - [`controller`]: in a cluster, what the leader writes: allocations, Services, statuses;
//! - [`drain`]: how open connections are ended when the process leaves;
//! - `capacity`: limited numbers of places that load balancers and namespaces share;
//! - `descriptors`: how many connections the process has file descriptors for;
//! - `memory`: how the C library keeps memory that is free;
//! - `tcp`: a TCP connection on the event loop of its task;
//! - [`takeover`]: passing listening sockets to the process that replaces this one;
//! - [`state`]: what the process knows of itself: whether it serves, and what it thinks of its manifests;
//! - [`metrics`] and [`admin`]: what it tells about itself;
//! - `printable`: makes text from outside fit for logs, pages and statuses;
//! - [`tools`]: a test backend, self-signed certificates, conversions into manifests.

#![deny(unsafe_code)]

pub mod admin;
pub mod api;
pub mod app;
mod capacity;
pub mod cli;
pub mod controller;
#[cfg(test)]
mod cost;
mod descriptors;
pub mod drain;
mod memory;
pub mod metrics;
pub mod model;
mod printable;
pub mod proxy;
pub mod source;
pub mod state;
pub mod takeover;
mod tcp;
pub mod tools;
pub mod translate;
pub mod upstream;
pub mod world;
