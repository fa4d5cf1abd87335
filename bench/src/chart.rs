//! Line charts over time in SVG: stacked panels with a common time axis.

use std::fmt::Write;

use crate::svg::{escaped, picture};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 44.0;
const PANEL: f64 = 170.0;
const GAP: f64 = 46.0;

/// A chart of a run.
#[derive(Clone, Debug)]
pub struct Chart {
    pub title: String,
    /// The duration in seconds.
    pub seconds: f64,
    pub panels: Vec<Panel>,
    /// The events with their times in seconds.
    pub events: Vec<(f64, String)>,
}

/// The lines of one unit.
#[derive(Clone, Debug)]
pub struct Panel {
    pub unit: String,
    pub lines: Vec<Line>,
    /// The limit that no line may exceed.
    pub limit: Option<(f64, String)>,
}

#[derive(Clone, Debug)]
pub struct Line {
    pub name: String,
    pub colour: &'static str,
    /// Times in seconds, and values.
    pub points: Vec<(f64, f64)>,
}

impl Chart {
    pub fn svg(&self) -> String {
        let height = TOP + self.panels.len() as f64 * (PANEL + GAP);
        let mut drawn = String::new();
        line(&mut drawn, format!("<text x=\"{LEFT}\" y=\"18\" font-weight=\"bold\">{}</text>", escaped(&self.title)));
        for (panel, number) in self.panels.iter().zip(0_u16..) {
            self.draw_panel(&mut drawn, panel, TOP + f64::from(number) * (PANEL + GAP));
        }
        picture(&self.title, WIDTH, height, &drawn)
    }

    fn draw_panel(&self, text: &mut String, panel: &Panel, top: f64) {
        let (step, highest) = scale(panel.highest());
        let frame = Frame { top, bottom: top + PANEL, seconds: self.seconds, highest };
        line(text, format!("<text class=\"dim\" x=\"{LEFT}\" y=\"{}\">{}</text>", top - 8.0, escaped(&panel.unit)));
        frame.draw_axes(text, step);
        for (at, what) in &self.events {
            frame.draw_event(text, *at, what);
        }
        if let Some((limit, what)) = &panel.limit {
            frame.draw_limit(text, *limit, what);
        }
        for (drawn, number) in panel.lines.iter().zip(0_u16..) {
            frame.draw_line(text, drawn, top + 34.0 + 18.0 * f64::from(number));
        }
    }
}

/// The place of a panel in the image, and its scales.
struct Frame {
    top: f64,
    bottom: f64,
    /// The end of the time axis.
    seconds: f64,
    /// The end of the value axis.
    highest: f64,
}

impl Frame {
    fn x(&self, seconds: f64) -> f64 {
        LEFT + seconds / self.seconds * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        self.bottom - value / self.highest * PANEL
    }

    fn end(&self) -> f64 {
        self.x(self.seconds)
    }

    /// The axes with their labels, and grid lines at multiples of `step`.
    fn draw_axes(&self, text: &mut String, step: f64) {
        let (bottom, end) = (self.bottom, self.end());
        for value in multiples(step, self.highest) {
            line(
                text,
                format!(
                    "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{end:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                     <text class=\"dim\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                    LEFT - 8.0,
                    self.y(value) + 4.0,
                    rounded(value),
                    y = self.y(value)
                ),
            );
        }
        for second in multiples(scale(self.seconds).0, self.seconds) {
            line(
                text,
                format!(
                    "<text class=\"dim\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{} s</text>",
                    self.x(second),
                    bottom + 16.0,
                    rounded(second)
                ),
            );
        }
        line(text, format!("<line class=\"line\" x1=\"{LEFT}\" x2=\"{end:.1}\" y1=\"{bottom}\" y2=\"{bottom}\"/>"));
    }

    fn draw_event(&self, text: &mut String, at: f64, what: &str) {
        line(
            text,
            format!(
                "<line class=\"line\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{}\" \
                 stroke-dasharray=\"2 3\"/><text class=\"dim\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                self.top,
                self.bottom,
                self.x(at) + 4.0,
                self.top + 10.0,
                escaped(what),
                x = self.x(at)
            ),
        );
    }

    fn draw_limit(&self, text: &mut String, limit: f64, what: &str) {
        let end = self.end();
        line(
            text,
            format!(
                "<line class=\"line\" x1=\"{LEFT}\" x2=\"{end:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" \
                 stroke-dasharray=\"6 3\"/><text class=\"dim\" x=\"{:.1}\" y=\"{:.1}\" \
                 text-anchor=\"end\">{}</text>",
                end - 4.0,
                self.y(limit) - 4.0,
                escaped(what),
                y = self.y(limit)
            ),
        );
    }

    /// The line, and its name at height `label` to the right of the panel.
    fn draw_line(&self, text: &mut String, drawn: &Line, label: f64) {
        let (colour, end) = (drawn.colour, self.end());
        let mut path = String::new();
        for (index, (seconds, value)) in drawn.points.iter().enumerate() {
            let verb = if index == 0 { 'M' } else { 'L' };
            write!(path, "{verb}{:.1} {:.1}", self.x(*seconds), self.y(*value)).expect("strings take all");
        }
        line(
            text,
            format!(
                "<path d=\"{path}\" stroke=\"{colour}\"/><rect x=\"{:.1}\" y=\"{:.1}\" width=\"12\" height=\"4\" \
                 fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{label:.1}\">{}</text>",
                end + 8.0,
                label - 6.0,
                end + 26.0,
                escaped(&drawn.name)
            ),
        );
    }
}

impl Panel {
    fn highest(&self) -> f64 {
        let values = self.lines.iter().flat_map(|line| &line.points).map(|(_, value)| *value);
        values.chain(self.limit.iter().map(|(limit, _)| *limit)).fold(1.0, f64::max)
    }
}

/// A round step of which about five cover this value, and the end of the scale.
fn scale(highest: f64) -> (f64, f64) {
    let magnitude = 10_f64.powf((highest / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * magnitude).into_iter().find(|step| step * 6.0 >= highest);
    let step = step.unwrap_or(highest);
    (step, (highest / step).ceil() * step)
}

fn multiples(step: f64, end: f64) -> impl Iterator<Item = f64> {
    (0_u16..).map(move |number| f64::from(number) * step).take_while(move |value| *value <= end * 1.0001)
}

/// Removes the digits that come from floating-point errors.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn line(text: &mut String, content: String) {
    text.push_str(&content);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svg::COLOURS;

    #[test]
    fn scales_end_at_round_values_and_have_few_steps() {
        for (highest, expected) in
            [(1.0, (0.2, 1.0)), (60.0, (10.0, 60.0)), (2000.0, (500.0, 2000.0)), (1667.0, (500.0, 2000.0))]
        {
            let (step, end) = scale(highest);
            assert_eq!((rounded(step), rounded(end)), expected, "{highest}");
        }
    }

    #[test]
    fn written_text_is_escaped() {
        let lines = vec![Line { name: "a<b".into(), colour: COLOURS[0], points: vec![(0.0, 0.0), (1.0, 2.0)] }];
        let panels = vec![Panel { unit: "a & b".into(), lines, limit: None }];
        let svg = Chart { title: "<".into(), seconds: 1.0, panels, events: vec![(0.5, "now".into())] }.svg();
        assert!(svg.contains("a&lt;b") && svg.contains("a &amp; b") && svg.contains("<title>&lt;</title>"), "{svg}");
    }
}
