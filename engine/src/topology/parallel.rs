//! `parallelism = n`: an operator built several times, each copy for the rows
//! of its share of keys.

use crate::catalog::InnerPart;
use crate::diagnostic::Diagnostic;
use crate::error::ConfigError;
use crate::operator::{Operator, OperatorPart};
use crate::topology::node::NodeConfig;

/// Most copies of an operator.
pub const COPIES_MAX: i64 = 256;

/// What is built first, and the other operators of each of its parts.
type Built<T, C> = Result<(T, C), ConfigError>;

/// Builds a node as often as it says: the first, and the others.
pub(super) fn copies(
    node: &NodeConfig,
    build: impl Fn() -> Result<OperatorPart, ConfigError>,
) -> Built<OperatorPart, Vec<Box<dyn Operator>>> {
    let part = build()?;
    let more = more(node);
    if more > 0 && part.operator.partition().is_none() {
        return Err(no_key(node).into());
    }
    let others = (0..more).map(|_| Ok(build()?.operator)).collect::<Result<_, ConfigError>>()?;
    Ok((part, others))
}

/// The same for a node that is made of others: those of its parts that have a
/// key are copied.
pub(super) fn composed_copies(
    node: &NodeConfig,
    build: impl Fn() -> Result<Vec<InnerPart>, ConfigError>,
) -> Built<Vec<InnerPart>, Vec<Vec<Box<dyn Operator>>>> {
    let parts = build()?;
    let more = more(node);
    let has_key: Vec<bool> = parts.iter().map(|inner| inner.part.operator.partition().is_some()).collect();
    if more > 0 && !has_key.contains(&true) {
        return Err(no_key(node).into());
    }
    let mut copies: Vec<Vec<Box<dyn Operator>>> = parts.iter().map(|_| Vec::new()).collect();
    for _ in 0..more {
        let again = build()?.into_iter().map(|inner| inner.part.operator);
        for ((operator, has_key), copies) in again.zip(&has_key).zip(&mut copies) {
            if *has_key {
                copies.push(operator);
            }
        }
    }
    Ok((parts, copies))
}

/// Copies beside the first one.
fn more(node: &NodeConfig) -> usize {
    node.table.int_as::<usize>("parallelism").unwrap_or(1).saturating_sub(1)
}

fn no_key(node: &NodeConfig) -> Diagnostic {
    let message = format!("`{}` cannot run as several copies: it has no key to share rows by", node.name);
    let help = "give it a `key`, or leave `parallelism` to the operators that have one; those without state run beside what they read";
    Diagnostic::error("TG-T016", message).at(node.table.span_of("parallelism")).help(help)
}
