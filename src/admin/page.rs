//! The admin page for browsers. It is complete without scripts; with them, it updates in place.

mod conditions;
mod html;
mod listed_problem;
mod load_balancer;
mod overview;
mod parts;
mod query;
mod rates;
mod replicas;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use jiff::{SignedDuration, Timestamp};

use self::{
    html::{Column, HtmlText, byte_rate, marked, rate, sparkline, table, text},
    load_balancer::{MAX_ENDPOINTS, class, counted, write_details, write_summary},
    overview::{Overview, arrange},
    parts::PageParts,
    query::{PageOrder, PageQuery, fragment},
    rates::{HISTORY, PageRates, TrafficSum},
    replicas::ReplicaViews,
};
use super::{instance::Instance, moment::Moment, snapshot};
use crate::{
    model::{DrainView, TrafficByReplica},
    proxy::Monitor,
    state::ReadinessState,
    translate::Severity,
};

pub const STYLE: &str = include_str!("page/style.css");
pub const SCRIPT: &str = include_str!("page/script.js");
pub const ICON: &str = include_str!("page/icon.svg");

/// The maximum number of load balancers on the page.
const MAX_LISTED: usize = 500;
/// The maximum number of load balancers that the summary names.
const MAX_NAMED: usize = 10;
/// The maximum number of draining endpoints and listeners on the page.
const MAX_DRAINING: usize = 100;
/// The number of endpoints up to which details are written without a request for them.
const MAX_UNREQUESTED: usize = 400;

/// Renders the page, and keeps the rates of the requests for it.
pub struct StatusPage {
    instance: Instance,
    rates: Mutex<PageRates>,
    /// The number of rendered pages.
    rendered: AtomicU64,
}

impl StatusPage {
    pub fn new(instance: Instance) -> Self {
        Self { instance, rates: Mutex::default(), rendered: AtomicU64::new(0) }
    }

    /// The number of pages rendered so far.
    pub fn rendered(&self) -> u64 {
        self.rendered.load(Relaxed)
    }

    /// Forgets the rates, unless more pages than these have been rendered.
    pub fn forget_rates(&self, rendered: u64) {
        if self.rendered() == rendered {
            *self.rates.lock().unwrap_or_else(PoisonError::into_inner) = PageRates::default();
        }
    }

    /// The page for a request with this query. `traffic` is that of the other replicas, if this one leads.
    pub fn render(
        &self,
        monitor: &Monitor,
        state: &ReadinessState,
        query: &str,
        traffic: Option<Arc<TrafficByReplica>>,
    ) -> String {
        self.rendered.fetch_add(1, Relaxed);
        let moment = Moment::now(monitor, state);
        let leader_view = state.instruments().leader_view();
        let mut parts = PageParts {
            monitor,
            state,
            query: PageQuery::parse(query),
            moment: &moment,
            listeners: moment.listeners(),
            replicas: ReplicaViews::new(leader_view, traffic, &self.instance.name),
            active: BTreeMap::new(),
            rates: self.rates.lock().unwrap_or_else(PoisonError::into_inner),
        };
        let overviews = parts.overviews();
        let mut page = String::with_capacity(16 << 10);
        write_head(&mut page, &self.instance, &overviews);
        write_form(&mut page, &parts.query);
        page.push_str("<main id=\"live\">");
        self.write_facts(&mut page, &parts, &overviews);
        write_findings(&mut page, &parts, &overviews);
        parts.replicas.write(&mut page, &moment.configuration, &parts.active, &parts.rates);
        write_draining(&mut page, &parts);
        write_list(&mut page, &parts, overviews);
        page.push_str("</main>");
        page.push_str(HELP);
        page
    }

    fn write_facts(&self, page: &mut String, parts: &PageParts, overviews: &[Overview]) {
        page.push_str("<dl class=\"facts\">");
        for (name, value) in self.facts(parts).into_iter().chain(traffic_facts(parts, overviews)) {
            let _ = write!(page, "<div><dt>{name}</dt><dd>{value}</dd></div>");
        }
        sparkline(page, parts.rates.traffic.recent(&TrafficSum::All), HISTORY);
        page.push_str("</dl>\n");
    }

    /// The names and the markup of facts about the process.
    fn facts(&self, parts: &PageParts) -> Vec<(&'static str, String)> {
        let process = self.instance.view(parts.state);
        let mut facts = vec![(if process.node.is_some() { "pod" } else { "host" }, text(&process.name))];
        facts.extend(process.node.as_deref().map(|node| ("node", text(node))));
        facts.extend(process.zone.as_deref().map(|zone| ("zone", text(zone))));
        facts.push(("version", text(&process.version)));
        facts.push(("uptime", duration(Timestamp::now().duration_since(self.instance.started))));
        let other = process.leader.as_deref().filter(|_| !process.leads);
        facts.extend(process.leads.then(|| ("leader", "this replica".into())));
        facts.extend(other.map(|leader| ("leader", text(leader))));
        facts.push(("configuration", format!("generation {}", parts.moment.view.snapshot.generation)));
        let (class, state) = match process.accepts {
            true => ("good", "accepting connections"),
            false => ("bad", "not accepting new connections"),
        };
        facts.push(("state", marked(class, state)));
        facts
    }
}

/// The names and the markup of the numbers of all load balancers together.
fn traffic_facts(parts: &PageParts, overviews: &[Overview]) -> [(&'static str, String); 4] {
    let rates = parts.rates.traffic.latest(&TrafficSum::All);
    let open: u64 = overviews.iter().map(|overview| overview.active).sum();
    let own: u64 = overviews.iter().map(|overview| overview.own.active).sum();
    let own = format!("{own} of {}", parts.monitor.capacity().total());
    let open = match parts.replicas.summed() {
        Some((known, all)) => format!("{open} in {known} of {all} replicas, {own} here"),
        None => own,
    };
    [
        ("open", open),
        ("new", rate(rates, |rates| rates.connections) + "/s"),
        ("relayed", byte_rate(rates)),
        ("failures", rate(rates, |rates| rates.failures) + "/s"),
    ]
}

fn write_head(page: &mut String, instance: &Instance, overviews: &[Overview]) {
    let with_problems = overviews.iter().filter(|overview| !overview.problems.is_empty()).count();
    let name = HtmlText(&instance.name);
    let title = if with_problems > 0 { format!("{with_problems} with problems · ") } else { String::new() };
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>{title}tcplb {name}</title>\
         <link rel=\"icon\" href=\"/icon.svg\"><link rel=\"stylesheet\" href=\"/style.css\">\
         <script src=\"/script.js\" defer></script>\
         <noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript></head><body>\n\
         <header><h1>tcplb</h1><nav><a href=\"/metrics\">metrics</a><a href=\"/snapshot\">snapshot</a>\
         <a href=\"/livez\">livez</a><a href=\"/readyz\">readyz</a><a href=\"/lb-ready\">lb-ready</a>\
         <button id=\"show-help\" class=\"with-script\" type=\"button\">keys</button></nav></header>\
         <p id=\"connection\" role=\"status\" hidden></p>\n"
    );
}

fn write_form(page: &mut String, query: &PageQuery) {
    let _ = write!(
        page,
        "<form id=\"filter\" role=\"search\"><input type=\"search\" name=\"q\" value=\"{}\" autocomplete=\"off\" \
         placeholder=\"name, address or problem\" aria-label=\"search load balancers\">\
         <label>sort by <select name=\"sort\">",
        HtmlText(&query.search)
    );
    for order in PageOrder::ALL {
        let selected = if order == query.order { " selected" } else { "" };
        let _ = write!(page, "<option value=\"{}\"{selected}>{}</option>", order.parameter(), order.title());
    }
    page.push_str("</select></label><button class=\"without-script\">show</button></form>\n");
}

/// Writes the number of problems with links to the load balancers, and the problems that belong to none.
fn write_findings(page: &mut String, parts: &PageParts, overviews: &[Overview]) {
    let mut found: Vec<&Overview> = overviews.iter().filter(|overview| !overview.problems.is_empty()).collect();
    found.sort_by_key(|overview| overview.severity());
    let errors = found.iter().filter(|overview| overview.severity() == Some(Severity::Refused)).count();
    let class = class(found.first().and_then(|overview| overview.severity()));
    let _ = write!(page, "<p id=\"summary\" class=\"{class}\">");
    let all = overviews.len();
    let _ = match (errors, found.len() - errors) {
        (0, 0) if all == 0 => write!(page, "no load balancers are declared"),
        (0, 0) => write!(page, "all {all} load balancers are served without problems"),
        (0, warnings) => write!(page, "{warnings} of {all} load balancers have warnings: "),
        (errors, 0) => write!(page, "{errors} of {all} load balancers have errors: "),
        (errors, warnings) => {
            write!(page, "{errors} of {all} load balancers have errors, {warnings} have only warnings: ")
        }
    };
    for (index, overview) in found.iter().take(MAX_NAMED).enumerate() {
        let (link, name) = (fragment(&overview.name), HtmlText(&overview.name));
        let _ = write!(page, "{}<a href=\"{link}\">{name}</a>", if index > 0 { ", " } else { "" });
    }
    if let more @ 1.. = found.len().saturating_sub(MAX_NAMED) {
        let _ = write!(page, " and {more} more");
    }
    page.push_str("</p>\n");
    if parts.state.instruments().lacks_leader() {
        page.push_str(
            "<p class=\"bad\">no replica is the leader, as far as this one knows: statuses and ports do not change; see \
             its log</p>",
        );
    }
    if let unready @ 1.. = parts.replicas.unready() {
        let _ = write!(
            page,
            "<p class=\"bad\">{unready} replicas are not ready: see the events and logs of their pods</p>"
        );
    }
    if let silent @ 1.. = parts.replicas.silent() {
        let _ = write!(
            page,
            "<p class=\"bad\">ready replicas that do not report: {silent}; the log of this replica has the causes</p>"
        );
    }
    for problem in &parts.moment.configuration.problems {
        let _ = write!(page, "<p class=\"bad\">error: {}</p>", HtmlText(problem));
    }
}

fn write_draining(page: &mut String, parts: &PageParts) {
    let drains = &parts.moment.draining;
    if drains.is_empty() {
        return;
    }
    page.push_str("<section id=\"draining\"><h2>Draining");
    if parts.replicas.summed().is_some() {
        page.push_str(" <span class=\"muted\">in this replica</span>");
    }
    page.push_str("</h2>");
    let columns = [
        Column::Text("load balancer"),
        Column::Address("endpoint or listener"),
        Column::Text("reason"),
        Column::Number("open"),
        Column::Number("time left"),
    ];
    let now = Timestamp::now();
    table(
        page,
        columns,
        drains.iter().take(MAX_DRAINING).map(|draining| {
            let DrainView { load_balancer, what, reason, active, until, .. } = snapshot::draining(draining);
            let left = until.map(|until| until.duration_since(now).max(SignedDuration::ZERO));
            [
                text(&load_balancer),
                text(&what),
                text(&reason),
                active.to_string(),
                left.map(duration).unwrap_or_default(),
            ]
        }),
    );
    if let more @ 1.. = drains.len().saturating_sub(MAX_DRAINING) {
        let _ = write!(page, "<p>and {more} more</p>");
    }
    page.push_str("</section>");
}

fn write_list(page: &mut String, parts: &PageParts, overviews: Vec<Overview>) {
    let all = overviews.len();
    let listed = arrange(overviews, &parts.query, parts.moment);
    let _ = write!(page, "<section id=\"load-balancers\"><h2>Load balancers");
    if listed.len() < all {
        let _ = write!(page, " <span class=\"muted\">{} of {all}</span>", listed.len());
    }
    page.push_str("</h2><div class=\"columns\">");
    for order in [
        PageOrder::Name,
        PageOrder::Endpoints,
        PageOrder::Open,
        PageOrder::Connections,
        PageOrder::Bytes,
        PageOrder::Failures,
    ] {
        let current = if order == parts.query.order { " aria-current=\"true\"" } else { "" };
        let number = if order == PageOrder::Name { "" } else { " class=\"n\"" };
        let (link, parameter) = (parts.query.sorted_by(order), order.parameter());
        let _ = write!(
            page,
            "<span{number}><a href=\"{}\" data-sort=\"{parameter}\"{current}>{}</a></span>",
            HtmlText(&link),
            order.title()
        );
    }
    page.push_str("<span>recent new/s</span></div>\n");
    let mut room = MAX_UNREQUESTED;
    for overview in listed.iter().take(MAX_LISTED) {
        write_load_balancer(page, parts, overview, listed.len() == 1, &mut room);
    }
    if let more @ 1.. = listed.len().saturating_sub(MAX_LISTED) {
        let _ = write!(page, "<p>and {more} more load balancers: search for a name</p>");
    }
    page.push_str("</section>");
}

/// Writes a load balancer. The details of one with problems are expanded while there is room. Details that are neither
/// requested nor have room are omitted; scripts and links request them.
fn write_load_balancer(page: &mut String, parts: &PageParts, overview: &Overview, is_only: bool, room: &mut usize) {
    let is_requested = parts.query.expanded.contains(&overview.name);
    let rows = overview.endpoints.min(MAX_ENDPOINTS);
    let has_room = *room > rows;
    let expands = is_requested || is_only || (has_room && !overview.problems.is_empty());
    let open = if expands { " open" } else { "" };
    let _ = write!(page, "<details id=\"{}\"{open}>", HtmlText(&overview.name));
    write_summary(page, overview, parts);
    if is_requested || is_only || has_room {
        *room = room.saturating_sub(rows + 1);
        page.push_str("<div>");
        write_details(page, overview, parts);
    } else {
        let link = parts.query.with_expanded(&overview.name);
        let _ = write!(page, "<div data-lazy><p><a href=\"{}\">show {}</a></p>", HtmlText(&link), counts(overview));
    }
    page.push_str("</div></details>\n");
}

/// The contents of the details, for a link to them.
fn counts(overview: &Overview) -> String {
    match counted(&overview.problems) {
        problems if problems.is_empty() => format!("{} endpoints", overview.endpoints),
        problems => format!("{} endpoints, {problems}", overview.endpoints),
    }
}

/// A duration in its largest units: `3 d 4 h`, `12 s`.
fn duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (1.., ..) => format!("{days} d {hours} h"),
        (_, 1.., _) => format!("{hours} h {minutes} min"),
        (_, _, 1..) => format!("{minutes} min {} s", seconds % 60),
        _ => format!("{seconds} s"),
    }
}

const HELP: &str = "\
<dialog id=\"help\"><h2>Keys</h2><p><kbd>/</kbd> search, <kbd>Esc</kbd> leave the search</p>\
<p><kbd>j</kbd> <kbd>k</kbd> or arrows: next and previous load balancer</p>\
<p><kbd>Enter</kbd> expand or collapse, <kbd>e</kbd> expand all, <kbd>c</kbd> collapse all</p>\
<p><kbd>?</kbd> this help</p>\
<form method=\"dialog\"><button>close</button></form></dialog></body></html>\n";
