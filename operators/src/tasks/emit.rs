//! `emit`: a named event in the journal, for whoever listens.

use async_trait::async_trait;
use tidegate_engine::catalog::{BuildTask, Row};
use tidegate_engine::error::{ConfigError, TaskError};
use tidegate_engine::task::{Effect, Notice, Task, TaskContext, TaskPart, TaskScope, TaskStep};
use tidegate_engine::template::Template;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use super::parts::{render, result, template};

const KEYS: &[Key] =
    &[required("name", Kind::Text, "the event's name"), optional("text", Kind::Template, "what it says")];

pub(super) const ROW: Row<BuildTask> = Row {
    name: "emit",
    summary: "puts a named event into the journal",
    keys: &[KEYS],
    example: r#"[[flow.warn.task]]
id   = "tell"
type = "emit"
name = "press-hot"
text = "{device}"
"#,
    build,
};

fn build(config: &NodeConfig, context: &BuildContext, scope: &TaskScope) -> Result<TaskPart, ConfigError> {
    let mut diagnostics = Vec::new();
    let text = template(config, "text", context, scope, &mut diagnostics);
    if !diagnostics.is_empty() {
        return Err(ConfigError(diagnostics));
    }
    let name = config.table.str("name").unwrap_or_default().to_owned();
    Ok(TaskPart { task: Box::new(Emit { name, text }), result: result(&[]) })
}

struct Emit {
    name: String,
    text: Option<Template>,
}

#[async_trait]
impl Task for Emit {
    async fn start(&self, context: &TaskContext) -> Result<TaskStep, TaskError> {
        let text = self.text.as_ref().map(|text| render(text, context)).transpose()?.unwrap_or_default();
        let notice = Notice { kind: self.name.clone(), severity: "info".into(), text };
        context.ledger.notify(&context.idempotency_key, &notice).await?;
        Ok(TaskStep::Done(Vec::new()))
    }

    fn effect(&self) -> Effect {
        Effect::Keyed
    }
}
