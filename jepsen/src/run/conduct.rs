//! The phases of a run: set up, load, faults, heal, last questions, journals, tear down.
//!
//! Invariant: whatever happens, what was started is ended and what was seen is written down; an interrupt only shortens it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::coverage::Coverage;
use super::field::{Field, FieldError};
use super::{Options, heal, journals, samples};
use crate::clock::monotonic_ns;
use crate::dice::Dice;
use crate::load::{CALL_WITHIN, Clients};
use crate::nemesis;
use crate::records::{HISTORY, SETUP, Setup};
use crate::store::Store;

/// Load goes on after the heal: stale leaders show right then.
const LOAD_AFTER_HEAL: Duration = Duration::from_secs(3);
/// Without faults: nobody asks anything, and then all must still answer.
const IDLE: Duration = Duration::from_secs(10);
/// A fault ends itself once faults are over: the longest restart, and some more.
const FAULTS_END_WITHIN: Duration = Duration::from_secs(150);
/// A session's term of nodes by default.
const TERM_MS: u64 = 5000;
/// The longest that electing takes with the settings of nodes by default: lease, timeout, and a second try.
const ELECTION_MS: u64 = 1600;

/// What a run came to.
pub struct Finished {
    /// Its folder.
    pub store: Store,
    /// What was covered.
    pub coverage: Coverage,
    /// Runs that were started, as far as clients know.
    pub runs: u64,
    /// Runs that were not final after the heal.
    pub stuck: u64,
    /// What went wrong with the harness, or with what it saw of a node's process; then nothing is proven.
    pub troubles: Vec<String>,
    /// What a node did that none may do, whatever the checkers say.
    pub violations: Vec<String>,
    /// From a fault to the first completed step, by fault; none: not in time.
    pub failovers: Vec<(String, Option<f64>)>,
    /// What was left running, for whoever asked for that to tear down.
    pub left: Option<Arc<Field>>,
}

/// Makes one run. `interrupted` ends load and faults early; everything after them still happens.
///
/// # Errors
/// It could not be set up. What had been started is ended.
pub async fn conduct(
    options: Options,
    mut interrupted: watch::Receiver<bool>,
) -> Result<Finished, FieldError> {
    let failed = |what: &'static str| {
        move |cause: io::Error| FieldError::System {
            what: what.to_string(),
            cause,
        }
    };
    let store = Store::create(&options.store, options.workload.name)
        .map_err(failed("the folder of the run cannot be made"))?;
    let mut setup = setup_of(&options);
    write_setup(&store, &setup).map_err(failed("setup.json cannot be written"))?;
    let history = store
        .lines(HISTORY)
        .map_err(failed("history.jsonl cannot be opened"))?;
    let field = Field::set_up(options, store.clone()).await?;
    let clients = Clients::new(field.addresses(), history, field.options.clients);

    let mut troubles = Vec::new();
    let mut around = JoinSet::new();
    around.spawn(samples::sample(Arc::clone(&field)));
    let (stop, stopped) = watch::channel(false);
    let load = tokio::spawn(load(Arc::clone(&field), Arc::clone(&clients), stopped));
    setup.phases[0] = monotonic_ns();
    pause_for(field.options.lead_in, &mut interrupted).await;

    setup.phases[1] = monotonic_ns();
    let faults = nemesis::begin(&field, &Dice::new(field.options.seed));
    let rest = field.options.duration.saturating_sub(field.options.lead_in);
    pause_for(rest, &mut interrupted).await;
    field.end_faults();
    if tokio::time::timeout(FAULTS_END_WITHIN, faults.ended())
        .await
        .is_err()
    {
        troubles.push("faults did not end in time".to_string());
    }
    troubles.extend(heal::mend(&field).await);
    setup.phases[2] = monotonic_ns();

    pause_for(LOAD_AFTER_HEAL, &mut interrupted).await;
    stop.send_replace(true);
    if let Err(cause) = load.await {
        troubles.push(format!("the load ended: {cause}"));
    }
    if field.options.nemeses.is_empty() {
        field.say("idle, then every node is asked");
        pause_for(IDLE, &mut interrupted).await;
    }
    heal::ask_every_node(&field, &clients).await;
    let stuck = heal::finish_runs(&field, &clients).await;
    troubles.extend(journals::dump(&field).await);
    around.shutdown().await;
    setup.phases[3] = monotonic_ns();
    finish(field, &clients, setup, stuck, troubles).await
}

async fn finish(
    field: Arc<Field>,
    clients: &Clients,
    mut setup: Setup,
    stuck: u64,
    mut troubles: Vec<String>,
) -> Result<Finished, FieldError> {
    let violations = field.violations.lock().clone();
    let names: Vec<String> = field.members().iter().map(|it| it.name.clone()).collect();
    if !field.options.leave_running {
        field.tear_down().await;
    }
    let unwritten = clients
        .progress
        .unwritten
        .load(std::sync::atomic::Ordering::Relaxed);
    if unwritten > 0 {
        troubles.push(format!("{unwritten} operations could not be written down"));
    }
    setup.troubles.clone_from(&troubles);
    setup.seen.clone_from(&violations);
    write_setup(&field.store, &setup).map_err(|cause| FieldError::System {
        what: "setup.json cannot be written".to_string(),
        cause,
    })?;
    let require = &field.options.require;
    let coverage = Coverage::read(field.store.folder(), require, &names, setup.phases[2]);
    let coverage = coverage.map_err(|cause| FieldError::System {
        what: "what was written down cannot be read".to_string(),
        cause,
    })?;
    Ok(Finished {
        store: field.store.clone(),
        coverage,
        runs: clients
            .progress
            .runs
            .load(std::sync::atomic::Ordering::Relaxed),
        stuck,
        troubles,
        violations,
        failovers: field.failovers.times_ms(),
        left: field.options.leave_running.then_some(field),
    })
}

async fn load(field: Arc<Field>, clients: Arc<Clients>, stop: watch::Receiver<bool>) {
    let options = &field.options;
    let count = options.clients;
    let generators = (0..count)
        .map(|client| {
            let it = crate::load::Generator::new(options.seed, options.workload, client, count);
            match &options.own {
                Some((workflow, input)) => it.starting(workflow, input),
                None => it,
            }
        })
        .collect();
    clients.load(generators, options.rate, stop).await;
}

async fn pause_for(time: Duration, interrupted: &mut watch::Receiver<bool>) {
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        _ = interrupted.wait_for(|it| *it) => {}
    }
}

fn setup_of(options: &Options) -> Setup {
    Setup {
        command: options.command.clone(),
        seed: options.seed,
        nodes: options.nodes,
        partitions: options.partitions,
        workers: options.workers,
        clients: options.clients,
        workload: options.workload.name.to_string(),
        nemeses: options
            .nemeses
            .iter()
            .map(|it| it.name().to_string())
            .collect(),
        net: options.net.name().to_string(),
        sink: options.sink.name().to_string(),
        term_ms: TERM_MS,
        election_ms: ELECTION_MS,
        require: options
            .require
            .iter()
            .map(|it| (it.fault.clone(), it.count))
            .collect(),
        phases: [0; 4],
        build: build_of(options),
        deadline_ms: u64::try_from(CALL_WITHIN.as_millis()).unwrap_or_default(),
        troubles: Vec::new(),
        seen: Vec::new(),
    }
}

/// What the binary says of itself.
fn build_of(options: &Options) -> String {
    let said = std::process::Command::new(&options.holdfast)
        .arg("--version")
        .output();
    said.map_or_else(
        |_| String::new(),
        |it| String::from_utf8_lossy(&it.stdout).trim().to_string(),
    )
}

fn write_setup(store: &Store, setup: &Setup) -> io::Result<()> {
    store.write(SETUP, &serde_json::to_string_pretty(setup)?)?;
    let text = format!(
        "#!/bin/sh\n# The same seed and choices again. Real runs are not deterministic: processes, disks and sockets have their own time.\nexec {} \"$@\"\n",
        setup.command
    );
    store.write("repro.sh", &text)
}
