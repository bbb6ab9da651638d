//! Lines below the zones, for what goes from one to another.
//!
//! Enters: links, and where zones are drawn. Leaves: lines, those that don't meet on the same level, and their rates on top of all of them. Never: a line
//! for what stays in its zone.

use super::Spot;
use crate::simulate::table::rate;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use weft_engine::simulate::View;
use weft_engine::simulate::view::Place;

/// From one level to the next.
pub const LEVEL: f64 = 34.0;
/// Rates below this are nothing.
const NOTHING: f64 = 0.05;
/// Room between the ends of two lines of a zone.
const STEP: f64 = 22.0;
/// Least room between two lines of a level, with their labels.
const APART: f64 = 30.0;

/// Rates between zones.
pub type Pairs = BTreeMap<(Place, Place), f64>;

/// A line, from where to where, and on which level.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    from: f64,
    to: f64,
    /// Where zones end.
    bottom: f64,
    /// The first is 0.
    pub level: usize,
    rate: f64,
    /// To another region.
    far: bool,
}

/// What goes from one zone to another, of all Services together.
pub fn between(view: &View) -> Pairs {
    let mut pairs = Pairs::new();
    for link in view
        .links
        .iter()
        .filter(|link| link.crosses_zones() && link.rate >= NOTHING)
    {
        if let Some(from) = &link.from {
            *pairs.entry((from.clone(), link.to.clone())).or_default() += link.rate;
        }
    }
    pairs
}

/// Finds a level for each: the highest on which nothing is in its way.
pub fn lay(pairs: &Pairs, spots: &BTreeMap<Place, Spot>) -> Vec<Line> {
    let mut ends: BTreeMap<&Place, usize> = BTreeMap::new();
    let mut lines = Vec::new();
    for ((from, to), rate) in pairs {
        let (start, end) = (spots[from], spots[to]);
        let mut offset = |at, spot: Spot| {
            let used = ends.entry(at).or_default();
            *used += 1;
            let step = (*used as f64 / 2.0).floor() * if used.is_multiple_of(2) { 1.0 } else { -1.0 };
            let most = spot.width / 2.0 - 12.0;
            (step * STEP).clamp(-most, most)
        };
        let (ax, bx) = (
            start.middle().0 + offset(from, start),
            end.middle().0 + offset(to, end),
        );
        lines.push(Line {
            from: ax,
            to: bx,
            bottom: start.y + start.height,
            level: 0,
            rate: *rate,
            far: from.0 != to.0,
        });
    }
    // Short ones are nearest, so that few cross each other.
    lines.sort_by(|a, b| a.length().total_cmp(&b.length()));
    let mut levels: Vec<Vec<(f64, f64)>> = Vec::new();
    for line in &mut lines {
        let own = (line.from.min(line.to) - APART, line.from.max(line.to) + APART);
        let free =
            |taken: &Vec<(f64, f64)>| taken.iter().all(|(left, right)| own.1 < *left || *right < own.0);
        line.level = levels.iter().position(free).unwrap_or(levels.len());
        if line.level == levels.len() {
            levels.push(Vec::new());
        }
        levels[line.level].push((line.from.min(line.to), line.from.max(line.to)));
    }
    lines
}

/// Draws them below `top`.
pub fn draw(out: &mut String, lines: &[Line], top: f64) {
    for line in lines {
        let Line { from, to, bottom, .. } = *line;
        let (level, turn) = (line.y(top), if to > from { 8.0 } else { -8.0 });
        let marker = if line.far { "far" } else { "arrow" };
        let _ = writeln!(
            out,
            r##"<path d="M{from:.0} {bottom:.0}V{:.0}Q{from:.0} {level:.0} {:.0} {level:.0}H{:.0}Q{to:.0} {level:.0} {to:.0} {:.0}V{:.0}" fill="none" stroke="{}" stroke-width="{:.1}" marker-end="url(#{marker})"/>"##,
            level - 8.0,
            from + turn,
            to - turn,
            level - 8.0,
            bottom + 2.0,
            line.stroke(),
            1.5 + (line.rate / 200.0).min(3.0),
        );
    }
    for line in lines {
        let (level, middle) = (line.y(top), f64::midpoint(line.from, line.to));
        let label = format!("{}/s", rate(line.rate));
        let half = 5.0 + label.len() as f64 * 4.0;
        let stroke = line.stroke();
        let _ = writeln!(
            out,
            r##"<rect x="{:.0}" y="{:.0}" width="{:.0}" height="20" rx="4" fill="#ffffff" stroke="{stroke}"/><text x="{middle:.0}" y="{:.0}" font-size="13" text-anchor="middle" fill="{stroke}">{label}</text>"##,
            middle - half,
            level - 10.0,
            half * 2.0,
            level + 5.0,
        );
    }
}

impl Line {
    fn length(&self) -> f64 {
        (self.to - self.from).abs()
    }

    fn y(&self, top: f64) -> f64 {
        top + 10.0 + self.level as f64 * LEVEL
    }

    fn stroke(&self) -> &'static str {
        if self.far { "#7a3fa0" } else { "#42546a" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_meet_have_levels_of_their_own() {
        let place = |zone: &str| -> Place { ("r".into(), zone.into()) };
        let spots: BTreeMap<Place, Spot> = ["a", "b", "c", "d"]
            .into_iter()
            .zip([0.0, 300.0, 600.0, 900.0])
            .map(|(zone, x)| {
                let spot = Spot {
                    x,
                    y: 0.0,
                    width: 250.0,
                    height: 100.0,
                };
                (place(zone), spot)
            })
            .collect();
        let pairs = [("a", "b"), ("c", "d"), ("a", "d")];
        let pairs: Pairs = pairs
            .into_iter()
            .map(|(from, to)| ((place(from), place(to)), 1.0))
            .collect();
        let lines = lay(&pairs, &spots);
        let levels: Vec<usize> = lines.iter().map(|line| line.level).collect();
        // Both short ones have room on one level; the long one crosses them.
        assert_eq!(levels, [0, 0, 1]);
        assert!(lines[2].length() > lines[0].length());
        let mut out = String::new();
        draw(&mut out, &lines, 0.0);
        assert!(out.rfind("<path").unwrap() < out.find("<text").unwrap(), "{out}");
    }
}
