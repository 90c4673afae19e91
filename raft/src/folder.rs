//! Folders whose names survive a loss of power.
//!
//! Invariant: a sync of a file does not cover its name. Whoever makes a file or folder that must be found again syncs the folder it is in,
//! before anything is acknowledged that lies in it.

use std::io;
use std::path::{Path, PathBuf};

use crate::host::fs::{self, File};

/// Makes the folder and those it is in, as far as they are missing; their names are durable on return.
///
/// # Errors
/// It cannot be made or synced.
pub(crate) fn make(folder: &Path) -> io::Result<()> {
    let missing: Vec<PathBuf> = folder
        .ancestors()
        .take_while(|it| !it.as_os_str().is_empty() && !fs::exists(it).unwrap_or(false))
        .map(Path::to_owned)
        .collect();
    fs::create_dir_all(folder)?;
    for made in missing {
        let above = made.parent().filter(|it| !it.as_os_str().is_empty());
        sync(above.unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

/// The names in this folder are durable on return.
///
/// # Errors
/// It cannot be synced.
pub(crate) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
