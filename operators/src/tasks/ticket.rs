//! `ticket`: opens a ticket in the journal, once per run; a push to another
//! system may follow.

use std::sync::Arc;

use arrow::array::Int64Array;
use arrow::datatypes::DataType;
use async_trait::async_trait;
use tidegate_engine::catalog::{BuildTask, Row};
use tidegate_engine::error::{ConfigError, TaskError};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::task::{Effect, Task, TaskContext, TaskPart, TaskScope, TaskStep, Ticket};
use tidegate_engine::template::Template;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use super::http::Poster;
use super::parts::{done, render, result, template};

const PUSH_KEYS: &[Key] = &[
    required("type", Kind::Word(&["http"]), "how it is pushed"),
    required("url", Kind::Text, "where the ticket is posted as JSON, with an Idempotency-Key"),
];

const KEYS: &[Key] = &[
    required("title", Kind::Template, "one line"),
    optional("severity", Kind::Word(&["low", "medium", "high", "critical"]), "\"medium\" if left out"),
    optional("body", Kind::Template, "more text"),
    optional("push", Kind::Table(PUSH_KEYS), "another system that keeps tickets"),
];

pub(super) const ROW: Row<BuildTask> = Row {
    name: "ticket",
    summary: "opens a ticket for a person, kept in the journal and listed by `tidegate tickets`",
    keys: &[KEYS],
    example: r#"[[flow.maintain.task]]
id       = "work_order"
type     = "ticket"
title    = "Look at {device}"
severity = "high"
"#,
    build,
};

fn build(config: &NodeConfig, context: &BuildContext, scope: &TaskScope) -> Result<TaskPart, ConfigError> {
    let mut diagnostics = Vec::new();
    let title = template(config, "title", context, scope, &mut diagnostics);
    let body = template(config, "body", context, scope, &mut diagnostics);
    let push = config.table.table("push").and_then(|push| push.text("url"));
    let push = push.map(Poster::new).transpose();
    let push = push.map_err(|diagnostic| diagnostics.push(diagnostic)).ok().flatten();
    let Some(title) = title.filter(|_| diagnostics.is_empty()) else { return Err(ConfigError(diagnostics)) };
    let schema = result(&[("number", DataType::Int64)]);
    let severity = config.table.str("severity").unwrap_or("medium").to_owned();
    let task = TicketTask { title, body, severity, push, schema: schema.clone() };
    Ok(TaskPart { task: Box::new(task), result: schema })
}

struct TicketTask {
    title: Template,
    body: Option<Template>,
    severity: String,
    push: Option<Poster>,
    schema: StreamSchema,
}

#[async_trait]
impl Task for TicketTask {
    async fn start(&self, context: &TaskContext) -> Result<TaskStep, TaskError> {
        let ticket = Ticket {
            title: render(&self.title, context)?,
            severity: self.severity.clone(),
            body: self.body.as_ref().map(|body| render(body, context)).transpose()?.unwrap_or_default(),
        };
        let number = context.ledger.open_ticket(&context.idempotency_key, &ticket).await?;
        if let Some(push) = &self.push {
            let json = serde_json::json!({
                "number": number,
                "title": ticket.title,
                "severity": ticket.severity,
                "body": ticket.body,
                "run": context.run_id,
            });
            push.post(&json, context).await?;
        }
        done(&self.schema, vec![Arc::new(Int64Array::from(vec![number]))])
    }

    fn effect(&self) -> Effect {
        Effect::Keyed
    }
}
