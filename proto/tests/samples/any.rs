//! Any entry and any row, read off a list of choices: where the list ends every choice is 0, the simplest. So a list that
//! gets shorter or smaller is a simpler sample, and proptest shrinks lists of numbers well.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use holdfast_scheduler::{
    entry::*,
    ids::*,
    reply::{AdvanceOutcome, Advanced, End, JournalRow, Outcome, Status, StepGrant},
    rows::{Class, Keeps, Key, Newest, Row},
    time::{Millis, Timestamp},
    values::{
        limit::Limit,
        run::{
            Back, Buffered, Drive, Finished, Group, Kept, LastAdvance, Mode, Open, OpenKind, Run,
            Session, VersionRow, Workflow,
        },
        step::{Owed, Phase, Step, StepLease, Tries, TryState},
    },
};

use super::{entries, rows};

/// Choices to be made, one after the other.
#[derive(Debug, Clone)]
pub struct Choices {
    numbers: std::vec::IntoIter<u64>,
}

impl Choices {
    pub fn new(numbers: Vec<u64>) -> Self {
        let numbers = numbers.into_iter();
        Self { numbers }
    }

    fn n64(&mut self) -> u64 {
        self.numbers.next().unwrap_or(0)
    }

    fn n32(&mut self) -> u32 {
        (self.n64() >> 32) as u32 | self.below(7)
    }

    fn below(&mut self, n: u32) -> u32 {
        u32::try_from(self.n64() % u64::from(n)).unwrap()
    }

    fn yes(&mut self) -> bool {
        self.below(2) == 1
    }

    fn maybe<T>(&mut self, of: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.yes().then(|| of(self))
    }

    fn list<T>(&mut self, mut of: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(4)).map(|_| of(self)).collect()
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        let n = u32::try_from(of.len()).unwrap();
        of[self.below(n) as usize].clone()
    }

    /// A name as they are allowed: never empty.
    fn word(&mut self) -> String {
        let letters = ["a", "Z", "9", ".", "_", "-", ":", "@", "/"];
        let count = 1 + self.below(12);
        (0..count).map(|_| self.one(&letters)).collect()
    }

    /// A text for people: anything.
    fn text(&mut self) -> String {
        let parts = ["", "x", "ä", "\u{0}", "\n", "💥", "0123456789"];
        (0..self.below(5)).map(|_| self.one(&parts)).collect()
    }

    fn bytes(&mut self) -> Bytes {
        self.list(|it| it.n64().to_le_bytes()).concat().into()
    }

    fn name(&mut self) -> Name {
        Name::new(&self.word()).unwrap()
    }

    fn run_id(&mut self) -> RunId {
        RunId::new(&self.word()).unwrap()
    }

    fn limit_name(&mut self) -> LimitName {
        LimitName::new(&self.word()).unwrap()
    }

    fn request(&mut self) -> RequestId {
        RequestId::new(&self.word()).unwrap()
    }

    fn process(&mut self) -> ProcessId {
        ProcessId::new(&self.word()).unwrap()
    }

    fn fence(&mut self) -> Fence {
        Fence::from_wire(self.n64())
    }

    fn time(&mut self) -> Timestamp {
        Timestamp(self.n64())
    }

    fn span(&mut self) -> Millis {
        Millis(self.n64())
    }

    fn session(&mut self) -> SessionId {
        SessionId(self.n64())
    }

    fn intent_no(&mut self) -> IntentNo {
        IntentNo(self.n32())
    }

    pub fn entry(&mut self) -> Entry {
        let level = FeatureLevel(self.n32());
        let body = if self.below(8) == 0 {
            Body::BecomeLeader(BecomeLeader {
                node: NodeId(self.n64()),
                incarnation: self.name(),
                boot: self.name(),
                levels: (FeatureLevel(self.n32()), FeatureLevel(self.n32())),
                anchor: self.time(),
            })
        } else {
            Body::Batch {
                epoch: Epoch(self.n64()),
                proposed_at: self.time(),
                commands: self.list(Self::command),
            }
        };
        Entry { level, body }
    }

    /// Of the kind of a sample by hand, so that none can be forgotten; its fields by choice.
    fn command(&mut self) -> Command {
        let known = entries();
        let kinds = known.iter().filter_map(|entry| match &entry.body {
            Body::Batch { commands, .. } => commands.first().cloned(),
            Body::BecomeLeader(_) => None,
        });
        match self.one(&kinds.collect::<Vec<_>>()) {
            Command::Ask(ask) => Command::Ask(self.ask(ask)),
            Command::Duty(duty) => Command::Duty(self.duty(duty)),
        }
    }

    fn ask(&mut self, kind: Ask) -> Ask {
        match kind {
            Ask::Start(_) => Ask::Start(Start {
                run: self.run_id(),
                workflow: self.name(),
                input: self.bytes(),
                digest: Digest(self.n64()),
                at: self.maybe(Self::time),
                timeout: self.maybe(Self::span),
                if_ended: self.one(&[
                    IfEnded::ReturnResult,
                    IfEnded::Reject,
                    IfEnded::NewGeneration,
                ]),
                signal: self.maybe(|it| (it.name(), it.request(), it.bytes())),
            }),
            Ask::Signal(_) => Ask::Signal(Signal {
                run: self.run_id(),
                name: self.name(),
                id: self.request(),
                payload: self.bytes(),
            }),
            Ask::Cancel(_) => Ask::Cancel(self.change()),
            Ask::Terminate(_) => Ask::Terminate(self.change()),
            Ask::Pause(_) => Ask::Pause(self.change()),
            Ask::Resume(_) => Ask::Resume(self.change()),
            Ask::Retry(_) => Ask::Retry(Retry {
                run: self.run_id(),
                step: self.maybe(Self::name),
                request: self.request(),
            }),
            Ask::Attach(_) => Ask::Attach(Attach {
                session: self.maybe(Self::session),
                process: self.process(),
                worker: self.name(),
                queue: self.name(),
                workflows: self.list(Self::registered),
                steps: self.list(Self::name),
                limits: self.list(|it| (it.limit_name(), it.limit_spec())),
                slots: self.n32(),
            }),
            Ask::Advance(_) => Ask::Advance(self.advance()),
            Ask::Report(_) => Ask::Report(Report {
                run: self.run_id(),
                result: self.result(),
            }),
            Ask::Progress(_) => Ask::Progress(Progress {
                run: self.run_id(),
                intent: self.intent_no(),
                fence: self.fence(),
                progress: self.bytes(),
            }),
            Ask::Return(_) => Ask::Return(Return {
                runs: self.list(|it| (it.run_id(), it.fence())),
                steps: self.list(|it| (it.run_id(), it.intent_no(), it.fence())),
            }),
            Ask::Detach(_) => Ask::Detach(self.session()),
            Ask::Deploy(_) => Ask::Deploy(Deploy {
                workflow: self.name(),
                version: Version(self.n32()),
                request: self.request(),
            }),
            Ask::SetLimit(_) => Ask::SetLimit(SetLimit {
                name: self.limit_name(),
                spec: self.limit_spec(),
                request: self.request(),
            }),
            Ask::Noop(_) => Ask::Noop(self.bytes()),
        }
    }

    fn duty(&mut self, kind: Duty) -> Duty {
        match kind {
            Duty::Grant(_) => Duty::Grant(Grant {
                work: self.work(),
                session: self.session(),
                free_slots: self.n32(),
            }),
            Duty::Admit(_) => Duty::Admit(Admit {
                limit: self.limit_name(),
                waiters: self.list(Self::work),
            }),
            Duty::Expire(Expire::Session { .. }) => Duty::Expire(Expire::Session {
                session: self.session(),
                at_most: self.n32(),
            }),
            Duty::Expire(Expire::Attempt { .. }) => Duty::Expire(Expire::Attempt {
                work: self.work(),
                fence: self.fence(),
            }),
            Duty::Expire(Expire::Drive { .. }) => Duty::Expire(Expire::Drive {
                run: self.run_id(),
                fence: self.fence(),
            }),
            Duty::FireDue { .. } => Duty::FireDue {
                up_to: self.time(),
                at_most: self.n32(),
            },
            Duty::Collect(_) => Duty::Collect(Collect {
                completed: self.time(),
                failed: self.time(),
                ids: self.time(),
                at_most: self.n32(),
            }),
            Duty::Repair(_) => Duty::Repair(self.run_id()),
        }
    }

    fn change(&mut self) -> Change {
        Change {
            run: self.run_id(),
            reason: self.text(),
            request: self.request(),
        }
    }

    fn registered(&mut self) -> (Name, Version) {
        (self.name(), Version(self.n32()))
    }

    fn limit_spec(&mut self) -> LimitSpec {
        LimitSpec {
            rate: self.maybe(|it| (it.n32(), it.span())),
            burst: self.n32(),
            concurrency: self.maybe(Self::n32),
        }
    }

    fn work(&mut self) -> Work {
        let (run, intent) = (self.run_id(), self.intent_no());
        match self.below(3) {
            0 => Work::Run(run),
            1 => Work::Step(run, intent),
            _ => Work::Undo(run, intent),
        }
    }

    pub fn advance(&mut self) -> Advance {
        Advance {
            run: self.run_id(),
            fence: self.fence(),
            number: AdvanceNo(self.n32()),
            seen: DeliveryNo(self.n32()),
            results: self.list(Self::result),
            intents: self.list(Self::intent),
            free_slots: self.n32(),
            trouble: self.maybe(Self::trouble),
        }
    }

    fn trouble(&mut self) -> Trouble {
        if self.yes() {
            return Trouble::Panicked(self.text());
        }
        Trouble::Diverged {
            key: self.step_key(),
            expected: self.text(),
            got: self.text(),
        }
    }

    fn result(&mut self) -> StepResult {
        StepResult {
            intent: self.intent_no(),
            fence: self.fence(),
            outcome: match self.below(8) {
                0 => AttemptOutcome::Done(self.bytes()),
                1 => AttemptOutcome::Retryable {
                    message: self.text(),
                    after: self.maybe(Self::span),
                },
                2 => AttemptOutcome::Terminal {
                    code: self.text(),
                    message: self.text(),
                },
                3 => AttemptOutcome::Throttled {
                    limit: self.limit_name(),
                    after: self.span(),
                    message: self.text(),
                },
                4 => AttemptOutcome::Panicked(self.text()),
                5 => AttemptOutcome::Stopped,
                6 => AttemptOutcome::Absent,
                _ => AttemptOutcome::Unsure(self.text()),
            },
        }
    }

    fn step_key(&mut self) -> StepKey {
        StepKey {
            scope: self.text().into(),
            name: self.text().into(),
            occurrence: self.n32(),
        }
    }

    pub fn intent(&mut self) -> Intent {
        Intent {
            number: self.intent_no(),
            key: self.step_key(),
            digest: Digest(self.n64()),
            kind: match self.below(8) {
                0 => IntentKind::Step(self.step_spec()),
                1 => IntentKind::Timer(TimerSpec::After(self.span())),
                2 => IntentKind::Timer(TimerSpec::At(self.time())),
                3 => IntentKind::Wait {
                    signal: self.name(),
                    timeout: self.maybe(Self::span),
                    ask: self.maybe(Self::text),
                },
                4 => IntentKind::Record(self.bytes()),
                5 => IntentKind::Publish {
                    view: self.name(),
                    value: self.bytes(),
                },
                6 => IntentKind::Complete(self.bytes()),
                _ => IntentKind::Fail {
                    code: self.text(),
                    message: self.text(),
                },
            },
        }
    }

    fn step_spec(&mut self) -> StepSpec {
        StepSpec {
            step: self.name(),
            queue: self.maybe(Self::name),
            input: self.bytes(),
            retry: self.retry(),
            timeout: self.maybe(Self::span),
            heartbeat: self.maybe(Self::span),
            limits: self.list(Self::limit_name),
            certainty: self.certainty(),
            undo: self.maybe(Self::name),
            inline: self.yes(),
        }
    }

    fn retry(&mut self) -> RetryPolicy {
        RetryPolicy {
            initial: self.span(),
            factor_percent: self.n32(),
            cap: self.span(),
            max_attempts: self.maybe(Self::n32),
            give_up_after: self.span(),
            give_up: self.one(&[GiveUp::Pause, GiveUp::Fail, GiveUp::Compensate]),
        }
    }

    fn certainty(&mut self) -> Certainty {
        match self.below(3) {
            0 => Certainty::AtLeastOnce,
            1 => Certainty::AtMostOnce,
            _ => Certainty::Reconcile(self.name()),
        }
    }

    pub fn key(&mut self) -> Key {
        let (key, _) = self.one(&rows());
        let newest = |it: &mut Self| Newest::from_number(it.n64());
        match key {
            Key::Group => Key::Group,
            Key::Run(_) => Key::Run(self.run_id()),
            Key::Finished(_) => Key::Finished(self.run_id()),
            Key::Input(..) => Key::Input(self.run_id(), Generation(self.n32())),
            Key::Journal(..) => {
                Key::Journal(self.run_id(), Generation(self.n32()), Seq(self.n32()))
            }
            Key::Signal(..) => Key::Signal(self.run_id(), self.name(), (self.n64(), self.n32())),
            Key::Seen(..) => Key::Seen(self.run_id(), self.request()),
            Key::View(..) => Key::View(self.run_id(), self.name()),
            Key::Session(_) => Key::Session(self.session()),
            Key::Limit(_) => Key::Limit(self.limit_name()),
            Key::Workflow(_) => Key::Workflow(self.name()),
            Key::Version(..) => Key::Version(self.name(), Version(self.n32())),
            Key::ByClass(..) => Key::ByClass(self.class(), newest(self), self.run_id()),
            Key::ByWorkflow(..) => {
                let (name, version) = self.registered();
                Key::ByWorkflow(name, version, newest(self), self.run_id())
            }
            Key::ByTime(..) => Key::ByTime(newest(self), self.run_id()),
            Key::Ended(..) => {
                let keeps = self.one(&[Keeps::Completed, Keeps::Failed, Keeps::Id]);
                Key::Ended(keeps, self.time(), self.run_id())
            }
        }
    }

    fn class(&mut self) -> Class {
        let statuses: Vec<Status> = (1..=12)
            .map(|n| holdfast_proto::domain::rows::status_from(n).unwrap())
            .collect();
        Class::from(self.one(&statuses))
    }

    /// A row for this key.
    pub fn row(&mut self, key: &Key) -> Row {
        match key {
            Key::Group => Row::Group(Group {
                clock: self.time(),
                epoch: self.n64(),
                boot: self.maybe(Self::name),
                incarnation: u8::try_from(self.below(256)).unwrap(),
            }),
            Key::Run(_) => Row::Run(Arc::new(self.run())),
            Key::Finished(_) => Row::Finished(Arc::new(Finished {
                id: self.run_id(),
                generation: Generation(self.n32()),
                workflow: self.name(),
                version: Version(self.n32()),
                digest: Digest(self.n64()),
                started: self.time(),
                ended: self.time(),
                end: self.end(),
                rows: Seq(self.n32()),
                last: self.maybe(Self::last),
                forgotten: self.yes(),
            })),
            Key::Input(..) | Key::View(..) => Row::Bytes(self.bytes()),
            Key::Journal(..) => Row::Journal(Arc::new(self.journal())),
            Key::Signal(..) => Row::Signal(Buffered {
                id: self.request(),
                payload: self.bytes(),
            }),
            Key::Seen(..)
            | Key::ByClass(..)
            | Key::ByWorkflow(..)
            | Key::ByTime(..)
            | Key::Ended(..) => Row::Mark,
            Key::Session(_) => Row::Session(Arc::new(Session {
                id: self.session(),
                process: self.process(),
                worker: self.name(),
                queue: self.name(),
                workflows: self.list(Self::registered),
                steps: self.list(Self::name),
                slots: self.n32(),
                since: self.time(),
                leaving: self.yes(),
            })),
            Key::Limit(_) => Row::Limit(Limit {
                spec: self.maybe(Self::limit_spec),
                tokens_milli: self.n64(),
                refilled: self.time(),
                held: self.n32(),
                closed_until: self.maybe(Self::time),
                waiting: self.n32(),
                oldest: self.maybe(Self::time),
            }),
            Key::Workflow(_) => Row::Workflow(Workflow {
                name: self.name(),
                current: Version(self.n32()),
            }),
            Key::Version(..) => Row::Version(Arc::new(VersionRow {
                name: self.name(),
                version: Version(self.n32()),
                queue: self.name(),
                open: self
                    .list(|it| (it.status(), it.n64()))
                    .into_iter()
                    .collect(),
            })),
        }
    }

    fn status(&mut self) -> Status {
        let number = 1 + self.below(12);
        holdfast_proto::domain::rows::status_from(number).unwrap()
    }

    fn run(&mut self) -> Run {
        let open = self.list(|it| (it.intent_no(), it.open()));
        Run {
            id: self.run_id(),
            generation: Generation(self.n32()),
            workflow: self.name(),
            version: Version(self.n32()),
            queue: self.name(),
            digest: Digest(self.n64()),
            started: self.time(),
            due: self.maybe(Self::time),
            mode: self.mode(),
            ready: self.maybe(Self::time),
            drive: self.maybe(|it| Drive {
                session: it.session(),
                fence: it.fence(),
                since: it.time(),
                delivery: DeliveryNo(it.n32()),
                seen: DeliveryNo(it.n32()),
                unseen_from: Seq(it.n32()),
                shown_from: Seq(it.n32()),
            }),
            newest_fence: self.maybe(Self::fence),
            next_intent: self.intent_no(),
            next_seq: Seq(self.n32()),
            open: open.into_iter().collect::<BTreeMap<_, _>>(),
            undos: self.list(|it| Owed {
                intent: it.intent_no(),
                step: it.name(),
                undo: it.name(),
                queue: it.name(),
                seq: Seq(it.n32()),
                output: it.maybe(|it| Seq(it.n32())),
                withdrawn: it.yes(),
                tries: it.maybe(Self::tries),
            }),
            last: self.maybe(Self::last),
            kept: self.maybe(|it| Kept {
                session: it.session(),
                shown_from: Seq(it.n32()),
            }),
            suspects: self.list(Self::process),
            panics: self.n32(),
            requests: self.list(Self::request),
            buffered: (self.n32(), self.n64()),
        }
    }

    fn mode(&mut self) -> Mode {
        match self.below(5) {
            0 => Mode::Live,
            1 => Mode::Scheduled { at: self.time() },
            2 => Mode::Undoing { end: self.end() },
            3 => Mode::Paused {
                reason: self.text(),
                by_system: self.yes(),
                back: self.back(),
            },
            _ => Mode::Quarantined {
                evidence: self.text(),
                back: self.back(),
            },
        }
    }

    fn back(&mut self) -> Back {
        match self.below(3) {
            0 => Back::Live,
            1 => Back::Scheduled { at: self.time() },
            _ => Back::Undoing { end: self.end() },
        }
    }

    fn end(&mut self) -> End {
        match self.below(5) {
            0 => End::Completed(self.bytes()),
            1 => End::Failed {
                code: self.text(),
                message: self.text(),
            },
            2 => End::Cancelled(self.text()),
            3 => End::Terminated {
                reason: self.text(),
                not_undone: self.list(Self::text),
            },
            _ => End::TimedOut,
        }
    }

    fn open(&mut self) -> Open {
        let what = match self.below(3) {
            0 => OpenKind::Timer { due: self.time() },
            1 => OpenKind::Wait {
                signal: self.name(),
                due: self.maybe(Self::time),
                ask: self.maybe(Self::text),
                since: self.time(),
            },
            _ => OpenKind::Step(Arc::new(Step {
                step: self.name(),
                queue: self.maybe(Self::name),
                seq: Seq(self.n32()),
                retry: self.retry(),
                timeout: self.maybe(Self::span),
                heartbeat: self.maybe(Self::span),
                limits: self.list(Self::limit_name),
                certainty: self.certainty(),
                undo: self.maybe(Self::name),
                phase: self.one(&[Phase::Body, Phase::Probe]),
                admitted: self.yes(),
                tries: self.tries(),
            })),
        };
        let key = self.step_key();
        Open { key, what }
    }

    fn tries(&mut self) -> Tries {
        Tries {
            state: match self.below(5) {
                0 => TryState::Scheduled { since: self.time() },
                1 => TryState::AtLimit {
                    since: self.time(),
                    ticket: (self.n64(), self.n32()),
                },
                2 => TryState::Leased(StepLease {
                    session: self.session(),
                    fence: self.fence(),
                    since: self.time(),
                    stopping: self.yes(),
                }),
                3 => TryState::Backoff {
                    until: self.time(),
                    since: self.time(),
                },
                _ => TryState::Held,
            },
            attempt: self.n32(),
            failures: self.n32(),
            spent: self.span(),
            last_error: self.text(),
            progress: self.maybe(Self::bytes),
        }
    }

    fn last(&mut self) -> LastAdvance {
        let number = AdvanceNo(self.n32());
        LastAdvance {
            fence: self.fence(),
            number,
            reply: Advanced {
                number,
                outcome: self.one(&[
                    AdvanceOutcome::GoesOn,
                    AdvanceOutcome::Suspended,
                    AdvanceOutcome::Finished,
                    AdvanceOutcome::DeliveriesWait,
                    AdvanceOutcome::Interrupted,
                    AdvanceOutcome::Superseded,
                ]),
                grants: self.list(|it| StepGrant {
                    intent: it.intent_no(),
                    fence: it.fence(),
                    attempt: it.n32(),
                    timeout: it.maybe(Self::span),
                    progress: it.maybe(Self::bytes),
                }),
                deliveries: self.list(Self::journal),
            },
        }
    }

    pub fn journal(&mut self) -> JournalRow {
        JournalRow {
            seq: Seq(self.n32()),
            at: self.time(),
            position: (self.n64(), self.n32()),
            delivery: self.maybe(|it| DeliveryNo(it.n32())),
            seen: self.maybe(|it| DeliveryNo(it.n32())),
            outcomes: self.list(|it| (it.intent_no(), it.outcome())),
            intents: self.list(Self::intent),
            cancel: self.maybe(Self::text),
            note: self.maybe(Self::text),
        }
    }

    fn outcome(&mut self) -> Outcome {
        match self.below(5) {
            0 => Outcome::Done(self.bytes()),
            1 => Outcome::Failed {
                code: self.text(),
                message: self.text(),
                attempts: self.n32(),
            },
            2 => Outcome::Fired,
            3 => Outcome::TimedOut,
            _ => Outcome::Cancelled(self.text()),
        }
    }
}
