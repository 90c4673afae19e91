//! `Admin`: workflows, limits and the cluster itself, for tools. Answers are as the wire has them.

use std::{sync::Arc, time::Duration};

use holdfast_proto::v1::{
    self, cluster_client::ClusterClient, limits_client::LimitsClient,
    workflows_client::WorkflowsClient,
};
use uuid::Uuid;

use crate::{client::Client, error::ClientError};

/// Changes of membership copy data: they take their time.
const MEMBERSHIP_WITHIN: Duration = Duration::from_secs(120);

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($service:ident.$call:ident: $request:ty, $within:expr) -> $reply:ty;)*) => {
        impl Client { $(
            $(#[$doc])*
            ///
            /// # Errors
            /// `Refused`: the text says what to do. `Unavailable`: repeat it, it is the same call.
            pub async fn $name(&self, request: $request) -> Result<$reply, ClientError> {
                let make = |channel, request| async move { $service::new(channel).$call(request).await };
                self.caller().call_within(None, request, $within, make).await
            }
        )* }
    };
}

const ADMIN_WITHIN: Duration = Duration::from_secs(10);

calls! {
    /// Workflows, their versions and open runs.
    list_workflows(WorkflowsClient.list: v1::ListWorkflowsRequest, ADMIN_WITHIN) -> v1::ListWorkflowsReply;
    /// Moves a workflow's current version.
    set_current(WorkflowsClient.set_current: v1::SetCurrentRequest, ADMIN_WITHIN) -> v1::SetCurrentReply;
    /// Limits, with their waiters.
    list_limits(LimitsClient.list: v1::ListLimitsRequest, ADMIN_WITHIN) -> v1::ListLimitsReply;
    /// Declares or changes a limit.
    set_limit(LimitsClient.set: v1::SetLimitRequest, ADMIN_WITHIN) -> v1::SetLimitReply;
    /// Forms a cluster of the named nodes; repeat at will.
    cluster_init(ClusterClient.init: v1::InitRequest, MEMBERSHIP_WITHIN) -> v1::InitReply;
    /// What the answering node knows of the cluster.
    cluster_status(ClusterClient.status: v1::ClusterStatusRequest, ADMIN_WITHIN) -> v1::ClusterStatusReply;
    /// Adds a node, which votes once it has caught up.
    cluster_add(ClusterClient.add: v1::AddNodeRequest, MEMBERSHIP_WITHIN) -> v1::ClusterChangeReply;
    /// Replaces a node in one joint step.
    cluster_replace(ClusterClient.replace: v1::ReplaceNodeRequest, MEMBERSHIP_WITHIN) -> v1::ClusterChangeReply;
    /// Removes a node.
    cluster_remove(ClusterClient.remove: v1::RemoveNodeRequest, MEMBERSHIP_WITHIN) -> v1::ClusterChangeReply;
    /// Hands leadership over.
    transfer_leader(ClusterClient.transfer_leader: v1::TransferLeaderRequest, ADMIN_WITHIN) -> v1::ClusterChangeReply;
}

impl Client {
    /// What the first node that answers knows of the cluster's shape.
    ///
    /// # Errors
    /// `Unavailable`: no node answered.
    pub async fn topology(&self) -> Result<v1::TopologyReply, ClientError> {
        Ok(Arc::unwrap_or_clone(self.caller().topology().await?))
    }

    /// A fresh id for a request that has no identity of its own.
    pub fn request_id() -> String {
        Uuid::now_v7().to_string()
    }
}
