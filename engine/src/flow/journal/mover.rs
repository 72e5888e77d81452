//! Moves the journal's log into its file on a thread and connection of its
//! own: tens of megabytes may take a slow disk seconds, in which firings must
//! not wait. SQLite lets the writer append meanwhile.

use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, bounded};
use rusqlite::Connection;

use super::JournalError;

/// The thread, as the writer sees it; ends when it is dropped.
pub(super) struct Mover {
    wishes: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Mover {
    /// Starts the thread.
    pub(super) fn start(
        connection: Connection,
        poison: Arc<OnceLock<JournalError>>,
        file: String,
    ) -> std::io::Result<Mover> {
        let (wishes, receiver) = bounded(1);
        let thread = std::thread::Builder::new()
            .name("journal-log".into())
            .spawn(move || serve(&connection, &receiver, &poison, &file))?;
        Ok(Mover { wishes: Some(wishes), thread: Some(thread) })
    }

    /// Wishes that what is in the log now is moved; never waits.
    pub(super) fn move_log(&self) {
        if let Some(wishes) = &self.wishes {
            let full = wishes.try_send(()).is_err();
            tracing::trace!(full, "the log is to be moved");
        }
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        drop(self.wishes.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that moves the journal's log has failed");
        }
    }
}

fn serve(connection: &Connection, wishes: &Receiver<()>, poison: &OnceLock<JournalError>, file: &str) {
    while wishes.recv().is_ok() {
        if poison.get().is_some() {
            return;
        }
        if let Err(error) = move_log(connection, "PASSIVE") {
            let error = JournalError::new(file, &error);
            tracing::error!("{error}");
            poison.get_or_init(|| error);
        }
    }
}

/// Pages of the log, and how many of them are in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Log {
    pub(super) pages: i64,
    pub(super) moved: i64,
}

impl Log {
    /// Pages that are not in the file yet.
    pub(super) fn waiting(self) -> i64 {
        self.pages.saturating_sub(self.moved)
    }
}

/// Moves the log (`PASSIVE`), or only looks at it (`NOOP`).
pub(super) fn move_log(connection: &Connection, how: &str) -> rusqlite::Result<Log> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({how})"), (), |row| {
        Ok(Log { pages: row.get(1)?, moved: row.get(2)? })
    })
}
