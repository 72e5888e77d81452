//! Which files hold the state of an operator that reports its changes: a whole
//! state and the changes behind it. When the changes have grown as large as the
//! rest, all of it is put together into one. Pure but for the reading of files.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use arrow::array::RecordBatch;

use super::checkpoint::{Checkpoint, OperatorState};
use super::checkpoint_store::GENERATIONS;
use crate::operator::Compaction;

/// Changes are put together when they are as large as this at least.
const CHANGES_BYTES_MIN: u64 = 8 << 20;
/// Or so many.
const PARTS_MAX: usize = 64;

/// Where the states of all operators are.
pub(super) struct Chains {
    /// Changes are put together when they are as large as this at least.
    pub(super) changes_bytes_min: u64,
    operators: BTreeMap<String, Chain>,
    compactions: BTreeMap<String, Compaction>,
    /// Files that each of the last checkpoints of this process needs.
    generations: VecDeque<BTreeSet<u64>>,
}

/// Where the state of one operator is.
#[derive(Debug, Default)]
struct Chain {
    /// Epoch of each file and the bytes in it, oldest first.
    parts: Vec<(u64, u64)>,
    /// What belongs behind them and has not been written.
    carried: Vec<RecordBatch>,
}

impl Chain {
    /// Whether it has become long enough to be put together.
    fn is_long(&self, changes_bytes_min: u64) -> bool {
        let (whole, changes) =
            self.parts.split_first().map_or((0, &[][..]), |((_, whole), changes)| (*whole, changes));
        // On a disk that takes nothing, reports gather here.
        let carried = self.carried.iter().map(|batch| batch.get_array_memory_size() as u64);
        let changes: u64 = changes.iter().map(|(_, bytes)| *bytes).chain(carried).sum();
        changes >= whole.max(changes_bytes_min) || self.parts.len() >= PARTS_MAX
    }
}

impl Default for Chains {
    fn default() -> Chains {
        Chains {
            changes_bytes_min: CHANGES_BYTES_MIN,
            operators: BTreeMap::new(),
            compactions: BTreeMap::new(),
            generations: VecDeque::new(),
        }
    }
}

impl Chains {
    /// The checkpoint that the topology goes on from.
    pub(super) fn begin(&mut self, checkpoint: &Checkpoint) {
        // Their sizes are known again when they have been put together.
        let chain = |state: &OperatorState| Chain {
            parts: state.parts.iter().chain([&checkpoint.epoch]).map(|epoch| (*epoch, 0)).collect(),
            carried: Vec::new(),
        };
        self.operators =
            checkpoint.operators.iter().map(|(name, state)| (name.clone(), chain(state))).collect();
    }

    /// Operators that have taken that state; all others begin anew.
    pub(super) fn go_on(&mut self, restored: &BTreeSet<String>, compactions: BTreeMap<String, Compaction>) {
        self.operators.retain(|name, _| restored.contains(name));
        self.compactions = compactions;
    }

    /// Makes reports into states: changes get the files they belong behind, or
    /// are put together with them.
    pub(super) fn prepare(
        &mut self,
        checkpoint: &mut Checkpoint,
        read: impl Fn(u64) -> Result<Checkpoint, String>,
    ) {
        for (name, state) in checkpoint.operators.iter_mut().filter(|(_, state)| state.is_change) {
            let chain = self.operators.entry(name.clone()).or_default();
            let is_long = chain.is_long(self.changes_bytes_min);
            let mut batches = std::mem::take(&mut chain.carried);
            batches.append(&mut state.batches);
            state.batches = batches;
            state.parts = chain.parts.iter().map(|(epoch, _)| *epoch).collect();
            if !is_long {
                continue;
            }
            let Some(compaction) = self.compactions.get(name) else { continue };
            match together(name, state, compaction, &read) {
                Ok(batches) => {
                    state.batches = batches;
                    state.parts.clear();
                }
                // A longer chain does the same.
                Err(reason) => tracing::warn!("cannot put the state of `{name}` together: {reason}"),
            }
        }
    }

    /// A prepared checkpoint is durable, so many bytes for each operator.
    pub(super) fn written(&mut self, checkpoint: &Checkpoint, sizes: &BTreeMap<String, u64>) {
        let mut needed = BTreeSet::from([checkpoint.epoch]);
        for (name, state) in &checkpoint.operators {
            let chain = self.operators.entry(name.clone()).or_default();
            if state.parts.is_empty() {
                chain.parts.clear();
            }
            chain.carried.clear();
            chain.parts.push((checkpoint.epoch, sizes.get(name).copied().unwrap_or(0)));
            needed.extend(&state.parts);
        }
        self.generations.push_back(needed);
        if self.generations.len() > GENERATIONS {
            self.generations.pop_front();
        }
    }

    /// It is not: what it held goes with the next one.
    pub(super) fn failed(&mut self, checkpoint: Checkpoint) {
        for (name, state) in checkpoint.operators {
            let chain = self.operators.entry(name).or_default();
            if state.parts.is_empty() {
                chain.parts.clear();
            }
            chain.carried = state.batches;
        }
    }

    /// Files that are needed; `None` while those of an earlier process may be.
    pub(super) fn needed(&self) -> Option<BTreeSet<u64>> {
        (self.generations.len() == GENERATIONS).then(|| self.generations.iter().flatten().copied().collect())
    }
}

fn together(
    name: &str,
    state: &OperatorState,
    compaction: &Compaction,
    read: &impl Fn(u64) -> Result<Checkpoint, String>,
) -> Result<Vec<RecordBatch>, String> {
    let mut all = Vec::new();
    for part in &state.parts {
        let mut file = read(*part)?;
        let found = file.operators.remove(name);
        all.extend(found.ok_or_else(|| format!("epoch {part} does not hold it"))?.batches);
    }
    all.extend(state.batches.iter().cloned());
    compaction(&all).map_err(|error| error.0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    #[test]
    fn reports_that_no_disk_takes_do_not_add_up() {
        let state = || {
            let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100));
            vec![RecordBatch::try_from_iter([("n", column)]).expect("one column")]
        };
        // The newest report replaces all others.
        let newest: Compaction =
            Arc::new(|reports: &[RecordBatch]| Ok(reports.last().cloned().into_iter().collect()));
        let mut chains = Chains { changes_bytes_min: 4_000, ..Chains::default() };
        chains.go_on(&BTreeSet::new(), BTreeMap::from([("x".to_owned(), newest)]));
        let mut most = 0;
        for epoch in 1..500 {
            let report = OperatorState { is_change: true, batches: state(), ..OperatorState::default() };
            let operators = BTreeMap::from([("x".to_owned(), report)]);
            let mut checkpoint = Checkpoint { epoch, operators, ..Checkpoint::default() };
            chains.prepare(&mut checkpoint, |_| Err("nothing was written".into()));
            most = most.max(checkpoint.operators["x"].batches.len());
            chains.failed(checkpoint);
        }
        assert!((2..20).contains(&most), "{most} reports at once");
    }
}
