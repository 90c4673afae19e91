//! A whole node on a disk as a cut or damage left it: it starts, leads, and every run that was acknowledged is there; or it ends and
//! says why.
//!
//! Invariant: a node that is up and misses a run is the one thing that must not be. Nodes are stopped by their handle.
//! Not here: which disks (`campaign`).

use std::io;
use std::path::Path;
use std::time::Duration;

use holdfast::{Client, ClientError};

use super::record::{SOON, TRACED};
use crate::cluster::{Cluster, ClusterError, ClusterSpec};

/// A sound node of a small disk is ready long before.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// What came of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Served {
    /// It serves, and has all runs.
    Whole,
    /// It serves, and these runs are not there.
    Misses(Vec<String>),
    /// It ended by itself, or did not become ready; the end of its log.
    Ended(String),
}

/// Starts a node of the recorded cluster, the only one of it, on the disk in `folder/n1`, and asks it for these runs.
///
/// # Errors
/// The harness failed.
pub async fn serve(program: &Path, folder: &Path, runs: &[&str]) -> io::Result<Served> {
    let spec = ClusterSpec::new(program, folder)
        .nodes(TRACED)
        .env("HOLDFAST_DISK__SOFT", "2")
        .env("HOLDFAST_DISK__HARD", "1");
    let cluster = Cluster::start(spec).map_err(io::Error::other)?;
    let served = match cluster.wait_ready(READY_WITHIN).await {
        Ok(()) => asked(&cluster, runs).await?,
        Err(ClusterError::Ended { tail, .. } | ClusterError::NotYet { tail, .. }) => {
            Served::Ended(tail)
        }
        Err(other) => return Err(io::Error::other(other)),
    };
    drop(cluster.node(TRACED).kill9()); // one that has ended is what we want
    Ok(served)
}

async fn asked(cluster: &Cluster, runs: &[&str]) -> io::Result<Served> {
    let client = Client::connect(&cluster.endpoints())
        .await
        .map_err(io::Error::other)?;
    let mut missing = Vec::new();
    for run in runs {
        match client.run_json(run).status().await {
            Ok(_) => {}
            Err(ClientError::NotFound(_)) => missing.push((*run).to_owned()),
            // It ended while it was asked: found by what it read.
            Err(_) if cluster.node(TRACED).ended_by_itself() => {
                return Ok(Served::Ended(cluster.node(TRACED).log_tail(4)));
            }
            Err(other) => return Ok(Served::Ended(other.to_string())),
        }
    }
    Ok(if missing.is_empty() {
        Served::Whole
    } else {
        Served::Misses(missing)
    })
}

/// Runs one to its end on a runtime of its own.
///
/// # Errors
/// As for [`serve`].
pub fn serve_now(program: &Path, folder: &Path, runs: &[&str]) -> io::Result<Served> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        tokio::time::timeout(SOON * 2, serve(program, folder, runs))
            .await
            .map_err(io::Error::other)?
    })
}
