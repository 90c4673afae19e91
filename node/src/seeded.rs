//! Arms a bug planted on purpose, by its name: feature `seeded-bugs` alone.
//!
//! Invariant: once in a process, before anything is served. Not here: the bugs (`seeded` of `raft` and of `scheduler`).

use holdfast_raft::seeded as outer;
use holdfast_scheduler::seeded as inner;

/// The names of all of them.
pub fn names() -> impl Iterator<Item = &'static str> {
    let of_core = inner::ALL.iter().map(|(name, _)| *name);
    outer::ALL.iter().map(|(name, _)| *name).chain(of_core)
}

/// Arms the bug of this name in the whole process.
///
/// # Errors
/// There is none of this name: the text lists those there are.
pub fn arm(name: &str) -> Result<(), String> {
    if let Some((_, bug)) = outer::ALL.iter().find(|(known, _)| *known == name) {
        outer::arm_process(*bug);
    } else if let Some((_, bug)) = inner::ALL.iter().find(|(known, _)| *known == name) {
        inner::arm_process(*bug);
    } else {
        let all: Vec<&str> = names().collect();
        return Err(format!(
            "no seeded bug {name}; there are: {}",
            all.join(", ")
        ));
    }
    tracing::warn!(bug = name, "a bug is planted in this node on purpose");
    Ok(())
}
