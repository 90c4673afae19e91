//! `holdfast run`: start and watch runs, and tell them things.

use std::time::Duration;

use holdfast::{Client, Run as Handle, Status, wire};
use serde::Serialize;

use crate::{
    Globals,
    output::{self, Failure, Form},
    parse,
};

/// Start and watch runs, and tell them things.
#[derive(clap::Subcommand)]
pub enum Run {
    /// Start a run, or attach to the one with this id and input
    #[command(
        after_help = "Examples:\n  holdfast run start order 1001 --id order-1001 --wait=30s\n  holdfast run start order @order.json"
    )]
    Start {
        /// The workflow's name
        workflow: String,
        /// Its input: JSON, @FILE, or - for stdin
        input: Option<String>,
        /// The run's id; a fresh one if it is not given
        #[arg(long)]
        id: Option<String>,
        /// Wait for the result, at most this long (30s)
        #[arg(long, num_args = 0..=1, default_missing_value = "30s", value_parser = parse::duration)]
        wait: Option<Duration>,
        /// The run's own timeout
        #[arg(long, value_parser = parse::duration)]
        timeout: Option<Duration>,
    },
    /// List runs, newest first
    #[command(
        after_help = "Examples:\n  holdfast run list --status paused\n  holdfast run list --workflow order -o jsonl"
    )]
    List {
        /// Only with this status
        #[arg(long)]
        status: Option<String>,
        /// Only of this workflow
        #[arg(long)]
        workflow: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// All that is known of a run
    #[command(
        after_help = "Examples:\n  holdfast run show order-1001\n  holdfast run show order-1001 --journal --payloads"
    )]
    Show {
        /// The run
        id: String,
        /// With its journal
        #[arg(long)]
        journal: bool,
        /// With inputs and outputs
        #[arg(long)]
        payloads: bool,
    },
    /// Why a run is where it is: a sentence, then evidence
    #[command(
        after_help = "Examples:\n  holdfast run explain order-1001\n  holdfast run explain order-1001 -o json"
    )]
    Explain {
        /// The run
        id: String,
    },
    /// Follow a run until its end
    #[command(
        after_help = "Examples:\n  holdfast run watch order-1001\n  holdfast run watch order-1001 -o jsonl"
    )]
    Watch {
        /// The run
        id: String,
    },
    /// Wait for a run's end and print its output
    #[command(
        after_help = "Examples:\n  holdfast run result order-1001\n  holdfast run result order-1001 --within 5s"
    )]
    Result {
        /// The run
        id: String,
        /// At most this long
        #[arg(long, default_value = "30s", value_parser = parse::duration)]
        within: Duration,
    },
    /// What a run published under a name
    #[command(
        after_help = "Examples:\n  holdfast run view order-1001 stage\n  holdfast run view order-1001 stage -o json"
    )]
    View {
        /// The run
        id: String,
        /// The view's name
        name: String,
    },
    /// Send a run a signal
    #[command(
        after_help = "Examples:\n  holdfast run signal order-17 approval '{\"by\":\"you\",\"approved\":true}'\n  holdfast run signal order-17 approval @yes.json --signal-id s1"
    )]
    Signal {
        /// The run
        id: String,
        /// The signal's name
        name: String,
        /// What it says: JSON, @FILE, or - for stdin
        payload: Option<String>,
        /// Makes a repeat the same send
        #[arg(long)]
        signal_id: Option<String>,
    },
    /// Ask a run to cancel; what is owed is undone
    #[command(
        after_help = "Examples:\n  holdfast run cancel order-17\n  holdfast run cancel order-17 --reason 'customer called'"
    )]
    Cancel(Change),
    /// End a run at once, undoing nothing
    #[command(
        after_help = "Examples:\n  holdfast run terminate order-17 --reason 'wrong data' --yes\n  holdfast run explain order-17"
    )]
    Terminate {
        #[command(flatten)]
        change: Change,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Hold a run still; steps in flight finish
    #[command(
        after_help = "Examples:\n  holdfast run pause order-17 --reason 'ERP is down'\n  holdfast run resume order-17"
    )]
    Pause(Change),
    /// Let a paused or quarantined run go on
    #[command(
        after_help = "Examples:\n  holdfast run resume order-17\n  holdfast run resume order-17 --reason fixed"
    )]
    Resume(Change),
    /// Try a step again now, or all that wait to be retried
    #[command(
        after_help = "Examples:\n  holdfast run retry order-17\n  holdfast run retry order-17 --step charge-payment"
    )]
    Retry {
        /// The run
        id: String,
        /// Only this step
        #[arg(long)]
        step: Option<String>,
    },
}

/// A change of a run.
#[derive(clap::Args)]
pub struct Change {
    /// The run
    id: String,
    /// For people
    #[arg(long, default_value = "")]
    reason: String,
}

#[derive(Serialize)]
struct Line {
    id: String,
    workflow: String,
    version: u32,
    status: Status,
    started_unix_ms: u64,
}

impl Run {
    /// Calls the cluster and prints the answer.
    ///
    /// # Errors
    /// With the exit code of what went wrong.
    #[expect(clippy::too_many_lines, reason = "one arm per verb")]
    pub async fn call(self, globals: &Globals) -> Result<(), Failure> {
        let client = super::client(globals).await?;
        let form = globals.output;
        match self {
            Self::Start {
                workflow,
                input,
                id,
                wait,
                timeout,
            } => start(&client, form, &workflow, input, id, wait, timeout).await,
            Self::List {
                status,
                workflow,
                limit,
            } => list(&client, form, status, workflow, limit).await,
            Self::Show {
                id,
                journal,
                payloads,
            } => show(&client.run_json(&id), form, journal, payloads).await,
            Self::Explain { id } => explain(&client.run_json(&id), form).await,
            Self::Watch { id } => watch(&client.run_json(&id), form).await,
            Self::Result { id, within } => {
                output::json(&client.run_json(&id).result_within(within).await?);
                Ok(())
            }
            Self::View { id, name } => match client.run_json(&id).view_bytes(&name).await? {
                Some(bytes) => {
                    output::json(&output::payload(&bytes));
                    Ok(())
                }
                None => {
                    let message = format!("run {id} has published no {name}");
                    Err(Failure::new(output::Exit::NotFound, message))
                }
            },
            Self::Signal {
                id,
                name,
                payload,
                signal_id,
            } => {
                let value =
                    parse::json(payload.as_deref().unwrap_or("null")).map_err(Failure::usage)?;
                let mut signal = client.run_json(&id).signal_json(&name, &value);
                if let Some(signal_id) = signal_id {
                    signal = signal.id(signal_id);
                }
                signal.await?;
                output::talk(format!("{name} sent to {id}"));
                Ok(())
            }
            Self::Cancel(it) => said(
                client.run_json(&it.id).cancel(&it.reason).await?,
                &it.id,
                "cancel",
            ),
            Self::Terminate { change: it, yes } => {
                if !yes {
                    let text =
                        "terminate undoes nothing and cannot be taken back; repeat it with --yes";
                    return Err(Failure::usage(text));
                }
                said(
                    client.run_json(&it.id).terminate(&it.reason).await?,
                    &it.id,
                    "terminate",
                )
            }
            Self::Pause(it) => said(
                client.run_json(&it.id).pause(&it.reason).await?,
                &it.id,
                "pause",
            ),
            Self::Resume(it) => said(
                client.run_json(&it.id).resume_because(&it.reason).await?,
                &it.id,
                "resume",
            ),
            Self::Retry { id, step } => said(
                client.run_json(&id).retry(step.as_deref()).await?,
                &id,
                "retry",
            ),
        }
    }
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "ends the arms of `call`, which are results"
)]
fn said(status: Status, id: &str, what: &str) -> Result<(), Failure> {
    output::talk(format!("{what}: run {id} is {status:?} now"));
    Ok(())
}

async fn start(
    client: &Client,
    form: Form,
    workflow: &str,
    input: Option<String>,
    id: Option<String>,
    wait: Option<Duration>,
    timeout: Option<Duration>,
) -> Result<(), Failure> {
    let input = parse::json(input.as_deref().unwrap_or("null")).map_err(Failure::usage)?;
    let id = id.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let mut start = client.start_json(workflow, &id, &input);
    if let Some(timeout) = timeout {
        start = start.timeout(timeout);
    }
    let (run, reply) = start.send().await?;
    let what = if reply.created {
        "started"
    } else {
        "exists already, with the same input"
    };
    output::talk(format!("{workflow}@v{} {what}", reply.version));
    match (wait, form) {
        (Some(wait), _) => output::json(&run.result_within(wait).await?),
        (None, Form::Json | Form::Jsonl) => {
            output::line(
                serde_json::json!({ "id": id, "version": reply.version, "created": reply.created }),
            );
        }
        (None, Form::Table | Form::Id) => output::line(run.id()),
    }
    Ok(())
}

fn status_of(text: &str) -> Result<Status, Failure> {
    let all = [
        Status::Scheduled,
        Status::Ready,
        Status::Running,
        Status::Waiting,
        Status::Paused,
        Status::Quarantined,
        Status::Undoing,
        Status::Completed,
        Status::Failed,
        Status::Cancelled,
        Status::Terminated,
        Status::TimedOut,
    ];
    let wanted = text.replace(['-', '_'], "").to_lowercase();
    let found = all
        .into_iter()
        .find(|it| format!("{it:?}").to_lowercase() == wanted);
    found.ok_or_else(|| {
        let names: Vec<String> = all
            .iter()
            .map(|it| format!("{it:?}").to_lowercase())
            .collect();
        Failure::usage(format!(
            "{text} is no status; they are {}",
            names.join(", ")
        ))
    })
}

async fn list(
    client: &Client,
    form: Form,
    status: Option<String>,
    workflow: Option<String>,
    limit: u32,
) -> Result<(), Failure> {
    let mut runs = client.runs().page_size(limit.clamp(1, 500));
    if let Some(status) = status {
        runs = runs.status(status_of(&status)?);
    }
    if let Some(workflow) = &workflow {
        runs = runs.workflow(workflow);
    }
    let mut lines = Vec::new();
    while let Some(page) = runs.page().await? {
        lines.extend(page.into_iter().map(|it| {
            Line {
                started_unix_ms: it
                    .started
                    .duration_since(std::time::UNIX_EPOCH)
                    .map_or(0, |it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX)),
                id: it.id,
                workflow: it.workflow,
                version: it.version,
                status: it.status,
            }
        }));
        if lines.len() >= limit as usize {
            break;
        }
    }
    lines.truncate(limit as usize);
    output::rows(
        form,
        &["RUN", "WORKFLOW", "STATUS", "STARTED"],
        &lines,
        |it| {
            let workflow = format!("{}@v{}", it.workflow, it.version);
            vec![
                it.id.clone(),
                workflow,
                format!("{:?}", it.status),
                output::ago(it.started_unix_ms),
            ]
        },
    );
    Ok(())
}

#[expect(
    clippy::fn_params_excessive_bools,
    reason = "two flags of the command line"
)]
async fn show(
    run: &Handle<serde_json::Value>,
    form: Form,
    journal: bool,
    payloads: bool,
) -> Result<(), Failure> {
    let it = run.describe().await?;
    let rows = if journal {
        run.journal(payloads).await?
    } else {
        Vec::new()
    };
    let summary = it.summary.clone().unwrap_or_default();
    let status = Status::of(summary.status());
    if form != Form::Table {
        let open: Vec<_> = it.open.iter().map(open_json).collect();
        let journal: Vec<String> = rows.iter().map(row_text).collect();
        let shown = serde_json::json!({
            "id": summary.run_id, "generation": summary.generation, "workflow": summary.workflow,
            "version": summary.version, "status": status, "output": output::payload(&it.output),
            "reason": it.reason, "worker": it.worker, "open": open, "journal": journal,
        });
        output::one(form, run.id(), &shown);
        return Ok(());
    }
    output::line(format!(
        "{}  {}@v{}  {status:?}",
        summary.run_id, summary.workflow, summary.version
    ));
    output::line(format!("started {}", output::ago(summary.started_unix_ms)));
    for (name, text) in [("reason", &it.reason), ("worker", &it.worker)] {
        if !text.is_empty() {
            output::line(format!("{name}  {text}"));
        }
    }
    if status == Status::Completed {
        output::line(format!("output  {}", output::payload(&it.output)));
    }
    if let Some(failure) = it.failure.as_ref().filter(|_| status == Status::Failed) {
        output::line(format!("failed  [{}] {}", failure.code, failure.message));
    }
    for open in &it.open {
        output::line(format!(
            "open  #{} {} {} attempt {} {}",
            open.entry, open.name, open.state, open.attempt, open.last_error
        ));
    }
    for undo in &it.undos {
        output::line(format!(
            "undo  {} of {} (#{}) {}",
            undo.undo, undo.step, undo.entry, undo.state
        ));
    }
    for row in &rows {
        output::line(row_text(row));
    }
    Ok(())
}

fn open_json(it: &wire::OpenStep) -> serde_json::Value {
    serde_json::json!({
        "entry": it.entry, "name": it.name, "state": it.state, "attempt": it.attempt,
        "due_unix_ms": it.due_unix_ms.to_string(), "last_error": it.last_error,
    })
}

/// One journal row as text: outcomes, then intents.
pub fn row_text(row: &wire::JournalRow) -> String {
    use wire::{intent::Kind as Asked, outcome::Kind as Came};
    let mut parts = Vec::new();
    for outcome in &row.outcomes {
        let what = match &outcome.kind {
            Some(Came::Done(bytes)) if bytes.is_empty() => "done".to_owned(),
            Some(Came::Done(bytes)) => format!("done {}", output::payload(bytes)),
            Some(Came::Failed(it)) => format!("failed [{}] {}", it.code, it.message),
            Some(Came::Fired(_)) => "fired".to_owned(),
            Some(Came::TimedOut(_)) => "timed out".to_owned(),
            Some(Came::Cancelled(it)) => format!("cancelled {}", it.message),
            None => "?".to_owned(),
        };
        parts.push(format!("#{} {what}", outcome.entry));
    }
    for intent in &row.intents {
        let what = match &intent.kind {
            Some(Asked::Step(it)) => format!("step {}", it.step),
            Some(Asked::Timer(it)) => format!("sleep {} ms", it.delay_ms),
            Some(Asked::Wait(it)) => format!("wait {}", it.signal),
            Some(Asked::Record(_)) => "record".to_owned(),
            Some(Asked::Publish(it)) => format!("publish {}", it.view),
            Some(Asked::Complete(_)) => "complete".to_owned(),
            Some(Asked::Fail(it)) => format!("fail [{}] {}", it.code, it.message),
            None => "?".to_owned(),
        };
        parts.push(format!("#{} {what}", intent.entry));
    }
    if !row.note.is_empty() {
        parts.push(row.note.clone());
    }
    if let Some(cancel) = &row.cancel {
        parts.push(format!("cancel asked: {}", cancel.message));
    }
    format!("{:>4}  {}", row.seq, parts.join(" · "))
}

async fn explain(run: &Handle<serde_json::Value>, form: Form) -> Result<(), Failure> {
    let (sentence, evidence) = run.explain_with_evidence().await?;
    if form == Form::Table {
        output::line(sentence);
        for it in evidence {
            output::line(format!("  {it}"));
        }
    } else {
        let shown = serde_json::json!({ "sentence": sentence, "evidence": evidence });
        output::one(form, run.id(), &shown);
    }
    Ok(())
}

async fn watch(run: &Handle<serde_json::Value>, form: Form) -> Result<(), Failure> {
    let mut last = String::new();
    loop {
        let status = run.status().await?;
        let (sentence, _) = run.explain_with_evidence().await?;
        let now = format!("{status:?}: {sentence}");
        let kind = now.split_whitespace().take(6).collect::<Vec<_>>().join(" ");
        if kind != last {
            match form {
                Form::Table | Form::Id => output::line(&now),
                Form::Json | Form::Jsonl => {
                    output::line(serde_json::json!({ "status": status, "sentence": sentence }));
                }
            }
            last = kind;
        }
        if status.is_final() {
            // The exit code says how it ended; the sentence was printed.
            let ended = run.result_within(Duration::from_secs(1)).await;
            return ended.map(drop).map_err(|error| Failure {
                message: String::new(),
                ..Failure::from(error)
            });
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}
