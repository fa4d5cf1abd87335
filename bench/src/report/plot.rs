//! Bar charts in SVG: each contender's figure as a ratio to that of the best peer.

use std::fmt::Write;

use super::row::Row;
use crate::{
    contender::{OURS, Program},
    svg::{COLOURS, picture},
};

const WIDTH: u32 = 1060;
/// The start of the bars. The labels are to the left.
const LEFT: u32 = 540;
const BAR: u32 = 11;
const GAP: u32 = 14;
const TOP: u32 = 56;
/// The end of the plot. Longer bars have their value as text.
const LONGEST: f64 = 2.5;
const PER_UNIT: f64 = (WIDTH - LEFT - 60) as f64 / LONGEST;

fn colour(program: Program) -> &'static str {
    match program {
        Program::Tcplb => COLOURS[0],
        Program::Haproxy => COLOURS[1],
        Program::Nginx => COLOURS[2],
        Program::Envoy => COLOURS[3],
    }
}

pub fn draw(rows: &[Row]) -> String {
    let rows: Vec<&Row> = rows.iter().filter(|row| row.compares_all_programs() && row.base.is_some()).collect();
    let (mut groups, mut top) = (String::new(), TOP);
    for row in &rows {
        top = draw_group(&mut groups, row, top);
    }
    let one = x(1.0);
    let drawn = format!(
        "{}<text class=\"dim\" x=\"{LEFT}\" y=\"44\">ratio to the best peer; shorter is better</text>\n{groups}\
         <line class=\"line\" x1=\"{one}\" x2=\"{one}\" y1=\"{TOP}\" y2=\"{}\" stroke-dasharray=\"3 3\"/>\n",
        legend(),
        top - GAP
    );
    let title = "Cost of the same work as a ratio to the best peer: shorter is better";
    picture(title, WIDTH.into(), (top + 10).into(), &drawn)
}

fn draw_group(text: &mut String, row: &Row, top: u32) -> u32 {
    let mut y = top;
    let mut bars = String::new();
    for program in Program::ALL {
        let Some(ratio) = row.entry(program.name()).and_then(|entry| entry.ratio) else { continue };
        let width = ratio.median.min(LONGEST) * PER_UNIT;
        let weight = if program.name() == OURS { " font-weight=\"bold\"" } else { "" };
        writeln!(
            bars,
            "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" rx=\"2\" fill=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{}\"{weight}>{:.2}</text>",
            BAR - 1,
            colour(program),
            f64::from(LEFT) + width + 6.0,
            y + BAR - 2,
            ratio.median
        )
        .expect("strings take all");
        y += BAR;
    }
    if bars.is_empty() {
        return top;
    }
    let (middle, label) = ((top + y) / 2, label(row));
    writeln!(text, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{label}</text>", LEFT - 10, middle + 4)
        .expect("strings take all");
    text.push_str(&bars);
    y + GAP
}

fn label(row: &Row) -> String {
    let which = match row.figure.name {
        _ if row.axis.figures.len() == 1 => String::new(),
        "p999" => ", p99.9".into(),
        name => format!(", {name}"),
    };
    format!("{}{which}", row.axis.what)
}

fn legend() -> String {
    let mut text = String::new();
    for (index, program) in (0_u32..).zip(Program::ALL) {
        let x = LEFT + index * 100;
        writeln!(
            text,
            "<rect x=\"{x}\" y=\"14\" width=\"12\" height=\"12\" rx=\"2\" fill=\"{}\"/><text x=\"{}\" y=\"24\">{}</text>",
            colour(program),
            x + 18,
            program.name()
        )
        .expect("strings take all");
    }
    text
}

fn x(ratio: f64) -> f64 {
    f64::from(LEFT) + ratio * PER_UNIT
}
