//! Holdfast: crashes happen, your workflow keeps going.
//!
//! A workflow is an async function that asks its [`Cx`] for steps, waits and sleeps; steps are ordinary async Rust.
//! [`Worker`] executes both, [`Client`] starts runs and tells them things. Names are typed constants ([`Workflow`],
//! [`Step`], [`Signal`], [`View`]), shared by all of them.
//!
//! ```no_run
//! use holdfast::{Client, Cx, Fail, Step, Worker, Workflow};
//!
//! const HELLO: Workflow<String, String> = Workflow::new("hello");
//! const GREET: Step<String, String> = Step::new("greet");
//!
//! async fn hello(cx: Cx, name: String) -> Result<String, Fail> {
//!     let greeting = cx.step(GREET, name).await?; // recorded: never done again
//!     cx.sleep(std::time::Duration::from_secs(3_600)).await?; // costs no worker anything
//!     Ok(format!("{greeting}, an hour later"))
//! }
//!
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::from_env().await?;
//! let worker = Worker::new(&client, "greetings")
//!     .workflow(HELLO, hello)
//!     .step(GREET, async |_, name: String| Ok(format!("hello, {name}")));
//! tokio::spawn(worker.run());
//! let run = client.start(HELLO, "hello-1", "world".to_string()).await?;
//! println!("{}", run.result().await?);
//! # Ok(()) }
//! ```
//!
//! The whole order example is `examples/order.rs`; a receiver on which two attempts of a step have one effect is
//! `examples/fenced_receiver.rs`.

#![warn(clippy::missing_errors_doc)]

mod admin;
mod call;
mod client;
mod cx;
mod digest;
mod endpoints;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod journal;
mod names;
mod step_cx;
mod worker;

pub use holdfast_proto::v1 as wire;

pub use client::{Client, Ended, Outgoing, Run, RunSummary, Runs, Start, Status};
pub use cx::{Call, Cx, GiveUp, Op, Retry, Wait};
pub use error::{
    Cancelled, ClientError, EndsRun, Fail, ResultExt, RunError, StepError, StepFailed, StepResult,
};
pub use names::{Data, Found, Probe, Signal, Step, Undo, View, Workflow};
pub use step_cx::StepCx;
pub use worker::{LimitSpec, Stuck, Worker};
