//! The machine itself: RocksDB, the file system, threads, TCP.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;

use tokio::net::{TcpListener, TcpStream};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

pub(crate) use std::fs;
pub(crate) use std::os::unix::fs::FileExt;
pub(crate) use std::sync::mpsc::{Sender, SyncSender};

pub(crate) use ::rocksdb;

use super::Worker;

/// Where peers connect to.
pub type Listener = std::net::TcpListener;
/// Jobs on their way to a worker, seen from the worker.
pub(crate) type Inbox<T> = mpsc::Receiver<T>;

/// Peers connect to this socket.
pub fn listens(at: std::net::TcpListener) -> Listener {
    at
}

/// A name that nobody else has.
pub(crate) fn uuid() -> Uuid {
    Uuid::new_v4()
}

/// Ends the process, now.
pub(crate) fn abort() -> ! {
    std::process::abort()
}

/// Runs what may wait for the disk where it holds up nobody.
pub(crate) fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> T + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    tokio::task::spawn_blocking(call)
}

/// The connections that peers make.
pub(crate) fn incoming(
    listener: Listener,
) -> io::Result<impl futures::Stream<Item = io::Result<TcpStream>> + Send> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    // Small frames must not wait for acknowledgements.
    Ok(TcpListenerStream::new(listener).map(|accepted| {
        let stream = accepted?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }))
}

/// A channel that connects on first use.
pub(crate) fn connect_lazy(endpoint: &Endpoint) -> Channel {
    endpoint.connect_lazy()
}

/// Whether somebody listens at `address`.
pub(crate) async fn connect(address: &str) -> io::Result<()> {
    TcpStream::connect(address).await.map(drop)
}

/// A way to a worker that takes whatever is sent: its bound is the sender's.
pub(crate) fn unbounded<T>() -> (Sender<T>, Inbox<T>) {
    mpsc::channel()
}

/// A way to a worker on which the sender waits once `max` jobs are under way.
pub(crate) fn bounded<T>(max: usize) -> (SyncSender<T>, Inbox<T>) {
    mpsc::sync_channel(max)
}

/// A worker's thread.
pub(crate) struct Thread(JoinHandle<()>);

impl Thread {
    /// Waits until it has ended. Blocking; at once on the worker's own thread.
    pub(crate) fn join(self) {
        if self.0.thread().id() != std::thread::current().id() {
            drop(self.0.join()); // what went wrong in it was reported by the worker
        }
    }
}

/// Starts a worker.
pub(crate) fn start<W: Worker>(
    name: String,
    mut worker: W,
    mut inbox: Inbox<W::Job>,
) -> io::Result<Thread> {
    let run = move || {
        loop {
            let next = match worker.patience() {
                Some(patience) => inbox.recv_timeout(patience),
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let goes_on = match next {
                Ok(job) => worker.work(job, &mut inbox),
                Err(RecvTimeoutError::Timeout) => worker.idle(),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if !goes_on {
                break;
            }
        }
        worker.end();
    };
    std::thread::Builder::new()
        .name(name)
        .spawn(run)
        .map(Thread)
}
