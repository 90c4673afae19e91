//! Sending and receiving whole snapshots, on the bulk connection.
//!
//! Invariant: a receiver that refuses makes the sender back off, never try again at once; what was received and is not
//! installed is removed. At most two transfers run per node and direction, and those out share one rate. The log behind a
//! snapshot on its way out is kept.
//! Not here: rows and files (`state`), when a snapshot is needed (openraft).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{NetworkError, StreamingError, Unreachable};
use openraft::raft::SnapshotResponse;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Binary, MetadataValue};
use tonic::{Code, Status, Streaming};

use holdfast_proto::peer as wire;
use holdfast_proto::peer::snapshot_frame::Part;

use crate::adapter::codec;
use crate::adapter::machine::{StateSide, core_meta, our_meta};
use crate::adapter::types::{CoreSnapshot, CoreVote, Types};
use crate::error::StorageFault;
use crate::peer::connections::Peer;
use crate::peer::identity::addressed;
use crate::state::{Block, Blocks, SnapData, SnapMeta, Staged, Staging, Trailer};
use crate::types::GroupId;

/// More at once would only make each slower.
const TRANSFERS_MAX: usize = 2;
/// What all transfers out may take of disk and network together.
const BYTES_PER_SECOND: u64 = 64 << 20;
/// How long a transfer may stand still.
const IDLE: Duration = Duration::from_secs(10);
/// Blocks between disk and network, at most 1 MiB each.
const BLOCKS_AHEAD: usize = 4;
/// The form of the frames.
const FORMAT: u32 = 1;

/// The snapshot transfers of a node.
pub(crate) struct Transfers {
    sending: Semaphore,
    receiving: Semaphore,
    bytes_per_second: AtomicU64,
    next_free: Mutex<Instant>,
    /// The last entry of each snapshot on its way out.
    under_way: Mutex<Vec<(GroupId, u64)>>,
}

/// A snapshot on its way out; ends when it is dropped.
struct UnderWay<'a> {
    transfers: &'a Transfers,
    what: (GroupId, u64),
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut all = self.transfers.under_way.lock();
        if let Some(at) = all.iter().position(|it| *it == self.what) {
            all.swap_remove(at);
        }
    }
}

impl Transfers {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            sending: Semaphore::new(TRANSFERS_MAX),
            receiving: Semaphore::new(TRANSFERS_MAX),
            bytes_per_second: AtomicU64::new(BYTES_PER_SECOND),
            next_free: Mutex::new(Instant::now()),
            under_way: Mutex::default(),
        })
    }

    /// Up to where the log of `group` may be purged, so that the receiver of a snapshot can follow the log from there on.
    pub(crate) fn purge_max(&self, group: GroupId) -> Option<u64> {
        let all = self.under_way.lock();
        let ours = all.iter().filter(|(of, _)| *of == group);
        ours.map(|(_, last)| *last).min()
    }

    /// A slower network than it is.
    #[cfg(feature = "testing")]
    pub(crate) fn throttle(&self, bytes_per_second: u64) {
        self.bytes_per_second
            .store(bytes_per_second, Ordering::Relaxed);
    }

    /// Sends a snapshot and waits until it is installed.
    pub(crate) async fn send(
        self: &Arc<Self>,
        group: GroupId,
        peer: &Peer,
        address: MetadataValue<Binary>,
        vote: CoreVote,
        snapshot: CoreSnapshot,
        within: Duration,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let SnapData::Local(blocks) = snapshot.snapshot else {
            return Err(refused("a received snapshot is not sent on"));
        };
        let last = snapshot.meta.last_log_id.as_ref().map_or(0, |id| id.index);
        let what = (group, last);
        self.under_way.lock().push(what);
        let _under_way = UnderWay {
            transfers: self,
            what,
        };
        let permit = self
            .sending
            .acquire()
            .await
            .map_err(|_| refused("shutting down"))?;
        let header = wire::SnapshotHeader {
            vote: Some(codec::vote_to_wire(&vote)),
            meta: Some(codec::meta_to_wire(&snapshot.meta)),
            format: FORMAT,
            level: 0,
        };
        let (tx, rx) = mpsc::channel(BLOCKS_AHEAD);
        let reading = tokio::spawn(Arc::clone(self).read_out(header, blocks, tx));
        let mut grpc = peer.bulk();
        let call = grpc.snapshot(addressed(ReceiverStream::new(rx), address));
        let called = tokio::time::timeout(within, call).await;
        reading.abort();
        drop(permit);
        match called {
            // `Timeout` would be tried again at once, from the beginning.
            Err(_) => Err(refused(&format!("not installed within {within:?}"))),
            Ok(Err(status)) => Err(failed(&status)),
            Ok(Ok(reply)) => codec::vote_from_wire(reply.into_inner().vote)
                .map(SnapshotResponse::new)
                .map_err(|bad| refused(&bad.to_string())),
        }
    }

    /// Reads blocks on a blocking thread and lets them out at the shared rate.
    async fn read_out(
        self: Arc<Self>,
        header: wire::SnapshotHeader,
        mut blocks: Box<dyn Blocks>,
        out: mpsc::Sender<wire::SnapshotFrame>,
    ) {
        let frame = |part| wire::SnapshotFrame { part: Some(part) };
        if out.send(frame(Part::Header(header))).await.is_err() {
            return;
        }
        loop {
            let read = crate::host::blocking(move || {
                let block = blocks.next_block();
                (blocks, block)
            });
            let Ok((back, block)) = read.await else {
                return;
            };
            blocks = back;
            let part = match block {
                // Ending without a trailer tells the receiver that this is no whole snapshot.
                Err(fault) => {
                    tracing::error!(%fault, "a snapshot cannot be read");
                    return;
                }
                Ok(None) => {
                    let last = frame(Part::Trailer(trailer_to_wire(&blocks.trailer())));
                    let _gone = out.send(last).await;
                    return;
                }
                Ok(Some(block)) => block_to_wire(block),
            };
            self.wait_for_room(part.rows.len()).await;
            if out.send(frame(Part::Block(part))).await.is_err() {
                return;
            }
        }
    }

    async fn wait_for_room(&self, bytes: usize) {
        let rate = self.bytes_per_second.load(Ordering::Relaxed);
        let takes = Duration::from_nanos(bytes as u64 * 1_000_000_000 / rate);
        let turn = {
            let mut next_free = self.next_free.lock();
            let turn = (*next_free).max(Instant::now());
            *next_free = turn + takes;
            turn
        };
        tokio::time::sleep_until(turn).await;
    }

    /// Receives a snapshot into the staging area of `state`.
    pub(crate) async fn receive(
        &self,
        state: &dyn StateSide,
        mut frames: Streaming<wire::SnapshotFrame>,
    ) -> Result<(CoreVote, CoreSnapshot), Status> {
        let _permit = self
            .receiving
            .try_acquire()
            .map_err(|_| Status::resource_exhausted("two snapshots are being received already"))?;
        let Some(Part::Header(header)) = next_part(&mut frames).await? else {
            return Err(Status::invalid_argument("a snapshot without a header"));
        };
        if header.format != FORMAT {
            return Err(Status::failed_precondition(format!(
                "a snapshot of form {}, this build knows {FORMAT}",
                header.format
            )));
        }
        let vote = codec::vote_from_wire(header.vote).map_err(|bad| invalid(&bad))?;
        let meta = codec::meta_from_wire(header.meta).map_err(|bad| invalid(&bad))?;
        let staged = receive_blocks(state, frames).await?;
        let meta: SnapMeta = our_meta(&meta);
        let meta = core_meta(meta).map_err(|cause| invalid(&cause))?;
        Ok((
            vote,
            openraft::Snapshot {
                meta,
                snapshot: SnapData::Staged(staged),
            },
        ))
    }
}

async fn receive_blocks(
    state: &dyn StateSide,
    mut frames: Streaming<wire::SnapshotFrame>,
) -> Result<Staged, Status> {
    let mut staging: Staging = state.stage().await.map_err(|fault| storage(&fault))?;
    loop {
        match next_part(&mut frames).await? {
            Some(Part::Block(block)) => {
                let write = crate::host::blocking(move || {
                    let written = staging.write(&block_from_wire(block));
                    (staging, written)
                });
                let (back, written) = write.await.map_err(|panic| invalid(&panic))?;
                written.map_err(|fault| storage(&fault))?;
                staging = back;
            }
            Some(Part::Trailer(trailer)) => {
                let trailer = trailer_from_wire(&trailer)?;
                let finish = crate::host::blocking(move || staging.finish(&trailer));
                let finished = finish.await.map_err(|panic| invalid(&panic))?;
                return finished.map_err(|fault| storage(&fault));
            }
            Some(Part::Header(_)) => return Err(Status::invalid_argument("a second header")),
            None => return Err(Status::aborted("the snapshot ended without its trailer")),
        }
    }
}

async fn next_part(frames: &mut Streaming<wire::SnapshotFrame>) -> Result<Option<Part>, Status> {
    match tokio::time::timeout(IDLE, frames.next()).await {
        Err(_) => Err(Status::deadline_exceeded("the snapshot stood still")),
        Ok(None) => Ok(None),
        Ok(Some(frame)) => match frame?.part {
            Some(part) => Ok(Some(part)),
            None => Err(Status::invalid_argument("an empty frame")),
        },
    }
}

fn invalid(cause: &dyn std::fmt::Display) -> Status {
    Status::invalid_argument(cause.to_string())
}

fn storage(fault: &StorageFault) -> Status {
    Status::failed_precondition(format!("the snapshot cannot be taken: {fault}"))
}

fn refused(why: &str) -> StreamingError<Types> {
    StreamingError::Unreachable(Unreachable::from_string(why))
}

/// A connection that broke is tried again; whatever the receiver said makes the sender back off.
fn failed(status: &Status) -> StreamingError<Types> {
    match status.code() {
        Code::Unknown | Code::Cancelled => {
            StreamingError::Network(NetworkError::from_string(status))
        }
        _ => refused(&status.to_string()),
    }
}

fn block_to_wire(block: Block) -> wire::SnapshotBlock {
    let Block {
        rows,
        crc,
        first_key,
        last_key,
    } = block;
    wire::SnapshotBlock {
        rows,
        crc,
        first_key,
        last_key,
    }
}

pub(crate) fn block_from_wire(block: wire::SnapshotBlock) -> Block {
    let wire::SnapshotBlock {
        rows,
        crc,
        first_key,
        last_key,
    } = block;
    Block {
        rows,
        crc,
        first_key,
        last_key,
    }
}

fn trailer_to_wire(it: &Trailer) -> wire::SnapshotTrailer {
    let digest = |digest: u128| Bytes::copy_from_slice(&digest.to_be_bytes());
    wire::SnapshotTrailer {
        count: it.count,
        bytes: it.bytes,
        rows_digest: digest(it.rows_digest),
        running_digest: digest(it.running_digest),
    }
}

pub(crate) fn trailer_from_wire(it: &wire::SnapshotTrailer) -> Result<Trailer, Status> {
    let digest = |bytes: &Bytes| {
        <[u8; 16]>::try_from(bytes.as_ref())
            .map(u128::from_be_bytes)
            .map_err(|_| Status::invalid_argument("a digest that is none"))
    };
    Ok(Trailer {
        count: it.count,
        bytes: it.bytes,
        rows_digest: digest(&it.rows_digest)?,
        running_digest: digest(&it.running_digest)?,
    })
}
