//! Sources of a plan, started.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Builder, REJECTS};
use crate::planted;
use crate::runtime::ingress::{LoggedSource, REMEMBERED_BYTES, Shelf};
use crate::runtime::job::JobConfig;
use crate::runtime::outlets::Outlets;
use crate::runtime::parts::COMMANDS_MAX;
use crate::runtime::source_driver::SourceDriver;
use crate::schema::{RECEIVED, RECEIVED_PORT};
use crate::source::SourcePart;
use crate::storage::log::LogLimits;
use crate::topology::plan::SourceNode;

impl Builder<'_> {
    pub(super) fn start_source(&mut self, mut node: SourceNode) {
        if node.part.logged {
            let folder = self.config.data_dir.join("ingress").join(&node.name);
            let unique = std::mem::take(&mut node.unique);
            node.part = logged(node.part, &node.name, folder, unique, self.config);
        }
        let ports = self.ports(&node.name, RECEIVED_PORT + 1);
        let is_read = ports.get(RECEIVED_PORT).is_some_and(|readers| !readers.is_empty());
        let names: &[&str] = if is_read { &["", REJECTS, RECEIVED] } else { &["", REJECTS] };
        let (job, stats) = self.part(&node.name, "source", names);
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        if node.part.stream.is_table() {
            self.built.tables.push(commands.clone());
        } else {
            self.built.streams.insert(node.name.clone());
        }
        self.built.sources.push(commands);
        let outlets = Outlets { ports, stats };
        let restored = self.checkpoint.sources.remove(&node.name);
        let (position, watermark) = restored.unwrap_or_default();
        let told = self.checkpoint.received.remove(&node.name);
        let wanted = node.part.replayable || node.part.source.remembers();
        let position = position.filter(|_| wanted && !planted!(PositionForgotten));
        let watermark = watermark.filter(|_| !planted!(WatermarkForgotten));
        let clock = Arc::clone(&self.config.clock);
        let alignment = Arc::clone(&self.alignment);
        let driver = SourceDriver::new(
            &node.part,
            outlets,
            job,
            receiver,
            clock,
            (position, watermark, told),
            alignment,
        );
        let name = node.name;
        self.built.tasks.spawn(async move {
            driver.run(node.part).await;
            name
        });
    }
}

/// A source that goes through its ingress log.
fn logged(
    part: SourcePart,
    node: &str,
    folder: PathBuf,
    unique: Vec<usize>,
    config: &JobConfig,
) -> SourcePart {
    let shelf = Shelf {
        node: node.to_owned(),
        folder,
        vfs: Arc::clone(&config.vfs),
        limits: LogLimits {
            bytes_kept: if unique.is_empty() { 0 } else { REMEMBERED_BYTES },
            ..config.log_limits
        },
        clock: Arc::clone(&config.clock),
        stream: part.stream.clone(),
        unique,
    };
    let source = Box::new(LoggedSource::new(part.source, shelf));
    SourcePart { source, replayable: true, commit_quickly: false, ..part }
}
