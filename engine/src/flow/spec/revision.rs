//! A run belongs to the file revision that started it: what a flow was built
//! with is kept, so that the flow of a former file can be built again. It must
//! never give a run another flow than the one it began with.

use std::fmt;
use std::sync::Arc;

use super::Flow;
use super::build::build_flow;
use crate::catalog::Catalog;
use crate::diagnostic::Severity;
use crate::schema::StreamSchema;
use crate::table::NamedTable;
use crate::topology::node::{BuildContext, Section};
use crate::topology::parse::parse_with;

/// The value of `${NAME}`.
pub type Variable = dyn Fn(&str) -> Option<String> + Send + Sync;

/// What flows are built with.
#[derive(Clone)]
pub struct Workshop {
    /// Every kind of task.
    pub catalog: Catalog,
    /// What build functions may use.
    pub context: BuildContext,
    /// The topology's tables.
    pub tables: Vec<NamedTable>,
    /// The file, as its author wrote it: what the journal keeps of a revision.
    pub text: Arc<str>,
    /// Looks `${NAME}` up.
    pub variable: Arc<Variable>,
}

impl Workshop {
    /// The flow `name` of a former `text`, if it is still the one of that
    /// revision. `trigger` are the columns of the rows that fired.
    ///
    /// # Errors
    /// Why it cannot be built, or that it has become another flow.
    pub fn former(
        &self,
        text: &str,
        name: &str,
        revision: &str,
        trigger: Option<StreamSchema>,
    ) -> Result<Flow, String> {
        let (parsed, mut messages) = parse_with(text, self.variable.as_ref());
        let node = parsed.nodes.iter().find(|node| node.section == Section::Flow && node.name == name);
        let node = node.ok_or("the journal's copy of the file has no such flow")?;
        let flow = build_flow(node, trigger, self, &mut messages);
        messages.retain(|message| message.severity == Severity::Error);
        let Some(flow) = flow.filter(|_| messages.is_empty()) else {
            let told: Vec<&str> = messages.iter().map(|message| message.message.as_str()).collect();
            return Err(told.join("; "));
        };
        if flow.revision != revision {
            return Err("the values of its ${NAME} are not what they were".into());
        }
        Ok(flow)
    }
}

impl fmt::Debug for Workshop {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Workshop({} bytes, {} tables)", self.text.len(), self.tables.len())
    }
}
