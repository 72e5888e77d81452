//! One case: lives that end badly, then a calm end, then the invariants.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate_engine::catalog::{BuildTask, Catalog, Row as CatalogRow};
use tidegate_engine::expression::Expressions;
use tidegate_engine::flow::events::FlowEvents;
use tidegate_engine::flow::journal::Journal;
use tidegate_engine::flow::launcher::Launcher;
use tidegate_engine::flow::scheduler::{self, SchedulerConfig, SchedulerHandle};
use tidegate_engine::flow::spec::Workshop;
use tidegate_engine::runtime::job::{Job, JobConfig, JobError};
use tidegate_engine::storage::log::LogLimits;
use tidegate_engine::testing::disk::SimDisk;
use tidegate_engine::testing::seed::Seed;
use tidegate_engine::time::Clock;
use tidegate_engine::topology::load::{load, read};
use tidegate_engine::topology::node::BuildContext;

use crate::case::{Case, Part};
use crate::scenario::{Life, Scenario};
use crate::world::{Folder, SimClock, World};
use crate::{catalog, check, damage, device, people, probe, sink, source};

const DEVICE_TASKS: &[CatalogRow<BuildTask>] =
    &[CatalogRow { name: "sim.write", summary: "", keys: &[device::KEYS], example: "", build: device::task }];

const CATALOG: Catalog = Catalog {
    sources: &[&[
        CatalogRow { name: "list", summary: "", keys: &[], example: "", build: source::list },
        CatalogRow { name: "peer", summary: "", keys: &[], example: "", build: source::peer },
        CatalogRow { name: "quick", summary: "", keys: &[], example: "", build: source::quick },
    ]],
    operators: &[
        &[CatalogRow { name: "probe", summary: "", keys: &[], example: "", build: probe::probe }],
        tidegate_operators::OPERATORS,
    ],
    sinks: &[&[
        CatalogRow { name: "exact", summary: "", keys: &[], example: "", build: sink::exact },
        CatalogRow { name: "plain", summary: "", keys: &[], example: "", build: sink::plain },
    ]],
    tasks: &[DEVICE_TASKS, tidegate_operators::TASKS],
    ..catalog::CATALOG
};

/// How long a calm topology may take to end, simulated: a clock may have been
/// set back by some hours, and what waits for a time of day waits for them.
const CALM_MAX: Duration = Duration::from_secs(8 * 3_600);
/// Small, so that much is trimmed.
const LOG_LIMITS: LogLimits = LogLimits { segment_bytes: 4_096, bytes_max: 1 << 30, bytes_kept: 0 };

/// What cases came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) cases: u64,
    pub(crate) crashes: u64,
    pub(crate) stops: u64,
    pub(crate) rows: u64,
    pub(crate) runs: u64,
    pub(crate) commands: u64,
    /// Steps of everything outside: reads, flushes, acknowledgements, commands.
    pub(crate) events: u64,
    pub(crate) simulated: Duration,
}

/// What happened in a case.
pub(crate) struct Told {
    pub(crate) trace: Vec<String>,
    pub(crate) totals: Totals,
}

/// The world of a topology that is being built.
pub(crate) fn world(context: &BuildContext) -> Arc<World> {
    let make = || Slot(World::new(Seed::new(0), true, Folder::new()));
    Arc::clone(&context.shared.get_or_insert("world", make).0)
}

struct Slot(Arc<World>);

/// A case under way.
struct Simulation<'a> {
    case: &'a Case,
    scenario: Scenario,
    text: String,
    world: Arc<World>,
    disk: SimDisk,
    seed: Seed,
    expressions: &'a Arc<dyn Expressions>,
    totals: Totals,
}

/// Runs a case; answers what happened, or what is broken.
pub(crate) fn run(case: &Case, expressions: &Arc<dyn Expressions>) -> Result<Told, String> {
    let scenario = Scenario::of(case);
    let mut seed = case.choices(7);
    let world = World::new(Seed::new(seed.number()), !case.has(Part::Peers), Folder::new());
    for (index, outside) in scenario.rows.iter().enumerate() {
        let outside = outside.clone();
        world.lock().sources.insert(format!("in{index}"), outside);
    }
    let (text, disk, totals) =
        (scenario.text(), SimDisk::default(), Totals { cases: 1, ..Totals::default() });
    let mut simulation = Simulation { case, scenario, text, world, disk, seed, expressions, totals };
    let ran = simulation.run();
    let Simulation { world, text, mut totals, scenario, .. } = simulation;
    let mut state = world.lock();
    let trace = std::mem::take(&mut state.trace);
    ran.map_err(|what| {
        let steps = std::env::var("SIMULATION_STEPS").ok().and_then(|steps| steps.parse().ok());
        let tail: Vec<&String> = trace.iter().rev().take(steps.unwrap_or(30)).collect();
        format!("{what}\n{text}\n{:?}\nlast steps, newest first: {tail:#?}", scenario.lives)
    })?;
    totals.rows = scenario.rows.iter().map(|outside| outside.rows.len() as u64).sum();
    totals.commands = state.device.effects.len() as u64;
    totals.events = trace.len() as u64;
    Ok(Told { trace, totals })
}

impl Simulation<'_> {
    fn run(&mut self) -> Result<(), String> {
        let mut ended = check::runs::Ended::default();
        for life in self.scenario.lives.clone() {
            damage::look(&self.disk, &self.world);
            let begins = self.disk.operations();
            self.disk.plan_all(life.faults.iter().map(|(at, fault)| (begins + at, *fault)).collect());
            self.live(Some(&life)).ok();
            if !life.stops || self.disk.is_down() {
                self.totals.crashes += 1;
            } else {
                self.totals.stops += 1;
            }
            self.disk.restart(&mut self.seed);
            if life.damage {
                damage::damage(&self.disk, &self.world, &mut self.seed);
            }
            ended.look(&self.world)?;
        }
        // Faults that were planned and have not come do not come any more.
        self.disk.restart(&mut self.seed);
        damage::look(&self.disk, &self.world);
        self.world.lock().is_calm = true;
        let calm = self.live(None);
        ended.look(&self.world)?;
        self.totals.simulated = Duration::from_micros(self.world.true_us().abs_diff(crate::world::START_US));
        self.totals.runs = ended.count();
        match calm {
            // Rather nothing than rows twice, or from the beginning: a person decides.
            Err(error) if self.may_refuse(&error) => check::refused(&self.scenario, &self.world),
            Err(error) => Err(format!("ends_well: {error}")),
            Ok(()) => check::all(self.case, &self.scenario, &self.world),
        }
    }

    /// A byte of the disk may cost all that a topology could go on from.
    fn may_refuse(&self, error: &JobError) -> bool {
        let reason = error.to_string();
        let is_refusal = reason.contains(sink::AHEAD) || reason.contains("no checkpoint is whole");
        is_refusal && self.scenario.lives.iter().any(|life| life.damage)
    }

    /// One life of the daemon; without one that ends it, until everything has
    /// ended by itself.
    fn live(&mut self, life: Option<&Life>) -> Result<(), JobError> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
        let lived = runtime.block_on(async {
            self.world.set_life(true);
            let lived = match self.start() {
                Err(error) => Err(error),
                Ok(running) => match life {
                    Some(life) => running.until_it_ends(life, &self.disk, &self.world).await,
                    None => {
                        let calm = running.calm(&self.scenario, &self.world);
                        let hangs = Err(JobError::State("it hangs".into()));
                        tokio::time::timeout(CALM_MAX, calm).await.unwrap_or(hangs)
                    }
                },
            };
            self.world.set_life(false);
            lived
        });
        drop(runtime);
        lived
    }

    fn start(&self) -> Result<Running, JobError> {
        let broken = |error: &dyn std::fmt::Display| JobError::State(error.to_string());
        let (parsed, name) = read(&self.text, "simulated", &|_| None).expect("a right topology");
        let mut context = BuildContext::new(&name, "/".into(), "/data".into(), Arc::clone(self.expressions));
        context.shared.get_or_insert("world", || Slot(Arc::clone(&self.world)));
        context.clock = Arc::new(SimClock(Arc::clone(&self.world)));
        let every_min = self.scenario.flow.as_ref().map(|flow| flow.every_min).unwrap_or_default();
        context.writes = Arc::new(device::rules(every_min));
        let loaded = load(&parsed, &CATALOG, &context).expect("a right topology");
        let mut plan = loaded.plan;
        let mut scheduler = None;
        if !loaded.flows.is_empty() {
            let workshop = Workshop {
                catalog: CATALOG,
                context: context.clone(),
                tables: loaded.tables.clone(),
                text: self.text.as_str().into(),
                variable: Arc::new(|_: &str| None),
            };
            let flows = tidegate_engine::flow::spec::build(&loaded.flows, &loaded.triggers, workshop);
            let flows = Arc::new(flows.expect("right flows"));
            let journal = self.journal().map_err(|error| broken(&error))?;
            let config = SchedulerConfig {
                journal,
                clock: Arc::clone(&context.clock),
                events: FlowEvents::default(),
                active_max: 4,
                retention: loaded.retention,
            };
            let handle = scheduler::start(Arc::clone(&flows), config).map_err(|error| broken(&error))?;
            plan.sinks.extend(flows.links.iter().map(|link| Launcher::node(link.clone(), handle.clone())));
            scheduler = Some(handle);
        }
        let config = JobConfig {
            data_dir: context.data_dir.clone(),
            vfs: Arc::new(self.disk.plugged()),
            clock: Arc::clone(&context.clock),
            compute: tokio::runtime::Handle::current(),
            allowed: Default::default(),
            log_limits: LOG_LIMITS,
        };
        Ok(Running { job: Job::start(plan, &config)?, scheduler, clock: context.clock })
    }

    /// The journal, on the same machine: its commits take their time.
    fn journal(&self) -> Result<Arc<Journal>, tidegate_engine::flow::journal::JournalError> {
        let (disk, world) = (self.disk.plugged(), Arc::clone(&self.world));
        let operation = move || {
            let stall = disk.operation()?;
            let mut state = world.lock();
            let pause = [0, 1, 5, 30][state.seed.below(4)];
            Ok(stall + Duration::from_millis(pause))
        };
        Journal::simulated(&self.world.folder.journal(), Box::new(operation))
    }
}

/// A daemon with its topology.
pub(crate) struct Running {
    job: Job,
    pub(crate) scheduler: Option<SchedulerHandle>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Running {
    async fn until_it_ends(
        mut self,
        life: &Life,
        disk: &SimDisk,
        world: &Arc<World>,
    ) -> Result<(), JobError> {
        let people = people::meddle(self.scheduler.clone(), Arc::clone(&self.clock), Arc::clone(world));
        let jump = jump(life, world);
        tokio::select! {
            biased;
            ended = self.job.wait() => return ended,
            () = disk.down() => return Ok(()),
            () = people => {}
            () = jump => {}
            () = tokio::time::sleep(life.after) => {}
        }
        if life.stops {
            self.job.stop().await;
            let stops = async {
                self.job.wait().await.ok();
                if let Some(scheduler) = &self.scheduler {
                    scheduler.stop().await;
                }
            };
            tokio::select! {
                biased;
                () = disk.down() => {}
                stopped = tokio::time::timeout(CALM_MAX, stops) => {
                    stopped.map_err(|_| JobError::State("it does not stop".into()))?;
                }
            }
        }
        Ok(())
    }

    async fn calm(mut self, scenario: &Scenario, world: &Arc<World>) -> Result<(), JobError> {
        self.job.wait().await?;
        people::settle(&self, scenario, world).await;
        if let Some(scheduler) = &self.scheduler {
            scheduler.stop().await;
        }
        Ok(())
    }
}

/// Sets the clock in the middle of a life; never ends.
async fn jump(life: &Life, world: &World) {
    if let Some((after, by_us)) = life.jump {
        tokio::time::sleep(after).await;
        world.clock_jump_us.fetch_add(by_us, Ordering::Relaxed);
        world.lock().note(format!("the clock is set by {by_us} us"));
    }
    std::future::pending().await
}
