//! A store folder as values: every file that a test run left, read once.
//!
//! Invariant: nothing is guessed. The last line of a file may be torn by a crash and is then left out; any other line that cannot
//! be read is named with its file and number, and makes the whole test run unknown. Not here: what the lines mean.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::checker::status::Group;
use crate::records::{
    Applied, Body, EFFECTS, Effect, Fault, FinalRun, HISTORY, JOURNAL_PREFIX, NEMESIS, Op, SETUP,
    Setup, TAP_PREFIX, WORKERS_PREFIX,
};

/// What each node said of its groups, once a second: a table with a head.
const GROUPS: &str = "groups.csv";

/// Everything that one test run wrote down.
#[derive(Debug, Clone, Default)]
pub struct Store {
    /// How the run was made.
    pub setup: Setup,
    /// Operations, by the time they were sent.
    pub history: Vec<Op>,
    /// Calls that the sink received, in the order judged.
    pub effects: Vec<Effect>,
    /// Bodies of all workers, by time.
    pub bodies: Vec<Body>,
    /// What each node applied, in the order written; by the node's name, `n1`.
    pub taps: BTreeMap<String, Vec<Applied>>,
    /// Faults, by time.
    pub faults: Vec<Fault>,
    /// Runs as each node has them after the heal.
    pub journals: BTreeMap<String, Vec<FinalRun>>,
    /// What nodes said of their groups, by time; empty where nobody asked them.
    pub groups: Vec<Group>,
    /// What could not be read, with file and line, or is missing.
    pub unreadable: Vec<String>,
}

impl Store {
    /// Reads a folder. What cannot be read is told by `unreadable`.
    pub fn read(folder: &Path) -> Self {
        let mut store = Self::default();
        let mut names: Vec<String> = match std::fs::read_dir(folder) {
            Ok(entries) => entries
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .collect(),
            Err(cause) => {
                let what = format!("{} cannot be read: {cause}", folder.display());
                store.unreadable.push(what);
                return store;
            }
        };
        names.sort();
        for must in [SETUP, HISTORY, EFFECTS, NEMESIS] {
            if !names.iter().any(|name| name == must) {
                store.unreadable.push(format!("{must} is missing"));
            }
        }
        for prefix in [TAP_PREFIX, JOURNAL_PREFIX] {
            if !names.iter().any(|name| name.starts_with(prefix)) {
                store.unreadable.push(format!("no {prefix}N.jsonl"));
            }
        }
        for name in &names {
            store.take(folder, name);
        }
        if names.iter().any(|name| name == SETUP) && store.setup.phases[3] == 0 {
            let what = format!("{SETUP}: the test run did not come to its end");
            store.unreadable.push(what);
        }
        store.sort();
        store
    }

    fn take(&mut self, folder: &Path, name: &str) {
        let node = |prefix: &str| {
            let rest = name.strip_prefix(prefix)?.strip_suffix(".jsonl")?;
            Some(format!("n{rest}"))
        };
        let path = folder.join(name);
        let bad = &mut self.unreadable;
        match name {
            SETUP => match std::fs::read(&path).map(|text| serde_json::from_slice(&text)) {
                Ok(Ok(setup)) => self.setup = setup,
                Ok(Err(cause)) => bad.push(format!("{name}: {cause}")),
                Err(cause) => bad.push(format!("{name}: {cause}")),
            },
            HISTORY => self.history = lines(&path, name, bad),
            EFFECTS => self.effects = lines(&path, name, bad),
            NEMESIS => self.faults = lines(&path, name, bad),
            GROUPS => self.groups = groups(&path, name, bad),
            _ => {
                if let Some(node) = node(TAP_PREFIX) {
                    self.taps.insert(node, lines(&path, name, bad));
                } else if let Some(node) = node(JOURNAL_PREFIX) {
                    self.journals.insert(node, lines(&path, name, bad));
                } else if node(WORKERS_PREFIX).is_some() {
                    self.bodies.extend(lines(&path, name, bad));
                }
            }
        }
    }

    /// Puts each kind of line in its order; what was read or made up in a test may come in any.
    pub fn sort(&mut self) {
        self.history.sort_by_key(|op| (op.t_inv, op.id));
        self.effects.sort_by_key(|effect| effect.seq);
        self.bodies.sort_by_key(|body| body.t);
        self.faults.sort_by_key(|fault| fault.t);
        self.groups.sort_by_key(|it| it.t);
    }
}

/// The lines of a file; a last line without its end is left out.
fn lines<T: DeserializeOwned>(path: &Path, name: &str, bad: &mut Vec<String>) -> Vec<T> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(cause) => {
            bad.push(format!("{name}: {cause}"));
            return Vec::new();
        }
    };
    let mut read = Vec::new();
    let all: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let last = all.len() - 1; // what stands after the last line's end: nothing, or a torn line
    for (number, line) in (1..).zip(&all) {
        if line.is_empty() {
            continue;
        }
        match serde_json::from_slice(line) {
            Ok(value) => read.push(value),
            Err(_) if number == last + 1 => {}
            Err(cause) => bad.push(format!("{name}:{number}: {cause}")),
        }
    }
    read
}

/// The lines of a table below its head; a last line without its end is left out.
fn groups(path: &Path, name: &str, bad: &mut Vec<String>) -> Vec<Group> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(cause) => {
            bad.push(format!("{name}: {cause}"));
            return Vec::new();
        }
    };
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut read = Vec::new();
    for (number, line) in (1..).zip(whole.lines()).skip(1) {
        match Group::read(line) {
            Some(group) => read.push(group),
            None => bad.push(format!("{name}:{number}: not a line of this table")),
        }
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<u64>, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        std::fs::write(&path, text).unwrap();
        let mut bad = Vec::new();
        (lines(&path, "x.jsonl", &mut bad), bad)
    }

    #[test]
    fn only_the_last_line_may_be_torn() {
        assert_eq!(read("1\n2\n3\n"), (vec![1, 2, 3], vec![]));
        assert_eq!(read("1\n2\n{\"a"), (vec![1, 2], vec![]));
        let (read, bad) = read("1\n{\"a\n3\n");
        assert_eq!(read, [1, 3]);
        assert!(bad[0].starts_with("x.jsonl:2: "), "{bad:?}");
    }

    #[test]
    fn a_malformed_last_line_that_has_its_end_is_named() {
        let (_, bad) = read("1\nx\n");
        assert_eq!(bad.len(), 1);
    }

    #[test]
    fn missing_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::read(folder.path());
        assert!(
            store
                .unreadable
                .contains(&"history.jsonl is missing".to_owned())
        );
        assert!(store.unreadable.contains(&"no tap.nN.jsonl".to_owned()));
    }
}
