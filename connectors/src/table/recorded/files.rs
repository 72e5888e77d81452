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
use bytes::Bytes;
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::storage::vfs::{Vfs, write_atomically};

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
    pub(super) stream: StreamSchema,
    pub(super) keep_us: Option<i64>,
    pub(super) bytes_max: Option<u64>,
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
        self.write(&Name { from, to, newest_us }, rows)
    }

    fn write(&self, name: &Name, rows: &[RecordBatch]) -> Result<(), String> {
        let path = self.path(name);
        let failed = |error: &dyn std::fmt::Display| format!("cannot write {}: {error}", path.display());
        let settings = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default()));
        let writer =
            ArrowWriter::try_new(Vec::new(), Arc::clone(&self.stream.columns), Some(settings.build()));
        let mut writer = writer.map_err(|error| failed(&error))?;
        for batch in rows {
            writer.write(batch).map_err(|error| failed(&error))?;
        }
        let bytes = writer.into_inner().map_err(|error| failed(&error))?;
        write_atomically(self.vfs.as_ref(), &path, &[&bytes]).map_err(|error| failed(&error))
    }

    fn read(&self, name: &Name) -> Result<Vec<RecordBatch>, ReadError> {
        let path = self.path(name);
        let failed = |error: &dyn std::fmt::Display| {
            ReadError::Failed(format!("cannot read {}: {error}", path.display()))
        };
        let bytes = self.vfs.read(&path).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound { ReadError::Gone } else { failed(&error) }
        })?;
        let reader =
            ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes)).and_then(|reader| reader.build());
        let batches = reader.map_err(|error| failed(&error))?;
        let as_now = |batch: Result<RecordBatch, arrow::error::ArrowError>| {
            let batch = batch?;
            RecordBatch::try_new(Arc::clone(&self.stream.columns), batch.columns().to_vec())
        };
        batches.map(as_now).collect::<Result<_, _>>().map_err(|error| failed(&error))
    }

    /// All rows that are there.
    pub(super) fn read_all(&self) -> Result<Vec<RecordBatch>, String> {
        for _ in 0..LOOKS_MAX {
            let names = self.live().map_err(|error| format!("{}: {error}", self.folder.display()))?;
            let rows: Result<Vec<_>, _> = names.iter().map(|name| self.read(name)).collect();
            match rows {
                Ok(rows) => return Ok(rows.into_iter().flatten().collect()),
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
        small.reverse();
        let (Some(first), Some(last)) = (small.first(), small.last()) else { return Ok(()) };
        if small.len() < SMALL_FILES {
            return Ok(());
        }
        let newest_us = small.iter().map(|name| name.newest_us).max().unwrap_or(i64::MIN);
        let whole = Name { from: first.from, to: last.to, newest_us };
        let mut rows = Vec::new();
        for name in &small {
            rows.append(&mut self.read(name).map_err(|error| error.to_string())?);
        }
        self.write(&whole, &rows)?;
        for name in &small {
            self.vfs.remove(&self.path(name)).map_err(failed)?;
        }
        self.vfs.sync_folder(&self.folder).map_err(failed)
    }

    fn forget(&self) -> io::Result<()> {
        let live = self.live()?;
        let newest_us = live.iter().map(|name| name.newest_us).max().unwrap_or(i64::MIN);
        let sizes =
            live.iter().map(|name| self.vfs.size(&self.path(name))).collect::<io::Result<Vec<_>>>()?;
        let mut bytes: u64 = sizes.iter().sum();
        let (Some((_, older)), from_us) =
            (live.split_last(), self.keep_us.map(|keep_us| newest_us.saturating_sub(keep_us)))
        else {
            return Ok(());
        };
        for (name, size) in older.iter().zip(sizes) {
            let is_old = from_us.is_some_and(|from_us| name.newest_us < from_us);
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
