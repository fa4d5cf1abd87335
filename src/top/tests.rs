use std::time::{Duration, Instant};

use crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use ratatui::{Terminal, backend::TestBackend};
use serde_json::{Value, json};

use super::{
    draw::{draw, sparkline},
    state::TopRow,
    *,
};
use crate::kubectl::golden::assert_golden;

fn options() -> TopOptions {
    TopOptions::default()
}

/// A load balancer with an endpoint for each `(connections, usable)`.
fn load_balancer(name: &str, accepted: u64, endpoints: &[(u64, bool)]) -> Value {
    let endpoint = |(index, (connections, usable)): (usize, &(u64, bool))| {
        json!({
            "backend": "db", "address": format!("10.0.0.{}:5432", index + 1), "usable": usable, "inService": true,
            "share": 100, "near": false, "healthy": usable, "active": 2, "connections": connections,
            "connectFailures": u64::from(!usable) * connections, "preconnected": 0,
        })
    };
    json!({
        "name": name, "origin": "test", "problems": [],
        "listeners": [{
            "port": 5432, "active": 4, "accepted": accepted, "bytesToBackend": accepted * 512,
            "bytesToClient": accepted * 512, "failures": {"connect_failed": accepted / 10}, "applied": {},
        }],
        "endpoints": endpoints.iter().enumerate().map(endpoint).collect::<Vec<_>>(),
    })
}

fn sample(name: &str, load_balancers: &[Value]) -> ReplicaSample {
    let picture = json!({"generation": 1, "loadBalancers": load_balancers, "problems": []});
    ReplicaSample { name: name.into(), picture: Ok(serde_json::from_value(picture).unwrap()) }
}

fn silent(name: &str) -> ReplicaSample {
    ReplicaSample { name: name.into(), picture: Err("cannot connect\u{1b}[2J".into()) }
}

/// The samples of two replicas after some intervals of two seconds.
fn samples(interval: u64) -> Vec<ReplicaSample> {
    let busy = |factor: u64| load_balancer("shop/pg", interval * 20 * factor, &[(interval * factor, true), (7, true)]);
    let idle = |usable| load_balancer("shop/redis", 3, &[(1, usable)]);
    vec![sample("pod-a", &[busy(1), idle(true)]), sample("pod-b", &[busy(3), idle(false)])]
}

/// The state after this number of samples.
fn state(count: u64) -> TopState {
    let (mut state, start) = (TopState::new(&options()), Instant::now());
    for interval in 0..count {
        state.observe(start + Duration::from_secs(2 * interval), &samples(interval));
    }
    state
}

fn press(state: &mut TopState, codes: &[KeyCode]) {
    for code in codes {
        let reaction = state.handle(&Event::Key(KeyEvent::new(*code, KeyModifiers::NONE)));
        assert_eq!(reaction, Reaction::Continue, "{code:?}");
    }
}

fn names(rows: &[TopRow]) -> Vec<&str> {
    rows.iter().map(|row| row.key.name()).collect()
}

fn screen(state: &mut TopState, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, state)).unwrap();
    terminal.backend().to_string()
}

#[test]
fn rates_of_replicas_are_added_and_usable_endpoints_are_the_fewest() {
    let state = state(2);
    let rows = state.visible_rows();
    assert_eq!(names(&rows), ["shop/pg", "shop/redis"]);
    let rates = rows[0].rates.unwrap();
    assert_eq!((rates.connections, rates.bytes, rates.failures), (40.0, 40.0 * 1024.0, 4.0));
    assert_eq!((rows[0].counts.open, rows[0].counts.usable, rows[0].counts.endpoints), (8, 2, 2));
    assert_eq!((rows[1].counts.usable, rows[1].counts.endpoints), (0, 1));
    assert_eq!(state.totals(), (2, 1));
}

#[test]
fn replicas_that_appear_restart_or_fail_cause_no_spikes() {
    let (mut state, start) = (TopState::new(&options()), Instant::now());
    let one = |accepted| sample("pod-a", &[load_balancer("shop/pg", accepted, &[])]);
    let other = |accepted| sample("pod-b", &[load_balancer("shop/pg", accepted, &[])]);
    for (interval, samples, expected) in [
        (0, vec![one(100)], None),
        (1, vec![one(110), other(9000)], Some(5.0)),
        (2, vec![one(120), other(9010)], Some(10.0)),
        (3, vec![one(3), silent("pod-b")], Some(0.0)),
        (4, vec![one(5), other(9500)], Some(1.0)),
    ] {
        state.observe(start + Duration::from_secs(2 * interval), &samples);
        let rates = state.visible_rows()[0].rates;
        assert_eq!(rates.map(|rates| rates.connections), expected, "interval {interval}");
    }
}

#[test]
fn errors_of_replicas_are_shown_and_escaped() {
    let mut state = TopState::new(&options());
    state.observe(Instant::now(), &[silent("pod-a")]);
    assert_eq!(state.errors, ["pod-a: cannot connect\\u{1b}[2J"]);
    state.fail("forbidden");
    assert_eq!(state.errors, ["forbidden"]);
}

#[test]
fn rows_are_expanded_filtered_and_sorted_by_keys() {
    let mut state = state(3);
    press(&mut state, &[KeyCode::Right]);
    let rows = state.visible_rows();
    assert_eq!(names(&rows), ["shop/pg", "db 10.0.0.1:5432", "db 10.0.0.2:5432", "shop/redis"]);
    press(&mut state, &[KeyCode::Down, KeyCode::Enter]);
    let rows = state.visible_rows();
    assert_eq!(names(&rows)[1..4], ["db 10.0.0.1:5432", "pod-b", "pod-a"], "by new connections");
    press(&mut state, &[KeyCode::End, KeyCode::Up, KeyCode::Left]);
    press(&mut state, &[KeyCode::Enter]);
    assert_eq!(names(&state.visible_rows()), ["shop/pg", "shop/redis"], "the row above was selected, and collapsed");
    press(&mut state, &[KeyCode::Char('/'), KeyCode::Char('R'), KeyCode::Char('e')]);
    assert_eq!(names(&state.visible_rows()), ["shop/redis"]);
    press(
        &mut state,
        &[
            KeyCode::Backspace,
            KeyCode::Backspace,
            KeyCode::Char('0'),
            KeyCode::Char('.'),
            KeyCode::Char('2'),
            KeyCode::Enter,
        ],
    );
    assert_eq!(names(&state.visible_rows()), ["shop/pg"], "the address of an endpoint");
    press(&mut state, &[KeyCode::Esc]);
    while state.order != TopOrder::Endpoints {
        press(&mut state, &[KeyCode::Char('s')]);
    }
    assert_eq!(names(&state.visible_rows()), ["shop/redis", "shop/pg"]);
    let quit = |code, modifiers| Event::Key(KeyEvent::new(code, modifiers));
    assert_eq!(state.handle(&quit(KeyCode::Char('q'), KeyModifiers::NONE)), Reaction::End);
    assert_eq!(state.handle(&quit(KeyCode::Char('c'), KeyModifiers::CONTROL)), Reaction::End);
}

#[test]
fn the_window_follows_the_selected_row() {
    let mut state = TopState::new(&TopOptions { order: TopOrder::Name, ..options() });
    let all: Vec<Value> = (0..20).map(|number| load_balancer(&format!("shop/lb-{number:02}"), 0, &[])).collect();
    state.observe(Instant::now(), &[sample("pod-a", &all)]);
    for (key, first, selected) in [
        (KeyCode::Null, "shop/lb-00", 0),
        (KeyCode::PageDown, "shop/lb-06", 4),
        (KeyCode::Up, "shop/lb-06", 3),
        (KeyCode::End, "shop/lb-15", 4),
        (KeyCode::PageUp, "shop/lb-09", 0),
        (KeyCode::Home, "shop/lb-00", 0),
    ] {
        press(&mut state, &[key]);
        let (rows, place) = state.window(5);
        assert_eq!((names(&rows)[0], place, rows.len()), (first, selected, 5), "{key:?}");
    }
}

#[test]
fn screens_are_drawn_as_before() {
    let mut state = state(12);
    press(&mut state, &[KeyCode::Right, KeyCode::Down, KeyCode::Right, KeyCode::Down]);
    assert_golden("top.wide", &screen(&mut state, 120, 12));
    assert_golden("top.narrow", &screen(&mut state, 70, 12));
    press(&mut state, &[KeyCode::Char('?')]);
    assert_golden("top.help", &screen(&mut state, 100, 14));
    // Any size can be drawn.
    for (width, height) in [(1, 1), (3, 2), (20, 3), (500, 200)] {
        screen(&mut state, width, height);
    }
}

#[test]
fn documents_are_written_as_before() {
    let document = TopDocument::new(&state(3));
    assert_golden("top.text", &text(&document, TextRows::Usual));
    assert_golden("top.replicas", &text(&document, TextRows::All));
    assert_golden("top.json", &document.json());
    assert_golden("top.yaml", &document.yaml().unwrap());
}

#[test]
fn sparklines_are_scaled_and_end_at_the_right() {
    assert_eq!(sparkline(&[0.0, 1.0, 8.0]).trim_start(), "▁█");
    assert_eq!(sparkline(&[0.1]).chars().count(), state::HISTORY);
    assert_eq!(sparkline(&[]).trim(), "");
}

#[test]
fn a_large_installation_is_drawn_with_bounded_work() {
    let endpoints = [(1, true); 20];
    let all: Vec<Value> =
        (0..500).map(|number| load_balancer(&format!("shop/lb-{number:03}"), 9, &endpoints)).collect();
    let mut state = TopState::new(&TopOptions { order: TopOrder::Name, ..options() });
    state.observe(Instant::now(), &[sample("pod-a", &all), sample("pod-b", &all)]);
    assert_eq!((state.visible_rows().len(), state.all_rows().len()), (500, 500 * 21));
    let drawn = screen(&mut state, 120, 40);
    assert!(drawn.contains("shop/lb-000") && !drawn.contains("shop/lb-100"), "{drawn}");
}
