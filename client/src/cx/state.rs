//! What a run's function has asked for and been told: shared by `Cx`, its operations and the driver, on one thread.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    sync::Arc,
    task::Waker,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use holdfast_proto::v1;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    digest,
    error::StepResult,
    journal::{self, Journal, Key, Shown},
    step_cx::StepCx,
};

/// The scope of all keys while histories are not folded: the number of folds.
const SCOPE: &str = "0";

/// The body of a local step, ready to be begun once its grant comes.
pub(crate) type LocalBody =
    Arc<dyn Fn(StepCx) -> BoxFuture<'static, StepResult<Bytes>> + Send + Sync>;

/// How a registered step is made into a body for one input.
pub(crate) type Bodies = dyn Fn(&str, Bytes) -> Option<LocalBody>;

/// Replay differs from the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Diverged {
    pub(crate) key: Key,
    pub(crate) expected: String,
    pub(crate) got: String,
}

/// One run's function as its driver's thread knows it.
pub(crate) struct State {
    pub(crate) run: String,
    pub(crate) queue: String,
    pub(crate) bodies: Box<Bodies>,
    pub(crate) inner: RefCell<Inner>,
}

#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) journal: Journal,
    occurrences: HashMap<String, u32>,
    /// Asked for, and not in the journal yet.
    pub(crate) fresh: Vec<v1::Intent>,
    pub(crate) outcomes: HashMap<u32, v1::outcome::Kind>,
    pub(crate) cancel: Option<String>,
    pub(crate) diverged: Option<Diverged>,
    /// Entries that the function awaits, in the order in which their futures are woken.
    pub(crate) awaited: BTreeMap<u32, Waker>,
    pub(crate) local: HashMap<u32, LocalBody>,
    pub(crate) last_operation: String,
}

impl State {
    pub(crate) fn new(run: String, queue: String, bodies: Box<Bodies>) -> Self {
        Self {
            run,
            queue,
            bodies,
            inner: RefCell::default(),
        }
    }

    /// The key of the next operation of this name; taken when the operation is built.
    pub(crate) fn key(&self, name: &str) -> Key {
        let mut inner = self.inner.borrow_mut();
        let next = inner.occurrences.entry(name.to_owned()).or_insert(0);
        let occurrence = *next;
        *next += 1;
        (SCOPE.to_owned(), name.to_owned(), occurrence)
    }

    /// The entry that an operation means: recorded, or asked for now.
    pub(crate) fn ask(&self, key: &Key, digest: u64, kind: v1::intent::Kind) -> u32 {
        let mut inner = self.inner.borrow_mut();
        inner.last_operation = format!("{}#{}", key.1, key.2);
        let name = journal::kind_name(&kind);
        if let Some(recorded) = inner.journal.matched(key) {
            let (entry, same) = (
                recorded.entry,
                recorded.digest == digest && recorded.kind == name,
            );
            let expected = format!("{} with digest {:x}", recorded.kind, recorded.digest);
            if !same && inner.diverged.is_none() {
                let got = format!("{name} with digest {digest:x}");
                inner.diverged = Some(Diverged {
                    key: key.clone(),
                    expected,
                    got,
                });
            }
            return entry;
        }
        let entry = inner.journal.next_entry;
        inner.journal.next_entry = entry.saturating_add(1);
        let step_key = v1::StepKey {
            scope: key.0.clone(),
            name: key.1.clone(),
            occurrence: key.2,
        };
        inner.fresh.push(v1::Intent {
            entry,
            key: Some(step_key),
            digest,
            kind: Some(kind),
        });
        entry
    }

    /// What an entry came to; else `waker` is woken once it has.
    pub(crate) fn outcome(&self, entry: u32, waker: &Waker) -> Option<v1::outcome::Kind> {
        let mut inner = self.inner.borrow_mut();
        let found = inner.outcomes.remove(&entry).or_else(|| {
            let reason = inner.cancel.clone()?;
            let failure = v1::Failure {
                code: "CANCELLED".to_owned(),
                message: reason,
            };
            Some(v1::outcome::Kind::Cancelled(failure))
        });
        match &found {
            Some(_) => inner.awaited.remove(&entry),
            None => inner.awaited.insert(entry, waker.clone()),
        };
        found
    }

    /// An operation was dropped: nobody awaits its entry any more.
    pub(crate) fn forget(&self, entry: u32) {
        // Its function may be unwinding from the middle of an operation.
        if let Ok(mut inner) = self.inner.try_borrow_mut() {
            inner.awaited.remove(&entry);
        }
    }

    /// A value that the function made up, recorded so that every replay has the same.
    pub(crate) fn record<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        make: impl FnOnce() -> T,
    ) -> T {
        let key = self.key(&format!("cx.{name}"));
        let recorded = self
            .inner
            .borrow()
            .journal
            .intents
            .get(&key)
            .and_then(|it| it.value.clone());
        if let Some(value) = recorded.and_then(|value| serde_json::from_slice(&value).ok()) {
            self.ask(&key, 0, v1::intent::Kind::Record(Bytes::new()));
            return value;
        }
        let value = make();
        let json = serde_json::to_vec(&value).expect("numbers and UUIDs are always JSON");
        self.ask(&key, 0, v1::intent::Kind::Record(json.into()));
        value
    }

    /// A view's new value.
    pub(crate) fn publish<T: Serialize>(&self, view: &str, value: &T) {
        let key = self.key(&format!("view.{view}"));
        match digest::encode(value) {
            Ok(it) => {
                if let Err(large) = digest::fits(&format!("view {view}"), &it.json) {
                    panic!("{large}");
                }
                let publish = v1::PublishIntent {
                    view: view.to_owned(),
                    value: it.json,
                };
                self.ask(&key, it.digest, v1::intent::Kind::Publish(publish));
            }
            Err(cause) => panic!("view {view} cannot be recorded: {cause}"),
        }
    }

    /// Shows the function what happened; it is polled next.
    pub(crate) fn show(&self, shown: Shown) {
        let mut inner = self.inner.borrow_mut();
        // Combinators such as `FuturesUnordered` poll only what was woken.
        let mut woken = Vec::new();
        for outcome in shown.outcomes {
            if let Some(kind) = outcome.kind {
                woken.extend(inner.awaited.remove(&outcome.entry));
                inner.local.remove(&outcome.entry);
                inner.outcomes.insert(outcome.entry, kind);
            }
        }
        if inner.cancel.is_none() && shown.cancel.is_some() {
            inner.cancel = shown.cancel;
            woken.extend(std::mem::take(&mut inner.awaited).into_values());
        }
        drop(inner);
        for waker in woken {
            waker.wake();
        }
    }
}
