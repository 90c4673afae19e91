//! A network namespace: addresses, links and packet rules that only the processes in it have.
//!
//! Invariant: it has no name anywhere. The kernel keeps it while somebody holds it or a process lives in it, so nothing of it outlives
//! this program, however that ends. Not here: what is in one (`network`).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// A held namespace.
#[derive(Debug, Clone)]
pub struct Space {
    held: Arc<OwnedFd>,
}

impl Space {
    /// A new one, in which there is nothing yet but a loopback that is down.
    ///
    /// # Errors
    /// This system has none, or we may not make one.
    pub fn fresh() -> io::Result<Self> {
        let made = std::thread::spawn(|| {
            leave_for_a_fresh_one()?;
            here()
        });
        let held = made.join().map_err(|_| ended())??;
        Ok(Self {
            held: Arc::new(held),
        })
    }

    /// Does something in it, on a thread of its own; a process that is started there lives in it.
    ///
    /// # Errors
    /// The thread could not move into it.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let done = scope.spawn(|| {
                self.enter()?;
                Ok(work())
            });
            done.join().map_err(|_| ended())?
        })
    }

    /// Where programs that want a path find it, while this process lives.
    pub fn path(&self) -> String {
        let (pid, fd) = (std::process::id(), self.held.as_raw_fd());
        format!("/proc/{pid}/fd/{fd}")
    }

    /// Moves this thread into it. One system call: allowed between fork and exec.
    #[cfg(target_os = "linux")]
    pub(super) fn enter(&self) -> io::Result<()> {
        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        use std::os::fd::AsFd;
        let kind = Some(LinkNameSpaceType::Network);
        Ok(move_into_link_name_space(self.held.as_fd(), kind)?)
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn enter(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Moves this thread, and with it all that it starts from now on, into a namespace of its own.
///
/// # Errors
/// As for [`Space::fresh`].
#[cfg(target_os = "linux")]
pub fn leave_for_a_fresh_one() -> io::Result<()> {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    #[expect(
        unsafe_code,
        reason = "the call is unsafe for the sake of file tables, and only the network is unshared"
    )]
    unsafe {
        Ok(unshare_unsafe(UnshareFlags::NEWNET)?)
    }
}

/// As on Linux, which this is not.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn leave_for_a_fresh_one() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn here() -> io::Result<OwnedFd> {
    Ok(std::fs::File::open("/proc/thread-self/ns/net")?.into())
}

fn ended() -> io::Error {
    io::Error::other("the thread in the namespace broke off")
}
