//! Pictures of figures: lines over a size that grows by factors, and pairs of bars. Plain SVG without a background, which
//! follows the reader's dark or light scheme.

use std::fmt::Write as _;

const WIDTH: f64 = 680.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 52.0;
/// Horizontal lines above the one at zero.
const GRID_LINES: u32 = 5;
/// The room of a pair of bars and of one bar.
const PAIR_HEIGHT: f64 = 40.0;
const BAR_HEIGHT: f64 = 14.0;
/// The room for the names of bars, and for the figures behind them.
const NAMES_WIDTH: f64 = 90.0;
const FIGURES_WIDTH: f64 = 60.0;

const STYLE: &str = "<style>text{font:12px sans-serif;fill:#333}.t{font-size:15px;font-weight:bold}.g{stroke:#ccc}\
    .s0{stroke:#8a8a8a;fill:#8a8a8a}.s1{stroke:#1f6feb;fill:#1f6feb}.l{fill:none;stroke-width:2}\
    @media(prefers-color-scheme:dark){text{fill:#ddd}.g{stroke:#555}.s0{stroke:#9a9a9a;fill:#9a9a9a}\
    .s1{stroke:#6cb0ff;fill:#6cb0ff}}</style>";

/// A line: what it is of, and its points in the order of their size.
pub(crate) type Line = (String, Vec<(f64, f64)>);
/// A pair of bars: its name, and the figures of the bare loop and of sluiced.
pub(crate) type Pair = (String, [f64; 2]);

/// Lines over a size. Sizes are told apart by their factors, figures begin at zero.
pub(crate) fn lines(title: &str, size: &str, unit: &str, lines: &[Line]) -> String {
    let sizes: Vec<f64> = lines.first().map(|line| line.1.iter().map(|point| point.0).collect()).unwrap_or_default();
    let (first, last) = (sizes.first().copied().unwrap_or(1.0).ln(), sizes.last().copied().unwrap_or(1.0).ln());
    let top = rounded_up(lines.iter().flat_map(|line| &line.1).map(|point| point.1).fold(0.0, f64::max));
    let x = |size: f64| {
        LEFT + (WIDTH - LEFT - RIGHT) * if last > first { (size.ln() - first) / (last - first) } else { 0.5 }
    };
    let y = |figure: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * figure / top;
    let mut svg = head(HEIGHT, title);
    for line in 0..=GRID_LINES {
        let figure = top * f64::from(line) / f64::from(GRID_LINES);
        let (at, right) = (y(figure), WIDTH - RIGHT);
        svg += &format!("<line class=\"g\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>");
        svg += &text(LEFT - 8.0, at + 4.0, "end", &format!("{} {unit}", short(figure)));
    }
    for size in sizes {
        svg += &text(x(size), HEIGHT - BOTTOM + 18.0, "middle", &grouped(size));
    }
    svg += &text(WIDTH / 2.0, HEIGHT - 12.0, "middle", size);
    for (number, (of, points)) in lines.iter().enumerate() {
        // The last line is sluiced's, the one before it the bare loop's.
        let class = if number + 1 == lines.len() { "s1" } else { "s0" };
        let path: Vec<String> = points.iter().map(|(at, figure)| format!("{:.1},{:.1}", x(*at), y(*figure))).collect();
        svg += &format!("<polyline class=\"{class} l\" style=\"fill:none\" points=\"{}\"/>", path.join(" "));
        for (at, figure) in points {
            svg += &format!("<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\"/>", x(*at), y(*figure));
        }
        let right = WIDTH - RIGHT - 110.0 * (lines.len() - 1 - number) as f64;
        svg += &legend(right - 90.0, class, of);
    }
    svg + "</svg>\n"
}

/// Pairs of bars, one below the other.
pub(crate) fn pairs(title: &str, unit: &str, pairs: &[Pair]) -> String {
    let most = pairs.iter().flat_map(|pair| pair.1).fold(f64::MIN_POSITIVE, f64::max);
    let room = WIDTH - NAMES_WIDTH - FIGURES_WIDTH - RIGHT;
    let mut svg = head(TOP + PAIR_HEIGHT * pairs.len() as f64, title);
    svg += &legend(WIDTH - RIGHT - 200.0, "s0", "bare loop");
    svg += &legend(WIDTH - RIGHT - 90.0, "s1", "sluiced");
    for (number, (name, figures)) in pairs.iter().enumerate() {
        let top = TOP + PAIR_HEIGHT * number as f64;
        svg += &text(NAMES_WIDTH - 8.0, top + BAR_HEIGHT + 4.0, "end", name);
        for (bar, figure) in figures.iter().enumerate() {
            let (y, width) = (top + BAR_HEIGHT * bar as f64, room * figure / most);
            let height = BAR_HEIGHT - 2.0;
            svg += &format!(
                "<rect class=\"s{bar}\" x=\"{NAMES_WIDTH}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\"/>"
            );
            svg += &text(NAMES_WIDTH + width + 6.0, y + BAR_HEIGHT - 3.0, "start", &format!("{figure:.1} {unit}"));
        }
    }
    svg + "</svg>\n"
}

fn head(height: f64, title: &str) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\">"
    );
    write!(svg, "<title>{0}</title>{STYLE}<text class=\"t\" x=\"12\" y=\"24\">{0}</text>", escaped(title))
        .expect("a text can be written to");
    svg
}

fn text(x: f64, y: f64, anchor: &str, text: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>\n", escaped(text))
}

fn legend(x: f64, class: &str, of: &str) -> String {
    let mark = format!("<rect class=\"{class}\" x=\"{x:.1}\" y=\"15\" width=\"10\" height=\"10\"/>");
    mark + &text(x + 15.0, 24.0, "start", of)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// The next of 1, 2 or 5 times a power of ten.
fn rounded_up(figure: f64) -> f64 {
    let power = 10_f64.powf(figure.max(f64::MIN_POSITIVE).log10().floor());
    [1.0, 2.0, 5.0].map(|times| times * power).into_iter().find(|round| *round >= figure).unwrap_or(10.0 * power)
}

fn short(figure: f64) -> String {
    if figure.fract() == 0.0 { format!("{figure:.0}") } else { format!("{figure:.2}").trim_end_matches('0').to_owned() }
}

/// With commas between the thousands.
fn grouped(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let first = digits.len() % 3;
    let (head, rest) = digits.split_at(first);
    let mut groups: Vec<&str> = if head.is_empty() { Vec::new() } else { vec![head] };
    groups.extend((0..rest.len() / 3).map(|at| &rest[3 * at..3 * at + 3]));
    groups.join(",")
}
