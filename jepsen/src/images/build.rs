//! The disks that a cut of power may leave at a sync: all that was synced before it, and a part of the rest.
//!
//! Invariant: a kind of cut and a seed name one disk. Names survive in their order, as in a journal of a file system; bytes of
//! different files, and different writes of one file, survive independently; the last write may be torn at a sector or a page.
//! Not here: what a disk holds (`disk`).

use super::Dice;
use super::disk::{Change, Disk, History};

/// Which part of what was not synced survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cut {
    /// Nothing of it.
    Nothing,
    /// All of it: the process alone died.
    Everything,
    /// Bytes, and no names.
    BytesOnly,
    /// Names, and no bytes: files are there, and short.
    NamesOnly,
    /// What came first, up to a point by chance; the last write torn.
    Prefix,
    /// Writes by chance, some torn; names up to a point.
    Some,
}

impl Cut {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::Nothing,
        Self::Everything,
        Self::BytesOnly,
        Self::NamesOnly,
        Self::Prefix,
        Self::Some,
    ];
}

/// What survives of one change.
enum Part {
    Nothing,
    Whole,
    /// The first bytes of a write.
    First(usize),
}

fn survives(cut: Cut, dice: &mut Dice, place: &Place) -> Part {
    let Place {
        change,
        nth,
        names_kept,
        bytes_kept,
    } = *place;
    let whole_if = |kept: bool| if kept { Part::Whole } else { Part::Nothing };
    match cut {
        Cut::Nothing => Part::Nothing,
        Cut::Everything => Part::Whole,
        Cut::BytesOnly => whole_if(!change.is_of_names()),
        Cut::NamesOnly => whole_if(change.is_of_names()),
        Cut::Prefix if nth + 1 == bytes_kept => torn(change, dice),
        Cut::Prefix => whole_if(nth < bytes_kept),
        Cut::Some if change.is_of_names() => whole_if(nth < names_kept),
        Cut::Some => match dice.below(4) {
            0 => Part::Nothing,
            1 => torn(change, dice),
            _ => Part::Whole,
        },
    }
}

/// Where a change stands among those that may be lost.
struct Place<'a> {
    change: &'a Change,
    nth: usize,
    names_kept: usize,
    bytes_kept: usize,
}

/// Cut at a multiple of a sector or a page of the file, if the write reaches one; what reaches none is lost whole, as a sector is.
fn torn(change: &Change, dice: &mut Dice) -> Part {
    let Change::Write { at, bytes, .. } = change else {
        return Part::Whole;
    };
    let unit = if dice.flip() { 512 } else { 4096 };
    let (first, len) = (unit - at % unit, bytes.len() as u64);
    if first >= len {
        return Part::Nothing;
    }
    let edges = 1 + (len - 1 - first) / unit;
    let edge = first + dice.roll() % edges * unit;
    Part::First(usize::try_from(edge).expect("it is inside of a write"))
}

/// Walks through a history, sync by sync, and says what a cut there may leave.
pub struct Builder<'h> {
    history: &'h History,
    base: Disk,
    /// The sync before which the cut is.
    sync: usize,
    pending: Vec<usize>,
    next: usize,
}

impl<'h> Builder<'h> {
    /// At the first sync.
    pub fn new(history: &'h History) -> Self {
        Self {
            history,
            base: Disk::default(),
            sync: 0,
            pending: Vec::new(),
            next: 0,
        }
    }

    /// Goes on to the moment right before this sync ends, which is not before the one it stands at.
    pub fn go_to(&mut self, sync: usize) {
        self.sync = sync;
        let made = self.history.syncs[sync].ended;
        self.pending.extend(self.next..made);
        self.next = made;
        let (history, base) = (self.history, &mut self.base);
        self.pending.retain(|at| {
            let (change, covered) = &history.changes[*at];
            let is_synced = covered.is_some_and(|by| by < sync);
            if is_synced {
                base.apply(change, None);
            }
            !is_synced
        });
    }

    /// How many changes a cut here may take.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The disk that this cut leaves here.
    pub fn disk(&self, cut: Cut, seed: u64) -> Disk {
        let mut dice = Dice::new(seed ^ ((self.sync as u64) << 20) ^ ((cut as u64) << 60));
        let (names_kept, bytes_kept) = (
            dice.below(self.pending.len() + 1),
            dice.below(self.pending.len() + 1),
        );
        let mut disk = self.base.clone();
        for (nth, at) in self.pending.iter().enumerate() {
            let change = &self.history.changes[*at].0;
            let place = Place {
                change,
                nth,
                names_kept,
                bytes_kept,
            };
            match survives(cut, &mut dice, &place) {
                Part::Nothing => {}
                Part::Whole => disk.apply(change, None),
                Part::First(bytes) => disk.apply(change, Some(bytes)),
            }
        }
        disk
    }

    /// The disk with the first `made` changes whole: what the process itself saw then.
    pub fn whole(history: &History, made: usize) -> Disk {
        let mut disk = Disk::default();
        for (change, _) in &history.changes[..made] {
            disk.apply(change, None);
        }
        disk
    }
}
