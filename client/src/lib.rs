//! Holdfast: crashes happen, your workflow keeps going.
//!
//! A workflow is an async function that asks its [`Cx`] for steps, waits and sleeps; steps are ordinary async Rust.
//! [`Worker`] executes both, [`Client`] starts runs and tells them things. Names are typed constants ([`Workflow`],
//! [`Step`], [`Signal`], [`View`]), shared by all of them.

mod admin;
mod call;
mod client;
mod cx;
mod digest;
mod error;
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
pub use worker::{LimitSpec, Worker};
