use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::{
    options::{ReplicaSample, TopOptions},
    order::TopOrder,
    row_key::RowKey,
};
use crate::{
    model::{EndpointView, StatePicture},
    printable::printable,
    traffic::{CounterSums, RateHistory, TrafficCounts, TrafficRates},
};

/// The number of intervals in a sparkline.
pub const HISTORY: usize = 30;
/// The maximum length of a name, in bytes.
const MAX_NAME: usize = 512;
/// The number of rows that a page key skips.
const PAGE: isize = 10;

/// The numbers of a row, apart from rates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowCounts {
    /// Of a load balancer: its endpoints in the replica that knows most of them. Of an endpoint: the replicas.
    pub endpoints: usize,
    /// The usable ones. For a load balancer: in the replica with the fewest.
    pub usable: usize,
    pub open: u64,
    /// Errors and warnings of the configuration.
    pub problems: usize,
}

/// A visible row.
#[derive(Clone, Debug, PartialEq)]
pub struct TopRow {
    pub key: RowKey,
    pub counts: RowCounts,
    /// `None`: not known yet.
    pub rates: Option<TrafficRates>,
    pub is_expanded: bool,
}

/// The effect of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    Continue,
    End,
}

/// The mode of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyMode {
    Commands,
    /// Keys are added to the filter.
    Filter,
    Help,
}

/// The table: its data and what the user has selected.
pub struct TopState {
    pub order: TopOrder,
    pub filter: String,
    pub mode: KeyMode,
    /// Lines above the table.
    pub introduction: Vec<String>,
    /// The errors of replicas that cannot be read.
    pub errors: Vec<String>,
    pub replicas: usize,
    selected: Option<RowKey>,
    expanded: BTreeSet<RowKey>,
    /// True until the load balancers are known, if they are expanded at first.
    expands_all: bool,
    rows: BTreeMap<RowKey, RowCounts>,
    sums: CounterSums<RowKey, RowKey>,
    rates: RateHistory<RowKey>,
    /// The first visible row.
    offset: usize,
}

impl TopState {
    pub fn new(options: &TopOptions) -> Self {
        let pause = options.interval.saturating_mul(3).max(Duration::from_secs(15));
        Self {
            order: options.order,
            filter: options.filter.clone(),
            mode: KeyMode::Commands,
            introduction: options.introduction.clone(),
            errors: Vec::new(),
            replicas: 0,
            selected: None,
            expanded: BTreeSet::new(),
            expands_all: options.is_expanded,
            rows: BTreeMap::new(),
            sums: CounterSums::default(),
            rates: RateHistory::new(HISTORY).with_max_pause(pause),
            offset: 0,
        }
    }

    /// Replaces the data.
    pub fn observe(&mut self, now: Instant, samples: &[ReplicaSample]) {
        (self.rows, self.errors) = Default::default();
        self.replicas = samples.len();
        let mut counts = Vec::new();
        for ReplicaSample { name, picture } in samples {
            let replica = printable(name, MAX_NAME).into_owned();
            match picture {
                Ok(picture) => self.add(&replica, picture, &mut counts),
                Err(error) => self.errors.push(format!("{replica}: {}", printable(error, MAX_NAME))),
            }
        }
        self.sums.add(counts, |key| [key.clone(), key.of_all_replicas()]);
        self.rates.sample(now, self.sums.all());
        self.expanded.retain(|key| self.rows.contains_key(key));
        if self.expands_all && !self.rows.is_empty() {
            self.expanded = self.rows.keys().filter(|key| key.depth() == 0).cloned().collect();
            self.expands_all = false;
        }
    }

    /// Records that the replicas could not be listed. The data stays.
    pub fn fail(&mut self, error: &str) {
        self.errors = vec![printable(error, MAX_NAME).into_owned()];
    }

    fn add(&mut self, replica: &str, picture: &StatePicture, counts: &mut Vec<(RowKey, TrafficCounts)>) {
        for load_balancer in &picture.load_balancers {
            let of_all =
                RowKey { load_balancer: printable(&load_balancer.name, MAX_NAME).into_owned(), ..RowKey::default() };
            let mut traffic = TrafficCounts::default();
            let mut open = 0;
            for listener in &load_balancer.listeners {
                open += listener.active;
                traffic += TrafficCounts {
                    connections: listener.accepted,
                    bytes: listener.bytes_to_backend + listener.bytes_to_client,
                    failures: listener.failures.values().sum(),
                };
            }
            let (all, endpoints) = (self.rows.entry(of_all.clone()).or_insert(NOTHING_SEEN), &load_balancer.endpoints);
            all.open += open;
            all.endpoints = all.endpoints.max(endpoints.len());
            all.usable = all.usable.min(endpoints.iter().filter(|endpoint| endpoint.usable).count());
            all.problems = all.problems.max(load_balancer.problems.len());
            counts.push((RowKey { replica: Some(replica.into()), ..of_all.clone() }, traffic));
            for endpoint in endpoints {
                self.add_endpoint(&of_all, replica, endpoint, counts);
            }
        }
    }

    fn add_endpoint(
        &mut self,
        load_balancer: &RowKey,
        replica: &str,
        endpoint: &EndpointView,
        counts: &mut Vec<(RowKey, TrafficCounts)>,
    ) {
        let name = format!("{} {}", endpoint.backend, endpoint.address);
        let of_all = RowKey { endpoint: Some(printable(&name, MAX_NAME).into_owned()), ..load_balancer.clone() };
        let in_replica = RowKey { replica: Some(replica.into()), ..of_all.clone() };
        for key in [of_all, in_replica.clone()] {
            let row = self.rows.entry(key).or_default();
            row.endpoints += 1;
            row.usable += usize::from(endpoint.usable);
            row.open += u64::from(endpoint.active);
        }
        let traffic =
            TrafficCounts { connections: endpoint.connections, bytes: 0, failures: endpoint.connect_failures };
        counts.push((in_replica, traffic));
    }

    /// The number of load balancers, and of those with problems or without usable endpoints.
    pub fn totals(&self) -> (usize, usize) {
        let all = self.rows.iter().filter(|(key, _)| key.depth() == 0);
        let bad = |counts: &RowCounts| counts.problems > 0 || counts.usable < counts.endpoints;
        (all.clone().count(), all.filter(|(_, counts)| bad(counts)).count())
    }

    /// The rows of load balancers that match the filter, with expanded ones.
    pub fn visible_rows(&self) -> Vec<TopRow> {
        let mut visible = Vec::new();
        for row in self.children(&RowKey::default(), 0) {
            self.push(row, &mut visible);
        }
        visible
    }

    /// All rows of load balancers that match the filter and their endpoints.
    pub fn all_rows(&self) -> Vec<TopRow> {
        let load_balancers = self.children(&RowKey::default(), 0);
        let with_endpoints = load_balancers.into_iter().flat_map(|row| {
            let endpoints = self.children(&row.key, 1);
            [row].into_iter().chain(endpoints)
        });
        with_endpoints.collect()
    }

    /// The rows of an endpoint in each replica.
    pub fn replica_rows(&self, endpoint: &RowKey) -> Vec<TopRow> {
        self.children(endpoint, 2)
    }

    fn push(&self, row: TopRow, visible: &mut Vec<TopRow>) {
        let (key, is_expanded) = (row.key.clone(), row.is_expanded);
        visible.push(row);
        if is_expanded {
            for child in self.children(&key, key.depth() + 1) {
                self.push(child, visible);
            }
        }
    }

    /// The sorted rows of a depth below a row.
    fn children(&self, parent: &RowKey, depth: usize) -> Vec<TopRow> {
        let filter = self.filter.to_lowercase();
        let from_parent = self.rows.range(parent.clone()..);
        let of_parent = from_parent.take_while(|(key, _)| {
            let of_load_balancer = depth == 0 || key.load_balancer == parent.load_balancer;
            of_load_balancer && (depth < 2 || key.endpoint == parent.endpoint)
        });
        let is_child = |key: &RowKey| key.depth() == depth && (depth > 0 || self.matches(key, &filter));
        let row = |(key, counts): (&RowKey, &RowCounts)| TopRow {
            key: key.clone(),
            counts: *counts,
            rates: self.rates.latest(key),
            is_expanded: self.expanded.contains(key),
        };
        let mut children: Vec<TopRow> = of_parent.filter(|(key, _)| is_child(key)).map(row).collect();
        // Rows are sorted by name already, and sorting is stable.
        children.sort_by(|one, other| compare(one, other, self.order));
        children
    }

    /// True if the name of a load balancer or of one of its endpoints contains the filter.
    fn matches(&self, load_balancer: &RowKey, filter: &str) -> bool {
        let contains = |text: &str| text.to_lowercase().contains(filter);
        let mut endpoints = self.rows.range(load_balancer.clone()..).map(|(key, _)| key);
        filter.is_empty()
            || contains(&load_balancer.load_balancer)
            || endpoints
                .by_ref()
                .take_while(|key| key.load_balancer == load_balancer.load_balancer)
                .any(|key| key.endpoint.as_deref().is_some_and(contains))
    }

    /// The recent rates of new connections. The latest is the last one.
    pub fn recent(&self, key: &RowKey) -> Vec<f64> {
        self.rates.recent(key).map(|rates| rates.connections).collect()
    }

    /// The visible rows in a window of this height, and the place of the selected one. Moves the window if necessary.
    pub fn window(&mut self, height: usize) -> (Vec<TopRow>, usize) {
        let rows = self.visible_rows();
        let selected = self.selected_index(&rows);
        // A terminal may have no room for rows.
        let lowest = (selected + 1).saturating_sub(height.max(1));
        self.offset =
            self.offset.clamp(lowest, selected.max(lowest)).min(rows.len().saturating_sub(height).max(lowest));
        let window = rows.into_iter().skip(self.offset).take(height).collect();
        (window, selected - self.offset)
    }

    fn selected_index(&self, rows: &[TopRow]) -> usize {
        let place = rows.iter().position(|row| Some(&row.key) == self.selected.as_ref());
        place.unwrap_or_default()
    }

    /// Reacts to a key. Other events only cause a redraw.
    pub fn handle(&mut self, event: &Event) -> Reaction {
        let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press | KeyEventKind::Repeat, .. }) = event
        else {
            return Reaction::Continue;
        };
        if modifiers.contains(KeyModifiers::CONTROL) {
            return if *code == KeyCode::Char('c') { Reaction::End } else { Reaction::Continue };
        }
        match self.mode {
            KeyMode::Commands => return self.command(*code),
            KeyMode::Filter => self.edit_filter(*code),
            KeyMode::Help => self.mode = KeyMode::Commands,
        }
        Reaction::Continue
    }

    fn command(&mut self, code: KeyCode) -> Reaction {
        match code {
            KeyCode::Char('q') => return Reaction::End,
            KeyCode::Char('/') => self.mode = KeyMode::Filter,
            KeyCode::Char('?' | 'h') => self.mode = KeyMode::Help,
            KeyCode::Char('s') => self.order = self.order.next(),
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('j') | KeyCode::Down => self.select(1),
            KeyCode::Char('k') | KeyCode::Up => self.select(-1),
            KeyCode::PageDown => self.select(PAGE),
            KeyCode::PageUp => self.select(-PAGE),
            KeyCode::Home => self.select(isize::MIN),
            KeyCode::End => self.select(isize::MAX),
            KeyCode::Enter | KeyCode::Char(' ') => self.expand(None),
            KeyCode::Right => self.expand(Some(true)),
            KeyCode::Left => self.expand(Some(false)),
            _ => {}
        }
        Reaction::Continue
    }

    fn edit_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.mode = KeyMode::Commands,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = KeyMode::Commands;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(letter) if self.filter.len() < MAX_NAME => self.filter.push(letter),
            _ => {}
        }
    }

    /// Selects the row at this distance.
    fn select(&mut self, distance: isize) {
        let rows = self.visible_rows();
        let last = rows.len().saturating_sub(1);
        let place = self.selected_index(&rows).saturating_add_signed(distance).min(last);
        self.selected = rows.get(place).map(|row| row.key.clone());
    }

    /// Expands or collapses the selected row; `None`: whichever it is not. Collapsing a row without rows below selects the
    /// row above it.
    fn expand(&mut self, expands: Option<bool>) {
        let rows = self.visible_rows();
        let Some(row) = rows.get(self.selected_index(&rows)) else { return };
        let key = row.key.clone();
        match expands.unwrap_or(!row.is_expanded) {
            true if key.depth() < 2 => drop(self.expanded.insert(key.clone())),
            false if row.is_expanded => drop(self.expanded.remove(&key)),
            false => {
                self.selected = Some(match key.depth() {
                    2 => key.of_all_replicas(),
                    _ => RowKey { endpoint: None, ..key },
                });
                return;
            }
            true => {}
        }
        self.selected = Some(key);
    }
}

/// A load balancer before the first replica is counted.
const NOTHING_SEEN: RowCounts = RowCounts { endpoints: 0, usable: usize::MAX, open: 0, problems: 0 };

fn compare(one: &TopRow, other: &TopRow, order: TopOrder) -> Ordering {
    let rate = |row: &TopRow, of: fn(&TrafficRates) -> f64| row.rates.as_ref().map_or(0.0, of);
    let by_rate = |of: fn(&TrafficRates) -> f64| rate(other, of).total_cmp(&rate(one, of));
    let unusable = |row: &TopRow| row.counts.endpoints.saturating_sub(row.counts.usable);
    match order {
        TopOrder::Name => Ordering::Equal,
        TopOrder::Endpoints => unusable(other).cmp(&unusable(one)),
        TopOrder::Open => other.counts.open.cmp(&one.counts.open),
        TopOrder::Connections => by_rate(|rates| rates.connections),
        TopOrder::Bytes => by_rate(|rates| rates.bytes),
        TopOrder::Failures => by_rate(|rates| rates.failures),
    }
}
