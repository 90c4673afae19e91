//! Drawing: a chart with two axes as SVG text.
//!
//! Invariant: whatever is drawn lies inside the frame, and texts are escaped. Not here: what is charted (`charts`).

use std::fmt::Write as _;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 44.0;
/// About so many marks on an axis.
const MARKS: f64 = 6.0;

/// How values become places on an axis.
#[derive(Debug, Clone, Copy)]
pub enum Scale {
    /// Evenly from zero.
    Linear,
    /// By powers of ten, from one.
    Log,
}

/// One axis.
#[derive(Debug, Clone)]
pub struct Axis {
    /// What it counts.
    pub label: &'static str,
    /// Its largest value.
    pub max: f64,
    /// Even or by powers.
    pub scale: Scale,
}

impl Axis {
    fn share(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => value / self.max.max(f64::MIN_POSITIVE),
            Scale::Log => value.max(1.0).log10() / self.max.max(10.0).log10(),
        };
        share.clamp(0.0, 1.0)
    }

    fn marks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Log => {
                let mut marks = vec![1.0];
                while marks
                    .last()
                    .is_some_and(|last| last * 10.0 <= self.max.max(10.0))
                {
                    marks.push(marks[marks.len() - 1] * 10.0);
                }
                marks
            }
            Scale::Linear => {
                let rough = (self.max / MARKS).max(f64::MIN_POSITIVE);
                let power = 10_f64.powf(rough.log10().floor());
                let steps = [1.0, 2.0, 5.0, 10.0];
                let step = steps.iter().map(|it| it * power).find(|it| *it >= rough);
                let step = step.unwrap_or(rough);
                let mut marks = vec![0.0];
                while marks[marks.len() - 1] + step <= self.max {
                    marks.push(marks[marks.len() - 1] + step);
                }
                marks
            }
        }
    }
}

/// A chart that is being drawn.
#[derive(Debug)]
pub struct Chart {
    x: Axis,
    y: Axis,
    title: String,
    behind: String,
    body: String,
}

impl Chart {
    /// An empty one.
    pub fn new(title: impl Into<String>, x: Axis, y: Axis) -> Self {
        Self {
            x,
            y,
            title: title.into(),
            behind: String::new(),
            body: String::new(),
        }
    }

    fn at_x(&self, value: f64) -> f64 {
        LEFT + self.x.share(value) * (WIDTH - LEFT - RIGHT)
    }

    fn at_y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.share(value) * (HEIGHT - TOP - BOTTOM)
    }

    /// A span of the x axis in the background, with what it is.
    pub fn band(&mut self, from: f64, to: f64, color: &str, what: &str) {
        let (from, to) = (self.at_x(from), self.at_x(to));
        let (width, height) = ((to - from).max(1.0), HEIGHT - TOP - BOTTOM);
        let what = escape(what);
        let _ = write!(
            self.behind,
            r#"<rect x="{from:.1}" y="{TOP}" width="{width:.1}" height="{height}" fill="{color}" opacity="0.25"><title>{what}</title></rect>"#
        );
    }

    /// A point.
    pub fn point(&mut self, x: f64, y: f64, color: &str) {
        let (x, y) = (self.at_x(x), self.at_y(y));
        let _ = write!(
            self.body,
            r#"<circle cx="{x:.1}" cy="{y:.1}" r="1.6" fill="{color}"/>"#
        );
    }

    /// A bar from the x axis upwards.
    pub fn bar(&mut self, from: f64, to: f64, y: f64, color: &str) {
        let (from, to, top) = (self.at_x(from), self.at_x(to), self.at_y(y));
        let (width, height) = ((to - from).max(0.5), HEIGHT - BOTTOM - top);
        let _ = write!(
            self.body,
            r#"<rect x="{from:.1}" y="{top:.1}" width="{width:.1}" height="{height:.1}" fill="{color}"/>"#
        );
    }

    /// A line through points.
    pub fn line(&mut self, points: &[(f64, f64)], color: &str) {
        let mut path = String::new();
        for (x, y) in points {
            let _ = write!(path, "{:.1},{:.1} ", self.at_x(*x), self.at_y(*y));
        }
        let path = path.trim_end();
        let _ = write!(
            self.body,
            r#"<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"/>"#
        );
    }

    /// What the colours mean, above the frame.
    pub fn legend(&mut self, entries: &[(&str, &str)]) {
        let mut x = WIDTH - RIGHT;
        for (what, color) in entries.iter().rev() {
            let letters = u32::try_from(what.chars().count()).unwrap_or(u32::MAX);
            x -= f64::from(letters) * 7.0 + 24.0;
            let what = escape(what);
            let _ = write!(
                self.body,
                r#"<rect x="{x:.1}" y="14" width="10" height="10" fill="{color}"/><text x="{:.1}" y="23">{what}</text>"#,
                x + 14.0
            );
        }
    }

    /// The whole picture.
    pub fn finish(self) -> String {
        let mut axes = String::new();
        for mark in self.y.marks() {
            let y = self.at_y(mark);
            let _ = write!(
                axes,
                r##"<line x1="{LEFT}" y1="{y:.1}" x2="{:.1}" y2="{y:.1}" stroke="#ddd"/><text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"##,
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                number(mark)
            );
        }
        for mark in self.x.marks() {
            let x = self.at_x(mark);
            let _ = write!(
                axes,
                r#"<text x="{x:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
                HEIGHT - BOTTOM + 16.0,
                number(mark)
            );
        }
        let (title, x, y) = (escape(&self.title), self.x.label, self.y.label);
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        let (middle_x, low, middle_y) = (
            f64::midpoint(LEFT, right),
            HEIGHT - 8.0,
            f64::midpoint(TOP, bottom),
        );
        let (behind, body) = (self.behind, self.body);
        format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11" fill="#333"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/><text x="{LEFT}" y="23" font-size="14">{title}</text>{behind}{axes}<line x1="{LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}" stroke="#333"/><line x1="{LEFT}" y1="{TOP}" x2="{LEFT}" y2="{bottom}" stroke="#333"/><text x="{middle_x}" y="{low}" text-anchor="middle">{x}</text><text x="14" y="{middle_y}" text-anchor="middle" transform="rotate(-90 14 {middle_y})">{y}</text>{body}</svg>
"##
        )
    }
}

fn number(value: f64) -> String {
    if value >= 10.0 || value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

/// Text for SVG and HTML.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linear(max: f64) -> Axis {
        Axis {
            label: "s",
            max,
            scale: Scale::Linear,
        }
    }

    #[test]
    fn marks_are_round_and_end_within_the_axis() {
        assert_eq!(
            linear(60.0).marks(),
            [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0]
        );
        assert_eq!(linear(0.7).marks().len(), 4);
        let log = Axis {
            scale: Scale::Log,
            ..linear(5000.0)
        };
        assert_eq!(log.marks(), [1.0, 10.0, 100.0, 1000.0]);
    }

    #[test]
    fn nothing_is_drawn_outside_the_frame() {
        let chart = Chart::new("t", linear(10.0), linear(1.0));
        assert!((chart.at_x(99.0) - (WIDTH - RIGHT)).abs() < 0.01);
        assert!((chart.at_y(99.0) - TOP).abs() < 0.01);
        assert!((chart.at_y(-1.0) - (HEIGHT - BOTTOM)).abs() < 0.01);
    }

    #[test]
    fn texts_are_escaped() {
        let mut chart = Chart::new("a<b", linear(1.0), linear(1.0));
        chart.band(0.0, 1.0, "red", "\"x\"&y");
        let text = chart.finish();
        assert!(text.contains("a&lt;b") && text.contains("&quot;x&quot;&amp;y"));
    }
}
