//! The files of a recorded table. A name says which epochs its rows are of and
//! the newest event time in it: `FROM_TO_NEWEST.parquet`. A file whose epochs
//! all lie in another one has become part of it and does not count.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use ::parquet::basic::{Compression, ZstdLevel};
use ::parquet::file::properties::WriterProperties;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::storage::vfs::{Vfs, write_atomically};
use tidegate_engine::time::Clock;

use super::shape;

/// So many small files that follow each other become one.
const SMALL_FILES: usize = 16;
/// A file is small up to this size.
const SMALL_BYTES: u64 = 16 << 20;
/// Times that a query looks for files again which have just become one.
const LOOKS_MAX: usize = 10;

/// Where and how long rows are kept.
pub(super) struct Files {
    pub(super) vfs: Arc<dyn Vfs>,
    pub(super) folder: PathBuf,
    /// Rows as the table has them.
    pub(super) stream: StreamSchema,
    pub(super) keep_us: Option<i64>,
    pub(super) bytes_max: Option<u64>,
    /// One wrong time in the future must not make all others old.
    pub(super) clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Files({})", self.folder.display())
    }
}

/// One file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) newest_us: i64,
}

impl Name {
    fn read(path: &Path) -> Option<Name> {
        let mut words = path.file_name()?.to_str()?.strip_suffix(".parquet")?.splitn(3, '_');
        let mut word = || words.next();
        let (from, to) = (word()?.parse().ok()?, word()?.parse().ok()?);
        Some(Name { from, to, newest_us: word()?.parse().ok()? })
    }

    fn is_within(&self, other: &Name) -> bool {
        (self.from, self.to) != (other.from, other.to) && other.from <= self.from && self.to <= other.to
    }
}

impl Files {
    fn path(&self, name: &Name) -> PathBuf {
        self.folder.join(format!("{:020}_{:020}_{}.parquet", name.from, name.to, name.newest_us))
    }

    /// Makes the folder, and removes files that have become part of others.
    pub(super) fn open(&self) -> io::Result<()> {
        self.vfs.create_folder(&self.folder)?;
        self.vfs.sync_folder(self.folder.parent().unwrap_or(&self.folder))?;
        let all = self.all()?;
        let live = live(&all);
        for name in all.iter().filter(|name| !live.contains(name)) {
            self.vfs.remove(&self.path(name))?;
        }
        Ok(())
    }

    fn all(&self) -> io::Result<Vec<Name>> {
        match self.vfs.list(&self.folder) {
            Ok(paths) => Ok(paths.iter().filter_map(|path| Name::read(path)).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The files that count, oldest first.
    pub(super) fn live(&self) -> io::Result<Vec<Name>> {
        Ok(live(&self.all()?))
    }

    /// Adds the rows of these epochs, durably.
    pub(super) fn add(&self, from: u64, to: u64, rows: &[RecordBatch]) -> Result<(), String> {
        let mut newest_us = i64::MIN;
        if self.stream.time.is_some() {
            for batch in rows {
                let times = self.stream.times(batch).map_err(|error| error.0)?;
                newest_us = times.values().iter().copied().max().unwrap_or(i64::MIN).max(newest_us);
            }
        }
        self.write(&Name { from, to, newest_us }, &self.stream.columns, rows)
    }

    fn write(&self, name: &Name, columns: &SchemaRef, rows: &[RecordBatch]) -> Result<(), String> {
        let path = self.path(name);
        let failed = |error: &dyn std::fmt::Display| format!("cannot write {}: {error}", path.display());
        let settings = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default()));
        let writer = ArrowWriter::try_new(Vec::new(), Arc::clone(columns), Some(settings.build()));
        let mut writer = writer.map_err(|error| failed(&error))?;
        for batch in rows {
            writer.write(batch).map_err(|error| failed(&error))?;
        }
        let bytes = writer.into_inner().map_err(|error| failed(&error))?;
        write_atomically(self.vfs.as_ref(), &path, &[&bytes]).map_err(|error| failed(&error))
    }

    /// Gives the rows of a file, as they were kept, one batch after the other;
    /// answers its columns.
    fn read(
        &self,
        name: &Name,
        mut take: impl FnMut(RecordBatch) -> Result<(), String>,
    ) -> Result<SchemaRef, ReadError> {
        let path = self.path(name);
        let failed = |error: &dyn std::fmt::Display| {
            ReadError::Failed(format!("cannot read {}: {error}", path.display()))
        };
        let bytes = self.vfs.read(&path).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound { ReadError::Gone } else { failed(&error) }
        })?;
        let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes));
        let reader = reader.map_err(|error| failed(&error))?;
        let columns = Arc::clone(reader.schema());
        for batch in reader.build().map_err(|error| failed(&error))? {
            take(batch.map_err(|error| failed(&error))?).map_err(|reason| failed(&reason))?;
        }
        Ok(columns)
    }

    /// The time before which rows are too old; `None` if none are.
    pub(super) fn oldest_us(&self, newest_us: i64) -> Option<i64> {
        self.keep_us.map(|keep_us| newest_us.min(self.clock.now().0).saturating_sub(keep_us))
    }

    /// The time before which the rows of these files are too old.
    fn oldest_of(&self, names: &[Name]) -> i64 {
        let newest_us = names.iter().map(|name| name.newest_us).max().unwrap_or(i64::MIN);
        self.oldest_us(newest_us).unwrap_or(i64::MIN)
    }

    /// All rows that are there and not in files that are too old. Reads no further
    /// than to so many bytes.
    pub(super) fn read_all(&self, bytes_max: usize) -> Result<Vec<RecordBatch>, String> {
        for _ in 0..LOOKS_MAX {
            let names = self.live().map_err(|error| format!("{}: {error}", self.folder.display()))?;
            let oldest_us = self.oldest_of(&names);
            let (mut rows, mut bytes) = (Vec::new(), 0);
            let mut take = |batch: RecordBatch| {
                let batch = shape::fit(&batch, &self.stream.columns)?;
                bytes += batch.get_array_memory_size();
                if bytes > bytes_max {
                    let message = "the table has more rows than a query can be given";
                    return Err(format!("{message} ({bytes_max} bytes); let it `keep` less"));
                }
                rows.push(batch);
                Ok(())
            };
            let mut young = names.iter().filter(|name| name.newest_us >= oldest_us);
            match young.try_for_each(|name| self.read(name, &mut take).map(drop)) {
                Ok(()) => return Ok(rows),
                Err(ReadError::Failed(reason)) => return Err(reason),
                // It has become part of another one, or is too old by now.
                Err(ReadError::Gone) => {}
            }
        }
        Err(format!("{} changes faster than it can be read", self.folder.display()))
    }

    /// Makes one file of many small ones, and removes what is too old or too
    /// much. The newest one stays, since its name says how far all of them reach.
    pub(super) fn tidy(&self) -> Result<(), String> {
        let failed = |error: io::Error| format!("{}: {error}", self.folder.display());
        self.forget().map_err(failed)?;
        let mut small = Vec::new();
        let mut bytes = 0;
        for name in self.live().map_err(failed)?.into_iter().rev() {
            let size = self.vfs.size(&self.path(&name)).map_err(failed)?;
            if size > SMALL_BYTES || bytes + size > 4 * SMALL_BYTES {
                break;
            }
            bytes += size;
            small.push(name);
        }
        if small.len() < SMALL_FILES {
            return Ok(());
        }
        // Newest first, as far as they have the same columns: rows stay as they were kept.
        let (mut parts, mut columns) = (Vec::new(), None);
        for name in &small {
            let mut rows = Vec::new();
            let read = self.read(name, |batch| {
                rows.push(batch);
                Ok(())
            });
            let its = read.map_err(|error| error.to_string())?;
            if columns.get_or_insert_with(|| Arc::clone(&its)).fields() != its.fields() {
                break;
            }
            parts.push(rows);
        }
        small.truncate(parts.len());
        let (Some(last), Some(first), Some(columns)) = (small.first(), small.last(), columns) else {
            return Ok(());
        };
        if small.len() < SMALL_FILES {
            return Ok(());
        }
        let newest_us = small.iter().map(|name| name.newest_us).max().unwrap_or(i64::MIN);
        let whole = Name { from: first.from, to: last.to, newest_us };
        let rows: Vec<RecordBatch> = parts.into_iter().rev().flatten().collect();
        self.write(&whole, &columns, &rows)?;
        for name in &small {
            self.vfs.remove(&self.path(name)).map_err(failed)?;
        }
        self.vfs.sync_folder(&self.folder).map_err(failed)
    }

    fn forget(&self) -> io::Result<()> {
        let live = self.live()?;
        let oldest_us = self.oldest_of(&live);
        let sizes =
            live.iter().map(|name| self.vfs.size(&self.path(name))).collect::<io::Result<Vec<_>>>()?;
        let mut bytes: u64 = sizes.iter().sum();
        let Some((_, older)) = live.split_last() else { return Ok(()) };
        for (name, size) in older.iter().zip(sizes) {
            let is_old = name.newest_us < oldest_us;
            let is_much = self.bytes_max.is_some_and(|bytes_max| bytes > bytes_max);
            if is_old || is_much {
                self.vfs.remove(&self.path(name))?;
                bytes -= size;
            }
        }
        Ok(())
    }
}

fn live(all: &[Name]) -> Vec<Name> {
    let is_live = |name: &&Name| !all.iter().any(|other| name.is_within(other));
    let mut live: Vec<Name> = all.iter().filter(is_live).copied().collect();
    live.sort_unstable();
    live
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("a file is gone")]
    Gone,
    #[error("{0}")]
    Failed(String),
}
