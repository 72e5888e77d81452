//! `alert`: tells people at once; kept in the journal.

use async_trait::async_trait;
use tidegate_engine::catalog::{BuildTask, Row};
use tidegate_engine::error::{ConfigError, TaskError};
use tidegate_engine::task::{Effect, Notice, Task, TaskContext, TaskPart, TaskScope, TaskStep};
use tidegate_engine::template::Template;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use super::parts::{render, result, template};

const KEYS: &[Key] = &[
    required("text", Kind::Template, "what happened"),
    optional("severity", Kind::Word(&["info", "warning", "critical"]), "\"warning\" if left out"),
];

pub(super) const ROW: Row<BuildTask> = Row {
    name: "alert",
    summary: "raises an alert",
    keys: &[KEYS],
    example: r#"[[flow.warn.task]]
id       = "tell"
type     = "alert"
severity = "critical"
text     = "{device} is too warm"
"#,
    build,
};

fn build(config: &NodeConfig, context: &BuildContext, scope: &TaskScope) -> Result<TaskPart, ConfigError> {
    let mut diagnostics = Vec::new();
    let text = template(config, "text", context, scope, &mut diagnostics);
    let Some(text) = text else { return Err(ConfigError(diagnostics)) };
    let severity = config.table.str("severity").unwrap_or("warning").to_owned();
    Ok(TaskPart { task: Box::new(Alert { text, severity }), result: result(&[]) })
}

struct Alert {
    text: Template,
    severity: String,
}

#[async_trait]
impl Task for Alert {
    async fn start(&self, context: &TaskContext) -> Result<TaskStep, TaskError> {
        let text = render(&self.text, context)?;
        let notice = Notice { kind: "alert".into(), severity: self.severity.clone(), text };
        context.ledger.notify(&context.idempotency_key, &notice).await?;
        Ok(TaskStep::Done(Vec::new()))
    }

    fn effect(&self) -> Effect {
        Effect::Keyed
    }
}
