//! `jepsen selftest`: bugs planted on purpose must be caught, each by what the table names.

use std::process::ExitCode;

use clap::Args;

/// Plants bugs, one after the other, and says what caught each; a miss names the hole.
#[derive(Debug, Args)]
pub struct Selftest {
    /// Only this one.
    #[arg(long)]
    bug: Option<String>,
    /// Threads; as many as there are processors.
    #[arg(long)]
    jobs: Option<usize>,
}

/// 0: all caught; 1: one was not; 254: no such bug, or a build without them.
#[cfg(not(feature = "seeded-bugs"))]
pub fn run(args: &Selftest) -> ExitCode {
    let (_, _) = (&args.bug, args.jobs);
    super::say(
        "this build has no planted bugs; build one that has:\n  \
         cargo run --release -p holdfast-jepsen --features seeded-bugs --bin jepsen -- selftest\n",
    );
    ExitCode::from(254)
}

/// 0: all caught; 1: one was not; 254: no such bug, or a build without them.
#[cfg(feature = "seeded-bugs")]
pub fn run(args: &Selftest) -> ExitCode {
    use holdfast_jepsen::selftest::{TABLE, run, table};

    std::panic::set_hook(Box::new(|_| {})); // planted bugs break rules of the core, which catches its own
    let chosen = |name: &str| args.bug.as_ref().is_none_or(|bug| bug == name);
    let lines: Vec<_> = TABLE
        .iter()
        .filter(|line| chosen(line.name))
        .copied()
        .collect();
    if lines.is_empty() {
        let names: Vec<&str> = TABLE.iter().map(|line| line.name).collect();
        super::say(&format!("no such bug; there are {}\n", names.join(", ")));
        return ExitCode::from(254);
    }
    let jobs = args.jobs.unwrap_or_else(super::processors);
    let told = |verdict: &holdfast_jepsen::selftest::Verdict| {
        let caught = verdict.caught_by.map_or("NOT CAUGHT", |_| "caught");
        super::say(&format!(
            "{}: {caught} after {} seeds\n",
            verdict.bug.name, verdict.after
        ));
    };
    let verdicts = match run(&lines, jobs, &told) {
        Ok(verdicts) => verdicts,
        Err(text) => {
            super::say(&format!("{text}\n"));
            return ExitCode::from(255);
        }
    };
    super::print(&table(&verdicts));
    let holes = verdicts
        .iter()
        .filter(|verdict| verdict.caught_by.is_none())
        .count();
    let all = verdicts.len();
    super::print(&format!("\n{} of {all} caught\n", all - holes));
    if holes > 0 {
        ExitCode::from(1)
    } else {
        ExitCode::SUCCESS
    }
}
