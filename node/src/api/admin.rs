//! `Workflows`, `Limits` and `Cluster`: what operators list and change.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use holdfast_proto::{
    domain::wire,
    v1::{
        self, cluster_client::ClusterClient, cluster_server::Cluster, limits_client::LimitsClient,
        limits_server::Limits, workflows_client::WorkflowsClient, workflows_server::Workflows,
    },
};
use holdfast_raft::{ChangeError, FormError, Freshness, GroupId, MemberError, Named, NodeId};
use holdfast_scheduler::{
    entry::Ask,
    ids::Version,
    reply::Reply,
    rows::TypedRows,
    views::{self, WorkflowView},
};

use super::{Api, Hop, describe, noop, opened, status};
use crate::partitions::Partition;

/// `Workflows`.
pub struct WorkflowsApi(pub Arc<Api>);
/// `Limits`.
pub struct LimitsApi(pub Arc<Api>);
/// `Cluster`.
pub struct ClusterApi(pub Arc<Api>);

#[tonic::async_trait]
impl Workflows for WorkflowsApi {
    async fn list(
        &self,
        request: Request<v1::ListWorkflowsRequest>,
    ) -> Result<Response<v1::ListWorkflowsReply>, Status> {
        let mut reply = v1::ListWorkflowsReply::default();
        for partition in self.0.concerned(opened(request).0)? {
            let look = self
                .0
                .look(&partition, Freshness::Linear, |rows| views::workflows(rows));
            let (found, position) = look.await?;
            reply.positions.push(position);
            reply.workflows.extend(
                found
                    .iter()
                    .map(|it| describe::workflow(partition.group, it)),
            );
        }
        Ok(Response::new(reply))
    }

    async fn set_current(
        &self,
        request: Request<v1::SetCurrentRequest>,
    ) -> Result<Response<v1::SetCurrentReply>, Status> {
        let (hop, it) = opened(request);
        let deploy = wire::deploy(it.clone()).map_err(|it| status::bad_request(&it))?;
        let mut whole = v1::SetCurrentReply::default();
        for partition in self.0.concerned(hop)? {
            let answer = |reply, position| match reply {
                Reply::Deployed { previous } => Ok(v1::SetCurrentReply {
                    positions: vec![position],
                    previous: previous.unwrap_or(Version(0)).0,
                }),
                _ => Err(status::unexpected("a deploy")),
            };
            let ask = Ask::Deploy(deploy.clone());
            let call = |channel, request| async move {
                WorkflowsClient::new(channel).set_current(request).await
            };
            let part = self
                .0
                .ask(&partition, ask, (hop, it.clone()), answer, call)
                .await?;
            let part = part.into_inner();
            whole.positions.extend(part.positions);
            whole.previous = whole.previous.max(part.previous);
        }
        Ok(Response::new(whole))
    }
}

#[tonic::async_trait]
impl Limits for LimitsApi {
    async fn set(
        &self,
        request: Request<v1::SetLimitRequest>,
    ) -> Result<Response<v1::SetLimitReply>, Status> {
        let (hop, it) = opened(request);
        let set = wire::set_limit(it.clone()).map_err(|it| status::bad_request(&it))?;
        let mut whole = v1::SetLimitReply::default();
        for partition in self.0.concerned(hop)? {
            let answer = |reply, position| {
                let previous = match reply {
                    Reply::LimitSet { previous } => previous,
                    Reply::Done => None,
                    _ => return Err(status::unexpected("a change of a limit")),
                };
                Ok(v1::SetLimitReply {
                    positions: vec![position],
                    existed: previous.is_some(),
                    previous: previous.as_ref().map(wire::limit_spec_to),
                })
            };
            let ask = Ask::SetLimit(set.clone());
            let call =
                |channel, request| async move { LimitsClient::new(channel).set(request).await };
            let part = self
                .0
                .ask(&partition, ask, (hop, it.clone()), answer, call)
                .await?;
            let part = part.into_inner();
            whole.positions.extend(part.positions);
            whole.existed |= part.existed;
            whole.previous = whole.previous.or(part.previous);
        }
        Ok(Response::new(whole))
    }

    async fn list(
        &self,
        request: Request<v1::ListLimitsRequest>,
    ) -> Result<Response<v1::ListLimitsReply>, Status> {
        let mut reply = v1::ListLimitsReply::default();
        for partition in self.0.concerned(opened(request).0)? {
            let now = partition.clock.now();
            let look = self.0.look(&partition, Freshness::Linear, move |rows| {
                let clock = rows.group()?.unwrap_or_default().clock;
                Ok((views::limits(rows)?, now.unwrap_or(clock)))
            });
            let ((found, now), position) = look.await?;
            reply.positions.push(position);
            let shown = found
                .iter()
                .map(|it| describe::limit(partition.group, it, now));
            reply.limits.extend(shown);
        }
        Ok(Response::new(reply))
    }
}

fn form_error(error: &FormError) -> Status {
    let code = match error {
        // Final: another node of the cluster would not reach it either, and a person waits.
        FormError::Unreachable { .. } => {
            return status::coded(Code::FailedPrecondition, "HF1001", error.to_string());
        }
        FormError::Refused(_) | FormError::Taken { .. } => Code::FailedPrecondition,
        FormError::Open(_) => Code::Internal,
    };
    status::coded(code, "HF3002", error.to_string())
}

fn member_error(error: &MemberError, partition: &Partition) -> Status {
    match error {
        MemberError::Change(ChangeError::NotLeader { group, .. }) => {
            status::not_leader(group.0, partition.leader_address())
        }
        MemberError::Form(error) => form_error(error),
        MemberError::Change(ChangeError::Stopped | ChangeError::Unknown)
        | MemberError::Slow { .. } => Status::unavailable(error.to_string()),
        MemberError::Change(ChangeError::Raced(_)) => Status::aborted(error.to_string()),
        MemberError::Change(ChangeError::Refused(_)) | MemberError::Refused(_) => {
            status::coded(Code::FailedPrecondition, "HF3002", error.to_string())
        }
    }
}

fn given(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

impl ClusterApi {
    fn nodes(&self) -> Vec<v1::NodeInfo> {
        let mut nodes: BTreeMap<u64, v1::NodeInfo> = BTreeMap::new();
        for partition in self.0.partitions.all() {
            let status = partition.replica.status();
            for (id, member) in &status.members {
                nodes.insert(
                    id.0,
                    v1::NodeInfo {
                        node: id.0,
                        api: member.api_address.clone(),
                        peer: member.peer_address.clone(),
                        voter: status.voters.iter().any(|set| set.contains(id)),
                        incarnation: member.incarnation.to_string(),
                    },
                );
            }
        }
        nodes.into_values().collect()
    }

    fn leaders(&self) -> Vec<v1::PartitionLeader> {
        let leader = |partition: &Arc<Partition>| v1::PartitionLeader {
            partition: partition.group,
            node: partition.known_leader().map_or(0, |node| node.0),
            api: partition.leader_address().unwrap_or_default(),
            term: partition.replica.status().term,
        };
        self.0.partitions.all().iter().map(leader).collect()
    }

    async fn group_status(&self, partition: &Partition) -> Result<v1::GroupStatus, Status> {
        let look = self.0.look(partition, Freshness::Stale, |rows| {
            let open = views::workflows(rows)?;
            let versions = open.iter().flat_map(|it| &it.versions);
            let open_runs: u64 = versions.map(|(row, _)| WorkflowView::open_runs(row)).sum();
            Ok((open_runs, rows.group()?.unwrap_or_default().epoch))
        });
        let ((open_runs, epoch), _) = look.await?;
        let status = partition.replica.status();
        let (_, digest) = partition.replica.digest();
        let last_log = status.last_log.unwrap_or(0);
        let replicas = status.members.keys().map(|id| {
            let own = (status.is_leader && status.leader == Some(*id)).then_some(last_log);
            let matched = status
                .replication
                .get(id)
                .copied()
                .flatten()
                .or(own)
                .unwrap_or(0);
            v1::ReplicaStatus {
                node: id.0,
                matched,
                lag: if status.is_leader {
                    last_log.saturating_sub(matched)
                } else {
                    0
                },
                voter: status.voters.iter().any(|set| set.contains(id)),
            }
        });
        Ok(v1::GroupStatus {
            group: partition.group,
            leader: status.leader.map_or(0, |node| node.0),
            term: status.term,
            epoch,
            last_log,
            committed: status.committed.unwrap_or(0),
            applied: status.applied.unwrap_or(0),
            snapshot: status.snapshot.unwrap_or(0),
            purged: status.purged.unwrap_or(0),
            replicas: replicas.collect(),
            open_runs,
            runs_without_wake_source: partition.without_wake_source.load(Ordering::Relaxed) as u64,
            quorum_ack_age_ms: status
                .quorum_ack_age
                .map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            digest: format!("{digest:032x}"),
        })
    }

    /// Does something at the leader of each partition that the call is about, wherever that leader is.
    async fn at_leaders<M: Clone, C, F, G, H>(
        &self,
        request: Request<M>,
        here: impl Fn(Arc<Partition>, M) -> F,
        call: impl Fn(C, Request<M>) -> H,
        client: impl Fn(tonic::transport::Channel) -> G,
    ) -> Result<Response<v1::ClusterChangeReply>, Status>
    where
        G: Into<C>,
        F: Future<Output = Result<(u64, String), MemberError>>,
        H: Future<Output = Result<Response<v1::ClusterChangeReply>, Status>>,
    {
        let (hop, it) = opened(request);
        let mut whole = v1::ClusterChangeReply::default();
        for partition in self.0.concerned(hop)? {
            match here(Arc::clone(&partition), it.clone()).await {
                Ok((node, done)) => whole = v1::ClusterChangeReply { node, done },
                Err(MemberError::Change(ChangeError::NotLeader { .. })) if hop == Hop::First => {
                    let leader = partition.leader_address().filter(|it| !it.is_empty());
                    let Some(leader) = leader else {
                        return Err(status::not_leader(partition.group, None));
                    };
                    let forwarded = self.0.forward.call(
                        &leader,
                        partition.group,
                        it.clone(),
                        |channel, request| call(client(channel).into(), request),
                    );
                    whole = forwarded.await?.into_inner();
                }
                Err(error) => return Err(member_error(&error, &partition)),
            }
        }
        Ok(Response::new(whole))
    }
}

#[tonic::async_trait]
impl Cluster for ClusterApi {
    async fn topology(
        &self,
        _: Request<v1::TopologyRequest>,
    ) -> Result<Response<v1::TopologyReply>, Status> {
        let reservation = self.0.groups.reservation();
        let nodes = self.nodes();
        Ok(Response::new(v1::TopologyReply {
            formed: reservation.is_some() && !nodes.is_empty(),
            cluster: reservation
                .as_ref()
                .map(|it| it.cluster_id.clone())
                .unwrap_or_default(),
            partitions: reservation.map_or(0, |it| it.partitions),
            nodes,
            leaders: self.leaders(),
        }))
    }

    async fn init(
        &self,
        request: Request<v1::InitRequest>,
    ) -> Result<Response<v1::InitReply>, Status> {
        let it = request.into_inner();
        if it.abandon {
            self.0
                .groups
                .abandon()
                .await
                .map_err(|error| form_error(&error))?;
            return Ok(Response::new(v1::InitReply::default()));
        }
        let named = it.members.into_iter().map(|member| Named {
            node: (member.node != 0).then_some(NodeId(member.node)),
            peer_address: member.peer,
            api_address: given(&member.api),
        });
        let formed = self
            .0
            .groups
            .init(&it.name, it.partitions.max(1), named.collect())
            .await;
        let formed = formed.map_err(|error| form_error(&error))?;
        Ok(Response::new(v1::InitReply {
            cluster_id: formed.reservation.cluster_id,
            formed: !formed.already,
        }))
    }

    async fn status(
        &self,
        _: Request<v1::ClusterStatusRequest>,
    ) -> Result<Response<v1::ClusterStatusReply>, Status> {
        let reservation = self.0.groups.reservation().ok_or_else(status::not_formed)?;
        let mut groups = Vec::new();
        for partition in self.0.partitions.all() {
            groups.push(self.group_status(&partition).await?);
        }
        Ok(Response::new(v1::ClusterStatusReply {
            cluster: reservation.cluster_id.clone(),
            cluster_id: reservation.cluster_id,
            genesis: reservation.genesis.to_string(),
            partitions: reservation.partitions,
            nodes: self.nodes(),
            groups,
            answering_node: self.0.groups.this().id.0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    async fn add(
        &self,
        request: Request<v1::AddNodeRequest>,
    ) -> Result<Response<v1::ClusterChangeReply>, Status> {
        let groups = &self.0.groups;
        self.at_leaders(
            request,
            |partition, it: v1::AddNodeRequest| async move {
                let group = GroupId(partition.group);
                let node = groups.add(group, &it.peer, given(&it.api), None).await?;
                Ok((node.0, format!("node {} is a member and votes", node.0)))
            },
            |mut client: ClusterClient<_>, request| async move { client.add(request).await },
            ClusterClient::new,
        )
        .await
    }

    async fn replace(
        &self,
        request: Request<v1::ReplaceNodeRequest>,
    ) -> Result<Response<v1::ClusterChangeReply>, Status> {
        let groups = &self.0.groups;
        self.at_leaders(
            request,
            |partition, it: v1::ReplaceNodeRequest| async move {
                let (group, old) = (GroupId(partition.group), NodeId(it.old));
                let node = groups
                    .add(group, &it.peer, given(&it.api), Some(old))
                    .await?;
                Ok((
                    node.0,
                    format!("node {} votes in place of node {}", node.0, old.0),
                ))
            },
            |mut client: ClusterClient<_>, request| async move { client.replace(request).await },
            ClusterClient::new,
        )
        .await
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::ClusterChangeReply>, Status> {
        let groups = &self.0.groups;
        self.at_leaders(
            request,
            |partition, it: v1::RemoveNodeRequest| async move {
                groups
                    .remove(GroupId(partition.group), NodeId(it.node))
                    .await?;
                Ok((
                    it.node,
                    format!("node {} is no member any more; stop it", it.node),
                ))
            },
            |mut client: ClusterClient<_>, request| async move { client.remove(request).await },
            ClusterClient::new,
        )
        .await
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::ClusterChangeReply>, Status> {
        let groups = &self.0.groups;
        self.at_leaders(
            request,
            |partition, it: v1::TransferLeaderRequest| async move {
                if it.partition != 0 && it.partition != partition.group {
                    return Ok((it.to, String::new()));
                }
                let to = (it.to != 0).then_some(NodeId(it.to));
                groups.transfer(GroupId(partition.group), to).await?;
                Ok((it.to, "leadership has moved".to_owned()))
            },
            |mut client: ClusterClient<_>, request| async move {
                client.transfer_leader(request).await
            },
            ClusterClient::new,
        )
        .await
    }

    type NoopStream = ReceiverStream<Result<v1::NoopReply, Status>>;

    async fn noop(
        &self,
        request: Request<Streaming<v1::NoopRequest>>,
    ) -> Result<Response<Self::NoopStream>, Status> {
        let (out, answers) = noop::answers();
        // Ends with the stream, on either side.
        tokio::spawn(noop::run(Arc::clone(&self.0), request.into_inner(), out));
        Ok(Response::new(answers))
    }
}
