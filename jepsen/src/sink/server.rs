//! The sink's door: HTTP in, the book's ruling to disk, HTTP out.
//!
//! Invariant: calls are judged, numbered and queued for the disk under one lock, so the file has the book's order; an answer goes
//! out only after the sync. When the disk fails the process ends: a witness that cannot write must not act.

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use super::{Book, Mode, SinkAnswer, SinkCall};
use crate::clock::monotonic_ns;
use crate::records::Effect;

/// One sync takes up to so many lines along; callers beyond wait at the door.
const PENDING_LINES_MAX: usize = 1024;
/// Cannot write: no witness.
const EXIT_DISK: i32 = 74;

/// Why the sink does not open.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// Its file.
    #[error("{path} cannot be written")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// Its address.
    #[error("the sink cannot listen on {addr}; choose another port")]
    Listen {
        /// Which.
        addr: SocketAddr,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
}

/// An open sink.
#[derive(Debug)]
pub struct Sink {
    listener: TcpListener,
    door: Arc<Door>,
}

#[derive(Debug)]
struct Door {
    counter: Mutex<Counter>,
    queue: mpsc::Sender<Pending>,
}

#[derive(Debug)]
struct Counter {
    book: Book,
    next: u64,
}

#[derive(Debug)]
struct Pending {
    line: Effect,
    synced: oneshot::Sender<()>,
}

impl Sink {
    /// Opens its file and listens.
    ///
    /// # Errors
    /// The file or the address cannot be used.
    pub async fn open(mode: Mode, file: &Path, addr: SocketAddr) -> Result<Self, SinkError> {
        let failed = |cause| SinkError::File {
            path: file.to_owned(),
            cause,
        };
        let disk = File::options()
            .create(true)
            .append(true)
            .open(file)
            .map_err(failed)?;
        let (queue, pending) = mpsc::channel(PENDING_LINES_MAX);
        std::thread::Builder::new()
            .name("sink".to_string())
            .spawn(move || {
                if keep(disk, pending).is_err() {
                    std::process::exit(EXIT_DISK);
                }
            })
            .map_err(failed)?;
        let listener = TcpListener::bind(addr)
            .await
            .map_err(|cause| SinkError::Listen { addr, cause })?;
        let counter = Mutex::new(Counter {
            book: Book::new(mode),
            next: 0,
        });
        Ok(Self {
            listener,
            door: Arc::new(Door { counter, queue }),
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not say.
    pub fn addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the process ends.
    ///
    /// # Errors
    /// The listener failed.
    pub async fn serve(self) -> io::Result<()> {
        let router = Router::new().route("/", post(take)).with_state(self.door);
        axum::serve(self.listener, router).await
    }
}

async fn take(
    State(door): State<Arc<Door>>,
    Json(call): Json<SinkCall>,
) -> Result<Json<SinkAnswer>, StatusCode> {
    let gone = |_| StatusCode::SERVICE_UNAVAILABLE;
    let place = door
        .queue
        .reserve()
        .await
        .map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let (synced, waits) = oneshot::channel();
    let ruling = {
        let mut counter = door.counter.lock();
        let ruling = counter.book.judge(&call);
        let line = Effect {
            seq: counter.next,
            t: monotonic_ns(),
            run: call.run,
            generation: call.generation,
            step: call.step,
            attempt: call.attempt,
            fence: call.fence,
            key: call.key,
            worker: call.worker,
            serial: call.serial,
            undo: call.undo,
            ruling,
        };
        counter.next += 1;
        place.send(Pending { line, synced });
        ruling
    };
    waits.await.map_err(gone)?;
    Ok(Json(SinkAnswer { ruling }))
}

fn keep(mut disk: File, mut pending: mpsc::Receiver<Pending>) -> io::Result<()> {
    let mut all = Vec::new();
    while pending.blocking_recv_many(&mut all, PENDING_LINES_MAX) > 0 {
        let mut text = Vec::new();
        for one in &all {
            serde_json::to_writer(&mut text, &one.line)?;
            text.push(b'\n');
        }
        disk.write_all(&text)?;
        disk.sync_data()?;
        for one in all.drain(..) {
            // Who asked may have died meanwhile; the effect has happened all the same.
            let _ = one.synced.send(());
        }
    }
    Ok(())
}
