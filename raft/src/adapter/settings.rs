//! openraft's settings: the profiles a user may choose, checked for consistency before anything starts.
//!
//! Invariant: what `Profile::config` returns has passed openraft's own validation and ours.
//! Not here: where the profile is read from (`node`).

use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

/// Figures that contradict each other; the message says which, and what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

impl SettingsError {
    fn new(what: String) -> Self {
        Self(what)
    }
}

/// How quickly the cluster notices a dead leader. Must be equal on all nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// One site: heartbeat 60 ms, election 200 to 400 ms, quorum probe 1 s.
    Lan,
    /// Several sites: heartbeat 150 ms, election 1 to 2 s, quorum probe 4 s.
    Wan,
    /// Figures of one's own, in milliseconds.
    Custom {
        /// Between two heartbeats.
        heartbeat_ms: u64,
        /// The shortest election timeout.
        election_min_ms: u64,
        /// The longest election timeout, and the leader's lease.
        election_max_ms: u64,
    },
}

/// The figures of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// The shortest election timeout.
    pub election_min: Duration,
    /// The longest election timeout; the leader's lease is as long.
    pub election_max: Duration,
    /// How often a leader without a quorum falls silent so that others may elect.
    pub quorum_probe: Duration,
}

impl Profile {
    /// The figures this profile stands for.
    pub fn figures(self) -> Figures {
        let ms = Duration::from_millis;
        match self {
            Self::Lan => Figures {
                heartbeat: ms(60),
                election_min: ms(200),
                election_max: ms(400),
                quorum_probe: ms(1000),
            },
            Self::Wan => Figures {
                heartbeat: ms(150),
                election_min: ms(1000),
                election_max: ms(2000),
                quorum_probe: ms(4000),
            },
            Self::Custom {
                heartbeat_ms,
                election_min_ms,
                election_max_ms,
            } => Figures {
                heartbeat: ms(heartbeat_ms),
                election_min: ms(election_min_ms),
                election_max: ms(election_max_ms),
                // Twice the lease is the least openraft takes; the half on top is for the tick.
                quorum_probe: ms(election_max_ms.saturating_mul(5) / 2),
            },
        }
    }

    /// The leader's lease: how long after its newest quorum acknowledgement a leader may still act as one.
    pub fn lease(self) -> Duration {
        self.figures().election_max
    }

    /// Checks the figures against each other.
    ///
    /// # Errors
    /// `SettingsError` says which two figures do not fit and what to change.
    pub fn verify(self) -> Result<(), SettingsError> {
        self.config("holdfast").map(|_| ())
    }

    pub(crate) fn config(self, cluster: &str) -> Result<Config, SettingsError> {
        let figures = self.figures();
        let ms = |it: Duration| u64::try_from(it.as_millis()).unwrap_or(u64::MAX);
        let heartbeat = ms(figures.heartbeat);
        if heartbeat < 10 {
            return Err(SettingsError::new(format!(
                "a heartbeat of {heartbeat} ms costs more than it finds; use 10 ms or more"
            )));
        }
        let config = Config {
            cluster_name: cluster.to_owned(),
            heartbeat_interval: heartbeat,
            // A beat is not sent to a follower that has just acknowledged entries.
            heartbeat_min_interval: Some(heartbeat),
            election_timeout_min: ms(figures.election_min),
            election_timeout_max: ms(figures.election_max),
            enable_pre_vote: Some(true),
            // Followers get an entry while it is being synced here, not one turn of the core later.
            broadcast_submitted_on_append: Some(true),
            // A restored leader keeps its term while what it knew in memory is gone.
            enable_leader_restore: Some(false),
            quorum_loss_probe_interval: Some(ms(figures.quorum_probe)),
            max_payload_entries: 256,
            max_append_entries: Some(1024),
            // The core awaits a full channel inline: admission closes long before this fills.
            state_machine_channel_size: Some(16_384),
            install_snapshot_timeout: 120_000,
            snapshot_policy: SnapshotPolicy::Never,
            // Purging is our policy, never openraft's.
            max_in_snapshot_log_to_keep: u64::MAX / 4,
            backoff: "50ms 100ms ...500ms".into(),
            ..Config::default()
        };
        config.validate().map_err(|cause| {
            SettingsError::new(format!("the figures of `raft.profile` do not fit: {cause}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_profiles_are_consistent() {
        Profile::Lan.verify().unwrap();
        Profile::Wan.verify().unwrap();
    }

    #[test]
    fn figures_that_do_not_fit_are_refused() {
        let beats_slower_than_elections = Profile::Custom {
            heartbeat_ms: 150,
            election_min_ms: 200,
            election_max_ms: 400,
        };
        assert!(beats_slower_than_elections.verify().is_err());
        let no_range = Profile::Custom {
            heartbeat_ms: 60,
            election_min_ms: 400,
            election_max_ms: 400,
        };
        assert!(no_range.verify().is_err());
    }

    #[test]
    fn figures_of_ones_own_are_taken() {
        let slow = Profile::Custom {
            heartbeat_ms: 100,
            election_min_ms: 500,
            election_max_ms: 900,
        };
        slow.verify().unwrap();
    }
}
