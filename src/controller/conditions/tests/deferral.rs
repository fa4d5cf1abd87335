//! References of a new or changed object that appear later than the object.

use jiff::SignedDuration;
use kube::runtime::events::EventType;

use super::*;
use crate::controller::events::transitions;

/// The state of the objects that a load balancer refers to.
#[derive(Clone, Copy, Debug)]
enum Stage {
    NoService,
    NoSecret,
    NoPods,
    NoSlices,
    PodsStart,
    ChecksFail,
    ConnectionsFail,
    /// The declaration is invalid too.
    Refused,
    Complete,
}

impl Stage {
    fn apply(self, case: &mut Case) {
        let missing = |severity, reason| vec![problem(severity, reason, "spec.x", "it is missing")];
        case.problems = match self {
            Self::NoService => missing(Severity::Refused, Reason::RefNotFound),
            Self::NoSecret => missing(Severity::Refused, Reason::InvalidCertificateRef),
            Self::NoPods => missing(Severity::Warning, Reason::NoEndpoints),
            Self::NoSlices => missing(Severity::Warning, Reason::EndpointsPending),
            Self::PodsStart => missing(Severity::Warning, Reason::EndpointsNotReady),
            Self::Refused => missing(Severity::Refused, Reason::Invalid),
            Self::ChecksFail | Self::ConnectionsFail | Self::Complete => Vec::new(),
        };
        let health = match self {
            Self::NoService | Self::NoPods | Self::NoSlices | Self::PodsStart => health(0, 0),
            Self::ChecksFail => health(3, 0),
            Self::ConnectionsFail => BackendHealth { failing: 3, ..health(3, 3) },
            Self::NoSecret | Self::Refused | Self::Complete => health(3, 3),
        };
        let listeners = match self {
            Self::NoSecret => BTreeMap::new(),
            _ => served().listeners,
        };
        let backends = BTreeMap::from([("postgres".into(), health)]);
        case.served = vec![("a", Some(Served { listeners, backends, ..served() }))];
    }
}

/// The Warnings, each with its second and reason, while the world changes at these seconds.
fn warnings(changes: &[(i64, Stage)], before: Option<TcpLoadBalancerStatus>) -> Vec<(i64, String)> {
    let mut case = Case { before, ..Case::default() };
    let mut warnings = Vec::new();
    for second in 0..=150 {
        if let Some((_, stage)) = changes.iter().find(|(at, _)| *at == second) {
            stage.apply(&mut case);
        }
        case.now = NOW + SignedDuration::from_secs(second);
        let status = case.first_status();
        let before = case.before.as_ref().map_or(&[][..], |before| &before.conditions);
        let events = transitions(before, &status.conditions);
        let events = events.into_iter().filter(|event| matches!(event.type_, EventType::Warning));
        warnings.extend(events.map(|event| (second, event.reason)));
        case.before = Some(status);
    }
    warnings
}

#[test]
fn references_of_a_new_object_may_appear_later_in_any_order() {
    use Stage::*;
    for changes in [
        &[(0, NoService), (3, NoSlices), (5, NoPods), (9, PodsStart), (60, Complete)][..],
        &[(0, NoSecret), (9, Complete)],
        &[(0, NoService), (9, NoPods), (20, ChecksFail), (29, NoSecret), (38, Complete)],
        &[(0, PodsStart), (119, Complete)],
        &[(0, ChecksFail), (20, Complete)],
    ] {
        assert_eq!(warnings(changes, None), [], "{changes:?}");
        let mut older = Case::default().status();
        for condition in &mut older.conditions {
            condition.observed_generation = Some(GENERATION - 1);
        }
        assert_eq!(warnings(changes, Some(older)), [], "{changes:?}, of a changed object");
    }
}

#[test]
fn lasting_faults_are_reported() {
    use Stage::*;
    for (changes, expected) in [
        (&[(0, NoService)][..], &[(10, "RefNotFound"), (30, "NoEndpoints")][..]),
        (&[(0, NoSecret)], &[(10, "InvalidCertificateRef"), (10, "Invalid")]),
        (&[(0, NoPods)], &[(30, "NoEndpoints")]),
        (&[(0, NoSlices)], &[(30, "NoEndpoints")]),
        (&[(0, PodsStart)], &[(120, "NoEndpoints")]),
        (&[(0, PodsStart), (60, NoPods)], &[(60, "NoEndpoints")]),
        (&[(0, ChecksFail)], &[(30, "Unhealthy")]),
        (&[(0, Refused)], &[(0, "Invalid")]),
        (&[(0, ConnectionsFail)], &[(0, "ConnectionsFail")]),
        // After an outage, only references are deferred, since they may be in the middle of a replacement.
        (&[(0, Complete), (40, NoSecret)], &[(50, "InvalidCertificateRef"), (50, "Invalid")]),
        (&[(0, Complete), (40, NoPods)], &[(40, "NoEndpoints")]),
        (&[(0, Complete), (40, ChecksFail)], &[(40, "Unhealthy")]),
        (&[(0, NoSecret), (5, Complete), (40, NoSecret), (45, Complete)], &[]),
    ] {
        let expected: Vec<_> = expected.iter().map(|(second, reason)| (*second, (*reason).to_owned())).collect();
        assert_eq!(warnings(changes, None), expected, "{changes:?}");
    }
}

#[test]
fn missing_references_are_named_at_once() {
    let mut case = Case::default();
    let reason = |case: &Case, type_| state_of(&case.first_status().conditions, type_);
    Stage::NoSecret.apply(&mut case);
    for type_ in [RESOLVED_REFS, PROGRAMMED, "Ready"] {
        assert_eq!(reason(&case, type_).0, "False/Pending");
    }
    assert_eq!(reason(&case, "Reconciling"), ("True/Pending".into(), "ResolvedRefs: spec.x: it is missing".into()));
    assert_eq!(case.statuses().changes_at(), Some(NOW + SignedDuration::from_secs(10)));
    Stage::NoPods.apply(&mut case);
    let (reason, message) = reason(&case, BACKENDS_HEALTHY);
    assert_eq!(reason, "False/Pending");
    assert!(message.starts_with("there are no endpoints: connections are refused\nspec.x: it is missing"), "{message}");
    assert_eq!(case.statuses().changes_at(), Some(NOW + SignedDuration::from_secs(30)));
    Stage::Complete.apply(&mut case);
    assert_eq!(case.statuses().changes_at(), None);
}
