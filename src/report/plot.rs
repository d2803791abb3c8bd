//! Plots as SVG text: lines and bars, colours by CSS variables of the page, so that light, dark and print are the
//! page's affair. Each is drawn twice, for wide and for narrow pages, for a picture that is scaled down cannot be read.
//! Knows nothing of indexes.

use std::fmt::Write as _;

/// Colours that the page defines, `--s0` to `--s7`; series beyond them repeat those, dashed.
const COLOURS: usize = 8;

/// Of an average character of the page's sans-serif at 12 pixels.
const CHAR_WIDTH: f64 = 6.6;

/// Two labels stand at least so far apart.
const LINE_HEIGHT: f64 = 15.0;

/// How values become places.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    Linear,
    Log,
    /// −log(1 − x): as much room from .9 to .99 as from .99 to .999.
    Nines,
}

#[derive(Debug, Clone)]
pub struct Axis {
    pub title: String,
    pub scale: Scale,
    pub low: f64,
    pub high: f64,
}

#[derive(Debug, Clone, Default)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
    /// Of each point's y, or none at all.
    pub ranges: Vec<(f64, f64)>,
    /// Drawn over the others, and thicker.
    pub emphasised: bool,
    pub dashed: bool,
    pub markers: bool,
    /// A colour of `--s0` to `--s7` and beyond.
    pub colour: usize,
    /// One point drawn as a ring: the default.
    pub ring: Option<usize>,
}

/// Where a line's name stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Names {
    /// Beside its last point.
    AtEnd,
    /// Over its highest point.
    AtPeak,
}

#[derive(Debug, Clone)]
pub struct Lines {
    /// For those who cannot see it.
    pub description: String,
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
    pub names: Names,
}

/// A plot for wide pages and one for narrow ones.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Figure {
    pub wide: String,
    pub narrow: String,
    /// (number in the narrow plot, name, colour class)
    pub legend: Vec<(usize, String, String)>,
}

/// One bar.
#[derive(Debug, Clone)]
pub struct Bar {
    pub group: String,
    pub name: String,
    pub value: f64,
    pub text: String,
    pub colour: usize,
}

const LOWEST_MISS: f64 = 5e-5;

impl Scale {
    fn place(self, value: f64) -> f64 {
        match self {
            Scale::Linear => value,
            Scale::Log => value.max(1e-12).log10(),
            Scale::Nines => -(1.0 - value).max(LOWEST_MISS).log10(),
        }
    }
}

impl Axis {
    /// Around all values, with some air.
    pub fn around(title: &str, scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values
            .filter(|value| value.is_finite() && (scale != Scale::Log || *value > 0.0))
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        let (low, high) = if low <= high { (low, high) } else { (1.0, 10.0) };
        let (low, high) = match scale {
            Scale::Linear => {
                let air = 0.04 * (high - low).max(high.abs() * 0.05).max(1e-9);
                (low - air, high + air)
            }
            Scale::Log => (low / 1.25, high * 1.25),
            Scale::Nines => (low - 0.08 * (1.0 - low), 1.0 - ((1.0 - high) * 0.8).max(LOWEST_MISS)),
        };
        Self { title: title.into(), scale, low, high }
    }

    fn fraction(&self, value: f64) -> f64 {
        let (low, high) = (self.scale.place(self.low), self.scale.place(self.high));
        ((self.scale.place(value) - low) / (high - low).max(1e-12)).clamp(0.0, 1.0)
    }

    /// At most about `most`, with their labels.
    fn ticks(&self, most: usize) -> Vec<(f64, String)> {
        let within = |value: &f64| (self.low..=self.high).contains(value);
        let candidates: Vec<f64> = match self.scale {
            Scale::Nines => [
                0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999,
            ]
            .to_vec(),
            Scale::Log => {
                let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
                let span = self.high.log10() - self.low.log10();
                let steps: &[f64] = if span > 3.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
                decades.flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade))).collect()
            }
            Scale::Linear => {
                let rough = (self.high - self.low) / most as f64;
                let power = 10f64.powf(rough.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0]
                    .map(|s| s * power)
                    .into_iter()
                    .find(|s| *s >= rough)
                    .unwrap_or(power);
                let first = (self.low / step).ceil() as i64;
                (0..=most as i64 + 1).map(|at| (first + at) as f64 * step).collect()
            }
        };
        let mut ticks: Vec<f64> = candidates.into_iter().filter(within).collect();
        // Those that would stand on each other.
        let gap = 0.7 / most as f64;
        let mut kept: Vec<f64> = Vec::new();
        if self.scale == Scale::Nines {
            // From the right, where it matters.
            ticks.reverse();
        }
        for tick in ticks {
            if kept.last().is_none_or(|&last| (self.fraction(tick) - self.fraction(last)).abs() >= gap) {
                kept.push(tick);
            }
        }
        kept.sort_by(f64::total_cmp);
        kept.into_iter().map(|tick| (tick, short(tick))).collect()
    }
}

/// `12k`, `0.995`.
pub fn short(value: f64) -> String {
    let magnitude = value.abs();
    let trimmed = |text: String| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text,
    };
    match magnitude {
        m if m >= 1e6 => trimmed(format!("{:.1}", value / 1e6)) + "M",
        m if m >= 1e3 => trimmed(format!("{:.1}", value / 1e3)) + "k",
        m if m >= 100.0 => format!("{value:.0}"),
        m if m >= 1.0 => trimmed(format!("{value:.1}")),
        0.0 => "0".into(),
        _ => trimmed(format!("{value:.4}")),
    }
}

pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

struct Frame {
    width: f64,
    height: f64,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Frame {
    fn x(&self, fraction: f64) -> f64 {
        self.left + fraction * (self.width - self.left - self.right)
    }

    fn y(&self, fraction: f64) -> f64 {
        self.height - self.bottom - fraction * (self.height - self.top - self.bottom)
    }
}

impl Lines {
    pub fn figure(&self) -> Figure {
        let legend =
            self.series.iter().enumerate().map(|(at, series)| (at + 1, series.name.clone(), class(series)));
        Figure {
            wide: self.draw(760.0, 400.0, false),
            narrow: self.draw(360.0, 330.0, true),
            legend: legend.collect(),
        }
    }

    fn label(&self, at: usize, narrow: bool) -> String {
        if narrow && self.series.len() > 1 { (at + 1).to_string() } else { self.series[at].name.clone() }
    }

    fn draw(&self, width: f64, height: f64, narrow: bool) -> String {
        let longest =
            (0..self.series.len()).map(|at| self.label(at, narrow).chars().count()).max().unwrap_or(0);
        let right = match self.names {
            Names::AtEnd => 18.0 + (longest as f64 * CHAR_WIDTH).min(width * 0.36),
            Names::AtPeak => 12.0,
        };
        let frame = Frame { width, height, left: 46.0, right, top: 30.0, bottom: 42.0 };
        let mut svg = String::new();
        let description = escaped(&self.description);
        let _ = write!(
            svg,
            "<svg class=\"plot {}\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{description}\">",
            if narrow { "narrow" } else { "wide" }
        );
        self.grid(&mut svg, &frame, narrow);
        // Emphasised ones last: over the others.
        let mut order: Vec<usize> = (0..self.series.len()).collect();
        order.sort_by_key(|&at| self.series[at].emphasised);
        for at in order {
            self.line(&mut svg, &frame, &self.series[at]);
        }
        self.label_all(&mut svg, &frame, narrow);
        svg + "</svg>"
    }

    fn grid(&self, svg: &mut String, frame: &Frame, narrow: bool) {
        let (x_end, y_end) = (frame.x(1.0), frame.y(0.0));
        for (value, text) in self.y.ticks(if narrow { 5 } else { 7 }) {
            let y = frame.y(self.y.fraction(value));
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{:.1}\" x2=\"{x_end:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
                frame.left
            );
            let _ = write!(
                svg,
                "<text class=\"tick\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{text}</text>",
                frame.left - 6.0,
                y + 4.0
            );
        }
        for (value, text) in self.x.ticks(if narrow { 5 } else { 9 }) {
            let x = frame.x(self.x.fraction(value));
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{y_end:.1}\"/>",
                frame.top
            );
            let _ = write!(
                svg,
                "<text class=\"tick\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{:.1}\">{text}</text>",
                y_end + 17.0
            );
        }
        let _ = write!(svg, "<text class=\"axis\" x=\"4\" y=\"14\">{}</text>", escaped(&self.y.title));
        let middle = f64::midpoint(frame.left, x_end);
        let _ = write!(
            svg,
            "<text class=\"axis\" text-anchor=\"middle\" x=\"{middle:.1}\" y=\"{:.1}\">{}</text>",
            frame.height - 7.0,
            escaped(&self.x.title)
        );
    }

    fn line(&self, svg: &mut String, frame: &Frame, series: &Series) {
        let at = |(x, y): (f64, f64)| (frame.x(self.x.fraction(x)), frame.y(self.y.fraction(y)));
        let class = class(series);
        let weight = if series.emphasised { " ours" } else { "" };
        let dash = if series.dashed || series.colour >= COLOURS { " dashed" } else { "" };
        let points: Vec<String> =
            series.points.iter().map(|&p| at(p)).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ =
            write!(svg, "<polyline class=\"line {class}{weight}{dash}\" points=\"{}\"/>", points.join(" "));
        for (&(x, _), &(low, high)) in series.points.iter().zip(&series.ranges) {
            let ((x, low), (_, high)) = (at((x, low)), at((x, high)));
            let _ = write!(
                svg,
                "<line class=\"range {class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{low:.1}\" y2=\"{high:.1}\"/>"
            );
        }
        for (place, &point) in series.points.iter().enumerate().filter(|_| series.markers) {
            let (x, y) = at(point);
            let (class_of, radius) = if series.ring == Some(place) { ("ring", 5.5) } else { ("dot", 3.0) };
            let _ = write!(
                svg,
                "<circle class=\"{class_of} {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\"><title>{}: {}, {}</title></circle>",
                escaped(&series.name),
                short(point.0),
                short(point.1)
            );
        }
    }

    /// Names beside the lines, moved apart where they would cover each other.
    fn label_all(&self, svg: &mut String, frame: &Frame, narrow: bool) {
        let place = |(x, y): (f64, f64)| (frame.x(self.x.fraction(x)), frame.y(self.y.fraction(y)));
        let mut anchors: Vec<(usize, f64, f64)> = Vec::new();
        for (at, series) in self.series.iter().enumerate() {
            let highest = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
            let anchor = match self.names {
                Names::AtEnd => series.points.last(),
                Names::AtPeak => series.points.iter().max_by(highest),
            };
            anchors.extend(anchor.map(|&anchor| place(anchor)).map(|(x, y)| (at, x, y)));
        }
        anchors.sort_by(|a, b| a.2.total_cmp(&b.2));
        let lift = if self.names == Names::AtPeak { -8.0 } else { 4.0 };
        let mut ys: Vec<f64> = anchors.iter().map(|anchor| anchor.2 + lift).collect();
        spread(&mut ys, frame.top - 2.0, frame.height - frame.bottom);
        for (&(at, x, y), &text_y) in anchors.iter().zip(&ys) {
            let series = &self.series[at];
            let (class, name) = (class(series), escaped(&self.label(at, narrow)));
            let bold = if series.emphasised { " ours" } else { "" };
            match self.names {
                Names::AtEnd => {
                    let text_x = frame.width - frame.right + 14.0;
                    let _ = write!(
                        svg,
                        "<line class=\"leader {class}\" x1=\"{:.1}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
                        x + 4.0,
                        text_x - 3.0,
                        text_y - 4.0
                    );
                    let _ = write!(
                        svg,
                        "<text class=\"name {class}{bold}\" x=\"{text_x:.1}\" y=\"{text_y:.1}\">{name}</text>"
                    );
                }
                Names::AtPeak => {
                    let half = name.chars().count() as f64 * CHAR_WIDTH / 2.0;
                    let low = frame.left + half;
                    let x = x.clamp(low, (frame.width - frame.right - half).max(low));
                    let _ = write!(
                        svg,
                        "<text class=\"name {class}{bold}\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{text_y:.1}\">{name}</text>"
                    );
                }
            }
        }
    }
}

/// Moves ascending places apart by a line's height, within bounds as far as they fit.
fn spread(ys: &mut [f64], top: f64, bottom: f64) {
    let mut least = top + LINE_HEIGHT / 2.0;
    for y in ys.iter_mut() {
        *y = y.max(least);
        least = *y + LINE_HEIGHT;
    }
    let mut most = bottom;
    for y in ys.iter_mut().rev() {
        *y = y.min(most);
        most = *y - LINE_HEIGHT;
    }
}

fn class(series: &Series) -> String {
    format!("s{}", series.colour % COLOURS)
}

/// Horizontal bars from 0, by groups.
pub fn bars(description: &str, bars: &[Bar]) -> Figure {
    Figure {
        wide: draw_bars(description, bars, 760.0, false),
        narrow: draw_bars(description, bars, 360.0, true),
        legend: Vec::new(),
    }
}

fn draw_bars(description: &str, bars: &[Bar], width: f64, narrow: bool) -> String {
    let most = bars.iter().map(|bar| bar.value).fold(1e-12, f64::max);
    let longest =
        |of: fn(&Bar) -> &str| bars.iter().map(|bar| of(bar).chars().count()).max().unwrap_or(0) as f64;
    let left = if narrow { 8.0 } else { (longest(|bar| &bar.name) * CHAR_WIDTH + 16.0).min(width * 0.4) };
    let right = longest(|bar| &bar.text) * CHAR_WIDTH + 14.0;
    let step = if narrow { 34.0 } else { 22.0 };
    let (mut y, mut body, mut group) = (4.0, String::new(), None);
    for bar in bars {
        if group != Some(&bar.group) && !bar.group.is_empty() {
            y += 22.0;
            let _ = write!(
                body,
                "<text class=\"axis\" x=\"8\" y=\"{:.1}\">{}</text>",
                y - 6.0,
                escaped(&bar.group)
            );
        }
        group = Some(&bar.group);
        let name = escaped(&bar.name);
        let top = if narrow { y + 15.0 } else { y + 3.0 };
        if narrow {
            let _ = write!(body, "<text class=\"tick\" x=\"8\" y=\"{:.1}\">{name}</text>", y + 11.0);
        } else {
            let _ = write!(
                body,
                "<text class=\"tick\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{name}</text>",
                left - 8.0,
                y + 15.0
            );
        }
        let long = (bar.value / most * (width - left - right)).max(1.0);
        let _ = write!(
            body,
            "<rect class=\"bar s{}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{long:.1}\" height=\"14\" rx=\"2\"/>",
            bar.colour % COLOURS
        );
        let _ = write!(
            body,
            "<text class=\"value\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            left + long + 6.0,
            top + 11.5,
            escaped(&bar.text)
        );
        y += step;
    }
    let kind = if narrow { "narrow" } else { "wide" };
    let height = y + 6.0;
    let description = escaped(description);
    format!(
        "<svg class=\"plot {kind}\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{description}\">{body}</svg>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_never_cover_each_other() {
        let mut ys = vec![40.0, 41.0, 42.0, 200.0, 300.0, 301.0, 302.0];
        spread(&mut ys, 20.0, 310.0);
        assert!(ys.windows(2).all(|pair| pair[1] - pair[0] >= LINE_HEIGHT - 1e-9), "{ys:?}");
        assert!(ys.iter().all(|y| (20.0..=310.0).contains(y)), "{ys:?}");
    }

    #[test]
    fn ticks_lie_within_the_axis_and_apart() {
        for (scale, low, high) in [
            (Scale::Log, 90.0, 41_000.0),
            (Scale::Log, 900.0, 1100.0),
            (Scale::Linear, -0.04, 1.04),
            (Scale::Nines, 0.31, 0.9995),
            (Scale::Nines, 0.985, 0.992),
        ] {
            let axis = Axis::around("", scale, [low, high].into_iter());
            let ticks = axis.ticks(7);
            assert!(!ticks.is_empty() && ticks.len() <= 10, "{scale:?} {ticks:?}");
            assert!(
                ticks.windows(2).all(|pair| axis.fraction(pair[1].0) > axis.fraction(pair[0].0)),
                "{ticks:?}"
            );
        }
    }

    #[test]
    fn what_a_user_named_cannot_end_an_element() {
        let series = Series { name: "<script>&\"".into(), points: vec![(1.0, 2.0)], ..Series::default() };
        let axis = || Axis::around("<x>", Scale::Linear, [0.0, 3.0].into_iter());
        let plot = Lines {
            description: "\"<".into(),
            x: axis(),
            y: axis(),
            series: vec![series],
            names: Names::AtEnd,
        };
        let svg = plot.figure().wide;
        assert!(!svg.contains("<script>") && !svg.contains("<x>") && svg.contains("&lt;script&gt;"), "{svg}");
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 0.5, 0.995, 1.0, 12.5, 100.0, 1500.0, 20_000.0, 3e6].map(short);
        assert_eq!(shown, ["0", "0.5", "0.995", "1", "12.5", "100", "1.5k", "20k", "3M"]);
    }
}
