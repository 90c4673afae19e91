//! `Cluster.Noop`: commands that change nothing but the log, many in a message, for measuring its ceiling.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use holdfast_proto::v1;
use holdfast_raft::ProposeError;
use holdfast_scheduler::{entry::Ask, ids::PartitionId};

use super::{Api, position, status};
use crate::{machine::Proposal, partitions::Partition};

/// To one message.
pub type Answer = Result<v1::NoopReply, Status>;

/// Messages under way on one stream; each is some hundred commands.
const MESSAGES_IN_FLIGHT_MAX: usize = 1_024;
/// Commands in one message.
const COUNT_MAX: u32 = 4_096;

/// Proposes what comes in; answers each message once all its commands are applied.
pub async fn run(
    api: Arc<Api>,
    mut inbound: Streaming<v1::NoopRequest>,
    out: mpsc::Sender<Answer>,
) {
    let permits = Arc::new(Semaphore::new(MESSAGES_IN_FLIGHT_MAX));
    loop {
        let message = tokio::select! {
            message = inbound.message() => message,
            () = out.closed() => return,
        };
        let Ok(Some(it)) = message else { return };
        let Some(partition) = api.partitions.get(PartitionId(it.partition.max(1))) else {
            drop(out.send(Err(status::not_formed())).await); // the caller may be gone
            return;
        };
        if it.count == 0 || it.count > COUNT_MAX {
            let why = format!("1 to {COUNT_MAX} in one message");
            drop(out.send(Err(status::invalid("count", why))).await);
            return;
        }
        let permit = Arc::clone(&permits).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let reply = v1::NoopReply {
            first: it.first,
            count: it.count,
            ..v1::NoopReply::default()
        };
        let counting = Counting {
            left: AtomicU32::new(it.count),
            reply: Mutex::new(reply),
        };
        propose(&partition, &it.payload, it.count, counting, {
            let out = out.clone();
            move |reply| {
                // There are no more messages under way than the channel holds.
                drop(out.try_send(Ok(reply)));
                drop(permit);
            }
        });
    }
}

struct Counting {
    left: AtomicU32,
    reply: Mutex<v1::NoopReply>,
}

fn propose(
    partition: &Partition,
    payload: &Bytes,
    count: u32,
    counting: Counting,
    done: impl FnOnce(v1::NoopReply) + Send + 'static,
) {
    let counting = Arc::new((counting, Mutex::new(Some(done))));
    for _ in 0..count {
        let counting = Arc::clone(&counting);
        let ask = Proposal::from(Ask::Noop(payload.clone()));
        let leader = move |error: &ProposeError| error.to_string();
        partition.replica.propose_with(ask, move |result| {
            let (counted, done) = &*counting;
            match result {
                Ok((_, at)) => counted.reply.lock().position = Some(position(at)),
                Err(error) => counted.reply.lock().error = leader(&error),
            }
            if counted.left.fetch_sub(1, Ordering::AcqRel) == 1
                && let Some(done) = done.lock().take()
            {
                done(std::mem::take(&mut *counted.reply.lock()));
            }
        });
    }
}

/// The stream of answers, and where they are put in.
pub fn answers() -> (mpsc::Sender<Answer>, ReceiverStream<Answer>) {
    let (out, answers) = mpsc::channel(MESSAGES_IN_FLIGHT_MAX + 1);
    (out, ReceiverStream::new(answers))
}
