//! `jepsen selftest`: bugs planted on purpose must be caught, each by what the table names.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tokio::runtime::Runtime;

/// Plants bugs, one after the other, and says what caught each; a miss names the hole.
///
/// Bugs of the core are hunted here and now. Those of consensus, disk and node are caught by tests that need the sources
/// (`--tests`), and some of them by short runs of real processes too (`--real`).
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  jepsen selftest\n  jepsen selftest --bug vote-not-persisted --tests\n  \
                  jepsen selftest --tests --real --bin target/debug/holdfast"
)]
pub struct Selftest {
    /// Only this one; may be repeated.
    #[arg(long = "bug")]
    bugs: Vec<String>,
    /// Threads; as many as there are processors.
    #[arg(long)]
    jobs: Option<usize>,
    /// Also run the tests that catch the bugs of consensus, disk and node, by `cargo` in the workspace.
    #[arg(long)]
    tests: bool,
    /// The workspace with those tests.
    #[arg(long, default_value = ".")]
    workspace: PathBuf,
    /// Also make the short runs of real processes that catch some of them.
    #[arg(long, requires = "bin")]
    real: bool,
    /// A `holdfast` built with features `seeded-bugs` and `chaos`.
    #[arg(long)]
    bin: Option<PathBuf>,
    /// Where folders of runs are made.
    #[arg(long, default_value = "store")]
    store: PathBuf,
}

/// 0: all caught; 1: one was not; 254: no such bug, or a build without them; 255: the harness failed.
#[cfg(not(feature = "seeded-bugs"))]
pub fn run(args: &Selftest, _: &Runtime) -> ExitCode {
    let Selftest {
        bugs: _,
        jobs: _,
        tests: _,
        workspace: _,
        real: _,
        bin: _,
        store: _,
    } = args;
    super::say(
        "this build has no planted bugs; build one that has:\n  \
         cargo run --release -p holdfast-jepsen --features seeded-bugs --bin jepsen -- selftest\n",
    );
    ExitCode::from(super::BAD_ARGUMENTS)
}

/// 0: all caught; 1: one was not; 254: no such bug, or a build without them; 255: the harness failed.
#[cfg(feature = "seeded-bugs")]
pub fn run(args: &Selftest, runtime: &Runtime) -> ExitCode {
    match planted::all(args, runtime) {
        Ok(code) => ExitCode::from(code),
        Err(text) => {
            super::trouble(&text);
            ExitCode::from(super::HARNESS)
        }
    }
}

#[cfg(feature = "seeded-bugs")]
mod planted {
    use std::time::Instant;

    use holdfast_jepsen::report;
    use holdfast_jepsen::run::conduct;
    use holdfast_jepsen::selftest::outer::{self, OUTER, Ran, Tested};
    use holdfast_jepsen::selftest::real::{self, Judged, REAL, Real};
    use holdfast_jepsen::selftest::{self, Planted, TABLE, Verdict};
    use tokio::runtime::Runtime;
    use tokio::sync::watch;

    use super::super::{BAD_ARGUMENTS, Run, VALID, VIOLATED, print, processors, say};
    use super::Selftest;

    /// How many were to be caught, and how many were.
    #[derive(Default)]
    struct Score {
        all: usize,
        caught: usize,
    }

    impl Score {
        fn count(&mut self, caught: impl Iterator<Item = bool>) {
            for caught in caught {
                self.all += 1;
                self.caught += usize::from(caught);
            }
        }
    }

    pub(super) fn all(args: &Selftest, runtime: &Runtime) -> Result<u8, String> {
        let chosen = |name: &str| args.bugs.is_empty() || args.bugs.iter().any(|it| it == name);
        let core: Vec<Planted> = (TABLE.iter().copied())
            .filter(|it| chosen(it.name))
            .collect();
        let tested: Vec<Tested> = (OUTER.iter().copied())
            .filter(|it| chosen(it.name))
            .collect();
        let real: Vec<Real> = (REAL.iter().copied())
            .filter(|it| chosen(it.name))
            .collect();
        let names = TABLE.iter().map(|it| it.name);
        let names: Vec<&str> = names.chain(OUTER.iter().map(|it| it.name)).collect();
        if let Some(unknown) = args.bugs.iter().find(|it| !names.contains(&it.as_str())) {
            say(&format!(
                "{unknown}: no such bug; there are {}\n",
                names.join(", ")
            ));
            return Ok(BAD_ARGUMENTS);
        }
        let mut score = Score::default();
        if !core.is_empty() {
            let verdicts = hunt(args, &core)?;
            print(&format!("{}\n", selftest::table(&verdicts)));
            score.count(verdicts.iter().map(|it| it.caught_by.is_some()));
        }
        if args.tests {
            let ran = test(args, &tested)?;
            print(&format!("{}\n", outer::table(&ran)));
            score.count(ran.iter().map(|it| it.caught));
        } else if !tested.is_empty() {
            let left = tested.len();
            say(&format!("{left} bugs are caught by tests: add --tests\n"));
        }
        let mut controls = true;
        if args.real {
            let judged = runtime.block_on(make(args, &real))?;
            print(&format!("{}\n", real::table(&judged)));
            controls = judged.iter().all(Judged::is_as_it_must_be);
            // A bug that a test catches counts once; that a run catches it too is said beside it.
            if !args.tests {
                let with_bug = judged.iter().filter(|it| it.bug.is_some());
                score.count(with_bug.map(Judged::is_as_it_must_be));
            }
        }
        if score.all == 0 {
            return Ok(BAD_ARGUMENTS); // as said above: nothing was run
        }
        print(&format!("{} of {} caught\n", score.caught, score.all));
        Ok(if controls && score.caught == score.all {
            VALID
        } else {
            VIOLATED
        })
    }

    fn hunt(args: &Selftest, core: &[Planted]) -> Result<Vec<Verdict>, String> {
        // Planted bugs break rules of the core, which catches its own.
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let jobs = args.jobs.unwrap_or_else(processors);
        let told = |verdict: &Verdict| {
            let caught = verdict.caught_by.map_or("NOT CAUGHT", |_| "caught");
            let (name, after) = (verdict.bug.name, verdict.after);
            say(&format!("{name}: {caught} after {after} seeds\n"));
        };
        let verdicts = selftest::run(core, jobs, &told);
        std::panic::set_hook(loud);
        verdicts
    }

    fn test(args: &Selftest, tested: &[Tested]) -> Result<Vec<Ran>, String> {
        for suite in [outer::RAFT, outer::NODE] {
            if tested.iter().any(|it| it.suite == suite) {
                outer::build(&args.workspace, suite)?;
            }
        }
        let mut all = Vec::new();
        for bug in tested {
            let ran = outer::run(&args.workspace, *bug)?;
            let caught = if ran.caught { "caught" } else { "NOT CAUGHT" };
            say(&format!("{}: {caught} by {}\n", bug.name, bug.test));
            all.push(ran);
        }
        Ok(all)
    }

    /// Each run once without a bug, then with each bug that it is to catch.
    async fn make(args: &Selftest, real: &[Real]) -> Result<Vec<Judged>, String> {
        let mut all: Vec<Judged> = Vec::new();
        for bug in real {
            if all.iter().all(|it| it.run != bug.run) {
                all.push(once(args, None, bug.run).await?);
            }
            all.push(once(args, Some(*bug), bug.run).await?);
        }
        Ok(all)
    }

    async fn once(
        args: &Selftest,
        bug: Option<Real>,
        line: &'static str,
    ) -> Result<Judged, String> {
        let bin = args.bin.clone().ok_or("--real needs --bin")?;
        let mut options = Run::read(line, bin, args.store.clone())?;
        if let Some(bug) = bug {
            let armed = ("HOLDFAST_SEEDED_BUG".to_owned(), bug.name.to_owned());
            options.node_env.push(armed);
        }
        let begun = Instant::now();
        let (_stop, stopped) = watch::channel(false);
        let finished = conduct(options, stopped)
            .await
            .map_err(|cause| cause.to_string())?;
        let report = report::check(finished.store.folder()).map_err(|cause| cause.to_string())?;
        let judged = Judged::of(bug, line, &report, begun.elapsed());
        let what = if judged.is_as_it_must_be() {
            "as it must be"
        } else {
            "WRONG"
        };
        let name = bug.map_or("control", |bug| bug.name);
        let broken = judged.broken.join(" ");
        let folder = finished.store.folder().display();
        say(&format!("{name}: {what}, broken: [{broken}], {folder}\n"));
        Ok(judged)
    }
}
