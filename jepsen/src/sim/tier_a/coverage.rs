//! Assert sometimes: what a campaign must have reached at least once. One that never did proves less than it says.

use holdfast_scheduler::{
    effect::Effect,
    entry::{Ask, AttemptOutcome, Body, Command, Duty, Entry, Expire, Work},
    reply::{AdvanceOutcome, Rejected, Reply, Reported, Status},
    values::run::WakeSource,
};

macro_rules! reached {
    ($($name:ident $text:literal,)*) => {
        /// Something worth reaching.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Reached { $(#[doc = $text] $name,)* }
        /// The same, in words.
        pub const NAMES: &[&str] = &[$($text,)*];
    };
}
reached! {
    Scheduled "status scheduled", Ready "status ready", Running "status running", Waiting "status waiting",
    Paused "status paused", Quarantined "status quarantined", Undoing "status undoing", Completed "status completed",
    Failed "status failed", Cancelled "status cancelled", Terminated "status terminated", TimedOut "status timed out",
    ByReady "moved by a worker to come", ByLease "moved by a lease", ByDeadline "moved by a deadline",
    BySubscription "moved by a signal to come", ByLimit "moved by a place at a limit", ByPerson "moved by a person",
    Start "ask start", Signal "ask signal", Cancel "ask cancel", Terminate "ask terminate", Pause "ask pause",
    Resume "ask resume", Retry "ask retry", Attach "ask attach", Advance "ask advance", Report "ask report",
    Progress "ask progress", Return "ask return", Detach "ask detach", Deploy "ask deploy", SetLimit "ask set limit",
    Noop "ask noop", Grant "duty grant", Admit "duty admit", ExpireSession "duty expire session",
    ExpireAttempt "duty expire attempt", ExpireDrive "duty expire drive", Fire "duty fire due", Repair "duty repair",
    Collect "duty collect", Forgotten "something forgotten",
    UnknownWorkflow "refused: unknown workflow", UnknownVersion "refused: unknown version",
    IdConflict "refused: id conflict", RunEnded "refused: run ended", NoSuchRun "refused: no such run",
    NotNow "refused: not now", StaleFence "refused: stale fence", SessionEnded "refused: session ended",
    SignalOverflow "refused: signal overflow", TooLarge "refused: too large", Invalid "refused: invalid",
    Void "duty void under another epoch", Moot "duty moot", Admitted "a waiter admitted", Stale "report stale",
    GoesOn "drive goes on", Suspended "drive suspended", Finished "drive finished",
    DeliveriesWait "ending refused, deliveries wait", Interrupted "drive interrupted", Superseded "drive superseded",
    Done "attempt done", Retryable "attempt retryable", Terminal "attempt terminal", Throttled "attempt throttled",
    Panicked "attempt panicked", Stopped "attempt stopped", Absent "probe absent", Unsure "probe unsure",
    NewGeneration "a new generation", Repeated "an ask repeated", OldFence "an old fence", Planted "a command broken on purpose",
    Failover "a failover", Restarted "a restart", LargeBatch "an entry of 100 commands and more",
    UndoBegan "an undo began", ProbeBegan "a probe began", News "news to a living driver",
    Led "duties by the leader's thinking", Echoed "a beat echoed", NotEchoed "a beat not echoed", Reoffered "leases offered again",
    Lapsed "a session lapsed", Unknown "a duty with unknown outcome", Late "a duty of an earlier leader",
    BroughtToAnEnd "every run brought to its end", Recoded "an entry and its rows encoded and decoded",
}

/// How often each was reached.
#[derive(Debug, Clone)]
pub struct Coverage([u64; NAMES.len()]);

impl Default for Coverage {
    fn default() -> Self {
        Self([0; NAMES.len()])
    }
}

impl Coverage {
    /// Once more.
    pub fn reach(&mut self, it: Reached) {
        self.0[it as usize] += 1;
    }

    /// How often so far.
    pub fn count(&self, it: Reached) -> u64 {
        self.0[it as usize]
    }

    /// Both together.
    pub fn add(&mut self, other: &Self) {
        for (mine, more) in self.0.iter_mut().zip(other.0) {
            *mine += more;
        }
    }

    /// What was never reached.
    pub fn missing(&self) -> Vec<&'static str> {
        self.counts()
            .filter(|(_, count)| *count == 0)
            .map(|(name, _)| name)
            .collect()
    }

    /// Each with its count.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        NAMES.iter().copied().zip(self.0)
    }

    /// What one applied entry reached.
    pub fn entry(&mut self, entry: &Entry, replies: &[Reply], effects: &[Effect]) {
        let Body::Batch { commands, .. } = &entry.body else {
            self.reach(Reached::Failover);
            return;
        };
        if commands.len() >= 100 {
            self.reach(Reached::LargeBatch);
        }
        for (command, reply) in commands.iter().zip(replies) {
            self.command(command, reply);
        }
        for effect in effects {
            match effect {
                Effect::RunChanged { status, .. } => self.status(*status),
                Effect::JournalGrew { .. } => self.reach(Reached::News),
                Effect::LeaseBegan {
                    work: Work::Undo(..),
                    ..
                } => self.reach(Reached::UndoBegan),
                _ => {}
            }
        }
    }

    fn command(&mut self, command: &Command, reply: &Reply) {
        let kind = match command {
            Command::Ask(ask) => kind_of_ask(ask),
            Command::Duty(duty) => kind_of_duty(duty),
        };
        self.reach(kind);
        match (command, reply) {
            (_, Reply::Rejected(rejected)) => self.reach(kind_of_refusal(rejected)),
            (_, Reply::Void) => self.reach(Reached::Void),
            (_, Reply::Moot) => self.reach(Reached::Moot),
            (_, Reply::Reported(Reported::Stale)) => self.reach(Reached::Stale),
            (Command::Duty(Duty::Admit(_)), Reply::Did { count, .. }) if *count > 0 => {
                self.reach(Reached::Admitted);
            }
            (Command::Ask(Ask::Report(it)), Reply::Reported(_)) => self.outcome(&it.result.outcome),
            (Command::Ask(Ask::Advance(it)), Reply::Advanced(advanced)) => {
                for result in &it.results {
                    self.outcome(&result.outcome);
                }
                self.drive(&advanced.outcome);
            }
            (Command::Duty(Duty::Collect(_)), Reply::Did { count: 1.., .. }) => {
                self.reach(Reached::Forgotten);
            }
            (
                Command::Ask(Ask::Start(_)),
                Reply::Started {
                    generation,
                    created: true,
                    ..
                },
            ) if generation.0 > 1 => {
                self.reach(Reached::NewGeneration);
            }
            _ => {}
        }
    }

    fn outcome(&mut self, outcome: &AttemptOutcome) {
        self.reach(match outcome {
            AttemptOutcome::Done(_) => Reached::Done,
            AttemptOutcome::Retryable { .. } => Reached::Retryable,
            AttemptOutcome::Terminal { .. } => Reached::Terminal,
            AttemptOutcome::Throttled { .. } => Reached::Throttled,
            AttemptOutcome::Panicked(_) => Reached::Panicked,
            AttemptOutcome::Stopped => Reached::Stopped,
            AttemptOutcome::Absent => Reached::Absent,
            AttemptOutcome::Unsure(_) => Reached::Unsure,
        });
    }

    fn drive(&mut self, outcome: &AdvanceOutcome) {
        self.reach(match outcome {
            AdvanceOutcome::GoesOn => Reached::GoesOn,
            AdvanceOutcome::Suspended => Reached::Suspended,
            AdvanceOutcome::Finished => Reached::Finished,
            AdvanceOutcome::DeliveriesWait => Reached::DeliveriesWait,
            AdvanceOutcome::Interrupted => Reached::Interrupted,
            AdvanceOutcome::Superseded => Reached::Superseded,
        });
    }

    fn status(&mut self, status: Status) {
        self.reach(match status {
            Status::Scheduled => Reached::Scheduled,
            Status::Ready => Reached::Ready,
            Status::Running => Reached::Running,
            Status::Waiting => Reached::Waiting,
            Status::Paused => Reached::Paused,
            Status::Quarantined => Reached::Quarantined,
            Status::Undoing => Reached::Undoing,
            Status::Completed => Reached::Completed,
            Status::Failed => Reached::Failed,
            Status::Cancelled => Reached::Cancelled,
            Status::Terminated => Reached::Terminated,
            Status::TimedOut => Reached::TimedOut,
        });
    }

    /// What will move a run.
    pub fn woken_by(&mut self, source: WakeSource) {
        self.reach(match source {
            WakeSource::Ready => Reached::ByReady,
            WakeSource::Lease => Reached::ByLease,
            WakeSource::Deadline => Reached::ByDeadline,
            WakeSource::Subscription => Reached::BySubscription,
            WakeSource::Limit => Reached::ByLimit,
            WakeSource::Held => Reached::ByPerson,
        });
    }
}

fn kind_of_ask(ask: &Ask) -> Reached {
    match ask {
        Ask::Start(_) => Reached::Start,
        Ask::Signal(_) => Reached::Signal,
        Ask::Cancel(_) => Reached::Cancel,
        Ask::Terminate(_) => Reached::Terminate,
        Ask::Pause(_) => Reached::Pause,
        Ask::Resume(_) => Reached::Resume,
        Ask::Retry(_) => Reached::Retry,
        Ask::Attach(_) => Reached::Attach,
        Ask::Advance(_) => Reached::Advance,
        Ask::Report(_) => Reached::Report,
        Ask::Progress(_) => Reached::Progress,
        Ask::Return(_) => Reached::Return,
        Ask::Detach(_) => Reached::Detach,
        Ask::Deploy(_) => Reached::Deploy,
        Ask::SetLimit(_) => Reached::SetLimit,
        Ask::Noop(_) => Reached::Noop,
    }
}

fn kind_of_duty(duty: &Duty) -> Reached {
    match duty {
        Duty::Grant(_) => Reached::Grant,
        Duty::Admit(_) => Reached::Admit,
        Duty::Expire(Expire::Session { .. }) => Reached::ExpireSession,
        Duty::Expire(Expire::Attempt { .. }) => Reached::ExpireAttempt,
        Duty::Expire(Expire::Drive { .. }) => Reached::ExpireDrive,
        Duty::FireDue { .. } => Reached::Fire,
        Duty::Collect(_) => Reached::Collect,
        Duty::Repair(_) => Reached::Repair,
    }
}

fn kind_of_refusal(rejected: &Rejected) -> Reached {
    match rejected {
        Rejected::UnknownWorkflow { .. } => Reached::UnknownWorkflow,
        Rejected::UnknownVersion { .. } => Reached::UnknownVersion,
        Rejected::IdConflict(_) => Reached::IdConflict,
        Rejected::RunEnded { .. } => Reached::RunEnded,
        Rejected::NoSuchRun(_) => Reached::NoSuchRun,
        Rejected::NotNow { .. } => Reached::NotNow,
        Rejected::StaleFence(_) => Reached::StaleFence,
        Rejected::SessionEnded(_) => Reached::SessionEnded,
        Rejected::SignalOverflow { .. } => Reached::SignalOverflow,
        Rejected::TooLarge { .. } => Reached::TooLarge,
        Rejected::Invalid(_) => Reached::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_reached_is_named() {
        let mut coverage = Coverage::default();
        coverage.reach(Reached::Echoed);
        let missing = coverage.missing();
        assert_eq!(missing.len(), NAMES.len() - 1);
        assert!(!missing.contains(&"a beat echoed"));
    }
}
