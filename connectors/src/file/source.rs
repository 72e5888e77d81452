//! The file source: which files there are, in which order, and what to do when
//! one grows, is cut, or is replaced. Rows are handed out as soon as there are
//! some; the position says for each file how far it was read, to the byte.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tidegate_engine::catalog::{BuildSource, Row};
use tidegate_engine::codec::Decoded;
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, ConnectorError};
use tidegate_engine::source::{Polled, Position, Silence, Source, SourcePart};
use tidegate_engine::time::Clock;
use tidegate_engine::topology::key::{Key, Kind, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use super::tail::{Found, Mark, Tail, identity};
use crate::format::{Origin, ROW_KEYS, RowFormat};

const KEYS: &[Key] = &[required(
    "path",
    Kind::Text,
    "a file, or files by a pattern such as \"in/*.jsonl\", read in the order of their names",
)
.outside()];

/// `[source.x] type = "file"`.
pub(crate) const ROW: Row<BuildSource> = Row {
    name: "file",
    summary: "reads rows from files: JSON lines, CSV or raw lines; follows files that grow",
    keys: &[KEYS, ROW_KEYS],
    example: r#"[source.rows]
type   = "file"
path   = "rows.jsonl"
format = "json"
schema = { device = "string", ts = "timestamp", value = "float64" }
time   = { column = "ts", unit = "s" }

[sink.out]
type = "stdout"
from = "rows"
"#,
    build,
};

/// Files that are followed at once.
const FOLLOWED_MAX: usize = 1_024;
/// Files a pattern may mean.
const FILES_MAX: usize = 100_000;
/// Pause before files are looked at again, first and longest.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(250);

fn build(config: &NodeConfig, context: &BuildContext) -> Result<SourcePart, ConfigError> {
    let format = RowFormat::from_config(config, Vec::new())?;
    let (Some(path), span) = (config.table.str("path"), config.table.span_of("path")) else {
        return Err(ConfigError::default());
    };
    let full = context.path(path);
    let wrong = |message: String| Diagnostic::error("TG-C032", message).at(span.clone());
    let is_pattern = path.contains(['*', '?', '[']) && !full.exists();
    let pattern = full.to_string_lossy().into_owned();
    if is_pattern && let Err(error) = glob::Pattern::new(&pattern) {
        return Err(wrong(format!("`{path}` is no pattern: {}", error.msg)).into());
    }
    if full.is_dir() {
        let help = format!("write \"{}/*.jsonl\" for the files in it", path.trim_end_matches('/'));
        return Err(wrong(format!("`{path}` is a directory")).help(help).into());
    }
    let paths = Paths { full, pattern: is_pattern.then_some(pattern) };
    if context.once && paths.list().is_ok_and(|found| found.is_empty()) {
        let help = format!("it was looked for in {}", context.base_dir.display());
        let missing = Diagnostic::error("TG-C009", format!("there is no file `{path}`"));
        return Err(missing.at(span).help(help).into());
    }
    let mut watermark = format.watermark();
    if config.table.table("watermark").is_none_or(|table| table.get("max_future").is_none()) {
        watermark.max_future = None;
    }
    let stream = format.stream();
    let source = FileSource {
        node: config.name.clone(),
        paths,
        format,
        once: context.once,
        clock: Arc::clone(&context.clock),
        marks: BTreeMap::new(),
        waiting: VecDeque::new(),
        tails: Vec::new(),
        pause: PAUSE_MIN,
        read_up: Arc::default(),
    };
    Ok(SourcePart {
        source: Box::new(source),
        stream,
        watermark,
        replayable: true,
        commit_quickly: false,
        logged: false,
    })
}

/// The files a node means.
struct Paths {
    full: PathBuf,
    pattern: Option<String>,
}

impl Paths {
    /// Those that are there now, in the order of their names.
    fn list(&self) -> io::Result<Vec<PathBuf>> {
        let Some(pattern) = &self.pattern else {
            return Ok(if self.full.exists() { vec![self.full.clone()] } else { Vec::new() });
        };
        let found = glob::glob(pattern).map_err(io::Error::other)?;
        let files = found.filter_map(Result::ok).filter(|path| path.is_file());
        let mut files: Vec<PathBuf> = files.take(FILES_MAX + 1).collect();
        if files.len() > FILES_MAX {
            return Err(io::Error::other(format!("{pattern} means more than {FILES_MAX} files")));
        }
        files.sort();
        Ok(files)
    }
}

/// How far each file was read.
#[derive(Default, Serialize, Deserialize)]
struct Place {
    files: Vec<Mark>,
}

struct FileSource {
    node: String,
    paths: Paths,
    format: RowFormat,
    once: bool,
    clock: Arc<dyn Clock>,
    /// By device and inode, so that a file keeps its mark when it is renamed.
    marks: BTreeMap<(u64, u64), Mark>,
    /// Files that are not open yet.
    waiting: VecDeque<PathBuf>,
    /// Open files: one at a time to the end, all at once when followed.
    tails: Vec<Tail>,
    pause: Duration,
    /// The last look found nothing to read: only then silence is silence.
    read_up: Arc<AtomicBool>,
}

#[async_trait]
impl Source for FileSource {
    async fn open(&mut self, resume: Option<&Position>) -> Result<(), ConnectorError> {
        let place: Place = resume.map(Position::read).transpose()?.unwrap_or_default();
        self.marks = place.files.into_iter().map(|mark| (mark.file, mark)).collect();
        self.tails.clear();
        let listed = self.paths.list().map_err(|error| self.lost(&self.paths.full, &error))?;
        self.waiting = listed.into();
        if !self.once {
            for rotated in self.rotated_away().await {
                self.waiting.push_front(rotated);
            }
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Polled, ConnectorError> {
        loop {
            self.open_waiting().await?;
            if let Some(decoded) = self.look().await? {
                self.pause = PAUSE_MIN;
                let origin = Origin {
                    node: &self.node,
                    partition: 0,
                    position: self.position(),
                    now: self.clock.now(),
                };
                return Ok(Polled::Rows(self.format.rows(decoded, Vec::new(), origin)?));
            }
            if self.once && self.tails.is_empty() && self.waiting.is_empty() {
                return Ok(Polled::End);
            }
            if !self.once {
                tokio::time::sleep(self.pause).await;
                self.pause = (self.pause * 2).min(PAUSE_MAX);
                self.find_changes().await?;
            }
        }
    }

    fn keep(&mut self, columns: &[&str]) {
        self.format.keep(columns);
    }

    fn silence(&self) -> Option<Arc<dyn Silence>> {
        Some(Arc::clone(&self.read_up) as Arc<dyn Silence>)
    }
}

impl FileSource {
    fn lost(&self, path: &Path, error: &io::Error) -> ConnectorError {
        let message = format!("cannot read {}: {error}", path.display());
        // A bounded read must come to an end; one that follows may be given the right to read later.
        let forbidden = self.once && error.kind() == io::ErrorKind::PermissionDenied;
        let hopeless =
            forbidden || matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::IsADirectory);
        if hopeless { ConnectorError::Fatal(message) } else { ConnectorError::Lost(message) }
    }

    fn position(&self) -> Position {
        Position::of(&Place { files: self.marks.values().cloned().collect() })
    }

    /// Opens the next file, or all of them when they are followed.
    async fn open_waiting(&mut self) -> Result<(), ConnectorError> {
        let open_max = if self.once { 1 } else { FOLLOWED_MAX };
        while self.tails.len() < open_max
            && let Some(path) = self.waiting.pop_front()
        {
            match self.open_tail(&path).await {
                Ok(tail) => self.tails.push(tail),
                // It was removed between listing and opening.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(self.lost(&path, &error)),
            }
        }
        if !self.once && !self.waiting.is_empty() {
            let message =
                format!("{} means more than {FOLLOWED_MAX} files to follow", self.paths.full.display());
            return Err(ConnectorError::Fatal(message));
        }
        Ok(())
    }

    async fn open_tail(&mut self, path: &Path) -> io::Result<Tail> {
        let mark = self.marks.get(&identity(path).await?);
        Tail::open(path, mark, self.format.stream_decoder(), self.format.payload_bytes_max()).await
    }

    /// The next rows of the open files, in their order.
    async fn look(&mut self) -> Result<Option<Decoded>, ConnectorError> {
        let mut index = 0;
        while let Some(tail) = self.tails.get_mut(index) {
            let ending = self.once || tail.ending;
            let found = match tail.look(ending).await {
                Ok(found) => found,
                Err(error) => {
                    let path = tail.path.clone();
                    return Err(self.lost(&path, &error));
                }
            };
            match found {
                Found::Rows(decoded) => {
                    self.marks.insert(tail.mark.file, tail.mark.clone());
                    self.read_up.store(false, Ordering::Release);
                    if decoded.batch.num_rows() > 0 || !decoded.bad.is_empty() {
                        return Ok(Some(decoded));
                    }
                }
                Found::More => {}
                Found::Nothing if ending => {
                    let ended = self.tails.remove(index);
                    if ended.ending {
                        self.marks.remove(&ended.mark.file);
                    }
                    self.open_waiting().await?;
                }
                Found::Nothing => index += 1,
            }
        }
        self.read_up.store(true, Ordering::Release);
        Ok(None)
    }

    /// Looks whether followed files were cut or replaced and whether there are
    /// new ones.
    async fn find_changes(&mut self) -> Result<(), ConnectorError> {
        let listed = self.paths.list().map_err(|error| self.lost(&self.paths.full, &error))?;
        let mut known = Vec::new();
        for mut tail in std::mem::take(&mut self.tails) {
            if tail.is_cut().await.unwrap_or(true) {
                tracing::warn!(node = %self.node, "{} was cut; reading it from its beginning", tail.path.display());
                self.marks.remove(&tail.mark.file);
                continue;
            }
            known.push(tail.mark.file);
            self.tails.push(tail);
        }
        let mut now = Vec::new();
        for path in listed {
            if let Ok(file) = identity(&path).await {
                now.push(file);
                if !known.contains(&file) {
                    self.waiting.push_back(path);
                }
            }
        }
        // A file that lost its name to another one is read to its end and closed; while nothing has
        // its name it may still grow.
        for tail in self.tails.iter_mut().filter(|tail| !now.is_empty() && !now.contains(&tail.mark.file)) {
            tail.ending = true;
        }
        Ok(())
    }

    /// Files that were read in part, no longer have a name that is meant, and
    /// lie in the same folder: their rest comes first.
    async fn rotated_away(&mut self) -> Vec<PathBuf> {
        let mut meant = Vec::new();
        for path in &self.waiting {
            meant.extend(identity(path).await.ok());
        }
        let folder = self.paths.full.parent().unwrap_or(Path::new("."));
        let mut found = Vec::new();
        let Ok(mut entries) = tokio::fs::read_dir(folder).await else { return found };
        while let Ok(Some(entry)) = entries.next_entry().await {
            let Ok(file) = identity(&entry.path()).await else { continue };
            if self.marks.contains_key(&file) && !meant.contains(&file) {
                found.push(entry.path());
            }
        }
        found
    }
}
