//! One node of a topology as its file says it, checked against the keys of its
//! kind and not yet built.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::diagnostic::{Diagnostic, Span};
use crate::expression::Expressions;
use crate::storage::vfs::{RealDisk, Vfs};
use crate::time::Clock;
use crate::topology::value::{Table, Text};

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Section {
    /// `[source.x]`
    Source,
    /// `[operator.x]`
    Operator,
    /// `[table.x]`
    Table,
    /// `[sink.x]`
    Sink,
    /// `[trigger.x]`
    Trigger,
    /// `[flow.x]`
    Flow,
}

impl Section {
    /// The word in the file.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Section::Source => "source",
            Section::Operator => "operator",
            Section::Table => "table",
            Section::Sink => "sink",
            Section::Trigger => "trigger",
            Section::Flow => "flow",
        }
    }

    /// Every section that holds named nodes.
    pub const ALL: [Section; 6] =
        [Section::Source, Section::Operator, Section::Table, Section::Sink, Section::Trigger, Section::Flow];
}

/// A node's table: name, type and keys with their places.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Source, operator, sink …
    pub section: Section,
    /// The name after the dot.
    pub name: String,
    /// Where the name stands.
    pub name_span: Span,
    /// The word after `type =`; for a trigger or flow the section's word.
    pub kind: Text,
    /// All keys, `type` and `from` included; reads like `config.table.str("path")`.
    pub table: Table,
}

/// What build functions may use besides their node's own table.
#[derive(Clone)]
pub struct BuildContext {
    /// Compiles expressions against schemas.
    pub expressions: Arc<dyn Expressions>,
    /// The wall clock, for drivers and connectors.
    pub clock: Arc<dyn Clock>,
    /// The topology file as messages call it; empty if there is none.
    pub file: String,
    /// The folder of the topology file: relative paths start here.
    pub base_dir: PathBuf,
    /// Where the topology may keep durable state.
    pub data_dir: PathBuf,
    /// The disk that state is on.
    pub disk: Arc<dyn Vfs>,
    /// Name of the topology.
    pub topology: String,
    /// Bounded sources end at what is there now (`run --once`).
    pub once: bool,
    /// Recorded files that take the place of sources, by node name.
    pub replay: std::collections::BTreeMap<String, PathBuf>,
    /// Things that several parts use together, such as the one line to a device.
    pub shared: Arc<crate::shared::Shared>,
    /// Device points that may be written; empty without a daemon config.
    pub writes: Arc<Vec<crate::task::WriteRule>>,
    /// Most bytes that the state of an operator may take which does not say.
    pub state_max: Option<u64>,
    /// What nodes that can be built say beside.
    pub warnings: Arc<Mutex<Vec<Diagnostic>>>,
}

impl BuildContext {
    /// A node can be built, and something about it is not as one might think.
    pub fn warn(&self, warning: Diagnostic) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// The warnings so far; they are told once.
    #[must_use]
    pub fn take_warnings(&self) -> Vec<Diagnostic> {
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A context with the wall clock, without recorded sources or writable
    /// points.
    #[must_use]
    pub fn new(
        topology: &str,
        base_dir: PathBuf,
        data_dir: PathBuf,
        expressions: Arc<dyn Expressions>,
    ) -> Self {
        BuildContext {
            expressions,
            clock: Arc::new(crate::time::SystemClock),
            file: String::new(),
            base_dir,
            data_dir,
            disk: Arc::new(RealDisk),
            topology: topology.to_owned(),
            once: false,
            replay: std::collections::BTreeMap::new(),
            shared: Arc::default(),
            writes: Arc::default(),
            state_max: None,
            warnings: Arc::default(),
        }
    }

    /// `path` as the topology's author meant it.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.base_dir.join(Path::new(path))
    }
}
