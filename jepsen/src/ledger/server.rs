//! The shop's door: HTTP in, the till's verdict to disk, HTTP out.
//!
//! Invariant: calls are judged and queued for the disk under one lock, so the file has the till's order; an answer goes out only after
//! the sync. When the disk fails the shop ends: a witness that cannot write must not act. Not here: the rules (`till`).

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::client::Caller;
use super::file::{self, CallLine, Deed, Line, PENDING_LINES_MAX, Pending, Verdict};
use super::till::{Behaviour, Ruling, Till};

/// Why the shop does not open, or closed.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The ledger file.
    #[error("the ledger {path} cannot be used; it must be a file that we may write to")]
    File {
        /// Which.
        path: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The address.
    #[error("the shop cannot listen on {addr}; choose another address")]
    Listen {
        /// Which.
        addr: SocketAddr,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
}

/// How to open a shop.
#[derive(Debug, Clone)]
pub struct ShopOptions {
    addr: SocketAddr,
    ledger: PathBuf,
    stock: BTreeMap<String, u64>,
    behaviour: Behaviour,
}

impl ShopOptions {
    /// Where to listen (port 0: any free one) and which file to keep the ledger in. An existing one is continued.
    pub fn new(addr: SocketAddr, ledger: impl Into<PathBuf>) -> Self {
        let (stock, behaviour) = (BTreeMap::new(), Behaviour::default());
        Self {
            addr,
            ledger: ledger.into(),
            stock,
            behaviour,
        }
    }

    /// Puts units of an article on the shelf, when the ledger is new.
    #[must_use]
    pub fn stock(mut self, sku: &str, units: u64) -> Self {
        self.stock.insert(sku.to_string(), units);
        self
    }

    /// How it misbehaves.
    #[must_use]
    pub fn behaviour(mut self, behaviour: Behaviour) -> Self {
        self.behaviour = behaviour;
        self
    }
}

/// An open shop. Dropping it closes it; what was answered is on disk.
#[derive(Debug)]
pub struct Shop {
    addr: SocketAddr,
    ledger: PathBuf,
    counter: Arc<Counter>,
    close: watch::Sender<bool>,
    serving: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Counter {
    till: Mutex<Till>,
    queue: mpsc::Sender<Pending>,
}

impl Shop {
    /// Opens the ledger, rebuilds what it says, and serves in tasks of the current runtime.
    ///
    /// # Errors
    /// The file or the address cannot be used.
    pub async fn open(options: ShopOptions) -> Result<Self, LedgerError> {
        let failed = |cause| LedgerError::File {
            path: options.ledger.display().to_string(),
            cause,
        };
        let (file, mut lines) = file::open(&options.ledger).map_err(failed)?;
        // One sync has up to a full queue of lines: callers at the bound wait at the door.
        let (queue, pending) = mpsc::channel(PENDING_LINES_MAX);
        let (close, closing) = watch::channel(false);
        let lost = close.clone();
        std::thread::Builder::new()
            .name("ledger".to_string())
            .spawn(move || {
                if let Err(cause) = file::write_all(file, pending) {
                    tracing::error!(%cause, "ledger not written; the shop closes");
                    lost.send_replace(true);
                }
            })
            .map_err(failed)?;
        if lines.is_empty() {
            let opened = Line::Opened {
                stock: options.stock.clone(),
            };
            write(&queue, opened.clone()).await.map_err(failed)?;
            lines.push(opened);
        }
        let mut till = Till::replay(&lines);
        till.behaviour = options.behaviour.clone();
        let counter = Arc::new(Counter {
            till: Mutex::new(till),
            queue,
        });
        let refused = |cause| LedgerError::Listen {
            addr: options.addr,
            cause,
        };
        let listener = tokio::net::TcpListener::bind(options.addr)
            .await
            .map_err(refused)?;
        let addr = listener.local_addr().map_err(refused)?;
        let serving = tokio::spawn(serve(listener, counter.clone(), closing));
        Ok(Self {
            addr,
            ledger: options.ledger,
            counter,
            close,
            serving: Some(serving),
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where it listens, as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The ledger file.
    pub fn ledger(&self) -> &std::path::Path {
        &self.ledger
    }

    /// How many calls it has judged, over all of its ledger.
    pub fn calls(&self) -> u64 {
        self.counter.till.lock().next_seq
    }

    /// Misbehaves differently from now on.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        self.counter.till.lock().behaviour = behaviour;
    }

    /// Waits until it has closed, which it does by itself only when its disk fails.
    pub async fn ended(&mut self) {
        if let Some(serving) = self.serving.take() {
            // A panic of the serving task ends the shop too.
            let _ = serving.await;
        }
    }

    /// Closes the door, finishes calls in progress, and returns.
    pub async fn stop(mut self) {
        self.close.send_replace(true);
        self.ended().await;
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.close.send_replace(true);
    }
}

async fn serve(
    listener: tokio::net::TcpListener,
    counter: Arc<Counter>,
    mut closing: watch::Receiver<bool>,
) {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/payment/charge", post(charge))
        .route("/payment/refund", post(refund))
        .route("/payment/charges/{key}", get(find_charge))
        .route("/inventory/reserve", post(reserve))
        .route("/inventory/release", post(release))
        .route("/inventory/stock/{sku}", get(stock))
        .route("/mail/send", post(mail))
        .with_state(counter);
    let closed = async move {
        // An error means that the shop itself is gone, which closes it too.
        let _ = closing.wait_for(|closed| *closed).await;
    };
    if let Err(cause) = axum::serve(listener, router)
        .with_graceful_shutdown(closed)
        .await
    {
        tracing::error!(%cause, "the shop closed");
    }
}

type At = State<Arc<Counter>>;

async fn charge(State(counter): At, body: Bytes) -> Response {
    call(&counter, &body, |args| {
        Some(Deed::Charge {
            cents: args["cents"].as_u64()?,
        })
    })
    .await
}

async fn refund(State(counter): At, body: Bytes) -> Response {
    call(&counter, &body, |args| {
        Some(Deed::Refund {
            charge: text(args, "charge")?,
        })
    })
    .await
}

async fn reserve(State(counter): At, body: Bytes) -> Response {
    let deed = |args: &Value| {
        Some(Deed::Reserve {
            sku: text(args, "sku")?,
            qty: args["qty"].as_u64()?,
        })
    };
    call(&counter, &body, deed).await
}

async fn release(State(counter): At, body: Bytes) -> Response {
    let deed = |args: &Value| {
        Some(Deed::Release {
            reservation: text(args, "reservation")?,
        })
    };
    call(&counter, &body, deed).await
}

async fn mail(State(counter): At, body: Bytes) -> Response {
    let deed = |args: &Value| {
        Some(Deed::Mail {
            to: text(args, "to")?,
            text: text(args, "text")?,
        })
    };
    call(&counter, &body, deed).await
}

async fn find_charge(State(counter): At, Path(key): Path<String>) -> Response {
    let caller = Caller {
        key: key.clone(),
        ..Caller::default()
    };
    answer(&counter, &caller, Deed::FindCharge { charge: key }).await
}

async fn stock(State(counter): At, Path(sku): Path<String>) -> Response {
    let left = counter.till.lock().stock(&sku);
    match left {
        Some(units) => said(StatusCode::OK, &json!({ "sku": sku, "units": units })),
        None => said(
            StatusCode::NOT_FOUND,
            &json!({ "error": format!("no article {sku}") }),
        ),
    }
}

fn text(args: &Value, name: &str) -> Option<String> {
    Some(args[name].as_str()?.to_string())
}

/// A body is the caller's fields with `args` beside them.
async fn call(counter: &Counter, body: &[u8], deed: impl Fn(&Value) -> Option<Deed>) -> Response {
    let bad = |what: &str| said(StatusCode::BAD_REQUEST, &json!({ "error": what }));
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return bad("the body is not JSON");
    };
    let Some(deed) = deed(&value["args"]) else {
        return bad("args lacks a field of this call");
    };
    let Ok(caller) = serde_json::from_value::<Caller>(value) else {
        return bad("needed: order, key, run, step, fence, attempt, worker");
    };
    if caller.key.is_empty() {
        return bad("key is empty; without one nothing can be done once");
    }
    answer(counter, &caller, deed).await
}

async fn answer(counter: &Counter, caller: &Caller, deed: Deed) -> Response {
    let half = counter.till.lock().behaviour.latency / 2;
    pause(half).await;
    let Ok(room) = counter.queue.reserve().await else {
        return said(
            StatusCode::INTERNAL_SERVER_ERROR,
            &json!({ "error": "the ledger is lost" }),
        );
    };
    let (tx, synced) = oneshot::channel();
    let ruling = {
        let mut till = counter.till.lock();
        let ruling = till.judge(caller, &deed, Instant::now());
        let line = line(caller, deed, till.next_seq, ruling.verdict);
        till.next_seq += 1;
        till.remember(&line);
        room.send(Pending {
            line: Line::Call(line),
            synced: tx,
        });
        ruling
    };
    if synced.await.is_err() {
        return said(
            StatusCode::INTERNAL_SERVER_ERROR,
            &json!({ "error": "the ledger is lost" }),
        );
    }
    pause(half).await;
    reply(caller, &ruling)
}

/// A timer of zero would still cost a turn of the runtime.
async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

async fn write(queue: &mpsc::Sender<Pending>, line: Line) -> io::Result<()> {
    let (synced, done) = oneshot::channel();
    let lost = || io::Error::other("the first line could not be written");
    queue
        .send(Pending { line, synced })
        .await
        .map_err(|_| lost())?;
    done.await.map_err(|_| lost())
}

fn line(caller: &Caller, deed: Deed, seq: u64, verdict: Verdict) -> CallLine {
    let caller = caller.clone();
    CallLine {
        seq,
        t_us: monotonic_us(),
        order: caller.order,
        key: caller.key,
        run: caller.run,
        step: caller.step,
        fence: caller.fence,
        attempt: caller.attempt,
        worker: caller.worker,
        deed,
        verdict,
    }
}

fn monotonic_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (seconds, nanos) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    seconds * 1_000_000 + nanos / 1_000
}

fn reply(caller: &Caller, ruling: &Ruling) -> Response {
    let status = match ruling.verdict {
        Verdict::Acted | Verdict::Repeated | Verdict::Nothing | Verdict::Found => StatusCode::OK,
        Verdict::Absent => StatusCode::NOT_FOUND,
        Verdict::StaleFence | Verdict::Conflict | Verdict::Closed => StatusCode::CONFLICT,
        Verdict::Throttled => StatusCode::TOO_MANY_REQUESTS,
        Verdict::Declined => StatusCode::PAYMENT_REQUIRED,
        Verdict::OutOfStock => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let mut body = json!({ "verdict": ruling.verdict, "id": format!("r-{}", caller.key) });
    let Some(after) = ruling.retry_after else {
        return said(status, &body);
    };
    body["retry_after_ms"] = json!(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
    let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
    let mut response = said(status, &body);
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, seconds.into());
    response
}

fn said(status: StatusCode, body: &Value) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
        .into_response()
}
