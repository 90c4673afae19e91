//! The journal as a driver reads it: what stands in which order, and which recorded intent an operation in code means.
//!
//! Invariant: outcomes are shown in journal order, live as in every replay. An Advance names the last delivery it saw;
//! later ones, though recorded before it, are read as standing after it.

use std::collections::{BTreeMap, HashMap, VecDeque};

use holdfast_proto::v1;

/// One thing that the function is shown at once; it is polled after each.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Shown {
    pub(crate) outcomes: Vec<v1::Outcome>,
    pub(crate) cancel: Option<String>,
}

/// An intent as the journal has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recorded {
    pub(crate) entry: u32,
    pub(crate) digest: u64,
    pub(crate) kind: &'static str,
    pub(crate) value: Option<bytes::Bytes>,
    pub(crate) matched: bool,
}

/// Which operation in code: name and occurrence, within a scope.
pub(crate) type Key = (String, String, u32);

/// What a journal says: intents by key, and what is shown in which order.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pub(crate) intents: HashMap<Key, Recorded>,
    pub(crate) next_entry: u32,
    pub(crate) shown: VecDeque<Shown>,
    held: BTreeMap<u32, Shown>,
    last_delivery: u32,
    unmatched: usize,
}

impl Journal {
    /// Takes the rows of a drive, in order.
    pub(crate) fn take(&mut self, rows: Vec<v1::JournalRow>) {
        for row in rows {
            self.take_row(row);
        }
        self.release(u32::MAX);
        self.last_delivery = 0;
    }

    fn take_row(&mut self, row: v1::JournalRow) {
        if row.delivery != 0 && row.delivery <= self.last_delivery {
            self.release(u32::MAX); // another drive began: what its predecessor did not see ends that drive
        }
        let seen = row.seen;
        let delivery = row.delivery;
        for intent in row.intents {
            self.record(intent);
        }
        let shown = Shown {
            outcomes: row.outcomes,
            cancel: row.cancel.map(|it| it.message),
        };
        if delivery != 0 {
            self.last_delivery = delivery;
            self.held.insert(delivery, shown);
        } else if let Some(seen) = seen {
            self.release(seen);
            self.shown.push_back(shown);
        } else {
            self.release(u32::MAX);
            self.last_delivery = 0;
            self.shown.push_back(shown);
        }
    }

    fn release(&mut self, upto: u32) {
        while let Some(first) = self.held.first_entry().filter(|first| *first.key() <= upto) {
            self.shown.push_back(first.remove());
        }
    }

    fn record(&mut self, intent: v1::Intent) {
        self.next_entry = self.next_entry.max(intent.entry.saturating_add(1));
        let (Some(key), Some(kind)) = (intent.key, intent.kind) else {
            return;
        };
        let value = match &kind {
            v1::intent::Kind::Record(value) => Some(value.clone()),
            _ => None,
        };
        let recorded = Recorded {
            entry: intent.entry,
            digest: intent.digest,
            kind: kind_name(&kind),
            value,
            matched: false,
        };
        let key = (key.scope, key.name, key.occurrence);
        if self.intents.insert(key, recorded).is_none() {
            self.unmatched += 1;
        }
    }

    /// The recorded intent of this key, which the code has asked for.
    pub(crate) fn matched(&mut self, key: &Key) -> Option<&Recorded> {
        let recorded = self.intents.get_mut(key)?;
        if !std::mem::replace(&mut recorded.matched, true) {
            self.unmatched -= 1;
        }
        Some(recorded)
    }

    /// Whether the code has yet to come to something that is recorded: until then it only repeats what it did before.
    pub(crate) fn is_replayed(&self) -> bool {
        self.unmatched > 0
    }

    /// The first recorded intent that the code has not asked for.
    pub(crate) fn unmatched(&self) -> Option<(&Key, &Recorded)> {
        self.intents
            .iter()
            .filter(|(_, it)| !it.matched)
            .min_by_key(|(_, it)| it.entry)
    }
}

/// One word for what an intent asks for.
pub(crate) fn kind_name(kind: &v1::intent::Kind) -> &'static str {
    use v1::intent::Kind;
    match kind {
        Kind::Step(_) => "step",
        Kind::Timer(_) => "sleep",
        Kind::Wait(_) => "wait",
        Kind::Record(_) => "record",
        Kind::Publish(_) => "publish",
        Kind::Complete(_) => "complete",
        Kind::Fail(_) => "fail",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fired(entry: u32) -> v1::Outcome {
        v1::Outcome {
            entry,
            kind: Some(v1::outcome::Kind::Fired(v1::Empty {})),
        }
    }

    fn delivery(number: u32, entry: u32) -> v1::JournalRow {
        v1::JournalRow {
            delivery: number,
            outcomes: vec![fired(entry)],
            ..Default::default()
        }
    }

    fn advance(seen: u32, entry: u32) -> v1::JournalRow {
        let intent = v1::Intent {
            entry: 90 + entry,
            ..Default::default()
        };
        let (outcomes, intents) = (vec![fired(entry)], vec![intent]);
        v1::JournalRow {
            seen: Some(seen),
            outcomes,
            intents,
            ..Default::default()
        }
    }

    fn order(rows: Vec<v1::JournalRow>) -> Vec<u32> {
        let mut journal = Journal::default();
        journal.take(rows);
        journal
            .shown
            .iter()
            .flat_map(|shown| shown.outcomes.iter().map(|it| it.entry))
            .collect()
    }

    #[test]
    fn a_delivery_that_an_advance_did_not_see_stands_after_it() {
        assert_eq!(
            order(vec![delivery(1, 1), delivery(2, 2), advance(1, 3)]),
            [1, 3, 2]
        );
        let only_results = v1::JournalRow {
            intents: vec![],
            ..advance(0, 3)
        };
        assert_eq!(order(vec![delivery(1, 1), only_results]), [3, 1]);
    }

    #[test]
    fn unseen_deliveries_of_a_dead_driver_end_its_drive() {
        let rows = vec![delivery(1, 1), advance(0, 2), delivery(1, 3), advance(1, 4)];
        assert_eq!(order(rows), [2, 1, 3, 4]);
    }

    #[test]
    fn what_was_recorded_while_nobody_drove_stands_where_it_is() {
        let alone = v1::JournalRow {
            outcomes: vec![fired(7)],
            ..Default::default()
        };
        assert_eq!(order(vec![delivery(1, 1), alone, advance(0, 2)]), [1, 7, 2]);
    }
}
