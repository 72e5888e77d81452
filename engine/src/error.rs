//! Errors that say what the runtime does next. There is no conversion from
//! `io::Error`: whoever meets one decides which reaction it asks for.

use std::fmt;

use crate::diagnostic::{Diagnostic, Severity};
use crate::time::Time;

/// The topology is wrong: nothing starts, exit 78.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConfigError(pub Vec<Diagnostic>);

impl ConfigError {
    /// Whether one of the messages forbids a start.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        self.0.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }
}

impl From<Diagnostic> for ConfigError {
    fn from(diagnostic: Diagnostic) -> ConfigError {
        ConfigError(vec![diagnostic])
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "; " };
            write!(out, "{comma}{}: {}", diagnostic.code, diagnostic.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// An operator cannot go on: its topology fails, naming the node. A bad *row*
/// is no error, it leaves by the port `rejects`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OperatorError(pub String);

impl OperatorError {
    /// An error with this message.
    #[must_use]
    pub fn new(message: impl fmt::Display) -> OperatorError {
        OperatorError(message.to_string())
    }
}

impl From<arrow::error::ArrowError> for OperatorError {
    fn from(error: arrow::error::ArrowError) -> OperatorError {
        OperatorError(error.to_string())
    }
}

/// What a source or sink met.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectorError {
    /// The peer is away: back off and reopen at the last position.
    #[error("{0}")]
    Lost(String),
    /// These rows of the batch were refused for good: count them, hand them to
    /// the dead letters, go on.
    #[error("{} rows refused: {}", .0.len(), .0.first().map_or("", |row| row.reason.as_str()))]
    Rejected(Vec<RejectedRow>),
    /// It will not get better by itself: the topology fails, naming the node.
    #[error("{0}")]
    Fatal(String),
}

/// A row that a sink refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRow {
    /// Index in the batch that was written.
    pub row: usize,
    /// Why.
    pub reason: String,
}

/// How an attempt of a flow's task failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// May work later: retried as the task says.
    #[error("{message}")]
    Retry {
        /// Class that `retry.on` and `retry.never` name: `network`, `timeout`, `5xx`, `429`, `rejected` …
        class: &'static str,
        /// What happened.
        message: String,
        /// The peer's own wish when to come back (`Retry-After`).
        not_before: Option<Time>,
    },
    /// Will not work however often it is tried.
    #[error("{0}")]
    Fatal(String),
    /// An effect that may have happened: never repeated blindly.
    #[error("{0}")]
    Unknown(String),
}

impl TaskError {
    /// A failure of this class that may pass.
    #[must_use]
    pub fn retry(class: &'static str, message: impl fmt::Display) -> TaskError {
        TaskError::Retry { class, message: message.to_string(), not_before: None }
    }
}
