//! `holdfast doctor`: looks for trouble on this machine. Silent when well.

use std::{io::Write, time::Instant};

use crate::{
    Globals,
    output::{self, Exit, Failure},
};

/// A sync slower than this makes every step slow.
const SYNC_MS_MAX: u128 = 20;
/// A busy node has thousands of connections and files.
const OPEN_FILES_MIN: u64 = 4_096;

/// Look for trouble on this machine.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  holdfast doctor\n  holdfast doctor healthcheck")]
pub struct Doctor {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(clap::Subcommand)]
enum What {
    /// Whether the node at the endpoints answers, for containers
    Healthcheck,
}

impl Doctor {
    /// One line per trouble.
    ///
    /// # Errors
    /// There is trouble, or the node does not answer.
    pub async fn call(self, globals: &Globals) -> Result<(), Failure> {
        if matches!(self.what, Some(What::Healthcheck)) {
            super::client(globals).await?.topology().await?;
            return Ok(());
        }
        let troubles: Vec<String> = [slow_sync()?, few_files()].into_iter().flatten().collect();
        troubles.iter().for_each(output::line);
        if troubles.is_empty() {
            Ok(())
        } else {
            Err(Failure::new(Exit::Error, ""))
        }
    }
}

/// The median of a few syncs in the current folder.
fn slow_sync() -> Result<Option<String>, Failure> {
    let path = std::env::temp_dir().join(format!("holdfast-doctor-{}", std::process::id()));
    let mut file = std::fs::File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..9 {
        let began = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        times.push(began.elapsed().as_millis());
    }
    std::fs::remove_file(&path)?;
    times.sort_unstable();
    let median = times[times.len() / 2];
    Ok((median > SYNC_MS_MAX).then(|| {
        format!(
            "a sync of {} takes {median} ms; every step waits for one: use a faster disk",
            path.display()
        )
    }))
}

fn few_files() -> Option<String> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))?;
    let soft: u64 = line.split_whitespace().nth(3)?.parse().ok()?;
    (soft < OPEN_FILES_MIN)
        .then(|| format!("only {soft} files may be open; raise it: ulimit -n 65536"))
}
