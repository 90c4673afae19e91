//! A check in a process of its own, without a planted bug and with it: a bug is armed for a whole process, for good.
//!
//! Invariant: a bug counts as caught only by a check that holds without it. Not here: the checks, and how a bug is armed.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Names the bug in the process of a check; empty: none.
pub const ARMED: &str = "SEEDED_BUG_OF_A_TEST";
/// A check takes a few seconds.
const CHECK_MAX: Duration = Duration::from_secs(90);
/// Between two looks whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Whether a check holds in a process of its own, with this bug or with none.
pub fn holds(check: &str, bug: &str) -> bool {
    // A check that breaks without any bug is to say why; one that breaks with a bug does as it should.
    let shown = || match bug {
        "" => Stdio::inherit(),
        _ => Stdio::null(),
    };
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -c 0; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", check, "--ignored"])
        .env(ARMED, bug)
        .stdout(shown())
        .stderr(shown())
        .spawn()
        .unwrap();
    let began = Instant::now();
    loop {
        if let Some(ended) = child.try_wait().unwrap() {
            return ended.success();
        }
        if began.elapsed() > CHECK_MAX {
            child.kill().unwrap();
            child.wait().unwrap();
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The check holds, and breaks once the bug is armed.
pub fn is_caught(bug: &str, check: &str) {
    // One at a time: they start clusters, and a cluster on a busy machine elects when it should not.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock();
    assert!(holds(check, ""), "{check} breaks without any bug");
    assert!(!holds(check, bug), "{check} does not notice {bug}");
}

/// What the process of a check is to arm, if anything.
pub fn bug_to_arm() -> Option<String> {
    std::env::var(ARMED).ok().filter(|name| !name.is_empty())
}
