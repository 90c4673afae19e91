//! Damage: a file cut at a byte, or one bit of it flipped. Detected, or provably harmless.
//!
//! Invariant: harmless means that the log is the very same: every entry, the vote, the purge mark; and that the state is the same, or an
//! earlier one from which that log goes on without a gap. Everything else that opens is damage that nobody noticed.
//! Not here: how it is opened (`opener`).

use super::Dice;
use super::opener::{Answer, Found};

/// One thing done to one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blow {
    /// The file ends here.
    CutAt(usize),
    /// This bit of this byte is another.
    Flip {
        /// Which byte.
        byte: usize,
        /// Which bit of it.
        bit: u8,
    },
    /// The file is gone.
    Gone,
}

impl Blow {
    /// The file after it; none if it is gone.
    pub fn strike(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::CutAt(len) => Some(bytes[..*len].to_vec()),
            Self::Flip { byte, bit } => {
                let mut bytes = bytes.to_vec();
                bytes[*byte] ^= 1 << bit;
                Some(bytes)
            }
            Self::Gone => None,
        }
    }
}

/// So many blows to a file of this length, all of a kind if the number allows: each cut, each byte with one bit flipped.
pub fn blows(len: usize, cuts: usize, flips: usize, seed: u64) -> Vec<Blow> {
    let mut dice = Dice::new(seed);
    let mut all = vec![Blow::Gone];
    all.extend(spread(len, cuts, &mut dice).map(Blow::CutAt));
    let places: Vec<usize> = spread(len, flips, &mut dice).collect();
    all.extend(places.into_iter().map(|byte| {
        let bit = u8::try_from(dice.below(8)).expect("it is below 8");
        Blow::Flip { byte, bit }
    }));
    all
}

/// `count` places below `len`, each in its own equal part; all of them if there are no more.
fn spread(len: usize, count: usize, dice: &mut Dice) -> impl Iterator<Item = usize> + use<> {
    let parts = count.min(len);
    let dice = &mut *dice;
    let places: Vec<usize> = (0..parts)
        .map(|part| {
            let (from, to) = (part * len / parts, (part + 1) * len / parts);
            from + dice.below(to - from)
        })
        .collect();
    places.into_iter()
}

/// What came of a blow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Came {
    /// A start refuses, with a reason.
    Refused,
    /// It opens, and the damage shows when it is read.
    ShownByReading,
    /// The same log and state.
    Harmless,
    /// The same log; an earlier state, which the log brings up to date.
    Replayed,
    /// The open does not end: nothing is served and nothing lost, and nobody says why.
    Hangs,
    /// Nobody noticed, or the process died.
    Unnoticed,
}

/// What came of it, and in words why it is bad.
pub fn came(reference: &Found, answer: &Answer) -> (Came, String) {
    match answer {
        Answer::Refused { at, why } if at == "reading" => (Came::ShownByReading, why.clone()),
        Answer::Refused { why, .. } => (Came::Refused, why.clone()),
        Answer::Died(how) => (Came::Unnoticed, format!("the process died: {how}")),
        Answer::Hung => (Came::Hangs, "the open does not end".into()),
        Answer::Found(found) => match difference(reference, found) {
            Difference::None => (Came::Harmless, String::new()),
            Difference::State => (Came::Replayed, String::new()),
            Difference::Bad(what) => (Came::Unnoticed, what),
        },
    }
}

enum Difference {
    None,
    State,
    Bad(String),
}

fn difference(reference: &Found, found: &Found) -> Difference {
    if found.cluster != reference.cluster {
        return Difference::Bad(format!("it belongs to cluster {:?}", found.cluster));
    }
    if found.groups.len() != reference.groups.len() {
        return Difference::Bad(format!("it has {} groups", found.groups.len()));
    }
    let mut state = false;
    for (was, is) in reference.groups.iter().zip(&found.groups) {
        let log = |it: &super::opener::Group| (it.group, it.purged, it.last, it.vote);
        if log(was) != log(is) {
            return Difference::Bad(format!("{:?} was {:?}", log(is), log(was)));
        }
        if was.entries != is.entries {
            return Difference::Bad("its entries are other ones".into());
        }
        if is.committed > was.committed {
            let (is, was) = (is.committed, was.committed);
            return Difference::Bad(format!("{is:?} is said to be committed, not {was:?}"));
        }
        let rows = |it: &super::opener::Group| (it.digest.clone(), it.rows_digest.clone());
        if is.applied == was.applied && rows(is) != rows(was) {
            return Difference::Bad("rows of the same entry are other ones".into());
        }
        if is.applied > was.applied {
            return Difference::Bad(format!("its state is of entry {:?}", is.applied));
        }
        state |= is.applied != was.applied || is.committed != was.committed;
    }
    if state {
        Difference::State
    } else {
        Difference::None
    }
}
