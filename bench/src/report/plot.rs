//! A dot plot in SVG: for each row, each contender's figure as a ratio to that of the best peer.

use std::fmt::Write;

use super::row::Row;
use crate::{
    contender::{OURS, Program, TlsLibrary},
    svg::{COLOURS, picture},
};

const WIDTH: u32 = 1060;
/// The left end of the scale. The labels are to the left.
const LEFT: u32 = 560;
const RIGHT: u32 = WIDTH - 30;
const LINE: u32 = 24;
const TOP: u32 = 84;
/// The scale is logarithmic, since ratios are. Dots of larger or smaller ratios are at its ends.
const LOWEST: f64 = 0.4;
const HIGHEST: f64 = 4.0;
const TICKS: [f64; 5] = [0.5, 0.75, 1.0, 1.5, 3.0];

pub fn draw(rows: &[Row]) -> String {
    let rows: Vec<&Row> = rows.iter().filter(|row| row.compares_all_programs() && row.base.is_some()).collect();
    let (mut lines, mut y) = (String::new(), TOP);
    for row in &rows {
        draw_row(&mut lines, row, y);
        y += LINE;
    }
    let drawn = format!("{}{}{lines}", legend(), scale(y));
    let title = "Cost of the same work as a ratio to the best peer: less is better";
    picture(title, WIDTH.into(), (y + 10).into(), &drawn)
}

fn draw_row(text: &mut String, row: &Row, y: u32) {
    writeln!(text, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>", LEFT - 12, y + 4, row.title())
        .expect("strings take all");
    // tcplb is drawn last, above the others, with its interval.
    for program in Program::ALL.into_iter().rev() {
        let Some(ratio) = row.entry(program.name()).and_then(|entry| entry.ratio) else { continue };
        let colour = colour(program);
        if program.name() == OURS {
            let (from, to) = (x(ratio.min), x(ratio.max));
            writeln!(
                text,
                "<line x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{y}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"3\"/>"
            )
            .expect("strings take all");
        }
        writeln!(text, "{}", dot(program, x(ratio.median), y)).expect("strings take all");
    }
}

/// A filled dot, or a ring for a peer with AWS-LC.
fn dot(program: Program, x: f64, y: u32) -> String {
    let colour = colour(program);
    let radius = if program.name() == OURS { 6 } else { 4 };
    let fill = match program {
        Program::Haproxy(TlsLibrary::AwsLc) | Program::Nginx(TlsLibrary::AwsLc) => "none",
        _ => colour,
    };
    format!(
        "<circle cx=\"{x:.1}\" cy=\"{y}\" r=\"{radius}\" fill=\"{fill}\" stroke=\"{colour}\" stroke-width=\"1.8\"/>"
    )
}

fn colour(program: Program) -> &'static str {
    match program {
        Program::Tcplb => COLOURS[0],
        Program::Haproxy(_) => COLOURS[1],
        Program::Nginx(_) => COLOURS[2],
        Program::Envoy => COLOURS[3],
        Program::Traefik => COLOURS[4],
    }
}

fn legend() -> String {
    let mut text = String::new();
    for (index, program) in (0_u32..).zip(Program::ALL) {
        let x = 60 + index * 140;
        writeln!(text, "{}<text x=\"{}\" y=\"24\">{}</text>", dot(program, x.into(), 20), x + 12, program.name())
            .expect("strings take all");
    }
    text
}

fn scale(bottom: u32) -> String {
    let mut text = format!(
        "<text class=\"dim\" x=\"{LEFT}\" y=\"48\">ratio to the best peer; less is better; the bar is the interval of \
         tcplb</text>\n"
    );
    for tick in TICKS {
        let class = if tick == 1.0 { "line" } else { "grid" };
        let x = x(tick);
        writeln!(
            text,
            "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{}\"/>\
             <text class=\"dim\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{tick}</text>",
            TOP - 12,
            bottom - 10,
            TOP - 16
        )
        .expect("strings take all");
    }
    text
}

fn x(ratio: f64) -> f64 {
    let share = (ratio.clamp(LOWEST, HIGHEST) / LOWEST).ln() / (HIGHEST / LOWEST).ln();
    f64::from(LEFT) + share * f64::from(RIGHT - LEFT)
}
