//! An operator with copies, as it runs: each input is split by the key of its
//! rows, each copy has a segment of its own, and what leaves them is one stream
//! again. Readers, checkpoints' diffs and people see one node.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;

use super::checkpoint::{Checkpoint, OperatorState};
use super::checkpoint_store::CheckpointStore;
use super::job::JobError;
use crate::error::OperatorError;
use crate::operator::{Operator, OperatorPart, Output, Port, Progress};
use crate::partition::{Copies, KeyOf};
use crate::topology::fingerprint::Fingerprint;
use crate::topology::plan::{OperatorNode, Plan, PortRef};

/// Between a node's name and the number of a copy; no name has it.
const MARK: char = '#';

/// An operator of a plan, or a part of one.
pub(super) struct Running {
    pub(super) node: OperatorNode,
    pub(super) role: Role,
}

/// What a part is to its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// All of it.
    Whole,
    /// One of its copies.
    Copy,
    /// Splits or merges its rows, which are counted at the copies.
    Joint,
}

/// The node that a part of this name is of.
pub(super) fn node_of(part: &str) -> &str {
    part.split_once(MARK).map_or(part, |(node, _)| node)
}

/// Whether a part of this name is the node or one of its copies.
fn holds_state_of(part: &str, node: &str) -> bool {
    let number = |number: &str| number.chars().all(|digit| digit.is_ascii_digit());
    match part.split_once(MARK) {
        None => part == node,
        Some((of, copy)) => of == node && number(copy),
    }
}

fn copy_name(node: &str, index: usize) -> String {
    format!("{node}{MARK}{index}")
}

/// Operators as they run, each after those it reads.
pub(super) fn expand(operators: Vec<OperatorNode>) -> Vec<Running> {
    let mut running = Vec::new();
    for node in operators {
        match node.part.operator.partition() {
            Some(partition) if !node.copies.is_empty() => running.extend(parts(node, &partition.keys)),
            Some(_) | None => running.push(Running { node, role: Role::Whole }),
        }
    }
    running
}

fn parts(node: OperatorNode, keys: &[KeyOf]) -> Vec<Running> {
    let OperatorNode { name, part: OperatorPart { operator, ports }, copies, state_max, inputs, fingerprint } =
        node;
    let all: Vec<Box<dyn Operator>> = std::iter::once(operator).chain(copies).collect();
    let count = Copies(all.len());
    let mut running = Vec::new();
    let joint = |name: String, operator: Box<dyn Operator>, ports: Vec<Port>, inputs: Vec<PortRef>| {
        let part = OperatorPart { operator, ports };
        let node = OperatorNode::new(name, part, inputs, Fingerprint::default());
        Running { node, role: Role::Joint }
    };
    let split_name = |input: usize| format!("{name}{MARK}split{input}");
    for (input, (port, key)) in inputs.into_iter().zip(keys).enumerate() {
        // Nobody asks what streams they are.
        let ports = ports.first().map(|port| vec![port.clone(); count.0]).unwrap_or_default();
        let split = Split { key: Arc::clone(key), copies: count };
        running.push(joint(split_name(input), Box::new(split), ports, vec![port]));
    }
    for (index, operator) in all.into_iter().enumerate() {
        let inputs = (0..keys.len()).map(|input| PortRef { node: split_name(input), port: index });
        let node = OperatorNode {
            name: copy_name(&name, index),
            part: OperatorPart { operator, ports: ports.clone() },
            copies: Vec::new(),
            state_max,
            inputs: inputs.collect(),
            fingerprint: fingerprint.clone(),
        };
        running.push(Running { node, role: Role::Copy });
    }
    let inputs = (0..count.0).flat_map(|index| {
        let node = copy_name(&name, index);
        (0..ports.len()).map(move |port| PortRef { node: node.clone(), port })
    });
    let inputs = inputs.collect();
    running.push(joint(name.clone(), Box::new(Merge { ports: ports.len() }), ports, inputs));
    running
}

/// Gives each copy the rows of its keys, in order.
struct Split {
    key: KeyOf,
    copies: Copies,
}

impl Split {
    /// Which copy each row goes to. A row whose key cannot be computed goes to
    /// the first, which will say so.
    fn places(&self, batch: &RecordBatch) -> Result<Vec<usize>, OperatorError> {
        let rows = batch.num_rows();
        match (self.key)(batch) {
            Ok(keys) => self.copies.of(&keys, rows),
            Err(_) if rows <= 1 => Ok(vec![0; rows]),
            Err(_) => {
                let half = rows / 2;
                let mut places = self.places(&batch.slice(0, half))?;
                places.extend(self.places(&batch.slice(half, rows - half))?);
                Ok(places)
            }
        }
    }
}

impl Operator for Split {
    fn on_batch(
        &mut self,
        _input: usize,
        batch: &RecordBatch,
        out: &mut Output,
    ) -> Result<Progress, OperatorError> {
        let mut shares: Vec<Vec<u32>> = vec![Vec::new(); self.copies.0];
        for (row, place) in (0..).zip(self.places(batch)?) {
            if let Some(share) = shares.get_mut(place) {
                share.push(row);
            }
        }
        for (copy, share) in shares.into_iter().enumerate() {
            match share.len() {
                0 => {}
                all if all == batch.num_rows() => out.emit_to(copy, batch.clone()),
                _ => out.emit_to(copy, take_record_batch(batch, &UInt32Array::from(share))?),
            }
        }
        Ok(Progress::Done)
    }
}

/// What the copies give on each of their ports becomes one stream.
struct Merge {
    ports: usize,
}

impl Operator for Merge {
    fn on_batch(
        &mut self,
        input: usize,
        batch: &RecordBatch,
        out: &mut Output,
    ) -> Result<Progress, OperatorError> {
        out.emit_to(input % self.ports.max(1), batch.clone());
        Ok(Progress::Done)
    }
}

/// Shares saved state anew where the number of copies is not what it was, and
/// makes that durable before anything starts.
///
/// # Errors
/// A state cannot be shared, or the disk does not take it.
pub(super) fn reshare(
    plan: &Plan,
    checkpoint: &mut Checkpoint,
    store: &CheckpointStore,
) -> Result<(), JobError> {
    let mut changed = BTreeSet::new();
    for node in &plan.operators {
        let count = node.copies.len() + 1;
        let names: Vec<String> = match count {
            1 => vec![node.name.clone()],
            _ => (0..count).map(|index| copy_name(&node.name, index)).collect(),
        };
        let saved: Vec<String> =
            checkpoint.operators.keys().filter(|name| holds_state_of(name, &node.name)).cloned().collect();
        // Beside its copies a node has an entry without state.
        let before = saved.iter().filter(|name| name.contains(MARK)).count().max(1);
        if saved.is_empty() || before == count {
            continue;
        }
        let failed = |error: &dyn std::fmt::Display| {
            JobError::State(format!(
                "cannot share the state of `{}` among {count} copies: {error}; `--reset-state {}` throws it away",
                node.name, node.name
            ))
        };
        let Some(partition) = node.part.operator.partition() else {
            return Err(failed(&"it has no key to share it by"));
        };
        let compaction = node.part.operator.compaction();
        let mut fingerprint = String::new();
        let mut states = Vec::new();
        for name in &saved {
            let Some(state) = checkpoint.operators.remove(name) else { continue };
            if state.batches.is_empty() {
                continue;
            }
            fingerprint = state.fingerprint;
            states.push(match &compaction {
                Some(compaction) => compaction(&state.batches).map_err(|error| failed(&error))?,
                None => state.batches,
            });
        }
        if states.is_empty() {
            continue;
        }
        let shared = (partition.reshare)(&states, Copies(count)).map_err(|error| failed(&error))?;
        checkpoint.operators.retain(|name, _| node_of(name) != node.name);
        for (name, batches) in names.into_iter().zip(shared) {
            let fingerprint = fingerprint.clone();
            checkpoint
                .operators
                .insert(name, OperatorState { fingerprint, batches, ..OperatorState::default() });
        }
        tracing::info!(node = %node.name, "the state of {before} copies is shared among {count}");
        changed.insert(node.name.clone());
    }
    if changed.is_empty() {
        return Ok(());
    }
    store.amend(checkpoint.epoch, |saved| {
        saved.operators.retain(|name, _| !changed.contains(node_of(name)));
        let shared = checkpoint.operators.iter().filter(|(name, _)| changed.contains(node_of(name)));
        saved.operators.extend(shared.map(|(name, state)| (name.clone(), state.clone())));
    })?;
    Ok(())
}
