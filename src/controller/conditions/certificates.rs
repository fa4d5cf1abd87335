//! Whether the certificates that clients are shown are valid.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{
    Finding, PENDING, lines,
    situation::{Situation, Topic},
};
use crate::translate::Severity;

/// Who owns a certificate is told this long before it expires.
const SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

/// `None`: nothing has to do with certificates.
pub fn valid(situation: &Situation) -> Option<Finding> {
    let expiries = presented(situation);
    let declared = situation.listeners().iter().any(|(_, listener)| listener.tls.is_some());
    let Some((source, until)) = expiries.iter().min_by_key(|(_, until)| **until) else {
        return declared.then(|| none(situation));
    };
    let warnings = lines(situation.problems(Topic::Certificates, Severity::Warning));
    let until_when = format!("the certificate of {source} is valid until {until:.0}");
    Some(if *until < situation.now {
        let sentence = format!("the certificate of {source} expired on {until:.0}: replace it; it is still presented");
        Finding::no("CertificateExpired", if warnings.is_empty() { sentence } else { warnings })
    } else if !warnings.is_empty() {
        Finding::no("Invalid", warnings)
    } else if until.duration_since(situation.now) < SOON {
        Finding::yes("ExpiresSoon", format!("{until_when}: replace it before"))
    } else {
        Finding::yes("Valid", if expiries.len() > 1 { format!("{until_when}, the others longer") } else { until_when })
    })
}

/// The last moment of validity of each certificate that some replica presents, by where it comes from.
fn presented<'a>(situation: &Situation<'a>) -> BTreeMap<&'a str, Timestamp> {
    let mut expiries: BTreeMap<&str, Timestamp> = BTreeMap::new();
    for (source, until) in situation.served().flat_map(|(_, served)| &served.certificates) {
        let earliest = expiries.entry(source).or_insert(*until);
        *earliest = (*until).min(*earliest);
    }
    expiries
}

fn none(situation: &Situation) -> Finding {
    let refused = situation.problems(Topic::References, Severity::Refused);
    let refused = lines(refused.filter(|problem| problem.reason == crate::translate::Reason::InvalidCertificateRef));
    match refused.is_empty() {
        true => Finding::unknown(PENDING, "no replica has presented a certificate yet"),
        false => Finding::no("InvalidCertificateRef", refused),
    }
}
