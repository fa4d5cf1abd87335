//! A TCP load balancer for Kubernetes.
//!
//! Manifests are compiled: a *source* gathers them into a `World`, *translate* compiles it to a `Snapshot`, and the
//! *proxy* applies the snapshot to sockets and connections. ARCHITECTURE.md has the reasons. The modules, in reading
//! order:
//!
//! - [`cli`]: the commands and their arguments;
//! - [`app`]: wires the parts below into a process, and defines the order in which they start and stop;
//! - [`api`]: the user-facing API: the spec, its scalars, the published schema;
//! - [`model`]: the configuration of the proxy and its report: `Snapshot` and `Report`, plain and valid data;
//! - [`world`]: the known objects at one moment, as plain data: load balancers, their references, quotas, ports;
//! - [`source`]: the sources of manifests: a cluster, files, flags, DNS names, and their watches;
//! - [`translate`]: from a `World` to a `Snapshot`, and a verdict for each load balancer. Pure;
//! - [`proxy`]: the data plane: listening sockets, workers, and the path of a connection;
//! - [`upstream`]: live state of endpoints across snapshots: balancing, health, ejection, preconnected sockets;
//! - [`controller`]: the objects that the leader writes in a cluster: allocations, Services, statuses;
//! - [`drain`]: the schedule for closing open connections;
//! - `capacity`: limited numbers of places that load balancers and namespaces share;
//! - `descriptors`: the budget of file descriptors;
//! - `log_limit`: rate limits for log lines;
//! - `memory`: settings of the C library for free memory;
//! - [`tcp`]: a TCP connection on the event loop of its task;
//! - [`takeover`]: passes listening sockets to the process that replaces this one;
//! - [`state`]: the readiness of the process, and the result of its manifests;
//! - [`instruments`]: metrics of the control plane, which its parts update;
//! - [`metrics`] and [`admin`]: metrics and admin pages;
//! - [`authorization`]: asks the API server whether a client may read the admin pages;
//! - `shared`: shared values in persistent maps;
//! - `traffic`: rates of traffic counters;
//! - `top`: a live table of load balancers for terminals;
//! - `stdout`: prints the output of commands;
//! - `printable`: makes text from outside safe for logs, pages and statuses;
//! - [`kubectl`]: `kubectl tcplb`, which inspects the load balancers of a cluster;
//! - [`tools`]: a test backend, self-signed certificates, conversions into manifests.

#![deny(unsafe_code)]

pub mod admin;
pub mod api;
pub mod app;
pub mod authorization;
mod capacity;
pub mod cli;
pub mod controller;
#[cfg(test)]
mod cost;
mod descriptors;
pub mod drain;
pub mod instruments;
pub mod kubectl;
mod log_limit;
mod memory;
pub mod metrics;
pub mod model;
mod printable;
pub mod proxy;
mod shared;
pub mod source;
pub mod state;
mod stdout;
pub mod takeover;
pub mod tcp;
pub mod tools;
mod top;
mod traffic;
pub mod translate;
pub mod upstream;
pub mod world;
