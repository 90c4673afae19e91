//! Refusals and failures as gRPC status: a stable code (`HF…`), what happened, what to do, and when to try again.
//!
//! Invariant: each status carries `ErrorInfo { reason, domain: "holdfast" }`, and `RetryInfo` where the same call may work
//! later. Not here: when something is refused.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use holdfast_proto::domain::wire::{self, BadRequest};
use holdfast_raft::{ProposeError, ReadError, StorageFault};
use holdfast_scheduler::{
    ids::RunId,
    reply::{Rejected, Status as RunStatus},
    rows::Fault,
};

/// Where codes are ours.
const DOMAIN: &str = "holdfast";
/// An election takes about half a second at most when a node dies; a caller asks again a little earlier than that.
const ELECTION_RETRY: Duration = Duration::from_millis(100);
/// Signals that wait are taken at a workflow's pace.
const OVERFLOW_RETRY: Duration = Duration::from_secs(1);
/// Disk is freed by people, or by retention.
const DISK_RETRY: Duration = Duration::from_secs(10);

/// A status with its code.
pub fn coded(code: Code, reason: &str, message: impl Into<String>) -> Status {
    with(code, reason, message, HashMap::new(), None)
}

fn with(
    code: Code,
    reason: &str,
    message: impl Into<String>,
    metadata: HashMap<String, String>,
    retry: Option<Duration>,
) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    if let Some(after) = retry {
        details.set_retry_info(Some(after));
    }
    Status::with_error_details(code, message, details)
}

fn retried(code: Code, reason: &str, message: impl Into<String>, after: Duration) -> Status {
    with(code, reason, message, HashMap::new(), Some(after))
}

/// A refusal by the core.
pub fn rejected(it: &Rejected) -> Status {
    let reason = wire::code(it);
    match it {
        Rejected::UnknownWorkflow { .. }
        | Rejected::UnknownVersion { .. }
        | Rejected::NoSuchRun(_) => coded(Code::NotFound, reason, it.to_string()),
        Rejected::IdConflict(_) => coded(Code::AlreadyExists, reason, it.to_string()),
        Rejected::RunEnded { .. } | Rejected::NotNow { .. } | Rejected::SessionEnded(_) => {
            coded(Code::FailedPrecondition, reason, it.to_string())
        }
        Rejected::StaleFence(_) => coded(Code::Aborted, reason, it.to_string()),
        Rejected::SignalOverflow { .. } => retried(
            Code::ResourceExhausted,
            reason,
            it.to_string(),
            OVERFLOW_RETRY,
        ),
        Rejected::TooLarge { .. } | Rejected::Invalid(_) => {
            coded(Code::InvalidArgument, reason, it.to_string())
        }
    }
}

/// A run ended so long ago that only how it ended is remembered.
pub fn forgotten(id: &RunId, ended: RunStatus) -> Status {
    let what = format!(
        "run {id} ended as {ended:?}, and what it came to is kept no longer; take it from where you stored it"
    );
    coded(Code::NotFound, "HF2005", what)
}

/// A request that is refused before anything is proposed.
pub fn bad_request(it: &BadRequest) -> Status {
    coded(Code::InvalidArgument, bad_request_code(it), it.to_string())
}

/// Its code.
pub fn bad_request_code(it: &BadRequest) -> &'static str {
    match it {
        BadRequest::Invalid { .. } => "HF3002",
        BadRequest::TooLarge { .. } => "HF3001",
    }
}

/// A field that is malformed.
pub fn invalid(field: &str, why: impl std::fmt::Display) -> Status {
    coded(Code::InvalidArgument, "HF3002", format!("{field}: {why}"))
}

/// A proposal that was not answered. `leader`: how clients reach the node that leads.
pub fn propose(it: &ProposeError, leader: Option<String>) -> Status {
    match it {
        ProposeError::NotLeader { group, .. } => not_leader(group.0, leader),
        ProposeError::Overloaded { retry_after, .. } => retried(
            Code::ResourceExhausted,
            "HF1005",
            it.to_string(),
            *retry_after,
        ),
        ProposeError::TooLarge { .. } => coded(Code::InvalidArgument, "HF3001", it.to_string()),
        ProposeError::Unknown => {
            let metadata = HashMap::from([("outcome".to_owned(), "unknown".to_owned())]);
            with(
                Code::Unavailable,
                "HF1001",
                it.to_string(),
                metadata,
                Some(ELECTION_RETRY),
            )
        }
        ProposeError::Stopped => {
            retried(Code::Unavailable, "HF1001", it.to_string(), ELECTION_RETRY)
        }
    }
}

/// Another node leads, or nobody that this node knows of.
pub fn not_leader(partition: u32, leader: Option<String>) -> Status {
    let Some(leader) = leader.filter(|address| !address.is_empty()) else {
        let message =
            format!("partition {partition} has no leader that this node knows of; call again");
        return retried(Code::Unavailable, "HF1001", message, ELECTION_RETRY);
    };
    let message =
        format!("this node does not lead partition {partition}; send the call to {leader}");
    let metadata = HashMap::from([("leader".to_owned(), leader)]);
    with(
        Code::Unavailable,
        "HF1002",
        message,
        metadata,
        Some(Duration::ZERO),
    )
}

/// A read that was not answered.
pub fn read(it: &ReadError) -> Status {
    match it {
        ReadError::NoLeader { .. } => {
            retried(Code::Unavailable, "HF1001", it.to_string(), ELECTION_RETRY)
        }
        ReadError::Behind { .. } => retried(
            Code::DeadlineExceeded,
            "HF1003",
            it.to_string(),
            ELECTION_RETRY,
        ),
        ReadError::Stopped => retried(Code::Unavailable, "HF1001", it.to_string(), ELECTION_RETRY),
        ReadError::Storage(fault @ StorageFault::Diverged { .. }) => {
            coded(Code::Unavailable, "HF6002", fault.to_string())
        }
        ReadError::Storage(_) => {
            tracing::error!(error = %it, "rows cannot be read");
            coded(Code::Internal, "HF9001", it.to_string())
        }
    }
}

/// Rows that cannot be trusted.
pub fn fault(it: &Fault) -> Status {
    tracing::error!(fault = %it, "rows cannot be read");
    coded(
        Code::Internal,
        "HF9001",
        "the rows of this replica cannot be read; ask another node, and replace this one",
    )
}

/// The core answered something that does not belong to the ask.
pub fn unexpected(what: &str) -> Status {
    tracing::error!(what, "an ask got an answer of another kind");
    coded(
        Code::Internal,
        "HF9001",
        format!("{what} got an answer of another kind; please report this"),
    )
}

/// The command broke a rule of ours; its run is quarantined.
pub fn quarantined() -> Status {
    coded(
        Code::Internal,
        "HF9001",
        "the command broke a rule of Holdfast and its run is quarantined; `holdfast run explain` says more, please report it",
    )
}

/// No cluster yet.
pub fn not_formed() -> Status {
    retried(
        Code::Unavailable,
        "HF1001",
        "this node belongs to no cluster yet; run `holdfast cluster init`",
        Duration::from_secs(1),
    )
}

/// There is too little space for what was asked.
pub fn disk(free_percent: u64, mark_percent: u8, what: &str) -> Status {
    retried(
        Code::ResourceExhausted,
        "HF1004",
        format!(
            "{free_percent} % of the disk is free, below the mark of {mark_percent} %: {what} refused; free space on the nodes"
        ),
        DISK_RETRY,
    )
}

#[cfg(test)]
mod tests {
    use holdfast_raft::GroupId;
    use holdfast_scheduler::ids::RunId;

    use super::*;

    #[test]
    fn a_status_carries_its_code_the_leader_and_when_to_retry() {
        let elsewhere = ProposeError::NotLeader {
            group: GroupId(1),
            leader: None,
        };
        let status = propose(&elsewhere, Some("n2:7100".into()));
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            ("HF1002", "holdfast")
        );
        assert_eq!(info.metadata["leader"], "n2:7100");
        let nobody = propose(&elsewhere, None);
        assert_eq!(
            nobody.get_error_details().error_info().unwrap().reason,
            "HF1001"
        );
        assert!(
            nobody
                .get_error_details()
                .retry_info()
                .unwrap()
                .retry_delay
                .is_some()
        );
    }

    #[test]
    fn refusals_keep_their_meaning() {
        let run = RunId::new("order-1").unwrap();
        assert_eq!(
            rejected(&Rejected::IdConflict(run.clone())).code(),
            Code::AlreadyExists
        );
        assert_eq!(rejected(&Rejected::NoSuchRun(run)).code(), Code::NotFound);
    }
}
