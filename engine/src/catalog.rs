//! The tables of everything a topology can name. Const slices, joined by the
//! daemon and passed as a value; there is no registry.

use crate::error::ConfigError;
use crate::operator::{Input, OperatorPart};
use crate::sink::SinkPart;
use crate::source::SourcePart;
use crate::table::TablePart;
use crate::task::{TaskPart, TaskScope};
use crate::topology::key::Key;
use crate::topology::node::{BuildContext, NodeConfig};
use crate::topology::value::Text;

/// A row of the catalog: what a `type = "…"` means.
pub struct Row<Build: 'static> {
    /// The word after `type =`.
    pub name: &'static str,
    /// One line for `tidegate list`.
    pub summary: &'static str,
    /// Its own keys, in tables that rows may share (`&[ROW_KEYS, KAFKA_KEYS]`);
    /// the keys that every node of the section has are added.
    pub keys: &'static [&'static [Key]],
    /// A whole small topology that uses it; a test builds each.
    pub example: &'static str,
    /// Makes the part. Must not connect, read secrets or start anything.
    pub build: Build,
}

/// Builds a source.
pub type BuildSource = fn(&NodeConfig, &BuildContext) -> Result<SourcePart, ConfigError>;
/// Builds an operator for these inputs.
pub type BuildOperator = fn(&NodeConfig, &BuildContext, &[Input]) -> Result<OperatorPart, ConfigError>;
/// Builds a sink for this input.
pub type BuildSink = fn(&NodeConfig, &BuildContext, &Input) -> Result<SinkPart, ConfigError>;
/// Builds a table; it may read files, and has inputs if it is made from streams.
pub type BuildTable = fn(&NodeConfig, &BuildContext, &[Input]) -> Result<TablePart, ConfigError>;
/// Tells the nodes and ports that a composed operator reads.
pub type TellReads = fn(&NodeConfig) -> Result<Vec<Text>, ConfigError>;
/// Builds the parts of a composed operator for these inputs.
pub type BuildParts = fn(&NodeConfig, &BuildContext, &[Input]) -> Result<Vec<InnerPart>, ConfigError>;
/// Builds a task of a flow.
pub type BuildTask = fn(&NodeConfig, &BuildContext, &TaskScope) -> Result<TaskPart, ConfigError>;

/// An operator that is made of others, such as a query.
pub struct Composed {
    /// The nodes and ports it reads, as its own table says it, with their places.
    pub reads: TellReads,
    /// Builds what it is made of for these inputs, each after those it reads.
    pub build: BuildParts,
}

/// One of the operators that a composed one is made of. They run like nodes of
/// the file, as `NODE.1`, `NODE.2` …; the last one is the node itself.
pub struct InnerPart {
    /// What it is, as a file could say it.
    pub config: NodeConfig,
    /// The keys of its type.
    pub keys: &'static [&'static [Key]],
    /// The operator.
    pub part: OperatorPart,
    /// What it reads.
    pub inputs: Vec<(Feed, Input)>,
}

/// Where an inner operator's rows come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// The composed operator's input with this index.
    Outside(usize),
    /// The main port of the inner operator with this index.
    Inside(usize),
}

/// Everything that can be named.
#[derive(Clone, Copy)]
pub struct Catalog {
    /// `[source.x] type = …`
    pub sources: &'static [&'static [Row<BuildSource>]],
    /// `[operator.x] type = …`
    pub operators: &'static [&'static [Row<BuildOperator>]],
    /// `[operator.x] type = …` that is made of others
    pub composed: &'static [&'static [Row<Composed>]],
    /// `[sink.x] type = …`
    pub sinks: &'static [&'static [Row<BuildSink>]],
    /// `[table.x] type = …`
    pub tables: &'static [&'static [Row<BuildTable>]],
    /// `[trigger.x]`: the operator that turns rows into firings.
    pub trigger: &'static Row<BuildOperator>,
    /// `[[flow.x.task]] type = …`
    pub tasks: &'static [&'static [Row<BuildTask>]],
}

/// The row with this name in joined tables.
#[must_use]
pub fn find<Build>(tables: &'static [&'static [Row<Build>]], name: &str) -> Option<&'static Row<Build>> {
    tables.iter().flat_map(|table| table.iter()).find(|row| row.name == name)
}

/// Every name in joined tables.
pub fn names<Build>(tables: &'static [&'static [Row<Build>]]) -> impl Iterator<Item = &'static str> {
    tables.iter().flat_map(|table| table.iter()).map(|row| row.name)
}
