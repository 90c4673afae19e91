//! Runs, workflows and limits in the words of the public wire.

use holdfast_proto::{domain::wire, v1};
use holdfast_scheduler::{
    ids::{LimitName, Name},
    reply::{End, Rejected},
    rows::{Fault, ReadRows, TypedRows},
    time::Timestamp,
    values::run::{Finished, Mode, Run},
    views::{self, AnyRun, LimitView, OpenView, Summary, WorkflowView},
};

/// One line of a list.
pub fn summary(it: &Summary) -> v1::RunSummary {
    v1::RunSummary {
        run_id: it.id.to_string(),
        generation: it.generation.0,
        workflow: it.workflow.to_string(),
        version: it.version.0,
        status: wire::status_to(it.status).into(),
        started_unix_ms: it.started.0,
        ended_unix_ms: it.ended.map_or(0, |ended| ended.0),
    }
}

/// All that is shown of a run.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn run<R: ReadRows + ?Sized>(rows: &R, it: &AnyRun) -> Result<v1::RunDescription, Fault> {
    let summary = Some(summary(&it.summary()));
    Ok(match it {
        AnyRun::Live(run) => v1::RunDescription {
            summary,
            ..live(rows, run)?
        },
        AnyRun::Final(done) => v1::RunDescription {
            summary,
            ..ended(done)
        },
    })
}

fn live<R: ReadRows + ?Sized>(rows: &R, run: &Run) -> Result<v1::RunDescription, Fault> {
    let worker = match run.drive {
        Some(drive) => rows
            .session(drive.session)?
            .map(|session| session.worker.to_string()),
        None => None,
    };
    let reason = match &run.mode {
        Mode::Quarantined { evidence, .. } => evidence.clone(),
        Mode::Paused { reason, .. }
        | Mode::Undoing {
            end: End::Cancelled(reason),
        } => reason.clone(),
        Mode::Undoing { .. } | Mode::Live | Mode::Scheduled { .. } => String::new(),
    };
    let failure = match &run.mode {
        Mode::Undoing {
            end: End::Failed { code, message },
        } => Some(v1::Failure {
            code: code.clone(),
            message: message.clone(),
        }),
        Mode::Undoing { .. }
        | Mode::Live
        | Mode::Scheduled { .. }
        | Mode::Paused { .. }
        | Mode::Quarantined { .. } => None,
    };
    Ok(v1::RunDescription {
        reason,
        failure,
        open: views::open(run).iter().map(open).collect(),
        undos: undos(run),
        worker: worker.unwrap_or_default(),
        driver_fence: run.drive.map_or(0, |drive| drive.fence.number()),
        journal_rows: run.next_seq.0,
        crashes: u32::try_from(run.suspects.len()).unwrap_or(u32::MAX),
        signals_buffered: run.buffered.0,
        ..v1::RunDescription::default()
    })
}

fn ended(done: &Finished) -> v1::RunDescription {
    let mut it = v1::RunDescription {
        journal_rows: done.rows.0,
        ..v1::RunDescription::default()
    };
    match &done.end {
        End::Completed(output) => it.output = output.clone(),
        End::Failed { code, message } => {
            it.failure = Some(v1::Failure {
                code: code.clone(),
                message: message.clone(),
            });
        }
        End::Cancelled(reason) => it.reason.clone_from(reason),
        End::Terminated { reason, not_undone } => {
            it.reason.clone_from(reason);
            it.not_undone.clone_from(not_undone);
        }
        End::TimedOut => "the run's own time ran out".clone_into(&mut it.reason),
    }
    it
}

fn open(it: &OpenView) -> v1::OpenStep {
    let (session, fence) = it
        .lease
        .map_or((0, 0), |(session, fence)| (session.0, fence.number()));
    let limits: Vec<&str> = it.limits.iter().map(LimitName::as_str).collect();
    v1::OpenStep {
        entry: it.intent.0,
        name: it.name.clone(),
        state: it.state.to_owned(),
        attempt: it.attempt,
        due_unix_ms: it.due.map_or(0, |due| due.0),
        last_error: it.last_error.clone(),
        limit: limits.join(", "),
        queue: it.queue.as_ref().map(Name::to_string).unwrap_or_default(),
        fence,
        session,
    }
}

fn undos(run: &Run) -> Vec<v1::OwedUndo> {
    let undo = run.undos.iter().map(|owed| v1::OwedUndo {
        entry: owed.intent.0,
        step: owed.step.to_string(),
        undo: owed.undo.to_string(),
        state: views::undo_word(run, owed).to_owned(),
        attempt: owed.tries.as_ref().map_or(0, |tries| tries.attempt),
        last_error: owed
            .tries
            .as_ref()
            .map(|tries| tries.last_error.clone())
            .unwrap_or_default(),
    });
    undo.collect()
}

/// A workflow of one partition.
pub fn workflow(partition: u32, it: &WorkflowView) -> v1::WorkflowInfo {
    let versions = it.versions.iter().map(|(row, served)| {
        let open_runs = WorkflowView::open_runs(row);
        let by_state = row
            .open
            .iter()
            .map(|(status, count)| (wire::status_to(*status).as_str_name().to_owned(), *count));
        v1::VersionInfo {
            version: row.version.0,
            queue: row.queue.to_string(),
            open_runs,
            served: *served,
            stranded: open_runs > 0 && !served,
            by_state: by_state.collect(),
        }
    });
    v1::WorkflowInfo {
        partition,
        name: it.name.to_string(),
        current: it.current.0,
        versions: versions.collect(),
    }
}

/// A limit of one partition, as of `now` on the group clock.
pub fn limit(partition: u32, it: &LimitView, now: Timestamp) -> v1::LimitInfo {
    let limit = &it.limit;
    let next = limit.next_admission(now);
    v1::LimitInfo {
        partition,
        name: it.name.to_string(),
        declared: limit.spec.is_some(),
        spec: limit.spec.as_ref().map(wire::limit_spec_to),
        available_milli: limit.available_milli(now),
        held: limit.held,
        waiting: it.waiting,
        oldest_wait_ms: it.oldest.map_or(0, |since| now.since(since).0),
        closed_until_unix_ms: limit
            .closed_until
            .filter(|until| *until > now)
            .map_or(0, |it| it.0),
        reopening_percent: limit.open_percent(now),
        next_admission_unix_ms: next.map_or(0, |at| at.0),
    }
}

/// That there is no such run.
pub fn no_such_run(id: &holdfast_scheduler::ids::RunId) -> tonic::Status {
    super::status::rejected(&Rejected::NoSuchRun(id.clone()))
}
