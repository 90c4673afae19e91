//! The last phase: everything works again, every node answers, every run comes to its end.
//!
//! Invariant: bounded, and what did not come in time is told, not hidden. Not here: mending single faults (each does its own).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast::wire as v1;

use super::coverage::OK_PER_NODE_MIN;
use super::field::{Field, STARTS_WITHIN};
use crate::load::{Asker, CALL_WITHIN, Clients, Generator, Want, timed};
use crate::nemesis::clear_clock;
use crate::records::Call;

/// Every run is final so long after the heal (L2), with room for a debug build on a busy machine.
const FINAL_WITHIN: Duration = Duration::from_secs(60);
/// Runs that wait for a person get one after this long.
const PERSON_AFTER: Duration = Duration::from_secs(3);
/// And are cancelled after this long.
const CANCELLED_AFTER: Duration = Duration::from_secs(25);
/// More tries on each node than answers are needed, since a few may meet an election.
const TRIES_PER_NODE: u64 = 3 * OK_PER_NODE_MIN;

/// Lets every process run, and waits until every member is ready.
pub(super) async fn mend(field: &Arc<Field>) -> Vec<String> {
    let mut troubles = Vec::new();
    if let Err(cause) = field.network.lift_all().await {
        troubles.push(format!("the network is not whole: {cause}"));
    }
    for worker in field.workers() {
        if worker.resume().is_err()
            && let Err(cause) = worker.restart()
        {
            troubles.push(cause.to_string());
        }
    }
    for member in field.members() {
        clear_clock(&member);
        for told in [member.tell_points(""), member.tell_clock("")] {
            if let Err(cause) = told {
                troubles.push(format!("{}: {cause}", member.name));
            }
        }
        if member.process.resume().is_err()
            && let Err(cause) = field.start_again(&member).await
        {
            troubles.push(cause.to_string());
        }
    }
    for member in field.members() {
        if let Err(cause) = field.wait_for(&member, "/readyz", STARTS_WITHIN).await {
            troubles.push(cause.to_string());
        }
    }
    troubles
}

/// Reads and writes on every node until each has answered often enough.
pub(super) async fn ask_every_node(field: &Arc<Field>, clients: &Arc<Clients>) {
    let asker = Asker::default();
    let mut seen = BTreeMap::new();
    let client = clients.fresh_client();
    let mut generator = generator(field, client);
    for at in 0..field.members().len() {
        let mut answered = 0;
        for _ in 0..TRIES_PER_NODE {
            if answered >= OK_PER_NODE_MIN {
                break;
            }
            let mut want: Want = generator.next_call();
            // A result is waited for at the node; here many short answers are wanted.
            if matches!(want.call, Call::Result { .. }) {
                continue;
            }
            want.node = at;
            let told = clients.once(&asker, client, want, &mut seen).await;
            answered += u64::from(told.error.is_none());
        }
    }
}

/// The choices of one more client.
pub(super) fn generator(field: &Field, client: u32) -> Generator {
    let options = &field.options;
    let clients = client + 1;
    let generator = Generator::new(options.seed, options.workload, client, clients);
    match &options.own {
        Some((workflow, input)) => generator.starting(workflow, input),
        None => generator,
    }
}

/// Until no run is open; a person helps those that wait for one. Answers how many stayed open.
pub(super) async fn finish_runs(field: &Arc<Field>, clients: &Arc<Clients>) -> u64 {
    let began = Instant::now();
    let mut helped = false;
    let mut cancelled = false;
    loop {
        let open = open_runs(field).await;
        if open == Some(0) {
            return 0;
        }
        let waited = began.elapsed();
        if waited > FINAL_WITHIN {
            return open.unwrap_or(u64::MAX);
        }
        if waited > PERSON_AFTER && !helped {
            helped = true;
            resume(field).await;
        }
        if waited > CANCELLED_AFTER && !cancelled {
            cancelled = true;
            cancel(field, clients).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Over all groups, as their leaders count them.
async fn open_runs(field: &Arc<Field>) -> Option<u64> {
    let mut open = 0;
    for group in 1..=field.options.partitions {
        let leader = field.leader(group).await?;
        let to = leader.member.direct();
        let status = field.asker.status(&to, CALL_WITHIN).await.ok()?;
        open += status.groups.iter().find(|it| it.group == group)?.open_runs;
    }
    Some(open)
}

async fn waiting_for_a_person(field: &Arc<Field>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let Some(leader) = field.leader(1).await else {
        return found;
    };
    let to = leader.member.direct();
    for status in [v1::RunStatus::Paused, v1::RunStatus::Quarantined] {
        let request = v1::ListRequest {
            status: status.into(),
            page_size: 500,
            ..Default::default()
        };
        if let Ok(mut client) = field.asker.runs(&to)
            && let Ok(page) = timed(CALL_WITHIN, client.list(request)).await
        {
            found.extend(page.runs.into_iter().map(|it| (it.run_id, to.clone())));
        }
    }
    found
}

async fn resume(field: &Arc<Field>) {
    let waiting = waiting_for_a_person(field).await;
    for (run, to) in &waiting {
        let request = v1::ChangeRequest {
            run_id: run.clone(),
            reason: "looked at after the heal".to_string(),
            request_id: format!("heal-{run}"),
        };
        if let Ok(mut client) = field.asker.runs(to) {
            // One that moved on meanwhile needs no person any more.
            let _ = timed(CALL_WITHIN, client.resume(request)).await;
        }
    }
    if !waiting.is_empty() {
        field.say(&format!(
            "resumed {} runs that waited for a person",
            waiting.len()
        ));
    }
}

async fn cancel(field: &Arc<Field>, clients: &Arc<Clients>) {
    let asker = Asker::default();
    let client = clients.fresh_client();
    let waiting = waiting_for_a_person(field).await;
    for (run, _) in &waiting {
        let want = Want {
            node: 0,
            call: Call::Cancel {
                run: run.clone(),
                request: format!("heal-cancel-{run}"),
            },
            input: None,
            at_least: false,
        };
        clients
            .once(&asker, client, want, &mut BTreeMap::new())
            .await;
    }
    if !waiting.is_empty() {
        field.say(&format!(
            "cancelled {} runs that still waited",
            waiting.len()
        ));
    }
}
