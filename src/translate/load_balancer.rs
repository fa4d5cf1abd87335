//! Translation of one load balancer, with its fallback while the declaration is wrong.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    backends::slices::Retention,
    context::TranslateContext,
    declaration::{Declaration, NONE_SERVED},
    field_errors::{FieldPath, duplicate_of, validated},
    last_good::LastGood,
    listeners::{self, CommonSettings, ports::ListenerRequest, service},
    messages::listener_fallback,
    quotas, settings,
    tls::certificates::CertificateLoader,
    upstream,
    verdict::{Part, Problem, Reason, Severity, Verdict},
};
use crate::{
    api::{self, Placement},
    model::{Listener, ListenerKey, ObjectKey, UpstreamConfig},
    world::{Declared, ProcessMode},
};

/// One translated load balancer, before port conflicts with others are resolved.
pub(super) struct TranslatedLoadBalancer {
    pub listeners: BTreeMap<ListenerKey, ListenerRequest>,
    /// `None`: no listener can be served.
    pub upstream: Option<Arc<UpstreamConfig>>,
    /// Retention of its endpoints.
    pub retention: Retention,
}

pub(super) fn translate(
    object: &ObjectKey,
    declared: &Declared,
    context: &TranslateContext,
    certificates: &mut CertificateLoader,
) -> (TranslatedLoadBalancer, Verdict) {
    let last_good = LastGood::of(object, declared, context);
    let mut problems = unreadable(declared, &last_good);
    problems.extend(declared.without_value.iter().map(|field| ignored(field)));
    let translated = match &declared.spec {
        None => retained(object, &last_good, context),
        Some(spec) => {
            let Declared { folder, .. } = declared;
            let declaration = Declaration { object, uid: declared.uid(), spec, folder, context, last_good };
            declaration.translate(certificates, &mut problems)
        }
    };
    (translated, Verdict { origin: declared.origin.clone(), identity: declared.identity.clone(), problems })
}

/// Problems of a declaration that cannot be parsed.
fn unreadable(declared: &Declared, last_good: &LastGood) -> Vec<Problem> {
    let fallback = match &declared.spec {
        Some(_) => "the last valid version stays in use",
        None if !last_good.listeners.is_empty() => "the previous configuration stays in use",
        None => "it is not served",
    };
    declared
        .problems
        .iter()
        .map(|problem| Problem {
            severity: Severity::Refused,
            reason: Reason::Invalid,
            part: Part::Object,
            field: String::new(),
            message: format!("{problem}; {fallback}"),
        })
        .collect()
}

/// The warning about a field without a value.
fn ignored(field: &str) -> Problem {
    Problem {
        severity: Severity::Warning,
        reason: Reason::Invalid,
        part: Part::Object,
        field: field.into(),
        message:
            "has no value, so it is ignored: write one (fields that belong to it are indented below it), or remove \
                  the field"
                .into(),
    }
}

/// Requests for everything that the load balancer served before.
fn retained(object: &ObjectKey, last_good: &LastGood, context: &TranslateContext) -> TranslatedLoadBalancer {
    let key = |port| ListenerKey { object: object.clone(), port };
    let request =
        |(port, listener): (&u16, &&Arc<Listener>)| (key(*port), ListenerRequest::LastGood(Arc::clone(listener)));
    TranslatedLoadBalancer {
        listeners: last_good.listeners.iter().map(request).collect(),
        upstream: last_good.upstream.as_ref().map(|upstream| context.retained(object, upstream)),
        retention: Retention::default(),
    }
}

impl Declaration<'_> {
    fn translate(&self, certificates: &mut CertificateLoader, problems: &mut Vec<Problem>) -> TranslatedLoadBalancer {
        match &self.context.world.mode {
            ProcessMode::Gateway(_, tenancy) => service::check(self.spec, tenancy, problems),
            ProcessMode::Host(_) | ProcessMode::Sidecar(_) => {
                if self.spec.placement.is_some_and(|placement| placement != Placement::Gateway) {
                    service::refuse(self.spec, problems);
                }
            }
            ProcessMode::Standalone => {}
        }
        let within_quota =
            validated(Part::Object, self.listeners_fallback(), problems, |path| quotas::check(self, path)).is_some();
        let shared = self.shared(problems);
        let listeners = self.listeners(&shared, within_quota, certificates, problems);
        let Some(upstream::TranslatedUpstream { upstream, fell_back, retention }) =
            upstream::translate(self, shared.keepalive, certificates, problems)
        else {
            // Listeners without an upstream cannot forward connections.
            return TranslatedLoadBalancer {
                listeners: BTreeMap::new(),
                upstream: None,
                retention: Retention::default(),
            };
        };
        let listeners = match fell_back {
            true => listeners.into_iter().map(|(key, request)| (key, request.with_last_good_routes())).collect(),
            false => listeners,
        };
        TranslatedLoadBalancer {
            listeners,
            upstream: Some(reuse(upstream, self.last_good.upstream.as_ref())),
            retention,
        }
    }

    fn key(&self, declared: &api::Listener) -> ListenerKey {
        ListenerKey { object: self.object.clone(), port: declared.port }
    }

    /// Fallback text for problems that affect all listeners.
    fn listeners_fallback(&self) -> &'static str {
        let listeners = &self.spec.listeners;
        let kept = listeners.iter().filter(|declared| self.last_good_listener(declared).is_some()).count();
        match listeners.len() {
            _ if kept == 0 => NONE_SERVED,
            all if kept == all => "its listeners keep their previous configuration",
            _ => "its listeners that were served keep their previous configuration, the others are not served",
        }
    }

    /// The settings that all listeners share.
    fn shared(&self, problems: &mut Vec<Problem>) -> CommonSettings {
        let (spec, fallback) = (self.spec, self.listeners_fallback());
        CommonSettings {
            timeouts: validated(Part::Timeouts, fallback, problems, |path| settings::timeouts(spec, path)),
            keepalive: validated(Part::TcpKeepalive, fallback, problems, |path| settings::keepalive(spec, path)),
            drain: validated(Part::Drain, fallback, problems, |path| settings::listener_drain(spec, path)),
        }
    }

    fn listeners(
        &self,
        shared: &CommonSettings,
        within_quota: bool,
        certificates: &mut CertificateLoader,
        problems: &mut Vec<Problem>,
    ) -> BTreeMap<ListenerKey, ListenerRequest> {
        validated(Part::Listeners, NONE_SERVED, problems, |path| {
            if self.spec.listeners.is_empty() {
                path.refuse("must not be empty: write at least one port");
            }
        });
        let mut requests = BTreeMap::new();
        for (index, declared) in self.spec.listeners.iter().enumerate() {
            let before = self.last_good_listener(declared);
            let kept = before.filter(|before| !is_open_now(declared, before));
            let fallback = listener_fallback(kept.is_some());
            let listener = validated(Part::Listener(index), fallback, problems, |path| {
                self.check_identity(index, path);
                // Secrets of listeners beyond the quota are not read.
                let is_within = within_quota && quotas::check_listener(self, index, path);
                is_within.then(|| listeners::translate(declared, shared, self, certificates, path)).flatten()
            });
            let request = match listener.flatten() {
                Some(listener) => {
                    Some(ListenerRequest::Declared { listener: reuse(listener, before), index, before: kept.cloned() })
                }
                None => kept.cloned().map(ListenerRequest::LastGood),
            };
            requests.extend(request.map(|request| (self.key(declared), request)));
        }
        requests
    }

    /// Checks the identity of a listener: its port, and its name where there are several listeners.
    fn check_identity(&self, index: usize, path: &mut FieldPath) {
        let listeners = &self.spec.listeners;
        let api::Listener { name, port, .. } = &listeners[index];
        if let Some(other) = duplicate_of(listeners, index, |listener| listener.port) {
            let message = format!("{port} is also the port of spec.listeners[{other}]: write each port once");
            path.at("port").refuse(message);
        }
        match name {
            None if listeners.len() > 1 => {
                path.at("name").refuse("is missing: several listeners require a name for each");
            }
            None => {}
            Some(name) => {
                if let Some(other) = duplicate_of(listeners, index, |listener| listener.name.as_ref()) {
                    let message = format!("`{name}` is also the name of spec.listeners[{other}]: write another");
                    path.at("name").refuse(message);
                }
            }
        }
    }
}

/// True if the declaration adds client validation to a listener that had none. Such a listener does not keep its
/// previous configuration, which admits all clients.
fn is_open_now(declared: &api::Listener, before: &Listener) -> bool {
    let asks = declared.tls.as_ref().is_some_and(|tls| tls.client_validation.is_some());
    asks && before.tls.as_ref().is_none_or(|tls| tls.client_validation.is_none())
}

/// Returns `before` if it equals `new`, so pointer comparison shows that nothing changed.
fn reuse<T: PartialEq>(new: T, before: Option<&Arc<T>>) -> Arc<T> {
    before.filter(|before| ***before == new).cloned().unwrap_or_else(|| Arc::new(new))
}
