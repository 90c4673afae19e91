//! Bugs planted on purpose in consensus, disk and node: a harness that never caught one proves nothing.
//!
//! Invariant: without feature `seeded-bugs` `armed` is the constant `false`, so nothing of them is compiled in, not even
//! their names; no crate switches the feature on by default. Which one is armed is a value that the shell sets once; nothing
//! here reads the environment. Not here: those of the core (`scheduler`), the judges (`holdfast-jepsen`).
//!
//! What is to catch each, as kinds of test (A model, B simulated cluster, C crash images, R real processes, U ordinary) and
//! invariants of the checkers. For each, a check in `raft/tests/seeded.rs` or `node/tests/seeded.rs` holds without it and breaks
//! with it; `docs/selftest.md` says what else was seen to catch it:
//!
//! | Bug | Caught by |
//! |---|---|
//! | ack-before-commit | R kill of leaders, S1; U a leader that is cut off acknowledges nothing |
//! | ack-before-fsync | C order of acknowledgements, S1; U nothing is completed before a sync that began after it |
//! | vote-not-persisted | B crash, S19; U a vote survives a restart |
//! | fsync-error-swallowed | R failing syncs: the node must die; U an error of the log's disk ends the process |
//! | watermark-ignored | C truncation, S1; U a log shorter than its watermark is refused |
//! | applied-index-outside-batch | C kill between the two writes, S15; U a restart at any step has rows and pointer of one moment |
//! | purge-past-persisted-applied | R restart storm, S1; U the log is purged only as far as the state is on disk |
//! | snapshot-of-two-moments | B, S20; U a snapshot under load has the digest of its index |
//! | install-not-atomic | C abort at each step, S15; U an install that is cut off leaves the old or the new state |
//! | node-id-reuse-allowed | R wiped disk; U every mismatch is refused |
//! | prevote-always-grants | B a node that comes back, no change of leader; U the same between real nodes |
//! | append-stream-left-open | R no fault, idle and then a write, L6; U the end of the requests ends the stream |
//! | responder-forgotten | R and B any load, L6; U every proposal is answered once |
//! | completion-lost | B a log that completes late, L3; U every start goes on within a second |
//! | follower-read-no-barrier | R register read on every node, S11; U a read on a follower sees what was acknowledged |
//! | not-found-from-follower | R starts read on every node, S11 |
//! | signal-dropped-on-change | R signals while leaders are killed, S12 |
//! | watch-resume-off-by-one | R watched runs, S18 |
//! | timer-on-local-clock | R moved clocks, S13 and S26; U the group clock follows no wall clock |
//! | hash-verdict-by-leader-alone | R a flipped row, S15; U a row flipped on the leader stops the leader |

/// A planted bug. Each is one small `if` at the place where the mistake would be made.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "seeded-bugs", derive(Debug))]
#[repr(u8)]
pub enum Bug {
    /// The leader takes what it sent to a follower for synced there.
    AckBeforeCommit = 1,
    /// The log is written, and told as synced.
    AckBeforeFsync,
    /// A vote is kept in memory alone.
    VoteNotPersisted,
    /// A sync that failed is taken for done.
    FsyncErrorSwallowed,
    /// A log that lost its synced end is taken as it is.
    WatermarkIgnored,
    /// The pointer to the last applied entry is written before the rows, by itself.
    AppliedIndexOutsideBatch,
    /// A snapshot is said to be built before it is on disk, and the log goes up to it.
    PurgePastPersistedApplied,
    /// A snapshot says that it goes further than its rows.
    SnapshotOfTwoMoments,
    /// The old rows go before the new ones count.
    InstallNotAtomic,
    /// A node with an empty disk is taken for the one it was.
    NodeIdReuseAllowed,
    /// Whoever asks whether it could win an election is told so.
    PrevoteAlwaysGrants,
    /// The sending half of an append stream is not closed when the requests end.
    AppendStreamLeftOpen,
    /// Now and then nobody is told that an entry is applied.
    ResponderForgotten,
    /// Now and then the log does not say that it has synced.
    CompletionLost,
    /// A linearizable read sees what this replica happens to have.
    FollowerReadNoBarrier,
    /// A replica that may lag says that there is no such run.
    NotFoundFromFollower,
    /// A signal of which nobody knows what became is answered as sent.
    SignalDroppedOnChange,
    /// A watch that is behind leaves one change out.
    WatchResumeOffByOne,
    /// The group clock is the leader's wall clock.
    TimerOnLocalClock,
    /// Whose rows are right is what the leader says.
    HashVerdictByLeaderAlone,
}

/// Whether this bug is armed.
#[cfg(not(feature = "seeded-bugs"))]
#[inline(always)]
#[expect(clippy::inline_always, reason = "a constant: what depends on it goes")]
pub const fn armed(_: Bug) -> bool {
    false
}

#[cfg(feature = "seeded-bugs")]
pub use planted::{ALL, arm_process, armed};

#[cfg(feature = "seeded-bugs")]
mod planted {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Bug;

    /// All of them, by name.
    pub const ALL: &[(&str, Bug)] = &[
        ("ack-before-commit", Bug::AckBeforeCommit),
        ("ack-before-fsync", Bug::AckBeforeFsync),
        ("vote-not-persisted", Bug::VoteNotPersisted),
        ("fsync-error-swallowed", Bug::FsyncErrorSwallowed),
        ("watermark-ignored", Bug::WatermarkIgnored),
        ("applied-index-outside-batch", Bug::AppliedIndexOutsideBatch),
        (
            "purge-past-persisted-applied",
            Bug::PurgePastPersistedApplied,
        ),
        ("snapshot-of-two-moments", Bug::SnapshotOfTwoMoments),
        ("install-not-atomic", Bug::InstallNotAtomic),
        ("node-id-reuse-allowed", Bug::NodeIdReuseAllowed),
        ("prevote-always-grants", Bug::PrevoteAlwaysGrants),
        ("append-stream-left-open", Bug::AppendStreamLeftOpen),
        ("responder-forgotten", Bug::ResponderForgotten),
        ("completion-lost", Bug::CompletionLost),
        ("follower-read-no-barrier", Bug::FollowerReadNoBarrier),
        ("not-found-from-follower", Bug::NotFoundFromFollower),
        ("signal-dropped-on-change", Bug::SignalDroppedOnChange),
        ("watch-resume-off-by-one", Bug::WatchResumeOffByOne),
        ("timer-on-local-clock", Bug::TimerOnLocalClock),
        (
            "hash-verdict-by-leader-alone",
            Bug::HashVerdictByLeaderAlone,
        ),
    ];

    static ARMED: AtomicU8 = AtomicU8::new(0);

    /// Arms a bug in the whole process, for good.
    pub fn arm_process(bug: Bug) {
        ARMED.store(bug as u8, Ordering::Relaxed);
    }

    /// Whether this bug is armed.
    pub fn armed(bug: Bug) -> bool {
        ARMED.load(Ordering::Relaxed) == bug as u8
    }
}
