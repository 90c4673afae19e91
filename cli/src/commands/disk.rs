//! `holdfast doctor disk`: is a stopped node's data folder sound?
//!
//! Invariant: the folder is opened as a start opens it, and changed no more than that; the text of a refusal is what a start would say.
//! Not here: what is looked at (`node::sound`).

use std::{
    io::BufRead,
    path::{Path, PathBuf},
};

use holdfast_node::sound::{self, Found, GroupFound, Stage};
use serde::Serialize;

use crate::output::{self, Exit, Failure, Form};

/// Read all of a stopped node's data folder, as a start would open it
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  holdfast doctor disk --node-id 1 /var/lib/holdfast")]
pub struct Disk {
    /// The node's id
    #[arg(long)]
    node_id: u64,
    /// Data folders
    #[arg(required_unless_present = "stdin")]
    folders: Vec<PathBuf>,
    /// Read folders from standard input, one a line, and answer each with a line of JSON
    #[arg(long, hide = true)]
    stdin: bool,
}

/// What is said of one folder.
#[derive(Serialize)]
struct Answer {
    folder: String,
    /// Where a start would stop: `log`, `state`, or `reading`.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused_at: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    #[serde(flatten)]
    found: Option<Disclosed>,
}

#[derive(Serialize)]
struct Disclosed {
    node: u64,
    cluster: Option<String>,
    synced: u64,
    recovered: u64,
    groups: Vec<Group>,
}

#[derive(Serialize)]
struct Group {
    group: u32,
    purged: Option<u64>,
    last: Option<u64>,
    term: Option<u64>,
    vote: Option<(u64, u64, bool)>,
    committed: Option<u64>,
    entries: Vec<(u64, u32)>,
    applied: Option<u64>,
    digest: String,
    rows: u64,
    rows_digest: String,
}

impl Disk {
    /// Looks at each folder.
    ///
    /// # Errors
    /// One of them is not sound.
    pub fn call(self, form: Form) -> Result<(), Failure> {
        if self.stdin {
            for folder in std::io::stdin().lock().lines() {
                let answer = look(Path::new(&folder?), self.node_id);
                output::one(Form::Jsonl, "", &answer);
            }
            return Ok(());
        }
        let mut sound = true;
        for folder in &self.folders {
            if !folder.join("log").exists() {
                let what = format!("{} is no node's data folder", folder.display());
                return Err(Failure::usage(what));
            }
            let answer = look(folder, self.node_id);
            sound &= answer.refused.is_none();
            match form {
                Form::Table => tell(&answer),
                Form::Json | Form::Jsonl | Form::Id => output::one(form, &answer.folder, &answer),
            }
        }
        if sound {
            Ok(())
        } else {
            Err(Failure::new(Exit::Error, ""))
        }
    }
}

fn look(folder: &Path, node: u64) -> Answer {
    let name = folder.display().to_string();
    match sound::look(folder, node) {
        Ok(found) => Answer {
            folder: name,
            refused_at: None,
            refused: None,
            found: Some(disclosed(&found)),
        },
        Err((stage, fault)) => Answer {
            folder: name,
            refused_at: Some(match stage {
                Stage::OpeningLog => "log",
                Stage::OpeningState => "state",
                Stage::Reading => "reading",
            }),
            refused: Some(fault.to_string()),
            found: None,
        },
    }
}

fn disclosed(found: &Found) -> Disclosed {
    Disclosed {
        node: found.ident.node.0,
        cluster: found.reservation.as_ref().map(|it| it.cluster_id.clone()),
        synced: found.synced,
        recovered: found.recovered,
        groups: found.groups.iter().map(group).collect(),
    }
}

fn group(it: &GroupFound) -> Group {
    Group {
        group: it.group.0,
        purged: it.purged.map(|id| id.index),
        last: it.last.map(|id| id.index),
        term: it.last.map(|id| id.term),
        vote: it.vote.map(|vote| (vote.term, vote.node.0, vote.committed)),
        committed: it.committed.map(|id| id.index),
        entries: it.entries.clone(),
        applied: it.applied.map(|id| id.index),
        digest: format!("{:032x}", it.digest),
        rows: it.rows,
        rows_digest: format!("{:032x}", it.rows_digest),
    }
}

fn tell(answer: &Answer) {
    let folder = &answer.folder;
    if let Some(refused) = &answer.refused {
        output::line(format!("{folder}: {refused}"));
    }
    for it in answer.found.iter().flat_map(|found| &found.groups) {
        let (group, entries, rows) = (it.group, it.entries.len(), it.rows);
        let number = |it: Option<u64>| it.map_or_else(|| "none".to_owned(), |it| it.to_string());
        let (last, applied) = (number(it.last), number(it.applied));
        output::line(format!(
            "{folder}: partition {group}: {entries} entries up to {last}, {rows} rows as of entry {applied}: sound"
        ));
    }
}
