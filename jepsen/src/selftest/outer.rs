//! Bugs planted in consensus, disk and node: the test that catches each, run by its name.
//!
//! Invariant: a bug counts as caught only if exactly one test ran and passed; each of these tests runs a check twice, and
//! passes only if the check holds without the bug and breaks with it.
//! Not here: the checks (`raft/tests/seeded.rs`, `node/tests/seeded.rs`), bugs of the core.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A package whose tests catch planted bugs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suite {
    /// The package.
    pub package: &'static str,
    /// What its tests are built with.
    pub features: &'static str,
    /// The file with the tests.
    pub file: &'static str,
}

/// Consensus and disk.
pub const RAFT: Suite = Suite {
    package: "holdfast-raft",
    features: "testing,seeded-bugs,chaos",
    file: "raft/tests/seeded.rs",
};
/// The node.
pub const NODE: Suite = Suite {
    package: "holdfast-node",
    features: "seeded-bugs",
    file: "node/tests/seeded.rs",
};

/// One planted bug and the test that catches it.
#[derive(Debug, Clone, Copy)]
pub struct Tested {
    /// The bug's name.
    pub name: &'static str,
    /// The file in which it lies, the first of them if it needs several.
    pub place: &'static str,
    /// Where the test is.
    pub suite: Suite,
    /// The test's name.
    pub test: &'static str,
}

const fn raft(name: &'static str, place: &'static str, test: &'static str) -> Tested {
    Tested {
        name,
        place,
        suite: RAFT,
        test,
    }
}

const fn node(name: &'static str, place: &'static str, test: &'static str) -> Tested {
    Tested {
        name,
        place,
        suite: NODE,
        test,
    }
}

/// All of them.
pub const OUTER: &[Tested] = &[
    raft(
        "ack-before-commit",
        "raft/src/adapter/network.rs",
        "an_acknowledgement_before_the_commit_is_caught",
    ),
    raft(
        "ack-before-fsync",
        "raft/src/log/rocks.rs",
        "an_acknowledgement_before_the_sync_is_caught",
    ),
    raft(
        "vote-not-persisted",
        "raft/src/log/rocks.rs",
        "a_vote_that_is_not_persisted_is_caught",
    ),
    raft(
        "fsync-error-swallowed",
        "raft/src/log/rocks.rs",
        "with_failpoints::a_failed_sync_that_is_swallowed_is_caught",
    ),
    raft(
        "watermark-ignored",
        "raft/src/log/rocks.rs",
        "a_watermark_that_is_ignored_is_caught",
    ),
    raft(
        "applied-index-outside-batch",
        "raft/src/state/group.rs",
        "with_failpoints::an_applied_index_outside_of_the_batch_is_caught",
    ),
    raft(
        "purge-past-persisted-applied",
        "raft/src/groups/upkeep.rs",
        "a_purge_past_what_is_persisted_is_caught",
    ),
    raft(
        "snapshot-of-two-moments",
        "raft/src/state/group.rs",
        "a_snapshot_of_two_moments_is_caught",
    ),
    raft(
        "install-not-atomic",
        "raft/src/state/group.rs",
        "an_install_that_is_not_atomic_is_caught",
    ),
    raft(
        "node-id-reuse-allowed",
        "raft/src/groups/forming.rs",
        "a_node_id_that_is_used_again_is_caught",
    ),
    raft(
        "prevote-always-grants",
        "raft/src/adapter/group.rs",
        "a_promise_of_a_vote_to_whoever_asks_is_caught",
    ),
    raft(
        "append-stream-left-open",
        "raft/src/peer/stream.rs",
        "an_append_stream_that_is_left_open_is_caught",
    ),
    raft(
        "responder-forgotten",
        "raft/src/adapter/machine.rs",
        "a_responder_that_is_forgotten_is_caught",
    ),
    raft(
        "completion-lost",
        "raft/src/log/rocks.rs",
        "a_completion_that_is_lost_is_caught",
    ),
    raft(
        "follower-read-no-barrier",
        "raft/src/replica.rs",
        "a_follower_that_reads_without_asking_the_leader_is_caught",
    ),
    raft(
        "hash-verdict-by-leader-alone",
        "raft/src/replica.rs",
        "a_verdict_by_the_leader_alone_is_caught",
    ),
    node(
        "not-found-from-follower",
        "node/src/api/runs.rs",
        "a_follower_that_says_that_there_is_no_such_run_is_caught",
    ),
    node(
        "signal-dropped-on-change",
        "node/src/api/runs.rs",
        "a_signal_that_is_dropped_and_told_as_sent_is_caught",
    ),
    node(
        "watch-resume-off-by-one",
        "node/src/api/runs.rs",
        "a_watch_that_leaves_a_change_out_is_caught",
    ),
    node(
        "timer-on-local-clock",
        "node/src/clock.rs",
        "a_timer_on_the_local_clock_is_caught",
    ),
];

/// What came of one.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Which.
    pub bug: Tested,
    /// Whether its test ran and passed.
    pub caught: bool,
    /// In how long.
    pub took: Duration,
}

/// Builds the tests of a suite in the workspace at `root`.
///
/// # Errors
/// They do not build, or there is no `cargo`: the text says so.
pub fn build(root: &Path, suite: Suite) -> Result<(), String> {
    let status = cargo(root, suite).arg("--no-run").status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!(
            "the tests of {} do not build: {status}",
            suite.package
        )),
        Err(cause) => Err(format!("cargo cannot be run: {cause}")),
    }
}

/// Runs the test of one bug.
///
/// # Errors
/// There is no `cargo`.
pub fn run(root: &Path, bug: Tested) -> Result<Ran, String> {
    let begun = Instant::now();
    let output = cargo(root, bug.suite)
        .args(["--", "--exact", bug.test])
        .stderr(Stdio::null())
        .output()
        .map_err(|cause| format!("cargo cannot be run: {cause}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // A name that fits nothing passes as well, with no test run.
    let caught = output.status.success() && text.contains("test result: ok. 1 passed");
    Ok(Ran {
        bug,
        caught,
        took: begun.elapsed(),
    })
}

fn cargo(root: &Path, suite: Suite) -> Command {
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(root)
        .args(["test", "-q", "-p", suite.package, "--test", "seeded"])
        .args(["--features", suite.features]);
    cargo
}

/// The part of the table about these.
pub fn table(ran: &[Ran]) -> String {
    let mut text = String::from("| Bug | In | Caught by | In |\n|---|---|---|---|\n");
    for it in ran {
        let Tested {
            name,
            place,
            suite,
            test,
        } = it.bug;
        let test = test.rsplit("::").next().unwrap_or(test);
        let hole = if it.caught {
            ""
        } else {
            "**nothing**, not even "
        };
        let took = it.took.as_secs_f64();
        let _ = writeln!(
            text,
            "| {name} | `{place}` | {hole}`{test}` in `{}` | {took:.1} s |",
            suite.file
        );
    }
    text
}
