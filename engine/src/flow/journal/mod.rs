//! The journal of flows: what fired, what ran, what was written to devices.
//! An answer of a writing method means that the change is on the disk. One
//! thread writes, many waiters share one fsync; an error of the disk poisons
//! the journal, and nothing is acknowledged after it.

mod advance;
mod effects;
mod launch;
mod mover;
mod read;
mod resolve;
mod restore;
mod retain;
#[cfg(feature = "testing")]
mod simulated;
mod tables;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

pub use advance::{Advanced, Record};
pub use effects::{EffectScope, RunLedger};
pub use launch::{LaunchRules, Launched, NewFiring, Offer};
use mover::Mover;
pub use read::{Counts, JournalReader, NoticeLine, RunLine, TaskLine, TicketLine, WriteLine};
pub use resolve::Resolved;
pub use restore::{OpenRun, SavedTask};
pub use retain::OldRows;
#[cfg(feature = "testing")]
pub use simulated::Disk;
use writer::{Book, Unit, Work, Writer, Writing};

/// Most changes that wait for the writer; further ones wait for room.
const WAITING_MAX: usize = 4_096;

/// The journal cannot be read or written; says which file and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JournalError(pub String);

impl JournalError {
    fn new(file: &str, error: &rusqlite::Error) -> JournalError {
        JournalError(format!("the journal {file} cannot be used: {error}"))
    }
}

/// What will become of a change that was handed over.
pub(super) struct Answer<T> {
    receiver: oneshot::Receiver<Result<T, JournalError>>,
    /// The error if the writer is gone.
    closed: JournalError,
}

impl<T> Answer<T> {
    /// Waits until the change is durable.
    pub(super) async fn wait(self) -> Result<T, JournalError> {
        self.receiver.await.unwrap_or(Err(self.closed))
    }

    /// Whether `wait` would not wait.
    pub(super) fn is_there(&mut self) -> bool {
        !self.receiver.is_empty() || self.receiver.is_terminated()
    }
}

/// Hands a change to the writer; false if that is gone.
type Hand = Box<dyn Fn(Box<dyn Work>) -> bool + Send + Sync>;

/// An open journal. Only one process may have a file open for writing; the
/// daemon's lock of the data directory sees to that.
pub struct Journal {
    file: String,
    path: PathBuf,
    hand: Option<Hand>,
    room: Arc<Semaphore>,
    poison: Arc<OnceLock<JournalError>>,
    reader: Mutex<Connection>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Journal {
    /// Opens the journal or makes a new one.
    ///
    /// # Errors
    /// The file cannot be opened, is no journal, or was made by a newer
    /// version of this program.
    pub fn open(path: &Path) -> Result<Arc<Journal>, JournalError> {
        let file = path.display().to_string();
        let failed = |error: rusqlite::Error| JournalError::new(&file, &error);
        let mut connection = Connection::open(path).map_err(failed)?;
        tables::check_version(&connection, &file)?;
        configure(&connection).map_err(failed)?;
        tables::prepare(&mut connection, &file)?;
        let reader = open_reader(path).map_err(failed)?;
        let poison = Arc::new(OnceLock::new());
        let (sender, receiver) = crossbeam::channel::bounded(WAITING_MAX);
        let no_thread =
            |error: std::io::Error| JournalError(format!("the journal {file} found no thread: {error}"));
        let mover = Connection::open(path).and_then(|second| configure(&second).map(|()| second));
        let mover = Mover::start(mover.map_err(failed)?, Arc::clone(&poison), file.clone());
        let mover = mover.map_err(no_thread)?;
        let book = Book::new(connection, Arc::clone(&poison), file.clone()).map_err(failed)?;
        let writer = Writer::new(book, receiver, mover).map_err(failed)?;
        let builder = std::thread::Builder::new().name("journal".into());
        let thread = builder.spawn(move || writer.serve()).map_err(no_thread)?;
        Ok(Arc::new(Journal {
            file,
            path: path.to_owned(),
            // A permit stands for a place in the channel, so this never waits.
            hand: Some(Box::new(move |work| sender.try_send(work).is_ok())),
            room: Arc::new(Semaphore::new(WAITING_MAX)),
            poison,
            reader: Mutex::new(reader),
            thread: Some(thread),
        }))
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the disk has failed, and how.
    #[must_use]
    pub fn poisoned(&self) -> Option<&JournalError> {
        self.poison.get()
    }

    /// Does `work` in a transaction and answers when it is durable.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writing<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, JournalError> {
        self.begin(work).await?.wait().await
    }

    /// Hands `work` over; what becomes of it is answered when it is durable.
    async fn begin<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writing<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<Answer<T>, JournalError> {
        let (reply, receiver) = oneshot::channel();
        self.send(work, Some(reply)).await?;
        Ok(Answer { receiver, closed: self.closed() })
    }

    /// Hands `work` over without waiting for the disk. It is durable before
    /// anything that is written later.
    async fn post(
        &self,
        work: impl FnOnce(&mut Writing<'_>) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<(), JournalError> {
        self.send(work, None).await
    }

    /// As `post`, where nobody can wait: an error if too much is waiting.
    fn post_now(
        &self,
        work: impl FnOnce(&mut Writing<'_>) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<(), JournalError> {
        if let Some(poison) = self.poison.get() {
            return Err(poison.clone());
        }
        let permit = Arc::clone(&self.room).try_acquire_owned();
        let permit = permit.map_err(|_| JournalError(format!("the journal {} is busy", self.file)))?;
        self.hand_over(work, None, permit)
    }

    async fn send<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writing<'_>) -> rusqlite::Result<T> + Send + 'static,
        reply: Option<oneshot::Sender<Result<T, JournalError>>>,
    ) -> Result<(), JournalError> {
        if let Some(poison) = self.poison.get() {
            return Err(poison.clone());
        }
        let permit = Arc::clone(&self.room).acquire_owned().await.map_err(|_| self.closed())?;
        self.hand_over(work, reply, permit)
    }

    fn hand_over<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writing<'_>) -> rusqlite::Result<T> + Send + 'static,
        reply: Option<oneshot::Sender<Result<T, JournalError>>>,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), JournalError> {
        let unit = Unit::new(work, reply, permit);
        let hand = self.hand.as_ref().ok_or_else(|| self.closed())?;
        if hand(Box::new(unit)) { Ok(()) } else { Err(self.closed()) }
    }

    fn closed(&self) -> JournalError {
        self.poison
            .get()
            .cloned()
            .unwrap_or_else(|| JournalError(format!("the journal {} is closed", self.file)))
    }

    /// Reads through a connection of its own, which sees what is durable.
    fn read<T>(&self, look: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, JournalError> {
        let connection = self.reader.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        look(&connection).map_err(|error| JournalError::new(&self.file, &error))
    }
}

impl Drop for Journal {
    /// Waits until everything handed over is durable.
    fn drop(&mut self) {
        drop(self.hand.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the journal {} has failed", self.file);
        }
    }
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // In WAL mode FULL is one fsync of the log for each commit.
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Moving the log into the file is the writer's own decision, off the hot path.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", CACHE_KIB)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(READ_WAIT_MAX)?;
    Ok(connection)
}

/// Pages that the writer keeps, in SQLite's unit of -1 KiB: 16 MiB.
const CACHE_KIB: i64 = -16_384;
/// A reader may meet a writer that is just recovering the log.
const READ_WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(5);

#[cfg(test)]
mod tests;
