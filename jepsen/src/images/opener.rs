//! Opens a disk with the production code: a child process that is given folders and answers what it found in each.
//!
//! Invariant: a child that dies or hangs is an answer, too; the next folder gets a new child. Children are ended by their handle.
//! Not here: whether an answer is good (`judge`).

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use serde::Deserialize;

/// Longer than this no open of a small disk takes, however busy the machine.
const WITHIN: Duration = Duration::from_secs(30);

/// What is found of one group.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Group {
    /// Which.
    pub group: u32,
    /// The last index that was purged.
    pub purged: Option<u64>,
    /// The last index.
    pub last: Option<u64>,
    /// Its term.
    pub term: Option<u64>,
    /// Term, node, and whether it was granted by a quorum.
    pub vote: Option<(u64, u64, bool)>,
    /// The last index known to be committed: a hint.
    pub committed: Option<u64>,
    /// Index and checksum of each entry.
    pub entries: Vec<(u64, u32)>,
    /// Up to which index the state has been applied.
    pub applied: Option<u64>,
    /// The running digest there.
    pub digest: String,
    /// A digest of all rows.
    pub rows_digest: String,
}

/// What is found on a disk.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Found {
    /// The cluster that the node belongs to.
    pub cluster: Option<String>,
    /// Its groups.
    pub groups: Vec<Group>,
}

/// What came of opening a disk.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// It opened, and all of it was read.
    Found(Found),
    /// A start refuses it: where, and the text.
    Refused {
        /// Where: `log`, `state` or `reading`.
        at: String,
        /// The text.
        why: String,
    },
    /// The process died over it.
    Died(String),
    /// The process did not answer.
    Hung,
}

#[derive(Deserialize)]
struct Line {
    refused_at: Option<String>,
    refused: Option<String>,
    #[serde(flatten)]
    found: Option<Found>,
}

/// One child, started when it is needed.
pub struct Opener {
    program: PathBuf,
    node: u64,
    running: Option<Running>,
}

struct Running {
    child: Child,
    input: ChildStdin,
    lines: Receiver<io::Result<String>>,
}

impl Opener {
    /// `program` is the `holdfast` binary; the disks are of this node.
    pub fn new(program: &Path, node: u64) -> Self {
        Self {
            program: program.to_owned(),
            node,
            running: None,
        }
    }

    /// Opens a disk.
    ///
    /// # Errors
    /// The program cannot be started, or answers something else: a fault of the harness.
    pub fn open(&mut self, folder: &Path) -> io::Result<Answer> {
        if self.running.is_none() {
            self.running = Some(self.start()?);
        }
        let running = self.running.as_mut().expect("it was started just now");
        // A child that died already shows below, as the end of its output.
        let _ = writeln!(running.input, "{}", folder.display());
        match running.lines.recv_timeout(WITHIN) {
            Ok(line) => understood(&line?),
            Err(RecvTimeoutError::Timeout) => {
                self.end()?;
                Ok(Answer::Hung)
            }
            Err(RecvTimeoutError::Disconnected) => {
                let how = self.end()?;
                Ok(Answer::Died(how))
            }
        }
    }

    fn start(&self) -> io::Result<Running> {
        let mut child = Command::new(&self.program)
            .args(["doctor", "disk", "--stdin", "--node-id"])
            .arg(self.node.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let input = child
            .stdin
            .take()
            .ok_or_else(|| io::Error::other("no input"))?;
        let output = child
            .stdout
            .take()
            .ok_or_else(|| io::Error::other("no output"))?;
        let (send, lines) = sync_channel(1); // one question, one answer
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Running {
            child,
            input,
            lines,
        })
    }

    fn end(&mut self) -> io::Result<String> {
        let Some(mut running) = self.running.take() else {
            return Ok(String::new());
        };
        drop(running.input);
        let _ = running.child.kill(); // it may have ended
        Ok(running.child.wait()?.to_string())
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        let _ = self.end(); // a child of ours that has ended is what we want
    }
}

fn understood(line: &str) -> io::Result<Answer> {
    let line: Line = serde_json::from_str(line).map_err(io::Error::other)?;
    Ok(match (line.refused, line.found) {
        (Some(why), _) => Answer::Refused {
            at: line.refused_at.unwrap_or_default(),
            why,
        },
        (None, Some(found)) => Answer::Found(found),
        (None, None) => return Err(io::Error::other("an answer that says nothing")),
    })
}
