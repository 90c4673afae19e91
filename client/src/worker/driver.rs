//! `Driver`: one run, played against its journal. No IO, no threads, no clocks.
//!
//! Walk: `drive` (journal in) → poll the function until nothing moves → an `Advance` out → `advanced` (grants, deliveries)
//! → … Invariants: one Advance is in flight; results are shown to the function only when the Advance that carries them is
//! made, after the deliveries that came before, so that live order equals replay order; at most one body begins per fence,
//! and the driver stays until each that began was reported.

use std::{
    any::Any,
    collections::{BTreeSet, HashSet, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use holdfast_proto::v1;
use tracing::dispatcher;

use crate::{
    cx::{LocalBody, State, ms},
    error::Fail,
    journal::{self, Shown},
};

/// Intents in one Advance; the rest goes with the next.
const INTENTS_MAX: usize = 128;
/// Bytes of intents in one Advance; a single one may be larger, and is refused by name if it is too large.
const INTENT_BYTES_MAX: usize = 512 * 1024;
/// Bytes of results in one Advance; together with intents they stay below what a command may have.
const RESULT_BYTES_MAX: usize = 384 * 1024;
/// Polls in a row of a function that wakes itself: more than any combinator needs.
const POLLS_MAX: usize = 1_000;
/// Refusals in a row after which the run is handed back.
const REFUSALS_MAX: u32 = 3;
/// When a step that this worker does not have is tried again: by then another one may drive the run.
const NOT_HERE_FOR: std::time::Duration = std::time::Duration::from_secs(5);

/// A workflow function at work.
pub(crate) type Function = Pin<Box<dyn Future<Output = Result<Bytes, Fail>>>>;

/// What the driver wants done.
#[derive(Default)]
pub(crate) struct Todo {
    /// To be sent; the same again until it is answered.
    pub(crate) advance: Option<v1::Advance>,
    /// Bodies that may begin now.
    pub(crate) begin: Vec<(v1::Grant, LocalBody)>,
    /// What becomes of the driver.
    pub(crate) fate: Fate,
}

/// What becomes of a driver.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The lease lives.
    #[default]
    Drives,
    /// Suspended: the function is kept, and continues when the run is driven again.
    Keep,
    /// Handed back: another worker may do better.
    Return,
    /// Over for this worker.
    Drop,
}

/// Whether the function woke itself while it was polled.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One run at work.
pub(crate) struct Driver {
    state: Rc<State>,
    function: Option<Function>,
    ended: Option<v1::intent::Kind>,
    fence: u64,
    number: u32,
    seen: u32,
    rows: u32,
    shown: VecDeque<Shown>,
    deliveries: VecDeque<(u32, Shown)>,
    results: Vec<v1::StepResult>,
    unsent: VecDeque<v1::Intent>,
    in_flight: Option<v1::Advance>,
    begun: HashSet<u64>,
    /// Fences of bodies that began and have no result yet.
    running: BTreeSet<u64>,
    waiting_grants: Vec<v1::Grant>,
    woken: Arc<Woken>,
    refusals: u32,
    trouble: Option<Trouble>,
    interrupted: bool,
    must_report: bool,
}

enum Trouble {
    Diverged(v1::Diverged),
    Panicked(String),
}

impl Driver {
    pub(crate) fn new(state: Rc<State>, function: Function) -> Self {
        Self {
            state,
            function: Some(function),
            ended: None,
            fence: 0,
            number: 0,
            seen: 0,
            rows: 0,
            shown: VecDeque::new(),
            deliveries: VecDeque::new(),
            results: Vec::new(),
            unsent: VecDeque::new(),
            in_flight: None,
            begun: HashSet::new(),
            running: BTreeSet::new(),
            woken: Arc::default(),
            refusals: 0,
            waiting_grants: Vec::new(),
            trouble: None,
            interrupted: false,
            must_report: false,
        }
    }

    pub(crate) fn fence(&self) -> u64 {
        self.fence
    }

    pub(crate) fn seen(&self) -> u32 {
        self.deliveries
            .back()
            .map_or(self.seen, |(number, _)| *number)
    }

    /// How many journal rows it has been told of: a drive that begins there continues it.
    pub(crate) fn rows(&self) -> u32 {
        self.rows
    }

    /// Whether all results that came in have been sent.
    pub(crate) fn has_told(&self) -> bool {
        self.results.is_empty()
    }

    /// The Advance that was not answered yet, to be sent again unchanged.
    pub(crate) fn unanswered(&self) -> Option<&v1::Advance> {
        self.in_flight.as_ref()
    }

    /// The run is driven (again) under this fence: shows what its rows say.
    pub(crate) fn drive(&mut self, drive: v1::Drive) -> Todo {
        self.fence = drive.fence;
        self.number = drive.advance;
        self.in_flight = None;
        self.seen = 0;
        self.results.clear();
        self.running.clear();
        self.waiting_grants.clear();
        self.interrupted = false;
        let rows = u32::try_from(drive.rows.len()).unwrap_or(u32::MAX);
        self.rows = drive.first_seq.saturating_add(rows);
        {
            let mut inner = self.state.inner.borrow_mut();
            inner.journal.take(drive.rows);
            self.shown.append(&mut inner.journal.shown);
        }
        self.seen = drive.delivery;
        self.must_report = true;
        self.replay();
        let mut todo = Todo::default();
        self.begin(drive.grants, &mut todo);
        self.advance(&mut todo);
        todo
    }

    /// The whole journal is shown, and the function has to have asked for all that is recorded.
    fn replay(&mut self) {
        self.poll();
        while let Some(shown) = self.shown.pop_front() {
            self.state.show(shown);
            self.poll();
        }
        self.verify_matched();
    }

    fn verify_matched(&mut self) {
        let inner = self.state.inner.borrow();
        if self.trouble.is_some() || !inner.journal.is_replayed() {
            return;
        }
        let asked = inner.fresh.first();
        let asked = asked.and_then(|it| Some((it.kind.as_ref()?, it.key.as_ref()?)));
        let got = match (&self.ended, asked) {
            (_, Some((kind, key))) => {
                let kind = journal::kind_name(kind);
                format!("{kind} {}#{}", key.name, key.occurrence)
            }
            (Some(_), None) => "the end of the function".to_owned(),
            (None, None) => return,
        };
        let Some((key, recorded)) = inner.journal.unmatched() else {
            return;
        };
        let expected = format!("{} {}#{}", recorded.kind, key.1, key.2);
        let key = v1::StepKey {
            scope: key.0.clone(),
            name: key.1.clone(),
            occurrence: key.2,
        };
        drop(inner);
        self.cannot_go_on(Trouble::Diverged(v1::Diverged {
            key: Some(key),
            expected,
            got,
        }));
    }

    /// The function is not polled any more; it is replayed by whoever drives the run next.
    fn cannot_go_on(&mut self, trouble: Trouble) {
        (self.function, self.ended) = (None, None);
        self.trouble = Some(trouble);
        self.must_report = true;
    }

    /// Results of local steps; they travel together with what the function asks for next.
    pub(crate) fn result(&mut self, result: v1::StepResult) {
        self.running.remove(&result.fence);
        self.results.push(result);
    }

    /// Facts from outside, and grants.
    pub(crate) fn news(&mut self, news: v1::News) -> Todo {
        let mut todo = Todo::default();
        if news.fence != self.fence {
            return todo;
        }
        self.deliver(news.deliveries);
        self.begin(news.grants, &mut todo);
        self.advance(&mut todo);
        todo
    }

    fn deliver(&mut self, rows: Vec<v1::JournalRow>) {
        for row in rows {
            if row.delivery <= self.seen() {
                continue; // told before
            }
            self.rows = self.rows.max(row.seq.saturating_add(1));
            let cancel = row.cancel.map(|it| it.message);
            self.deliveries.push_back((
                row.delivery,
                Shown {
                    outcomes: row.outcomes,
                    cancel,
                },
            ));
        }
    }

    /// The answer to the Advance in flight.
    pub(crate) fn advanced(&mut self, it: v1::Advanced) -> Todo {
        let mut todo = Todo::default();
        let expected = self.in_flight.as_ref().map(|advance| advance.number);
        if it.fence != self.fence || expected != Some(it.number) {
            return todo;
        }
        let Some(sent) = self.in_flight.take() else {
            return todo;
        };
        match it.outcome() {
            v1::AdvanceOutcome::Unknown => {
                self.in_flight = Some(sent.clone());
                todo.advance = Some(sent);
                return todo;
            }
            v1::AdvanceOutcome::StaleFence => {
                todo.fate = Fate::Drop;
                return todo;
            }
            // The run cannot be final before what is in flight was reported, and only its driver can.
            v1::AdvanceOutcome::Finished if self.owes_results() => self.interrupted = true,
            v1::AdvanceOutcome::Finished => {
                todo.fate = Fate::Drop;
                return todo;
            }
            v1::AdvanceOutcome::Interrupted => self.interrupted = true,
            v1::AdvanceOutcome::Refused | v1::AdvanceOutcome::Unspecified => {
                return self.refused(sent, &it);
            }
            v1::AdvanceOutcome::Suspended => {
                self.count_row(&sent, 0);
                todo.fate = Fate::Keep;
                return todo;
            }
            v1::AdvanceOutcome::Deliveries => self.must_report = true,
            v1::AdvanceOutcome::GoesOn => {}
        }
        self.refusals = 0;
        self.count_row(&sent, it.deliveries.len());
        self.deliver(it.deliveries);
        self.begin(it.grants, &mut todo);
        self.advance(&mut todo);
        todo
    }

    fn owes_results(&self) -> bool {
        !(self.running.is_empty() && self.results.is_empty() && self.waiting_grants.is_empty())
    }

    /// Whether the function asks for nothing any more.
    fn is_over(&self) -> bool {
        self.function.is_none() || self.interrupted
    }

    /// Nothing of it was taken, its number neither. What the function asked for cannot be had, so that it is replayed; its
    /// results still count, and one that is not a plain output may be what was wrong.
    fn refused(&mut self, sent: v1::Advance, it: &v1::Advanced) -> Todo {
        use v1::attempt_outcome::Kind;
        let mut todo = Todo::default();
        let what = format!("[{}] {}", it.code, it.detail);
        tracing::error!(run = self.state.run, what, "an Advance was refused");
        self.refusals += 1;
        if self.refusals >= REFUSALS_MAX {
            todo.fate = Fate::Return;
            return todo;
        }
        self.number = self.number.saturating_sub(1);
        let mut results = sent.results;
        for outcome in results.iter_mut().filter_map(|it| it.outcome.as_mut()) {
            if !matches!(outcome.kind, Some(Kind::Done(_) | Kind::Stopped(_))) {
                outcome.kind = Some(Kind::Retryable(v1::Retryable {
                    message: what.clone(),
                    after_ms: 0,
                }));
            }
        }
        results.append(&mut self.results);
        self.results = results;
        self.cannot_go_on(Trouble::Panicked(what));
        self.advance(&mut todo);
        todo
    }

    /// An Advance with results or intents is one row of the journal.
    fn count_row(&mut self, sent: &v1::Advance, deliveries: usize) {
        let done = |it: &v1::StepResult| {
            let kind = it.outcome.as_ref().and_then(|it| it.kind.as_ref());
            matches!(kind, Some(v1::attempt_outcome::Kind::Done(_)))
        };
        let ending = sent
            .intents
            .last()
            .is_some_and(|intent| is_ending(intent.kind.as_ref()));
        let kept = sent.intents.len() - usize::from(ending && deliveries > 0);
        if deliveries == 0 && (kept > 0 || sent.results.iter().any(done)) {
            self.rows = self.rows.saturating_add(1);
        }
    }

    /// Begins granted bodies whose operation the function has asked for, each fence once.
    fn begin(&mut self, grants: Vec<v1::Grant>, todo: &mut Todo) {
        self.waiting_grants.extend(grants);
        let over = self.is_over(); // then they are handed back with the next Advance
        let inner = self.state.inner.borrow();
        for grant in std::mem::take(&mut self.waiting_grants) {
            if self.begun.contains(&grant.fence) {
                continue;
            }
            match inner.local.get(&grant.entry) {
                Some(body) if !over => {
                    self.begun.insert(grant.fence);
                    self.running.insert(grant.fence);
                    todo.begin.push((grant, body.clone()));
                }
                None if !over && inner.awaited.contains_key(&grant.entry) => {
                    self.begun.insert(grant.fence);
                    self.results.push(not_here(&grant));
                }
                _ => self.waiting_grants.push(grant),
            }
        }
    }

    /// A function that is over asks for nothing any more: what was granted to it and did not begin is handed back.
    fn hand_back(&mut self) {
        if !self.is_over() {
            return;
        }
        for grant in std::mem::take(&mut self.waiting_grants) {
            let stopped = v1::attempt_outcome::Kind::Stopped(v1::Empty {});
            self.begun.insert(grant.fence);
            self.results.push(result_of(&grant, stopped));
        }
    }

    /// Makes the next Advance, if none is in flight and there is something to say.
    pub(crate) fn advance(&mut self, todo: &mut Todo) {
        if self.in_flight.is_some() {
            return;
        }
        while let Some((number, shown)) = self.deliveries.pop_front() {
            self.seen = number;
            self.must_report = true; // what stands before it is settled by naming it
            self.state.show(shown);
            self.poll();
        }
        self.hand_back();
        let results = self.next_results();
        self.show_results(&results);
        self.verify_matched(); // also what was open when the replay ended has to be asked for before anything new is
        let intents = self.next_intents();
        let (diverged, panicked) = match self.trouble.take() {
            Some(Trouble::Diverged(it)) => (Some(it), None),
            Some(Trouble::Panicked(message)) => (
                None,
                Some(v1::Failure {
                    code: "PANICKED".to_owned(),
                    message,
                }),
            ),
            None => (None, None),
        };
        let quiet =
            results.is_empty() && intents.is_empty() && diverged.is_none() && panicked.is_none();
        if quiet && !self.must_report {
            return;
        }
        self.must_report = !self.unsent.is_empty();
        self.number = self.number.saturating_add(1);
        let advance = v1::Advance {
            run: self.state.run.clone(),
            fence: self.fence,
            number: self.number,
            delivery: self.seen,
            results,
            intents,
            free_slots: 0, // filled in by whoever knows the slots
            diverged,
            panicked,
        };
        self.in_flight = Some(advance.clone());
        todo.advance = Some(advance);
    }

    /// As many as one Advance may carry; what is left goes with the next.
    fn next_results(&mut self) -> Vec<v1::StepResult> {
        use prost::Message;
        let mut bytes = 0;
        let fits = |it: &&v1::StepResult| {
            bytes += it.encoded_len();
            bytes <= RESULT_BYTES_MAX
        };
        let count = self.results.iter().take_while(fits).count().max(1);
        let count = count.min(self.results.len());
        self.results.drain(..count).collect()
    }

    /// The function sees done results at once; a failure only once the journal says what became of it.
    fn show_results(&mut self, results: &[v1::StepResult]) {
        let mut outcomes = Vec::new();
        for result in results {
            let kind = result.outcome.as_ref().and_then(|it| it.kind.as_ref());
            if let Some(v1::attempt_outcome::Kind::Done(output)) = kind {
                let kind = Some(v1::outcome::Kind::Done(output.clone()));
                outcomes.push(v1::Outcome {
                    entry: result.entry,
                    kind,
                });
            }
        }
        if !outcomes.is_empty() && !self.interrupted {
            self.state.show(Shown {
                outcomes,
                cancel: None,
            });
            self.poll();
        }
    }

    fn next_intents(&mut self) -> Vec<v1::Intent> {
        self.unsent
            .extend(self.state.inner.borrow_mut().fresh.drain(..));
        if self.interrupted || self.trouble.is_some() {
            self.unsent.clear(); // they would be refused; the function is replayed
            return Vec::new();
        }
        let mut intents = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.unsent.front() {
            bytes += weight(next);
            if intents.len() >= INTENTS_MAX || (bytes > INTENT_BYTES_MAX && !intents.is_empty()) {
                return intents;
            }
            intents.extend(self.unsent.pop_front());
        }
        if let Some(ending) = self.ended.clone() {
            intents.push(self.ending(ending));
        }
        intents
    }

    fn ending(&self, kind: v1::intent::Kind) -> v1::Intent {
        let key = v1::StepKey {
            scope: "0".to_owned(),
            name: "end".to_owned(),
            occurrence: 0,
        };
        let entry = self.state.inner.borrow().journal.next_entry;
        v1::Intent {
            entry,
            key: Some(key),
            digest: 0,
            kind: Some(kind),
        }
    }

    /// Polls the function until it waits: only what it is shown moves it, and combinators that wake themselves.
    fn poll(&mut self) {
        if self.trouble.is_some() {
            return;
        }
        let Some(function) = &mut self.function else {
            return;
        };
        let waker = Waker::from(Arc::clone(&self.woken));
        let mut cx = Context::from_waker(&waker);
        let mut poll_once = || {
            let mut poll = || catch_unwind(AssertUnwindSafe(|| function.as_mut().poll(&mut cx)));
            // What it logs while it repeats itself was logged when it happened.
            if self.state.inner.borrow().journal.is_replayed() {
                dispatcher::with_default(&dispatcher::Dispatch::none(), poll)
            } else {
                poll()
            }
        };
        let mut polled = poll_once();
        for _ in 0..POLLS_MAX {
            let woken = self.woken.0.swap(false, Ordering::Relaxed);
            if !woken || !matches!(polled, Ok(Poll::Pending)) {
                break;
            }
            polled = poll_once();
        }
        match polled {
            Ok(Poll::Pending) => self.verify_waits(),
            Ok(Poll::Ready(result)) => {
                self.function = None;
                self.ended = Some(match result {
                    Ok(output) => v1::intent::Kind::Complete(output),
                    Err(fail) => v1::intent::Kind::Fail(v1::Failure {
                        code: fail.code,
                        message: fail.message,
                    }),
                });
            }
            Err(panic) => {
                let what = self.explain_panic(&*panic);
                self.cannot_go_on(Trouble::Panicked(what));
            }
        }
        let diverged = self.state.inner.borrow_mut().diverged.take();
        if let Some(it) = diverged {
            let key = v1::StepKey {
                scope: it.key.0,
                name: it.key.1,
                occurrence: it.key.2,
            };
            let (expected, got) = (it.expected, it.got);
            let diverged = v1::Diverged {
                key: Some(key),
                expected,
                got,
            };
            self.cannot_go_on(Trouble::Diverged(diverged));
        }
    }

    /// A function that awaits nothing of ours would never move again.
    fn verify_waits(&mut self) {
        let inner = self.state.inner.borrow();
        if !inner.awaited.is_empty() || inner.diverged.is_some() {
            return;
        }
        let what = format!(
            "the workflow function of run {} awaits something that is not an operation of Cx, after {}: move it into a step",
            self.state.run,
            last_of(&inner.last_operation)
        );
        drop(inner);
        self.cannot_go_on(Trouble::Panicked(what));
    }

    fn explain_panic(&self, panic: &(dyn Any + Send)) -> String {
        let text = panic_text(panic);
        let last = self.state.inner.borrow().last_operation.clone();
        let (run, last) = (&self.state.run, last_of(&last));
        let hint = if text.contains("no reactor running") || text.contains("Tokio") {
            "; workflow functions run outside Tokio: move I/O, timers and spawning into a step"
        } else {
            ""
        };
        format!("the workflow function of run {run} panicked after {last}: {text}{hint}")
    }
}

fn last_of(operation: &str) -> &str {
    if operation.is_empty() {
        "its start"
    } else {
        operation
    }
}

fn result_of(grant: &v1::Grant, kind: v1::attempt_outcome::Kind) -> v1::StepResult {
    v1::StepResult {
        entry: grant.entry,
        fence: grant.fence,
        outcome: Some(v1::AttemptOutcome { kind: Some(kind) }),
    }
}

/// The run was driven by a worker that had this step; this one has the workflow only.
fn not_here(grant: &v1::Grant) -> v1::StepResult {
    let message =
        "the worker that drives the run has not registered this step; register it there".to_owned();
    let after_ms = ms(NOT_HERE_FOR);
    result_of(
        grant,
        v1::attempt_outcome::Kind::Retryable(v1::Retryable { message, after_ms }),
    )
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no text".to_owned())
}

fn is_ending(kind: Option<&v1::intent::Kind>) -> bool {
    matches!(
        kind,
        Some(v1::intent::Kind::Complete(_) | v1::intent::Kind::Fail(_))
    )
}

fn weight(intent: &v1::Intent) -> usize {
    use prost::Message;
    intent.encoded_len()
}

#[cfg(test)]
mod tests;
