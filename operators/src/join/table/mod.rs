//! `join` of a stream with a table: each row leaves with the rows of the table
//! that belong to it, as the table is when the row comes. The table is state of
//! the operator and changes at a barrier, so a replay from a checkpoint sees the
//! version that the checkpoint holds.

mod index;
mod operator;
mod probe;
mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, OperatorError, RejectedRow};
use tidegate_engine::expression::Expression;
use tidegate_engine::operator::{Input, OperatorPart, Port};
use tidegate_engine::schema::{StreamSchema, rejects_schema};
use tidegate_engine::topology::node::NodeConfig;

use super::bound::{Both, Side};
use super::keys::{hashes, is_exact};
use super::on;
use crate::narrow::narrow;
use crate::part::rows_that_stand;
use operator::TableJoin;

/// Rows, or pairs of them, on which `on` fails.
const REJECTS_PORT: usize = 1;

pub(super) fn build(config: &NodeConfig, inputs: &Both<&Input>) -> Result<OperatorPart, ConfigError> {
    check(config, inputs)?;
    rows_that_stand(config, inputs.left)?;
    let text = config.table.text("on").ok_or_else(ConfigError::default)?;
    let condition = on::compile(text, inputs)?;
    let is_outer = config.table.str("kind") == Some("left");
    let output = output(config, inputs, is_outer)?;
    let types: Vec<_> = condition.keys.left.iter().map(|key| key.data_type().clone()).collect();
    let shape = Shape {
        name: config.name.clone(),
        stream: inputs.left.stream.clone(),
        table: inputs.right.stream.clone(),
        is_exact: is_exact(&types),
        keys: condition.keys,
        residual: condition.residual,
        is_outer,
        pair: pair(inputs),
        output: output.clone(),
    };
    let port = |name: &str, stream| Port { name: name.into(), stream };
    let ports = vec![port("", output), port("rejects", rejects_schema())];
    Ok(OperatorPart { operator: Box::new(TableJoin::new(Arc::new(shape))), ports })
}

/// What a table cannot be in a join.
fn check(config: &NodeConfig, inputs: &Both<&Input>) -> Result<(), Diagnostic> {
    let (left, right) = (inputs.left, inputs.right);
    let wrong = |message: String, key: &str, help: String| {
        Err(Diagnostic::error("TG-T014", message).at(config.table.span_of(key)).help(help))
    };
    if left.stream.is_table() {
        let message = format!("`{}` has the table `{}` on its left", config.name, left.name);
        let help = match right.stream.is_table() {
            true => "join one of them with a stream; a query of a flow joins tables".to_owned(),
            false => format!("write the stream first: from = [\"{}\", \"{}\"]", right.name, left.name),
        };
        return wrong(message, "from", help);
    }
    let kind = config.table.str("kind").unwrap_or("inner");
    if matches!(kind, "right" | "full") {
        let message = format!(
            "`{}` would give rows of the table `{}` without a partner, but a partner may come at any time",
            config.name, right.name
        );
        return wrong(message, "kind", "a join with a table is \"inner\" or \"left\"".into());
    }
    if config.table.get("match").is_some() {
        let message = format!("rows of the table `{}` have no event time to match by", right.name);
        return wrong(message, "match", "leave `match` out: a row is joined with the table as it is".into());
    }
    Ok(())
}

/// The columns of the stream, then those of the table. A name that both have
/// gets that of its node before it.
fn output(config: &NodeConfig, inputs: &Both<&Input>, is_outer: bool) -> Result<StreamSchema, Diagnostic> {
    let mut fields: Vec<Field> = Vec::new();
    for side in Side::BOTH {
        let (input, other) = (inputs.of(side), inputs.of(side.other()));
        for field in input.stream.columns.fields() {
            let is_taken = other.stream.columns.column_with_name(field.name()).is_some();
            let name = match is_taken {
                true => format!("{}_{}", input.name.replace('.', "_"), field.name()),
                false => field.name().clone(),
            };
            if fields.iter().any(|known| *known.name() == name) {
                let message = format!("two columns of `{}` are called `{name}`", config.name);
                let help = "give one of them another name with an operator of type `project`";
                let diagnostic = Diagnostic::error("TG-T009", message);
                return Err(diagnostic.at(config.table.span_of("from")).help(help));
            }
            let is_nullable = field.is_nullable() || is_outer && matches!(side, Side::Right);
            fields.push(field.as_ref().clone().with_name(name).with_nullable(is_nullable));
        }
    }
    Ok(StreamSchema { columns: Arc::new(Schema::new(fields)), ..inputs.left.stream.clone() })
}

fn pair(inputs: &Both<&Input>) -> SchemaRef {
    let fields = Side::BOTH.map(|side| inputs.of(side).stream.columns.fields().iter().cloned());
    Arc::new(Schema::new(fields.into_iter().flatten().collect::<Vec<_>>()))
}

/// What the join knows before any row comes.
struct Shape {
    name: String,
    stream: StreamSchema,
    table: StreamSchema,
    /// Expressions over each side whose values must be equal.
    keys: Both<Vec<Arc<dyn Expression>>>,
    /// Whether equal hashes mean equal keys.
    is_exact: bool,
    /// What else must be true, over the columns of both.
    residual: Option<Arc<dyn Expression>>,
    /// Whether rows of the stream leave without a partner too.
    is_outer: bool,
    /// Columns of both.
    pair: SchemaRef,
    output: StreamSchema,
}

/// Rows with what was computed of them.
struct Keyed {
    batch: RecordBatch,
    keys: Vec<ArrayRef>,
    hashes: Vec<u64>,
}

impl Keyed {
    /// Whether a row can have a partner: no key is NULL.
    fn has_key(&self, row: usize) -> bool {
        self.keys.iter().all(|key| key.is_valid(row))
    }
}

impl Shape {
    /// The keys of each row of a side, in as few pieces as possible, and the
    /// rows on which one of them fails.
    fn keyed(
        &self,
        side: Side,
        batch: &RecordBatch,
    ) -> Result<(Vec<Keyed>, Vec<RejectedRow>), OperatorError> {
        let mut pieces = Vec::new();
        let mut work = |piece: &RecordBatch| {
            let keys = self.keys.of(side).iter().map(|key| key.evaluate(piece));
            Ok((piece.clone(), keys.collect::<Result<Vec<_>, OperatorError>>()?))
        };
        let bad = narrow(batch, &mut work, &mut |piece| pieces.push(piece));
        let keyed = pieces.into_iter().map(|(batch, keys)| {
            let hashes = hashes(&keys, self.is_exact, batch.num_rows())?;
            Ok(Keyed { batch, keys, hashes })
        });
        Ok((keyed.collect::<Result<_, OperatorError>>()?, bad))
    }
}
