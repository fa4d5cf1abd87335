//! The admin page for browsers.

use std::fmt::Write;

use super::snapshot::{self, AppliedListener, AppliedLoadBalancer};
use crate::{
    model::{DrainView, EndpointView, TlsVersion},
    printable::printable,
    proxy::Monitor,
    state::ReadinessState,
};

pub const STYLE: &str = "\
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.3rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #8884 }
td.number, th.number { text-align: right }
.good { color: #187a33 } .bad { color: #b3261e }
@media (prefers-color-scheme: dark) { .good { color: #6fce87 } .bad { color: #ff8a80 } }
nav a { margin-right: 1rem }";

/// The complete page: no scripts, no external content. It reloads itself.
pub fn render(monitor: &Monitor, state: &ReadinessState) -> String {
    let picture = snapshot::of(monitor, state);
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"2\">\
         <title>tcplb</title><link rel=\"stylesheet\" href=\"/style.css\"><h1>tcplb {}</h1>\
         <nav><a href=\"/metrics\">metrics</a><a href=\"/snapshot\">snapshot</a><a href=\"/livez\">livez</a>\
         <a href=\"/readyz\">readyz</a><a href=\"/lb-ready\">lb-ready</a></nav>\
         <p>{} · configuration generation {}</p>",
        env!("CARGO_PKG_VERSION"),
        mark(state.takes_new_connections(), "accepting connections", "not accepting new connections"),
        picture.generation,
    );
    for problem in &picture.problems {
        let _ = write!(page, "<p class=\"bad\">{}</p>", escape(problem));
    }
    for load_balancer in &picture.load_balancers {
        write_load_balancer(&mut page, load_balancer);
    }
    write_draining(&mut page, &picture.draining);
    page
}

fn write_load_balancer(page: &mut String, load_balancer: &AppliedLoadBalancer) {
    let _ = write!(page, "<h2>{}</h2><p>from {}", escape(&load_balancer.name), escape(&load_balancer.origin));
    if let Some(applied) = &load_balancer.applied {
        let _ = write!(page, " · {:?}", applied.balancing.algorithm);
    }
    page.push_str("</p>");
    for problem in &load_balancer.problems {
        let _ = write!(page, "<p class=\"bad\">{}: {}</p>", problem.severity, escape(&problem.sentence));
    }
    if load_balancer.listeners.is_empty() {
        return;
    }
    page.push_str(
        "<table><tr><th>listener<th>address<th>TLS<th class=\"number\">open<th class=\"number\">accepted</tr>",
    );
    load_balancer.listeners.iter().for_each(|port| write_port(page, port));
    page.push_str(
        "</table><table><tr><th>endpoint<th>backend<th>state<th>check<th class=\"number\">open<th class=\"number\">connections\
         <th>last failure</tr>",
    );
    load_balancer.endpoints.iter().for_each(|member| write_member(page, member));
    page.push_str("</table>");
}

fn write_draining(page: &mut String, all: &[DrainView]) {
    if all.is_empty() {
        return;
    }
    page.push_str(
        "<h2>draining</h2><table><tr><th>load balancer<th>endpoint or listener<th>reason<th class=\"number\">open</tr>",
    );
    for DrainView { load_balancer, what, reason, active } in all {
        let (load_balancer, what) = (escape(load_balancer), escape(what));
        let _ = write!(page, "<tr><td>{load_balancer}<td>{what}<td>{reason}<td class=\"number\">{active}</tr>");
    }
    page.push_str("</table>");
}

fn write_port(page: &mut String, port: &AppliedListener) {
    let address = match (&port.bound, &port.failure) {
        (Some(bound), _) => mark(true, bound, ""),
        (None, failure) => mark(false, "", failure.as_deref().unwrap_or("not bound")),
    };
    let tls = match port.applied.tls.as_ref().map(|tls| tls.min_version) {
        None => "none",
        Some(TlsVersion::V1_2) => "TLS1.2",
        Some(TlsVersion::V1_3) => "TLS1.3",
    };
    let _ = write!(
        page,
        "<tr><td>{}<td>{address}<td>{tls}<td class=\"number\">{}<td class=\"number\">{}</tr>",
        escape(&port.applied.name),
        port.active,
        port.accepted
    );
}

fn write_member(page: &mut String, member: &EndpointView) {
    let state = match (member.usable, member.healthy) {
        (true, _) if !member.in_service => mark(true, "standby", ""),
        (true, _) if member.share < 100 => mark(true, &format!("usable, {} %", member.share), ""),
        (true, _) => mark(true, "usable", ""),
        (false, false) => mark(false, "", "unhealthy"),
        (false, true) => mark(false, "", "ejected"),
    };
    let _ = write!(
        page,
        "<tr><td>{}<td>{}<td>{state}<td>{}<td class=\"number\">{}<td class=\"number\">{}<td>{}</tr>",
        escape(&member.address),
        escape(&member.backend),
        member.check.as_ref().map_or("none", |check| &check.type_),
        member.active,
        member.connections,
        escape(member.last_failure.as_deref().unwrap_or(""))
    );
}

fn mark(good: bool, yes: &str, no: &str) -> String {
    let (class, text) = if good { ("good", yes) } else { ("bad", no) };
    format!("<span class=\"{class}\">{}</span>", escape(text))
}

/// The maximum length of a text in a cell or paragraph.
const MAX_TEXT: usize = 4096;

fn escape(text: &str) -> String {
    let text = printable(text, MAX_TEXT);
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}
