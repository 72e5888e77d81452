//! From a plan to running parts: edges made, state restored, loops started.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::alignment::Alignment;
use super::checkpoint::{Checkpoint, OperatorState};
use super::edge::{EDGE_BYTES_MAX, EDGE_EVENTS_MAX, EdgeReceiver, EdgeSender, edge};
use super::edits;
use super::egress::{self, QueuedSink};
use super::ingress::{LoggedSource, REMEMBERED_BYTES, Shelf};
use super::job::{JobConfig, JobError, WORDS_MAX};
use super::lookup::Stage;
use super::outlets::Outlets;
use super::parallel::{Role, Running, expand, node_of};
use super::parts::{COMMANDS_MAX, Command, FromPart, JobLine};
use super::segment::{Segment, Slot, Target};
use super::sink_driver::{Setup, SinkDriver};
use super::source_driver::SourceDriver;
use super::state_limit::StateLimit;
use super::stats::NodeStats;
use crate::dead_letters::{DeadLetters, UnreadRejects};
use crate::lookup::LookupPlan;
use crate::operator::Compaction;
use crate::planted;
use crate::schema::{RECEIVED, RECEIVED_PORT};
use crate::sink::Sink;
use crate::source::SourcePart;
use crate::storage::log::LogLimits;
use crate::topology::delivery::RetryPolicy;
use crate::topology::fingerprint::Fingerprint;
use crate::topology::plan::{OperatorNode, Plan, PortRef, SinkNode, SourceNode};

/// The port of rows that could not be used.
const REJECTS: &str = "rejects";
/// Rows on which a node has panicked.
const QUARANTINE: &str = "quarantine";
/// Its index at a source.
const SOURCE_REJECTS: usize = 1;

/// The parts of a topology, started.
pub(super) struct Built {
    pub(super) tasks: JoinSet<String>,
    pub(super) words: mpsc::Receiver<FromPart>,
    pub(super) sources: Vec<mpsc::Sender<Command>>,
    /// Those of them that read tables.
    pub(super) tables: Vec<mpsc::Sender<Command>>,
    /// The names of the others.
    pub(super) streams: BTreeSet<String>,
    pub(super) sinks: Vec<mpsc::Sender<Command>>,
    pub(super) parts: Vec<String>,
    pub(super) fingerprints: BTreeMap<String, String>,
    /// Which outside each source and sink has.
    pub(super) outsides: BTreeMap<String, String>,
    /// Operators that go on from the checkpoint's state.
    pub(super) restored: BTreeSet<String>,
    /// How the changes of operators are put together.
    pub(super) compactions: BTreeMap<String, Compaction>,
    pub(super) stats: Vec<Arc<NodeStats>>,
}

/// Restores and starts every part of the plan.
///
/// `epoch` is the one that sinks go on from; those of this life come after `begins`.
pub(super) fn build(
    plan: Plan,
    checkpoint: Checkpoint,
    epoch: u64,
    begins: u64,
    config: &JobConfig,
) -> Result<Built, JobError> {
    let outside = |name: &String, fingerprint: &Fingerprint| (name.clone(), fingerprint.text().to_owned());
    let of_sources = plan.sources.iter().map(|node| outside(&node.name, &node.fingerprint));
    let of_sinks = plan.sinks.iter().filter(|node| edits::keeps_rows(node));
    let of_sinks = of_sinks.map(|node| outside(&node.name, &node.fingerprint));
    // Rows of a sink that is gone still wait for what it was.
    let mut outsides = checkpoint.outsides.clone();
    outsides.extend(of_sources.chain(of_sinks).filter(|(_, text)| !text.is_empty()));
    let unread = unread_rejects(&plan);
    let timed = plan.sources.iter().filter(|node| node.part.stream.time.is_some());
    let alignment = Alignment::new(timed.map(|node| node.name.as_str()));
    let tables = plan.sources.iter().filter(|node| node.part.stream.is_table());
    let (words_in, words) = mpsc::channel(WORDS_MAX);
    let mut builder = Builder {
        topology: plan.name,
        config,
        checkpoint,
        epoch,
        begins,
        words: words_in,
        alignment,
        tables: tables.map(|node| node.name.clone()).collect(),
        lookups: Vec::new(),
        readers: BTreeMap::new(),
        built: Built {
            tasks: JoinSet::new(),
            words,
            sources: Vec::new(),
            tables: Vec::new(),
            streams: BTreeSet::new(),
            sinks: Vec::new(),
            parts: Vec::new(),
            fingerprints: BTreeMap::new(),
            outsides,
            restored: BTreeSet::new(),
            compactions: BTreeMap::new(),
            stats: Vec::new(),
        },
    };
    let operators = expand(plan.operators);
    let fused = fused(&operators);
    let mut segments = builder.segments(operators, &fused)?;
    // Readers first: an edge's sending end is kept for whoever writes to it.
    let mut sinks: Vec<_> = plan.sinks.into_iter().map(|sink| builder.sink(sink)).collect();
    sinks.extend(unread.into_iter().map(|port| builder.unread(&port)));
    for segment in &mut segments {
        builder.connect_inputs(segment);
    }
    builder.start_lookups()?;
    builder.start_segments(segments, &fused);
    for source in plan.sources {
        builder.start_source(source);
    }
    for sink in sinks {
        let name = sink.job.part.to_string();
        builder.built.tasks.spawn(async move {
            sink.run().await;
            name
        });
    }
    Ok(builder.built)
}

/// Operators that run inside the segment of the operator they read: those with
/// one input that comes from another operator.
fn fused(operators: &[Running]) -> BTreeSet<String> {
    let names: BTreeSet<&str> = operators.iter().map(|running| running.node.name.as_str()).collect();
    let is_fused = |running: &&Running| match running.node.inputs.as_slice() {
        // Copies are to run beside each other.
        [input] => names.contains(input.node.as_str()) && running.role != Role::Copy,
        _ => false,
    };
    operators.iter().filter(is_fused).map(|running| running.node.name.clone()).collect()
}

/// Ports `rejects` that no node reads.
fn unread_rejects(plan: &Plan) -> Vec<PortRef> {
    let streams = plan.sources.iter().filter(|node| !node.part.stream.is_table());
    let of_sources = streams.map(|node| PortRef { node: node.name.clone(), port: SOURCE_REJECTS });
    let of_operators = plan.operators.iter().flat_map(|node| {
        let rejects = node.part.ports.iter().position(|port| port.name == REJECTS);
        rejects.map(|port| PortRef { node: node.name.clone(), port })
    });
    let by_operators = plan.operators.iter().flat_map(|node| node.inputs.iter());
    let read: BTreeSet<&PortRef> = by_operators.chain(plan.sinks.iter().map(|sink| &sink.input)).collect();
    of_sources.chain(of_operators).filter(|port| !read.contains(port)).collect()
}

/// A segment that is being put together: its operators in calling order.
struct Draft {
    inputs: Vec<PortRef>,
    receivers: Vec<EdgeReceiver>,
    /// Inputs that give tables.
    tables: Vec<usize>,
    nodes: Vec<DraftNode>,
}

struct DraftNode {
    node: OperatorNode,
    stats: Arc<NodeStats>,
    job: JobLine,
}

struct Builder<'a> {
    topology: String,
    config: &'a JobConfig,
    checkpoint: Checkpoint,
    epoch: u64,
    begins: u64,
    words: mpsc::Sender<FromPart>,
    /// How far each source is.
    alignment: Arc<Alignment>,
    /// Sources that read tables.
    tables: BTreeSet<String>,
    /// Look-ups, each with its input.
    lookups: Vec<(PortRef, LookupPlan)>,
    /// Sending ends by the port they belong to.
    readers: BTreeMap<PortRef, Vec<EdgeSender>>,
    built: Built,
}

impl Builder<'_> {
    fn part(&mut self, name: &str, kind: &'static str, ports: &[&str]) -> (JobLine, Arc<NodeStats>) {
        self.part_of(name, name, kind, ports)
    }

    /// A part, and the node it is shown as.
    fn part_of(
        &mut self,
        name: &str,
        shown: &str,
        kind: &'static str,
        ports: &[&str],
    ) -> (JobLine, Arc<NodeStats>) {
        let stats = NodeStats::new(&self.topology, shown, kind, ports);
        self.built.parts.push(name.to_owned());
        self.built.stats.push(Arc::clone(&stats));
        (JobLine { part: name.into(), sender: self.words.clone() }, stats)
    }

    /// Copies count together, as their node.
    fn operator(&mut self, name: &str, role: Role, ports: &[&str]) -> (JobLine, Arc<NodeStats>) {
        let shown = node_of(name);
        let known = self.built.stats.iter().find(|stats| role == Role::Copy && stats.name == shown);
        let stats = match (role, known) {
            (Role::Whole, _) | (Role::Copy, None) => return self.part_of(name, shown, "operator", ports),
            (Role::Copy, Some(stats)) => Arc::clone(stats),
            (Role::Joint, _) => NodeStats::uncounted(name, ports),
        };
        self.built.parts.push(name.to_owned());
        (JobLine { part: name.into(), sender: self.words.clone() }, stats)
    }

    fn connect(&mut self, from: &PortRef) -> EdgeReceiver {
        let (sender, receiver) = edge(EDGE_EVENTS_MAX, EDGE_BYTES_MAX);
        self.readers.entry(from.clone()).or_default().push(sender);
        receiver
    }

    fn ports(&mut self, node: &str, count: usize) -> Vec<Vec<EdgeSender>> {
        let port = |port| PortRef { node: node.to_owned(), port };
        (0..count).map(|index| self.readers.remove(&port(index)).unwrap_or_default()).collect()
    }

    /// Restores every operator and sorts them into segments.
    fn segments(
        &mut self,
        operators: Vec<Running>,
        fused: &BTreeSet<String>,
    ) -> Result<Vec<Draft>, JobError> {
        let mut drafts: Vec<Draft> = Vec::new();
        for Running { mut node, role } in operators {
            self.built.fingerprints.insert(node.name.clone(), node.fingerprint.text().to_owned());
            self.restore(&mut node)?;
            if let (Some(plan), Some(input)) = (node.part.operator.lookup(), node.inputs.first()) {
                self.lookups.push((input.clone(), plan));
                continue;
            }
            if let Some(compaction) = node.part.operator.compaction() {
                self.built.compactions.insert(node.name.clone(), compaction);
            }
            let names: Vec<String> = node.part.ports.iter().map(|port| port.name.clone()).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let (job, stats) = self.operator(&node.name, role, &names);
            let parent = node.inputs.first().map(|input| input.node.clone()).unwrap_or_default();
            let is_fused = fused.contains(&node.name);
            let inputs = node.inputs.clone();
            let node = DraftNode { node, stats, job };
            let home = drafts
                .iter_mut()
                .find(|draft| is_fused && draft.nodes.iter().any(|known| known.node.name == parent));
            match home {
                Some(draft) => draft.nodes.push(node),
                None => {
                    let tables = (0..inputs.len()).filter(|at| self.is_table(inputs.get(*at))).collect();
                    drafts.push(Draft { inputs, receivers: Vec::new(), tables, nodes: vec![node] });
                }
            }
        }
        Ok(drafts)
    }

    fn is_table(&self, input: Option<&PortRef>) -> bool {
        input.is_some_and(|input| self.tables.contains(&input.node))
    }

    fn restore(&mut self, node: &mut OperatorNode) -> Result<(), JobError> {
        let name = &node.name;
        let state = self.checkpoint.operators.remove(name).filter(|_| !planted!(StateForgotten));
        let Some(OperatorState { fingerprint, batches: state, .. }) = state else { return Ok(()) };
        if state.is_empty() {
            return Ok(());
        }
        // What differs does not matter; files that hold parts of the state know it by these words.
        self.built.fingerprints.insert(name.clone(), fingerprint);
        self.built.restored.insert(name.clone());
        let restored = node.part.operator.restore(state);
        restored.map_err(|error| JobError::State(format!("cannot restore the state of `{name}`: {error}")))
    }

    fn sink(&mut self, node: SinkNode) -> SinkDriver {
        let (job, stats) = self.part(&node.name, "sink", &[""]);
        let dead = self.dead_letters(&node.name);
        let mut sink = node.part.sink;
        sink.set_dead_letters(dead.clone());
        if self.config.allowed.accept_duplicates {
            sink.accept_duplicates();
        }
        if let Some(queue) = node.queue {
            let settings = egress::Settings {
                folder: self.config.data_dir.join("egress").join(&node.name),
                node: node.name,
                vfs: Arc::clone(&self.config.vfs),
                clock: Arc::clone(&self.config.clock),
                queue,
                retry: node.retry,
                stats: Arc::clone(&stats),
                dead: dead.clone(),
            };
            sink = Box::new(QueuedSink::new(sink, settings));
        }
        let setup = Setup { dead, retry: node.retry, epoch: self.epoch, begins: self.begins };
        self.driver(sink, &node.input, job, stats, setup)
    }

    /// The reader of a port `rejects` that nobody else reads. It is no node of
    /// the file, so no status shows it.
    fn unread(&mut self, port: &PortRef) -> SinkDriver {
        let name = format!("{}.{REJECTS}", port.node);
        let sink = Box::new(UnreadRejects::new(&port.node, self.dead_letters(&port.node)));
        let stats = NodeStats::new(&self.topology, &name, "sink", &[""]);
        self.built.parts.push(name.clone());
        let job = JobLine { part: name.as_str().into(), sender: self.words.clone() };
        let dead = self.dead_letters(&name);
        let retry = RetryPolicy::default();
        let setup = Setup { dead, retry, epoch: self.epoch, begins: self.begins };
        self.driver(sink, port, job, stats, setup)
    }

    fn dead_letters(&self, node: &str) -> DeadLetters {
        let (vfs, clock) = (Arc::clone(&self.config.vfs), Arc::clone(&self.config.clock));
        DeadLetters::new(vfs, clock, &self.config.data_dir, node)
    }

    fn driver(
        &mut self,
        sink: Box<dyn Sink>,
        input: &PortRef,
        job: JobLine,
        stats: Arc<NodeStats>,
        setup: Setup,
    ) -> SinkDriver {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        self.built.sinks.push(commands);
        let input = self.connect(input);
        SinkDriver::new(sink, input, job, receiver, stats, setup)
    }

    fn connect_inputs(&mut self, draft: &mut Draft) {
        draft.receivers = draft.inputs.iter().map(|input| self.connect(input)).collect();
    }

    /// Starts what asks others, on the runtime that waits.
    fn start_lookups(&mut self) -> Result<(), JobError> {
        let lookups = std::mem::take(&mut self.lookups);
        let inputs: Vec<_> = lookups.iter().map(|(input, _)| self.connect(input)).collect();
        for ((_, plan), input) in lookups.into_iter().zip(inputs) {
            let name = plan.node.clone();
            let (job, stats) = self.part(&name, "operator", &["", REJECTS]);
            let outlets = Outlets { ports: self.ports(&name, 2), stats };
            let stage = Stage::new(plan, input, outlets, job);
            let stage = stage.map_err(|error| JobError::State(format!("cannot start `{name}`: {error}")))?;
            self.built.tasks.spawn(async move {
                stage.run().await;
                name
            });
        }
        Ok(())
    }

    fn start_segments(&mut self, drafts: Vec<Draft>, fused: &BTreeSet<String>) {
        for draft in drafts {
            let index_of: BTreeMap<String, usize> =
                draft.nodes.iter().enumerate().map(|(index, node)| (node.node.name.clone(), index)).collect();
            let children: Vec<(PortRef, usize)> = draft
                .nodes
                .iter()
                .filter(|node| fused.contains(&node.node.name))
                .filter_map(|node| Some((node.node.inputs.first()?.clone(), *index_of.get(&node.node.name)?)))
                .collect();
            let name = draft.nodes.first().map(|node| node.node.name.clone()).unwrap_or_default();
            let slots = draft.nodes.into_iter().map(|node| self.slot(node, &children)).collect();
            let segment = Segment { inputs: draft.receivers, tables: draft.tables, slots };
            let task = async move {
                segment.run().await;
                name
            };
            self.built.tasks.spawn_on(task, &self.config.compute);
        }
    }

    fn slot(&mut self, draft: DraftNode, children: &[(PortRef, usize)]) -> Slot {
        let DraftNode { node, stats, job } = draft;
        let edges = self.ports(&node.name, node.part.ports.len());
        let mut ports: Vec<Vec<Target>> =
            edges.into_iter().map(|edges| edges.into_iter().map(Target::Edge).collect()).collect();
        for (from, child) in children.iter().filter(|(from, _)| from.node == node.name) {
            if let Some(targets) = ports.get_mut(from.port) {
                targets.push(Target::Slot(*child));
            }
        }
        // No node of the file is called so.
        let quarantine = self.dead_letters(&format!("{}.{QUARANTINE}", node.name));
        let limit = StateLimit::new(node.state_max, Arc::clone(&stats));
        Slot { operator: node.part.operator, stats, job, ports, quarantine, limit }
    }

    fn start_source(&mut self, mut node: SourceNode) {
        if node.part.logged {
            let folder = self.config.data_dir.join("ingress").join(&node.name);
            let unique = std::mem::take(&mut node.unique);
            node.part = logged(node.part, &node.name, folder, unique, self.config);
        }
        let ports = self.ports(&node.name, RECEIVED_PORT + 1);
        let is_read = ports.get(RECEIVED_PORT).is_some_and(|readers| !readers.is_empty());
        let names: &[&str] = if is_read { &["", REJECTS, RECEIVED] } else { &["", REJECTS] };
        let (job, stats) = self.part(&node.name, "source", names);
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        if node.part.stream.is_table() {
            self.built.tables.push(commands.clone());
        } else {
            self.built.streams.insert(node.name.clone());
        }
        self.built.sources.push(commands);
        let outlets = Outlets { ports, stats };
        let restored = self.checkpoint.sources.remove(&node.name);
        let (position, watermark) = restored.unwrap_or_default();
        let told = self.checkpoint.received.remove(&node.name);
        let wanted = node.part.replayable || node.part.source.remembers();
        let position = position.filter(|_| wanted && !planted!(PositionForgotten));
        let watermark = watermark.filter(|_| !planted!(WatermarkForgotten));
        let clock = Arc::clone(&self.config.clock);
        let alignment = Arc::clone(&self.alignment);
        let driver = SourceDriver::new(
            &node.part,
            outlets,
            job,
            receiver,
            clock,
            (position, watermark, told),
            alignment,
        );
        let name = node.name;
        self.built.tasks.spawn(async move {
            driver.run(node.part).await;
            name
        });
    }
}

/// A source that goes through its ingress log.
fn logged(
    part: SourcePart,
    node: &str,
    folder: PathBuf,
    unique: Vec<usize>,
    config: &JobConfig,
) -> SourcePart {
    let shelf = Shelf {
        node: node.to_owned(),
        folder,
        vfs: Arc::clone(&config.vfs),
        limits: LogLimits {
            bytes_kept: if unique.is_empty() { 0 } else { REMEMBERED_BYTES },
            ..config.log_limits
        },
        clock: Arc::clone(&config.clock),
        stream: part.stream.clone(),
        unique,
    };
    let source = Box::new(LoggedSource::new(part.source, shelf));
    SourcePart { source, replayable: true, commit_quickly: false, ..part }
}
