//! Lines of the legal world, in short.

use holdfast_jepsen::records::{Answer, AppliedCommand, TapEvent, TapResult, Work};

use super::play::Play;

/// A command of this kind.
pub fn kind(kind: &str) -> AppliedCommand {
    AppliedCommand {
        kind: kind.into(),
        ..AppliedCommand::default()
    }
}

/// The session of a worker's process.
pub fn session(worker: usize, pid: u32) -> u64 {
    u64::from(pid) * 10 + worker as u64
}

pub fn about(what: &str, play: &Play) -> AppliedCommand {
    AppliedCommand {
        run: Some(play.run.clone()),
        generation: Some(1),
        ..kind(what)
    }
}

pub fn shown(play: &Play) -> Answer {
    Answer::Run {
        status: play.status.into(),
        generation: 1,
        serial: (play.status == "COMPLETED").then_some(play.serial),
    }
}

pub fn status(play: &Play) -> TapEvent {
    TapEvent::Run {
        run: play.run.clone(),
        status: play.status.into(),
    }
}

pub fn drive(play: &Play) -> Work {
    Work::Drive {
        run: play.run.clone(),
    }
}

pub fn step(play: &Play) -> Work {
    Work::Step {
        run: play.run.clone(),
        entry: play.entry,
    }
}

pub fn undo(play: &Play) -> Work {
    Work::Undo {
        run: play.run.clone(),
        entry: play.entry,
    }
}

pub fn began(work: Work, fence: u64, attempt: Option<u32>, session: u64) -> TapEvent {
    TapEvent::LeaseBegan {
        work,
        session,
        fence,
        attempt,
    }
}

pub fn ended(work: Work, fence: u64, session: u64) -> TapEvent {
    TapEvent::LeaseEnded {
        work,
        session,
        fence,
    }
}

pub fn result(work: Work, fence: u64) -> TapResult {
    TapResult {
        work,
        fence,
        outcome: "done".into(),
        limit: None,
        closed_ms: None,
    }
}
