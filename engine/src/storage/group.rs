//! Many records, one fsync: a task that owns a log. Whoever appends waits for
//! the fsync that covers its record; while one is under way the next group
//! gathers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::blocking::blocking;
use super::log::{Log, LogError};

/// Records that may wait for the task.
const WAITING_MAX: usize = 256;
/// Bytes of one group.
const GROUP_BYTES: usize = 4 << 20;
/// When a full disk is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// The sending end; the task ends when the last one is dropped.
#[derive(Clone, Debug)]
pub struct GroupLog {
    appends: mpsc::Sender<Append>,
    trims: Arc<watch::Sender<u64>>,
}

/// A record on its way.
#[derive(Debug)]
pub struct Ticket {
    receiver: oneshot::Receiver<Result<u64, LogError>>,
    answer: Option<Result<u64, LogError>>,
}

#[derive(Debug)]
struct Append {
    received_us: i64,
    payload: Vec<u8>,
    done: oneshot::Sender<Result<u64, LogError>>,
}

impl GroupLog {
    /// Starts the task.
    #[must_use]
    pub fn start(log: Log) -> GroupLog {
        let (appends, waiting) = mpsc::channel(WAITING_MAX);
        let (trims, trimmed) = watch::channel(0);
        tokio::spawn(serve(log, waiting, trimmed));
        GroupLog { appends, trims: Arc::new(trims) }
    }

    /// Hands a record over; it waits here while too many do.
    ///
    /// # Errors
    /// `Broken`: the task has ended.
    pub async fn append(&self, received_us: i64, payload: Vec<u8>) -> Result<Ticket, LogError> {
        let (done, receiver) = oneshot::channel();
        self.appends.send(Append { received_us, payload, done }).await.map_err(|_| ended())?;
        Ok(Ticket { receiver, answer: None })
    }

    /// Records up to `number` are not needed any more.
    pub fn trim(&self, number: u64) {
        self.trims.send_replace(number);
    }
}

impl Ticket {
    /// Waits until the record is durable; answers its number. May be given up
    /// and asked again.
    ///
    /// # Errors
    /// `Broken`: it may not be.
    pub async fn durable(&mut self) -> Result<u64, LogError> {
        if self.answer.is_none() {
            self.answer = Some((&mut self.receiver).await.unwrap_or_else(|_| Err(ended())));
        }
        self.answer.clone().unwrap_or_else(|| Err(ended()))
    }
}

fn ended() -> LogError {
    LogError::Broken("of this source: its task has ended".into())
}

/// Records of the group under way.
type Group = Vec<(u64, oneshot::Sender<Result<u64, LogError>>)>;

async fn serve(mut log: Log, mut appends: mpsc::Receiver<Append>, mut trims: watch::Receiver<u64>) {
    // The first record of the next group; it may have found no room yet.
    let mut first = None;
    loop {
        tokio::select! {
            biased;
            append = appends.recv(), if first.is_none() => match append {
                Some(append) => first = Some(append),
                None => return,
            },
            // Removes files on the way: seldom, and a matter of microseconds.
            changed = trims.changed() => match changed {
                Ok(()) => {
                    let number = *trims.borrow_and_update();
                    if let Err(error) = log.trim(number) {
                        tracing::warn!("cannot trim: {error}");
                    }
                }
                Err(_) => return,
            },
            () = tokio::time::sleep(RETRY), if first.is_some() => {}
        }
        while let Some(append) = first.take() {
            let (group, left) = gather(&mut log, append, &mut appends);
            first = left;
            let is_stalled = group.is_empty();
            log = sync(log, group).await;
            if is_stalled {
                break;
            }
        }
    }
}

/// Takes what waits; answers the records taken, and one that found no room.
fn gather(log: &mut Log, first: Append, appends: &mut mpsc::Receiver<Append>) -> (Group, Option<Append>) {
    let (mut group, mut bytes) = (Group::new(), 0);
    let mut next = Some(first);
    while let Some(Append { received_us, payload, done }) = next.take() {
        match log.append(received_us, &payload) {
            Ok(number) => group.push((number, done)),
            Err(LogError::Full(reason)) => {
                stalled(&reason);
                return (group, Some(Append { received_us, payload, done }));
            }
            Err(error) => answer(done, Err(error)),
        }
        bytes += payload.len();
        if bytes < GROUP_BYTES {
            next = appends.try_recv().ok();
        }
    }
    (group, None)
}

fn stalled(reason: &str) {
    metrics::counter!("tidegate_log_stalls_total").increment(1);
    tracing::error!("no room for the log {reason}; its source waits");
}

/// Syncs on a thread that may block; a full disk is waited for, because what
/// was taken must not be dropped.
async fn sync(mut log: Log, group: Group) -> Log {
    if group.is_empty() {
        return log;
    }
    loop {
        let synced;
        (log, synced) = blocking(move || {
            let synced = log.sync();
            (log, synced)
        })
        .await;
        match synced {
            Err(LogError::Full(reason)) => {
                stalled(&reason);
                if group.iter().all(|(_, done)| done.is_closed()) {
                    return log;
                }
                tokio::time::sleep(RETRY).await;
            }
            synced => {
                for (number, done) in group {
                    answer(done, synced.clone().map(|_| number));
                }
                return log;
            }
        }
    }
}

fn answer(done: oneshot::Sender<Result<u64, LogError>>, what: Result<u64, LogError>) {
    if done.send(what).is_err() {
        tracing::trace!("nobody waits for this record");
    }
}
