//! The workloads: which calls, how often, and which programs the runs have.
//!
//! Invariant: a workload is data; the generator and the programs read it. Not here: the choices themselves.

/// One workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Its name.
    pub name: &'static str,
    /// The question it asks.
    pub about: &'static str,
    /// How often each kind of call is made.
    pub(crate) calls: Calls,
    /// What programs consist of.
    pub(crate) programs: Programs,
}

/// Weights of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Calls {
    pub start: u64,
    /// The same start again: attaches.
    pub again: u64,
    /// The same id with another input: refused.
    pub conflict: u64,
    pub signal: u64,
    pub cancel: u64,
    pub terminate: u64,
    pub get: u64,
    pub result: u64,
    pub set_current: u64,
    pub get_current: u64,
    pub set_limit: u64,
}

const CALLS: Calls = Calls {
    start: 40,
    again: 4,
    conflict: 2,
    signal: 0,
    cancel: 0,
    terminate: 0,
    get: 12,
    result: 12,
    set_current: 0,
    get_current: 0,
    set_limit: 0,
};

/// Chances in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Programs {
    /// At most so many things one after the other.
    pub nodes_max: u64,
    pub wait: u64,
    pub timer: u64,
    pub parallel: u64,
    /// Parts of a parallel node, at most.
    pub parts_max: u64,
    pub undo: u64,
    pub fails: u64,
    pub limited: u64,
    pub modes: u64,
    /// Steps take up to this long.
    pub takes_ms_max: u64,
}

const PROGRAMS: Programs = Programs {
    nodes_max: 4,
    wait: 0,
    timer: 0,
    parallel: 0,
    parts_max: 3,
    undo: 0,
    fails: 5,
    limited: 0,
    modes: 0,
    takes_ms_max: 20,
};

/// All of them.
pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "mix",
        about: "everything at once",
        calls: Calls {
            signal: 14,
            cancel: 4,
            terminate: 1,
            set_current: 3,
            get_current: 5,
            set_limit: 1,
            ..CALLS
        },
        programs: Programs {
            wait: 15,
            timer: 12,
            parallel: 12,
            undo: 15,
            fails: 12,
            limited: 8,
            ..PROGRAMS
        },
    },
    Workload {
        name: "submit",
        about: "is an acknowledged start ever lost, doubled or merged",
        calls: Calls {
            start: 60,
            again: 15,
            conflict: 5,
            ..CALLS
        },
        programs: Programs {
            nodes_max: 2,
            ..PROGRAMS
        },
    },
    Workload {
        name: "signals",
        about: "is each signal consumed once, or told as left over",
        calls: Calls {
            signal: 60,
            ..CALLS
        },
        programs: Programs {
            wait: 70,
            ..PROGRAMS
        },
    },
    Workload {
        name: "timers",
        about: "does each timer fire once, and never early",
        calls: CALLS,
        programs: Programs {
            timer: 70,
            ..PROGRAMS
        },
    },
    Workload {
        name: "cancel",
        about: "does each race with a cancel have one winner",
        calls: Calls {
            cancel: 30,
            terminate: 10,
            ..CALLS
        },
        programs: Programs {
            timer: 20,
            undo: 40,
            takes_ms_max: 200,
            ..PROGRAMS
        },
    },
    Workload {
        name: "register",
        about: "are reads of runs and of current versions linearizable",
        calls: Calls {
            start: 25,
            get: 30,
            set_current: 15,
            get_current: 25,
            ..CALLS
        },
        programs: Programs {
            nodes_max: 2,
            ..PROGRAMS
        },
    },
    Workload {
        name: "fanout",
        about: "do many parallel steps of one run each count once",
        calls: Calls { start: 20, ..CALLS },
        programs: Programs {
            parallel: 80,
            parts_max: 16,
            ..PROGRAMS
        },
    },
    Workload {
        name: "ratelimit",
        about: "does a limit hold, and a throttle close it for all",
        calls: Calls {
            set_limit: 4,
            ..CALLS
        },
        programs: Programs {
            limited: 80,
            ..PROGRAMS
        },
    },
    Workload {
        name: "undo",
        about: "is every undo done before the end, in reverse order",
        calls: Calls { cancel: 6, ..CALLS },
        programs: Programs {
            undo: 70,
            fails: 50,
            parallel: 15,
            ..PROGRAMS
        },
    },
    Workload {
        name: "modes",
        about: "what becomes of a lost attempt: again, never again, or first asked about",
        calls: CALLS,
        programs: Programs {
            modes: 90,
            takes_ms_max: 150,
            ..PROGRAMS
        },
    },
];

impl Workload {
    /// The one of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        WORKLOADS.iter().find(|it| it.name == name)
    }
}
