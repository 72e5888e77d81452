//! What tests of flows share: expressions simple enough to be read here, tasks
//! that write into a ledger file, firings as a trigger's operator gives them.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Float64Type};
use async_trait::async_trait;
use tidegate_engine::catalog::{BuildTask, Catalog, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, OperatorError, TaskError};
use tidegate_engine::expression::{Expression, Expressions, Scope, Selected};
use tidegate_engine::flow::events::FlowEvents;
use tidegate_engine::flow::journal::Journal;
use tidegate_engine::flow::launcher::Launcher;
use tidegate_engine::flow::scheduler::{SchedulerConfig, SchedulerHandle, start};
use tidegate_engine::flow::spec::{Flows, Workshop, build};
use tidegate_engine::operator::Input;
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::sink::Sink;
use tidegate_engine::task::{Effect, Task, TaskContext, TaskPart, TaskScope, TaskStep, WaitFor};
use tidegate_engine::time::{Clock, SystemClock, Time, time_type};
use tidegate_engine::topology::key::{Key, Kind, optional};
use tidegate_engine::topology::load::Retention;
use tidegate_engine::topology::node::{BuildContext, NodeConfig, Section};
use tidegate_engine::topology::parse::parse_with;
use tidegate_engine::topology::value::Text;

/// Nothing in these tests takes longer.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The future's value, in time.
pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("in time")
}

/// `column`, `task.column`, or `column > number`.
pub(crate) struct Plain;

#[derive(Debug)]
struct PlainExpression {
    column: usize,
    data_type: DataType,
    above: Option<f64>,
}

impl Expressions for Plain {
    fn compile(&self, text: &Text, scope: &Scope) -> Result<Arc<dyn Expression>, Diagnostic> {
        let (name, above) = match text.value.split_once(" > ") {
            Some((name, number)) => (name, Some(number.parse().expect("a number"))),
            None => (text.value.as_str(), None),
        };
        let whole = name;
        let (qualifier, name) = match whole.split_once('.') {
            Some((qualifier, name)) => (Some(qualifier), name),
            None => (None, name),
        };
        let found =
            scope.columns.iter().position(|(of, field)| of.as_deref() == qualifier && field.name() == name);
        let column = found.ok_or_else(|| {
            Diagnostic::error("TG-X002", format!("no column `{whole}`")).at(text.span.clone())
        })?;
        let own = scope.columns[column].1.data_type().clone();
        let data_type = if above.is_some() { DataType::Boolean } else { own };
        Ok(Arc::new(PlainExpression { column, data_type, above }))
    }

    fn compile_select(&self, _text: &Text, _scope: &Scope) -> Result<Vec<Selected>, Diagnostic> {
        unimplemented!("flows select nothing")
    }
}

impl Expression for PlainExpression {
    fn data_type(&self) -> &DataType {
        &self.data_type
    }

    fn nullable(&self) -> bool {
        true
    }

    fn columns(&self) -> Vec<usize> {
        vec![self.column]
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, OperatorError> {
        let column = batch.column(self.column);
        let Some(above) = self.above else { return Ok(Arc::clone(column)) };
        let numbers = column.as_primitive::<Float64Type>();
        let flags: BooleanArray = numbers.iter().map(|number| number.map(|number| number > above)).collect();
        Ok(Arc::new(flags))
    }
}

const LEDGER_KEYS: &[Key] = &[
    optional("fails", Kind::Int(0, 100), "so many attempts fail"),
    optional("class", Kind::Text, "`fatal`, or anything for an error that may pass"),
    optional("takes", Kind::Duration, "how long an attempt takes"),
    optional("waits", Kind::Duration, "waits after its line, then writes another one"),
    optional("device", Kind::Bool, "counts as a device write"),
    optional("reads", Kind::Expression, "a value that stands in its line"),
];

/// Task tables with `ledger`, and nothing else.
pub(crate) const CATALOG: Catalog = Catalog {
    sources: &[],
    operators: &[],
    composed: &[],
    sinks: &[],
    tables: &[],
    trigger: &NO_TRIGGER,
    tasks: &[TASKS],
};

static NO_TRIGGER: Row<tidegate_engine::catalog::BuildOperator> = Row {
    name: "trigger",
    summary: "",
    keys: &[],
    example: "",
    build: |_, _, _| Err(ConfigError::default()),
};

const TASKS: &[Row<BuildTask>] =
    &[Row { name: "ledger", summary: "writes a line", keys: &[LEDGER_KEYS], example: "", build: ledger }];

/// Appends `key attempt` (and a value) to a file before anything else: the
/// effect, as the outside would see it.
struct Ledger {
    path: PathBuf,
    fails: i64,
    fatal: bool,
    takes: Duration,
    waits: Option<Duration>,
    device: bool,
    reads: Option<Arc<dyn Expression>>,
}

fn ledger(config: &NodeConfig, context: &BuildContext, scope: &TaskScope) -> Result<TaskPart, ConfigError> {
    let table = &config.table;
    let reads =
        table.text("reads").map(|text| context.expressions.compile(text, &scope.values)).transpose()?;
    let task = Ledger {
        path: context.data_dir.join("ledger"),
        fails: table.int("fails").unwrap_or(0),
        fatal: table.str("class") == Some("fatal"),
        takes: table.duration("takes").unwrap_or_default(),
        waits: table.duration("waits"),
        device: table.bool("device").unwrap_or(false),
        reads,
    };
    let result = StreamSchema::new(vec![Field::new("attempt", DataType::Float64, false)], None);
    Ok(TaskPart { task: Box::new(task), result })
}

impl Ledger {
    fn line(&self, context: &TaskContext, word: &str) {
        let read = self.reads.as_ref().map(|reads| {
            let column = reads.evaluate(&context.values).expect("evaluates");
            tidegate_engine::template::display(&column, 0).expect("prints")
        });
        let line = format!(
            "{} {} {word} {} {:?}\n",
            context.idempotency_key,
            context.attempt,
            read.unwrap_or_default(),
            context.mode
        );
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path).expect("opens");
        // One write call: a kill leaves whole lines.
        file.write_all(line.as_bytes()).expect("writes");
    }

    fn result(context: &TaskContext) -> TaskStep {
        let column: ArrayRef = Arc::new(Float64Array::from(vec![f64::from(context.attempt)]));
        TaskStep::Done(vec![RecordBatch::try_from_iter([("attempt", column)]).expect("one column")])
    }
}

#[async_trait]
impl Task for Ledger {
    async fn start(&self, context: &TaskContext) -> Result<TaskStep, TaskError> {
        self.line(context, "start");
        tokio::time::sleep(self.takes).await;
        if i64::from(context.attempt) <= self.fails {
            let message = "told to fail";
            return Err(if self.fatal {
                TaskError::Fatal(message.into())
            } else {
                TaskError::retry("network", message)
            });
        }
        match self.waits {
            Some(waits) => Ok(TaskStep::Wait(WaitFor::Until(context.clock.now().plus(waits)), vec![42])),
            None => Ok(Self::result(context)),
        }
    }

    async fn resume(&self, context: &TaskContext, data: &[u8]) -> Result<TaskStep, TaskError> {
        assert_eq!(data, [42]);
        self.line(context, "resume");
        Ok(Self::result(context))
    }

    fn effect(&self) -> Effect {
        if self.device { Effect::Device } else { Effect::Keyed }
    }
}

/// What build functions may use, with state in `folder`.
pub(crate) fn context(folder: &Path) -> BuildContext {
    BuildContext::new("plant", folder.to_owned(), folder.to_owned(), Arc::new(Plain))
}

/// Flows of a file whose triggers read rows of `device` and `value`.
pub(crate) fn flows(toml: &str, folder: &Path) -> Result<Flows, ConfigError> {
    let workshop = Workshop {
        catalog: CATALOG,
        context: context(folder),
        tables: Vec::new(),
        text: toml.into(),
        variable: Arc::new(|_| None),
    };
    flows_of(toml, workshop)
}

/// The same, built with other tasks, expressions or tables.
pub(crate) fn flows_of(toml: &str, workshop: Workshop) -> Result<Flows, ConfigError> {
    let (parsed, errors) = parse_with(toml, workshop.variable.as_ref());
    assert_eq!(errors, []);
    let (mut flows, mut triggers) = (Vec::new(), Vec::new());
    for node in parsed.nodes {
        match node.section {
            Section::Trigger => {
                let stream = StreamSchema::new(firing_fields(&node), Some("firing_time"));
                triggers.push((node.clone(), Input { name: node.name, stream }));
            }
            Section::Flow | Section::Source | Section::Operator | Section::Table | Section::Sink => {
                flows.push(node)
            }
        }
    }
    build(&flows, &triggers, workshop)
}

fn firing_fields(node: &NodeConfig) -> Vec<Field> {
    let mut fields = vec![
        Field::new("firing_time", time_type(), false),
        Field::new("firing_key", DataType::Utf8, false),
        Field::new("firing_ordinal", DataType::Int64, false),
    ];
    for entry in node.table.table("give").into_iter().flat_map(|give| &give.entries) {
        let data_type = match entry.value.as_text().map(|text| text.value.as_str()) {
            Some("value") => DataType::Float64,
            _ => DataType::Utf8,
        };
        fields.push(Field::new(format!("give.{}", entry.key), data_type, true));
    }
    fields.push(Field::new("device", DataType::Utf8, true));
    fields.push(Field::new("value", DataType::Float64, true));
    fields
}

/// Rows of (event time, device, value) as the operator of a trigger with
/// `give = { machine = "device", v = "value" }` and `key = ["device"]` gives them.
pub(crate) fn firing_batch(rows: &[(i64, &str, f64)]) -> RecordBatch {
    let times: Vec<i64> = rows.iter().map(|row| row.0).collect();
    let devices: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1)));
    let values: ArrayRef = Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.2)));
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"));
    let ordinals: ArrayRef = Arc::new(Int64Array::from(vec![0; rows.len()]));
    RecordBatch::try_from_iter([
        ("firing_time", times),
        ("firing_key", Arc::clone(&devices)),
        ("firing_ordinal", ordinals),
        ("give.machine", Arc::clone(&devices)),
        ("give.v", Arc::clone(&values)),
        ("device", devices),
        ("value", values),
    ])
    .expect("equal lengths")
}

/// Running flows.
pub(crate) struct Plant {
    /// Talks to them.
    pub(crate) scheduler: SchedulerHandle,
    /// One for each trigger.
    pub(crate) launchers: Vec<Launcher>,
    /// Who hears what happens.
    pub(crate) events: FlowEvents,
    /// Where the ledger is.
    pub(crate) folder: PathBuf,
}

/// Starts a file's flows with the journal in `folder`.
pub(crate) fn plant(toml: &str, folder: &Path, active_max: usize) -> Plant {
    plant_of(flows(toml, folder).expect("a right file"), folder, active_max)
}

/// Starts flows with the journal in `folder`.
pub(crate) fn plant_of(flows: Flows, folder: &Path, active_max: usize) -> Plant {
    plant_with(flows, folder, active_max, Retention::default())
}

/// The same, with few runs kept.
pub(crate) fn plant_with(flows: Flows, folder: &Path, active_max: usize, retention: Retention) -> Plant {
    let flows = Arc::new(flows);
    let journal = Journal::open(&folder.join("journal.db")).expect("opens");
    let events = FlowEvents::default();
    let config = SchedulerConfig {
        journal,
        clock: Arc::new(SystemClock),
        events: events.clone(),
        active_max,
        retention,
    };
    let links = flows.links.clone();
    let scheduler = start(flows, config).expect("starts");
    let launchers = links.into_iter().map(|link| Launcher::new(link, scheduler.clone())).collect();
    Plant { scheduler, launchers, events, folder: folder.to_owned() }
}

impl Plant {
    /// Hands firings over as the runtime does; they are durable when it returns.
    pub(crate) async fn fire(&mut self, batch: &RecordBatch) {
        let launcher = self.launchers.first_mut().expect("has a trigger");
        in_time(launcher.write(batch)).await.expect("taken");
        in_time(launcher.flush(1)).await.expect("durable");
    }

    /// Lines of the ledger: key, task, attempt, word, value.
    pub(crate) fn ledger(&self) -> Vec<Line> {
        read_ledger(&self.folder)
    }
}

/// A line of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// The run's key.
    pub(crate) run: String,
    /// The task.
    pub(crate) task: String,
    /// The attempt.
    pub(crate) attempt: u32,
    /// `start` or `resume`.
    pub(crate) word: String,
    /// What `reads` gave.
    pub(crate) value: String,
    /// The mode of the flow.
    pub(crate) mode: String,
}

/// Every line of a ledger, in order.
pub(crate) fn read_ledger(folder: &Path) -> Vec<Line> {
    let text = std::fs::read_to_string(folder.join("ledger")).unwrap_or_default();
    text.lines()
        .map(|line| {
            let parts: Vec<&str> = line.split(' ').collect();
            let (run, task) = parts[0].split_once('-').expect("run key and task");
            Line {
                run: run.into(),
                task: task.into(),
                attempt: parts[1].parse().expect("a number"),
                word: parts[2].into(),
                value: parts[3].into(),
                mode: parts[4].into(),
            }
        })
        .collect()
}

/// The present.
pub(crate) fn now() -> Time {
    SystemClock.now()
}
