//! `wait`: goes on after a time. The wait is kept in the journal, so it costs
//! no thread and outlives a restart.

use std::time::Duration;

use async_trait::async_trait;
use tidegate_engine::catalog::{BuildTask, Row};
use tidegate_engine::error::{ConfigError, TaskError};
use tidegate_engine::task::{Effect, Task, TaskContext, TaskPart, TaskScope, TaskStep, WaitFor};
use tidegate_engine::topology::key::{Key, Kind, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use super::parts::result;

const KEYS: &[Key] = &[required("for", Kind::Duration, "how long")];

pub(super) const ROW: Row<BuildTask> = Row {
    name: "wait",
    summary: "goes on after a time, even after a restart",
    keys: &[KEYS],
    example: r#"[[flow.warn.task]]
id   = "pause"
type = "wait"
for  = "20m"
"#,
    build,
};

fn build(config: &NodeConfig, _context: &BuildContext, _scope: &TaskScope) -> Result<TaskPart, ConfigError> {
    let time = config.table.duration("for").unwrap_or_default();
    Ok(TaskPart { task: Box::new(Wait { time }), result: result(&[]) })
}

struct Wait {
    time: Duration,
}

#[async_trait]
impl Task for Wait {
    async fn start(&self, context: &TaskContext) -> Result<TaskStep, TaskError> {
        let until = context.clock.now().plus(self.time);
        Ok(TaskStep::Wait(WaitFor::Until(until), Vec::new()))
    }

    fn effect(&self) -> Effect {
        Effect::Pure
    }
}
