//! `jepsen check STORE` and `jepsen report STORE`: judge a stored test run again.
//!
//! Invariant: reads the folder alone. Exit codes: 0 valid, 1 violated, 2 unknown, 255 the folder cannot be written.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use holdfast_jepsen::checker::Report;
use holdfast_jepsen::checker::store::Store;
use holdfast_jepsen::report;

/// Which test run.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The folder of a test run, such as store/latest.
    pub store: PathBuf,
}

/// Runs the checkers and writes results.json.
pub fn check(args: &CheckArgs) -> ExitCode {
    said(&args.store, report::check(&args.store))
}

/// Runs the checkers and writes the page and its pictures too.
pub fn report(args: &CheckArgs) -> ExitCode {
    let code = said(&args.store, report::write(&args.store));
    say(&format!(
        "report: {}\n",
        args.store.join(report::PAGE).display()
    ));
    code
}

fn said(folder: &Path, judged: std::io::Result<Report>) -> ExitCode {
    match judged {
        Ok(judged) => {
            say(&report::summary(&Store::read(folder), &judged));
            ExitCode::from(judged.overall.exit_code())
        }
        Err(cause) => {
            say(&format!(
                "{} cannot be written: {cause}\n",
                folder.display()
            ));
            ExitCode::from(255)
        }
    }
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // A reader that has gone away wants nothing more.
    drop(out.write_all(text.as_bytes()));
}
