//! Is a disk after a cut of power what it has to be?
//!
//! Invariant: a disk that kept what was synced has to open, with every entry that was synced or acknowledged before the cut, as it was
//! written, no younger vote lost, and nothing invented. A refusal is right only where something synced is gone, and a cut takes nothing
//! that was synced. Not here: how it is opened (`opener`), damage (`damage`).

use std::collections::BTreeMap;

use super::opener::{Answer, Found, Group};

/// What one group must have at a moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Due {
    /// Entries up to here, by term and index: those synced.
    pub last: Option<(u64, u64)>,
    /// Entries up to this index: those acknowledged.
    pub acked: Option<u64>,
    /// A vote that is no older than this: term, and whether granted.
    pub vote: Option<(u64, bool)>,
}

impl Due {
    /// What this group shows.
    pub fn shown_by(group: &Group) -> Self {
        Self {
            last: group.term.zip(group.last),
            acked: group.last,
            vote: group.vote.map(|(term, _, granted)| (term, granted)),
        }
    }
}

/// What was written in all of the recording: the checksums that an entry may have.
#[derive(Debug, Default)]
pub struct Written {
    entries: BTreeMap<(u32, u64), Vec<u32>>,
}

impl Written {
    /// Learns the entries of a disk that was whole.
    pub fn learn(&mut self, found: &Found) {
        for group in &found.groups {
            for (index, sum) in &group.entries {
                let known = self.entries.entry((group.group, *index)).or_default();
                if !known.contains(sum) {
                    known.push(*sum);
                }
            }
        }
    }

    fn has(&self, group: u32, index: u64, sum: u32) -> bool {
        let known = self.entries.get(&(group, index));
        known.is_some_and(|known| known.contains(&sum))
    }

    /// How many entries are known.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// What is wrong with a disk after a cut; nothing if it is as it must be.
pub fn wrong(answer: &Answer, due: &BTreeMap<u32, Due>, written: &Written) -> Option<String> {
    let found = match answer {
        Answer::Found(found) => found,
        Answer::Refused { at, why } => {
            return Some(format!(
                "refused at {at}, and nothing synced was lost: {why}"
            ));
        }
        Answer::Died(how) => return Some(format!("the process died: {how}")),
        Answer::Hung => return Some("the process did not answer".into()),
    };
    for (number, due) in due {
        let group = found.groups.iter().find(|it| it.group == *number);
        let has = group.map(Due::shown_by).unwrap_or_default();
        if has.last < due.last {
            let (has, due) = (has.last, due.last);
            return Some(format!(
                "group {number} ends at {has:?}, {due:?} was synced"
            ));
        }
        if has.acked < due.acked {
            let (has, due) = (has.acked, due.acked);
            return Some(format!(
                "group {number} ends at {has:?}, {due:?} was acknowledged"
            ));
        }
        if has.vote < due.vote {
            let (has, due) = (has.vote, due.vote);
            return Some(format!(
                "group {number} has vote {has:?}, {due:?} was synced"
            ));
        }
    }
    for group in &found.groups {
        let invented = group
            .entries
            .iter()
            .find(|(index, sum)| !written.has(group.group, *index, *sum));
        if let Some((index, _)) = invented {
            let number = group.group;
            return Some(format!(
                "entry {index} of group {number} was never written so"
            ));
        }
    }
    None
}
