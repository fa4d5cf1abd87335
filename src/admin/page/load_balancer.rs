use std::{fmt::Write, sync::Arc};

use jiff::Timestamp;

use super::{
    conditions::write_conditions,
    html::{Column, HtmlText, byte_rate, marked, rate, sparkline, table, text},
    listed_problem::ListedProblem,
    overview::Overview,
    parts::PageParts,
    rates::{HISTORY, TrafficSum},
};
use crate::{
    admin::snapshot::{self, AppliedListener},
    model::{EndpointView, Tls, TlsMode, TlsVersion, Unready, UpstreamConfig},
    traffic::{RateHistory, bytes, per_second},
    translate::Severity,
    upstream::Endpoint,
};

/// The maximum number of endpoints in a table.
pub const MAX_ENDPOINTS: usize = 200;
/// The maximum number of problems of a load balancer.
const MAX_PROBLEMS: usize = 50;

/// The class of the style sheet for a severity.
pub fn class(severity: Option<Severity>) -> &'static str {
    match severity {
        None => "good",
        Some(Severity::Warning) => "warning",
        Some(Severity::Refused) => "bad",
    }
}

/// The number of problems by severity: `2 errors, 1 warning`.
pub fn counted(problems: &[ListedProblem]) -> String {
    let count = |severity| problems.iter().filter(|problem| problem.severity == severity).count();
    let counts = [(count(Severity::Refused), "error"), (count(Severity::Warning), "warning")];
    let parts = counts.into_iter().filter(|(count, _)| *count > 0);
    let parts: Vec<String> =
        parts.map(|(count, name)| format!("{count} {name}{}", if count == 1 { "" } else { "s" })).collect();
    parts.join(", ")
}

/// Writes the line of a load balancer in the list.
pub fn write_summary(page: &mut String, overview: &Overview, parts: &PageParts) {
    let Overview { name, endpoints, usable, active, rates, problems, .. } = overview;
    let (name, class) = (HtmlText(name), class(overview.severity()));
    let _ = write!(page, "<summary><span class=\"name\"><b>{name}</b>");
    if !problems.is_empty() {
        let _ = write!(page, " <span class=\"{class}\">{}</span>", counted(problems));
    }
    let failures = rate(*rates, |rates| rates.failures);
    let fails = if rates.is_some_and(|rates| rates.failures > 0.0) { " bad" } else { "" };
    let _ = write!(
        page,
        "</span><span class=\"n\" data-unit=\"usable\">{usable}/{endpoints}</span>\
         <span class=\"n\" data-unit=\"open\">{active}</span>\
         <span class=\"n\" data-unit=\"new/s\">{}</span>\
         <span class=\"n\">{}</span>\
         <span class=\"n{fails}\" data-unit=\"failures/s\">{failures}</span>",
        rate(*rates, |rates| rates.connections),
        byte_rate(*rates),
    );
    sparkline(page, parts.rates.traffic.recent(&TrafficSum::LoadBalancer(overview.object.clone())), HISTORY);
    page.push_str("</summary>");
}

/// Writes everything about a load balancer.
pub fn write_details(page: &mut String, overview: &Overview, parts: &PageParts) {
    let applied = overview.upstream.and_then(|upstream| parts.moment.view.snapshot.upstreams.get(upstream.key()));
    let _ = write!(page, "<p class=\"muted\">from {}", HtmlText(&overview.verdict.origin));
    if let Some(applied) = applied {
        let _ = write!(page, " · {:?}", applied.balancing.algorithm);
    }
    let _ = write!(
        page,
        " <a class=\"without-script\" href=\"{}\">keep expanded after reload</a></p>",
        HtmlText(&parts.query.with_expanded(&overview.name))
    );
    write_problems(page, &overview.problems);
    write_conditions(page, parts.replicas.conditions_of(overview.object));
    if parts.replicas.summed().is_some() {
        page.push_str("<p class=\"muted\">listeners and endpoints in this replica:</p>");
    }
    let listeners = snapshot::listeners(overview.object, &parts.moment.view, &parts.listeners);
    write_listeners(page, &listeners);
    write_routes(page, &listeners);
    write_certificates(page, &listeners, applied);
    write_endpoints(page, overview, parts);
    if let Some(applied) = applied.filter(|applied| !applied.unready.is_empty()) {
        let unready = applied.unready.iter().take(MAX_ENDPOINTS);
        let unready: Vec<String> = unready.map(|(key, why)| format!("{key} ({})", label(*why))).collect();
        let _ = write!(page, "<p>listed, but not serving: {}</p>", HtmlText(&unready.join(", ")));
    }
    parts.replicas.write_of(page, overview.verdict, &overview.own);
}

fn label(unready: Unready) -> &'static str {
    match unready {
        Unready::Drained => "drained",
        Unready::Terminating => "terminating",
        Unready::NotReady => "not ready",
    }
}

fn write_problems(page: &mut String, problems: &[ListedProblem]) {
    for ListedProblem { severity, sentence } in problems.iter().take(MAX_PROBLEMS) {
        let (class, name) = match severity {
            Severity::Refused => ("bad", "error"),
            Severity::Warning => ("warning", "warning"),
        };
        let _ = write!(page, "<p class=\"{class}\">{name}: {}</p>", HtmlText(sentence));
    }
    if let more @ 1.. = problems.len().saturating_sub(MAX_PROBLEMS) {
        let _ = write!(page, "<p>and {more} more</p>");
    }
}

fn write_listeners(page: &mut String, listeners: &[AppliedListener]) {
    if listeners.is_empty() {
        page.push_str("<p>nothing is served</p>");
        return;
    }
    let columns = [
        Column::Text("listener"),
        Column::Address("address"),
        Column::Text("TLS"),
        Column::Number("open"),
        Column::Number("accepted"),
        Column::WideNumber("to backends"),
        Column::WideNumber("to clients"),
        Column::Text("refused or failed"),
    ];
    table(
        page,
        columns,
        listeners.iter().map(|listener| {
            let address = match (&listener.bound, &listener.failure) {
                (Some(bound), _) => marked("good", bound),
                (None, failure) => marked("bad", failure.as_deref().unwrap_or("not bound")),
            };
            let failures: Vec<String> =
                listener.failures.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
            [
                text(&listener.applied.name),
                address,
                text(&tls(listener.applied.tls.as_ref())),
                listener.active.to_string(),
                listener.accepted.to_string(),
                bytes(listener.bytes_to_backend as f64),
                bytes(listener.bytes_to_client as f64),
                text(&failures.join(", ")),
            ]
        }),
    );
}

/// The handling of TLS on a listener.
fn tls(tls: Option<&Tls>) -> String {
    let Some(tls) = tls else { return "none".into() };
    let version = match tls.min_version {
        TlsVersion::V1_2 => "TLS 1.2+",
        TlsVersion::V1_3 => "TLS 1.3+",
    };
    let mut parts = Vec::new();
    let has_mode = |mode| tls.routes.iter().any(|route| route.mode == mode);
    if has_mode(TlsMode::Terminate) {
        parts.push(format!("terminated, {version}"));
        if tls.client_validation.is_some() {
            parts.push("client certificates".into());
        }
    }
    if has_mode(TlsMode::Passthrough) {
        parts.push("passthrough".into());
    }
    if let Some(start_tls) = tls.start_tls {
        parts.push(format!("after {start_tls:?} request"));
    }
    parts.join("; ")
}

fn write_routes(page: &mut String, listeners: &[AppliedListener]) {
    let routes: Vec<_> = listeners
        .iter()
        .flat_map(|listener| {
            let routes = listener.applied.tls.iter().flat_map(|tls| &tls.routes);
            routes.map(|route| (&listener.applied.name, route))
        })
        .collect();
    let is_plain = |(_, route): &(_, &crate::model::Route)| route.server_names.is_empty() && route.backends.is_none();
    if routes.iter().all(is_plain) {
        return;
    }
    let columns =
        [Column::Text("listener"), Column::Text("server names"), Column::Text("TLS"), Column::Text("backends")];
    table(
        page,
        columns,
        routes.into_iter().map(|(listener, route)| {
            let names = if route.server_names.is_empty() { "all others".into() } else { route.server_names.join(", ") };
            let mode = match route.mode {
                TlsMode::Terminate => "terminated",
                TlsMode::Passthrough => "passthrough",
            };
            let backends = route.backends.as_ref().map_or("all".into(), |backends| backends.join(", "));
            [text(listener), text(&names), mode.into(), text(&backends)]
        }),
    );
}

/// Writes the certificates of listeners, and the client certificates for backends.
fn write_certificates(page: &mut String, listeners: &[AppliedListener], applied: Option<&Arc<UpstreamConfig>>) {
    let of_listeners = listeners.iter().flat_map(|listener| {
        let certificates = listener.applied.tls.iter().flat_map(|tls| &tls.certificates);
        certificates.map(|certificate| (format!("listener {}", listener.applied.name), certificate))
    });
    let backends = applied.into_iter().flat_map(|applied| &applied.backends);
    let for_backends =
        backends.filter_map(|(name, backend)| Some((format!("backend {name}"), backend.shown_certificate()?)));
    let mut certificates = of_listeners.chain(for_backends).peekable();
    if certificates.peek().is_none() {
        return;
    }
    let now = Timestamp::now();
    let columns =
        [Column::Text("used for"), Column::Text("certificate"), Column::WideText("names"), Column::Text("expires")];
    table(
        page,
        columns,
        certificates.map(|(used_for, certificate)| {
            let days = certificate.not_after.duration_since(now).as_hours().div_euclid(24);
            let (class, expiry) = match days {
                ..0 => ("bad", format!("expired on {:.0}", certificate.not_after)),
                0..14 => ("warning", format!("in {days} days")),
                _ => ("good", format!("in {days} days")),
            };
            let names = certificate.names.as_slice().join(", ");
            [text(&used_for), text(&certificate.source), text(&names), marked(class, &expiry)]
        }),
    );
}

fn write_endpoints(page: &mut String, overview: &Overview, parts: &PageParts) {
    let Some(upstream) = overview.upstream else { return };
    let endpoints = upstream.endpoints();
    if endpoints.is_empty() {
        return;
    }
    let mut order: Vec<&Endpoint> = endpoints.iter().map(|endpoint| &**endpoint).collect();
    let search = &parts.query.search;
    let is_found = |endpoint: &Endpoint| {
        !search.is_empty()
            && (&*endpoint.key().backend == search.as_str() || endpoint.address().to_string().contains(search))
    };
    order.sort_by_cached_key(|endpoint| (!is_found(endpoint), endpoint.usable()));
    let columns = [
        Column::Address("endpoint"),
        Column::Text("backend"),
        Column::Text("state"),
        Column::WideNumber("weight"),
        Column::WideText("checks"),
        Column::Number("open"),
        Column::Number("connections"),
        Column::Number("new/s"),
        Column::WideNumber("failed"),
        Column::Text("last failure"),
    ];
    let applied = parts.moment.view.snapshot.upstreams.get(upstream.key());
    table(
        page,
        columns,
        order.iter().take(MAX_ENDPOINTS).map(|endpoint| {
            let rates = &parts.rates.endpoints;
            endpoint_row(&snapshot::member(endpoint, applied), endpoint.id(), rates)
        }),
    );
    if let more @ 1.. = order.len().saturating_sub(MAX_ENDPOINTS) {
        let _ = write!(
            page,
            "<p>and {more} more endpoints: search for an address, or read <a href=\"/snapshot\">/snapshot</a></p>"
        );
    }
}

fn endpoint_row(endpoint: &EndpointView, id: u64, rates: &RateHistory<u64>) -> [String; 10] {
    let check = match &endpoint.check {
        None => "none".into(),
        Some(check) => format!("{} {} ok, {} failed", check.type_, check.passed, check.failed),
    };
    let new = rates.latest(&id).map_or("–".into(), |rates| per_second(rates.connections));
    [
        text(&endpoint.address),
        text(&endpoint.backend),
        state(endpoint),
        endpoint.weight.to_string(),
        text(&check),
        endpoint.active.to_string(),
        endpoint.connections.to_string(),
        new,
        endpoint.connect_failures.to_string(),
        text(endpoint.last_failure.as_deref().unwrap_or_default()),
    ]
}

fn state(endpoint: &EndpointView) -> String {
    let near = if endpoint.near { ", near" } else { "" };
    let state = match (endpoint.usable, endpoint.healthy) {
        (true, _) if !endpoint.in_service => {
            format!("<span class=\"good\">standby</span> (priority {})", endpoint.priority)
        }
        (true, _) if endpoint.share < 100 => marked("good", &format!("usable, {} % of its weight", endpoint.share)),
        (true, _) => marked("good", "usable"),
        (false, false) => marked("bad", "unhealthy"),
        (false, true) => match &endpoint.ejected_until {
            Some(until) => marked("bad", &format!("ejected until {until}")),
            None => marked("bad", "ejected"),
        },
    };
    state + near
}
