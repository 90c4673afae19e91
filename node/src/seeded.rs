//! Arms a bug planted on purpose, by its name: feature `seeded-bugs` alone.
//!
//! Invariant: once in a process, before anything is served. Not here: the bugs (`raft`'s `seeded`).

use holdfast_raft::seeded;

/// The names of all of them.
pub fn names() -> impl Iterator<Item = &'static str> {
    seeded::ALL.iter().map(|(name, _)| *name)
}

/// Arms the bug of this name in the whole process.
///
/// # Errors
/// There is none of this name: the text lists those there are.
pub fn arm(name: &str) -> Result<(), String> {
    let found = seeded::ALL.iter().find(|(known, _)| *known == name);
    let (_, bug) = found.ok_or_else(|| {
        let all: Vec<&str> = names().collect();
        format!("no seeded bug {name}; there are: {}", all.join(", "))
    })?;
    seeded::arm_process(*bug);
    tracing::warn!(bug = name, "a bug is planted in this node on purpose");
    Ok(())
}
