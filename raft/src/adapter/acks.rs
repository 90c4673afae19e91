//! `Acks`: what the others have answered to this leader, by when it was asked. Leases and linearizable reads rest on it.
//!
//! Invariant: an answer counts for its own request alone, never for one that went out later. openraft pairs the answers of a
//! stream with requests by the log ids they name, so an answer from before a leader's sleep can count for an empty request
//! that it sent on waking, and the sleeper still believes in its quorum while another leads.
//! Not here: what is asked (`network`), what follows from an old answer (`core`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::types::NodeId;

/// A request of the leader of a term. Numbers say what came first where clocks do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Asked {
    term: u64,
    number: u64,
    at: Instant,
}

/// One group's answers.
pub(crate) struct Acks {
    this: NodeId,
    next: AtomicU64,
    /// The newest request that each has answered.
    answered: Mutex<BTreeMap<NodeId, Asked>>,
    arrived: Notify,
}

impl Acks {
    pub(crate) fn new(this: NodeId) -> Self {
        Self {
            this,
            next: AtomicU64::new(0),
            answered: Mutex::default(),
            arrived: Notify::new(),
        }
    }

    /// A request that goes out now, or a moment that answers are to be newer than.
    pub(crate) fn ask(&self, term: u64) -> Asked {
        Asked {
            term,
            number: self.next.fetch_add(1, Ordering::Relaxed),
            at: Instant::now(),
        }
    }

    /// `by` has answered, and follows the leader of that term.
    pub(crate) fn answer(&self, by: NodeId, asked: Asked) {
        let mut answered = self.answered.lock();
        let newest = answered.entry(by).or_insert(asked);
        *newest = asked.max(*newest);
        drop(answered);
        self.arrived.notify_waiters();
    }

    /// How long ago the newest request went out that a quorum has answered; none if there was no such request.
    pub(crate) fn age(&self, term: u64, voters: &[BTreeSet<NodeId>]) -> Option<Duration> {
        let mut age = Duration::ZERO; // alone, it is its own quorum
        for set in voters {
            if let Needed::Others(newest) = self.needed(term, set) {
                age = age.max(newest?.at.elapsed());
            }
        }
        Some(age)
    }

    /// Ends once a quorum has answered a request of the leader of `term` that went out after `asked`.
    pub(crate) async fn newer(
        &self,
        term: u64,
        asked: Asked,
        voters: impl Fn() -> Vec<BTreeSet<NodeId>>,
    ) {
        loop {
            let mut arrived = std::pin::pin!(self.arrived.notified());
            arrived.as_mut().enable();
            let newer = |set| match self.needed(term, set) {
                Needed::Nobody => true,
                Needed::Others(newest) => newest.is_some_and(|it| it.number > asked.number),
            };
            if voters().iter().all(newer) {
                return;
            }
            arrived.await;
        }
    }

    /// The newest request that a majority of `set` has answered, this node aside.
    fn needed(&self, term: u64, set: &BTreeSet<NodeId>) -> Needed {
        let majority = set.len() / 2 + 1;
        let others = majority - usize::from(set.contains(&self.this));
        let Some(last) = others.checked_sub(1) else {
            return Needed::Nobody;
        };
        let answered = self.answered.lock();
        let of_term = |node: &NodeId| answered.get(node).filter(|it| it.term == term).copied();
        let mut newest: Vec<Asked> = set
            .iter()
            .filter(|node| **node != self.this)
            .filter_map(of_term)
            .collect();
        newest.sort_unstable_by_key(|it| Reverse(*it));
        Needed::Others(newest.get(last).copied())
    }
}

/// Whose answers a majority takes beside this node.
enum Needed {
    /// It is one by itself.
    Nobody,
    /// The newest request that enough others have answered.
    Others(Option<Asked>),
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const TERM: u64 = 3;

    fn set(nodes: &[u64]) -> Vec<BTreeSet<NodeId>> {
        vec![nodes.iter().copied().map(NodeId).collect()]
    }

    fn is_newer(acks: &Acks, asked: Asked, voters: &[BTreeSet<NodeId>]) -> bool {
        let newer = acks.newer(TERM, asked, || voters.to_vec());
        newer.now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_counts_for_its_own_request_and_for_none_that_went_out_later() {
        let (acks, voters) = (Acks::new(NodeId(1)), set(&[1, 2, 3]));
        assert_eq!(acks.age(TERM, &voters), None, "nobody has answered");
        let before = acks.ask(TERM);
        tokio::time::advance(Duration::from_secs(2)).await; // it sleeps
        let read = acks.ask(TERM);
        let after = acks.ask(TERM);
        acks.answer(NodeId(2), before);
        assert!(!is_newer(&acks, read, &voters), "from before the sleep");
        assert_eq!(acks.age(TERM, &voters), Some(Duration::from_secs(2)));
        acks.answer(NodeId(3), after);
        assert!(is_newer(&acks, read, &voters));
        assert_eq!(acks.age(TERM, &voters), Some(Duration::ZERO));
    }

    #[tokio::test]
    async fn a_quorum_is_one_of_each_set_and_of_this_term_alone() {
        let acks = Acks::new(NodeId(1));
        let read = acks.ask(TERM);
        assert!(is_newer(&acks, read, &set(&[1])), "alone it is a quorum");
        let joint = [set(&[1, 2, 3]), set(&[4, 5])].concat();
        acks.answer(NodeId(2), acks.ask(TERM));
        assert!(is_newer(&acks, read, &joint[..1]));
        assert!(!is_newer(&acks, read, &joint), "nobody of the other set");
        acks.answer(NodeId(4), acks.ask(TERM));
        assert!(!is_newer(&acks, read, &joint), "one of two is no majority");
        acks.answer(NodeId(5), acks.ask(TERM - 1));
        assert!(!is_newer(&acks, read, &joint), "of an earlier term");
        acks.answer(NodeId(5), acks.ask(TERM));
        assert!(is_newer(&acks, read, &joint));
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_by_the_answer_that_makes_the_quorum() {
        let acks = Acks::new(NodeId(1));
        let read = acks.ask(TERM);
        let waits = acks.newer(TERM, read, || set(&[1, 2, 3]));
        let answers = async {
            tokio::task::yield_now().await;
            acks.answer(NodeId(3), acks.ask(TERM));
        };
        tokio::join!(waits, answers);
    }
}
