//! Rows to files that are there whole or not at all, each row exactly once:
//! what the sinks `file` (to a directory) and `s3` share. Rows wait in the
//! sink's log until a file of them is large or old enough; a marker beside the
//! files says up to which epoch they are there, and where the next one ends.

mod encoder;
mod folder;
mod marker;
mod remote;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::sink::SinkPart;
use tidegate_engine::topology::key::{Key, Kind, optional};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::sink_log::{RemoteError, Roll, part};
pub(crate) use encoder::ObjectFormat;
pub(crate) use folder::Folder;
use remote::{Objects, Settings};

/// The keys of sinks whose files are rolled, besides their format's.
pub(crate) const ROLL_KEYS: &[Key] = &[
    optional("compression", Kind::Word(&["zstd", "snappy", "none"]), "parquet: default \"zstd\""),
    optional(
        "roll",
        Kind::Table(&[
            optional("size", Kind::Size, "of a file in bytes, default \"128MiB\""),
            optional("age", Kind::Duration, "of a file's oldest row, default \"5m\""),
        ]),
        "when a file is complete: at the first of these, and at a stop",
    ),
];

const ROLL_BYTES: u64 = 128 << 20;
/// Rows of a file wait in the sink's log, which has its limit.
const ROLL_BYTES_MAX: u64 = 4 << 30;
const ROLL_AGE: Duration = Duration::from_secs(300);

/// A place for objects: a folder, a bucket. One program at a time writes there.
#[async_trait]
pub(crate) trait Store: Send + 'static {
    /// Connects anew, and removes what an earlier attempt has left that nobody
    /// could see.
    async fn connect(&mut self) -> Result<(), RemoteError>;

    /// The marker as it is now, `None` if there is none.
    async fn read_marker(&mut self) -> Result<Option<Vec<u8>>, RemoteError>;

    /// Puts another marker in the place of the one that was read or written
    /// last, durably; answers `false` if that is not there any more.
    async fn write_marker(&mut self, marker: &[u8]) -> Result<bool, RemoteError>;

    /// Adds bytes to an object, which nobody sees before it is published.
    async fn add(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), RemoteError>;

    /// Shows an object whole under its name, durably. One of this name, which
    /// has the same rows, is replaced.
    async fn publish(&mut self, name: &str) -> Result<(), RemoteError>;

    /// Where the marker is.
    fn marker_place(&self) -> String;
}

/// Whether rows go to files that are rolled.
pub(crate) fn is_rolled(config: &NodeConfig) -> bool {
    config.table.str("format") == Some("parquet") || config.table.table("roll").is_some()
}

/// Reads `roll` of a node.
pub(crate) fn roll(config: &NodeConfig) -> Result<Roll, ConfigError> {
    let mut out = Vec::new();
    let table = config.table.table("roll");
    let bytes = table.and_then(|roll| roll.size("size")).unwrap_or(ROLL_BYTES);
    let age = table.and_then(|roll| roll.duration("age")).unwrap_or(ROLL_AGE);
    let mut wrong = |key: &str, message: &str| {
        let span = table.map_or_else(|| config.name_span.clone(), |roll| roll.span_of(key));
        out.push(Diagnostic::error("TG-C032", message).at(span));
    };
    if bytes == 0 || bytes > ROLL_BYTES_MAX {
        wrong("size", "a file has between 1 byte and 4 GiB");
    }
    if age.is_zero() {
        wrong("age", "with an age of nothing a file would have no rows");
    }
    if out.is_empty() { Ok(Roll { bytes, age }) } else { Err(ConfigError(out)) }
}

/// A sink that rolls files into a store.
pub(crate) fn rolled(
    config: &NodeConfig,
    context: &BuildContext,
    schema: &SchemaRef,
    format: ObjectFormat,
    store: impl Store,
) -> Result<SinkPart, ConfigError> {
    format.check(schema).map_err(|reason| {
        Diagnostic::error("TG-C033", reason)
            .at(config.table.span_of("format"))
            .label("cannot hold this input")
    })?;
    let settings = Settings {
        sink: config.name.clone(),
        folder: log_folder(config, context),
        vfs: Arc::clone(&context.disk),
        session: marker::fresh_name(context.clock.now()),
        format,
        roll: roll(config)?,
    };
    Ok(part(config, context, Box::new(Objects::new(settings, store))))
}

/// The name of a sink's marker.
pub(crate) fn marker_path(config: &NodeConfig, context: &BuildContext) -> String {
    format!("{}/{}.{}.json", marker::FOLDER, context.topology, config.name)
}

/// The folder of a sink's log, for what belongs to it.
pub(crate) fn log_folder(config: &NodeConfig, context: &BuildContext) -> std::path::PathBuf {
    context.data_dir.join("egress").join(&config.name)
}
