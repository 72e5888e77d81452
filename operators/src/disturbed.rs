//! For tests: an operator that is reported, put together, killed and restored
//! between any two batches, as checkpoints do it.

use arrow::array::RecordBatch;
use proptest::prelude::*;
use tidegate_engine::operator::Operator;

/// What happens behind a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Then {
    Nothing,
    Report,
    /// The checkpoint puts changes together.
    Together,
    /// The process dies: the last report is restored, batches behind it come again.
    Crash,
}

pub(crate) fn then() -> impl Strategy<Value = Then> {
    prop_oneof![
        3 => Just(Then::Nothing),
        4 => Just(Then::Report),
        1 => Just(Then::Together),
        1 => Just(Then::Crash),
    ]
}

/// Feeds the batch of each step; answers the operator, what has left it, in
/// order, and how many reports were changes.
pub(crate) fn disturbed<O: Operator>(
    new: impl Fn() -> O,
    steps: impl Iterator<Item = Then>,
    mut feed: impl FnMut(&mut O, usize) -> Vec<String>,
) -> (O, Vec<String>, usize) {
    let mut steps: Vec<Then> = steps.collect();
    let (mut operator, mut left) = (new(), Vec::new());
    // The last report as a checkpoint keeps it, the step behind it, what had left.
    let (mut chain, mut next, mut had_left) = (Vec::<RecordBatch>::new(), 0, 0);
    let (mut changes, mut index) = (0, 0);
    while let Some(then) = steps.get(index).copied() {
        left.extend(feed(&mut operator, index));
        match then {
            Then::Crash => {
                // Once is enough.
                steps[index] = Then::Nothing;
                operator = new();
                operator.restore(chain.clone()).expect("restores");
                left.truncate(had_left);
                index = next;
                continue;
            }
            Then::Report | Then::Together => {
                match operator.changes().expect("reports") {
                    Some(more) => {
                        changes += 1;
                        chain.extend(more);
                    }
                    None => chain = operator.snapshot().expect("snapshots"),
                }
                if then == Then::Together && !chain.is_empty() {
                    chain = operator.compaction().expect("has one")(&chain).expect("goes together");
                }
                (next, had_left) = (index + 1, left.len());
            }
            Then::Nothing => {}
        }
        index += 1;
    }
    (operator, left, changes)
}
