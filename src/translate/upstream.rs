//! The upstream of a load balancer: endpoints, balancing and connection settings.

use super::{
    backends::{self, TranslatedBackends, checks, slices::Retention},
    declaration::{Declaration, NONE_SERVED},
    field_errors::validated,
    listeners::client_address,
    settings,
    tls::certificates::CertificateLoader,
    verdict::{Part, Problem},
};
use crate::model::{Keepalive, UpstreamConfig};

/// The upstream, and whether it is the last good one because all declared backends are new and invalid.
pub(super) struct TranslatedUpstream {
    pub upstream: UpstreamConfig,
    pub fell_back: bool,
    pub retention: Retention,
}

/// Translates an upstream. Invalid settings fall back to their last good value, while endpoints are still updated.
/// `None`: a setting was never valid.
///
/// `keepalive` is `None` if the declared value is invalid, which the caller reports.
pub(super) fn translate(
    declaration: &Declaration,
    keepalive: Option<Option<Keepalive>>,
    certificates: &mut CertificateLoader,
    problems: &mut Vec<Problem>,
) -> Option<TranslatedUpstream> {
    let spec = declaration.spec;
    let before = declaration.last_good.upstream.as_deref();
    if spec.backends.is_empty() {
        let kept = declaration.retained();
        let fallback = kept.as_ref().map_or(NONE_SERVED.into(), |kept| {
            declaration.endpoints_fallback("connections go to the previous endpoints", &kept.endpoints)
        });
        validated(Part::Backends, &fallback, problems, |path| {
            path.refuse("must not be empty: write at least one backend")
        });
        let retention = Retention::default();
        return kept.map(|kept| TranslatedUpstream {
            upstream: UpstreamConfig::clone(&kept),
            fell_back: true,
            retention,
        });
    }

    let fallback = if before.is_some() { "the previous settings stay in effect" } else { NONE_SERVED };
    let world = declaration.context.world;
    let balancing = validated(Part::LoadBalancing, fallback, problems, |path| {
        client_address::check_balancing(spec, world, path);
        settings::balancing(spec, declaration.context, path)
    });
    let active_check =
        validated(Part::HealthCheck, fallback, problems, |path| checks::of_all(declaration, &mut path.at("active")));
    let active_check = active_check.or_else(|| before.map(|before| before.active_check.clone()));
    let of_all = active_check.as_ref().and_then(Option::as_ref);
    let TranslatedBackends { backends, endpoints, unready, fell_back, retention } =
        backends::translate(declaration, of_all, certificates, problems);
    let passive_check =
        validated(Part::HealthCheck, fallback, problems, |path| settings::passive_check(spec, &mut path.at("passive")));
    let connect = validated(Part::Connect, fallback, problems, |path| settings::connect(spec, path));
    let drain = validated(Part::Drain, fallback, problems, |path| settings::endpoint_drain(spec, path));
    let rebalance = validated(Part::Rebalance, fallback, problems, |path| settings::rebalance(spec, path));
    let upstream = UpstreamConfig {
        balancing: balancing.or(before.map(|before| before.balancing))?,
        backends,
        endpoints,
        unready,
        active_check: active_check?,
        passive_check: passive_check.or(before.map(|before| before.passive_check))?,
        connect: connect.or(before.map(|before| before.connect))?,
        keepalive: keepalive.or(before.map(|before| before.keepalive))?,
        drain: drain.or(before.map(|before| before.drain))?,
        rebalance: rebalance.or(before.map(|before| before.rebalance))?,
    };
    Some(TranslatedUpstream { upstream, fell_back, retention })
}
