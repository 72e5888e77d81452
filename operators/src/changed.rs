//! `changed`: a row goes on when it differs from the row of its key before it,
//! in the columns that are watched. The first row of a key goes on.

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema};
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, OperatorError};
use tidegate_engine::operator::{Input, OperatorPart, Output};
use tidegate_engine::topology::key::{Key, Kind, optional};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::in_order::{
    FORGET, InOrder, KEY, Kept, Ordered, PerKey, Rows, check_kept, key_columns, places, ports, shape,
};
use crate::part::{named_columns, only_input, require_time};

const KEYS: &[Key] = &[
    KEY,
    optional(
        "columns",
        Kind::List(&Kind::Text),
        "columns that are watched; all but the key and event time if left out",
    ),
    FORGET,
];

pub(crate) const ROW: Row<BuildOperator> = Row {
    name: "changed",
    summary: "lets a row through when it differs from the one of its key before it",
    keys: &[KEYS],
    example: r#"[operator.transitions]
type    = "changed"
from    = "rows"
key     = ["device"]
columns = ["quality"]
"#,
    build,
};

fn build(
    config: &NodeConfig,
    _context: &BuildContext,
    inputs: &[Input],
) -> Result<OperatorPart, ConfigError> {
    let input = only_input(config, inputs)?;
    let time = require_time(config, input)?;
    let mut diagnostics = Vec::new();
    let keys = key_columns(config, input, &mut diagnostics);
    let watched = if config.table.get("columns").is_some() {
        named_columns(config, "columns", &input.stream, &mut diagnostics)
    } else {
        let all = 0..input.stream.columns.fields().len();
        all.filter(|index| *index != time && !keys.contains(index)).collect()
    };
    check_kept(config, "columns", input, &watched, &mut diagnostics);
    if watched.is_empty() && diagnostics.is_empty() {
        let message = format!("`{}` watches no column", config.name);
        diagnostics.push(
            Diagnostic::error("TG-C006", message)
                .at(config.name_span.clone())
                .help("name some with `columns`; key and event time are not watched by themselves"),
        );
    }
    if !diagnostics.is_empty() {
        return Err(ConfigError(diagnostics));
    }
    let kept = Kept::new(&input.stream.columns, watched)
        .map_err(|error| Diagnostic::error("TG-X003", error.0).at(config.name_span.clone()))?;
    let operator = InOrder::new(config, input, keys, Changed { kept, last: PerKey::default() })?;
    Ok(OperatorPart { operator: Box::new(operator), ports: ports(input.stream.clone(), &input.stream) })
}

struct Changed {
    kept: Kept,
    /// What is watched of the last row, by key.
    last: PerKey<Option<Box<[u8]>>>,
}

impl Ordered for Changed {
    fn on_rows(&mut self, rows: &Rows<'_>, out: &mut Output) -> Result<(), OperatorError> {
        let watched = self.kept.encode(rows.batch)?;
        let mut mask = Vec::with_capacity(rows.keys.len());
        for (values, key) in watched.iter().zip(rows.keys) {
            let Some(last) = self.last.of(*key) else { continue };
            let is_changed = last.as_deref() != Some(values.data());
            if is_changed {
                *last = Some(values.data().into());
            }
            mask.push(is_changed);
        }
        out.emit(filter_record_batch(rows.batch, &BooleanArray::from(mask))?);
        Ok(())
    }

    fn reads(&self) -> Option<Vec<usize>> {
        Some(self.kept.columns().to_vec())
    }

    fn forget(&mut self, key: u32, _out: &mut Output) -> Result<(), OperatorError> {
        self.last.forget(key);
        Ok(())
    }

    fn save(&mut self, keys: &[u32]) -> Result<Vec<RecordBatch>, OperatorError> {
        let last = keys.iter().map(|key| self.last.get(*key)?.as_deref());
        let mut columns = vec![places(keys)];
        columns.extend(self.kept.decode(last)?);
        let mut fields = vec![Field::new("key", DataType::UInt32, false)];
        fields.extend(self.kept.fields("watched"));
        let schema = Arc::new(Schema::new(fields));
        Ok(vec![RecordBatch::try_new(schema, columns)?])
    }

    fn is_by_key(&self) -> bool {
        true
    }

    fn load(&mut self, state: &[RecordBatch]) -> Result<(), OperatorError> {
        let [batch] = state else { return Err(shape()) };
        let [_, watched @ ..] = batch.columns() else { return Err(shape()) };
        let watched = self.kept.encode_columns(watched)?;
        self.last.load(watched.iter().map(|values| Some(values.data().into())));
        Ok(())
    }
}
