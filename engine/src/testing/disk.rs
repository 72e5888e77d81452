//! A disk in memory that keeps its promises and no more: what was not synced
//! may be gone, torn or there in another order after a crash, and so may names
//! in a folder that was not synced.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::seed::Seed;
use super::survive::{put, survive};
use crate::storage::vfs::{Vfs, VfsFile};

/// What happens at a chosen operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power goes: this operation and all after it fail.
    Crash,
    /// A write finds no room, after having written a part.
    NoSpace,
    /// A sync fails, and what it should have made durable is gone; the next
    /// one succeeds, as on Linux.
    SyncError,
    /// A sync takes this long.
    Stall(Duration),
    /// So many operations find no room if they need some.
    Full(u64),
    /// So many operations may read only.
    ReadOnly(u64),
}

thread_local! {
    static STALL: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Waits as long as the disk has just stalled: whoever waits for blocking work
/// waits for the disk.
pub(crate) async fn stalled() {
    let time = STALL.take();
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

/// The disk; clones are the same one.
#[derive(Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    went_down: Arc<Notify>,
    /// The time between two crashes that a process lives in; the test's own
    /// handle lives for ever.
    life: Option<u64>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<u64, Content>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    changes: Vec<NameChange>,
    next_file: u64,
    operations: u64,
    faults: Vec<(u64, Fault)>,
    /// No room before this operation, and nothing but reading before that one.
    full_until: u64,
    read_only_until: u64,
    is_down: bool,
    life: u64,
}

#[derive(Default)]
struct Content {
    durable: Vec<u8>,
    now: Vec<u8>,
    writes: Vec<Write>,
    /// A sync has failed: what it should have written is never written.
    is_lost: bool,
}

#[derive(Clone)]
pub(super) enum Write {
    At(usize, Vec<u8>),
    Cut(usize),
}

/// What an operation needs of the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// It reads.
    Nothing,
    /// It writes bytes or makes a name.
    Room,
    /// It frees, renames or cuts.
    Change,
    /// It makes durable.
    Sync,
}

enum NameChange {
    Set(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl SimDisk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk for a process that starts now: after the next crash it works no more.
    #[must_use]
    pub fn plugged(&self) -> SimDisk {
        let life = Some(self.lock().life);
        SimDisk { state: Arc::clone(&self.state), went_down: Arc::clone(&self.went_down), life }
    }

    /// Operations so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Whether the power is gone.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.lock().is_down
    }

    /// Resolves when the power is gone.
    pub async fn down(&self) {
        loop {
            let news = self.went_down.notified();
            if self.is_down() {
                return;
            }
            news.await;
        }
    }

    /// Plans a fault for the operation of this number, and no other.
    pub fn plan(&self, operation: u64, fault: Fault) {
        self.plan_all(vec![(operation, fault)]);
    }

    /// Plans these faults, each for the operation of its number, and no others.
    pub fn plan_all(&self, faults: Vec<(u64, Fault)>) {
        self.lock().faults = faults;
    }

    /// An operation of somebody who has a disk of his own in the same machine:
    /// how long it takes.
    ///
    /// # Errors
    /// The fault that is due.
    pub fn operation(&self) -> io::Result<Duration> {
        let due = self.operate(Need::Room)?;
        match due {
            Some(Fault::SyncError) => Err(io::Error::other("input/output error")),
            Some(Fault::NoSpace) => Err(io::ErrorKind::StorageFull.into()),
            Some(Fault::Stall(time)) => Ok(time),
            Some(Fault::Crash | Fault::Full(_) | Fault::ReadOnly(_)) | None => Ok(Duration::ZERO),
        }
    }

    /// Counts an operation; the fault that is due, if any.
    fn operate(&self, need: Need) -> io::Result<Option<Fault>> {
        let mut state = self.lock();
        let was_down = state.is_down;
        let due = state.operate(self.life, need);
        if state.is_down && !was_down {
            self.went_down.notify_waiters();
        }
        due
    }

    /// Only the process ends: the next one finds what it has written, durable or not.
    pub fn kill(&self) {
        let mut state = self.lock();
        state.faults.clear();
        (state.full_until, state.read_only_until) = (0, 0);
        state.is_down = false;
        state.life += 1;
    }

    /// The power comes back: chooses what of the unsynced is there.
    pub fn restart(&self, seed: &mut Seed) {
        let mut state = self.lock();
        for content in state.files.values_mut() {
            let mut bytes = std::mem::take(&mut content.durable);
            for write in std::mem::take(&mut content.writes) {
                survive(&mut bytes, write, seed);
            }
            content.is_lost = false;
            content.now.clone_from(&bytes);
            content.durable = bytes;
        }
        let mut names = std::mem::take(&mut state.durable_names);
        for change in std::mem::take(&mut state.changes) {
            if seed.chance(50) {
                change.apply(&mut names);
            }
        }
        state.names.clone_from(&names);
        state.durable_names = names;
        state.faults.clear();
        (state.full_until, state.read_only_until) = (0, 0);
        state.is_down = false;
        state.life += 1;
    }

    /// Changes a byte of a file, as a bad disk does.
    pub fn damage(&self, path: &Path, at: usize) {
        let mut state = self.lock();
        let Some(file) = state.names.get(path).copied() else { return };
        let Some(content) = state.files.get_mut(&file) else { return };
        for bytes in [&mut content.now, &mut content.durable] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 0x55;
            }
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            NameChange::Set(path, file) => drop(names.insert(path.clone(), *file)),
            NameChange::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            NameChange::Remove(path) => drop(names.remove(path)),
        }
    }
}

impl State {
    /// Counts an operation; the fault that is due, if any.
    fn operate(&mut self, life: Option<u64>, need: Need) -> io::Result<Option<Fault>> {
        if life.is_some_and(|life| life != self.life) {
            return Err(io::Error::other("the process is dead"));
        }
        let number = self.operations;
        self.operations += 1;
        let can_be = |fault: &Fault| match fault {
            Fault::Crash | Fault::Full(_) | Fault::ReadOnly(_) => true,
            Fault::NoSpace => need == Need::Room,
            Fault::SyncError | Fault::Stall(_) => need == Need::Sync,
        };
        let due = self.faults.iter().position(|(at, fault)| *at <= number && can_be(fault));
        let due = due.map(|place| self.faults.remove(place).1);
        match due {
            Some(Fault::Crash) => self.is_down = true,
            Some(Fault::Full(operations)) => self.full_until = number + operations,
            Some(Fault::ReadOnly(operations)) => self.read_only_until = number + operations,
            Some(Fault::NoSpace | Fault::SyncError | Fault::Stall(_)) | None => {}
        }
        if self.is_down {
            return Err(io::Error::other("the power is gone"));
        }
        if number < self.read_only_until && need != Need::Nothing {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        Ok(if number < self.full_until && need == Need::Room { Some(Fault::NoSpace) } else { due })
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    fn content(&mut self, file: u64) -> &mut Content {
        self.files.entry(file).or_default()
    }

    fn of(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Vfs for SimDisk {
    fn create_folder(&self, _folder: &Path) -> io::Result<()> {
        self.operate(Need::Change).map(drop)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        self.operate(Need::Nothing)?;
        let state = self.lock();
        Ok(state.names.keys().filter(|path| path.parent() == Some(folder)).cloned().collect())
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.operate(Need::Nothing)?;
        let mut state = self.lock();
        let file = state.of(path)?;
        Ok(state.content(file).now.clone())
    }

    fn size(&self, path: &Path) -> io::Result<u64> {
        self.operate(Need::Nothing)?;
        let mut state = self.lock();
        let file = state.of(path)?;
        Ok(state.content(file).now.len() as u64)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn VfsFile>> {
        if self.operate(Need::Room)? == Some(Fault::NoSpace) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut state = self.lock();
        // A file that is there is emptied and keeps its place in the folder.
        if let Ok(file) = state.of(path) {
            let content = state.content(file);
            content.now.clear();
            content.writes.push(Write::Cut(0));
            // What could not be written is not to be written any more.
            content.is_lost = false;
            return Ok(Box::new(SimFile { disk: self.clone(), file }));
        }
        let file = state.next_file;
        state.next_file += 1;
        state.change(NameChange::Set(path.to_owned(), file));
        Ok(Box::new(SimFile { disk: self.clone(), file }))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn VfsFile>> {
        self.operate(Need::Change)?;
        let state = self.lock();
        let file = state.of(path)?;
        Ok(Box::new(SimFile { disk: self.clone(), file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operate(Need::Change)?;
        let mut state = self.lock();
        state.of(from)?;
        state.change(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.operate(Need::Change)?;
        let mut state = self.lock();
        state.of(path)?;
        state.change(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        match self.operate(Need::Sync)? {
            Some(Fault::SyncError) => return Err(io::Error::other("input/output error")),
            Some(Fault::Stall(time)) => STALL.set(time),
            Some(_) | None => {}
        }
        let mut state = self.lock();
        let mut names = std::mem::take(&mut state.durable_names);
        for change in std::mem::take(&mut state.changes) {
            let here = match &change {
                NameChange::Set(path, _) | NameChange::Rename(_, path) | NameChange::Remove(path) => {
                    path.parent() == Some(folder)
                }
            };
            if here {
                change.apply(&mut names);
            } else {
                state.changes.push(change);
            }
        }
        state.durable_names = names;
        Ok(())
    }
}

struct SimFile {
    disk: SimDisk,
    file: u64,
}

impl VfsFile for SimFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let is_full = self.disk.operate(Need::Room)? == Some(Fault::NoSpace);
        let mut state = self.disk.lock();
        let content = state.content(self.file);
        let written = if is_full { bytes.get(..bytes.len() / 2).unwrap_or_default() } else { bytes };
        let at = content.now.len();
        put(&mut content.now, at, written);
        content.writes.push(Write::At(at, written.to_vec()));
        if is_full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let due = self.disk.operate(Need::Sync)?;
        if let Some(Fault::Stall(time)) = due {
            STALL.set(time);
        }
        let fails = due == Some(Fault::SyncError);
        let mut state = self.disk.lock();
        let content = state.content(self.file);
        content.writes.clear();
        if fails {
            content.is_lost = true;
            return Err(io::Error::other("input/output error"));
        }
        if !content.is_lost {
            content.durable.clone_from(&content.now);
        }
        Ok(())
    }

    fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        self.disk.operate(Need::Change)?;
        let mut state = self.disk.lock();
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        let content = state.content(self.file);
        content.now.truncate(length);
        content.writes.push(Write::Cut(length));
        Ok(())
    }
}
