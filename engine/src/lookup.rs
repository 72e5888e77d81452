//! The contract of a look-up: each row of a stream gets what an outside system
//! knows of it. Whoever implements it only asks; cache, order, limits, time-outs
//! and attempts are the runtime's.

mod settings;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;

use crate::error::{OperatorError, RejectedRow};
use crate::expression::Expression;
use crate::operator::{Operator, Output, Progress};
use crate::schema::StreamSchema;

pub use settings::{LOOKUP_KEYS, OnError, Order, Settings, build};

/// Asks an outside system.
#[async_trait]
pub trait Lookup: Send + Sync {
    /// Most keys of one request.
    fn keys_max(&self) -> usize {
        1
    }

    /// Most requests that it works on at a time: what would wait for others inside
    /// of it is not asked yet, so that waiting is no time-out.
    fn at_once(&self) -> usize {
        usize::MAX
    }

    /// What is known of these keys, no two of which are equal and none of which
    /// has a NULL. May be given up while it waits, and asked again.
    ///
    /// # Errors
    /// No answer to any of them.
    async fn fetch(&self, keys: &RecordBatch) -> Result<Answers, LookupError>;
}

/// What an outside system knows.
#[derive(Debug)]
pub struct Answers {
    /// Rows with the columns of `LookupPart::columns`.
    pub rows: RecordBatch,
    /// The key that each row belongs to, in growing order. A key without rows is
    /// one that nothing is known of.
    pub of: Vec<usize>,
    /// Keys whose answer cannot be used, and why.
    pub refused: Vec<RejectedRow>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// Another attempt may have one.
    #[error("{0}")]
    Later(String),
    /// No attempt will.
    #[error("{0}")]
    Never(String),
}

/// A look-up, built and not yet asked.
pub struct LookupPart {
    /// Whom to ask.
    pub lookup: Arc<dyn Lookup>,
    /// What makes the keys of a row.
    pub keys: Vec<Arc<dyn Expression>>,
    /// The columns of the answers.
    pub columns: SchemaRef,
}

/// All that the runtime needs to look rows up.
pub struct LookupPlan {
    /// The node.
    pub node: String,
    /// Whom and what to ask.
    pub part: LookupPart,
    /// The columns of keys.
    pub keys: SchemaRef,
    /// Rows that come in.
    pub input: StreamSchema,
    /// Rows that leave: those columns, then those of the answers.
    pub output: StreamSchema,
    /// How.
    pub settings: Settings,
}

/// Stands in a plan where rows are looked up: the runtime takes the plan out and
/// does the work, since an operator cannot wait.
struct Waits(Option<LookupPlan>);

impl Operator for Waits {
    fn on_batch(&mut self, _: usize, _: &RecordBatch, _: &mut Output) -> Result<Progress, OperatorError> {
        Err(OperatorError::new("a look-up waits for others, which this runtime does not do for it"))
    }

    fn lookup(&mut self) -> Option<LookupPlan> {
        self.0.take()
    }
}
