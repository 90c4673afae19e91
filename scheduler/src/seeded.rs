//! Bugs planted on purpose: the harness that never caught one proves nothing.
//!
//! Invariant: without feature `seeded-bugs` `armed` is the constant `false`, so nothing of them is compiled in, not even
//! their names; no crate switches the feature on by default. Which one is armed is a value that the shell sets; the core
//! reads no environment. Not here: what must catch each (`jepsen/src/selftest.rs`).

/// A planted bug. Each is one small `if` at the place where the mistake would be made.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "seeded-bugs", derive(Debug))]
#[repr(u8)]
pub enum Bug {
    /// Fences begin anew under each leader.
    FenceResetOnFailover = 1,
    /// Any live lease will do for a result, whatever its fence.
    FenceCheckSkipped,
    /// The repeat of an Advance is taken as a new one.
    AdvanceAcceptedTwice,
    /// Duties of an earlier leader count.
    NoEpochCheck,
    /// A step that must not be repeated is run again after its lease was lost.
    AtMostOnceRerun,
    /// A step with a probe is run again without asking it.
    ReconcileWithoutProbe,
    /// A cancel is answered and nothing ends.
    CancelNotFinal,
    /// Another input under the same id attaches to the run.
    IdConflictMerged,
    /// A snapshot leaves out which signals were taken.
    DedupeLostInSnapshot,
    /// A snapshot carries full buckets.
    BucketLostInSnapshot,
    /// A new leader fills the buckets.
    BucketRefilledOnFailover,
    /// A place at a limit is taken without looking at the concurrency.
    ConcurrencyIgnored,
    /// A run is suspended at a timer that is not in its row.
    TimerWithoutRow,
    /// Timers fire a second before they are due.
    TimerFiresEarly,
    /// Steps are granted in the order of a hash.
    HashOrderInApply,
    /// Deadlines are not rebuilt at a restart.
    DerivedIndexNotRebuilt,
    /// A beat is echoed however old the newest word of a quorum is.
    BeatEchoedWithoutQuorum,
    /// A beat is echoed after its session's expiry was proposed.
    RenewalAfterExpiry,
    /// A new leader lets sessions expire by what it heard before it led.
    NewLeaderExpiresAtOnce,
    /// A worker that attaches again is echoed though its expiry is under way.
    ExpiryForgottenOnAttach,
    /// What a deposed leader took to be due is not looked at when it leads again.
    DueForgottenOnFailover,
    /// The answer to a repeat offers leases that are over.
    RepeatWithDeadGrants,
    /// The group clock does not follow a new leader's anchor.
    ClockAnchorIgnored,
    /// An entry takes the group clock back.
    ClockGoesBack,
    /// An undo is begun while its step is in flight.
    UndoBeforeStepEnded,
    /// Undos are begun oldest first.
    UndoInWrongOrder,
    /// A run ends while an undo is owed.
    UndoForgotten,
    /// What a broken command wrote to its run is kept.
    PanicKeepsHalfItsRows,
    /// The signal that came last is taken first.
    SignalsOvertake,
    /// A run completes while its function has not seen a delivery.
    EndingBesideDeliveries,
    /// A journal row is written over the one before.
    JournalRowOverwritten,
    /// A start revives a run that has ended.
    FinalStateRewritten,
}

/// Whether this bug is armed.
#[cfg(not(feature = "seeded-bugs"))]
#[inline(always)]
#[expect(clippy::inline_always, reason = "a constant: what depends on it goes")]
pub const fn armed(_: Bug) -> bool {
    false
}

#[cfg(feature = "seeded-bugs")]
pub use planted::{ALL, Armed, arm, arm_process, armed, unordered};

#[cfg(feature = "seeded-bugs")]
mod planted {
    use std::{
        cell::Cell,
        sync::atomic::{AtomicU8, Ordering},
    };

    use super::Bug;

    /// All of them, by name.
    pub const ALL: &[(&str, Bug)] = &[
        ("fence-reset-on-failover", Bug::FenceResetOnFailover),
        ("fence-check-skipped", Bug::FenceCheckSkipped),
        ("advance-accepted-twice", Bug::AdvanceAcceptedTwice),
        ("no-epoch-check", Bug::NoEpochCheck),
        ("at-most-once-rerun", Bug::AtMostOnceRerun),
        ("reconcile-without-probe", Bug::ReconcileWithoutProbe),
        ("cancel-not-final", Bug::CancelNotFinal),
        ("id-conflict-merged", Bug::IdConflictMerged),
        ("dedupe-lost-in-snapshot", Bug::DedupeLostInSnapshot),
        ("bucket-lost-in-snapshot", Bug::BucketLostInSnapshot),
        ("bucket-refilled-on-failover", Bug::BucketRefilledOnFailover),
        ("concurrency-ignored", Bug::ConcurrencyIgnored),
        ("timer-without-row", Bug::TimerWithoutRow),
        ("timer-fires-early", Bug::TimerFiresEarly),
        ("hash-order-in-apply", Bug::HashOrderInApply),
        ("derived-index-not-rebuilt", Bug::DerivedIndexNotRebuilt),
        ("beat-echoed-without-quorum", Bug::BeatEchoedWithoutQuorum),
        ("renewal-after-expiry", Bug::RenewalAfterExpiry),
        ("new-leader-expires-at-once", Bug::NewLeaderExpiresAtOnce),
        ("expiry-forgotten-on-attach", Bug::ExpiryForgottenOnAttach),
        ("due-forgotten-on-failover", Bug::DueForgottenOnFailover),
        ("repeat-with-dead-grants", Bug::RepeatWithDeadGrants),
        ("clock-anchor-ignored", Bug::ClockAnchorIgnored),
        ("clock-goes-back", Bug::ClockGoesBack),
        ("undo-before-step-ended", Bug::UndoBeforeStepEnded),
        ("undo-in-wrong-order", Bug::UndoInWrongOrder),
        ("undo-forgotten", Bug::UndoForgotten),
        ("panic-keeps-half-its-rows", Bug::PanicKeepsHalfItsRows),
        ("signals-overtake", Bug::SignalsOvertake),
        ("ending-beside-deliveries", Bug::EndingBesideDeliveries),
        ("journal-row-overwritten", Bug::JournalRowOverwritten),
        ("final-state-rewritten", Bug::FinalStateRewritten),
    ];

    thread_local! {
        static HERE: Cell<u8> = const { Cell::new(0) };
    }
    static EVERYWHERE: AtomicU8 = AtomicU8::new(0);

    /// Disarms when it goes.
    #[derive(Debug)]
    #[must_use]
    pub struct Armed(());

    impl Drop for Armed {
        fn drop(&mut self) {
            HERE.set(0);
        }
    }

    /// Arms a bug in this thread alone, until what it answers goes.
    pub fn arm(bug: Bug) -> Armed {
        HERE.set(bug as u8);
        Armed(())
    }

    /// Arms a bug in the whole process, for good: for a shell that runs replicas on threads of its own.
    pub fn arm_process(bug: Bug) {
        EVERYWHERE.store(bug as u8, Ordering::Relaxed);
    }

    /// Whether this bug is armed.
    pub fn armed(bug: Bug) -> bool {
        HERE.get() == bug as u8 || EVERYWHERE.load(Ordering::Relaxed) == bug as u8
    }

    /// Puts things into an order that is another one each time.
    #[expect(
        clippy::disallowed_types,
        reason = "this is the mistake that the ban is there for"
    )]
    pub fn unordered<T: std::hash::Hash>(things: &mut [T]) {
        use std::hash::BuildHasher as _;
        let chance = std::hash::RandomState::new();
        things.sort_by_key(|it| chance.hash_one(it));
    }
}

/// Puts things into an order that is another one each time.
#[cfg(not(feature = "seeded-bugs"))]
pub fn unordered<T>(_: &mut [T]) {}
