//! `Deploy`: moves a workflow's `current`. Open runs keep their pin.

use crate::{
    entry::Deploy,
    ids::{Name, Version},
    reply::{Rejected, Reply},
    rows::{Alike, Fault, Key, ReadRows, Row, Rows, Stretch, TypedRows},
    turn::Turn,
    values::run::Workflow,
};

/// Only to a version that a worker registered once.
pub fn apply<R: Rows>(turn: &mut Turn<'_, R>, it: &Deploy) -> Result<Reply, Fault> {
    let Some(known) = turn.workflow(&it.workflow)? else {
        let name = it.workflow.clone();
        return Ok(Rejected::UnknownWorkflow {
            name,
            registered: Vec::new(),
        }
        .into());
    };
    if turn.version(&it.workflow, it.version)?.is_none() {
        let registered = versions(turn, &it.workflow)?;
        let (name, version) = (it.workflow.clone(), it.version);
        return Ok(Rejected::UnknownVersion {
            name,
            version,
            registered,
        }
        .into());
    }
    let row = Workflow {
        name: it.workflow.clone(),
        current: it.version,
    };
    turn.put(Key::Workflow(it.workflow.clone()), Row::Workflow(row));
    Ok(Reply::Deployed {
        previous: Some(known.current),
    })
}

fn versions<R: Rows>(turn: &Turn<'_, R>, of: &Name) -> Result<Vec<String>, Fault> {
    let mut versions = Vec::new();
    let all = Stretch::from(Key::Version(of.clone(), Version(0)), Alike::One);
    turn.scan(&all, &mut |key, _| {
        if let Key::Version(_, version) = key {
            versions.push(format!("v{version}"));
        }
        true
    })?;
    Ok(versions)
}
