//! After the heal: every run, with its journal, as each node has it.
//!
//! Invariant: a node is asked only once it has applied all that was committed; statuses and outputs then come from its own rows,
//! without asking the leader. Not here: comparing them (checkers).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use holdfast::wire as v1;
use tonic::transport::Channel;
use tonic::{Code, Status};
use v1::runs_client::RunsClient;
use v1::{intent, outcome};

use super::{Field, Member};
use crate::load::{serial_of, status_name, timed};
use crate::records::{FinalRun, IntentDetail, JOURNAL_PREFIX, JournalLine};
use crate::store::Lines;

const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
const CATCHES_UP_WITHIN: Duration = Duration::from_secs(30);
const PAGE: u32 = 200;
/// Journals read at once from one node.
const AT_ONCE: usize = 8;
/// A question is asked again so often: the node may just be electing.
const TRIES: u32 = 20;

/// Writes `journal.nN.jsonl` for each member; answers why some could not be written.
pub async fn dump(field: &Arc<Field>) -> Vec<String> {
    let mut troubles = Vec::new();
    for member in field.members() {
        if let Err(why) = dump_one(field, &member).await {
            troubles.push(format!("{}: {why}", member.name));
        }
    }
    troubles
}

async fn dump_one(field: &Arc<Field>, member: &Arc<Member>) -> Result<(), String> {
    catch_up(field, member).await?;
    // A part of a journal would look like lost runs: it gets its name once it is whole.
    let name = format!("{JOURNAL_PREFIX}{}.jsonl", member.id);
    let part = format!("{name}.part");
    let file = field.store.lines(&part).map_err(|it| it.to_string())?;
    let client = field.asker.runs(&member.direct()).map_err(told)?;
    let mut token = String::new();
    loop {
        let request = v1::ListRequest {
            page_size: PAGE,
            page_token: token.clone(),
            stale: true,
            ..Default::default()
        };
        let page = again(|| {
            let (mut client, request) = (client.clone(), request.clone());
            async move { timed(ANSWERS_WITHIN, client.list(request)).await }
        })
        .await?;
        let mut reads = stream::iter(page.runs)
            .map(|summary| read(client.clone(), summary))
            .buffered(AT_ONCE);
        while let Some(run) = reads.next().await {
            write(&file, &run?)?;
        }
        if page.next_page_token.is_empty() {
            let (from, to) = (field.store.path(&part), field.store.path(&name));
            return std::fs::rename(from, to).map_err(|it| it.to_string());
        }
        token = page.next_page_token;
    }
}

fn write(file: &Lines, run: &FinalRun) -> Result<(), String> {
    file.append(run).map_err(|cause| cause.to_string())
}

fn told(status: Status) -> String {
    status.message().to_string()
}

async fn again<T, F: Future<Output = Result<T, Status>>>(ask: impl Fn() -> F) -> Result<T, String> {
    let mut tries = 0;
    loop {
        tries += 1;
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(status) if tries == TRIES || status.code() == Code::InvalidArgument => {
                return Err(told(status));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}

/// Until it has applied what the most advanced node has committed now.
async fn catch_up(field: &Arc<Field>, member: &Arc<Member>) -> Result<(), String> {
    let mut newest = BTreeMap::new();
    for other in field.members() {
        let asked = field.asker.status(&other.direct(), ANSWERS_WITHIN).await;
        for group in asked.map_err(told)?.groups {
            let seen = newest.entry(group.group).or_insert(0);
            *seen = group.committed.max(*seen);
        }
    }
    let until = Instant::now() + CATCHES_UP_WITHIN;
    loop {
        let asked = field.asker.status(&member.direct(), ANSWERS_WITHIN).await;
        let groups = asked.map_err(told)?.groups;
        let is_there = newest.iter().all(|(group, committed)| {
            let found = groups.iter().find(|it| it.group == *group);
            found.is_some_and(|it| it.applied >= *committed)
        });
        if is_there {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(format!("it did not reach {newest:?}"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn read(client: RunsClient<Channel>, summary: v1::RunSummary) -> Result<FinalRun, String> {
    let run = summary.run_id.clone();
    let request = v1::GetRequest {
        run_id: run.clone(),
        stale: true,
        at_least: None,
    };
    let described = again(|| {
        let (mut client, request) = (client.clone(), request.clone());
        async move { timed(ANSWERS_WITHIN, client.get(request)).await }
    })
    .await?;
    let described = described.run.unwrap_or_default();
    let summary = described.summary.unwrap_or(summary);
    let mut rows = Vec::new();
    let mut from_seq = 0;
    loop {
        let request = v1::JournalRequest {
            run_id: run.clone(),
            payloads: true,
            from_seq,
        };
        let page = again(|| {
            let (mut client, request) = (client.clone(), request.clone());
            async move { timed(ANSWERS_WITHIN, client.journal(request)).await }
        })
        .await?;
        rows.extend(page.rows);
        if page.next_seq == 0 {
            break;
        }
        from_seq = page.next_seq;
    }
    let waits = rows.iter().flat_map(|row| &row.intents);
    let waits = waits.filter(|it| matches!(it.kind, Some(intent::Kind::Wait(_))));
    let waits: BTreeSet<u32> = waits.map(|it| it.entry).collect();
    Ok(FinalRun {
        serial: rows.iter().find_map(serial_shown),
        journal: rows.iter().map(|row| line(row, &waits)).collect(),
        status: status_name(summary.status()),
        generation: summary.generation,
        version: summary.version,
        result: serial_of(&described.output),
        workflow: summary.workflow,
        run,
    })
}

/// Programs show their serial first of all.
fn serial_shown(row: &v1::JournalRow) -> Option<u64> {
    row.intents.iter().find_map(|it| match &it.kind {
        Some(intent::Kind::Publish(shown)) if shown.view == "serial" => {
            serde_json::from_slice(&shown.value).ok()
        }
        _ => None,
    })
}

fn line(row: &v1::JournalRow, waits: &BTreeSet<u32>) -> JournalLine {
    let received = row.outcomes.iter().filter_map(|it| match &it.kind {
        Some(outcome::Kind::Done(payload)) if waits.contains(&it.entry) => {
            Some((it.entry, serde_json::from_slice(payload).ok()?))
        }
        _ => None,
    });
    JournalLine {
        seq: row.seq,
        intents: row.intents.iter().map(intent_of).collect(),
        outcomes: row
            .outcomes
            .iter()
            .map(|it| (it.entry, outcome_of(it).to_string()))
            .collect(),
        delivery: (row.delivery != 0).then_some(row.delivery),
        cancel: row.cancel.is_some(),
        at_ms: row.at_unix_ms,
        position: row.position.map(|it| (it.index, it.slot)),
        seen: row.seen,
        details: row.intents.iter().filter_map(detail).collect(),
        received: received.collect(),
    }
}

fn intent_of(it: &v1::Intent) -> (u32, String, String) {
    let (kind, name) = match &it.kind {
        Some(intent::Kind::Step(step)) => ("step", step.step.as_str()),
        Some(intent::Kind::Timer(_)) => ("timer", ""),
        Some(intent::Kind::Wait(wait)) => ("wait", wait.signal.as_str()),
        Some(intent::Kind::Record(_)) => ("record", ""),
        Some(intent::Kind::Publish(shown)) => ("publish", shown.view.as_str()),
        Some(intent::Kind::Complete(_)) => ("complete", ""),
        Some(intent::Kind::Fail(failure)) => ("fail", failure.code.as_str()),
        None => ("unknown", ""),
    };
    (it.entry, kind.to_string(), name.to_string())
}

fn outcome_of(it: &v1::Outcome) -> &'static str {
    match &it.kind {
        Some(outcome::Kind::Done(_)) => "done",
        Some(outcome::Kind::Failed(_)) => "failed",
        Some(outcome::Kind::Fired(_)) => "fired",
        Some(outcome::Kind::TimedOut(_)) => "timed-out",
        Some(outcome::Kind::Cancelled(_)) => "cancelled",
        None => "unknown",
    }
}

fn detail(it: &v1::Intent) -> Option<IntentDetail> {
    let entry = it.entry;
    match &it.kind {
        Some(intent::Kind::Step(step)) => Some(IntentDetail {
            entry,
            undo: (!step.undo.is_empty()).then(|| step.undo.clone()),
            certainty: Some(certainty(step.certainty()).to_string()),
            limits: step.limits.clone(),
            ..Default::default()
        }),
        Some(intent::Kind::Timer(timer)) => Some(IntentDetail {
            entry,
            delay_ms: (timer.at_unix_ms == 0).then_some(timer.delay_ms),
            due_ms: (timer.at_unix_ms != 0).then_some(timer.at_unix_ms),
            ..Default::default()
        }),
        _ => None,
    }
}

fn certainty(it: v1::Certainty) -> &'static str {
    match it {
        v1::Certainty::Unspecified | v1::Certainty::AtLeastOnce => "at-least-once",
        v1::Certainty::AtMostOnce => "at-most-once",
        v1::Certainty::Reconcile => "reconcile",
    }
}
