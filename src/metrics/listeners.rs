//! Metrics of listeners: connections, traffic, handshakes, certificates.

use std::{collections::BTreeMap, fmt, sync::Arc};

use tokio::time::Instant;

use super::{
    encoder::{Encoder, Labels, occurred},
    family::{
        ACCEPTED, ACTIVE, BACKEND_CERTIFICATE, BACKEND_HANDSHAKES, CERTIFICATE, CLOSED, CONNECT, DRAINING, DURATION,
        GUARANTEED, HANDSHAKES, LISTENER, LOAD_BALANCER, OVERDUE, RELAYED, SOURCES,
    },
};
use crate::{
    model::Snapshot,
    proxy::{
        Draining, ListenerState, Monitor,
        accounting::{CONNECT_BOUNDS, CloseReason, DURATION_BOUNDS, Totals},
    },
};

/// Writes the metrics of all listeners.
pub fn encode(
    encoder: &mut Encoder<'_, '_>,
    listeners: &[ListenerSample],
    monitor: &Monitor,
    snapshot: &Snapshot,
) -> fmt::Result {
    encode_connections(encoder, listeners)?;
    encode_drains(encoder, &monitor.draining())?;
    encode_traffic(encoder, listeners)?;
    encode_handshakes(encoder, listeners)?;
    encode_certificates(encoder, snapshot)
}

/// A listener with its counters at one time.
pub struct ListenerSample {
    state: Arc<ListenerState>,
    totals: Totals,
    labels: Labels<'static>,
}

impl ListenerSample {
    pub fn of(listener: &Arc<ListenerState>) -> Self {
        let labels = Labels::of(LISTENER, &listener.key.object, [listener.key.port.to_string()]);
        Self { state: listener.clone(), totals: listener.counters.totals(), labels }
    }

    fn labels(&self) -> Labels<'_> {
        self.labels.shared()
    }

    fn labels_and(&self, value: &'static str) -> Labels<'_> {
        self.labels.and(value)
    }
}

fn encode_connections(encoder: &mut Encoder<'_, '_>, listeners: &[ListenerSample]) -> fmt::Result {
    encoder.counters(&ACCEPTED, listeners.iter().map(|l| (l.labels(), l.totals.accepted)))?;
    let closed = |l: &ListenerSample| CloseReason::ALL.map(|reason| (reason.label(), l.totals.closed(reason)));
    encoder.counters(
        &CLOSED,
        listeners.iter().flat_map(|l| occurred(closed(l)).map(|(reason, count)| (l.labels_and(reason), count))),
    )?;
    encoder.gauges(&ACTIVE, listeners.iter().map(|l| (l.labels(), l.totals.active() as i64)))?;
    let guaranteed: BTreeMap<_, _> =
        listeners.iter().map(|l| (&l.state.key.object, l.state.share.guaranteed())).collect();
    encoder.gauges(
        &GUARANTEED,
        guaranteed.iter().map(|(object, count)| (Labels::of(LOAD_BALANCER, object, []), *count as i64)),
    )?;
    let sources = listeners.iter().map(|l| (l, l.state.admission.sources())).filter(|(_, count)| *count > 0);
    encoder.gauges(&SOURCES, sources.map(|(l, count)| (l.labels(), count as i64)))
}

/// Writes the numbers of draining and overdue connections by load balancer and reason.
fn encode_drains(encoder: &mut Encoder<'_, '_>, draining: &[Draining]) -> fmt::Result {
    let now = Instant::now();
    let mut counts: BTreeMap<_, (i64, i64)> = BTreeMap::new();
    for drain in draining {
        let open = drain.resource.open() as i64;
        let (all, overdue) = counts.entry((&drain.object, drain.reason)).or_default();
        *all += open;
        *overdue += if drain.is_overdue(now) { open } else { 0 };
    }
    let labels = |object, reason: CloseReason| Labels::of(DRAINING.labels, object, [reason.label().into()]);
    let all = counts.iter().map(|((object, reason), (all, _))| (labels(object, *reason), *all));
    encoder.gauges(&DRAINING, all)?;
    let overdue = counts.iter().map(|((object, reason), (_, overdue))| (labels(object, *reason), *overdue));
    encoder.gauges(&OVERDUE, overdue)
}

fn encode_traffic(encoder: &mut Encoder<'_, '_>, listeners: &[ListenerSample]) -> fmt::Result {
    encoder.counters(
        &RELAYED,
        listeners.iter().flat_map(|l| {
            [("to_backend", l.totals.bytes_to_backend), ("to_client", l.totals.bytes_to_client)]
                .map(|(direction, bytes)| (l.labels_and(direction), bytes))
        }),
    )?;
    encoder.histograms(&CONNECT, &CONNECT_BOUNDS, listeners.iter().map(|l| (l.labels(), &l.totals.connect)))?;
    encoder.histograms(&DURATION, &DURATION_BOUNDS, listeners.iter().map(|l| (l.labels(), &l.totals.duration)))
}

fn encode_handshakes(encoder: &mut Encoder<'_, '_>, listeners: &[ListenerSample]) -> fmt::Result {
    let with_clients = |l: &ListenerSample| {
        [
            ("full", l.totals.tls_full_handshakes),
            ("resumed", l.totals.tls_resumed_handshakes),
            ("refused", l.totals.closed(CloseReason::TlsClientCertificate)),
            ("failed", l.totals.closed(CloseReason::TlsFailed)),
            ("timeout", l.totals.closed(CloseReason::TlsTimeout)),
        ]
    };
    encoder.counters(
        &HANDSHAKES,
        listeners.iter().flat_map(|l| occurred(with_clients(l)).map(|(result, count)| (l.labels_and(result), count))),
    )?;
    let with_backends = |l: &ListenerSample| {
        [("full", l.totals.backend_tls_full_handshakes), ("resumed", l.totals.backend_tls_resumed_handshakes)]
    };
    encoder.counters(
        &BACKEND_HANDSHAKES,
        listeners.iter().flat_map(|l| occurred(with_backends(l)).map(|(result, count)| (l.labels_and(result), count))),
    )
}

fn encode_certificates(encoder: &mut Encoder<'_, '_>, snapshot: &Snapshot) -> fmt::Result {
    encoder.gauges(
        &CERTIFICATE,
        snapshot.listeners.iter().flat_map(|(key, listener)| {
            listener.tls.iter().flat_map(|tls| &tls.certificates).map(|certificate| {
                let labels =
                    Labels::of(CERTIFICATE.labels, &key.object, [key.port.to_string(), certificate.source.to_string()]);
                (labels, certificate.not_after.as_second())
            })
        }),
    )?;
    encoder.gauges(
        &BACKEND_CERTIFICATE,
        snapshot.upstreams.iter().flat_map(|(key, upstream)| {
            upstream.backends.iter().filter_map(|(name, backend)| {
                let certificate = backend.shown_certificate()?;
                let labels = Labels::of(
                    BACKEND_CERTIFICATE.labels,
                    &key.object,
                    [name.to_string(), certificate.source.to_string()],
                );
                Some((labels, certificate.not_after.as_second()))
            })
        }),
    )
}
