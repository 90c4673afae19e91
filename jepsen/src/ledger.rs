//! The shop: where effects land, and the independent witness of what was really done.
//!
//! A plain HTTP service with payment, inventory and mail that knows nothing of Holdfast. Invariant: every call stands in the synced
//! ledger file before it is answered; an effect happens once per key, and never for a caller whose fence is older than one
//! seen for the same step of the same run. Not here: what the orders should have come to (`holdfast demo`, the tests).

mod audit;
mod client;
mod file;
mod server;
mod till;

pub use self::audit::{Audit, KeyCalls, OrderEffects, Stock};
pub use self::client::{Caller, Receipt, ShopClient, ShopError};
pub use self::file::{CallLine, Deed, Line, Verdict, read_ledger};
pub use self::server::{LedgerError, Shop, ShopOptions};
pub use self::till::{Behaviour, Throttle};
