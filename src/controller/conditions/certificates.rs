//! Whether the certificates that clients and backends are shown are valid.

use std::{collections::BTreeMap, fmt};

use jiff::{SignedDuration, Timestamp};

use super::{
    Finding, PENDING, lines,
    situation::{Situation, Topic},
};
use crate::translate::{Problem, Reason, Severity};

/// Who owns a certificate is told this long before it expires.
const SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

/// `None`: nothing has to do with certificates.
pub fn valid(situation: &Situation) -> Option<Finding> {
    let expiries = presented(situation);
    let warned_of = || situation.problems(Topic::Certificates, Severity::Warning);
    let warnings = lines(warned_of());
    let Some(((audience, source), until)) = expiries.iter().min_by_key(|(_, until)| **until) else {
        return match warnings.is_empty() {
            true => declares(situation).then(|| none(situation)),
            false => Some(Finding::no(reason_of(warned_of()), warnings)),
        };
    };
    let until_when = format!("the certificate of {source}{audience} is valid until {until:.0}");
    Some(if !warnings.is_empty() {
        Finding::no(reason_of(warned_of()), warnings)
    } else if *until < situation.now {
        let what = format!("the certificate of {source}{audience} expired on {until:.0}");
        Finding::no("CertificateExpired", format!("{what}: replace it; it is still presented"))
    } else if until.duration_since(situation.now) < SOON {
        Finding::yes("ExpiresSoon", format!("{until_when}: replace it before"))
    } else {
        Finding::yes("Valid", if expiries.len() > 1 { format!("{until_when}, the others longer") } else { until_when })
    })
}

/// That something has expired comes before what else is wrong.
fn reason_of<'a>(mut warnings: impl Iterator<Item = &'a Problem>) -> &'static str {
    let expired = warnings.any(|problem| problem.reason == Reason::CertificateExpired);
    if expired { "CertificateExpired" } else { "Invalid" }
}

/// Whether it has certificates by its declaration.
fn declares(situation: &Situation) -> bool {
    let listeners = situation.listeners();
    let mut for_clients = listeners.iter().filter_map(|(_, listener)| listener.tls.as_ref());
    let backends = situation.spec.map_or(&[][..], |spec| &spec.backends);
    let mut for_backends = backends.iter().filter_map(|backend| backend.tls.as_ref());
    for_clients.any(|tls| !tls.certificate_refs.is_empty()) || for_backends.any(|tls| tls.certificate_ref.is_some())
}

/// Whom a certificate is shown to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Audience {
    Clients,
    Backends,
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clients => "",
            Self::Backends => ", shown to backends,",
        })
    }
}

/// The last moment of validity of each certificate that some replica presents, by whom to and where it comes from.
fn presented<'a>(situation: &Situation<'a>) -> BTreeMap<(Audience, &'a str), Timestamp> {
    let mut expiries = BTreeMap::new();
    for (_, served) in situation.served() {
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

fn none(situation: &Situation) -> Finding {
    let refused = situation.problems(Topic::References, Severity::Refused);
    let refused = lines(refused.filter(|problem| problem.reason == Reason::InvalidCertificateRef));
    match refused.is_empty() {
        true => Finding::unknown(PENDING, "no replica has presented a certificate yet"),
        false => Finding::no("InvalidCertificateRef", refused),
    }
}
