//! Whether a history of one key is linearizable: the search of Wing and Gong with Lowe's memo, by a set of bits and the state.
//!
//! Invariant: exact, or no answer in the time given. A history is cut where nothing is under way, and every state in which a part can
//! end is carried into the next, so that long histories cost no more than their busiest part. It does not look at positions, so
//! an index that lies is caught here. Not here: which operations belong together (`order`), what they mean (`model`).

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::checker::model::Model;
use crate::records::{Op, Outcome};

/// What the search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Linearized {
    /// There is an order.
    Yes,
    /// There is none.
    No {
        /// How many operations could be ordered.
        ordered: usize,
        /// The last of them: of the part that could not be ordered whole, the longest beginning.
        last: Vec<usize>,
        /// What could have come next, and did not fit.
        stuck: Vec<usize>,
    },
    /// The time was over.
    TimedOut,
}

/// A set of operations.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Bits(Vec<u64>);

impl Bits {
    fn of(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }
    fn flip(&mut self, bit: usize) {
        self.0[bit / 64] ^= 1 << (bit % 64);
    }
    fn has(&self, bit: usize) -> bool {
        self.0[bit / 64] >> (bit % 64) & 1 == 1
    }
}

/// When an operation must have happened by: one of which nothing is known, and that no log has, never.
fn end(op: &Op) -> u64 {
    match (op.outcome, op.position) {
        (Outcome::Ok | Outcome::Fail, _) | (Outcome::Info, Some(_)) => op.t_ret,
        (Outcome::Info, None) => u64::MAX,
    }
}

/// Looks for an order of all operations that respects real time and the model.
pub fn linearize<M: Model>(ops: &[&Op], within: Duration) -> Linearized {
    let until = Instant::now() + within;
    let mut by_inv: Vec<usize> = (0..ops.len()).collect();
    by_inv.sort_by_key(|i| ops[*i].t_inv);
    let mut states = vec![M::State::default()];
    let mut ordered = 0;
    for part in parts(ops, &by_inv) {
        let mut search = Search::<M>::new(ops, part);
        for state in states {
            if !search.from(state, until) {
                return Linearized::TimedOut;
            }
        }
        if search.ends.is_empty() {
            return Linearized::No {
                ordered: ordered + search.longest.len(),
                last: search.longest,
                stuck: search.stuck,
            };
        }
        ordered += part.len();
        states = search.ends.into_iter().collect();
    }
    Linearized::Yes
}

/// Cuts where everything that had begun is over.
fn parts<'a>(ops: &[&Op], by_inv: &'a [usize]) -> Vec<&'a [usize]> {
    let mut parts = Vec::new();
    let mut from = 0;
    let mut last_end = 0;
    for (place, op) in by_inv.iter().enumerate() {
        if place > from && ops[*op].t_inv > last_end {
            parts.push(&by_inv[from..place]);
            from = place;
        }
        last_end = last_end.max(end(ops[*op]));
    }
    if from < by_inv.len() {
        parts.push(&by_inv[from..]);
    }
    parts
}

/// One choice of the search: which operation was put next, from which state.
struct Choice<S> {
    place: usize,
    before: S,
}

/// The search over one part.
struct Search<'a, M: Model> {
    ops: &'a [&'a Op],
    /// By the time of asking.
    part: &'a [usize],
    seen: HashSet<(Bits, M::State)>,
    ends: HashSet<M::State>,
    longest: Vec<usize>,
    stuck: Vec<usize>,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(ops: &'a [&'a Op], part: &'a [usize]) -> Self {
        Self {
            ops,
            part,
            seen: HashSet::new(),
            ends: HashSet::new(),
            longest: Vec::new(),
            stuck: Vec::new(),
        }
    }

    /// Finds every state in which the part can end, begun in this one; false: the time was over.
    fn from(&mut self, mut state: M::State, until: Instant) -> bool {
        let mut done = Bits::of(self.part.len());
        let mut stack: Vec<Choice<M::State>> = Vec::new();
        // No candidate before this place is tried: they were, or are done.
        let mut from = 0;
        let mut rounds = 0_u32;
        loop {
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(256) && Instant::now() > until {
                return false;
            }
            if stack.len() == self.part.len() {
                self.ends.insert(state.clone());
            }
            if let Some((place, after)) = self.next(&state, &done, from) {
                let before = std::mem::replace(&mut state, after);
                stack.push(Choice { place, before });
                done.flip(place);
                from = 0;
                continue;
            }
            if stack.len() < self.part.len()
                && (stack.len() > self.longest.len() || self.stuck.is_empty())
            {
                self.longest = stack.iter().map(|it| self.part[it.place]).collect();
                let stuck = self.candidates(&done);
                self.stuck = stuck.into_iter().map(|place| self.part[place]).collect();
            }
            let Some(choice) = stack.pop() else {
                return true;
            };
            done.flip(choice.place);
            state = choice.before;
            from = choice.place + 1;
        }
    }

    /// The next operation that fits and leads to something new.
    fn next(&mut self, state: &M::State, done: &Bits, from: usize) -> Option<(usize, M::State)> {
        for place in self.candidates(done) {
            if place < from {
                continue;
            }
            let Some(after) = M::step(state, self.ops[self.part[place]]) else {
                continue;
            };
            let mut with = done.clone();
            with.flip(place);
            if self.seen.insert((with, after.clone())) {
                return Some((place, after));
            }
        }
        None
    }

    /// Operations that may come next: not done, and begun before any other that is not done had ended.
    fn candidates(&self, done: &Bits) -> Vec<usize> {
        let mut found = Vec::new();
        let mut first_end = u64::MAX;
        for (place, op) in self.part.iter().enumerate() {
            if done.has(place) {
                continue;
            }
            let op = self.ops[*op];
            if op.t_inv > first_end {
                break;
            }
            first_end = first_end.min(end(op));
            found.push(place);
        }
        found
    }
}
