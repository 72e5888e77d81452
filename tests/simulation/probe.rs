//! An operator that watches what the runtime promises to operators: event time
//! never goes back, not behind a restored checkpoint either, and batches are
//! not empty.

use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use tidegate_engine::error::{ConfigError, OperatorError};
use tidegate_engine::operator::{Input, Operator, OperatorPart, Output, Port, Progress};
use tidegate_engine::time::Time;
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::world::World;

pub(crate) fn probe(
    _: &NodeConfig,
    context: &BuildContext,
    inputs: &[Input],
) -> Result<OperatorPart, ConfigError> {
    let operator = Box::new(Probe { world: crate::life::world(context), watermark_us: i64::MIN });
    let stream = inputs[0].stream.clone();
    Ok(OperatorPart { operator, ports: vec![Port { name: String::new(), stream }] })
}

struct Probe {
    world: Arc<World>,
    watermark_us: i64,
}

impl Operator for Probe {
    fn on_batch(&mut self, _: usize, batch: &RecordBatch, _: &mut Output) -> Result<Progress, OperatorError> {
        if batch.num_rows() == 0 {
            self.world.lock().broken.push("batches_hold_rows: an empty batch came".into());
        }
        Ok(Progress::Done)
    }

    fn on_watermark(&mut self, time: Time, _: &mut Output) -> Result<Progress, OperatorError> {
        if time.0 < self.watermark_us {
            let broken = format!("watermarks_never_go_back: {time} after {}", Time(self.watermark_us));
            self.world.lock().broken.push(broken);
        }
        self.watermark_us = time.0;
        Ok(Progress::Done)
    }

    fn snapshot(&mut self) -> Result<Vec<RecordBatch>, OperatorError> {
        let column = Arc::new(Int64Array::from(vec![self.watermark_us])) as _;
        Ok(vec![RecordBatch::try_from_iter([("watermark_us", column)])?])
    }

    fn restore(&mut self, state: Vec<RecordBatch>) -> Result<(), OperatorError> {
        self.watermark_us = state[0].column(0).as_primitive::<Int64Type>().value(0);
        Ok(())
    }
}
