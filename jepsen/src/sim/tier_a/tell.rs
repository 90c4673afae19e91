//! Tells a history to a person: who asked for what, what was answered, what broke.

use std::fmt::Write as _;

use holdfast_scheduler::{
    entry::{Ask, Body, Command, Duty, Entry, Expire, IntentKind, StepResult, Work},
    reply::{End, Reply},
    rows::{Key, Row},
};

use super::{Act, Broken, group::Told, leads, play_again, tape_of};

/// The story of a failing history, the smallest first.
pub fn story(acts: &[Act], model: bool, replay_every: usize) -> (String, Option<Broken>) {
    let (broken, tape) = play_again(acts, model, replay_every);
    let mut told = tape.group.log.iter();
    let mut story = String::new();
    for act in acts {
        match act {
            Act::Apply { at, .. } => match told.next() {
                Some(it) => entry(&mut story, it),
                None => line(&mut story, &format!("{at:>4}  could not be applied")),
            },
            Act::Restart => line(&mut story, "      the process restarts from a snapshot"),
            Act::Lead(act) => leader(&mut story, act),
        }
    }
    if let Some(broken) = &broken {
        line(&mut story, &format!("\n{broken}"));
    }
    (story, broken)
}

/// Every entry of a seed, and where each run stands at the end.
pub fn trace(seed: u64) -> String {
    let (broken, tape) = tape_of(seed);
    let mut story = String::new();
    for told in &tape.group.log {
        entry(&mut story, told);
    }
    for (key, row) in tape.group.rows().iter() {
        match (key, row) {
            (Key::Run(id), Row::Run(run)) => {
                line(
                    &mut story,
                    &format!("run {id}: {:?}, open {}", run.status(), run.open.len()),
                );
            }
            (Key::Finished(id), Row::Finished(done)) => {
                line(&mut story, &format!("run {id}: {}", end(&done.end)));
            }
            _ => {}
        }
    }
    if let Some(broken) = broken {
        line(&mut story, &format!("\n{broken}"));
    }
    story
}

fn line(story: &mut String, text: &str) {
    story.push_str(text);
    story.push('\n');
}

fn entry(story: &mut String, told: &Told) {
    let Entry { body, .. } = &*told.entry;
    let at = told.at;
    match body {
        Body::BecomeLeader(it) => {
            line(
                story,
                &format!("{at:>4}  node {} leads, anchor {}", it.node, it.anchor),
            );
        }
        Body::Batch {
            epoch,
            proposed_at,
            commands,
        } => {
            let broke = if told.broke_at.is_some() {
                ", made to break"
            } else {
                ""
            };
            line(
                story,
                &format!("{at:>4}  at {proposed_at}, epoch {epoch}{broke}"),
            );
            for (command, reply) in commands.iter().zip(&told.applied.replies) {
                let (asked, answer) = (command_words(command), reply_words(reply));
                line(story, &format!("        {asked}  ->  {answer}"));
            }
        }
    }
}

fn leader(story: &mut String, act: &leads::Act) {
    let text = match act {
        leads::Act::Nodes(count) => format!("{count} nodes"),
        leads::Act::Time { node, mono } => format!("node {}: {mono} ms on its clock", node + 1),
        leads::Act::Tick { node } => format!("node {}: looks up", node + 1),
        leads::Act::Opened { node, session } => {
            format!("node {}: session {session} opens its stream", node + 1)
        }
        leads::Act::Closed { node, session } => {
            format!("node {}: session {session} closes its stream", node + 1)
        }
        leads::Act::Beat {
            node,
            session,
            number,
            ack_age_ms,
        } => format!(
            "node {}: beat {number} of session {session}, quorum heard {ack_age_ms} ms ago",
            node + 1
        ),
        leads::Act::Credit {
            node,
            session,
            total,
        } => format!("node {}: session {session} takes {total} in all", node + 1),
        leads::Act::Done { node, id, came } => {
            format!("node {}: duty {id} is answered: {came:?}", node + 1)
        }
        leads::Act::Starting { node, run, .. } => {
            format!("node {}: hears that {run} is being started", node + 1)
        }
        leads::Act::Lag { node } => format!("node {}: applies nothing for now", node + 1),
        leads::Act::CatchUp { node } => format!("node {}: applies what it missed", node + 1),
    };
    line(story, &format!("      {text}"));
}

fn command_words(command: &Command) -> String {
    match command {
        Command::Ask(ask) => ask_words(ask),
        Command::Duty(duty) => duty_words(duty),
    }
}

fn ask_words(ask: &Ask) -> String {
    match ask {
        Ask::Start(it) => {
            let also = it.signal.as_ref().map_or(String::new(), |(name, id, _)| {
                format!(" with signal {name} {id}")
            });
            format!(
                "start {} ({}, input {}, {:?}){also}",
                it.run, it.workflow, it.digest, it.if_ended
            )
        }
        Ask::Signal(it) => format!("signal {} {} to {}", it.name, it.id, it.run),
        Ask::Cancel(it) => format!("cancel {} ({})", it.run, it.request),
        Ask::Terminate(it) => format!("terminate {} ({})", it.run, it.request),
        Ask::Pause(it) => format!("pause {} ({})", it.run, it.request),
        Ask::Resume(it) => format!("resume {} ({})", it.run, it.request),
        Ask::Retry(it) => format!("retry {} ({})", it.run, it.request),
        Ask::Attach(it) => {
            let how = match it.session {
                Some(session) => format!("again as session {session}"),
                None => format!("to queue {}", it.queue),
            };
            let limits = if it.limits.is_empty() {
                String::new()
            } else {
                format!(", declares {:?}", it.limits)
            };
            format!("{} attaches {how}{limits}", it.process)
        }
        Ask::Advance(it) => {
            let mut text = format!(
                "advance {} under {} number {}, saw {}",
                it.run, it.fence, it.number, it.seen
            );
            for result in &it.results {
                let _ = write!(text, ", {}", result_words(result));
            }
            for intent in &it.intents {
                let _ = write!(text, ", {}: {}", intent.number, intent_words(&intent.kind));
            }
            if let Some(trouble) = &it.trouble {
                let _ = write!(text, ", {trouble:?}");
            }
            text
        }
        Ask::Report(it) => format!("report of {}: {}", it.run, result_words(&it.result)),
        Ask::Progress(it) => format!(
            "progress of {} entry {} under {}",
            it.run, it.intent, it.fence
        ),
        Ask::Return(it) => format!("hand back {:?} {:?}", it.runs, it.steps),
        Ask::Detach(session) => format!("session {session} leaves"),
        Ask::Deploy(it) => format!("deploy {}@v{}", it.workflow, it.version),
        Ask::SetLimit(it) => format!("limit {} becomes {:?}", it.name, it.spec),
        Ask::Noop(_) => "nothing".to_owned(),
    }
}

fn duty_words(duty: &Duty) -> String {
    match duty {
        Duty::Grant(it) => format!(
            "grant {} to session {} with {} slots",
            work_words(&it.work),
            it.session,
            it.free_slots
        ),
        Duty::Admit(it) => format!("admit waiters of {}", it.limit),
        Duty::Expire(Expire::Session { session, at_most }) => {
            format!("session {session} expires, {at_most} runs at most")
        }
        Duty::Expire(Expire::Attempt { work, fence }) => {
            format!("{} under {fence} expires", work_words(work))
        }
        Duty::Expire(Expire::Drive { run, fence }) => {
            format!("the drive of {run} under {fence} expires")
        }
        Duty::FireDue { up_to, at_most } => {
            format!("fire what is due by {up_to}, {at_most} runs at most")
        }
        Duty::Collect(it) => format!(
            "let go of what completed before {}, failed before {}, was remembered before {}, {} runs at most",
            it.completed, it.failed, it.ids, it.at_most
        ),
        Duty::Repair(run) => format!("repair {run}"),
    }
}

fn work_words(work: &Work) -> String {
    match work {
        Work::Run(run) => format!("run {run}"),
        Work::Step(run, intent) => format!("step {intent} of {run}"),
        Work::Undo(run, intent) => format!("undo {intent} of {run}"),
    }
}

fn result_words(result: &StepResult) -> String {
    format!(
        "entry {} {} under {}",
        result.intent,
        result.outcome.name(),
        result.fence
    )
}

fn intent_words(kind: &IntentKind) -> String {
    match kind {
        IntentKind::Step(spec) => {
            let place = spec
                .queue
                .as_ref()
                .map_or("local".to_owned(), |queue| format!("on {queue}"));
            let limits: Vec<&str> = spec
                .limits
                .iter()
                .map(holdfast_scheduler::ids::LimitName::as_str)
                .collect();
            let undo = if spec.undo.is_some() {
                ", with undo"
            } else {
                ""
            };
            format!("step {place} {:?} limits {limits:?}{undo}", spec.certainty)
        }
        IntentKind::Timer(spec) => format!("timer {spec:?}"),
        IntentKind::Wait {
            signal, timeout, ..
        } => format!("wait for {signal}, at most {timeout:?}"),
        IntentKind::Record(_) => "record".to_owned(),
        IntentKind::Publish { .. } => "publish".to_owned(),
        IntentKind::Complete(_) => "complete".to_owned(),
        IntentKind::Fail { .. } => "fail".to_owned(),
    }
}

fn reply_words(reply: &Reply) -> String {
    match reply {
        Reply::Advanced(it) => {
            let grants: Vec<String> = it
                .grants
                .iter()
                .map(|it| format!("{} under {}", it.intent, it.fence))
                .collect();
            let deliveries = it.deliveries.len();
            format!(
                "{:?}, granted {grants:?}, {deliveries} deliveries",
                it.outcome
            )
        }
        Reply::Started {
            generation,
            version,
            created,
        } => {
            let how = if *created { "begun" } else { "joined" };
            format!("{how}, life {generation}, v{version}")
        }
        Reply::Attached { session, .. } => format!("session {session}"),
        Reply::Rejected(rejected) => format!("refused: {rejected}"),
        other => format!("{other:?}"),
    }
}

fn end(end: &End) -> String {
    format!("{:?}", end.status())
}
