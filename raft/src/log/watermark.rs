//! The watermark: up to where this node has synced its log, kept beside it.
//!
//! Invariant: it never says more than was synced. No recovery mode of the store can tell a torn unsynced tail from
//! damage in synced data; this file can. Two slots are written in turn, so that one is whole whatever happens. The number of votes
//! stands there, too: a store whose list of tables was cut may have lost one of them and go on from a later record.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::host::FileExt;
use crate::host::fs::{File, OpenOptions};

const SLOT: usize = 64;
/// Where the number of votes stands in a slot, and a checksum of all before it. A slot of an earlier build has zeros there.
const VOTES: usize = 36;
const VOTES_CRC: usize = 44;
/// Between two syncs of the file itself: what a power loss of this node can take from its precision.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// The open file.
#[derive(Debug)]
pub struct Watermark {
    file: File,
    incarnation: Uuid,
    counter: u64,
    synced: Instant,
}

/// Up to where a log was synced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Synced {
    /// The sequence number of its store.
    pub sequence: u64,
    /// How many batches with votes were among it.
    pub votes: u64,
}

impl Watermark {
    /// Creates the file, durable on return.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn create(path: &Path, incarnation: Uuid) -> io::Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .read(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        let mut mark = Self {
            file,
            incarnation,
            counter: 0,
            synced: Instant::now(),
        };
        mark.write(Synced::default())?;
        mark.file.sync_all()?;
        Ok(mark)
    }

    /// Opens the file, and says up to where the log was synced.
    ///
    /// # Errors
    /// It cannot be read, no slot of it is whole, or it is another node's.
    pub fn open(path: &Path, incarnation: Uuid) -> io::Result<(Self, Synced)> {
        let file = OpenOptions::new().write(true).read(true).open(path)?;
        let slots = read_slots(&file)?;
        let ours = slots.iter().filter(|it| it.incarnation == incarnation);
        let newest = ours.map(|it| (it.counter, it.synced)).max();
        let (counter, synced) = newest.ok_or_else(|| {
            let why = "neither slot of the watermark file is whole and of this node";
            io::Error::new(io::ErrorKind::InvalidData, why)
        })?;
        Ok((
            Self {
                file,
                incarnation,
                counter,
                synced: Instant::now(),
            },
            synced,
        ))
    }

    /// Whether a log was ever synced beside `path`, whoever's it was; not if there is no such file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn was_synced(path: &Path) -> io::Result<bool> {
        match File::open(path) {
            Ok(file) => Ok(read_slots(&file)?.iter().any(|it| it.synced.sequence > 0)),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(cause) => Err(cause),
        }
    }

    /// Everything up to `synced` has just been synced.
    ///
    /// # Errors
    /// The file cannot be written: treated as a failure of the log's disk.
    pub fn store(&mut self, synced: Synced, now_durable: bool) -> io::Result<()> {
        self.write(synced)?;
        if now_durable || self.synced.elapsed() >= SYNC_EVERY {
            self.file.sync_data()?;
            self.synced = Instant::now();
        }
        Ok(())
    }

    fn write(&mut self, synced: Synced) -> io::Result<()> {
        self.counter += 1;
        let mut slot = [0; SLOT];
        slot[..8].copy_from_slice(&self.counter.to_be_bytes());
        slot[8..16].copy_from_slice(&synced.sequence.to_be_bytes());
        slot[16..32].copy_from_slice(self.incarnation.as_bytes());
        let crc = crc32fast::hash(&slot[..32]);
        slot[32..36].copy_from_slice(&crc.to_be_bytes());
        slot[VOTES..VOTES_CRC].copy_from_slice(&synced.votes.to_be_bytes());
        let crc = crc32fast::hash(&slot[..VOTES_CRC]);
        slot[VOTES_CRC..VOTES_CRC + 4].copy_from_slice(&crc.to_be_bytes());
        self.file
            .write_all_at(&slot, (self.counter % 2) * SLOT as u64)
    }
}

/// One of the two slots.
struct Slot {
    counter: u64,
    synced: Synced,
    incarnation: Uuid,
}

/// Those that are whole.
fn read_slots(file: &File) -> io::Result<Vec<Slot>> {
    let mut bytes = [0; 2 * SLOT];
    let len = file.read_at(&mut bytes, 0)?;
    Ok(bytes[..len].chunks_exact(SLOT).filter_map(decode).collect())
}

fn decode(slot: &[u8]) -> Option<Slot> {
    let number = |at: usize| Some(u64::from_be_bytes(slot[at..at + 8].try_into().ok()?));
    let crc = u32::from_be_bytes(slot[32..36].try_into().ok()?);
    if crc32fast::hash(&slot[..32]) != crc {
        return None;
    }
    let votes_crc = u32::from_be_bytes(slot[VOTES_CRC..VOTES_CRC + 4].try_into().ok()?);
    let has_votes = slot[VOTES..].iter().any(|it| *it != 0);
    if has_votes && crc32fast::hash(&slot[..VOTES_CRC]) != votes_crc {
        return None;
    }
    Some(Slot {
        counter: number(0)?,
        synced: Synced {
            sequence: number(8)?,
            votes: number(VOTES)?,
        },
        incarnation: Uuid::from_slice(&slot[16..32]).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_slot_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (path, id) = (dir.path().join("WATERMARK"), Uuid::new_v4());
        let mut mark = Watermark::create(&path, id).unwrap();
        let synced = |sequence| Synced {
            sequence,
            votes: sequence / 10,
        };
        for sequence in [10, 20, 30] {
            mark.store(synced(sequence), false).unwrap();
        }
        assert_eq!(Watermark::open(&path, id).unwrap().1, synced(30));
        // The slot written last is torn: the one before it still stands.
        let torn = (mark.counter % 2) * SLOT as u64;
        mark.file.write_all_at(&[0xff; 8], torn).unwrap();
        assert_eq!(Watermark::open(&path, id).unwrap().1, synced(20));
    }

    #[test]
    fn a_slot_of_an_earlier_build_counts_no_votes_and_one_bad_byte_of_a_number_of_votes_is_noticed()
    {
        let dir = tempfile::tempdir().unwrap();
        let (path, id) = (dir.path().join("WATERMARK"), Uuid::new_v4());
        let mut mark = Watermark::create(&path, id).unwrap();
        let synced = Synced {
            sequence: 10,
            votes: 3,
        };
        mark.store(synced, false).unwrap();
        let slot = (mark.counter % 2) * SLOT as u64;
        mark.file.write_all_at(&[9], slot + VOTES as u64).unwrap();
        let (_, older) = Watermark::open(&path, id).unwrap();
        assert_eq!(older, Synced::default(), "the other slot");
        let zeros = [0; SLOT - VOTES];
        mark.file.write_all_at(&zeros, slot + VOTES as u64).unwrap();
        let (_, earlier) = Watermark::open(&path, id).unwrap();
        assert_eq!(earlier, Synced { votes: 0, ..synced });
    }

    #[test]
    fn another_nodes_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("WATERMARK");
        Watermark::create(&path, Uuid::new_v4()).unwrap();
        assert!(Watermark::open(&path, Uuid::new_v4()).is_err());
    }
}
