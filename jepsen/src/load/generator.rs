//! What a client asks next.
//!
//! Invariant: the n-th call of a client depends on seed, workload, client and n alone. Runs of other clients are named by the same
//! rule by which those make them, so that clients meet without talking. Not here: when, and what comes of it (`clients`).

use super::Workload;
use super::program::{LIMIT, SIGNALS, draw};
use super::worker::{PLAY, REGISTER_VALUES, REGISTERS};
use crate::dice::Dice;
use crate::records::Call;

/// Serials of one client: no client makes so many.
const SERIALS_OF_CLIENT: u64 = 100_000_000;
/// Serials of one run.
const SERIALS_OF_RUN: u64 = 1000;
/// How far back calls about runs reach.
const LOOKS_BACK: u64 = 8;
/// Operations of one client on one register, before it takes the next: histories of a key stay short enough to judge.
const KEY_FOR: u64 = 40;

/// One call, and what history alone does not say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// Which of the nodes, counted around.
    pub node: usize,
    /// What.
    pub call: Call,
    /// The input of a start, as JSON.
    pub input: Option<String>,
    /// Whether a read shall be as new as all that this client has seen.
    pub at_least: bool,
}

/// One client's choices.
#[derive(Debug, Clone)]
pub struct Generator {
    dice: Dice,
    workload: &'static Workload,
    /// The user's own workflow and input, instead of programs.
    own: Option<(String, String)>,
    client: u64,
    clients: u64,
    runs: u64,
    asked: u64,
    signals: Vec<Call>,
}

impl Generator {
    /// The choices of `client`, one of `clients`.
    pub fn new(seed: u64, workload: &'static Workload, client: u32, clients: u32) -> Self {
        Self {
            dice: Dice::new(seed).stream(&format!("client-{client}")),
            workload,
            own: None,
            client: u64::from(client),
            clients: u64::from(clients),
            runs: 0,
            asked: 0,
            signals: Vec::new(),
        }
    }

    /// Starts runs of a user's own workflow, with the same input each time.
    #[must_use]
    pub fn starting(mut self, workflow: &str, input: &str) -> Self {
        self.own = Some((workflow.to_string(), input.to_string()));
        self
    }

    /// The workflow that it starts.
    fn workflow(&self) -> String {
        let own = self.own.as_ref().map(|it| it.0.clone());
        own.unwrap_or_else(|| PLAY.name().to_string())
    }

    /// The next call.
    pub fn next_call(&mut self) -> Want {
        self.asked += 1;
        let node = usize::try_from(self.dice.below(1 << 16)).unwrap_or_default();
        let calls = self.workload.calls;
        let weights = [
            calls.start,
            calls.again,
            calls.conflict,
            calls.signal,
            calls.cancel,
            calls.terminate,
            calls.get,
            calls.result,
            calls.set_current,
            calls.get_current,
            calls.set_limit,
        ];
        let kind = self.dice.weighted(&weights);
        let mut input = None;
        let mut at_least = false;
        let call = match kind {
            0 => self.start(&mut input),
            1 | 2 if self.runs == 0 => self.start(&mut input),
            1 => self.again(0, &mut input),
            2 => self.again(SERIALS_OF_RUN - 1, &mut input),
            3 => self.signal(),
            4 => Call::Cancel {
                run: self.some_run(),
                request: self.request("cancel"),
            },
            5 => Call::Terminate {
                run: self.some_run(),
                request: self.request("terminate"),
            },
            6 => {
                let stale = self.dice.chance(25);
                at_least = self.dice.chance(40);
                Call::Get {
                    run: self.some_run(),
                    stale,
                    at_least: None,
                }
            }
            7 => Call::Result {
                run: self.some_run(),
            },
            8 => Call::SetCurrent {
                workflow: self.register(),
                version: u32::try_from(self.dice.between(1, u64::from(REGISTER_VALUES)))
                    .unwrap_or(1),
            },
            9 => Call::GetCurrent {
                workflow: self.register(),
            },
            _ => Call::SetLimit {
                limit: LIMIT.to_string(),
                rate: Some(u32::try_from(self.dice.between(20, 60)).unwrap_or(20)),
                burst: Some(u32::try_from(self.dice.between(1, 10)).unwrap_or(1)),
                concurrency: self.dice.chance(50).then_some(8),
            },
        };
        Want {
            node,
            call,
            input,
            at_least,
        }
    }

    fn start(&mut self, input: &mut Option<String>) -> Call {
        let at = self.runs;
        self.runs += 1;
        self.start_of(at, 0, input)
    }

    fn again(&mut self, other: u64, input: &mut Option<String>) -> Call {
        let back = self.dice.below(LOOKS_BACK.min(self.runs));
        self.start_of(self.runs - 1 - back, other, input)
    }

    /// The start of the `at`-th run; `other` than 0: with another serial.
    fn start_of(&mut self, at: u64, other: u64, input: &mut Option<String>) -> Call {
        let first = self.client * SERIALS_OF_CLIENT + at * SERIALS_OF_RUN;
        // A stream of its own, so that a repeated start draws the same program.
        let mut dice = self.dice.stream(&format!("run-{at}"));
        let mut program = draw(&mut dice, self.workload, first);
        if self.own.is_none() {
            program.serial += other; // a user's own input is always the same, so no start of it is to be refused
        }
        let serial = program.serial;
        *input = Some(match &self.own {
            Some((_, json)) => json.clone(),
            // A value keeps its keys sorted, so the same program is the same text each time.
            None => serde_json::to_value(&program)
                .unwrap_or_default()
                .to_string(),
        });
        Call::Start {
            run: self.run_of(self.client, at),
            workflow: self.workflow(),
            serial,
        }
    }

    fn run_of(&self, client: u64, at: u64) -> String {
        format!("{}-{client}-{at}", self.workload.name)
    }

    /// A run of this client, or of another one that is about as far.
    fn some_run(&mut self) -> String {
        let client = if self.dice.chance(70) {
            self.client
        } else {
            self.dice.below(self.clients)
        };
        let back = self.dice.below(LOOKS_BACK);
        self.run_of(client, self.runs.saturating_sub(1 + back))
    }

    /// A new one, or the same again.
    fn signal(&mut self) -> Call {
        if !self.signals.is_empty() && self.dice.chance(20) {
            return self.dice.pick(&self.signals).clone();
        }
        let serial = (self.client + 1) * SERIALS_OF_CLIENT - self.asked;
        let call = Call::Signal {
            run: self.some_run(),
            name: (*self.dice.pick(&SIGNALS)).to_string(),
            signal_id: format!("s-{}-{}", self.client, self.asked),
            serial,
        };
        if self.signals.len() == 32 {
            self.signals.remove(0);
        }
        self.signals.push(call.clone());
        call
    }

    fn request(&self, what: &str) -> String {
        format!("{what}-{}-{}", self.client, self.asked)
    }

    fn register(&mut self) -> String {
        let spread = self.dice.below(2);
        let at = (self.asked / KEY_FOR * 2 + spread) % REGISTERS.len() as u64;
        REGISTERS[usize::try_from(at).unwrap_or_default()].to_string()
    }
}
