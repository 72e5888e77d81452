//! `sort`: rows in the order of their event times. It is the thinnest core of
//! `in_order`: rows go on as they are handed over.

use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::error::{ConfigError, OperatorError};
use tidegate_engine::operator::{Input, OperatorPart, Output};
use tidegate_engine::time::micros;
use tidegate_engine::topology::key::{Key, Kind, optional};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::in_order::{InOrder, Ordered, Rows, ports};
use crate::part::{only_input, require_time};

const KEYS: &[Key] = &[optional(
    "bound",
    Kind::Duration,
    "rows wait this much longer than the `delay` of their source, for rows that come even later; \"0s\" if left out",
)];

pub(crate) const ROW: Row<BuildOperator> = Row {
    name: "sort",
    summary: "puts rows in the order of their event times; a row that comes too late for that leaves by the port `late`",
    keys: &[KEYS],
    example: r#"[operator.ordered]
type  = "sort"
from  = "rows"
bound = "5s"
"#,
    build,
};

fn build(
    config: &NodeConfig,
    _context: &BuildContext,
    inputs: &[Input],
) -> Result<OperatorPart, ConfigError> {
    let input = only_input(config, inputs)?;
    require_time(config, input)?;
    let bound_us = config.table.duration("bound").map_or(0, micros);
    let operator = InOrder::new(config, input, Vec::new(), Sort)?.with_bound(bound_us);
    let stream = &input.stream;
    Ok(OperatorPart { operator: Box::new(operator), ports: ports(stream.clone(), stream) })
}

struct Sort;

impl Ordered for Sort {
    fn on_rows(&mut self, rows: &Rows<'_>, out: &mut Output) -> Result<(), OperatorError> {
        out.emit(rows.batch.clone());
        Ok(())
    }

    /// Readers have been told that nothing older comes.
    fn late_before(&self, watermark_us: i64) -> Option<i64> {
        Some(watermark_us)
    }

    fn reads(&self) -> Option<Vec<usize>> {
        Some(Vec::new())
    }
}
