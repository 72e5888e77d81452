//! `parallelism = n`: an operator built several times, each copy for the rows
//! of its share of keys.

use crate::diagnostic::Diagnostic;
use crate::error::ConfigError;
use crate::operator::{Operator, OperatorPart};
use crate::topology::node::NodeConfig;

/// Most copies of an operator.
pub const COPIES_MAX: i64 = 256;

/// Builds a node as often as it says: the first, and the others.
pub(super) fn copies(
    node: &NodeConfig,
    build: impl Fn() -> Result<OperatorPart, ConfigError>,
) -> Result<(OperatorPart, Vec<Box<dyn Operator>>), ConfigError> {
    let part = build()?;
    let more = node.table.int_as::<usize>("parallelism").unwrap_or(1).saturating_sub(1);
    if more > 0 && part.operator.partition().is_none() {
        let message = format!("`{}` cannot run as several copies: it has no key to share rows by", node.name);
        let help = "give it a `key`, or leave `parallelism` to the operators that have one; those without state run beside what they read";
        return Err(Diagnostic::error("TG-T016", message)
            .at(node.table.span_of("parallelism"))
            .help(help)
            .into());
    }
    let others = (0..more).map(|_| Ok(build()?.operator)).collect::<Result<_, ConfigError>>()?;
    Ok((part, others))
}
