//! Node to node: connections, identity of both ends, the calls themselves.
//!
//! Invariant: nothing here decides; every message is handed on or refused at the door.
//! Not here: what the messages mean to consensus (`adapter`).

pub mod identity;

pub(crate) mod connections;
pub(crate) mod server;
pub(crate) mod stream;
pub(crate) mod watch;
