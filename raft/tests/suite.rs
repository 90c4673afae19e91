//! openraft's own suite for storage, over our logs (on disk and in memory) and our state.
//!
//! Not here: what a crash leaves (`crash`), three replicas (`groups`).
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io;
use std::sync::Arc;

use futures::Stream;
use holdfast_raft::GroupId;
use holdfast_raft::log::memory::MemoryLog;
use holdfast_raft::log::rocks::RocksLog;
use holdfast_raft::log::{Ident, LogBackend};
use holdfast_raft::state::{GroupState, SnapData, StateDb};
use holdfast_raft::testing::{self, Log, Sm, Types};
use holdfast_raft::types::NodeId;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::{OptionalSend, StorageError};
use support::Register;
use tempfile::TempDir;
use uuid::Uuid;

const GROUP: GroupId = GroupId(1);

enum Kind {
    Disk,
    Memory,
}

/// What a store needs to live, and ends with it.
struct Living {
    state: GroupState<Register>,
    log: Arc<dyn LogBackend>,
    _folder: TempDir,
}

impl Drop for Living {
    fn drop(&mut self) {
        self.state.close();
        self.log.close();
    }
}

/// The suite hands the sender's snapshot to the receiver; here it goes through the receiver's staging, as over the wire.
struct Transferred {
    sm: Sm,
    state: GroupState<Register>,
}

impl RaftStateMachine<Types> for Transferred {
    type SnapshotData = SnapData;
    type SnapshotBuilder = <Sm as RaftStateMachine<Types>>::SnapshotBuilder;

    async fn applied_state(
        &mut self,
    ) -> io::Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>)> {
        self.sm.applied_state().await
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        self.sm.apply(entries).await
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Self::SnapshotBuilder> {
        self.sm.try_create_snapshot_builder(force).await
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        self.sm.get_snapshot_builder().await
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Types>,
        snapshot: SnapData,
    ) -> io::Result<()> {
        let SnapData::Local(mut blocks) = snapshot else {
            return self.sm.install_snapshot(meta, snapshot).await;
        };
        let mut staging = self.state.stage()?;
        while let Some(block) = blocks.next_block()? {
            staging.write(&block)?;
        }
        let staged = staging.finish(&blocks.trailer())?;
        self.sm
            .install_snapshot(meta, SnapData::Staged(staged))
            .await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Types, SnapData>>> {
        self.sm.get_current_snapshot().await
    }
}

impl StoreBuilder<Types, Log, Transferred, Living> for Kind {
    async fn build(&self) -> Result<(Living, Log, Transferred), StorageError<Types>> {
        let folder = tempfile::tempdir().unwrap();
        let ident = Ident {
            node: NodeId(1),
            incarnation: Uuid::new_v4(),
        };
        let log: Arc<dyn LogBackend> = match self {
            Self::Disk => RocksLog::open(folder.path(), ident.node).unwrap(),
            Self::Memory => Arc::new(MemoryLog::new(ident)),
        };
        let db = StateDb::open(folder.path(), ident.node, log.ident().incarnation).unwrap();
        let state = GroupState::open(&db, GROUP, Register::default()).unwrap();
        let sm = Transferred {
            sm: testing::sm(GROUP, &state, Arc::clone(&log)),
            state: state.clone(),
        };
        let seen = testing::log(GROUP, Arc::clone(&log));
        let living = Living {
            state,
            log,
            _folder: folder,
        };
        Ok((living, seen, sm))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_on_disk_and_the_state_pass_the_suite_of_consensus() {
    Suite::test_all(Kind::Disk).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_in_memory_passes_the_suite_of_consensus() {
    Suite::test_all(Kind::Memory).await.unwrap();
}
