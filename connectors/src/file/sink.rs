//! The file sink. To a directory: each epoch's rows lie in files of their own,
//! which get their final name when the epoch is durable, so that a reader sees
//! every row exactly once. To one file: rows are appended and survive a crash
//! after `flush`; after one, rows since the last checkpoint come again.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use tidegate_engine::catalog::{BuildSink, Row};
use tidegate_engine::codec::Encoder;
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, ConnectorError};
use tidegate_engine::operator::Input;
use tidegate_engine::sink::{Delivery, Sink, SinkPart};
use tidegate_engine::storage::files::sync_folder;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use crate::format::encode::EncodeFormat;
use crate::objects::{Folder, ObjectFormat, ROLL_KEYS, is_rolled, marker_path, rolled};

const KEYS: &[Key] = &[
    required("path", Kind::Text, "a file, or a directory if it ends with `/` or is one"),
    optional(
        "file_max",
        Kind::Size,
        "directory without `roll`: a file of this size is followed by another, default \"256MiB\"",
    ),
    optional(
        "format",
        Kind::Word(&["json", "csv", "parquet"]),
        "how rows are written, default \"json\" (an object a line); parquet: to a directory",
    ),
    optional("delimiter", Kind::Text, "csv: the character between cells, default \",\""),
    optional("header", Kind::Bool, "csv: whether the first line names the columns, default true"),
];

/// `[sink.x] type = "file"`.
pub(crate) const ROW: Row<BuildSink> = Row {
    name: "file",
    summary: "writes rows to a file, or to a directory exactly once: JSON lines, CSV or Parquet",
    keys: &[KEYS, ROLL_KEYS],
    example: r#"[source.numbers]
type  = "generate"
count = 10

[sink.out]
type   = "file"
from   = "numbers"
path   = "out/"
format = "json"
"#,
    build,
};

/// Size of a part unless `file_max` says otherwise.
const PART_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Ending of a file that is not published.
const PART: &str = ".part";

fn build(config: &NodeConfig, context: &BuildContext, input: &Input) -> Result<SinkPart, ConfigError> {
    let format = ObjectFormat::from_config(config, "json")?;
    let path = config.table.str("path").unwrap_or_default();
    let full = context.path(path);
    let wrong = |message: String| Diagnostic::error("TG-C032", message).at(config.table.span_of("path"));
    let directory = path.ends_with('/') || full.is_dir();
    if directory && full.is_file() {
        return Err(wrong(format!("`{path}` is a file and not a directory")).into());
    }
    let format = match format {
        ObjectFormat::Rows(format) if !is_rolled(config) => format,
        format @ (ObjectFormat::Rows(_) | ObjectFormat::Parquet(_)) => {
            return build_rolled(config, context, input, format, directory.then_some(full));
        }
    };
    if !directory {
        let writers = context.shared.get_or_insert("files that sinks write", Writers::default);
        if let Some(other) = writers.other(&full, &config.name) {
            let message = format!("`{other}` writes to `{path}` too: one would overwrite the other");
            let help = format!("let one sink read both: from = [..]; or write to a directory, \"{path}/\"");
            return Err(wrong(message).help(help).into());
        }
    }
    if !directory && let Some(entry) = config.table.entry("file_max") {
        let message = "`file_max` has a meaning for a directory only";
        return Err(Diagnostic::error("TG-C033", message).at(entry.key_span.clone()).into());
    }
    let target = if directory {
        let bytes_max = config.table.size("file_max").unwrap_or(PART_BYTES_MAX);
        Target::Directory(Directory { folder: full, name: config.name.clone(), bytes_max, parts: Vec::new() })
    } else {
        Target::File(full)
    };
    let header = format.header(&input.stream.columns).map_err(|reason| {
        Diagnostic::error("TG-C033", reason)
            .at(config.table.span_of("format"))
            .label("cannot hold this input")
    })?;
    let encoder = format.encoder_without_header();
    let sink = FileSink { format, target, encoder, header, out: None, pending: Vec::new(), is_first: true };
    Ok(SinkPart { sink: Box::new(sink) })
}

/// To a directory whose files are complete when they are large or old enough.
fn build_rolled(
    config: &NodeConfig,
    context: &BuildContext,
    input: &Input,
    format: ObjectFormat,
    directory: Option<PathBuf>,
) -> Result<SinkPart, ConfigError> {
    let Some(folder) = directory else {
        let path = config.table.str("path").unwrap_or_default();
        let message = format!("`{path}` is one file, and rows in Parquet or with `roll` go to a directory");
        let help = format!("end the path with a slash: \"{path}/\"");
        let place = config.table.span_of("path");
        return Err(Diagnostic::error("TG-C032", message).at(place).help(help).into());
    };
    if let Some(entry) = config.table.entry("file_max") {
        let message = "`file_max` has no meaning here: `roll` says when a file is complete";
        let help = "write e.g. roll = { size = \"128MiB\", age = \"5m\" }";
        return Err(Diagnostic::error("TG-C033", message).at(entry.key_span.clone()).help(help).into());
    }
    let marker = marker_path(config, context);
    let store = Folder::new(Arc::clone(&context.disk), folder, &marker);
    rolled(config, context, &input.stream.columns, format, store)
}

/// Which sink writes which file, by path.
#[derive(Default)]
struct Writers(Mutex<BTreeMap<PathBuf, String>>);

impl Writers {
    /// The other sink that writes this file; if there is none, it is `name` now.
    fn other(&self, path: &Path, name: &str) -> Option<String> {
        let mut writers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = writers.entry(path.to_owned()).or_insert_with(|| name.to_owned());
        (writer != name).then(|| writer.clone())
    }
}

struct FileSink {
    format: EncodeFormat,
    target: Target,
    encoder: Box<dyn Encoder>,
    /// What every file begins with.
    header: Vec<u8>,
    out: Option<Out>,
    /// Rows since the last flush, encoded.
    pending: Vec<u8>,
    /// Whether no epoch was committed by this process yet.
    is_first: bool,
}

enum Target {
    File(PathBuf),
    Directory(Directory),
}

/// A directory and the files in it that have no final name yet.
struct Directory {
    folder: PathBuf,
    name: String,
    bytes_max: u64,
    parts: Vec<Part>,
}

/// A file that waits for its epoch to be durable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    epoch: u64,
    number: u32,
}

/// The file that is being written.
struct Out {
    file: File,
    path: PathBuf,
    /// Bytes that are known to be durable.
    length: u64,
    part: Option<Part>,
}

fn failed(path: &Path) -> impl Fn(io::Error) -> ConnectorError + '_ {
    move |error| ConnectorError::Lost(format!("cannot write {}: {error}", path.display()))
}

#[async_trait]
impl Sink for FileSink {
    fn delivery(&self) -> Delivery {
        match self.target {
            Target::Directory(..) => Delivery::Published,
            Target::File(..) => Delivery::Local,
        }
    }

    async fn open(&mut self) -> Result<(), ConnectorError> {
        self.pending.clear();
        if let Some(out) = self.out.take() {
            // A failed attempt may have left half a row.
            out.file.set_len(out.length).await.map_err(failed(&out.path))?;
        }
        match &mut self.target {
            Target::File(path) => self.out = Some(Out::append(path).await.map_err(failed(path))?),
            Target::Directory(directory) => {
                let folder = directory.folder.clone();
                tokio::fs::create_dir_all(&folder).await.map_err(failed(&folder))?;
                directory.parts = directory.leftovers(self.format).await.map_err(failed(&folder))?;
            }
        }
        Ok(())
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        self.encoder.encode(batch, &mut self.pending).map_err(ConnectorError::Fatal)
    }

    async fn flush(&mut self, epoch: u64) -> Result<(), ConnectorError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        if let Target::Directory(directory) = &mut self.target {
            let goes_on = self.out.as_ref().is_some_and(|out| {
                out.length < directory.bytes_max && out.part.as_ref().is_some_and(|part| part.epoch == epoch)
            });
            if !goes_on {
                let out = directory.create(epoch, self.format).await?;
                self.out = Some(out);
            }
        }
        let Some(out) = &mut self.out else {
            return Err(ConnectorError::Lost("the file is not open".into()));
        };
        if out.length == 0 {
            self.pending.splice(..0, self.header.iter().copied());
        }
        out.add(&self.pending).await.map_err(failed(&out.path))?;
        self.pending.clear();
        Ok(())
    }

    async fn commit(&mut self, epoch: u64) -> Result<(), ConnectorError> {
        let Target::Directory(directory) = &mut self.target else { return Ok(()) };
        if self.out.as_ref().and_then(|out| out.part.as_ref()).is_some_and(|part| part.epoch <= epoch) {
            self.out = None;
        }
        let folder = directory.folder.clone();
        directory.publish(epoch, self.format).await.map_err(failed(&folder))?;
        if std::mem::take(&mut self.is_first) {
            // The rows of these come again.
            directory.forget(self.format).await.map_err(failed(&folder))?;
        }
        Ok(())
    }
}

impl Out {
    /// Opens a file to append to. A last line without an end, which a crash
    /// may leave, gets one, so that the next row stands on its own line.
    async fn append(path: &Path) -> io::Result<Out> {
        if let Some(folder) = path.parent() {
            tokio::fs::create_dir_all(folder).await?;
        }
        let is_new = !path.exists();
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).await?;
        let mut length = file.seek(io::SeekFrom::End(0)).await?;
        if length > 0 {
            file.seek(io::SeekFrom::End(-1)).await?;
            if file.read_u8().await? != b'\n' {
                file.write_all(b"\n").await?;
                length += 1;
            }
        }
        if is_new {
            sync_folder(path)?;
        }
        Ok(Out { file, path: path.to_owned(), length, part: None })
    }

    /// Appends and makes durable. What a failed attempt left is overwritten.
    async fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.set_len(self.length).await?;
        self.file.seek(io::SeekFrom::Start(self.length)).await?;
        self.file.write_all(bytes).await?;
        self.file.flush().await?;
        self.file.sync_data().await?;
        self.length += u64::try_from(bytes.len()).unwrap_or(0);
        Ok(())
    }
}

impl Directory {
    /// The final name of a part.
    fn path(&self, part: &Part, format: EncodeFormat) -> PathBuf {
        let Part { epoch, number } = part;
        self.folder.join(format!("{}-{epoch:010}-{number}.{}", self.name, format.extension()))
    }

    fn part_path(&self, part: &Part, format: EncodeFormat) -> PathBuf {
        let mut path = self.path(part, format).into_os_string();
        path.push(PART);
        path.into()
    }

    /// A new part of an epoch.
    async fn create(&mut self, epoch: u64, format: EncodeFormat) -> Result<Out, ConnectorError> {
        let of_epoch = self.parts.iter().filter(|part| part.epoch == epoch);
        let mut part = Part { epoch, number: of_epoch.map(|part| part.number + 1).max().unwrap_or(0) };
        // A final name is never used twice, whatever lies there.
        while self.path(&part, format).exists() {
            part.number += 1;
        }
        let path = self.part_path(&part, format);
        let file = File::create(&path).await.map_err(failed(&path))?;
        self.parts.push(part.clone());
        Ok(Out { file, path, length: 0, part: Some(part) })
    }

    /// Parts that an earlier process, or this one before it lost the disk, has
    /// left.
    async fn leftovers(&self, format: EncodeFormat) -> io::Result<Vec<Part>> {
        let mut parts = Vec::new();
        let mut entries = tokio::fs::read_dir(&self.folder).await?;
        while let Some(entry) = entries.next_entry().await? {
            let name = entry.file_name().to_string_lossy().into_owned();
            parts.extend(self.parse(&name, format));
        }
        parts.sort();
        Ok(parts)
    }

    fn parse(&self, name: &str, format: EncodeFormat) -> Option<Part> {
        let rest = name.strip_prefix(&self.name)?.strip_prefix('-')?;
        let rest = rest.strip_suffix(PART)?.strip_suffix(format.extension())?.strip_suffix('.')?;
        let (epoch, number) = rest.split_once('-')?;
        Some(Part { epoch: epoch.parse().ok()?, number: number.parse().ok()? })
    }

    /// Gives parts up to an epoch their final names, durably.
    async fn publish(&mut self, epoch: u64, format: EncodeFormat) -> io::Result<()> {
        let mut renamed = false;
        while let Some(part) = self.parts.first().filter(|part| part.epoch <= epoch) {
            let (from, to) = (self.part_path(part, format), self.path(part, format));
            match tokio::fs::rename(&from, &to).await {
                Ok(()) => renamed = true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            self.parts.remove(0);
        }
        if renamed { sync_folder(&self.folder.join("any")) } else { Ok(()) }
    }

    /// Removes the parts that are left.
    async fn forget(&mut self, format: EncodeFormat) -> io::Result<()> {
        for part in std::mem::take(&mut self.parts) {
            tokio::fs::remove_file(self.part_path(&part, format)).await?;
        }
        Ok(())
    }
}
