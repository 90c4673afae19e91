//! Translation between wire and stored forms and the core's types: here and nowhere else. No rules.

pub mod keys;
pub mod log;
mod read;
pub mod rows;
pub mod wire;
mod write;

/// Bytes that are no message of ours. Never repaired, never skipped: whoever meets one on disk stops.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("undecodable {what}: {why}")]
pub struct Undecodable {
    /// What it was to be.
    pub what: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl Undecodable {
    pub(crate) fn new(what: &'static str, why: impl Into<String>) -> Self {
        Self {
            what,
            why: why.into(),
        }
    }
}

/// A message field that must be there.
pub(crate) fn required<T>(field: Option<T>, what: &'static str) -> Result<T, Undecodable> {
    field.ok_or_else(|| Undecodable::new(what, "a field that must be there is missing"))
}
