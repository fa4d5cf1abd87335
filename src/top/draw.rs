use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    text::{Line, Span, Text},
    widgets::{Block, Cell, Clear, Paragraph, Row, Table},
};

use super::{
    order::TopOrder,
    state::{HISTORY, KeyMode, TopRow, TopState},
};
use crate::{
    printable::printable,
    traffic::{TrafficRates, bytes, per_second},
};

/// Terminals below this width have no sparklines.
const MIN_WIDTH_OF_SPARKLINES: u16 = 120;
/// The maximum number of errors of replicas.
const MAX_ERRORS: usize = 3;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Draws the table.
pub fn draw(frame: &mut Frame, state: &mut TopState) {
    let errors = state.errors.len().min(MAX_ERRORS) as u16;
    let layout = Layout::vertical([
        Constraint::Length(state.introduction.len() as u16),
        Constraint::Length(1),
        Constraint::Length(errors),
        Constraint::Fill(1),
        Constraint::Length(1),
    ]);
    let [introduction, head, notes, body, foot] = layout.areas(frame.area());
    frame.render_widget(Text::from_iter(state.introduction.iter().map(String::as_str)), introduction);
    frame.render_widget(headline(state), head);
    let lines = state.errors.iter().take(MAX_ERRORS).map(|error| Line::from(error.as_str()).red());
    frame.render_widget(Text::from_iter(lines), notes);
    draw_table(frame, body, state);
    frame.render_widget(footer(state), foot);
    if state.mode == KeyMode::Help {
        draw_help(frame);
    }
}

fn headline(state: &TopState) -> Line<'static> {
    let (all, bad) = state.totals();
    let mut spans =
        vec![Span::from("tcplb top").bold(), format!("  replicas: {}, load balancers: {all}", state.replicas).into()];
    if bad > 0 {
        spans.push(format!(", with problems: {bad}").red());
    }
    spans.push(format!("  sorted by {}", state.order.title()).dim());
    Line::from(spans)
}

fn footer(state: &TopState) -> Line<'static> {
    let filter = printable(&state.filter, 200).into_owned();
    match state.mode {
        KeyMode::Filter => Line::from(format!("/{filter}█")),
        KeyMode::Commands | KeyMode::Help if !filter.is_empty() => {
            Line::from(vec![format!("/{filter}").yellow(), "  Esc: all".dim()])
        }
        KeyMode::Commands | KeyMode::Help => {
            Line::from("q quit  ↑↓ select  Enter expand  / filter  s sort  ? help").dim()
        }
    }
}

fn draw_table(frame: &mut Frame, area: Rect, state: &mut TopState) {
    let has_sparklines = area.width >= MIN_WIDTH_OF_SPARKLINES;
    let (rows, selected) = state.window(usize::from(area.height.saturating_sub(1)));
    let mut widths = vec![
        Constraint::Fill(1),
        Constraint::Length(9),
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Length(12),
        Constraint::Length(9),
    ];
    let titles = TopOrder::ALL.map(|order| {
        let alignment = if order == TopOrder::Name { Alignment::Left } else { Alignment::Right };
        let title = Line::from(order.title()).alignment(alignment);
        Cell::from(if order == state.order { title.underlined() } else { title })
    });
    let mut titles = titles.to_vec();
    if has_sparklines {
        widths.push(Constraint::Length(HISTORY as u16));
        titles.push(Cell::from("NEW/S, RECENT"));
    }
    let rows: Vec<Row> = rows
        .iter()
        .enumerate()
        .map(|(index, row)| {
            let mut cells = cells(row);
            if has_sparklines {
                cells.push(Cell::from(sparkline(&state.recent(&row.key))).cyan());
            }
            let style = if index == selected { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
            Row::new(cells).style(style)
        })
        .collect();
    let header = Row::new(titles).style(Style::new().add_modifier(Modifier::BOLD));
    frame.render_widget(Table::new(rows, widths).header(header), area);
}

fn cells(row: &TopRow) -> Vec<Cell<'static>> {
    let TopRow { key, counts, rates, is_expanded } = row;
    let sign = match (key.depth(), is_expanded) {
        (2, _) => " ",
        (_, true) => "▾",
        (_, false) => "▸",
    };
    let name = format!("{}{sign} {}", "  ".repeat(key.depth()), key.name());
    let is_bad = counts.problems > 0 || counts.usable < counts.endpoints;
    let number = |text: String| Line::from(text).right_aligned();
    let usable = number(format!("{}/{}", counts.usable, counts.endpoints));
    let rate = |of: fn(&TrafficRates) -> f64| rates.as_ref().map_or("–".into(), |rates| per_second(of(rates)));
    let failures = number(rate(|rates| rates.failures));
    let fails = rates.is_some_and(|rates| rates.failures > 0.0);
    // Bytes are counted for load balancers only.
    let relayed = if key.depth() > 0 { String::new() } else { rates.map_or("–".into(), |rates| bytes(rates.bytes)) };
    vec![
        Cell::from(name),
        Cell::from(if is_bad { usable.fg(Color::Red) } else { usable }),
        Cell::from(number(counts.open.to_string())),
        Cell::from(number(rate(|rates| rates.connections))),
        Cell::from(number(relayed)),
        Cell::from(if fails { failures.fg(Color::Red) } else { failures }),
    ]
}

/// Bars, scaled to the highest rate, right-aligned.
pub fn sparkline(rates: &[f64]) -> String {
    let highest = rates.iter().copied().fold(0.0, f64::max);
    let bar = |rate: &f64| {
        if *rate == 0.0 {
            return ' ';
        }
        let height = (rate / highest * BARS.len() as f64).ceil() as usize;
        BARS[height.clamp(1, BARS.len()) - 1]
    };
    let bars: String = rates.iter().map(bar).collect();
    format!("{bars:>HISTORY$}")
}

const HELP: [&str; 8] = [
    "↑ ↓ j k PgUp PgDn Home End   select a row",
    "Enter, Space, → ←            expand or collapse it",
    "s                            sort by the next column",
    "/                            filter by name or address",
    "Esc                          show all",
    "q, Ctrl-C                    quit",
    "",
    "USABLE of an endpoint: the replicas that see it usable",
];

fn draw_help(frame: &mut Frame) {
    let (width, height) = (62, HELP.len() as u16 + 2);
    let area = frame.area();
    let area = Rect {
        x: area.width.saturating_sub(width) / 2,
        y: area.height.saturating_sub(height) / 2,
        width: width.min(area.width),
        height: height.min(area.height),
    };
    frame.render_widget(Clear, area);
    let text = Text::from_iter(HELP);
    frame.render_widget(Paragraph::new(text).block(Block::bordered().title("Keys")), area);
}
