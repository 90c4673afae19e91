//! `holdfast cluster`: form, watch and change a cluster.

use holdfast::{Client, wire};

use crate::{
    Globals,
    output::{self, Failure, Form},
};

/// Form, watch and change a cluster.
#[derive(clap::Subcommand)]
pub enum Cluster {
    /// Form a cluster of nodes that run; repeat at will
    #[command(
        after_help = "Examples:\n  holdfast cluster init --peers 10.0.0.1:7101,10.0.0.2:7101,10.0.0.3:7101\n  holdfast cluster init --abandon"
    )]
    Init {
        /// What it is called
        #[arg(long, default_value = "holdfast")]
        name: String,
        /// How many partitions; fixed for its life
        #[arg(long, default_value_t = 1)]
        partitions: u32,
        /// Peer addresses of all nodes; none: the asked node alone
        #[arg(long, value_delimiter = ',')]
        peers: Vec<String>,
        /// Take a reservation back, where no log exists
        #[arg(long)]
        abandon: bool,
    },
    /// Nodes, groups, leaders and lag
    #[command(
        after_help = "Examples:\n  holdfast cluster status\n  holdfast cluster status -o json"
    )]
    Status,
    /// Add a running, empty node; it votes once it has caught up
    #[command(
        after_help = "Examples:\n  holdfast cluster add --peer 10.0.0.4:7101 --api 10.0.0.4:7100\n  holdfast cluster status"
    )]
    Add(Addresses),
    /// Replace a node by a running, empty one, in one joint step
    #[command(
        after_help = "Examples:\n  holdfast cluster replace 2 --peer 10.0.0.4:7101 --api 10.0.0.4:7100\n  holdfast cluster status"
    )]
    Replace {
        /// The node to replace
        old: u64,
        #[command(flatten)]
        by: Addresses,
    },
    /// Remove a node
    #[command(after_help = "Examples:\n  holdfast cluster remove 3\n  holdfast cluster status")]
    Remove {
        /// The node to remove
        node: u64,
    },
    /// Hand leadership to another node
    #[command(
        after_help = "Examples:\n  holdfast cluster transfer-leader --to 2\n  holdfast cluster transfer-leader --partition 1"
    )]
    TransferLeader {
        /// To this node; none: any that is up to date
        #[arg(long, default_value_t = 0)]
        to: u64,
        /// Of this partition; none: all
        #[arg(long, default_value_t = 0)]
        partition: u32,
    },
}

/// Where a node is reached.
#[derive(clap::Args)]
pub struct Addresses {
    /// Its peer address
    #[arg(long)]
    peer: String,
    /// Its API address; what the node itself says, if it is not given
    #[arg(long, default_value = "")]
    api: String,
}

impl Cluster {
    /// Calls the cluster and prints the answer.
    ///
    /// # Errors
    /// With the exit code of what went wrong.
    pub async fn call(self, globals: &Globals) -> Result<(), Failure> {
        let client = super::client(globals).await?;
        let done = match self {
            Self::Init {
                name,
                partitions,
                peers,
                abandon,
            } => {
                return init(&client, name, partitions, peers, abandon).await;
            }
            Self::Status => return status(&client, globals.output).await,
            Self::Add(Addresses { peer, api }) => {
                client
                    .cluster_add(wire::AddNodeRequest { peer, api })
                    .await?
            }
            Self::Replace {
                old,
                by: Addresses { peer, api },
            } => {
                client
                    .cluster_replace(wire::ReplaceNodeRequest { old, peer, api })
                    .await?
            }
            Self::Remove { node } => {
                client
                    .cluster_remove(wire::RemoveNodeRequest { node })
                    .await?
            }
            Self::TransferLeader { to, partition } => {
                client
                    .transfer_leader(wire::TransferLeaderRequest { partition, to })
                    .await?
            }
        };
        output::talk(done.done);
        Ok(())
    }
}

async fn init(
    client: &Client,
    name: String,
    partitions: u32,
    peers: Vec<String>,
    abandon: bool,
) -> Result<(), Failure> {
    let members = peers.into_iter().map(|peer| wire::InitMember {
        peer,
        ..Default::default()
    });
    let request = wire::InitRequest {
        name,
        partitions,
        members: members.collect(),
        abandon,
    };
    let reply = client.cluster_init(request).await?;
    output::talk(match (abandon, reply.formed) {
        (true, _) => "the reservation is taken back".to_owned(),
        (false, true) => format!("cluster {} is formed", reply.cluster_id),
        (false, false) => format!("cluster {} was formed already", reply.cluster_id),
    });
    Ok(())
}

async fn status(client: &Client, form: Form) -> Result<(), Failure> {
    let it = client.cluster_status(wire::ClusterStatusRequest {}).await?;
    if form != Form::Table {
        let groups: Vec<_> = it
            .groups
            .iter()
            .map(|group| {
                serde_json::json!({
                    "group": group.group, "leader": group.leader, "term": group.term,
                    "applied": group.applied.to_string(), "open_runs": group.open_runs.to_string(),
                    "runs_without_wake_source": group.runs_without_wake_source,
                })
            })
            .collect();
        let nodes: Vec<_> = it
            .nodes
            .iter()
            .map(|node| serde_json::json!({ "node": node.node, "api": node.api, "peer": node.peer, "voter": node.voter }))
            .collect();
        let ids: Vec<String> = it.nodes.iter().map(|node| node.node.to_string()).collect();
        let shown = serde_json::json!({
            "cluster": it.cluster, "cluster_id": it.cluster_id, "partitions": it.partitions,
            "nodes": nodes, "groups": groups, "version": it.version,
        });
        output::one(form, &ids.join("\n"), &shown);
        return Ok(());
    }
    output::line(format!(
        "cluster {} ({}), {} partition(s), seen from node {}",
        it.cluster, it.cluster_id, it.partitions, it.answering_node
    ));
    for node in &it.nodes {
        let role = if node.voter { "voter" } else { "learner" };
        output::line(format!(
            "node {}  {role}  api {}  peer {}",
            node.node, node.api, node.peer
        ));
    }
    for group in &it.groups {
        let lags: Vec<String> = group
            .replicas
            .iter()
            .map(|it| format!("n{} lag {}", it.node, it.lag))
            .collect();
        output::line(format!(
            "group {}  leader {}  term {}  applied {} of {}  snapshot {}  open runs {}  {}",
            group.group,
            group.leader,
            group.term,
            group.applied,
            group.last_log,
            group.snapshot,
            group.open_runs,
            lags.join(", ")
        ));
    }
    Ok(())
}
