//! Open work streams by session, each with a bounded queue to its worker.
//!
//! Invariant: at most one stream speaks for a session; what was sent on one stream arrives in the order it was sent. A
//! worker that does not read loses its stream, never holds up a replica.
//! Not here: leases and credit (`scheduler::lead`), what is proposed (`api::work`).

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_util::sync::CancellationToken;

use holdfast_proto::v1;
use holdfast_raft::{Position, ProposeError};
use holdfast_scheduler::{
    entry::Work,
    ids::{DeliveryNo, Fence, Generation, RunId, SessionId},
    reply::Reply,
};

/// Messages on their way to one worker: all that its credit and its asks in flight can bring at once, with room to spare.
/// At the bound the stream ends, and the worker attaches again.
const QUEUED_MAX: usize = 16_384;

/// What goes out on a stream. Answers are encoded on the stream's own task, not where they were made.
pub enum Out {
    /// As it is.
    Message(v1::to_worker::Message),
    /// A run goes to its driver; from here on its generation is known to the stream.
    Drive(Generation, Box<v1::Drive>),
    /// Facts for a driver. Empty ones only tell the generation.
    News(Generation, v1::News),
    /// The answer to an Advance.
    Advanced(AdvancedOut),
    /// The last message, if any; then the stream ends.
    End(Option<v1::to_worker::Message>),
}

/// The answer to an Advance, as it was made.
pub struct AdvancedOut {
    /// Which run.
    pub run: RunId,
    /// Under which fence.
    pub fence: Fence,
    /// Which Advance.
    pub number: u32,
    /// What came of it.
    pub result: Result<(Reply, Position), ProposeError>,
}

/// What a worker says it holds as it attaches.
#[derive(Debug, Default)]
pub struct Held {
    /// Drives, with the last delivery seen.
    pub runs: BTreeMap<RunId, (Fence, DeliveryNo)>,
    /// Steps, probes and undos that came by Execute.
    pub steps: BTreeMap<(RunId, u32), Fence>,
}

/// One open stream, as those see it who send on it.
#[derive(Clone)]
pub struct Stream {
    id: u64,
    out: mpsc::Sender<Out>,
    broken: CancellationToken,
    held: Arc<Held>,
}

impl Stream {
    /// A stream and its queue.
    pub fn open(held: Held) -> (Self, mpsc::Receiver<Out>) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let (out, queue) = mpsc::channel(QUEUED_MAX);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        (
            Self {
                id,
                out,
                broken: CancellationToken::new(),
                held: Arc::new(held),
            },
            queue,
        )
    }

    /// Which stream of this process it is.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What its worker held when it attached.
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// Sends, from any thread, without waiting.
    pub fn send(&self, out: Out) {
        match self.out.try_send(out) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                if !self.broken.is_cancelled() {
                    tracing::warn!(
                        stream = self.id,
                        "a worker does not read its stream; it has to attach again"
                    );
                }
                self.broken.cancel();
            }
            Err(TrySendError::Closed(_)) => self.broken.cancel(),
        }
    }

    /// Sends the last message and ends the stream.
    pub fn end(&self, last: v1::to_worker::Message) {
        self.send(Out::End(Some(last)));
    }

    /// Ends once nobody reads the other end any more, or too slowly.
    pub async fn broken(&self) {
        tokio::select! {
            () = self.broken.cancelled() => {}
            () = self.out.closed() => {}
        }
    }
}

/// The open streams of one partition.
#[derive(Default)]
pub struct Streams(Mutex<BTreeMap<SessionId, Stream>>);

impl Streams {
    /// From here on this stream speaks for the session; an older one of the same session ends.
    pub fn insert(&self, session: SessionId, stream: Stream) {
        let older = self.0.lock().insert(session, stream);
        if let Some(older) = older {
            older.send(Out::End(None));
        }
    }

    /// The stream is gone. Says whether it spoke for the session.
    pub fn remove(&self, session: SessionId, id: u64) -> bool {
        let mut streams = self.0.lock();
        let is_current = streams.get(&session).is_some_and(|stream| stream.id == id);
        if is_current {
            streams.remove(&session);
        }
        is_current
    }

    /// The stream that speaks for a session.
    pub fn of(&self, session: SessionId) -> Option<Stream> {
        self.0.lock().get(&session).cloned()
    }

    /// Sends to a session's worker, if its stream is open.
    pub fn send(&self, session: SessionId, out: Out) {
        if let Some(stream) = self.of(session) {
            stream.send(out);
        }
    }

    /// Ends all streams, each with this message.
    pub fn end_all(&self, last: &v1::to_worker::Message) {
        let streams = std::mem::take(&mut *self.0.lock());
        for stream in streams.into_values() {
            stream.end(last.clone());
        }
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Which entry a piece of work is about, on the wire; a drive is told by its fence alone.
pub fn entry_of(work: &Work) -> u32 {
    match work {
        Work::Run(_) => 0,
        Work::Step(_, intent) | Work::Undo(_, intent) => intent.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_stream_of_a_session_ends_the_older_one() {
        let streams = Streams::default();
        let (one, mut first) = Stream::open(Held::default());
        let (two, _second) = Stream::open(Held::default());
        streams.insert(SessionId(7), one.clone());
        streams.insert(SessionId(7), two.clone());
        assert!(matches!(first.try_recv(), Ok(Out::End(None))));
        assert!(!streams.remove(SessionId(7), one.id()));
        assert!(streams.remove(SessionId(7), two.id()));
        assert!(streams.is_empty());
    }

    #[tokio::test]
    async fn a_worker_that_does_not_read_loses_its_stream() {
        let (stream, _queue) = Stream::open(Held::default());
        for number in 0..=QUEUED_MAX as u64 {
            stream.send(Out::Message(v1::to_worker::Message::Beat(v1::Beat {
                number,
            })));
        }
        stream.broken().await;
    }
}
