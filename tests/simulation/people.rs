//! People: they answer now and then while everything goes wrong, and at last
//! where a run waits for them, if there are any.

use std::sync::Arc;
use std::time::Duration;

use tidegate_engine::flow::journal::{Resolved, RunLine};
use tidegate_engine::flow::scheduler::SchedulerHandle;
use tidegate_engine::flow::state::{Resolution, RunState, TaskState};
use tidegate_engine::time::Clock;

use crate::life::Running;
use crate::scenario::Scenario;
use crate::world::World;

/// Somebody looks so often.
const LOOKS_EVERY: Duration = Duration::from_secs(7);

/// Looks at the runs now and then and decides about those that need somebody;
/// never ends.
pub(crate) async fn meddle(scheduler: Option<SchedulerHandle>, clock: Arc<dyn Clock>, world: Arc<World>) {
    let Some(scheduler) = scheduler else { return std::future::pending().await };
    loop {
        tokio::time::sleep(LOOKS_EVERY).await;
        let paused = waiting(&scheduler);
        for run in paused {
            let choice = world.lock().seed.below(6);
            match choice {
                0 => decide(&scheduler, &clock, &run, &world).await,
                1 => scheduler.retry(run.id).await,
                2 => drop(scheduler.cancel(run.id, "a person stops it").await),
                _ => {}
            }
        }
    }
}

/// Waits until every run has ended, but for those that nobody answers.
pub(crate) async fn settle(running: &Running, scenario: &Scenario, world: &Arc<World>) {
    let Some(scheduler) = &running.scheduler else { return };
    let has_people = scenario.flow.as_ref().is_some_and(|flow| flow.has_people);
    loop {
        let idle = scheduler.wait_idle().await;
        let is_paused = |run: &RunLine| run.state == RunState::Paused;
        if !idle.waiting.iter().any(|run| !is_paused(run) || has_people) {
            return;
        }
        for run in idle.waiting.iter().filter(|run| is_paused(run)) {
            decide(scheduler, &running.clock, run, world).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn waiting(scheduler: &SchedulerHandle) -> Vec<RunLine> {
    let open = scheduler.journal().unfinished("simulated").unwrap_or_default();
    open.into_iter().filter(|run| run.state == RunState::Paused).collect()
}

/// Says what became of an unknown write; stops a run that cannot go on.
async fn decide(scheduler: &SchedulerHandle, clock: &Arc<dyn Clock>, run: &RunLine, world: &Arc<World>) {
    let tasks = scheduler.journal().tasks(run.id).unwrap_or_default();
    let Some(task) = tasks.into_iter().find(|task| task.state == TaskState::Unknown) else {
        drop(scheduler.cancel(run.id, "a person stops it").await);
        return;
    };
    let resolution = Resolution::ALL[world.lock().seed.below(2)];
    let said = Resolved { task: task.task, resolution, who: "a person".into(), at: clock.now() };
    world.lock().note(format!("run {} is resolved: {said:?}", run.id));
    // What is not taken has been answered meanwhile, or the disk has failed.
    drop(scheduler.resolve(run.id, said).await);
}
