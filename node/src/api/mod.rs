//! The gRPC services: decode, propose or read, encode. No rules.
//!
//! Invariant: every reply carries the position it speaks of; what only the leader can do is forwarded to it once.
//! Not here: what an ask means (`scheduler`), forms (`proto::domain`).

pub mod admin;
pub mod describe;
pub mod forward;
pub mod noop;
pub mod runs;
pub mod status;
pub mod work;

use std::sync::Arc;

use tokio::sync::oneshot;
use tonic::{Request, Response, Status, transport::Channel};

use holdfast_proto::v1;
use holdfast_raft::{Freshness, Groups, Position, ProposeError};
use holdfast_scheduler::{entry::Ask, ids::RunId, reply::Reply, rows::Fault};

use crate::{
    disk::Disk,
    leader::{FromStream, Proposed},
    machine::{Engine, Proposal, SnapshotRows},
    partitions::{Partition, Partitions},
    settings::LeaseTimes,
};

use forward::{Forward, Hop};

/// What all services share.
pub struct Api {
    /// This node's replicas.
    pub partitions: Arc<Partitions>,
    /// Consensus of the whole node.
    pub groups: Arc<Groups<Engine>>,
    /// To other nodes.
    pub forward: Forward,
    /// Space.
    pub disk: Arc<Disk>,
    /// Beat and term of leases.
    pub lease: LeaseTimes,
    /// How long before its term's end a worker stops its steps.
    pub stop_margin: std::time::Duration,
    /// How clients reach this node.
    pub api_address: String,
}

impl Api {
    /// The partition of a run.
    fn home(&self, run: &RunId) -> Result<Arc<Partition>, Status> {
        self.partitions.of(run).ok_or_else(status::not_formed)
    }

    /// All partitions that a call is about.
    fn concerned(&self, hop: Hop) -> Result<Vec<Arc<Partition>>, Status> {
        let mut all = self.partitions.all();
        if all.is_empty() {
            return Err(status::not_formed());
        }
        all.retain(|partition| hop.concerns(partition.group));
        Ok(all)
    }

    /// Proposes an ask, or has the leader answer the whole call. A refusal is an error here.
    async fn ask<M, T, F>(
        &self,
        partition: &Partition,
        ask: Ask,
        (hop, message): (Hop, M),
        answer: impl FnOnce(Reply, v1::Position) -> Result<T, Status>,
        call: impl FnOnce(Channel, Request<M>) -> F,
    ) -> Result<Response<T>, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.disk.verify_proposals()?;
        if partition.replica.is_cut_off() {
            return Err(status::not_leader(partition.group, None));
        }
        match proposed(partition, ask).await {
            Ok((Reply::Rejected(rejected), _)) => Err(status::rejected(&rejected)),
            Ok((Reply::Quarantined, _)) => Err(status::quarantined()),
            Ok((reply, at)) => answer(reply, position(at)).map(Response::new),
            Err(error @ ProposeError::NotLeader { .. }) => {
                let leader = partition.leader_address();
                match leader
                    .filter(|it| hop == Hop::First && !it.is_empty() && *it != self.api_address)
                {
                    Some(leader) => {
                        let other = led_by_another(partition);
                        let call = self.forward.call(&leader, partition.group, message, call);
                        tokio::select! {
                            answered = call => answered,
                            // It may be frozen. Whoever repeats the call reaches the next one.
                            () = other => Err(status::propose(&ProposeError::Unknown, None)),
                        }
                    }
                    None => Err(status::propose(&error, partition.leader_address())),
                }
            }
            Err(error) => Err(status::propose(&error, partition.leader_address())),
        }
    }

    /// Looks at rows as fresh as asked for.
    async fn look<T: Send + 'static>(
        &self,
        partition: &Partition,
        how: Freshness,
        look: impl FnOnce(&SnapshotRows<'_, '_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<(T, v1::Position), Status> {
        let (found, at) = partition
            .replica
            .read(how, |rows| look(&SnapshotRows(rows)))
            .await
            .map_err(|error| status::read(&error))?;
        Ok((found.map_err(|fault| status::fault(&fault))?, position(at)))
    }
}

/// Proposes; a start goes through the leader's shell, which may have a worker for it at once.
async fn proposed(partition: &Partition, ask: Ask) -> Proposed {
    // Without room the leader has much to do: the run is granted when it comes to it.
    if let Ask::Start(start) = &ask
        && partition.clock.now().is_some()
        && let Ok(room) = partition.leader.try_reserve()
    {
        let (answer, answered) = oneshot::channel();
        room.send(FromStream::Start(start.clone(), answer));
        return answered.await.unwrap_or(Err(ProposeError::Unknown));
    }
    partition.replica.propose(Proposal::from(ask)).await
}

/// Resolves once this node hears of a newer term than now.
fn led_by_another(partition: &Partition) -> impl Future<Output = ()> + use<> {
    let mut hints = partition.replica.watch_leader();
    let term = hints.borrow_and_update().term;
    async move {
        if hints.wait_for(|hint| hint.term != term).await.is_err() {
            std::future::pending::<()>().await; // the node stops, and its calls end with it
        }
    }
}

/// A position on the wire.
pub fn position(at: Position) -> v1::Position {
    v1::Position {
        group: at.group.0,
        index: at.index,
        slot: at.slot,
    }
}

/// A request's message, and how it came here.
fn opened<M>(request: Request<M>) -> (Hop, M) {
    let hop = Hop::of(request.metadata());
    (hop, request.into_inner())
}

/// How fresh a read has to be.
fn freshness(group: u32, stale: bool, at_least: Option<v1::Position>) -> Freshness {
    match at_least {
        // A position of another group says nothing about this one.
        Some(position) if position.index > 0 && position.group == group => {
            Freshness::AtLeast(position.index)
        }
        Some(_) | None if stale => Freshness::Stale,
        Some(_) | None => Freshness::Linear,
    }
}
