//! Reads a trace of `strace -f -ttt -T -y -xx`: what a process did to the files of one folder, in the order in which it was done.
//!
//! Invariant: a call stands where it ended; a sync also says where it began, for only what had been done by then is sure to be covered.
//! A call that is not understood is an error and never skipped: an image without it would be a lie.
//! Not here: what a disk makes of it (`disk`).

use std::collections::HashMap;

/// What was done to a file or folder. Paths are relative to the traced folder; the empty one is the folder itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// A file or folder was opened.
    Open {
        /// Which.
        path: String,
        /// As this descriptor.
        fd: i64,
        /// How.
        how: How,
    },
    /// Bytes were written.
    Write {
        /// To what.
        fd: i64,
        /// At this offset, or where the descriptor stands.
        at: Option<u64>,
        /// Which.
        bytes: Vec<u8>,
    },
    /// A file got another length.
    Truncate {
        /// Which file.
        fd: i64,
        /// Its length.
        len: u64,
    },
    /// Space was taken for a file.
    Allocate {
        /// Which file.
        fd: i64,
        /// Its least length from now on, if that changes.
        len: Option<u64>,
    },
    /// A name moved.
    Rename {
        /// The old one.
        from: String,
        /// The new one.
        to: String,
    },
    /// A file got a second name.
    Link {
        /// The first.
        from: String,
        /// The second.
        to: String,
    },
    /// A name went.
    Unlink {
        /// Which.
        path: String,
    },
    /// A folder was made.
    Mkdir {
        /// Which.
        path: String,
    },
    /// A folder went.
    Rmdir {
        /// Which.
        path: String,
    },
    /// A file or folder was synced.
    Sync {
        /// Which.
        fd: i64,
        /// How many calls had ended when it began.
        began: usize,
    },
    /// The process started anew: its descriptors are gone, its files are not.
    Restart,
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct How {
    /// It is made if it is not there.
    pub creates: bool,
    /// It is cut to nothing.
    pub empties: bool,
    /// Writes go to its end.
    pub appends: bool,
}

/// A call, and when it ended (seconds of the wall clock).
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When it had ended for certain, and nothing that follows from it had begun.
    pub at: f64,
    /// What.
    pub call: Call,
}

/// Why a trace cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("line {line} of the trace is not understood ({why}): {text}")]
pub struct BadTrace {
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
    /// Its beginning.
    pub text: String,
}

/// A call that has begun: when, its name and text so far, and how many calls had ended then.
struct Begun {
    at: f64,
    text: String,
    ended_before: usize,
}

/// Reads the traces of one folder's process, one after the other.
#[derive(Debug)]
pub struct Reader {
    folder: String,
    events: Vec<Event>,
}

impl Reader {
    /// For what was done under `folder`, an absolute path.
    pub fn new(folder: &str) -> Self {
        Self {
            folder: folder.trim_end_matches('/').to_owned(),
            events: Vec::new(),
        }
    }

    /// Adds the trace of one life of the process.
    ///
    /// # Errors
    /// A line is not understood.
    pub fn read(&mut self, text: &str) -> Result<(), BadTrace> {
        let at = self.events.last().map_or(0.0, |event| event.at);
        self.events.push(Event {
            at,
            call: Call::Restart,
        });
        let mut begun: HashMap<&str, Begun> = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let bad = |why: String| BadTrace {
                line: number + 1,
                why,
                text: line.chars().take(160).collect(),
            };
            let (pid, rest) = line.split_once(' ').ok_or_else(|| bad("no pid".into()))?;
            let (at, rest) = rest
                .trim_start()
                .split_once(' ')
                .ok_or_else(|| bad("no time".into()))?;
            let at: f64 = at.parse().map_err(|_| bad("no time".into()))?;
            if rest.starts_with("+++") || rest.starts_with("---") {
                continue; // an end, or a signal
            }
            let whole = if let Some(first) = rest.strip_suffix(" <unfinished ...>") {
                let text = first.to_owned();
                let ended_before = self.events.len();
                begun.insert(
                    pid,
                    Begun {
                        at,
                        text,
                        ended_before,
                    },
                );
                continue;
            } else if let Some(resumed) = rest.strip_prefix("<... ") {
                let (_, tail) = resumed
                    .split_once(" resumed>")
                    .ok_or_else(|| bad("not resumed".into()))?;
                let mut it = begun
                    .remove(pid)
                    .ok_or_else(|| bad("resumed, and never begun".into()))?;
                it.text.push_str(tail);
                it
            } else {
                Begun {
                    at,
                    text: rest.to_owned(),
                    ended_before: self.events.len(),
                }
            };
            if let Some(call) = self.call(&whole).map_err(bad)? {
                let at = whole.at + took(&whole.text).map_err(bad)?;
                self.events.push(Event { at, call });
            }
        }
        Ok(())
    }

    /// All that was done.
    pub fn events(self) -> Vec<Event> {
        self.events
    }

    /// What one whole call did, if it was done to our folder and succeeded.
    fn call(&self, it: &Begun) -> Result<Option<Call>, String> {
        let (name, rest) = it.text.split_once('(').ok_or("no call")?;
        let (text, result) = rest.rsplit_once(") = ").ok_or("no result")?;
        let code = result.split([' ', '<']).next().unwrap_or_default();
        if code == "?" {
            return Ok(None); // the process ended inside it: done or not, it is the last, and unsynced
        }
        let code: i64 = code.parse().map_err(|_| "no result")?;
        if code < 0 {
            return Ok(None);
        }
        let args = Arguments::of(text)?;
        match name {
            "openat" => self.opened(&args, code),
            "rename" | "renameat" | "renameat2" | "link" | "linkat" => self.moved(name, &args),
            "unlink" | "unlinkat" | "mkdir" | "mkdirat" | "rmdir" => self.named(name, &args),
            "write" | "pwrite64" | "writev" | "pwritev" => self.wrote(name, text, &args, code),
            "fsync" | "fdatasync" => Ok(self.file(&args)?.map(|fd| Call::Sync {
                fd,
                began: it.ended_before,
            })),
            "ftruncate" | "fallocate" => self.sized(name, &args),
            // Starts writing out and promises nothing.
            "sync_file_range" | "close" => Ok(None),
            other => Err(format!("the call {other}")),
        }
    }

    fn opened(&self, args: &Arguments, fd: i64) -> Result<Option<Call>, String> {
        let flags = args.text(2)?;
        let how = How {
            creates: flags.contains("O_CREAT"),
            empties: flags.contains("O_TRUNC"),
            appends: flags.contains("O_APPEND"),
        };
        let path = self.inside(&args.bytes(1)?);
        Ok(path.map(|path| Call::Open { path, fd, how }))
    }

    fn moved(&self, name: &str, args: &Arguments) -> Result<Option<Call>, String> {
        let (from, to) = if name.contains("at") { (1, 3) } else { (0, 1) };
        let (from, to) = (args.bytes(from)?, args.bytes(to)?);
        match (self.inside(&from), self.inside(&to)) {
            (Some(from), Some(to)) if name.starts_with("link") => Ok(Some(Call::Link { from, to })),
            (Some(from), Some(to)) => Ok(Some(Call::Rename { from, to })),
            (None, None) => Ok(None),
            _ => Err("a name moves into or out of the folder".into()),
        }
    }

    fn named(&self, name: &str, args: &Arguments) -> Result<Option<Call>, String> {
        let path = args.bytes(usize::from(name.ends_with("at")))?;
        let Some(path) = self.inside(&path) else {
            return Ok(None);
        };
        let is_folder = name == "rmdir" || args.last().contains("AT_REMOVEDIR");
        Ok(Some(match name {
            "mkdir" | "mkdirat" => Call::Mkdir { path },
            _ if is_folder => Call::Rmdir { path },
            _ => Call::Unlink { path },
        }))
    }

    fn wrote(
        &self,
        name: &str,
        text: &str,
        args: &Arguments,
        done: i64,
    ) -> Result<Option<Call>, String> {
        let Some(fd) = self.file(args)? else {
            return Ok(None);
        };
        let mut bytes = if name.ends_with('v') {
            gathered(text)?
        } else {
            args.bytes(1)?
        };
        let done = usize::try_from(done).map_err(|_| "a result beyond bounds")?;
        if bytes.len() < done {
            return Err("the bytes were cut short; raise -s".into());
        }
        bytes.truncate(done);
        let at = match name {
            "pwrite64" => Some(args.number(3)?),
            "pwritev" => Some(args.last().parse().map_err(|_| "not a number")?),
            _ => None,
        };
        Ok(Some(Call::Write { fd, at, bytes }))
    }

    fn sized(&self, name: &str, args: &Arguments) -> Result<Option<Call>, String> {
        let Some(fd) = self.file(args)? else {
            return Ok(None);
        };
        if name == "ftruncate" {
            let len = args.number(1)?;
            return Ok(Some(Call::Truncate { fd, len }));
        }
        let flags = args.text(1)?;
        if flags.contains("PUNCH") || flags.contains("ZERO") || flags.contains("COLLAPSE") {
            return Err("a hole is made".into());
        }
        let len = args.number(2)? + args.number(3)?;
        let len = (!flags.contains("KEEP_SIZE")).then_some(len);
        Ok(Some(Call::Allocate { fd, len }))
    }

    /// The descriptor in the first argument, if it is of our folder.
    fn file(&self, args: &Arguments) -> Result<Option<i64>, String> {
        let (fd, path) = descriptor(args.text(0)?)?;
        Ok(self.inside(&path).map(|_| fd))
    }

    fn inside(&self, path: &[u8]) -> Option<String> {
        let path = std::str::from_utf8(path).ok()?;
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        let path = path.strip_prefix(&self.folder)?;
        if path.is_empty() {
            return Some(String::new());
        }
        path.strip_prefix('/')
            .map(|path| path.trim_end_matches('/').to_owned())
    }
}

/// How long a call took: what stands in angle brackets at its end.
fn took(text: &str) -> Result<f64, String> {
    let (_, took) = text.rsplit_once('<').ok_or("no duration; trace with -T")?;
    let took = took.strip_suffix('>').ok_or("no duration; trace with -T")?;
    took.parse()
        .map_err(|_| "no duration; trace with -T".into())
}

/// What stands between the brackets of a call.
struct Arguments(Vec<String>);

impl Arguments {
    /// Splits at the commas: bytes are all in hexadecimal, so a quote ends a text.
    fn of(text: &str) -> Result<Self, String> {
        let (mut all, mut one, mut inside) = (Vec::new(), String::new(), false);
        for c in text.chars() {
            match c {
                '"' => inside = !inside,
                ',' if !inside => {
                    all.push(std::mem::take(&mut one).trim().to_owned());
                    continue;
                }
                _ => {}
            }
            one.push(c);
        }
        if inside {
            return Err("a text without end".into());
        }
        all.push(one.trim().to_owned());
        Ok(Self(all))
    }

    fn text(&self, at: usize) -> Result<&str, String> {
        let found = self.0.get(at).map(String::as_str);
        found.ok_or_else(|| "an argument is missing".to_owned())
    }

    fn last(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }

    fn bytes(&self, at: usize) -> Result<Vec<u8>, String> {
        quoted(self.text(at)?)
    }

    fn number(&self, at: usize) -> Result<u64, String> {
        self.text(at)?
            .parse()
            .map_err(|_| "not a number".to_owned())
    }
}

/// The bytes of `[{iov_base="\x61", iov_len=1}, …]`.
fn gathered(text: &str) -> Result<Vec<u8>, String> {
    let mut all = Vec::new();
    for part in text.split("iov_base=").skip(1) {
        let (bytes, _) = part
            .split_once(", iov_len")
            .ok_or("a part without length")?;
        all.extend(quoted(bytes)?);
    }
    Ok(all)
}

/// `"\x61\x62"`.
fn quoted(text: &str) -> Result<Vec<u8>, String> {
    let inner = text
        .strip_prefix('"')
        .and_then(|it| it.strip_suffix('"'))
        .ok_or("not a text, or one that was cut short; raise -s")?;
    unhex(inner)
}

/// `7<\x2f\x74>`: the number and the path.
fn descriptor(text: &str) -> Result<(i64, Vec<u8>), String> {
    let (number, path) = text
        .split_once('<')
        .ok_or("a descriptor without its path")?;
    let number = number.parse().map_err(|_| "not a descriptor")?;
    let path = path.strip_suffix('>').ok_or("a path without end")?;
    // A file that was removed meanwhile is marked in plain letters after the path.
    let (path, gone) = match path.split_once("(deleted)") {
        Some((path, _)) => (path.trim_end_matches(['>', ' ']), true),
        None => (path, false),
    };
    let mut path = unhex(path)?;
    if gone {
        path.extend_from_slice(b" (deleted)");
    }
    Ok((number, path))
}

fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let bytes = text.as_bytes();
    if !bytes.len().is_multiple_of(4) {
        return Err("bytes that are not in hexadecimal".into());
    }
    let digit = |it: u8| char::from(it).to_digit(16).ok_or("not hexadecimal");
    let byte = |four: &[u8]| -> Result<u8, String> {
        if &four[..2] != b"\\x" {
            return Err("bytes that are not in hexadecimal".into());
        }
        let value = digit(four[2])? * 16 + digit(four[3])?;
        u8::try_from(value).map_err(|_| "not a byte".into())
    };
    bytes.chunks_exact(4).map(byte).collect()
}
