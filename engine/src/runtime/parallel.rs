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
    // Files that held parts of what was shared do not belong to it any more.
    store.begin_with(checkpoint);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;
    use crate::partition::{Partition, columns_of};
    use crate::runtime::ledger::Report;
    use crate::testing::disk::SimDisk;

    /// Keeps nothing and is told what it had.
    struct Counts;

    impl Operator for Counts {
        fn on_batch(&mut self, _: usize, _: &RecordBatch, _: &mut Output) -> Result<Progress, OperatorError> {
            Ok(Progress::Done)
        }

        /// All of it to the first copy.
        fn partition(&self) -> Option<Partition> {
            let reshare = |states: &[Vec<RecordBatch>], copies: Copies| {
                let mut shared = vec![Vec::new(); copies.0];
                shared[0] = states.concat();
                Ok(shared)
            };
            Some(Partition { keys: vec![columns_of(vec![0])], reshare: Arc::new(reshare) })
        }
    }

    fn plan(copies: usize) -> Plan {
        let part = OperatorPart { operator: Box::new(Counts), ports: Vec::new() };
        let mut node = OperatorNode::new("w".into(), part, Vec::new(), Fingerprint::default());
        node.copies = (1..copies).map(|_| Box::new(Counts) as Box<dyn Operator>).collect();
        Plan {
            name: "test".into(),
            checkpoint_interval: Duration::from_secs(1),
            sources: Vec::new(),
            operators: vec![node],
            sinks: Vec::new(),
        }
    }

    fn batch(value: i64) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![value]));
        RecordBatch::try_from_iter([("n", column)]).expect("one column")
    }

    fn values(checkpoint: &Checkpoint, part: &str) -> Vec<RecordBatch> {
        checkpoint.operators[part].batches.clone()
    }

    /// Changes that are told after the sharing stand on what was shared, not on
    /// the files that held it before.
    #[test]
    fn changes_after_a_sharing_belong_to_it() {
        let disk = SimDisk::default();
        let store = || CheckpointStore::new(Arc::new(disk.plugged()), PathBuf::from("/checkpoints"));
        let write = |store: &CheckpointStore, epoch, reports: Vec<(&str, Report)>| {
            let reports = reports.into_iter().map(|(part, report)| (part.to_owned(), report)).collect();
            let checkpoint = Checkpoint::of(epoch, reports, &Default::default(), &Default::default());
            store.write(checkpoint).expect("a disk that takes it");
        };
        let first = store();
        let state = |value| Report::State(vec![batch(value)]);
        let change = |value| Report::Changes(vec![batch(value)]);
        write(&first, 1, vec![("w", Report::State(Vec::new())), ("w#0", state(1)), ("w#1", state(2))]);
        write(&first, 2, vec![("w", Report::State(Vec::new())), ("w#0", change(3)), ("w#1", change(4))]);

        let second = store();
        let (mut checkpoint, _) = second.read_newest().expect("whole").expect("there is one");
        reshare(&plan(3), &mut checkpoint, &second).expect("shares");
        assert_eq!(values(&checkpoint, "w#0"), [1, 3, 2, 4].map(batch));
        second.go_on(&["w#0".to_owned()].into(), Default::default());
        write(&second, 3, vec![("w#0", change(5)), ("w#1", state(6)), ("w#2", state(7))]);

        let third = store();
        let (mut checkpoint, _) = third.read_newest().expect("whole").expect("there is one");
        assert_eq!(values(&checkpoint, "w#0"), [1, 3, 2, 4, 5].map(batch));
        // The number is as it was: nothing is shared.
        let before = checkpoint.clone();
        reshare(&plan(3), &mut checkpoint, &third).expect("nothing to do");
        assert_eq!(checkpoint, before);
    }

    #[test]
    fn names_of_copies_are_read_back() {
        assert_eq!((node_of("w#12"), node_of("w"), node_of("q.2#split0")), ("w", "w", "q.2"));
        assert!(holds_state_of("w#1", "w") && holds_state_of("w", "w"));
        assert!(!holds_state_of("w#split0", "w") && !holds_state_of("w2", "w"));
    }
}
