//! One seed: a topology and its data, lives that end badly, and a calm end.

use std::sync::Arc;
use std::time::Duration;

use tidegate_engine::catalog::{Catalog, Row as CatalogRow};
use tidegate_engine::runtime::job::{Job, JobConfig, JobError};
use tidegate_engine::testing::disk::{Fault, SimDisk};
use tidegate_engine::testing::seed::Seed;
use tidegate_engine::topology::load::{load, read};
use tidegate_engine::topology::node::BuildContext;
use tokio::time::Instant;

use crate::world::{Outside, Row, SimClock, World};
use crate::{Totals, catalog, check, sink, source};

const CATALOG: Catalog = Catalog {
    sources: &[&[
        CatalogRow { name: "list", summary: "", keys: &[], example: "", build: source::list },
        CatalogRow { name: "peer", summary: "", keys: &[], example: "", build: source::peer },
    ]],
    sinks: &[&[CatalogRow { name: "remote", summary: "", keys: &[], example: "", build: sink::remote }]],
    ..catalog::CATALOG
};

/// Lives before the calm.
const LIVES_MAX: usize = 6;
/// How long a calm topology may take to end, simulated.
const CALM_MAX: Duration = Duration::from_secs(3_600);
/// 2023-11-14, in microseconds.
const START_US: i64 = 1_700_000_000_000_000;

/// The world of a topology that is being built.
pub(crate) fn world(context: &BuildContext) -> Arc<World> {
    let slot = context.shared.get_or_insert("world", || Slot(World::new(Seed::new(0))));
    Arc::clone(&slot.0)
}

struct Slot(Arc<World>);

/// Runs a seed; answers what happened, in order.
pub(crate) fn run(number: u64, totals: &mut Totals) -> Vec<String> {
    let mut seed = Seed::new(number);
    let world = World::new(Seed::new(seed.number()));
    let topology = topology(&mut seed);
    fill(&world, &mut seed, totals);
    let disk = SimDisk::default();
    let mut now_us = START_US;
    for _ in 0..seed.below(LIVES_MAX + 1) {
        let plan = Chaos {
            after: Duration::from_millis(seed.below(20_000) as u64),
            stops: seed.chance(25),
            fault: [Fault::Crash, Fault::Crash, Fault::NoSpace, Fault::SyncError][seed.below(4)],
            at: seed.below(120) as u64,
        };
        disk.plan(disk.operations() + plan.at, plan.fault);
        live(&world, &disk, &topology, &mut now_us, totals, Some(&plan)).ok();
        if !plan.stops || disk.is_down() {
            totals.crashes += 1;
            disk.restart(&mut seed);
        } else {
            totals.stops += 1;
        }
    }
    // Faults that were planned and have not come do not come any more.
    disk.restart(&mut seed);
    world.lock().is_calm = true;
    let ended = live(&world, &disk, &topology, &mut now_us, totals, None);
    assert_eq!(ended, Ok(()), "seed {number}: the calm topology does not end well\n{topology}");
    check::all(number, &world, &topology);
    totals.simulated += Duration::from_micros(u64::try_from(now_us - START_US).unwrap_or(0));
    std::mem::take(&mut world.lock().trace)
}

/// How a life ends.
struct Chaos {
    after: Duration,
    /// By a stop, not by a kill.
    stops: bool,
    fault: Fault,
    /// Disk operations from its beginning until the fault.
    at: u64,
}

fn live(
    world: &Arc<World>,
    disk: &SimDisk,
    topology: &str,
    now_us: &mut i64,
    totals: &mut Totals,
    chaos: Option<&Chaos>,
) -> Result<(), JobError> {
    let (parsed, name) = read(topology, "simulated", &|_| None).expect("a right topology");
    let mut context = BuildContext::new(&name, "/".into(), "/data".into(), Arc::clone(&totals.expressions));
    context.shared.get_or_insert("world", || Slot(Arc::clone(world)));
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let since = Instant::now();
        context.clock = Arc::new(SimClock { start_us: *now_us, since });
        let loaded = load(&parsed, &CATALOG, &context).expect("a right topology");
        let config = JobConfig {
            data_dir: context.data_dir.clone(),
            vfs: Arc::new(disk.plugged()),
            clock: Arc::clone(&context.clock),
            compute: tokio::runtime::Handle::current(),
            reset_state: Vec::new(),
        };
        let lived = async {
            let mut job = Job::start(loaded.plan, &config)?;
            let Some(chaos) = chaos else {
                let ended = tokio::time::timeout(CALM_MAX, job.wait()).await;
                return ended.unwrap_or(Err(JobError::State("it hangs".into())));
            };
            tokio::select! {
                biased;
                ended = job.wait() => return ended,
                () = power_gone(disk) => return Ok(()),
                () = tokio::time::sleep(chaos.after) => {}
            }
            if chaos.stops {
                job.stop().await;
                tokio::select! {
                    biased;
                    () = power_gone(disk) => {}
                    stopped = tokio::time::timeout(CALM_MAX, job.wait()) => drop(stopped),
                }
            }
            Ok(())
        }
        .await;
        *now_us += i64::try_from(since.elapsed().as_micros()).unwrap_or(0);
        lived
    })
}

async fn power_gone(disk: &SimDisk) {
    while !disk.is_down() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn topology(seed: &mut Seed) -> String {
    let kind = ["list", "peer"];
    let interval = [50, 300, 2_000][seed.below(3)];
    let window = match seed.below(3) {
        0 => "{ kind = \"tumbling\", size = \"2s\" }",
        1 => "{ kind = \"tumbling\", size = \"700ms\", offset = \"100ms\" }",
        _ => "{ kind = \"hopping\", size = \"4s\", slide = \"1s\" }",
    };
    let mut text = format!("[topology]\ncheckpoint_interval = \"{interval}ms\"\n");
    let sources = 1 + seed.below(2);
    for index in 0..sources {
        text += &format!("[source.in{index}]\ntype = \"{}\"\n", kind[seed.below(2)]);
    }
    let mut from = "in0";
    if sources == 2 {
        text += "[operator.both]\ntype = \"union\"\nfrom = [\"in0\", \"in1\"]\n";
        from = "both";
    }
    if seed.chance(50) {
        text += &format!("[operator.some]\ntype = \"filter\"\nfrom = \"{from}\"\nwhere = \"n % 3 <> 1\"\n");
        from = "some";
    }
    text += &format!(
        "[operator.sums]\ntype = \"window\"\nfrom = \"{from}\"\nkey = [\"key\"]\nwindow = {window}\nselect = [\"count(*) AS rows\", \"sum(n) AS total\"]\n"
    );
    text += &format!("[sink.raw]\ntype = \"remote\"\nfrom = \"{from}\"\n");
    text + "[sink.windows]\ntype = \"remote\"\nfrom = \"sums\"\n[sink.late]\ntype = \"remote\"\nfrom = \"sums.late\"\n"
}

/// Rows for two sources; a topology may use one of them.
fn fill(world: &World, seed: &mut Seed, totals: &mut Totals) {
    for index in 0..2 {
        let mut time_us = START_US;
        let count = 1 + seed.below(150);
        let mut outside = Outside::default();
        for row in 0..count {
            time_us += seed.below(600_000) as i64;
            let most = source::DISORDER.as_micros() as usize;
            // Some rows come later than the source allows for.
            let most = if seed.chance(5) { 4 * most } else { most };
            let disorder = seed.below(most) as i64;
            let number = (index * 1_000_000 + row) as i64;
            let key = format!("k{}", seed.below(4));
            outside.rows.push(Row { number, key, time_us: time_us - disorder });
        }
        totals.rows += count as u64;
        world.lock().sources.insert(format!("in{index}"), outside);
    }
}
