//! Effects on their way to the leader's shell: in log order, bounded, and never a reason to wait.
//!
//! Invariant: when the reader is slow, effects collapse into a bounded set of what to read again; should that fill too,
//! into "walk the orders". Rows say the same, so nothing is lost.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::machine::Machine;

/// Effects waiting: a few hundred entries of a busy group, some MiB at most.
const EFFECTS_MAX: usize = 65_536;
/// Runs to read again; more than that is read again as a whole.
const DIRTY_MAX: usize = 65_536;

/// What [`Effects::next`] brings.
pub enum EffectBatch<M: Machine> {
    /// What the entry at this index brought about.
    Effects(u64, Vec<M::Effect>),
    /// Effects were lost for want of room: read these again, as of this index.
    Dirty(u64, BTreeSet<M::Dirty>),
    /// So much was lost that everything has to be read again: walk the orders.
    Everything(u64),
}

/// Effects with the log index of their entry. One reader per group.
pub struct Effects<M: Machine> {
    queue: Arc<EffectQueue<M>>,
}

impl<M: Machine> Effects<M> {
    pub(super) fn of(queue: &Arc<EffectQueue<M>>) -> Self {
        Self {
            queue: Arc::clone(queue),
        }
    }

    /// The next batch; `None` when the group has closed.
    pub async fn next(&mut self) -> Option<EffectBatch<M>> {
        loop {
            let arrived = self.queue.arrived.notified();
            match self.queue.take() {
                Took::Batch(batch) => return Some(batch),
                Took::Closed => return None,
                Took::Nothing => arrived.await,
            }
        }
    }

    /// The next batch if one is there.
    pub fn try_next(&mut self) -> Option<EffectBatch<M>> {
        match self.queue.take() {
            Took::Batch(batch) => Some(batch),
            Took::Closed | Took::Nothing => None,
        }
    }
}

enum Took<M: Machine> {
    Batch(EffectBatch<M>),
    Nothing,
    Closed,
}

/// The state thread's end.
pub(super) struct EffectQueue<M: Machine> {
    waiting: Mutex<Waiting<M>>,
    arrived: Notify,
    effects_max: usize,
    dirty_max: usize,
}

struct Waiting<M: Machine> {
    batches: VecDeque<(u64, Vec<M::Effect>)>,
    effects: usize,
    dirty: BTreeSet<M::Dirty>,
    everything: bool,
    index: u64,
    closed: bool,
}

impl<M: Machine> EffectQueue<M> {
    pub(super) fn new() -> Arc<Self> {
        Self::bounded(EFFECTS_MAX, DIRTY_MAX)
    }

    pub(super) fn bounded(effects_max: usize, dirty_max: usize) -> Arc<Self> {
        let waiting = Waiting {
            batches: VecDeque::new(),
            effects: 0,
            dirty: BTreeSet::new(),
            everything: false,
            index: 0,
            closed: false,
        };
        Arc::new(Self {
            waiting: Mutex::new(waiting),
            arrived: Notify::new(),
            effects_max,
            dirty_max,
        })
    }

    pub(super) fn push(&self, index: u64, effects: Vec<M::Effect>) {
        if effects.is_empty() {
            return;
        }
        let mut waiting = self.waiting.lock();
        waiting.index = index;
        let overflowed = waiting.everything || !waiting.dirty.is_empty();
        if !overflowed && waiting.effects + effects.len() <= self.effects_max {
            waiting.effects += effects.len();
            waiting.batches.push_back((index, effects));
        } else {
            self.collapse(&mut waiting, &effects);
        }
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Everything has to be read again: a snapshot was installed.
    pub(super) fn push_everything(&self, index: u64) {
        let mut waiting = self.waiting.lock();
        waiting.batches.clear();
        waiting.effects = 0;
        waiting.dirty.clear();
        waiting.everything = true;
        waiting.index = index;
        drop(waiting);
        self.arrived.notify_one();
    }

    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.arrived.notify_one();
    }

    fn collapse(&self, waiting: &mut Waiting<M>, effects: &[M::Effect]) {
        let earlier = std::mem::take(&mut waiting.batches);
        waiting.effects = 0;
        if waiting.everything {
            return;
        }
        let earlier = earlier.iter().flat_map(|(_, effects)| effects);
        waiting.dirty.extend(earlier.chain(effects).map(M::dirty));
        if waiting.dirty.len() > self.dirty_max {
            waiting.dirty.clear();
            waiting.everything = true;
        }
    }

    fn take(&self) -> Took<M> {
        let mut waiting = self.waiting.lock();
        let index = waiting.index;
        if std::mem::take(&mut waiting.everything) {
            return Took::Batch(EffectBatch::Everything(index));
        }
        if !waiting.dirty.is_empty() {
            let dirty = std::mem::take(&mut waiting.dirty);
            return Took::Batch(EffectBatch::Dirty(index, dirty));
        }
        match waiting.batches.pop_front() {
            Some((index, effects)) => {
                waiting.effects -= effects.len();
                Took::Batch(EffectBatch::Effects(index, effects))
            }
            None if waiting.closed => Took::Closed,
            None => Took::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::RangeInclusive;

    use bytes::Bytes;

    use super::*;
    use crate::machine::{Applied, Encoded, Fault};
    use crate::state::{Overlay, RowSnapshot};

    /// Only its effects count here: each names what it is about.
    struct Nothing;

    impl Machine for Nothing {
        type Command = ();
        type Reply = ();
        type Effect = u64;
        type Dirty = u64;

        fn encode((): &()) -> Encoded {
            Encoded::Item(Bytes::new())
        }

        fn entry(_: u64, _: u64, _: &[Bytes]) -> Bytes {
            Bytes::new()
        }

        fn apply(
            &mut self,
            _: &mut Overlay<'_>,
            _: u64,
            _: &Bytes,
        ) -> Result<Applied<(), u64>, Fault> {
            Err(Fault("nothing can be applied".to_owned()))
        }

        fn rebuild(&mut self, _: &RowSnapshot<'_>) {}

        fn dirty(effect: &u64) -> u64 {
            *effect
        }

        fn levels(&self) -> RangeInclusive<u32> {
            1..=1
        }
    }

    /// What the reader has to look at for each thing that changed, by the index of its last change.
    #[derive(Default)]
    struct Due(BTreeMap<u64, u64>);

    impl Due {
        /// A look at the rows as of `index` shows all changes up to it.
        fn looked_at(&mut self, id: u64, index: u64) {
            if self.0.get(&id).is_some_and(|changed| *changed <= index) {
                self.0.remove(&id);
            }
        }

        fn took(&mut self, batch: EffectBatch<Nothing>) -> &'static str {
            match batch {
                EffectBatch::Effects(index, effects) => {
                    for id in effects {
                        self.looked_at(id, index);
                    }
                    "effects"
                }
                EffectBatch::Dirty(index, all) => {
                    for id in all {
                        self.looked_at(id, index);
                    }
                    "dirty"
                }
                EffectBatch::Everything(index) => {
                    self.0.retain(|_, changed| *changed > index);
                    "everything"
                }
            }
        }
    }

    #[test]
    fn a_full_queue_strands_nothing_and_stays_bounded() {
        let queue = EffectQueue::<Nothing>::bounded(4, 16);
        let mut reader = Effects::of(&queue);
        let (mut due, mut turn, mut seen) = (Due::default(), 1_u64, BTreeMap::new());
        let mut below = |end: u64| {
            turn = turn
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(11);
            (turn >> 33) % end
        };
        for index in 1..=10_000 {
            let effects: Vec<u64> = (0..below(4)).map(|_| below(60)).collect();
            due.0.extend(effects.iter().map(|id| (*id, index)));
            queue.push(index, effects);
            {
                let waiting = queue.waiting.lock();
                let batches: usize = waiting.batches.iter().map(|(_, it)| it.len()).sum();
                assert_eq!(batches, waiting.effects);
                assert!(waiting.effects <= 4 && waiting.dirty.len() <= 16);
            }
            // A reader that is fast for a while, and then slow.
            let reads = if (index / 100) % 3 == 0 {
                2
            } else {
                below(12) / 11
            };
            for batch in (0..reads).filter_map(|_| reader.try_next()) {
                *seen.entry(due.took(batch)).or_insert(0) += 1;
            }
        }
        queue.close();
        while let Some(batch) = reader.try_next() {
            due.took(batch);
        }
        assert_eq!(due.0, BTreeMap::new(), "changed at these, and never told");
        assert!(
            seen.len() == 3 && seen.values().all(|count| *count > 50),
            "{seen:?}"
        );
    }
}
