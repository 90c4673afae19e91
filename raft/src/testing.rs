//! What the tests of this crate need besides its interface: consensus' own view of log and state, snapshots and purges at
//! a wish, a panic in a core, the files of a process that died, and the steps of an install.
//!
//! Invariant: nothing here changes what the crate does; it is compiled under feature `testing` alone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

pub use crate::adapter::log::Log;
pub use crate::adapter::machine::Sm;
pub use crate::adapter::types::{BatchBytes, Types};

use crate::adapter::stages::Stages;
use crate::groups::Groups;
use crate::log::{LogBackend, LogOp};
use crate::machine::Machine;
use crate::replica::Replica;
use crate::state::GroupState;
use crate::types::{GroupId, NodeId};

/// The log of one group as consensus sees it.
pub fn log(group: GroupId, backend: Arc<dyn LogBackend>) -> Log {
    Log::new(group, backend, Stages::new(group))
}

/// The state of one group as consensus sees it.
pub fn sm<M: Machine>(group: GroupId, state: &GroupState<M>, backend: Arc<dyn LogBackend>) -> Sm {
    Sm::new(group, Arc::new(state.clone()), backend, Stages::new(group))
}

impl<M: Machine> Replica<M> {
    /// Asks for a snapshot now, whatever the policy says.
    pub async fn snapshot_now(&self) {
        self.core.trigger_snapshot().await;
    }

    /// Asks for a purge now, whatever the policy says.
    pub async fn purge_now(&self, up_to: u64) {
        self.core.trigger_purge(up_to).await;
    }

    /// Up to which index the state would survive a loss of power now.
    pub async fn persisted(&self) -> u64 {
        let persisted = self.state.persisted().await;
        persisted.expect("the state of a test can be read")
    }
}

impl<M: Machine> Replica<M> {
    /// A panic inside the core of this group.
    pub async fn panic_in_core(&self) {
        self.core.panic_inside().await;
    }
}

impl<M: Machine> Groups<M> {
    /// One turn of the policy of snapshots and purges, now.
    pub async fn tend_now(&self, replica: &Replica<M>) {
        let mut written = self.log.written_bytes(replica.group());
        crate::groups::tend(self, replica, &mut written).await;
    }

    /// The other nodes to which it keeps connections.
    pub fn connected(&self) -> BTreeSet<NodeId> {
        self.peers.all().iter().map(|it| it.node.id).collect()
    }

    /// Snapshots go out no faster than this.
    pub fn throttle_snapshots(&self, bytes_per_second: u64) {
        self.transfers.throttle(bytes_per_second);
    }

    /// What was submitted to the log is in its files on return, whether or not anybody was told. Blocking.
    pub fn settle(&self) {
        let (done, told) = std::sync::mpsc::channel();
        let done = Box::new(move |result| drop(done.send(result)));
        let submitted = self.log.submit(GroupId(0), LogOp::Barrier, done);
        futures::executor::block_on(submitted);
        told.recv()
            .expect("the log thread lives")
            .expect("the log of a test can be written");
    }

    /// Closes the databases of a node whose runtime has ended. Blocking.
    pub fn let_go(&self) {
        for replica in self.replicas().borrow().iter() {
            replica.proposer.stop(); // what waits was never appended
            replica.state.close();
        }
        self.log.close();
    }
}

type Hook = Arc<dyn Fn(&'static str) + Send + Sync>;

fn hooks() -> &'static Mutex<Vec<(PathBuf, Hook)>> {
    static HOOKS: OnceLock<Mutex<Vec<(PathBuf, Hook)>>> = OnceLock::new();
    HOOKS.get_or_init(Mutex::default)
}

/// Calls `hook` at each step that touches a disk below `folder`: of an install `ingested`, `pointed`, `flushed`, `dropped`, and
/// `syncing` before each sync of the log.
pub fn on_step(folder: &Path, hook: impl Fn(&'static str) + Send + Sync + 'static) {
    hooks().lock().push((folder.to_owned(), Arc::new(hook)));
}

pub(crate) fn reached(inside: &Path, step: &'static str) {
    let ours = |it: &&(PathBuf, Hook)| inside.starts_with(&it.0);
    let hook = hooks().lock().iter().find(ours).map(|it| Arc::clone(&it.1));
    if let Some(hook) = hook {
        hook(step);
    }
}
