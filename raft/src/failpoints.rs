//! Named points at which a test run kills, stops or delays this process: `holdfast serve --list-failpoints` prints them.
//!
//! Invariant: without feature `chaos` a point is nothing at all, and the released binary has none. With it, a point that is
//! not armed costs one relaxed load. A point acts only as it was told; each action is logged before it is carried out.
//! Not here: when a run arms which (`holdfast-jepsen`), the API's own points (they use this too: `node`).

/// All points, and what has happened when one is reached.
pub const POINTS: [(&str, &str); 26] = [
    (
        "log::before-write",
        "a batch of the log is about to be written",
    ),
    ("log::after-write", "… is written and not synced"),
    (
        "log::after-sync",
        "… is synced; the watermark does not say so yet",
    ),
    (
        "log::before-callback",
        "… is in the watermark; nobody was told",
    ),
    ("log::after-callback", "… and whoever waited was told"),
    ("vote::before-write", "a vote is about to be written"),
    (
        "vote::after-write",
        "a vote is durable; who asked for it was not told",
    ),
    (
        "append::before-reply",
        "a follower has synced entries and is about to say so to the leader",
    ),
    ("apply::before", "an entry is about to be applied"),
    (
        "apply::after",
        "an entry is applied in memory; nobody was told",
    ),
    (
        "apply::before-write-out",
        "rows and pointer are about to be written to the state",
    ),
    (
        "apply::after-write-out",
        "rows and pointer are written and not flushed",
    ),
    ("snapshot::before-build", "a snapshot is about to be built"),
    (
        "snapshot::built",
        "a snapshot is built: the state is flushed",
    ),
    (
        "snapshot::received",
        "a snapshot came in whole and is about to be installed",
    ),
    (
        "install::ingested",
        "the rows of a snapshot are in the state, under a generation that does not count yet",
    ),
    (
        "install::pointed",
        "the pointer says that it counts, in memory",
    ),
    ("install::flushed", "… and on disk"),
    (
        "install::dropped",
        "the rows of the earlier generation are gone",
    ),
    (
        "purge::before-write",
        "a purge of the log is about to be written",
    ),
    (
        "purge::after-write",
        "a purge of the log is written and not synced",
    ),
    (
        "reply::before",
        "a command is applied on the leader; its client was not told",
    ),
    (
        "reply::after",
        "a command is applied on the leader, and its client's answer is on the way",
    ),
    (
        "lead::before-claim",
        "this node was elected and has not proposed to take the group over",
    ),
    (
        "lead::after-claim",
        "this node has applied its own taking over and has done nothing yet",
    ),
    (
        "grant::before-send",
        "a grant is committed and its worker was not told",
    ),
];

#[cfg(feature = "chaos")]
pub use armed::{arm, broken, follow, reach, reached};

/// A point is reached.
#[cfg(not(feature = "chaos"))]
#[inline(always)]
#[allow(clippy::inline_always, reason = "nothing of it is to be left")]
pub fn reach(_: &'static str) {}

/// A point is reached at which something may be made to fail. Whether it does.
#[cfg(not(feature = "chaos"))]
#[inline(always)]
#[must_use]
#[allow(clippy::inline_always, reason = "nothing of it is to be left")]
pub fn broken(_: &'static str) -> bool {
    false
}

#[cfg(feature = "chaos")]
mod armed {
    use std::collections::HashMap;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use parking_lot::Mutex;

    use super::POINTS;

    /// How often the control file is looked at.
    const LOOK_EVERY: Duration = Duration::from_millis(20);
    /// No point holds its thread up for longer.
    const SLEEP_MAX: Duration = Duration::from_mins(1);

    static ANY: AtomicBool = AtomicBool::new(false);
    static ARMED: Mutex<Option<HashMap<&'static str, Armed>>> = Mutex::new(None);

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Action {
        /// The process is gone, as by SIGKILL.
        Kill,
        /// This thread panics.
        Panic,
        /// What was about to be done fails, where the point has something to fail.
        Error,
        /// This thread waits.
        Sleep(Duration),
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Armed {
        action: Action,
        /// At this time of reaching it alone; none: each time.
        nth: Option<u64>,
        reached: u64,
    }

    /// Arms points anew: `NAME=ACTION[@NTH]`, parted by `;` or lines. Actions: `kill`, `panic`, `error`, `sleep(MS)`. With
    /// `@3` a point acts when it is reached the third time, and never again. An empty text disarms all.
    ///
    /// # Errors
    /// What cannot be read; nothing is armed then.
    pub fn arm(spec: &str) -> Result<(), String> {
        let parts = spec.split([';', '\n']).map(str::trim);
        let parts = parts.filter(|it| !it.is_empty() && !it.starts_with('#'));
        let points = parts.map(parse).collect::<Result<HashMap<_, _>, _>>()?;
        let mut armed = ARMED.lock();
        ANY.store(!points.is_empty(), Ordering::Relaxed);
        *armed = Some(points);
        Ok(())
    }

    fn parse(part: &str) -> Result<(&'static str, Armed), String> {
        let wrong = |why: &str| format!("failpoint {part:?}: {why}");
        let (name, rest) = part
            .split_once('=')
            .ok_or_else(|| wrong("give NAME=ACTION"))?;
        let known = POINTS.iter().find(|(known, _)| *known == name.trim());
        let (name, _) = known.ok_or_else(|| wrong("no such point; --list-failpoints shows all"))?;
        let (action, nth) = match rest.split_once('@') {
            None => (rest, None),
            Some((action, nth)) => {
                let nth = nth.trim().parse::<u64>().ok().filter(|nth| *nth > 0);
                (
                    action,
                    Some(nth.ok_or_else(|| wrong("after @ a number from 1"))?),
                )
            }
        };
        let action = match action.trim() {
            "kill" => Action::Kill,
            "panic" => Action::Panic,
            "error" => Action::Error,
            other => {
                let ms = other
                    .strip_prefix("sleep(")
                    .and_then(|it| it.strip_suffix(')'));
                let ms = ms.and_then(|it| it.trim().parse().ok());
                let ms = ms.ok_or_else(|| wrong("it is kill, panic, error or sleep(MS)"))?;
                Action::Sleep(Duration::from_millis(ms).min(SLEEP_MAX))
            }
        };
        let armed = Armed {
            action,
            nth,
            reached: 0,
        };
        Ok((*name, armed))
    }

    /// Arms whatever this file says, now and whenever it changes; without the file nothing is armed by it.
    ///
    /// # Errors
    /// The system gave no thread.
    pub fn follow(file: PathBuf) -> std::io::Result<()> {
        let mut last = String::new();
        let look = move || loop {
            let now = std::fs::read_to_string(&file).unwrap_or_default();
            if now != last {
                match arm(&now) {
                    Ok(()) => tracing::warn!(armed = now.trim(), "failpoints"),
                    Err(why) => tracing::error!(%why, "failpoints stay as they are"),
                }
                last = now;
            }
            std::thread::sleep(LOOK_EVERY);
        };
        let thread = std::thread::Builder::new().name("failpoints".to_owned());
        thread.spawn(look).map(drop)
    }

    /// A point is reached.
    pub fn reach(name: &'static str) {
        let _nothing_to_fail = broken(name);
    }

    /// A point is reached at which something may be made to fail. Whether it does.
    #[must_use]
    pub fn broken(name: &'static str) -> bool {
        if !ANY.load(Ordering::Relaxed) {
            return false;
        }
        let Some(action) = due(name) else {
            return false;
        };
        tracing::warn!(point = name, ?action, "failpoint");
        match action {
            Action::Kill => {
                let this = rustix::process::getpid();
                // SIGKILL to ourselves; should the system refuse it, the end is as sudden.
                let _ = rustix::process::kill_process(this, rustix::process::Signal::KILL);
                std::process::abort();
            }
            Action::Panic => panic!("failpoint {name}"),
            Action::Error => true,
            Action::Sleep(span) => {
                std::thread::sleep(span);
                false
            }
        }
    }

    /// How often an armed point was reached since it was armed.
    pub fn reached(name: &str) -> u64 {
        let armed = ARMED.lock();
        let found = armed.as_ref().and_then(|all| all.get(name));
        found.map_or(0, |it| it.reached)
    }

    fn due(name: &'static str) -> Option<Action> {
        let mut all = ARMED.lock();
        let armed = all.as_mut()?.get_mut(name)?;
        armed.reached += 1;
        let due = armed.nth.is_none_or(|nth| nth == armed.reached);
        due.then_some(armed.action)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_point_acts_at_the_time_that_was_asked_for_and_others_do_not() {
            arm("apply::after=error@2; log::after-sync = sleep(1)\n# nothing\n").unwrap();
            let hits: Vec<bool> = (0..4).map(|_| broken("apply::after")).collect();
            assert_eq!(hits, [false, true, false, false]);
            assert!(!broken("log::after-sync") && !broken("apply::before"));
            arm("").unwrap();
            assert!(!ANY.load(Ordering::Relaxed) && !broken("apply::after"));
        }

        #[test]
        fn what_cannot_be_read_is_refused_with_a_reason() {
            for (spec, why) in [
                ("nowhere=kill", "no such point"),
                ("apply::after", "NAME=ACTION"),
                ("apply::after=nap", "kill, panic, error"),
                ("apply::after=kill@0", "a number from 1"),
            ] {
                let said = parse(spec).unwrap_err();
                assert!(said.contains(why), "{said}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::POINTS;

    fn sources(folder: &std::path::Path, into: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, into);
            } else if path.file_name().is_some_and(|name| name != "failpoints.rs") {
                into.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }

    #[test]
    fn every_point_of_the_table_is_in_the_code_and_every_one_in_the_code_is_in_the_table() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut text = String::new();
        sources(&root.join("src"), &mut text);
        sources(&root.join("../node/src"), &mut text);
        for (name, _) in POINTS {
            assert!(text.contains(&format!("(\"{name}\"")), "{name} is nowhere");
        }
        for call in ["failpoints::reach(\"", "failpoints::broken(\""] {
            for (at, _) in text.match_indices(call) {
                let name = text[at + call.len()..].split('"').next().unwrap();
                assert!(POINTS.iter().any(|(known, _)| *known == name), "{name}");
            }
        }
    }
}
