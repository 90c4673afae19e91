//! What nobody should ask: too large, out of turn, nonsense, unknown. Each is refused, and refused alike everywhere.

use bytes::Bytes;
use holdfast_scheduler::{
    bounds,
    entry::{
        Advance, Ask, AttemptOutcome, Change, Command, Deploy, IntentKind, LimitSpec, Progress,
        SetLimit, Signal, Start, StepResult, Work,
    },
    ids::{AdvanceNo, DeliveryNo, IntentNo, LimitName, Version},
    time::Millis,
};

use super::{World, attach, drives::next_number, drives::numbered, limit_name, name, text};

impl World {
    /// One byte too many.
    fn large(&self) -> Bytes {
        self.blob.clone()
    }

    pub(super) fn odd(&mut self) -> Command {
        if self.swarm.flood && self.dice.chance(90) {
            return Command::Ask(Ask::Signal(self.heavy_signal()));
        }
        Command::Ask(match self.dice.below(16) {
            0 => Ask::Start(Start {
                input: self.large(),
                ..self.start()
            }),
            1 => Ask::Start(Start {
                workflow: name("nobody-knows"),
                ..self.start()
            }),
            2 => Ask::Signal(Signal {
                payload: self.large(),
                ..self.signal()
            }),
            3..6 => Ask::Signal(self.heavy_signal()),
            6 => Ask::Terminate(Change {
                reason: " ".to_owned(),
                ..self.change()
            }),
            7 => Ask::Deploy(Deploy {
                workflow: name(self.dice.one(["order", "nobody-knows"])),
                version: Version(99),
                request: self.request(),
            }),
            8 => Ask::SetLimit(SetLimit {
                name: limit_name("api"),
                spec: LimitSpec {
                    rate: Some((0, Millis(1_000))),
                    burst: 1,
                    concurrency: None,
                },
                request: self.request(),
            }),
            9 => self.odd_attach(),
            10 => self.large_progress(),
            _ => match self.odd_advance() {
                Some(it) => Ask::Advance(it),
                None => Ask::Noop(Bytes::new()),
            },
        })
    }

    /// As large as may be: a few of them fill what a run may keep.
    fn heavy_signal(&mut self) -> Signal {
        let payload = self.blob.slice(..bounds::INLINE_PAYLOAD_BYTES_MAX);
        Signal {
            run: super::run_id(0),
            payload,
            ..self.signal()
        }
    }

    fn odd_attach(&mut self) -> Ask {
        let mut it = attach("p-odd", None);
        if self.dice.chance(50) {
            it.steps = (0..=bounds::REGISTRATIONS_PER_SESSION_MAX)
                .map(|_| name("s"))
                .collect();
        } else {
            let spec = LimitSpec {
                rate: None,
                burst: 1,
                concurrency: Some(0),
            };
            it.limits.push((limit_name("erp"), spec));
        }
        Ask::Attach(it)
    }

    fn large_progress(&mut self) -> Ask {
        let Some((Work::Step(run, intent), fence)) = self.leased() else {
            return Ask::Noop(Bytes::new());
        };
        let progress = self.large();
        Ask::Progress(Progress {
            run,
            intent,
            fence,
            progress,
        })
    }

    /// An Advance of a run that is driven, with one thing wrong.
    fn odd_advance(&mut self) -> Option<Advance> {
        let runs = self.runs();
        let driven: Vec<_> = runs.iter().filter(|run| run.drive.is_some()).collect();
        let run = self.dice.pick(&driven)?;
        let drive = run.drive?;
        let mut it = Advance {
            run: run.id.clone(),
            fence: drive.fence,
            number: next_number(run)?,
            seen: drive.delivery,
            results: Vec::new(),
            intents: Vec::new(),
            free_slots: 1,
            trouble: None,
        };
        let several = |kind: IntentKind, count| vec![kind; count];
        let intents = match self.dice.below(8) {
            0 => several(
                IntentKind::Record(text("1")),
                bounds::INTENTS_PER_ADVANCE_MAX + 1,
            ),
            1 => several(IntentKind::Record(self.large()), 1),
            2 => several(IntentKind::Complete(self.large()), 1),
            3 => vec![
                IntentKind::Complete(text("1")),
                IntentKind::Record(text("1")),
            ],
            4 => {
                it.number = AdvanceNo(it.number.0 + 1);
                Vec::new()
            }
            5 => {
                it.seen = DeliveryNo(it.seen.0 + 1);
                Vec::new()
            }
            6 => {
                it.results.push(StepResult {
                    intent: IntentNo(0),
                    fence: drive.fence,
                    outcome: AttemptOutcome::Done(self.large()),
                });
                Vec::new()
            }
            _ => {
                let mut spec = self.spec();
                let limits = 0..=bounds::LIMITS_PER_STEP_MAX;
                spec.limits = limits
                    .map(|n| LimitName::from_stored(&format!("l{n}")))
                    .collect();
                vec![IntentKind::Step(spec)]
            }
        };
        it.intents = numbered(run, intents);
        if self.dice.chance(20)
            && let Some(first) = it.intents.first_mut()
        {
            first.number = IntentNo(first.number.0 + 1);
        }
        Some(it)
    }
}
