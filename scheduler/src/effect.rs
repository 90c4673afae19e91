//! What the leader might now do: hints, made in apply order on every replica, acted upon by the leader alone.
//!
//! An effect may be late, repeated, or collapsed into "read this run again"; nothing is lost by it, since the rows say
//! the same.

use std::sync::Arc;

use crate::{
    entry::Work,
    ids::{DeliveryNo, Fence, LimitName, Name, RunId, SessionId, Version},
    reply::{JournalRow, Status, StepGrant},
    time::{Millis, Timestamp},
};

/// One hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// This node's or another's `BecomeLeader` was applied: epoch and boot id say whose.
    Epoch {
        /// The new epoch.
        epoch: u64,
        /// Of the process that leads now.
        boot: Name,
    },
    /// A run or a step waits for a worker.
    Ready {
        /// What.
        work: Work,
        /// Who may take it.
        needs: Needs,
        /// Since when.
        since: Timestamp,
        /// The session that should have it if it can: it keeps the function.
        prefers: Option<SessionId>,
        /// To be given only to a worker that holds nothing else: workers died of it.
        alone: bool,
    },
    /// It no longer waits for a worker (granted, ended, paused …).
    NotReady(Work),
    /// A lease was granted by a duty: the worker must be told. (Those in a reply to an Advance tell themselves.)
    Granted {
        /// What.
        work: Work,
        /// To whom.
        session: SessionId,
        /// The driver's fence for a run, the step's for a step.
        fence: Fence,
        /// Of a run: its open local steps that were granted along. Of a step: itself.
        grants: Vec<StepGrant>,
        /// The driver's fence, when the step is a local one of a run that is being driven: goes by News.
        driver: Option<Fence>,
    },
    /// A lease began; the leader watches its end. Made for every lease, those in replies to Advances included.
    LeaseBegan {
        /// What.
        work: Work,
        /// Whose.
        session: SessionId,
        /// Under which fence.
        fence: Fence,
        /// The attempt's timeout: the leader ends it at this plus 5 s.
        timeout: Option<Millis>,
        /// Longest silence between heartbeats.
        heartbeat: Option<Millis>,
    },
    /// A heartbeat with progress was recorded.
    Progressed {
        /// What.
        work: Work,
        /// Under which fence.
        fence: Fence,
    },
    /// A lease ended, however.
    LeaseEnded {
        /// What.
        work: Work,
        /// Whose.
        session: SessionId,
        /// Under which fence.
        fence: Fence,
    },
    /// A driver moved its run and has so many local steps in flight.
    Driven {
        /// Which run.
        run: RunId,
        /// Under which fence.
        fence: Fence,
        /// How many local steps are leased now.
        in_flight: u32,
    },
    /// Facts from outside were recorded while a driver's lease lives: they go out by News.
    JournalGrew {
        /// Which run.
        run: RunId,
        /// Whose drive.
        session: SessionId,
        /// Under which fence.
        fence: Fence,
        /// The number of the delivery.
        delivery: DeliveryNo,
        /// The row that holds it.
        row: Arc<JournalRow>,
    },
    /// An attempt should stop: cancelled, lost, or out of time.
    Stop {
        /// What.
        work: Work,
        /// Whose.
        session: SessionId,
        /// Under which fence.
        fence: Fence,
        /// For people.
        why: &'static str,
    },
    /// Something will be due at this time.
    Due(Timestamp),
    /// Work waits at a limit; the leader looks at it again at `at`.
    LimitWaits {
        /// Which limit.
        limit: LimitName,
        /// When it may admit next.
        at: Timestamp,
    },
    /// A session attached, with what it can do.
    SessionAttached {
        /// Which.
        session: SessionId,
        /// The queue it serves.
        queue: Name,
        /// Workflow versions it can drive.
        workflows: Vec<(Name, Version)>,
        /// Steps it can execute.
        steps: Vec<Name>,
        /// How many steps at once.
        slots: u32,
        /// False: it was known, the same worker came back.
        new: bool,
    },
    /// A session ended, or its worker has left: what it still holds is ended next.
    SessionEnded(SessionId),
    /// A run's status changed: watchers and waiters look again.
    RunChanged {
        /// Which.
        run: RunId,
        /// To what.
        status: Status,
        /// How its life went, when it is over: for figures.
        ended: Option<Ended>,
    },
}

/// How a life of a run went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// What it ran.
    pub workflow: Name,
    /// From its start to its end.
    pub took: Millis,
    /// Rows of its journal.
    pub rows: u32,
}

/// Which session may take a piece of work.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// One that registered this workflow version.
    Workflow(Name, Version),
    /// One that serves this queue and registered this step.
    Step {
        /// The queue.
        queue: Name,
        /// The step.
        step: Name,
    },
    /// The one session that drives the run.
    Session(SessionId),
}
