//! The verbs of `jepsen`, one file each; `main` only chooses.

pub mod check;
mod doctor;
pub mod fuzz;
pub mod images;
mod list;
mod part;
mod profiles;
mod run;
pub mod selftest;
pub mod sim;
mod tally;

pub use self::doctor::Doctor;
pub use self::list::List;
pub use self::part::{PartArgs, SinkArgs};
pub use self::run::Run;

use std::io::Write;

/// The run is valid.
pub const VALID: u8 = 0;
/// The cluster broke its contract.
pub const VIOLATED: u8 = 1;
/// Nothing is proven.
pub const UNKNOWN: u8 = 2;
/// The command line is wrong.
pub const BAD_ARGUMENTS: u8 = 254;
/// The harness itself failed.
pub const HARNESS: u8 = 255;

/// As many threads as there are processors.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What was found. A text that nobody reads any more is no reason to stop.
fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    drop(stdout.write_all(text.as_bytes()));
}

/// Progress, for people.
fn say(text: &str) {
    let mut stderr = std::io::stderr().lock();
    drop(stderr.write_all(text.as_bytes())); // nowhere else to say it
    drop(stderr.flush());
}

/// A line of what was found.
pub fn line(text: &str) {
    print(&format!("{text}\n"));
}

/// A line about what went wrong.
pub fn trouble(text: &str) {
    say(&format!("{text}\n"));
}
