//! The one thread that writes: takes what waits, one transaction, one fsync,
//! then answers every waiter. It must never answer before the commit.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError};
use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::JournalError;
use crate::time::Time;

/// Most changes in one transaction: bounds how long the first one waits.
const GROUP_MAX: usize = 1_024;
/// After this silence the log is moved into the file.
const IDLE: Duration = Duration::from_secs(2);
/// Changes for which nobody waits go along with the next ones, or alone after
/// this time: an fsync of their own would only stand in the way.
const LAZY_WAIT: Duration = Duration::from_millis(20);
/// A log this long is moved even under load, in pages of 4 KiB: 64 MiB.
const LOG_PAGES_MAX: i64 = 16_384;
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

pub(super) struct Writer {
    connection: Connection,
    receiver: Receiver<Box<dyn Work>>,
    poison: Arc<OnceLock<JournalError>>,
    file: String,
    last_id: i64,
    /// Changes for the next transaction.
    group: Vec<Box<dyn Work>>,
    /// Transactions since the log was moved.
    unmoved: u32,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        receiver: Receiver<Box<dyn Work>>,
        poison: Arc<OnceLock<JournalError>>,
        file: String,
    ) -> rusqlite::Result<Writer> {
        let newest =
            "SELECT max((SELECT ifnull(max(id), 0) FROM firings), (SELECT ifnull(max(id), 0) FROM runs),
             (SELECT ifnull(max(id), 0) FROM writes), (SELECT ifnull(max(id), 0) FROM notices))";
        let last_id = connection.query_row(newest, (), |row| row.get(0))?;
        let mut writer =
            Writer { connection, receiver, poison, file, last_id, group: Vec::new(), unmoved: 0 };
        writer.checkpoint("PASSIVE")?;
        Ok(writer)
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
                Err(RecvTimeoutError::Timeout) if self.group.is_empty() => self.move_log(1),
                Err(RecvTimeoutError::Timeout) => self.write_group(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.unmoved > 0 && self.unmoved.is_multiple_of(LOOK_EVERY) {
                self.move_log(LOG_PAGES_MAX);
            }
        }
        self.write_group();
        self.move_log(1);
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
        metrics::histogram!("tidegate_journal_group_size")
            .record(u32::try_from(group.len()).unwrap_or(u32::MAX));
        let results = match self.poison.get() {
            Some(poison) => Err(poison.clone()),
            None => self.commit(&mut group),
        };
        match results.map_err(|error| self.poison.get_or_init(|| error).clone()) {
            Ok(results) => {
                group.into_iter().zip(results).for_each(|(work, result)| work.settle(result));
            }
            Err(error) => group.into_iter().for_each(|work| work.settle(Err(error.clone()))),
        }
    }

    /// One transaction for the whole group. A change that fails for a reason
    /// of its own is undone alone; an error here means that nothing happened.
    fn commit(&mut self, group: &mut [Box<dyn Work>]) -> Result<Vec<Result<(), JournalError>>, JournalError> {
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
        self.unmoved = self.unmoved.saturating_add(1);
        Ok(results)
    }

    /// Moves the log into the file if it has so many pages. What readers still
    /// need stays.
    fn move_log(&mut self, pages_min: i64) {
        if self.unmoved == 0 || self.poison.get().is_some() {
            return;
        }
        let moved = self.checkpoint("NOOP").and_then(|waiting| {
            if waiting >= pages_min {
                self.unmoved = 0;
                self.checkpoint("PASSIVE")?;
            }
            Ok(())
        });
        if let Err(error) = moved {
            let error = JournalError::new(&self.file, &error);
            tracing::error!("{error}");
            self.poison.get_or_init(|| error);
        }
    }

    /// Answers how many pages of the log were not in the file before.
    fn checkpoint(&mut self, how: &str) -> rusqlite::Result<i64> {
        self.connection.query_row(&format!("PRAGMA wal_checkpoint({how})"), (), |row| {
            Ok(row.get::<_, i64>(1)?.saturating_sub(row.get::<_, i64>(2)?))
        })
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
