//! The page: verdicts, what hit which node, the stories of what was violated, and the pictures.
//!
//! Invariant: one file that needs nothing from elsewhere. Not here: the pictures themselves (`charts`).

use std::fmt::Write as _;

use super::summary::summary;
use super::svg::escape;
use crate::checker::case::{Case, Window};
use crate::checker::log::become_leader;
use crate::checker::{Judged, Overall, Report};
use crate::records::Verdict;

const STYLE: &str = "body{font:14px sans-serif;margin:2em auto;max-width:1000px;color:#222}\
table{border-collapse:collapse}td,th{padding:2px 10px;text-align:left;vertical-align:top;border-bottom:1px solid #eee}\
pre{background:#f6f6f6;padding:1em;overflow-x:auto;font-size:12px}\
.valid{color:#186}.violated{color:#b00;font-weight:bold}.unknown{color:#a60}.idle{color:#888}";

const LANE: u32 = 26;
const LANES_LEFT: u32 = 60;
const LANES_WIDTH: u32 = 900;

/// The whole page.
pub fn page(case: &Case<'_>, report: &Report, pictures: &[(&str, String)]) -> String {
    let mut page = String::new();
    let (word, class) = match report.overall {
        Overall::Valid => ("valid", "valid"),
        Overall::Violated => ("violated", "violated"),
        Overall::Unknown => ("unknown", "unknown"),
    };
    let setup = &case.store.setup;
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}: {word}</title><style>{STYLE}</style></head>\
         <body><h1>{0}: <span class=\"{class}\">{word}</span></h1><p><code>{1}</code></p><p>binary {2}</p>",
        escape(&setup.workload),
        escape(&setup.command),
        escape(&setup.build)
    );
    if !report.reasons.is_empty() {
        page.push_str("<h2>Why it cannot be told</h2><ul>");
        for reason in &report.reasons {
            let _ = write!(page, "<li>{}</li>", escape(reason));
        }
        page.push_str("</ul>");
    }
    stories(report, &mut page);
    table(report, &mut page);
    page.push_str("<h2>Who was hit, and who led</h2>");
    page.push_str(&lanes(case));
    for (_, picture) in pictures {
        page.push_str(picture);
    }
    let _ = writeln!(
        page,
        "<h2>In words</h2><pre>{}</pre></body></html>",
        escape(&summary(case.store, report))
    );
    page
}

fn stories(report: &Report, page: &mut String) {
    for Judged { id, says, verdict } in &report.invariants {
        if let Verdict::Violated { stories } = verdict {
            let _ = write!(
                page,
                "<h2 class=\"violated\">{id} violated: {}</h2>",
                escape(says)
            );
            for story in stories {
                let _ = write!(page, "<pre>{}</pre>", escape(story));
            }
        }
    }
}

fn table(report: &Report, page: &mut String) {
    page.push_str("<h2>Verdicts</h2><table><tr><th></th><th>says</th><th>verdict</th></tr>");
    for Judged { id, says, verdict } in &report.invariants {
        let (class, word) = match verdict {
            Verdict::Valid { judged } => ("valid", format!("held, {judged} times")),
            Verdict::Violated { stories } => {
                ("violated", format!("violated, {} stories", stories.len()))
            }
            Verdict::Unknown { why } => ("unknown", format!("unknown: {why}")),
            Verdict::NotExercised => ("idle", "not exercised".to_owned()),
        };
        let (says, word) = (escape(says), escape(&word));
        let _ = write!(
            page,
            "<tr><td>{id}</td><td>{says}</td><td class=\"{class}\">{word}</td></tr>"
        );
    }
    page.push_str("</table>");
}

/// One lane per node and worker, with the faults that hit it; a mark where a node began to lead.
fn lanes(case: &Case<'_>) -> String {
    let setup = &case.store.setup;
    let nodes = (1..=setup.nodes).map(|nth| format!("n{nth}"));
    let workers = (1..=setup.workers).map(|nth| format!("w{nth}"));
    let names: Vec<String> = nodes.chain(workers).collect();
    let last = case.store.history.iter().map(|op| op.t_ret).max();
    let (from, to) = (
        case.zero(),
        last.unwrap_or(case.zero()).max(case.zero() + 1),
    );
    let place = |t: u64| {
        let share =
            u128::from(t.clamp(from, to) - from) * u128::from(LANES_WIDTH) / u128::from(to - from);
        LANES_LEFT + u32::try_from(share).unwrap_or(LANES_WIDTH)
    };
    let height = LANE * u32::try_from(names.len()).unwrap_or(1) + 10;
    let width = LANES_LEFT + LANES_WIDTH + 10;
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">"#
    );
    for (nth, name) in (0..).zip(&names) {
        let y = nth * LANE + 4;
        let _ = write!(
            svg,
            r##"<text x="4" y="{}">{name}</text><rect x="{LANES_LEFT}" y="{y}" width="{LANES_WIDTH}" height="{}" fill="#eef4ee"/>"##,
            y + 15,
            LANE - 6
        );
        for window in case.windows.iter().filter(|it| it.hits(name)) {
            band(&mut svg, window, (place(window.from), place(window.to)), y);
        }
    }
    for seen in case.log.entries() {
        let Some(node) = become_leader(seen.line).filter(|node| *node > 0) else {
            continue;
        };
        let Some(nth) = names.iter().position(|name| *name == format!("n{node}")) else {
            continue;
        };
        let (x, y) = (
            place(seen.first),
            u32::try_from(nth).unwrap_or(0) * LANE + 4,
        );
        let _ = write!(
            svg,
            r##"<rect x="{x}" y="{y}" width="2" height="{}" fill="#06c"><title>n{node} leads group {} from {}</title></rect>"##,
            LANE - 6,
            seen.line.group,
            case.clock(seen.first)
        );
    }
    svg.push_str("</svg>");
    svg
}

fn band(svg: &mut String, window: &Window<'_>, (from, to): (u32, u32), y: u32) {
    let _ = write!(
        svg,
        r##"<rect x="{from}" y="{y}" width="{}" height="{}" fill="#c58" opacity="0.6"><title>{} on {}</title></rect>"##,
        (to - from).max(2),
        LANE - 6,
        escape(window.fault),
        escape(&window.targets.join(", "))
    );
}
