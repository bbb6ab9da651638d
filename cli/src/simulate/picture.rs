//! A picture: regions and zones as boxes, Services in them with their load, links with their rates.
//!
//! Enters: a case. Leaves: SVG. Never: a name that isn't escaped; a font or script from elsewhere.

/// Links between zones.
mod links;

use super::Case;
use super::table::{place, rate};
use super::town::Built;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use weft_engine::simulate::view::Place;
use weft_engine::simulate::{Group, How, What};

const ZONE_WIDTH: f64 = 280.0;
/// Letters of a row in a zone.
const ROW_LETTERS: usize = 34;
const ROW: f64 = 50.0;
const HEAD: f64 = 40.0;
const GAP: f64 = 46.0;
const MARGIN: f64 = 30.0;
const TOP: f64 = 96.0;
const REGION_HEAD: f64 = 40.0;

/// Where something is drawn.
#[derive(Clone, Copy, Debug)]
struct Spot {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

impl Spot {
    fn middle(self) -> (f64, f64) {
        (self.x + self.width / 2.0, self.y + self.height / 2.0)
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// At most so many letters.
fn short(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return escape(text);
    }
    let cut: String = text.chars().take(most.saturating_sub(1)).collect();
    format!("{}…", escape(&cut))
}

/// Of a load; one that is relative to what was before says nothing of what there is room for.
fn colour(load: Option<f64>, measured: bool) -> &'static str {
    match load.filter(|_| measured) {
        None => "#5b86ad",
        Some(load) if load > 1.0 => "#c8372d",
        Some(load) if load > 0.8 => "#d98a1f",
        Some(_) => "#3a8f5c",
    }
}

/// A Service in a zone.
struct Row<'a> {
    service: String,
    group: &'a Group,
    /// Its capacity is known.
    measured: bool,
}

/// What there is in one zone.
type Rows<'a> = Vec<Row<'a>>;

/// The picture of what is left.
pub fn svg(case: &Case, built: &Built) -> String {
    let view = &case.prediction.settled;
    let mut zones: BTreeMap<Place, Rows<'_>> = BTreeMap::new();
    for service in &view.services {
        for group in &service.groups {
            let at = (group.region.clone(), group.zone.clone());
            let row = Row {
                service: service.name.to_string(),
                group,
                measured: built.measured(&service.name),
            };
            zones.entry(at).or_default().push(row);
        }
    }
    for link in &view.links {
        zones.entry(link.to.clone()).or_default();
        if let Some(from) = &link.from {
            zones.entry(from.clone()).or_default();
        }
    }
    let most = zones.values().map(Vec::len).max().unwrap_or(0);
    let height = HEAD + ROW * most.max(1) as f64 + 12.0;
    let regions: BTreeSet<Arc<str>> = zones.keys().map(|(region, _)| region.clone()).collect();
    let mut spots: BTreeMap<Place, Spot> = BTreeMap::new();
    let mut boxes = Vec::new();
    let mut x = MARGIN;
    for region in &regions {
        let inside: Vec<&Place> = zones.keys().filter(|(of, _)| of == region).collect();
        let start = x;
        x += GAP / 2.0;
        for at in inside {
            let spot = Spot {
                x,
                y: TOP + REGION_HEAD,
                width: ZONE_WIDTH,
                height,
            };
            spots.insert(at.clone(), spot);
            x += ZONE_WIDTH + GAP;
        }
        x -= GAP / 2.0;
        boxes.push((region.clone(), start, x - start));
        x += GAP;
    }
    let pairs = links::between(view);
    let lines = links::lay(&pairs, &spots);
    let below = TOP + REGION_HEAD + height + 24.0;
    let levels = lines.iter().map(|line| line.level + 1).max().unwrap_or(0) as f64;
    let refused: f64 = view.refused.iter().map(|refused| refused.rate).sum();
    let (width, tall) = (
        (x - GAP + MARGIN).max(640.0),
        below + levels * links::LEVEL + 84.0,
    );
    let mut out = String::new();
    let _ = write!(
        out,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {tall:.0}" width="{width:.0}" height="{tall:.0}" font-family="system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif">
<defs>
<pattern id="down" width="10" height="10" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="10" height="10" fill="#fcf1f0"/><rect width="4" height="10" fill="#f3d3d0"/></pattern>
<marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="#42546a"/></marker>
<marker id="far" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="#7a3fa0"/></marker>
</defs>
<rect width="{width:.0}" height="{tall:.0}" fill="#ffffff"/>
<text x="{MARGIN}" y="38" font-size="20" font-weight="600" fill="#1d2a36">{}</text>
<text x="{MARGIN}" y="62" font-size="13" fill="#5b6b7b">requests per second when everything has settled; bars: load, full at the right end{}</text>
"##,
        short(&case.title, (width / 11.0) as usize),
        if zones.values().flatten().all(|row| row.measured) {
            ""
        } else {
            " (blue: no capacity is known; of what the busiest pod had before)"
        }
    );
    for (region, start, wide) in &boxes {
        let name = if region.is_empty() { "no region" } else { region };
        let _ = writeln!(
            out,
            r##"<rect x="{start:.0}" y="{TOP}" width="{wide:.0}" height="{:.0}" rx="10" fill="#f3f6f9" stroke="#c6d1db"/><text x="{:.0}" y="{:.0}" font-size="15" font-weight="600" fill="#33475b">{}</text>"##,
            height + REGION_HEAD + 18.0,
            start + GAP / 2.0,
            TOP + 26.0,
            short(name, 40)
        );
    }
    for (at, spot) in &spots {
        zone(&mut out, case, built, at, *spot, &zones[at]);
    }
    links::draw(&mut out, &lines, below);
    let foot = tall - 40.0;
    let most = view.refused.iter().max_by(|a, b| a.rate.total_cmp(&b.rate));
    let verdict = match most {
        Some(most) if refused >= 0.05 => (
            "#c8372d",
            format!(
                "{} requests/s are refused: {} for {}: {}",
                rate(refused),
                most.from,
                most.service,
                most.reason
            ),
        ),
        _ => ("#3a8f5c", "nothing is refused".to_owned()),
    };
    let _ = writeln!(
        out,
        r##"<text x="{MARGIN}" y="{foot:.0}" font-size="15" font-weight="600" fill="{}">{}</text>"##,
        verdict.0,
        short(&verdict.1, (width / 8.0) as usize)
    );
    let broken = case
        .broken
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join("; ");
    if !broken.is_empty() {
        let _ = writeln!(
            out,
            r##"<text x="{MARGIN}" y="{:.0}" font-size="13" fill="#c8372d">{}</text>"##,
            foot + 22.0,
            short(&broken, (width / 7.0) as usize)
        );
    }
    out.push_str("</svg>\n");
    out
}

/// Whether everything in a zone is down.
fn is_down(case: &Case, built: &Built, at: &Place) -> bool {
    let pods: Vec<usize> = (0..built.town.pods.len())
        .filter(|pod| {
            let locality = &built.town.pods[*pod].locality;
            (locality.region.clone(), locality.zone.clone()) == *at
        })
        .collect();
    let gone: BTreeSet<usize> = case
        .failures
        .iter()
        .filter(|failure| failure.how == How::Down)
        .flat_map(|failure| failure.what.pods(&built.town))
        .collect();
    !pods.is_empty() && pods.iter().all(|pod| gone.contains(pod))
}

fn zone(out: &mut String, case: &Case, built: &Built, at: &Place, spot: Spot, rows: &Rows<'_>) {
    let down = is_down(case, built, at);
    let Spot { x, y, width, height } = spot;
    let (fill, stroke) = if down {
        ("url(#down)", "#c8372d")
    } else {
        ("#ffffff", "#9fb0bf")
    };
    let name = if at.1.is_empty() {
        place(at)
    } else {
        at.1.to_string()
    };
    let _ = writeln!(
        out,
        r##"<rect x="{x:.0}" y="{y:.0}" width="{width:.0}" height="{height:.0}" rx="8" fill="{fill}" stroke="{stroke}" stroke-width="1.5"/>
<text x="{:.0}" y="{:.0}" font-size="14" font-weight="600" fill="{}">{}{}</text>"##,
        x + 12.0,
        y + 25.0,
        if down { "#9c2a22" } else { "#1d2a36" },
        short(&name, 24),
        if down { " (down)" } else { "" }
    );
    for (
        row,
        Row {
            service,
            group,
            measured,
        },
    ) in rows.iter().enumerate()
    {
        let Group {
            rate: sum,
            load,
            up,
            endpoints,
            ..
        } = group;
        let top = y + HEAD + row as f64 * ROW;
        let full = width - 24.0;
        let part = load.unwrap_or(0.0).clamp(0.0, 1.0);
        let dead = *up == 0;
        let trouble = case.failures.iter().any(|failure| match &failure.what {
            What::Service(name) => name.to_string() == *service,
            _ => false,
        });
        let text = match (dead, load) {
            (true, _) => "down".to_owned(),
            (_, Some(load)) => format!("{}/s, {:.0}%", rate(*sum), load * 100.0),
            (_, None) => format!("{}/s", rate(*sum)),
        };
        let ink = if dead || trouble { "#9c2a22" } else { "#1d2a36" };
        let bar = if dead && !down { "url(#down)" } else { "#e4eaf0" };
        let _ = writeln!(
            out,
            r##"<text x="{left:.0}" y="{base:.0}" font-size="12.5" fill="{ink}">{name}<tspan fill="#5b6b7b"> {up} of {endpoints}</tspan></text><text x="{right:.0}" y="{base:.0}" font-size="12.5" text-anchor="end" fill="{ink}">{text}</text>
<rect x="{left:.0}" y="{bar_top:.0}" width="{full:.0}" height="12" rx="3" fill="{bar}"/><rect x="{left:.0}" y="{bar_top:.0}" width="{filled:.1}" height="12" rx="3" fill="{colour}"/>"##,
            left = x + 12.0,
            base = top + 16.0,
            name = short(
                service,
                ROW_LETTERS
                    .saturating_sub(text.len() + up.to_string().len() + endpoints.to_string().len() + 8)
            ),
            right = x + width - 12.0,
            bar_top = top + 23.0,
            filled = if dead { 0.0 } else { full * part },
            colour = colour(*load, *measured),
        );
    }
    // Only callers run here.
    if rows.is_empty() {
        let _ = writeln!(
            out,
            r##"<text x="{:.0}" y="{:.0}" font-size="12.5" fill="#5b6b7b">callers</text>"##,
            x + 12.0,
            y + HEAD + 18.0
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_short() {
        assert_eq!(escape("a<b>&\"c\"\n"), "a&lt;b&gt;&amp;&quot;c&quot; ");
        assert_eq!(short("abcdef", 4), "abc…");
        assert_eq!(short("abc", 4), "abc");
    }
}
