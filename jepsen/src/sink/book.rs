//! The sink's rules, without files and connections.
//!
//! Invariant: with fences, an effect never happens under an older fence of its step than one seen before; with keys, never twice
//! under one key. Not here: the disk and the door (`server`).

use std::collections::{HashMap, HashSet};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{SinkCall, Wish};
use crate::records::Ruling;

/// What the sink protects against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Stale fences of a step, and repeats of a key.
    Idempotent,
    /// Stale fences of a step only: two valid attempts are two effects.
    Fenced,
    /// Nothing.
    Naive,
}

impl Mode {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idempotent => "idempotent",
            Self::Fenced => "fenced",
            Self::Naive => "naive",
        }
    }
}

impl FromStr for Mode {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Idempotent, Self::Fenced, Self::Naive]
            .into_iter()
            .find(|mode| mode.name() == text)
            .ok_or_else(|| format!("{text} is none of idempotent, fenced, naive"))
    }
}

/// What the sink remembers.
#[derive(Debug)]
pub struct Book {
    mode: Mode,
    /// The newest fence, by run, life and step.
    fences: HashMap<(String, u32, String), u64>,
    acted: HashSet<String>,
    turned_away: HashMap<String, u32>,
}

impl Book {
    /// An empty one.
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            fences: HashMap::new(),
            acted: HashSet::new(),
            turned_away: HashMap::new(),
        }
    }

    /// What comes of a call.
    pub fn judge(&mut self, call: &SinkCall) -> Ruling {
        match call.wish {
            Wish::Probe => Ruling::Probed {
                found: self.acted.contains(&call.key),
            },
            Wish::Register if self.is_stale(call) => Ruling::Stale,
            Wish::Register => Ruling::Registered,
            Wish::Act if self.is_stale(call) => Ruling::Stale,
            Wish::Act => self.act(call),
        }
    }

    fn is_stale(&mut self, call: &SinkCall) -> bool {
        if self.mode == Mode::Naive {
            return false;
        }
        let of = (call.run.clone(), call.generation, call.step.clone());
        let newest = self.fences.entry(of).or_default();
        *newest = (*newest).max(call.fence);
        call.fence < *newest
    }

    fn act(&mut self, call: &SinkCall) -> Ruling {
        if self.mode == Mode::Idempotent && self.acted.contains(&call.key) {
            return Ruling::Repeated;
        }
        let turned_away = self.turned_away.entry(call.key.clone()).or_default();
        if *turned_away < call.throttle {
            *turned_away += 1;
            return Ruling::Throttled;
        }
        self.acted.insert(call.key.clone());
        Ruling::Acted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(wish: Wish, fence: u64) -> SinkCall {
        SinkCall {
            wish,
            run: "r".to_string(),
            generation: 1,
            step: "0".to_string(),
            attempt: 1,
            fence,
            key: "ns:r:1:0".to_string(),
            worker: "w1".to_string(),
            serial: 7,
            undo: false,
            throttle: 0,
        }
    }

    #[test]
    fn a_stale_fence_is_refused_once_a_newer_one_was_registered() {
        for mode in [Mode::Fenced, Mode::Idempotent] {
            let mut book = Book::new(mode);
            assert_eq!(book.judge(&call(Wish::Register, 5)), Ruling::Registered);
            assert_eq!(book.judge(&call(Wish::Register, 9)), Ruling::Registered);
            assert_eq!(book.judge(&call(Wish::Act, 5)), Ruling::Stale);
            assert_eq!(book.judge(&call(Wish::Register, 5)), Ruling::Stale);
            assert_eq!(book.judge(&call(Wish::Act, 9)), Ruling::Acted);
        }
        let mut naive = Book::new(Mode::Naive);
        naive.judge(&call(Wish::Register, 9));
        assert_eq!(naive.judge(&call(Wish::Act, 5)), Ruling::Acted);
    }

    #[test]
    fn fences_are_of_one_step_and_an_undo_is_another() {
        let mut book = Book::new(Mode::Fenced);
        book.judge(&call(Wish::Act, 9));
        let undo = SinkCall {
            step: "0:undo".to_string(),
            ..call(Wish::Act, 5)
        };
        assert_eq!(book.judge(&undo), Ruling::Acted);
        let other_life = SinkCall {
            generation: 2,
            ..call(Wish::Act, 5)
        };
        assert_eq!(book.judge(&other_life), Ruling::Acted);
    }

    #[test]
    fn only_the_idempotent_sink_repeats_its_answer() {
        for (mode, second) in [
            (Mode::Idempotent, Ruling::Repeated),
            (Mode::Fenced, Ruling::Acted),
            (Mode::Naive, Ruling::Acted),
        ] {
            let mut book = Book::new(mode);
            assert_eq!(book.judge(&call(Wish::Act, 5)), Ruling::Acted);
            assert_eq!(book.judge(&call(Wish::Act, 9)), second);
        }
    }

    #[test]
    fn a_probe_tells_what_happened_and_changes_nothing() {
        let mut book = Book::new(Mode::Idempotent);
        let probe = call(Wish::Probe, 20);
        assert_eq!(book.judge(&probe), Ruling::Probed { found: false });
        assert_eq!(book.judge(&call(Wish::Act, 5)), Ruling::Acted);
        assert_eq!(book.judge(&probe), Ruling::Probed { found: true });
    }

    #[test]
    fn who_is_told_to_come_back_has_had_no_effect() {
        let mut book = Book::new(Mode::Idempotent);
        let busy = SinkCall {
            throttle: 2,
            ..call(Wish::Act, 5)
        };
        assert_eq!(book.judge(&busy), Ruling::Throttled);
        assert_eq!(
            book.judge(&call(Wish::Probe, 5)),
            Ruling::Probed { found: false }
        );
        assert_eq!(book.judge(&busy), Ruling::Throttled);
        assert_eq!(book.judge(&busy), Ruling::Acted);
        assert_eq!(book.judge(&busy), Ruling::Repeated);
    }
}
