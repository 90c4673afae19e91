//! Sequential models of what can be read and written: a run as a write-once register with a final state, and the current version
//! of a workflow as a register.
//!
//! Invariant: a step says whether an answer is possible in a state, and the state after it. The system ends runs by itself, so an
//! answer that first shows a final state is the moment from which on it holds. Not here: orders of operations (`order`, `wgl`).

use std::hash::Hash;

use crate::checker::log::is_final;
use crate::records::{Answer, Call, Op, Outcome};

/// Something that operations may be done on one after the other.
pub trait Model {
    /// What it remembers.
    type State: Clone + Eq + Hash + Default;
    /// The state after this operation, if its answer is possible in this state. An operation of which nothing is known is
    /// possible in every state.
    fn step(state: &Self::State, op: &Op) -> Option<Self::State>;
}

/// A run id of one generation.
#[derive(Debug)]
pub struct RunModel;

/// What is true of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum RunState {
    /// Nobody has started it.
    #[default]
    Absent,
    /// It lives, with this serial.
    Live(u64),
    /// It is over, like this.
    Final(u64, String),
}

impl RunState {
    fn serial(&self) -> Option<u64> {
        match self {
            Self::Absent => None,
            Self::Live(serial) | Self::Final(serial, _) => Some(*serial),
        }
    }

    /// After somebody saw it in this status.
    fn shown(&self, status: &str) -> Option<Self> {
        match self {
            Self::Absent => None,
            Self::Live(serial) if is_final(status) => Some(Self::Final(*serial, status.to_owned())),
            Self::Live(_) => Some(self.clone()),
            Self::Final(_, was) => (was == status).then(|| self.clone()),
        }
    }
}

/// Whether the asker was told this code.
fn told(op: &Op, code: &str) -> bool {
    op.error
        .as_deref()
        .is_some_and(|error| error.contains(code))
}

impl Model for RunModel {
    type State = RunState;

    fn step(state: &RunState, op: &Op) -> Option<RunState> {
        let same = || Some(state.clone());
        match (&op.call, op.outcome, &op.answer) {
            (Call::Start { serial, .. }, Outcome::Ok, Some(Answer::Started { created, .. })) => {
                if *created {
                    (*state == RunState::Absent).then_some(RunState::Live(*serial))
                } else {
                    (state.serial() == Some(*serial)).then(|| state.clone())
                }
            }
            (Call::Start { serial, .. }, Outcome::Info, _) => match state {
                RunState::Absent => Some(RunState::Live(*serial)),
                RunState::Live(_) | RunState::Final(..) => same(),
            },
            (Call::Start { serial, .. }, Outcome::Fail, _) if told(op, "HF2001") => {
                let other = state.serial().is_some_and(|it| it != *serial);
                other.then(|| state.clone())
            }
            (Call::Terminate { .. }, Outcome::Info, _) => match state {
                RunState::Live(serial) => Some(RunState::Final(*serial, "TERMINATED".to_owned())),
                RunState::Absent | RunState::Final(..) => same(),
            },
            (_, Outcome::Info, _) => same(),
            (Call::Terminate { .. }, Outcome::Ok, Some(Answer::Done { .. })) => {
                state.shown("TERMINATED")
            }
            (Call::Cancel { .. }, Outcome::Ok, Some(Answer::Done { already })) => match state {
                RunState::Live(_) => same(),
                RunState::Final(..) if *already => same(),
                RunState::Absent | RunState::Final(..) => None,
            },
            (_, Outcome::Ok, Some(Answer::Ended { status } | Answer::Run { status, .. })) => {
                state.shown(status)
            }
            (_, Outcome::Ok, Some(Answer::NoRun)) => {
                (*state == RunState::Absent).then(|| state.clone())
            }
            // Of a start it says that there is no such workflow.
            (Call::Start { .. }, Outcome::Fail, _) => same(),
            (_, Outcome::Fail, _) if told(op, "HF3003") => {
                (*state == RunState::Absent).then(|| state.clone())
            }
            (_, Outcome::Fail | Outcome::Ok, _) => same(),
        }
    }
}

/// The current version of a workflow.
#[derive(Debug)]
pub struct VersionModel;

impl Model for VersionModel {
    /// None: as the workers registered it, which nobody has looked at yet.
    type State = Option<u32>;

    fn step(state: &Option<u32>, op: &Op) -> Option<Option<u32>> {
        match (&op.call, op.outcome, &op.answer) {
            // It is told what was current before.
            (
                Call::SetCurrent { version, .. },
                Outcome::Ok,
                Some(Answer::Version { version: before }),
            ) => {
                let fits = state.is_none_or(|is| is == 0 || is == *before);
                fits.then_some(Some(*version))
            }
            (Call::SetCurrent { version, .. }, Outcome::Ok | Outcome::Info, _) => {
                Some(Some(*version))
            }
            (Call::GetCurrent { .. }, Outcome::Ok, Some(Answer::Version { version })) => {
                match state {
                    None | Some(0) => Some(Some(*version)),
                    Some(is) => (is == version).then_some(Some(*version)),
                }
            }
            _ => Some(*state),
        }
    }
}
