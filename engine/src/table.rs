//! The contract of a table: reference rows that the queries of flows name, and
//! that streams are joined with.

mod feed;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::operator::Operator;
use crate::sink::SinkPart;

pub use feed::{TableFeed, as_version, version_of};

/// Rows that stand beside the streams. Each look gives them as they are now.
pub trait ReferenceTable: Send + Sync + fmt::Debug {
    /// All rows, with the columns of `TablePart::columns`. May read a file or
    /// ask a server: called only where waiting is allowed.
    ///
    /// # Errors
    /// A sentence naming the file and, where one is to blame, its line.
    fn rows(&self) -> Result<Vec<RecordBatch>, String>;

    /// How often it is looked at for a change, where streams can be joined with
    /// it; `None`: only queries read it.
    fn reload_every(&self) -> Option<Duration> {
        None
    }

    /// What is another one when the rows may be others, and costs little to ask;
    /// `None` where only reading tells. May wait, as `rows`.
    fn stamp(&self) -> Option<String> {
        None
    }
}

/// A table, built and checked.
pub struct TablePart {
    /// The table.
    pub table: Arc<dyn ReferenceTable>,
    /// Its columns.
    pub columns: SchemaRef,
    /// The operator that keeps the table, where it is made from a stream. It
    /// gives no rows, and its state is what the table holds.
    pub recorder: Option<Box<dyn Operator>>,
    /// What writes the rows of a stream where the table reads them.
    pub sink: Option<SinkPart>,
}

/// A table under the name that queries give it.
#[derive(Clone, Debug)]
pub struct NamedTable {
    /// The word after `table.`.
    pub name: String,
    /// Its columns.
    pub columns: SchemaRef,
    /// The table.
    pub table: Arc<dyn ReferenceTable>,
}
