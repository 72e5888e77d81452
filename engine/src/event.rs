//! What travels on an edge. Matched without a wildcard, so that a new kind of
//! event stops the build wherever nobody thought of it.

use arrow::array::RecordBatch;

use crate::time::Time;

/// One thing on an edge between two parts of a topology.
#[derive(Clone, Debug)]
pub enum Event {
    /// Rows, with the schema of the edge.
    Batch(RecordBatch),
    /// A promise about the rows that are still to come.
    Watermark(Watermark),
    /// The cut between two epochs.
    Barrier(Barrier),
    /// No more events will come on this edge.
    End,
}

/// How far event time has come on an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watermark {
    /// No more rows with an event time earlier than this one.
    Time(Time),
    /// This input is silent and must not hold others back; it promises nothing
    /// new, and what it promised before still stands.
    Idle,
}

/// A mark between the rows of one epoch and those of the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Barrier {
    /// The epoch that ends here. Epochs only grow.
    pub epoch: u64,
    /// The sender stops after this barrier: a stop with a checkpoint.
    pub then_stop: bool,
    /// Sinks flush and sources acknowledge, but operators keep their state to
    /// themselves: between two checkpoints, for peers that stop sending while
    /// acknowledgements are missing.
    pub light: bool,
}
