//! Whether the replicas of a group have the same rows: running digests, compared where replicas have an index in common.
//!
//! Invariant: nobody is called wrong but by a majority of the voters, and one that agrees with itself at one and the same
//! index. That one of them leads counts for nothing: the wrong one may be the leader.
//! Not here: how digests travel (`adapter::pulse`), what follows from a verdict (`groups::upkeep`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::types::NodeId;

/// Digests at multiples of these are kept longer, so that replicas at different indexes have some in common.
const STRIDES: [u64; 2] = [64, 1_024];
/// A replica keeps its digests of so many last entries,
const RECENT_MAX: usize = 512;
/// … of so many multiples of the smaller stride,
const CHECKPOINTS_MAX: usize = 64;
/// … and what another said at so many multiples.
const HEARD_MAX: usize = 32;

/// Up to where a replica has applied, and its running digest there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Digest {
    /// The log index.
    pub(crate) index: u64,
    /// The digest of all row changes up to it.
    pub(crate) digest: u128,
}

/// What a comparison came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing speaks against anybody.
    #[default]
    InStep,
    /// Replicas differ at this index, and no majority says who is right.
    Disputed(u64),
    /// A majority agrees at this index, and this other replica differs.
    Other(NodeId, u64),
    /// A majority agrees at this index, and this replica differs.
    Wrong(u64),
}

/// This replica's digests, as it applies.
#[derive(Debug, Default)]
pub(crate) struct Own {
    recent: VecDeque<Digest>,
    checkpoints: BTreeMap<u64, u128>,
}

impl Own {
    /// One more entry is applied.
    pub(crate) fn applied(&mut self, index: u64, digest: u128) {
        self.recent.push_back(Digest { index, digest });
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
        }
        keep(&mut self.checkpoints, index, digest, CHECKPOINTS_MAX);
    }

    /// The state is another one: opened, or installed.
    pub(crate) fn begin(&mut self, index: u64, digest: u128) {
        *self = Self::default();
        if index > 0 {
            self.applied(index, digest);
        }
    }

    /// The last one.
    pub(crate) fn last(&self) -> Digest {
        self.recent.back().copied().unwrap_or_default()
    }

    /// The newest multiple of each stride.
    pub(crate) fn checkpoints(&self) -> impl Iterator<Item = Digest> {
        newest(&self.checkpoints)
    }

    fn at(&self, index: u64) -> Option<u128> {
        let kept = self.checkpoints.get(&index).copied();
        kept.or_else(|| {
            let found = self.recent.binary_search_by_key(&index, |it| it.index);
            found.ok().map(|at| self.recent[at].digest)
        })
    }
}

fn keep(checkpoints: &mut BTreeMap<u64, u128>, index: u64, digest: u128, at_most: usize) {
    if index.is_multiple_of(STRIDES[0]) {
        checkpoints.insert(index, digest);
        if checkpoints.len() > at_most {
            checkpoints.pop_first();
        }
    }
}

fn newest(checkpoints: &BTreeMap<u64, u128>) -> impl Iterator<Item = Digest> {
    STRIDES.into_iter().filter_map(|stride| {
        let mut of = checkpoints.iter().rev();
        let found = of.find(|(index, _)| index.is_multiple_of(stride));
        found.map(|(&index, &digest)| Digest { index, digest })
    })
}

/// What the other replicas said.
#[derive(Debug, Default)]
pub(crate) struct Heard(BTreeMap<NodeId, Other>);

#[derive(Debug, Default)]
struct Other {
    last: Digest,
    checkpoints: BTreeMap<u64, u128>,
}

impl Heard {
    /// `node` has this digest at this index, as itself or somebody else says.
    pub(crate) fn hear(&mut self, node: NodeId, said: Digest) {
        if said.index == 0 {
            return; // it has applied nothing, or the very first entry: the two look alike
        }
        let other = self.0.entry(node).or_default();
        other.last = said;
        keep(&mut other.checkpoints, said.index, said.digest, HEARD_MAX);
    }

    /// What is worth telling others: of each the last, and the newest multiple of each stride.
    pub(crate) fn told(&self) -> impl Iterator<Item = (NodeId, Digest)> {
        self.0.iter().flat_map(|(node, other)| {
            let all = newest(&other.checkpoints).chain([other.last]);
            all.map(|digest| (*node, digest))
        })
    }

    fn at(&self, node: NodeId, index: u64) -> Option<u128> {
        let other = self.0.get(&node)?;
        let last = (other.last.index == index).then_some(other.last.digest);
        last.or_else(|| other.checkpoints.get(&index).copied())
    }

    fn indexes(&self) -> BTreeSet<u64> {
        let of = |other: &Other| {
            let last = other.last.index;
            other
                .checkpoints
                .keys()
                .copied()
                .chain([last])
                .collect::<Vec<_>>()
        };
        self.0.values().flat_map(of).collect()
    }
}

/// Compares at every index that this replica and another have in common. `voters`: the sets that vote now; members that are
/// in none of them are compared too, but do not make up a majority.
pub(crate) fn judge(
    (this, own): (NodeId, &Own),
    heard: &Heard,
    voters: &[BTreeSet<NodeId>],
    members: &BTreeSet<NodeId>,
) -> Verdict {
    let mut disputed = None;
    let mut other = None;
    for index in heard.indexes() {
        let Some(ours) = own.at(index) else { continue };
        let others = members.iter().filter(|node| **node != this);
        let mut said: BTreeMap<NodeId, u128> = others
            .filter_map(|node| Some((*node, heard.at(*node, index)?)))
            .collect();
        said.insert(this, ours);
        let Some((differs, _)) = said.iter().find(|(_, digest)| **digest != ours) else {
            continue;
        };
        match majority(&said, voters) {
            Some(right) if right != ours => return Verdict::Wrong(index),
            Some(_) => other = Some((*differs, index)),
            None => disputed = Some(index),
        }
    }
    // Digests are chained: who was wrong once stays wrong, and a newer index only says it again.
    match (other, disputed) {
        (Some((node, index)), _) => Verdict::Other(node, index),
        (None, Some(index)) => Verdict::Disputed(index),
        (None, None) => Verdict::InStep,
    }
}

/// The digest that more than half of every set of voters has, if there is one.
fn majority(said: &BTreeMap<NodeId, u128>, voters: &[BTreeSet<NodeId>]) -> Option<u128> {
    let mut digests = said.values().copied();
    digests.find(|digest| {
        let agree = |set: &BTreeSet<NodeId>| {
            let count = set.iter().filter(|node| said.get(node) == Some(digest));
            count.count() > set.len() / 2
        };
        !voters.is_empty() && voters.iter().all(agree)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replicas by number that have applied up to an index, each with its own digest of all entries from `from` on.
    fn own(last: u64, from: u64, wrong: u128) -> Own {
        let mut own = Own::default();
        for index in 1..=last {
            own.applied(index, digest(index, from, wrong));
        }
        own
    }

    fn digest(index: u64, from: u64, wrong: u128) -> u128 {
        u128::from(index) * 10 + if index >= from { wrong } else { 0 }
    }

    fn tell(heard: &mut Heard, node: u64, own: &Own) {
        for said in own.checkpoints().chain([own.last()]) {
            heard.hear(NodeId(node), said);
        }
    }

    fn set(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    /// What node 1 makes of the others, of which each is up to where, and with what error.
    fn verdict(ours: &Own, others: &[(u64, &Own)], voters: &[u64]) -> Verdict {
        let mut heard = Heard::default();
        for (node, own) in others {
            tell(&mut heard, *node, own);
        }
        let members: BTreeSet<_> = others.iter().map(|(node, _)| NodeId(*node)).collect();
        judge((NodeId(1), ours), &heard, &[set(voters)], &members)
    }

    #[test]
    fn replicas_at_different_indexes_compare_where_they_have_one_in_common() {
        let (ours, near, far) = (own(1_000, 1, 0), own(990, 1, 0), own(700, 1, 0));
        assert_eq!(
            verdict(&ours, &[(2, &near), (3, &far)], &[1, 2, 3]),
            Verdict::InStep
        );
        // Nothing but the multiples of 64 is left of what is 300 entries ago, and there they differ.
        let far = own(700, 600, 5);
        let said = verdict(&ours, &[(2, &near), (3, &far)], &[1, 2, 3]);
        assert!(matches!(said, Verdict::Disputed(_)), "{said:?}");
        let near = own(1_000, 1, 0);
        let far = own(1_000, 600, 5);
        assert_eq!(
            verdict(&ours, &[(2, &near), (3, &far)], &[1, 2, 3]),
            Verdict::Other(NodeId(3), 1_000)
        );
    }

    #[test]
    fn the_one_against_the_majority_is_wrong_whoever_it_is() {
        let (wrong, right) = (own(100, 50, 7), own(100, 1, 0));
        let said = verdict(&wrong, &[(2, &right), (3, &right)], &[1, 2, 3]);
        assert!(matches!(said, Verdict::Wrong(_)), "{said:?}");
        let said = verdict(&right, &[(2, &right), (3, &wrong)], &[1, 2, 3]);
        assert!(matches!(said, Verdict::Other(NodeId(3), _)), "{said:?}");
    }

    #[test]
    fn without_a_majority_nobody_is_accused() {
        let (one, two, three) = (own(70, 60, 1), own(70, 60, 2), own(70, 60, 3));
        let all: [&[(u64, &Own)]; 2] = [&[(2, &two)], &[(2, &two), (3, &three)]];
        for others in all {
            let said = verdict(&one, others, &[1, 2, 3]);
            assert!(matches!(said, Verdict::Disputed(_)), "{said:?}");
        }
        // A majority of those who were heard is none of all.
        let right = own(70, 1, 0);
        let said = verdict(&one, &[(2, &right), (3, &right)], &[1, 2, 3, 4, 5]);
        assert!(matches!(said, Verdict::Disputed(_)), "{said:?}");
    }

    #[test]
    fn members_that_do_not_vote_make_up_no_majority() {
        let (wrong, right) = (own(70, 60, 1), own(70, 1, 0));
        let others: [(u64, &Own); 3] = [(2, &right), (8, &wrong), (9, &wrong)];
        let said = verdict(&wrong, &others, &[1, 2]);
        assert!(matches!(said, Verdict::Disputed(_)), "{said:?}");
        // … but they are wrong against one.
        let said = verdict(&wrong, &[(2, &right), (3, &right)], &[2, 3]);
        assert!(matches!(said, Verdict::Wrong(_)), "{said:?}");
    }

    #[test]
    fn who_has_applied_nothing_yet_is_wrong_in_nobodys_eyes() {
        let (mut ours, nothing) = (Own::default(), Own::default());
        ours.applied(0, 77); // the first membership
        let others: [(u64, &Own); 2] = [(2, &nothing), (3, &nothing)];
        assert_eq!(verdict(&ours, &others, &[1, 2, 3]), Verdict::InStep);
    }

    #[test]
    fn two_sets_of_voters_must_both_agree() {
        let (wrong, right) = (own(70, 60, 1), own(70, 1, 0));
        let mut heard = Heard::default();
        tell(&mut heard, 2, &right);
        tell(&mut heard, 3, &right);
        let members = set(&[2, 3, 4, 5]);
        let judged = |sets: &[BTreeSet<NodeId>]| judge((NodeId(1), &wrong), &heard, sets, &members);
        assert!(matches!(judged(&[set(&[1, 2, 3])]), Verdict::Wrong(_)));
        let joint = [set(&[1, 2, 3]), set(&[1, 4, 5])];
        assert!(matches!(judged(&joint), Verdict::Disputed(_)));
    }

    #[test]
    fn what_is_kept_is_bounded_however_long_a_replica_lives() {
        let ours = own(100_000, 1, 0);
        assert_eq!(ours.recent.len(), RECENT_MAX);
        assert_eq!(ours.checkpoints.len(), CHECKPOINTS_MAX);
        let mut heard = Heard::default();
        for index in 1..=100_000 {
            heard.hear(NodeId(2), Digest { index, digest: 0 });
        }
        assert_eq!(heard.0[&NodeId(2)].checkpoints.len(), HEARD_MAX);
        assert_eq!(
            ours.checkpoints().map(|it| it.index).collect::<Vec<_>>(),
            [99_968, 99_328]
        );
    }
}
