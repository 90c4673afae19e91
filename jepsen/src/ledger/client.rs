//! The shop as its customers call it: a payment API's client library, so to speak.
//!
//! Invariant: nothing is retried here; each error says whether the call may have been served. Not here: what a step makes of it.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::http::{self, Answer};

/// The shop answers within its latency plus a sync; a step that waits longer is better off asking again.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Who calls, and under which right.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The order it is for.
    pub order: String,
    /// The idempotency key: the same for every attempt of the step.
    pub key: String,
    /// The run.
    pub run: String,
    /// The step of the run; the undo of a step has another name.
    pub step: String,
    /// The fence of the lease under which the step runs.
    pub fence: u64,
    /// The attempt, from 1.
    pub attempt: u32,
    /// The process that calls.
    #[serde(default)]
    pub worker: String,
}

/// Something was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The same for each call under one key.
    pub id: String,
    /// Whether it had been done before this call.
    pub repeated: bool,
}

/// Why nothing was done, or nothing is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShopError {
    /// 429.
    #[error("the shop is busy; come back in {retry_after:?}")]
    Busy {
        /// When to come back.
        retry_after: Duration,
    },
    /// A newer holder of this step has been here.
    #[error("the shop has seen a newer fence for this step; this attempt is over")]
    StaleFence,
    /// The bank refuses.
    #[error("the charge is declined; ask the customer for another card")]
    Declined,
    /// Not enough on the shelf.
    #[error("not enough in stock; cancel the order or wait for goods")]
    OutOfStock,
    /// A request that will never be served as it is.
    #[error("the shop refuses: {0}")]
    Refused(String),
    /// No answer: it may have been done; repeat with the same key.
    #[error(
        "no answer from the shop, the call may have been served; repeat it with the same key ({0})"
    )]
    Unreachable(String),
}

/// Calls a shop. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ShopClient {
    to: SocketAddr,
}

impl ShopClient {
    /// A client of the shop at this address.
    pub fn new(to: SocketAddr) -> Self {
        Self { to }
    }

    /// Takes money, once per key.
    ///
    /// # Errors
    /// Any of [`ShopError`] but `OutOfStock`.
    pub async fn charge(&self, who: &Caller, cents: u64) -> Result<Receipt, ShopError> {
        self.post("/payment/charge", who, json!({ "cents": cents }))
            .await
    }

    /// Gives back what was charged under `charge`, the key of the charge. Succeeds too if nothing was; then a late charge
    /// under that key is refused for good.
    ///
    /// # Errors
    /// `StaleFence`, `Refused`, `Unreachable`.
    pub async fn refund(&self, who: &Caller, charge: &str) -> Result<Receipt, ShopError> {
        self.post("/payment/refund", who, json!({ "charge": charge }))
            .await
    }

    /// The charge made under a key and not refunded, if there is one.
    ///
    /// # Errors
    /// `Unreachable`.
    pub async fn find_charge(&self, key: &str) -> Result<Option<Receipt>, ShopError> {
        let answer = self
            .send("GET", &format!("/payment/charges/{}", escaped(key)), b"")
            .await?;
        if answer.status == 404 {
            Ok(None)
        } else {
            receipt(&answer).map(Some)
        }
    }

    /// Takes goods from the shelf, once per key.
    ///
    /// # Errors
    /// Any of [`ShopError`] but `Declined` and `Busy`.
    pub async fn reserve(&self, who: &Caller, sku: &str, qty: u64) -> Result<Receipt, ShopError> {
        self.post("/inventory/reserve", who, json!({ "sku": sku, "qty": qty }))
            .await
    }

    /// Puts back what was reserved under `reservation`, the key of the reservation.
    ///
    /// # Errors
    /// `StaleFence`, `Refused`, `Unreachable`.
    pub async fn release(&self, who: &Caller, reservation: &str) -> Result<Receipt, ShopError> {
        self.post(
            "/inventory/release",
            who,
            json!({ "reservation": reservation }),
        )
        .await
    }

    /// Sends a message, once per key.
    ///
    /// # Errors
    /// `StaleFence`, `Refused`, `Unreachable`.
    pub async fn mail(&self, who: &Caller, to: &str, text: &str) -> Result<Receipt, ShopError> {
        self.post("/mail/send", who, json!({ "to": to, "text": text }))
            .await
    }

    /// Units on the shelf.
    ///
    /// # Errors
    /// `Refused`: no such article. `Unreachable`.
    pub async fn stock(&self, sku: &str) -> Result<u64, ShopError> {
        let answer = self
            .send("GET", &format!("/inventory/stock/{}", escaped(sku)), b"")
            .await?;
        let body = body(&answer)?;
        match body["units"].as_u64() {
            Some(units) => Ok(units),
            None => Err(ShopError::Refused(body["error"].to_string())),
        }
    }

    async fn post(&self, path: &str, who: &Caller, args: Value) -> Result<Receipt, ShopError> {
        let mut message = json!(who);
        message["args"] = args;
        receipt(
            &self
                .send("POST", path, message.to_string().as_bytes())
                .await?,
        )
    }

    async fn send(&self, method: &str, path: &str, body: &[u8]) -> Result<Answer, ShopError> {
        http::request(self.to, method, path, body, ANSWER_WITHIN)
            .await
            .map_err(|cause| ShopError::Unreachable(cause.to_string()))
    }
}

fn body(answer: &Answer) -> Result<Value, ShopError> {
    serde_json::from_slice(&answer.body)
        .map_err(|_| ShopError::Unreachable(format!("status {} without JSON", answer.status)))
}

fn receipt(answer: &Answer) -> Result<Receipt, ShopError> {
    let body = body(answer)?;
    let verdict = body["verdict"].as_str().unwrap_or_default();
    match (answer.status, verdict) {
        (200, _) => Ok(Receipt {
            id: body["id"].as_str().unwrap_or_default().to_string(),
            repeated: verdict == "repeated",
        }),
        (429, _) => Err(ShopError::Busy {
            retry_after: Duration::from_millis(body["retry_after_ms"].as_u64().unwrap_or(1_000)),
        }),
        (402, _) => Err(ShopError::Declined),
        (409, "stale-fence") => Err(ShopError::StaleFence),
        (422, "out-of-stock") => Err(ShopError::OutOfStock),
        (500.., _) => Err(ShopError::Unreachable(format!("status {}", answer.status))),
        _ => Err(ShopError::Refused(
            body["error"].as_str().unwrap_or(verdict).to_string(),
        )),
    }
}

/// Keys and articles are chosen by others and may hold anything; a path may not.
fn escaped(text: &str) -> String {
    let mut path = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push('%');
            path.push(char::from(b"0123456789ABCDEF"[usize::from(byte >> 4)]));
            path.push(char::from(b"0123456789ABCDEF"[usize::from(byte & 15)]));
        }
    }
    path
}
