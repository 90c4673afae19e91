//! Reports: what a test run came to, for people.
//!
//! Invariant: made of the store folder and the checkers' verdicts alone, so it can be made again at any time; every picture is drawn
//! here and needs nothing from elsewhere. Not here: verdicts (`checker`).

mod charts;
mod html;
mod summary;
mod svg;

use std::io;
use std::path::Path;

use crate::checker::case::Case;
use crate::checker::store::Store;
use crate::checker::{self, RESULTS, Report};

pub use self::charts::Gap;
pub use self::summary::summary;

/// The page.
pub const PAGE: &str = "report.html";

/// Judges a folder again and writes the verdict next to its histories.
///
/// # Errors
/// The folder cannot be written.
pub fn check(folder: &Path) -> io::Result<Report> {
    let report = checker::check_folder(folder);
    write_results(folder, &report)?;
    Ok(report)
}

fn write_results(folder: &Path, report: &Report) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(report)?;
    text.push('\n');
    std::fs::write(folder.join(RESULTS), text)
}

/// Judges a folder and writes everything: verdict, page, pictures, failover times.
///
/// # Errors
/// The folder cannot be written.
pub fn write(folder: &Path) -> io::Result<Report> {
    let store = Store::read(folder);
    let report = checker::check(&store);
    let case = Case::of(&store);
    write_results(folder, &report)?;
    let pictures = charts::all(&case);
    for (name, picture) in &pictures {
        std::fs::write(folder.join(name), picture)?;
    }
    std::fs::write(folder.join("failover.csv"), failovers(&report))?;
    std::fs::write(folder.join(PAGE), html::page(&case, &report, &pictures))?;
    Ok(report)
}

fn failovers(report: &Report) -> String {
    let mut text = "t,fault,target,ms,group,next,leader_ms\n".to_owned();
    for it in &report.failovers {
        let ms = |us: u64| format!("{}.{:03}", us / 1000, us % 1000);
        let first = it.first_step_us.map(ms).unwrap_or_default();
        let line = [
            it.t.to_string(),
            it.fault.clone(),
            it.target.clone(),
            first,
            it.group.to_string(),
            it.next.clone(),
            ms(it.leader_us),
        ];
        text.push_str(&line.join(","));
        text.push('\n');
    }
    text
}
