//! The condition CertificatesValid: certificates that are presented to clients and backends are valid.

use std::{collections::BTreeMap, fmt};

use jiff::{SignedDuration, Timestamp};

use super::{
    finding::{Finding, lines},
    input::{StatusInput, Topic},
    reason::ConditionReason,
};
use crate::{
    api::{Listener, TlsMode},
    translate::{Problem, Reason, Severity},
};

/// The condition warns this long before a certificate expires.
const SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

/// The smallest difference of two times.
const NANOSECOND: SignedDuration = SignedDuration::from_nanos(1);

/// `None`: the load balancer has no certificates.
pub fn valid(input: &StatusInput) -> Option<Finding> {
    let expiries = presented(input);
    let warned_of = || input.problems(Topic::Certificates, Severity::Warning);
    let warnings = lines(warned_of());
    let Some(((audience, source), until)) = expiries.iter().min_by_key(|(_, until)| **until) else {
        return match warnings.is_empty() {
            true if declares(input) => none(input),
            true => None,
            false => Some(Finding::no(reason_of(warned_of()), warnings)),
        };
    };
    // At these times the certificate is still valid, or not about to expire yet.
    let expires = until.saturating_add(NANOSECOND).unwrap_or(Timestamp::MAX);
    let soon = expires.saturating_sub(SOON).unwrap_or(Timestamp::MIN);
    let until_when = format!("the certificate of {source}{audience} is valid until {until:.0}");
    Some(if !warnings.is_empty() {
        Finding::no(reason_of(warned_of()), warnings)
    } else if *until < input.now {
        let what = format!("the certificate of {source}{audience} expired on {until:.0}");
        Finding::no(ConditionReason::CertificateExpired, format!("{what}: replace it; it is still presented"))
    } else if until.duration_since(input.now) < SOON {
        let finding = Finding::yes(ConditionReason::ExpiresSoon, format!("{until_when}: replace it before then"));
        Finding { changes_at: Some(expires), ..finding }
    } else {
        let others = if expiries.len() > 1 { ", the others are valid longer" } else { "" };
        let finding = Finding::yes(ConditionReason::Valid, format!("{until_when}{others}"));
        Finding { changes_at: Some(soon), ..finding }
    })
}

/// The reason for warnings. An expired certificate takes precedence.
fn reason_of<'a>(mut warnings: impl Iterator<Item = &'a Problem>) -> ConditionReason {
    let expired = warnings.any(|problem| problem.reason == Reason::CertificateExpired);
    if expired { ConditionReason::CertificateExpired } else { ConditionReason::Invalid }
}

/// True if the declaration has certificates.
fn declares(input: &StatusInput) -> bool {
    let backends = input.spec.map_or(&[][..], |spec| &spec.backends);
    let for_clients = input.listeners().into_iter().any(|(_, listener)| terminates_tls(listener));
    for_clients || backends.iter().any(|backend| backend.tls.as_ref().is_some_and(|tls| tls.certificate_ref.is_some()))
}

/// True if a listener presents a certificate to any of its clients.
fn terminates_tls(listener: &Listener) -> bool {
    let Some(tls) = &listener.tls else { return false };
    let mut routes = listener.routes.iter().map(|route| route.tls.as_ref().map_or(tls.mode, |tls| tls.mode));
    let terminates = match listener.routes.is_empty() {
        true => tls.mode == TlsMode::Terminate,
        false => routes.any(|mode| mode == TlsMode::Terminate),
    };
    terminates && !tls.certificate_refs.is_empty()
}

/// The peers that a certificate is presented to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Audience {
    Clients,
    Backends,
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clients => "",
            Self::Backends => ", presented to backends,",
        })
    }
}

/// The earliest expiry of each certificate that a replica presents, by audience and source.
fn presented<'a>(input: &StatusInput<'a>) -> BTreeMap<(Audience, &'a str), Timestamp> {
    let mut expiries = BTreeMap::new();
    for (_, served) in input.served() {
        let all = [(Audience::Clients, &served.certificates), (Audience::Backends, &served.certificates_for_backends)];
        for (audience, (source, until)) in
            all.into_iter().flat_map(|(audience, all)| all.iter().map(move |one| (audience, one)))
        {
            let earliest = expiries.entry((audience, source.as_str())).or_insert(*until);
            *earliest = (*until).min(*earliest);
        }
    }
    expiries
}

/// `None`: every replica knows this generation and presents no certificate, which another condition explains.
fn none(input: &StatusInput) -> Option<Finding> {
    let refused = input.problems(Topic::References, Severity::Refused);
    let refused = lines(refused.filter(|problem| problem.reason == Reason::InvalidCertificateRef));
    if !refused.is_empty() {
        return Some(match input.waits_for_references() {
            true => Finding::unknown(ConditionReason::Pending, refused),
            false => Finding::no(ConditionReason::InvalidCertificateRef, refused),
        });
    }
    (!input.is_known_everywhere())
        .then(|| Finding::unknown(ConditionReason::Pending, "no replica has presented a certificate yet"))
}
