//! The one thread that writes: takes what waits, one transaction, one fsync,
//! then answers every waiter. It must never answer before the commit.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError};
use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::JournalError;
use super::mover::{Mover, move_log};
use crate::time::Time;

/// Most changes in one transaction: bounds how long the first one waits.
const GROUP_MAX: usize = 1_024;
/// After this silence the log is moved into the file.
const IDLE: Duration = Duration::from_secs(2);
/// Changes for which nobody waits go along with the next ones, or alone after
/// this time: an fsync of their own would only stand in the way.
const LAZY_WAIT: Duration = Duration::from_millis(20);
/// A log this long is moved even under load, in pages of 4 KiB: 16 MiB.
const LOG_PAGES_MAX: i64 = 4_096;
/// So few pages the writer moves itself, so that the log begins anew although
/// more is written all the time: a few milliseconds.
const OWN_PAGES_MAX: i64 = 256;
/// A log this long the writer moves itself, and everybody waits: 64 MiB.
const LOG_PAGES_HARD_MAX: i64 = 16_384;
/// The log's length is looked at after so many transactions.
const LOOK_EVERY: u32 = 64;

/// What a change may use.
pub(super) struct Writing<'a> {
    /// The transaction.
    pub(super) sql: &'a Connection,
    last_id: &'a mut i64,
}

impl Writing<'_> {
    /// A new number, larger than all before it and near the present in
    /// microseconds: rows inserted later stand later.
    pub(super) fn next_id(&mut self, now: Time) -> i64 {
        *self.last_id = now.0.max(self.last_id.saturating_add(1));
        *self.last_id
    }
}

/// A change that waits for the writer.
pub(super) trait Work: Send {
    /// Does it inside the transaction.
    fn run(&mut self, writing: &mut Writing<'_>) -> rusqlite::Result<()>;
    /// Whether somebody waits for the disk.
    fn is_urgent(&self) -> bool;
    /// Answers the waiter.
    fn settle(self: Box<Self>, result: Result<(), JournalError>);
}

/// A closure, its value, and who waits for it.
pub(super) struct Unit<F, T> {
    work: Option<F>,
    value: Option<T>,
    reply: Option<oneshot::Sender<Result<T, JournalError>>>,
    _permit: OwnedSemaphorePermit,
}

impl<F, T> Unit<F, T> {
    pub(super) fn new(
        work: F,
        reply: Option<oneshot::Sender<Result<T, JournalError>>>,
        permit: OwnedSemaphorePermit,
    ) -> Unit<F, T> {
        Unit { work: Some(work), value: None, reply, _permit: permit }
    }
}

impl<F, T> Work for Unit<F, T>
where
    F: FnOnce(&mut Writing<'_>) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn run(&mut self, writing: &mut Writing<'_>) -> rusqlite::Result<()> {
        if let Some(work) = self.work.take() {
            self.value = Some(work(writing)?);
        }
        Ok(())
    }

    fn is_urgent(&self) -> bool {
        self.reply.is_some()
    }

    fn settle(mut self: Box<Self>, result: Result<(), JournalError>) {
        let Some(reply) = self.reply.take() else {
            if let Err(error) = result {
                tracing::error!("{error}");
            }
            return;
        };
        let answer = match (result, self.value.take()) {
            (Ok(()), Some(value)) => Ok(value),
            (Ok(()), None) => Err(JournalError("a change of the journal was not made".into())),
            (Err(error), _) => Err(error),
        };
        // Whoever asked may have gone; the change stands all the same.
        drop(reply.send(answer));
    }
}

/// The file, written one group after the other.
pub(super) struct Book {
    connection: Connection,
    poison: Arc<OnceLock<JournalError>>,
    file: String,
    last_id: i64,
}

pub(super) struct Writer {
    book: Book,
    receiver: Receiver<Box<dyn Work>>,
    /// Changes for the next transaction.
    group: Vec<Box<dyn Work>>,
    /// Transactions since the log was moved.
    unmoved: u32,
    mover: Mover,
}

/// What came of each change of a group, in order.
pub(super) type Results = Result<Vec<Result<(), JournalError>>, JournalError>;

impl Book {
    pub(super) fn new(
        connection: Connection,
        poison: Arc<OnceLock<JournalError>>,
        file: String,
    ) -> rusqlite::Result<Book> {
        let newest =
            "SELECT max((SELECT ifnull(max(id), 0) FROM firings), (SELECT ifnull(max(id), 0) FROM runs),
             (SELECT ifnull(max(id), 0) FROM writes), (SELECT ifnull(max(id), 0) FROM notices))";
        let last_id = connection.query_row(newest, (), |row| row.get(0))?;
        Ok(Book { connection, poison, file, last_id })
    }

    /// Writes a group, durable when it answers; an error poisons the journal.
    pub(super) fn write(&mut self, group: &mut [Box<dyn Work>]) -> Results {
        metrics::histogram!("tidegate_journal_group_size")
            .record(u32::try_from(group.len()).unwrap_or(u32::MAX));
        let results = match self.poison.get() {
            Some(poison) => Err(poison.clone()),
            None => self.commit(group),
        };
        results.map_err(|error| self.poison(error))
    }

    /// The error that the journal has from now on.
    pub(super) fn poison(&self, error: JournalError) -> JournalError {
        self.poison.get_or_init(|| error).clone()
    }

    /// One transaction for the whole group. A change that fails for a reason
    /// of its own is undone alone; an error here means that nothing happened.
    fn commit(&mut self, group: &mut [Box<dyn Work>]) -> Results {
        let file = self.file.as_str();
        let failed = |error: rusqlite::Error| JournalError::new(file, &error);
        let mut transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let mut results = Vec::with_capacity(group.len());
        for work in group {
            let savepoint = transaction.savepoint().map_err(failed)?;
            let mut writing = Writing { sql: &savepoint, last_id: &mut self.last_id };
            match work.run(&mut writing) {
                Ok(()) => {
                    savepoint.commit().map_err(failed)?;
                    results.push(Ok(()));
                }
                Err(error) if is_its_own_fault(&error) => {
                    drop(savepoint);
                    results.push(Err(failed(error)));
                }
                Err(error) => return Err(failed(error)),
            }
        }
        transaction.commit().map_err(failed)?;
        Ok(results)
    }
}

/// Answers every waiter of a group.
pub(super) fn settle(group: Vec<Box<dyn Work>>, results: Results) {
    match results {
        Ok(results) => group.into_iter().zip(results).for_each(|(work, result)| work.settle(result)),
        Err(error) => group.into_iter().for_each(|work| work.settle(Err(error.clone()))),
    }
}

impl Writer {
    pub(super) fn new(
        book: Book,
        receiver: Receiver<Box<dyn Work>>,
        mover: Mover,
    ) -> rusqlite::Result<Writer> {
        move_log(&book.connection, "PASSIVE")?;
        Ok(Writer { book, receiver, group: Vec::new(), unmoved: 0, mover })
    }

    pub(super) fn serve(mut self) {
        loop {
            let patience = if self.group.is_empty() { IDLE } else { LAZY_WAIT };
            match self.receiver.recv_timeout(patience) {
                Ok(work) => {
                    self.group.push(work);
                    self.take_waiting();
                    let urgent = self.group.iter().any(|work| work.is_urgent());
                    if urgent || self.group.len() >= GROUP_MAX {
                        self.write_group();
                    }
                }
                Err(RecvTimeoutError::Timeout) if self.group.is_empty() => self.look_at_log(0),
                Err(RecvTimeoutError::Timeout) => self.write_group(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.unmoved > 0 && self.unmoved.is_multiple_of(LOOK_EVERY) {
                self.look_at_log(LOG_PAGES_MAX);
            }
        }
        self.write_group();
        if self.book.poison.get().is_none()
            && let Err(error) = move_log(&self.book.connection, "PASSIVE")
        {
            tracing::error!("{}", JournalError::new(&self.book.file, &error));
        }
    }

    fn take_waiting(&mut self) {
        while self.group.len() < GROUP_MAX {
            match self.receiver.try_recv() {
                Ok(next) => self.group.push(next),
                Err(_) => break,
            }
        }
    }

    fn write_group(&mut self) {
        let mut group = std::mem::take(&mut self.group);
        if group.is_empty() {
            return;
        }
        let results = self.book.write(&mut group);
        self.unmoved = self.unmoved.saturating_add(u32::from(results.is_ok()));
        settle(group, results);
    }

    /// Has the log moved into the file if it is longer than this. What readers
    /// still need stays.
    fn look_at_log(&mut self, pages_max: i64) {
        if self.unmoved == 0 || self.book.poison.get().is_some() {
            return;
        }
        let looked = move_log(&self.book.connection, "NOOP").and_then(|log| {
            if log.pages <= pages_max {
                return Ok(());
            }
            self.unmoved = 0;
            if log.waiting() > OWN_PAGES_MAX && log.pages <= LOG_PAGES_HARD_MAX {
                self.mover.move_log();
                return Ok(());
            }
            move_log(&self.book.connection, "PASSIVE").map(|_| ())
        });
        if let Err(error) = looked {
            let error = JournalError::new(&self.book.file, &error);
            tracing::error!("{error}");
            self.book.poison(error);
        }
    }
}

/// Whether the statement was wrong and not the disk.
fn is_its_own_fault(error: &rusqlite::Error) -> bool {
    match error.sqlite_error_code() {
        None => true,
        Some(code) => matches!(
            code,
            ErrorCode::ConstraintViolation
                | ErrorCode::TypeMismatch
                | ErrorCode::TooBig
                | ErrorCode::ParameterOutOfRange
        ),
    }
}
