//! The ingress log: what a peer will not send again is durable before it is
//! told "got it" and before anybody acts on it. A source whose rows are logged
//! is a source like any other whose position is the number of a record: after
//! a crash the records behind the checkpoint come first, then the peer.

pub(crate) mod payload;
mod pump;
mod silence;
#[cfg(test)]
mod tests;
mod unique;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::datatypes::Schema;
use async_trait::async_trait;

use self::payload::decode;
use self::pump::{Arrival, Line, Logged, Pump};
use self::silence::{LoggedSilence, Peer};
use self::unique::{NAMES_MAX, Unique};
use super::checkpoint_store::GENERATIONS;
use crate::codec::BadRow;
use crate::error::ConnectorError;
use crate::planted;
use crate::reject::rejects;
use crate::schema::StreamSchema;
use crate::source::{Committer, Polled, Position, Rows, Silence, Source};
use crate::storage::blocking::blocking;
use crate::storage::group::GroupLog;
use crate::storage::log::{Log, LogError, LogLimits};
use crate::storage::log_reader::{Entry, LogReader, Lost};
use crate::storage::vfs::Vfs;
use crate::time::{Clock, Time};

/// The end of a log whose rows are remembered if they have names; it is kept
/// for that.
pub(super) const REMEMBERED_BYTES: u64 = 64 << 20;
/// How long the last acknowledgements may take.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// Where a logged source stands: the number of a record, and where the source
/// itself stood after its rows, if it wants to know that after a restart.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Place {
    record: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

impl Place {
    fn position(record: u64, source: Option<&Position>) -> Position {
        let source = source.and_then(|Position(bytes)| String::from_utf8(bytes.to_vec()).ok());
        Position::of(&Place { record, source })
    }
}

/// The number of the record that a position names, if it is one of ours.
pub(super) fn record_of(position: &Position) -> Option<u64> {
    position.read::<Place>().ok().map(|place| place.record)
}

/// The position behind this record, of a source that begins anew.
pub(super) fn behind(record: u64) -> Position {
    Place::position(record, None)
}

/// What the log of a source needs.
pub(super) struct Shelf {
    /// Name of the node.
    pub(super) node: String,
    /// The folder of its log.
    pub(super) folder: PathBuf,
    pub(super) vfs: Arc<dyn Vfs>,
    pub(super) limits: LogLimits,
    pub(super) clock: Arc<dyn Clock>,
    /// The rows of the source.
    pub(super) stream: StreamSchema,
    /// Columns that name a row, so that one that is sent again is known.
    pub(super) unique: Vec<usize>,
}

/// A source whose rows are logged, with all their columns: a later file may
/// read others than this one.
pub(super) struct LoggedSource {
    shelf: Shelf,
    /// The source, while nobody reads it.
    inner: Option<Box<dyn Source>>,
    /// Whether it wants its own position back.
    remembers: bool,
    /// That position, after the last rows that were handed out.
    source_position: Option<Position>,
    pump: Option<Pump>,
    log: Option<GroupLog>,
    /// Records of an earlier process that come first.
    replay: Option<LogReader>,
    committer: Option<Box<dyn Committer>>,
    silence: Arc<LoggedSilence>,
    kept: Arc<Mutex<VecDeque<u64>>>,
    /// What has come, shared with the pump.
    unique: Arc<Mutex<Unique>>,
    /// Rows that `next` waits for; it may be given up meanwhile.
    current: Option<Logged>,
    /// Reads handed out by the last `next`.
    handed: usize,
}

impl LoggedSource {
    /// Logs the rows of a source.
    pub(super) fn new(inner: Box<dyn Source>, shelf: Shelf) -> LoggedSource {
        LoggedSource {
            unique: Arc::new(Mutex::new(Unique::new(shelf.unique.clone(), NAMES_MAX))),
            shelf,
            remembers: inner.remembers(),
            inner: Some(inner),
            source_position: None,
            pump: None,
            log: None,
            replay: None,
            committer: None,
            silence: Arc::default(),
            kept: Arc::default(),
            current: None,
            handed: 0,
        }
    }

    async fn open_log(&mut self, after: Option<u64>) -> Result<(), ConnectorError> {
        let (vfs, folder, limits) =
            (Arc::clone(&self.shelf.vfs), self.shelf.folder.clone(), self.shelf.limits);
        let (unique, columns) = (Arc::clone(&self.unique), Arc::clone(&self.shelf.stream.columns));
        let opened = blocking(move || {
            let log = Log::open(vfs, &folder, limits, after.unwrap_or(0))?;
            remember(&log, &columns, &mut unique.lock().unwrap_or_else(PoisonError::into_inner))?;
            // Without a checkpoint everything that is still there comes again.
            let reader = log.records_after(after.unwrap_or_else(|| log.oldest().saturating_sub(1)));
            Ok((log, reader))
        });
        let (log, reader) = opened.await.map_err(|error: LogError| unopened(&error))?;
        self.log = Some(GroupLog::start(log));
        self.replay = Some(reader);
        Ok(())
    }

    /// Rows of an earlier process, in order; `None` when there are no more.
    async fn replayed(&mut self) -> Result<Option<Rows>, ConnectorError> {
        let Some(mut reader) = self.replay.take() else { return Ok(None) };
        let (reader, entry) = blocking(move || {
            let entry = reader.next_entry();
            (reader, entry)
        })
        .await;
        match entry.map_err(|error| fatal(&error))? {
            None => {
                self.silence.replayed();
                Ok(None)
            }
            Some(Entry::Lost(lost)) => {
                self.replay = Some(reader);
                self.gap(lost).map(Some)
            }
            Some(Entry::Record(record)) => {
                self.replay = Some(reader);
                let payload =
                    decode(&record.payload).map_err(|reason| self.unreadable(record.number, &reason))?;
                if payload.batch.schema_ref() != &self.shelf.stream.columns {
                    let reason = "its columns are not those of the file any more";
                    return Err(self.unreadable(record.number, reason));
                }
                if self.remembers {
                    self.source_position = payload.position.or(self.source_position.take());
                }
                Ok(Some(Rows {
                    partition: payload.partition,
                    batch: payload.batch,
                    rejects: payload.rejects,
                    position: self.place(record.number),
                    received: Some(Time(record.received_us)),
                }))
            }
        }
    }

    fn place(&self, record: u64) -> Position {
        Place::position(record, self.source_position.as_ref())
    }

    fn unreadable(&self, record: u64, reason: &str) -> ConnectorError {
        ConnectorError::Fatal(format!(
            "cannot replay record {record} of {}: {reason}; change the source back, let it run to a checkpoint, then change it, or put its rows aside: --reset-state {}",
            self.shelf.folder.display(),
            self.shelf.node
        ))
    }

    /// No rows, and a reject that names what is lost.
    fn gap(&self, lost: Lost) -> Result<Rows, ConnectorError> {
        let Lost { from, to } = lost;
        let reason = format!("gap: records {from} to {to} of the ingress log are damaged");
        tracing::error!(node = %self.shelf.node, "{reason}");
        metrics::counter!("tidegate_log_records_lost_total", "node" => self.shelf.node.clone())
            .increment(to - from + 1);
        let position = self.shelf.folder.display().to_string();
        let bad = [BadRow { reason, position, payload: Arc::from([]) }];
        let rejects = rejects(&self.shelf.node, &bad, vec![self.shelf.clock.now().0]);
        Ok(Rows {
            partition: 0,
            batch: arrow::array::RecordBatch::new_empty(Arc::clone(&self.shelf.stream.columns)),
            rejects: Some(rejects.map_err(|error| ConnectorError::Fatal(error.to_string()))?),
            position: self.place(to),
            received: None,
        })
    }

    /// Opens the source itself and starts to read it.
    async fn connect(&mut self) -> Result<(), ConnectorError> {
        let (Some(mut inner), Some(log)) = (self.inner.take(), self.log.clone()) else {
            return Err(ConnectorError::Fatal("a logged source was opened twice".into()));
        };
        if let Err(error) = inner.open(self.source_position.as_ref()).await {
            self.inner = Some(inner);
            return Err(error);
        }
        self.committer = inner.committer();
        self.silence.set(inner.silence().map_or(Peer::Trusted, Peer::Asked));
        let waiting = Arc::clone(&self.silence.waiting);
        let unique = Arc::clone(&self.unique);
        let node = self.shelf.node.clone();
        self.pump = Some(Pump::start(
            inner,
            Line {
                node,
                log,
                clock: Arc::clone(&self.shelf.clock),
                waiting,
                unique,
                remembers: self.remembers,
            },
        ));
        Ok(())
    }

    async fn disconnect(&mut self) -> Result<(), ConnectorError> {
        self.silence.set(Peer::Away);
        if let Some(mut pump) = self.pump.take() {
            pump.stop();
            // A full disk must not hold the end up.
            if tokio::time::timeout(CLOSE_MAX, self.acknowledge_rest(&mut pump)).await.is_err() {
                tracing::debug!(node = %self.shelf.node, "the peer will send the last rows again");
            }
            self.current = None;
            self.inner = Some(pump.source().await?);
        }
        self.committer = None;
        self.silence.waiting.clear();
        self.handed = 0;
        Ok(())
    }

    /// What is in the log is ours: the next start takes it from there, so the
    /// peer need not send it again.
    async fn acknowledge_rest(&mut self, pump: &mut Pump) {
        let mut rest = self.current.take();
        loop {
            if let Some(mut logged) = rest.take() {
                if logged.ticket.durable().await.is_err() {
                    return;
                }
                self.acknowledge(&logged.rows.position).await;
            }
            match pump.arrivals.recv().await {
                Some(Arrival::Rows(logged)) => rest = Some(logged),
                Some(Arrival::Other(_) | Arrival::Failed(_)) => {}
                None => return,
            }
        }
    }

    async fn acknowledge(&mut self, position: &Position) {
        if let Some(committer) = self.committer.as_mut()
            && let Err(error) = committer.commit(position).await
        {
            // It sends them again, and has been told nothing wrong.
            tracing::warn!(node = %self.shelf.node, "cannot acknowledge: {error}");
        }
    }

    /// The rows that were read last, durable and acknowledged.
    async fn durable(&mut self) -> Result<Polled, ConnectorError> {
        let gone = || ConnectorError::Lost("not open".into());
        // They stay here while they wait: giving up `next` does not give up rows.
        let current = self.current.as_mut().ok_or_else(gone)?;
        let position = current.rows.position.clone();
        if planted!(AcknowledgedBeforeDurable) {
            self.acknowledge(&position).await;
        }
        let current = self.current.as_mut().ok_or_else(gone)?;
        let record = current.ticket.durable().await.map_err(|error| fatal(&error))?;
        self.acknowledge(&position).await;
        let Logged { mut rows, received, .. } = self.current.take().ok_or_else(gone)?;
        self.source_position = self.remembers.then_some(position);
        rows.position = self.place(record);
        rows.received = Some(received);
        Ok(Polled::Rows(rows))
    }
}

/// Names of the rows that came last: what a peer sends again it has sent not
/// long ago.
fn remember(log: &Log, columns: &Schema, unique: &mut Unique) -> Result<(), LogError> {
    if !unique.is_used() {
        return Ok(());
    }
    let mut reader = log.records_after(log.tail(REMEMBERED_BYTES).saturating_sub(1));
    while let Some(entry) = reader.next_entry()? {
        // What cannot be read is told where its rows are wanted.
        let Entry::Record(record) = entry else { continue };
        let Ok(payload) = decode(&record.payload) else { continue };
        if let Err(error) = unique.remember(&payload.batch, columns) {
            tracing::debug!(record = record.number, "rows without names: {error}");
        }
    }
    Ok(())
}

fn fatal(error: &LogError) -> ConnectorError {
    ConnectorError::Fatal(error.to_string())
}

/// A full disk is waited for.
fn unopened(error: &LogError) -> ConnectorError {
    match error {
        LogError::Full(_) => ConnectorError::Lost(error.to_string()),
        LogError::Broken(_) | LogError::Unreadable(_) => fatal(error),
    }
}

#[async_trait]
impl Source for LoggedSource {
    async fn open(&mut self, resume: Option<&Position>) -> Result<(), ConnectorError> {
        self.disconnect().await?;
        if self.log.is_none() {
            // The position of a time when rows were not logged says nothing here.
            let place = resume.and_then(|position| position.read::<Place>().ok());
            let record = place.as_ref().map(|place| place.record);
            let own = match place {
                Some(place) => place.source.map(|text| Position(text.into_bytes().into())),
                // Of a time when rows were not logged: the source's own, perhaps.
                None => resume.cloned(),
            };
            self.source_position = own.filter(|_| self.remembers);
            self.open_log(record).await?;
        }
        if self.replay.is_some() { Ok(()) } else { self.connect().await }
    }

    async fn next(&mut self) -> Result<Polled, ConnectorError> {
        self.silence.waiting.taken(std::mem::take(&mut self.handed));
        if let Some(rows) = self.replayed().await? {
            return Ok(Polled::Rows(rows));
        }
        if self.pump.is_none() {
            self.connect().await?;
        }
        if self.current.is_none() {
            let Some(pump) = self.pump.as_mut() else {
                return Err(ConnectorError::Lost("not open".into()));
            };
            let Some(arrival) = pump.arrivals.recv().await else {
                return Err(ConnectorError::Fatal("the source's task has died".into()));
            };
            self.handed = 1;
            match arrival {
                Arrival::Rows(logged) => self.current = Some(logged),
                Arrival::Other(polled) => return Ok(polled),
                Arrival::Failed(error) => return Err(error),
            }
        }
        self.durable().await
    }

    fn committer(&self) -> Option<Box<dyn Committer>> {
        let log = self.log.clone()?;
        Some(Box::new(Trimmer { log, kept: Arc::clone(&self.kept) }))
    }

    fn silence(&self) -> Option<Arc<dyn Silence>> {
        Some(Arc::clone(&self.silence) as Arc<dyn Silence>)
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        self.disconnect().await?;
        match self.inner.as_mut() {
            Some(inner) => inner.close().await,
            None => Ok(()),
        }
    }
}

/// Forgets what no kept checkpoint needs.
struct Trimmer {
    log: GroupLog,
    kept: Arc<Mutex<VecDeque<u64>>>,
}

#[async_trait]
impl Committer for Trimmer {
    async fn commit(&mut self, position: &Position) -> Result<(), ConnectorError> {
        let Place { record, .. } = position.read()?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back(record);
        while kept.len() > GENERATIONS {
            kept.pop_front();
        }
        if planted!(TrimmedToNewest) {
            self.log.trim(record);
        }
        if kept.len() == GENERATIONS
            && let Some(oldest) = kept.front()
        {
            self.log.trim(*oldest);
        }
        Ok(())
    }
}
