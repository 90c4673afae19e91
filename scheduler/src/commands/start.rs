//! `Start`: start a run, or attach to the one that has this id and this input.

use crate::{
    bounds,
    commands::signal,
    entry::{IfEnded, Signal, Start},
    ids::{Generation, IntentNo, Name, RequestId, RunId, Seq},
    index,
    reply::{Rejected, Reply},
    rows::{Alike, Fault, Key, ReadRows, Row, Rows, Stretch, TypedRows},
    seeded::{self, Bug},
    turn::Turn,
    values::run::{Buffered, Finished, Mode, Run},
};

/// Names that a refusal lists.
const NAMES_LISTED_MAX: usize = 5;

/// Same id and same digest: the same run. Same id, other input: `IdConflict`, never a silent merge.
pub fn apply<R: Rows>(turn: &mut Turn<'_, R>, it: &Start) -> Result<Reply, Fault> {
    if it.input.len() > bounds::INLINE_PAYLOAD_BYTES_MAX {
        return Ok(too_large("the input", it.input.len()).into());
    }
    if let Some((_, _, payload)) = &it.signal
        && payload.len() > bounds::INLINE_PAYLOAD_BYTES_MAX
    {
        return Ok(too_large("the signal's payload", payload.len()).into());
    }
    if let Some(run) = turn.run(&it.run)? {
        let merged = seeded::armed(Bug::IdConflictMerged);
        if !merged && (run.digest != it.digest || run.workflow != it.workflow) {
            return Ok(Rejected::IdConflict(it.run.clone()).into());
        }
        let (generation, version) = (run.generation, run.version);
        let attached = Reply::Started {
            generation,
            version,
            created: false,
        };
        return signal_along(turn, it, attached);
    }
    let earlier = turn.finished(&it.run)?;
    if let Some(done) = &earlier
        && let Some(reply) = ended_before(it, done)
    {
        return match reply {
            Reply::Started { .. } => signal_along(turn, it, reply),
            refused => Ok(refused),
        };
    }
    let Some(workflow) = turn.workflow(&it.workflow)? else {
        let registered = nearest(turn, &it.workflow)?;
        return Ok(Rejected::UnknownWorkflow {
            name: it.workflow.clone(),
            registered,
        }
        .into());
    };
    let Some(version) = turn.version(&it.workflow, workflow.current)? else {
        return Err(Fault(format!(
            "{}@v{} has no row",
            it.workflow, workflow.current
        )));
    };
    let generation = earlier
        .as_ref()
        .map_or(Generation(1), |done| Generation(done.generation.0 + 1));
    if let Some(done) = earlier {
        index::unlist(turn, &done);
        turn.delete(Key::Finished(it.run.clone()));
        forget(turn, &it.run)?;
    }
    let run = begin(turn, it, generation, version.version, version.queue.clone());
    turn.store_run(run);
    Ok(Reply::Started {
        generation,
        version: version.version,
        created: true,
    })
}

/// The run was there before: its signal is sent all the same, once, or the whole start is refused.
fn signal_along<R: Rows>(
    turn: &mut Turn<'_, R>,
    it: &Start,
    attached: Reply,
) -> Result<Reply, Fault> {
    let Some((name, id, payload)) = it.signal.clone() else {
        return Ok(attached);
    };
    let run = it.run.clone();
    let sent = signal::apply(
        turn,
        &Signal {
            run,
            name,
            id,
            payload,
        },
    )?;
    Ok(match sent {
        Reply::Rejected(_) => sent,
        _ => attached,
    })
}

/// What the earlier life of an id left: signal ids that were taken, and views.
fn forget<R: Rows>(turn: &mut Turn<'_, R>, id: &RunId) -> Result<(), Fault> {
    for from in [
        Key::Seen(id.clone(), RequestId::from_stored("")),
        Key::View(id.clone(), Name::from_stored("")),
    ] {
        turn.delete_all(&Stretch::from(from, Alike::One))?;
    }
    Ok(())
}

/// The answer where the id belongs to a run that has ended; none: a new life of the id begins.
fn ended_before(it: &Start, done: &Finished) -> Option<Reply> {
    let status = done.end.status();
    match it.if_ended {
        IfEnded::NewGeneration => None,
        IfEnded::ReturnResult if seeded::armed(Bug::FinalStateRewritten) => None,
        IfEnded::Reject => Some(
            Rejected::RunEnded {
                run: it.run.clone(),
                status,
            }
            .into(),
        ),
        IfEnded::ReturnResult if done.digest != it.digest || done.workflow != it.workflow => {
            Some(Rejected::IdConflict(it.run.clone()).into())
        }
        IfEnded::ReturnResult => Some(Reply::Started {
            generation: done.generation,
            version: done.version,
            created: false,
        }),
    }
}

fn begin<R: Rows>(
    turn: &mut Turn<'_, R>,
    it: &Start,
    generation: Generation,
    version: crate::ids::Version,
    queue: Name,
) -> Run {
    let now = turn.now;
    let later = it.at.filter(|at| *at > now);
    let mut run = Run {
        id: it.run.clone(),
        generation,
        workflow: it.workflow.clone(),
        version,
        queue,
        digest: it.digest,
        started: now,
        due: it
            .timeout
            .map(|timeout| later.unwrap_or(now).after(timeout)),
        mode: later.map_or(Mode::Live, |at| Mode::Scheduled { at }),
        ready: later.is_none().then_some(now),
        drive: None,
        newest_fence: None,
        next_intent: IntentNo(0),
        next_seq: Seq(0),
        open: std::collections::BTreeMap::new(),
        undos: Vec::new(),
        last: None,
        kept: None,
        suspects: Vec::new(),
        panics: 0,
        requests: Vec::new(),
        buffered: (0, 0),
    };
    turn.put(
        Key::Input(it.run.clone(), generation),
        Row::Bytes(it.input.clone()),
    );
    if let Some((name, id, payload)) = &it.signal {
        let arrival = turn.next_ticket();
        run.buffered = (1, payload.len() as u64);
        turn.put(Key::Seen(it.run.clone(), id.clone()), Row::Mark);
        let buffered = Buffered {
            id: id.clone(),
            payload: payload.clone(),
        };
        turn.put(
            Key::Signal(it.run.clone(), name.clone(), arrival),
            Row::Signal(buffered),
        );
    }
    run
}

/// The refusal of a payload above the inline bound.
pub fn too_large(what: &str, bytes: usize) -> Rejected {
    Rejected::TooLarge {
        what: what.to_owned(),
        size: bytes as u64,
        max: bounds::INLINE_PAYLOAD_BYTES_MAX as u64,
        cure: "store it elsewhere and pass a reference".to_owned(),
    }
}

/// Registered workflows, the most similar names first.
fn nearest<R: Rows>(turn: &Turn<'_, R>, to: &Name) -> Result<Vec<String>, Fault> {
    let mut names = Vec::new();
    let all = Stretch::from(Key::Workflow(Name::from_stored("")), Alike::Kind);
    turn.scan(&all, &mut |key, _| {
        let Key::Workflow(name) = key else {
            return false;
        };
        names.push(name.as_str().to_owned());
        names.len() < bounds::REGISTRATIONS_PER_SESSION_MAX
    })?;
    names.sort_by_key(|name| distance(name, to.as_str()));
    names.truncate(NAMES_LISTED_MAX);
    Ok(names)
}

/// Levenshtein distance over bytes; names are at most 120 bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn the_distance_counts_edits() {
        assert_eq!(distance("order", "order"), 0);
        assert_eq!(distance("ordre", "order"), 2);
        assert_eq!(distance("", "abc"), 3);
    }
}
