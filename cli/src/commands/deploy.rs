//! `holdfast deploy`: which version of a workflow new runs take.

use holdfast::{Client, wire};
use serde::Serialize;

use crate::{
    Globals,
    output::{self, Failure},
    parse,
};

/// Which version of a workflow new runs take.
#[derive(clap::Subcommand)]
pub enum Deploy {
    /// New runs take this version from now on; open ones keep theirs
    #[command(after_help = "Examples:\n  holdfast deploy set order@v2\n  holdfast deploy list")]
    Set {
        /// As order@v2
        #[arg(value_parser = parse::version)]
        version: (String, u32),
    },
    /// Workflows, their versions and open runs
    #[command(after_help = "Examples:\n  holdfast deploy list\n  holdfast deploy list -o json")]
    List,
}

#[derive(Serialize)]
struct Line {
    workflow: String,
    version: u32,
    partition: u32,
    current: bool,
    open_runs: u64,
    state: &'static str,
}

impl Deploy {
    /// Calls the cluster and prints the answer.
    ///
    /// # Errors
    /// With the exit code of what went wrong.
    pub async fn call(self, globals: &Globals) -> Result<(), Failure> {
        let client = super::client(globals).await?;
        match self {
            Self::Set {
                version: (name, version),
            } => {
                let request_id = Client::request_id();
                let request = wire::SetCurrentRequest {
                    name: name.clone(),
                    version,
                    request_id,
                };
                let previous = client.set_current(request).await?.previous;
                output::talk(format!(
                    "new runs of {name} take v{version}; back with: holdfast deploy set {name}@v{previous}"
                ));
                Ok(())
            }
            Self::List => list(&client, globals).await,
        }
    }
}

async fn list(client: &Client, globals: &Globals) -> Result<(), Failure> {
    let reply = client.list_workflows(wire::ListWorkflowsRequest {}).await?;
    let partitions = reply
        .workflows
        .iter()
        .map(|it| it.partition)
        .max()
        .unwrap_or(1);
    let mut lines = Vec::new();
    for workflow in reply.workflows {
        for version in workflow.versions {
            lines.push(Line {
                workflow: workflow.name.clone(),
                version: version.version,
                partition: workflow.partition,
                current: version.version == workflow.current,
                open_runs: version.open_runs,
                state: match (version.served, version.stranded) {
                    (_, true) => "STRANDED",
                    (true, _) => "served",
                    (false, false) => "no worker",
                },
            });
        }
    }
    if partitions > 1 {
        output::talk("with several partitions `current` and open runs are per partition for now");
    }
    output::rows(
        globals.output,
        &["WORKFLOW", "CURRENT", "OPEN RUNS", "STATE", "PARTITION"],
        &lines,
        |it| {
            let current = if it.current { "current" } else { "" };
            vec![
                format!("{}@v{}", it.workflow, it.version),
                current.to_owned(),
                it.open_runs.to_string(),
                it.state.to_owned(),
                it.partition.to_string(),
            ]
        },
    );
    Ok(())
}
