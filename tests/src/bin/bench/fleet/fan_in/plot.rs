//! Draws curves on logarithmic axes as SVG, readable on a light and on a dark page.

use std::fmt::Write;

use super::curves::grouped;

const PANEL: (f64, f64) = (440.0, 320.0);
/// Around the axes of a panel: left, right, top and bottom.
const MARGIN: (f64, f64, f64, f64) = (56.0, 28.0, 44.0, 64.0);
/// The distance between two names of the legend.
const LEGEND: f64 = 110.0;
/// A tick needs this distance from the one before to have its number.
const TICK: f64 = 44.0;
/// One colour a curve, for a light and for a dark page, and the marks of the lines for those who see no
/// colours.
const STYLE: &str = "text{font:12px sans-serif;fill:#24292f}.title{font-weight:600}\
.axis{stroke:#8c959f;stroke-width:1}.grid{stroke:#d0d7de;stroke-width:.5}\
.limit{stroke:#8c959f;stroke-dasharray:2 4}\
.curve{fill:none;stroke-width:2}.c0{stroke:#0969da}.c1{stroke:#bc4c00;stroke-dasharray:8 3}\
.c2{stroke:#1a7f37;stroke-dasharray:3 3}\
.d0{fill:#0969da}.d1{fill:#bc4c00}.d2{fill:#1a7f37}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.axis,.limit{stroke:#7d8590}\
.grid{stroke:#30363d}.c0{stroke:#58a6ff}.c1{stroke:#f0883e}.c2{stroke:#56d364}\
.d0{fill:#58a6ff}.d1{fill:#f0883e}.d2{fill:#56d364}}";

/// One pair of axes.
pub(super) struct Panel {
    pub(super) title: String,
    /// Curves by their names, each in ascending order of x.
    pub(super) curves: Vec<(&'static str, Vec<(f64, f64)>)>,
}

/// Where values are on an axis.
struct LogAxis {
    least: f64,
    most: f64,
    /// The positions of both.
    from: f64,
    to: f64,
}

impl LogAxis {
    fn at(&self, value: f64) -> f64 {
        let share = (value / self.least).ln() / (self.most / self.least).ln();
        self.from + share * (self.to - self.from)
    }
}

/// Draws panels side by side, with the same y axis.
pub(super) fn svg(panels: &[Panel]) -> String {
    let (width, height) = (PANEL.0 * panels.len() as f64, PANEL.1);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\">\n<style>{STYLE}</style>\n"
    );
    let all = panels.iter().flat_map(|panel| &panel.curves).flat_map(|(_, curve)| curve);
    let (least, most) =
        all.fold((1.0_f64, 100.0_f64), |(least, most), (_, y)| (least.min(*y), most.max(*y)));
    let decade = |value: f64, round: fn(f64) -> f64| 10f64.powf(round(value.log10()));
    for (n, panel) in panels.iter().enumerate() {
        let y = LogAxis {
            least: decade(least, f64::floor),
            most: decade(most, f64::ceil),
            from: height - MARGIN.3,
            to: MARGIN.2,
        };
        draw(&mut text, panel, PANEL.0 * n as f64, &y);
    }
    text.push_str("</svg>\n");
    text
}

fn draw(text: &mut String, panel: &Panel, left: f64, y: &LogAxis) {
    let (from, to) = (left + MARGIN.0, left + PANEL.0 - MARGIN.1);
    let points = panel.curves.iter().flat_map(|(_, curve)| curve);
    let mut ticks: Vec<f64> = points.map(|(x, _)| *x).collect();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    let Some((least, most)) = ticks.first().copied().zip(ticks.last().copied()) else { return };
    let x = LogAxis { least, most: most.max(least * 1.01), from, to };
    let title = &panel.title;
    let _ = writeln!(text, "<text class=\"title\" x=\"{from:.0}\" y=\"22\">{title}</text>");
    y_axis(text, y, (from, to));
    let mut last = f64::NEG_INFINITY;
    for tick in ticks {
        let (at, base) = (x.at(tick), y.from);
        line(text, "grid", (at, base), (at, y.to));
        if at - last >= TICK {
            last = at;
            let (number, below) = (grouped(tick as u64), base + 18.0);
            let middle = "text-anchor=\"middle\"";
            let _ = writeln!(text, "<text {middle} x=\"{at:.1}\" y=\"{below:.0}\">{number}</text>");
        }
    }
    for (n, (name, curve)) in panel.curves.iter().enumerate() {
        let placed: Vec<_> = curve.iter().map(|(a, b)| (x.at(*a), y.at(*b))).collect();
        let list: Vec<_> = placed.iter().map(|(a, b)| format!("{a:.1},{b:.1}")).collect();
        let list = list.join(" ");
        let _ = writeln!(text, "<polyline class=\"curve c{n}\" points=\"{list}\"/>");
        for (a, b) in placed {
            let _ = writeln!(text, "<circle class=\"d{n}\" cx=\"{a:.1}\" cy=\"{b:.1}\" r=\"3\"/>");
        }
        let (at, below) = (from + LEGEND * n as f64, y.from + 42.0);
        line(text, &format!("curve c{n}"), (at, below), (at + 24.0, below));
        let (at, below) = (at + 30.0, below + 4.0);
        let _ = writeln!(text, "<text x=\"{at:.0}\" y=\"{below:.0}\">{name}</text>");
    }
}

/// The axis, its decades, and the limit at which curves end.
fn y_axis(text: &mut String, y: &LogAxis, (from, to): (f64, f64)) {
    let mut decade = y.least;
    while decade <= y.most * 1.01 {
        let (at, before) = (y.at(decade), from - 8.0);
        line(text, if decade == 100.0 { "limit" } else { "grid" }, (from, at), (to, at));
        let below = at + 4.0;
        let number = if decade < 1.0 { decade.to_string() } else { grouped(decade as u64) };
        let end = "text-anchor=\"end\"";
        let _ = writeln!(text, "<text {end} x=\"{before:.0}\" y=\"{below:.1}\">{number}</text>");
        decade *= 10.0;
    }
    line(text, "axis", (from, y.from), (from, y.to));
    line(text, "axis", (from, y.from), (to, y.from));
}

fn line(text: &mut String, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    let _ = writeln!(
        text,
        "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_factors_are_equal_distances() {
        let axis = LogAxis { least: 1.0, most: 100.0, from: 0.0, to: 50.0 };
        assert_eq!([1.0, 10.0, 100.0].map(|value| axis.at(value).round()), [0.0, 25.0, 50.0]);
    }

    #[test]
    fn a_curve_has_a_line_and_a_name() {
        let curves = vec![("Spoke", vec![(10.0, 1.0), (1000.0, 50.0)])];
        let text = svg(&[Panel { title: "a title".to_owned(), curves }]);
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"), "{text}");
        assert_eq!(text.matches("<polyline").count(), 1);
        assert!(text.contains(">Spoke</text>") && text.contains(">1,000</text>"), "{text}");
    }
}
