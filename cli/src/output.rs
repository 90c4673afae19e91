//! Output and exit codes: data to stdout, talk to stderr. No fetching.

use std::{fmt::Display, process::ExitCode};

use holdfast::{ClientError, RunError};
use serde::Serialize;

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// For people.
    Table,
    /// One JSON value.
    Json,
    /// A JSON value a line.
    Jsonl,
    /// Ids alone, a line each.
    Id,
}

/// What the exit code says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// 0
    Done = 0,
    /// 1
    Error = 1,
    /// 2
    Usage = 2,
    /// 3
    NotFound = 3,
    /// 4: the run failed.
    RunFailed = 4,
    /// 5: the run was cancelled or terminated, or timed out.
    RunCancelled = 5,
    /// 6: gave up waiting.
    GaveUp = 6,
    /// 7: no cluster, or no leader.
    NoCluster = 7,
    /// 8: a conflict or a precondition.
    Conflict = 8,
    /// 9
    NotAllowed = 9,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what was asked.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened and what to do.
    pub message: String,
}

impl Failure {
    /// With this exit code.
    pub fn new(exit: Exit, message: impl Display) -> Self {
        Self {
            exit,
            message: message.to_string(),
        }
    }
    /// An error with no code of its own.
    pub fn error(message: impl Display) -> Self {
        Self::new(Exit::Error, message)
    }
    /// What was typed makes no sense.
    pub fn usage(message: impl Display) -> Self {
        Self::new(Exit::Usage, message)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::NotFound(_) => Exit::NotFound,
            ClientError::IdConflict { .. } => Exit::Conflict,
            ClientError::NotAllowed(_) => Exit::NotAllowed,
            ClientError::Unavailable(_) => Exit::NoCluster,
            ClientError::TimedOut => Exit::GaveUp,
            ClientError::Refused { code, .. } => match code.as_str() {
                "HF3001" | "HF3002" => Exit::Usage,
                "HF2002" | "HF2003" | "HF2004" | "HF5001" | "HF5002" | "HF5004" => Exit::Conflict,
                _ => Exit::Error,
            },
            _ => Exit::Error,
        };
        Self::new(exit, error)
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Client(error) => error.into(),
            RunError::Failed(_) | RunError::BadOutput(_) => Self::new(Exit::RunFailed, error),
            other => Self::new(Exit::RunCancelled, other),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::error(format!("{error:#}"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::error(error)
    }
}

/// A line of data.
#[expect(clippy::print_stdout, reason = "data goes to stdout")]
pub fn line(text: impl Display) {
    println!("{text}");
}

/// A line of talk.
#[expect(clippy::print_stderr, reason = "talk goes to stderr")]
pub fn talk(text: impl Display) {
    eprintln!("{text}");
}

/// Rows with a header, as wide as they need; or JSON; or the ids alone (the first column).
pub fn rows<T: Serialize>(
    form: Form,
    header: &[&str],
    items: &[T],
    cells: impl Fn(&T) -> Vec<String>,
) {
    match form {
        Form::Json => json(&items),
        Form::Jsonl => items.iter().for_each(|item| line(text(item))),
        Form::Id => items
            .iter()
            .for_each(|item| line(cells(item).first().cloned().unwrap_or_default())),
        Form::Table => {
            let mut table = vec![header.iter().map(ToString::to_string).collect::<Vec<_>>()];
            table.extend(items.iter().map(cells));
            for row in aligned(&table) {
                line(row);
            }
        }
    }
}

fn aligned(table: &[Vec<String>]) -> Vec<String> {
    let columns = table.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = table.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let row = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    table.iter().map(row).collect()
}

/// One thing in a form that is not for people: its id, a line, or JSON for people's eyes too.
pub fn one<T: Serialize>(form: Form, id: &str, item: &T) {
    match form {
        Form::Id => line(id),
        Form::Jsonl => line(text(item)),
        Form::Json | Form::Table => json(item),
    }
}

fn text<T: Serialize>(item: &T) -> String {
    serde_json::to_string(item).unwrap_or_else(|cause| format!("{{\"error\":\"{cause}\"}}"))
}

/// One JSON value, for people's eyes too.
pub fn json<T: Serialize>(item: &T) {
    line(serde_json::to_string_pretty(item).unwrap_or_else(|cause| cause.to_string()));
}

/// JSON bytes as they are shown: parsed if they are JSON, else as text.
pub fn payload(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|_| serde_json::Value::String(String::from_utf8_lossy(bytes).into_owned()))
}

/// A span as people say it.
pub fn ago(unix_ms: u64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.map_or(0, |it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX));
    let secs = now.saturating_sub(unix_ms) / 1000;
    match secs {
        0..60 => format!("{secs} s ago"),
        60..3600 => format!("{} min ago", secs / 60),
        3600..86_400 => format!("{} h ago", secs / 3600),
        _ => format!("{} d ago", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_failure_has_its_exit_code() {
        let refused = |code: &str| ClientError::Refused {
            code: code.into(),
            message: String::new(),
        };
        let exit = |error: ClientError| Failure::from(error).exit;
        assert_eq!(exit(ClientError::NotFound("x".into())), Exit::NotFound);
        assert_eq!(
            exit(ClientError::IdConflict { run: "x".into() }),
            Exit::Conflict
        );
        assert_eq!(exit(ClientError::Unavailable("x".into())), Exit::NoCluster);
        assert_eq!(exit(refused("HF3001")), Exit::Usage);
        assert_eq!(exit(refused("HF2002")), Exit::Conflict);
        assert_eq!(Failure::from(RunError::Cancelled).exit, Exit::RunCancelled);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let table = vec![
            vec!["id".to_owned(), "x".into()],
            vec!["order-1".into(), "y".into()],
        ];
        assert_eq!(aligned(&table), ["id       x", "order-1  y"]);
    }
}
