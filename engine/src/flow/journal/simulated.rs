//! A journal whose disk is simulated: its writer is a task of the runtime, so
//! that a crash takes what is not committed, and a seed chooses how long a
//! commit takes. Everything else is the real journal. SQLite itself is not
//! under test: a transaction of it is there whole or not at all.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::writer::{Book, Work, settle};
use super::{Journal, JournalError, WAITING_MAX, open_reader, tables};

/// Changes for which nobody waits go along with the next ones, or alone after
/// this time.
const LAZY_WAIT: Duration = Duration::from_millis(20);

/// An operation of the disk: how long it takes, or how it fails. Asked before
/// each commit, and again when the commit is durable and nobody knows yet.
pub type Disk = Box<dyn FnMut() -> io::Result<Duration> + Send>;

impl Journal {
    /// Opens the journal of a simulation, or makes a new one; must be called
    /// on its runtime.
    ///
    /// # Errors
    /// As `open`.
    pub fn simulated(path: &Path, disk: Disk) -> Result<Arc<Journal>, JournalError> {
        let file = path.display().to_string();
        let failed = |error: rusqlite::Error| JournalError::new(&file, &error);
        let mut connection = Connection::open(path).map_err(failed)?;
        // The real disk never sees a crash.
        connection.pragma_update(None, "journal_mode", "MEMORY").map_err(failed)?;
        connection.pragma_update(None, "synchronous", "OFF").map_err(failed)?;
        connection.set_prepared_statement_cache_capacity(64);
        tables::prepare(&mut connection, &file)?;
        let reader = open_reader(path).map_err(failed)?;
        let poison = Arc::new(OnceLock::new());
        let book = Book::new(connection, Arc::clone(&poison), file.clone()).map_err(failed)?;
        let (sender, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(serve(book, waiting, disk));
        Ok(Arc::new(Journal {
            file,
            path: path.to_owned(),
            hand: Some(Box::new(move |work| sender.try_send(work).is_ok())),
            room: Arc::new(Semaphore::new(WAITING_MAX)),
            poison,
            reader: Mutex::new(reader),
            thread: None,
        }))
    }
}

async fn serve(mut book: Book, mut waiting: mpsc::Receiver<Box<dyn Work>>, mut disk: Disk) {
    while let Some(first) = waiting.recv().await {
        let mut group = vec![first];
        while !group.iter().any(|work| work.is_urgent()) {
            match timeout(LAZY_WAIT, waiting.recv()).await {
                Ok(Some(next)) => group.push(next),
                Ok(None) | Err(_) => break,
            }
        }
        let begun = disk();
        if let Ok(time) = begun {
            tokio::time::sleep(time).await;
        }
        // Whatever came meanwhile shares the commit.
        while let Ok(next) = waiting.try_recv() {
            group.push(next);
        }
        let results = match begun {
            Ok(_) => book.write(&mut group),
            Err(error) => Err(book.poison(JournalError(format!("the disk of the journal: {error}")))),
        };
        if results.is_ok() {
            match disk() {
                Ok(time) => tokio::time::sleep(time).await,
                // The power is gone: what is durable stays so, and nobody hears of it.
                Err(_) => return,
            }
        }
        settle(group, results);
    }
}
