//! A flow as its file says it, checked: parameters, order, every condition and
//! task compiled. A mistake is found here, never while a run is under way.

mod build;
mod graph;
mod keys;
mod revision;
mod tasks;
mod trigger;

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, SchemaRef};

pub use build::build;
pub use keys::{FLOW_KEYS, RETRY_KEYS, TASK_KEYS};
pub use revision::{Variable, Workshop};
pub use trigger::TriggerLink;

use super::admission::Overlap;
use super::run::RunPlan;
use crate::expression::Expression;
use crate::schema::StreamSchema;
use crate::task::{Effect, Mode, Task};

/// Most tasks in one flow.
pub const TASKS_MAX: usize = 256;
/// An attempt without a `timeout` of its own may take so long.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);
/// An armed run with device writes does not start when its firing is older.
pub const MAX_AGE: Duration = Duration::from_secs(60);

/// Every flow of a topology and what starts it.
pub struct Flows {
    /// Name of the topology.
    pub topology: String,
    /// The flows.
    pub flows: Vec<Arc<Flow>>,
    /// One for each trigger that starts a flow.
    pub links: Vec<TriggerLink>,
    /// What they were built with.
    pub workshop: Workshop,
}

impl Flows {
    /// The flow with this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Arc<Flow>> {
        self.flows.iter().find(|flow| flow.name == name)
    }
}

/// A checked flow.
pub struct Flow {
    /// The topology.
    pub topology: String,
    /// The name after `flow.`.
    pub name: String,
    /// Hash of its text: which revision a run began with.
    pub revision: String,
    /// The parameters, all nullable, in the file's order.
    pub params: SchemaRef,
    /// What makes runs wait for one another.
    pub one_per: OnePer,
    /// What a firing does while a run of its group is open.
    pub overlap: Overlap,
    /// Whether devices are written.
    pub mode: Mode,
    /// An armed run with device writes does not start when its firing is older.
    pub max_age: Duration,
    /// Order, retries and time-outs, with the same indices as `tasks`.
    pub plan: Arc<RunPlan>,
    /// The tasks.
    pub tasks: Vec<FlowTask>,
}

/// What makes runs wait for one another.
#[derive(Clone, Debug)]
pub enum OnePer {
    /// All runs of the flow are one group.
    Flow,
    /// Runs with the same value are one group.
    Value(Arc<dyn Expression>),
}

/// A checked task.
pub struct FlowTask {
    /// Its id.
    pub id: String,
    /// The word after `type =`.
    pub kind: String,
    /// Its `if`.
    pub condition: Option<Arc<dyn Expression>>,
    /// Longest time of one attempt.
    pub timeout: Duration,
    /// What it does.
    pub task: Box<dyn Task>,
    /// Columns of its result.
    pub result: StreamSchema,
    /// Indices of the tasks whose results it sees, in the order of its scope.
    pub sees: Vec<usize>,
    /// Columns of the row it is given: parameters, `run.id`, `run.fired_at`,
    /// then those of the tasks it sees.
    pub values: SchemaRef,
}

impl Flow {
    /// Whether one of its tasks writes a device.
    #[must_use]
    pub fn writes_devices(&self) -> bool {
        self.tasks.iter().any(|task| task.task.effect() == Effect::Device)
    }

    /// The word of its mode.
    #[must_use]
    pub const fn mode_word(&self) -> &'static str {
        match self.mode {
            Mode::DryRun => "dry-run",
            Mode::Shadow => "shadow",
            Mode::Armed => "armed",
        }
    }
}

/// Whether a value of one type may be given where another is wanted: numbers
/// for numbers, anything for text, a time for a time.
fn fits(from: &DataType, to: &DataType) -> bool {
    let text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    if from == to || from == &DataType::Null || text(to) {
        return true;
    }
    from.is_numeric() && to.is_numeric() || from.is_temporal() && to.is_temporal()
}
