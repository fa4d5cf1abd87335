//! The axes.

use super::{
    axis::{Axis, Field, Figure, Way, Work},
    bulk::Direction,
    change::Many,
    door::Door,
    mixed::Mix,
};
use crate::cores;

const fn of_cpu(unit: &'static str) -> Figure {
    Figure { name: "cpu", unit }
}

const OF_MEMORY: Figure = Figure { name: "memory", unit: "KiB" };

const PER_OPERATION: &str = "µs CPU";
const PER_GIB: &str = "CPU s/GiB";

/// In the order of the table.
pub const AXES: &[Axis] = &[
    Axis {
        name: "conn",
        what: "New connection, 64 B echo, close; 32 clients",
        door: Door::PLAIN,
        work: Work::Connections { clients: 32 },
        field: Field::Everybody,
        figures: &[of_cpu(PER_OPERATION)],
    },
    Axis {
        name: "rr-32",
        what: "64 B round trip, 32 connections",
        door: Door::PLAIN,
        work: Work::RoundTrips { connections: 32 },
        field: Field::Everybody,
        figures: &[of_cpu(PER_OPERATION)],
    },
    Axis {
        name: "rr-256",
        what: "64 B round trip, 256 connections",
        door: Door::PLAIN,
        work: Work::RoundTrips { connections: 256 },
        field: Field::Everybody,
        figures: &[of_cpu(PER_OPERATION)],
    },
    Axis {
        name: "rr-2000",
        what: "64 B round trip, 2,000 connections",
        door: Door::PLAIN,
        work: Work::RoundTrips { connections: 2000 },
        field: Field::Everybody,
        figures: &[of_cpu(PER_OPERATION)],
    },
    Axis {
        name: "bulk-down",
        what: "Bulk to the client, 4 connections",
        door: Door::BULK,
        work: Work::Bulk(Direction::ToClient),
        field: Field::Everybody,
        figures: &[of_cpu(PER_GIB)],
    },
    Axis {
        name: "bulk-both",
        what: "Bulk both ways at once, 4 connections",
        door: Door::BULK,
        work: Work::Bulk(Direction::Both),
        field: Field::Everybody,
        figures: &[of_cpu(PER_GIB)],
    },
    Axis {
        name: "idle",
        what: "Memory of an idle connection, of 5,000",
        door: Door::IDLE,
        work: Work::Idle { connections: 5000 },
        field: Field::Everybody,
        figures: &[OF_MEMORY],
    },
    Axis {
        name: "tls-conn",
        what: "TLS 1.3 full handshake, P-256, 64 B echo, close; 32 clients",
        door: Door::TLS_P256,
        work: Work::Connections { clients: 32 },
        field: Field::Everybody,
        figures: &[of_cpu(PER_OPERATION)],
    },
    Axis {
        name: "tls-rsa",
        what: "The same with RSA-2048",
        door: Door::TLS_RSA,
        work: Work::Connections { clients: 32 },
        field: Field::Everybody,
        figures: &[of_cpu(PER_OPERATION)],
    },
    Axis {
        name: "tls-resumed",
        what: "TLS 1.3 resumed handshake, 64 B echo, close; 32 clients",
        door: Door::TLS_RESUMED,
        work: Work::Connections { clients: 32 },
        field: Field::Everybody,
        figures: &[of_cpu(PER_OPERATION)],
    },
    Axis {
        name: "tls-rr",
        what: "TLS 64 B round trip, 32 connections",
        door: Door::TLS_P256,
        work: Work::RoundTrips { connections: 32 },
        field: Field::Everybody,
        figures: &[of_cpu(PER_OPERATION)],
    },
    Axis {
        name: "tls-bulk",
        what: "TLS bulk to the client, 4 connections",
        door: Door::TLS_BULK,
        work: Work::Bulk(Direction::ToClient),
        field: Field::Everybody,
        figures: &[of_cpu(PER_GIB)],
    },
    Axis {
        name: "tls-idle",
        what: "Memory of an idle TLS connection, of 2,000",
        door: Door::TLS_IDLE,
        work: Work::Idle { connections: 2000 },
        field: Field::Everybody,
        figures: &[OF_MEMORY],
    },
    Axis {
        name: "latency",
        what: "64 B round trips on 1,000 connections, at 70 % of the best peer's peak",
        door: Door::PLAIN,
        work: Work::Latency { connections: 1000, share: 0.7 },
        field: Field::Everybody,
        figures: &[
            Figure { name: "p50", unit: "µs" },
            Figure { name: "p99", unit: "µs" },
            Figure { name: "p999", unit: "µs" },
        ],
    },
    Axis {
        name: "mixed",
        what: "5,000 idle connections, 500 busy with 10,000 round trips/s, 500 new/s",
        door: Door::PLAIN,
        work: Work::Mixed(Mix { idle: 5000, busy: 500, messages: 10_000.0, new: 500.0 }),
        field: Field::Everybody,
        figures: &[
            Figure { name: "cpu", unit: "CPU ms/s" },
            Figure { name: "p99", unit: "µs" },
            Figure { name: "memory", unit: "MiB" },
        ],
    },
    Axis {
        name: "change",
        what: "One endpoint of 500 load balancers × 20 changes",
        door: Door::PLAIN,
        work: Work::Change(Many { load_balancers: 500, endpoints: 20 }),
        field: Field::Everybody,
        figures: &[
            Figure { name: "effect", unit: "ms to effect" },
            Figure { name: "cpu", unit: "ms CPU" },
            Figure { name: "disturbed", unit: "connections disturbed" },
        ],
    },
    Axis {
        name: "features",
        what: "New connection, 64 B echo, close; one more feature",
        door: Door::PLAIN,
        work: Work::Connections { clients: 32 },
        field: Field::Ours(FEATURES),
        figures: &[of_cpu(PER_OPERATION)],
    },
    Axis {
        name: "workers-conn",
        what: "New connection, 64 B echo, close; two workers",
        door: Door::PLAIN,
        work: Work::Connections { clients: 32 },
        field: Field::Ours(WORKERS),
        figures: &[of_cpu(PER_OPERATION)],
    },
    Axis {
        name: "workers-rr",
        what: "64 B round trip, 32 connections; two workers",
        door: Door::PLAIN,
        work: Work::RoundTrips { connections: 32 },
        field: Field::Ours(WORKERS),
        figures: &[of_cpu(PER_OPERATION)],
    },
];

const fn one_worker(name: &'static str, configuration: &'static str) -> Way {
    Way { name, configuration, arguments: ONE_WORKER, cores: cores::CONTENDER }
}

/// Without an access log, for comparison with programs that have none.
pub const ONE_WORKER: &[&str] = &["--workers", "1", "--access-log", "off"];

const FEATURES: &[Way] = &[
    one_worker("none", "tcplb/plain.yaml"),
    one_worker("sticky", "tcplb/sticky.yaml"),
    one_worker("limits", "tcplb/limits.yaml"),
    one_worker("PROXY v2", "tcplb/proxy.yaml"),
    Way { arguments: &["--workers", "1"], ..one_worker("access log", "tcplb/plain.yaml") },
];

const TWO_WORKERS: Way =
    Way { arguments: &["--workers", "2", "--access-log", "off"], ..one_worker("two workers", "tcplb/plain.yaml") };

/// Two workers on one core need as much as one, plus the overhead of a second worker. On two cores, which the load uses
/// too, each also loses its core to the load repeatedly.
const WORKERS: &[Way] = &[
    one_worker("one worker", "tcplb/plain.yaml"),
    TWO_WORKERS,
    Way { name: "two workers, two cores", cores: &[0, 1], ..TWO_WORKERS },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_axis_has_a_name_of_its_own() {
        let names: BTreeSet<_> = AXES.iter().map(|axis| axis.name).collect();
        assert_eq!(names.len(), AXES.len());
    }
}
