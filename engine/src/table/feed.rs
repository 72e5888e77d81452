//! A table as a source: each version of it as one batch, first the one that is
//! there, then one whenever the rows have changed. What cannot be read any more
//! stays as it was, with a warning.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use async_trait::async_trait;
use xxhash_rust::xxh3::Xxh3;

use super::{NamedTable, ReferenceTable};
use crate::error::ConnectorError;
use crate::source::{Polled, Position, Rows, Source};
use crate::storage::blocking::blocking;

/// Largest table that streams are joined with: it is kept in memory, twice while
/// it changes.
const TABLE_BYTES_MAX: usize = 1 << 30;
/// Where a batch says which version of the table it is.
const VERSION: &str = "tidegate.version";

/// Which version of a table a batch of `TableFeed` is.
#[must_use]
pub fn version_of(batch: &RecordBatch) -> &str {
    batch.schema_ref().metadata().get(VERSION).map_or("", String::as_str)
}

/// The rows as a batch that says which version they are.
///
/// # Errors
/// None that rows with these columns give.
pub fn as_version(rows: &RecordBatch, version: &str) -> Result<RecordBatch, ArrowError> {
    let mut metadata = rows.schema_ref().metadata().clone();
    metadata.insert(VERSION.into(), version.to_owned());
    let schema = Schema::new_with_metadata(rows.schema_ref().fields().clone(), metadata);
    RecordBatch::try_new(Arc::new(schema), rows.columns().to_vec())
}

/// Gives the versions of a table.
#[derive(Debug)]
pub struct TableFeed {
    name: String,
    columns: SchemaRef,
    table: Arc<dyn ReferenceTable>,
    every: Duration,
    watch: Watch,
    sent: Option<String>,
    /// Why the last look failed, told once.
    failed: Option<String>,
}

impl TableFeed {
    /// Looks at the table so often.
    #[must_use]
    pub fn new(table: &NamedTable, every: Duration) -> TableFeed {
        TableFeed {
            name: table.name.clone(),
            columns: Arc::clone(&table.columns),
            table: Arc::clone(&table.table),
            every,
            watch: Watch::default(),
            sent: None,
            failed: None,
        }
    }

    /// Looks once; `None` if nothing has changed.
    async fn look(&mut self) -> Result<Option<(RecordBatch, String)>, String> {
        let (table, columns, mut watch) =
            (Arc::clone(&self.table), Arc::clone(&self.columns), self.watch.clone());
        let looked = blocking(move || {
            let read =
                if watch.is_due(table.stamp()) { read(table.as_ref(), &columns).map(Some) } else { Ok(None) };
            (watch, read)
        });
        let (watch, read) = looked.await;
        self.watch = watch;
        if read.is_err() {
            // It may become readable as it is.
            self.watch.taken = None;
            self.watch.has_read = self.sent.is_some();
        }
        Ok(read?.filter(|(_, version)| self.sent.as_ref() != Some(version)))
    }

    fn tell(&mut self, reason: String) {
        metrics::counter!("tidegate_table_errors_total", "table" => self.name.clone()).increment(1);
        if self.failed.as_ref() != Some(&reason) {
            let name = &self.name;
            tracing::warn!(table = %name, "cannot be read, its last version stays: {reason}");
            self.failed = Some(reason);
        }
    }
}

#[async_trait]
impl Source for TableFeed {
    async fn open(&mut self, _resume: Option<&Position>) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn next(&mut self) -> Result<Polled, ConnectorError> {
        loop {
            if self.sent.is_some() {
                tokio::time::sleep(self.every).await;
            }
            match self.look().await {
                Ok(None) => {}
                Err(reason) if self.sent.is_none() => return Err(ConnectorError::Lost(reason)),
                Err(reason) => self.tell(reason),
                Ok(Some((batch, version))) => {
                    let (rows, table) = (batch.num_rows(), self.name.clone());
                    tracing::info!(table = %self.name, rows, version, "read");
                    metrics::counter!("tidegate_table_versions_total", "table" => table).increment(1);
                    self.failed = None;
                    let position = Position::of(&version);
                    self.sent = Some(version);
                    return Ok(Polled::Rows(Rows {
                        partition: 0,
                        batch,
                        rejects: None,
                        position,
                        received: None,
                    }));
                }
            }
        }
    }
}

/// Decides whether a table is read: always where only reading tells; otherwise
/// when its stamp is a new one and has stood for one look, so that a file is not
/// read while somebody writes it.
#[derive(Clone, Debug, Default)]
struct Watch {
    has_read: bool,
    taken: Option<String>,
    seen: Option<String>,
}

impl Watch {
    fn is_due(&mut self, stamp: Option<String>) -> bool {
        let is_first = !std::mem::replace(&mut self.has_read, true);
        if stamp.is_none() || is_first {
            // What is written while it is read for the first time is looked at again.
            self.seen = stamp;
            return true;
        }
        if stamp == self.taken {
            return false;
        }
        let stands = stamp == self.seen;
        if stands {
            self.taken.clone_from(&stamp);
        }
        self.seen = stamp;
        stands
    }
}

/// All rows as one batch, and what they hash to.
fn read(table: &dyn ReferenceTable, columns: &SchemaRef) -> Result<(RecordBatch, String), String> {
    let failed = |error: ArrowError| error.to_string();
    let batches = table.rows()?;
    let bytes: usize = batches.iter().map(RecordBatch::get_array_memory_size).sum();
    if bytes > TABLE_BYTES_MAX {
        return Err(format!(
            "it has {bytes} bytes; a table that streams are joined with may have {TABLE_BYTES_MAX}"
        ));
    }
    let batch = match batches.as_slice() {
        [only] => only.clone(),
        several => concat_batches(columns, several).map_err(failed)?,
    };
    let mut writer = StreamWriter::try_new(Hash(Xxh3::new()), columns).map_err(failed)?;
    writer.write(&batch).map_err(failed)?;
    let hash = writer.into_inner().map_err(failed)?.0.digest();
    let version = format!("{hash:016x}");
    Ok((as_version(&batch, &version).map_err(failed)?, version))
}

struct Hash(Xxh3);

impl Write for Hash {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use arrow::array::{ArrayRef, Int64Array};
    use tokio::time::timeout;

    use super::*;

    #[derive(Debug)]
    struct Now {
        rows: Mutex<Result<Vec<i64>, String>>,
        stamp: Mutex<u32>,
    }

    impl Now {
        fn set(&self, rows: Result<Vec<i64>, String>) {
            *self.rows.lock().expect("one thread") = rows;
            *self.stamp.lock().expect("one thread") += 1;
        }
    }

    impl ReferenceTable for Now {
        fn rows(&self) -> Result<Vec<RecordBatch>, String> {
            let rows = self.rows.lock().expect("one thread").clone()?;
            let column: ArrayRef = Arc::new(Int64Array::from(rows));
            Ok(vec![RecordBatch::try_from_iter([("id", column)]).expect("a batch")])
        }

        fn stamp(&self) -> Option<String> {
            Some(self.stamp.lock().expect("one thread").to_string())
        }
    }

    fn feed(rows: &[i64]) -> (Arc<Now>, TableFeed) {
        let table = Arc::new(Now { rows: Mutex::new(Ok(Vec::new())), stamp: Mutex::new(0) });
        table.set(Ok(rows.to_vec()));
        let columns = table.rows().expect("there are some")[0].schema();
        let named = NamedTable { name: "t".into(), columns, table: Arc::clone(&table) as _ };
        (table, TableFeed::new(&named, Duration::from_secs(1)))
    }

    async fn next(feed: &mut TableFeed) -> Option<(usize, String)> {
        let polled = timeout(Duration::from_secs(60), feed.next()).await.ok()?.expect("no loss");
        let Polled::Rows(rows) = polled else { return None };
        Some((rows.batch.num_rows(), version_of(&rows.batch).to_owned()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_version_comes_when_the_rows_have_changed() {
        let (table, mut feed) = feed(&[1, 2]);
        let (rows, first) = next(&mut feed).await.expect("the first version");
        assert_eq!(rows, 2);
        assert_eq!(next(&mut feed).await, None, "nothing has changed");
        table.set(Ok(vec![1, 2]));
        assert_eq!(next(&mut feed).await, None, "the same rows in a new file");
        table.set(Err("t.csv:3: is broken".into()));
        assert_eq!(next(&mut feed).await, None, "the last version stays");
        assert_eq!(feed.failed.as_deref(), Some("t.csv:3: is broken"));
        table.set(Ok(vec![]));
        let (rows, second) = next(&mut feed).await.expect("a version without rows is one");
        assert_eq!(rows, 0);
        assert_ne!(first, second);
    }

    #[tokio::test(start_paused = true)]
    async fn a_table_that_cannot_be_read_yet_is_tried_again() {
        let (table, mut feed) = feed(&[1]);
        table.set(Err("the server is away".into()));
        let lost = timeout(Duration::from_secs(60), feed.next()).await.expect("in time");
        assert_eq!(lost.expect_err("is lost"), ConnectorError::Lost("the server is away".into()));
        table.set(Ok(vec![1]));
        assert!(next(&mut feed).await.is_some());
    }

    #[test]
    fn a_file_is_not_read_while_it_is_written() {
        let mut watch = Watch::default();
        let stamp = |text: &str| Some(text.to_owned());
        assert!(watch.is_due(stamp("a")), "the first look reads");
        assert!(watch.is_due(stamp("a")), "once more, now that it stands");
        assert!(!watch.is_due(stamp("a")));
        assert!(!watch.is_due(stamp("b")) && !watch.is_due(stamp("c")), "it grows");
        assert!(watch.is_due(stamp("c")) && !watch.is_due(stamp("c")));
        assert!(watch.is_due(None) && watch.is_due(None), "only reading tells");
    }
}
