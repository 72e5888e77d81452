//! A checked topology: every part built, every edge known, nothing started.

use std::time::Duration;

use crate::operator::{Operator, OperatorPart};
use crate::sink::SinkPart;
use crate::source::SourcePart;
use crate::topology::delivery::{Queue, RetryPolicy};
use crate::topology::fingerprint::Fingerprint;

/// Everything the runtime needs to start a topology.
pub struct Plan {
    /// The topology's name.
    pub name: String,
    /// Time between two checkpoints.
    pub checkpoint_interval: Duration,
    /// Where rows come in.
    pub sources: Vec<SourceNode>,
    /// Operators, each after those it reads.
    pub operators: Vec<OperatorNode>,
    /// Where rows go out.
    pub sinks: Vec<SinkNode>,
}

/// An output stream of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRef {
    /// The node.
    pub node: String,
    /// Index of the port; 0 is the main port. A source's port 1 is `rejects`.
    pub port: usize,
}

/// A source of a plan.
pub struct SourceNode {
    /// The node's name.
    pub name: String,
    /// The source.
    pub part: SourcePart,
    /// Columns that name a row, so that one that is sent again is known.
    pub unique: Vec<usize>,
    /// Which outside its position belongs to.
    pub fingerprint: Fingerprint,
}

/// An operator of a plan.
pub struct OperatorNode {
    /// The node's name.
    pub name: String,
    /// The operator.
    pub part: OperatorPart,
    /// More of it, each for the rows of its share of keys.
    pub copies: Vec<Box<dyn Operator>>,
    /// Most bytes of state that all of it may take.
    pub state_max: Option<u64>,
    /// What it reads, in the order of `from`.
    pub inputs: Vec<PortRef>,
    /// What its state depends on: one written by another configuration is refused.
    pub fingerprint: Fingerprint,
}

impl OperatorNode {
    /// One operator, without copies and limits.
    #[must_use]
    pub fn new(
        name: String,
        part: OperatorPart,
        inputs: Vec<PortRef>,
        fingerprint: Fingerprint,
    ) -> OperatorNode {
        OperatorNode { name, part, copies: Vec::new(), state_max: None, inputs, fingerprint }
    }
}

/// A sink of a plan.
pub struct SinkNode {
    /// The node's name.
    pub name: String,
    /// The sink.
    pub part: SinkPart,
    /// The queue in front of it.
    pub queue: Option<Queue>,
    /// How its peer is tried again.
    pub retry: RetryPolicy,
    /// What it reads.
    pub input: PortRef,
    /// Which outside the rows belong to that wait for it.
    pub fingerprint: Fingerprint,
}
