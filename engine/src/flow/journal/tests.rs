//! The journal under crashes, replays and damage.

use std::time::Duration;

use super::*;
use crate::flow::admission::Overlap;
use crate::flow::key::RunKey;
use crate::flow::state::{Outcome, RunState, TaskState};
use crate::time::Time;

fn rules(overlap: Overlap) -> Arc<LaunchRules> {
    Arc::new(LaunchRules {
        topology: "plant".into(),
        trigger: "hot".into(),
        flow: "cool".into(),
        revision: "1".into(),
        mode: "armed",
        overlap,
        cooldown: Duration::ZERO,
        starts_max: None,
    })
}

fn firing(key: &str, at: i64) -> NewFiring {
    NewFiring {
        run_key: RunKey::of("plant", "hot", key, Time(at), 0),
        key: key.into(),
        fired_at: Time(at),
        ordinal: 0,
        rows: Arc::from([1_u8, 2, 3]),
        offer: Offer::Run { params: Arc::from([9_u8]), group: key.into() },
    }
}

async fn launch(journal: &Journal, rules: &Arc<LaunchRules>, firing: NewFiring, now: i64) -> Launched {
    let answer = journal.launch(Arc::clone(rules), Arc::from([firing]), Time(now));
    let mut launched = in_time(answer).await.expect("the disk works");
    launched.pop().expect("one firing, one answer")
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("within 20 s")
}

fn ended(state: RunState) -> Vec<Record> {
    vec![Record::Run { state, reason: String::new(), closing: None }]
}

#[tokio::test]
async fn a_firing_is_found_again_even_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("journal.db");
    let rules = rules(Overlap::Allow);
    let journal = Journal::open(&path).expect("a new file");
    let first = launch(&journal, &rules, firing("p1", 5), 100).await;
    assert!(first.fresh && first.outcome == Outcome::Started && first.start.is_some());
    drop(journal);
    let journal = Journal::open(&path).expect("an old file");
    let again = launch(&journal, &rules, firing("p1", 5), 200).await;
    assert_eq!(again, Launched { outcome: Outcome::Started, fresh: false, start: None, stop: vec![] });
    let run = first.start.expect("started");
    assert_eq!(journal.open_runs("plant", 0, 10).expect("reads"), [run]);
    let open = journal.open_run(run).expect("reads").expect("is open");
    assert_eq!((open.rows, open.params, open.fired_at), (vec![1, 2, 3], vec![9], Time(5)));
}

#[tokio::test]
async fn groups_queue_join_replace_and_cool() {
    let folder = tempfile::tempdir().expect("a folder");
    let journal = Journal::open(&folder.path().join("journal.db")).expect("a new file");
    let queue_one = rules(Overlap::QueueOne);
    let a = launch(&journal, &queue_one, firing("p", 1), 1).await.start.expect("starts");
    assert_eq!(launch(&journal, &queue_one, firing("p", 2), 2).await.outcome, Outcome::Queued);
    assert_eq!(launch(&journal, &queue_one, firing("p", 3), 3).await.outcome, Outcome::Joined);
    assert_eq!(launch(&journal, &rules(Overlap::Skip), firing("p", 4), 4).await.outcome, Outcome::Skipped);
    let other = launch(&journal, &queue_one, firing("q", 3), 5).await;
    assert_eq!(other.outcome, Outcome::Started, "another group");
    let next =
        in_time(journal.advance(a, ended(RunState::Succeeded), Time(9))).await.expect("the disk works");
    let b = next.start.expect("the waiting run may go");
    let joined = journal.open_run(b).expect("reads").expect("is open");
    assert_eq!(joined.fired_at, Time(3), "the newest firing's values");
    let again = in_time(journal.advance(a, ended(RunState::Failed), Time(10))).await.expect("the disk works");
    assert_eq!(again.start, None);
    let replace = launch(&journal, &rules(Overlap::Replace), firing("p", 6), 11).await;
    assert_eq!((replace.outcome, replace.start), (Outcome::Queued, None));
    assert_eq!(replace.stop.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [b]);
    assert!(journal.open_run(b).expect("reads").expect("is open").stop.is_some());
    let runs = journal.runs(10).expect("reads");
    let first = runs.iter().find(|run| run.id == a).expect("is there");
    assert_eq!(first.state, RunState::Succeeded, "a run that has ended never changes");

    let cooling = Arc::new(LaunchRules {
        cooldown: Duration::from_micros(100),
        trigger: "warm".into(),
        ..(*rules(Overlap::Allow)).clone()
    });
    let outcomes = [(1_000, Outcome::Started), (1_099, Outcome::Cooling), (1_100, Outcome::Started)];
    for (at, outcome) in outcomes {
        assert_eq!(launch(&journal, &cooling, firing("p", at), at).await.outcome, outcome, "{at}");
    }
    let limited = Arc::new(LaunchRules {
        starts_max: Some((2, Duration::from_secs(1))),
        trigger: "storm".into(),
        ..(*rules(Overlap::Allow)).clone()
    });
    for (at, outcome) in [(1, Outcome::Started), (2, Outcome::Started), (3, Outcome::Limited)] {
        assert_eq!(
            launch(&journal, &limited, firing("s", at), 2_000_000 + at).await.outcome,
            outcome,
            "{at}"
        );
    }
    let later = launch(&journal, &limited, firing("s", 4), 9_000_000).await;
    assert_eq!(later.outcome, Outcome::Started);
}

#[tokio::test]
async fn states_of_tasks_are_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("journal.db");
    let journal = Journal::open(&path).expect("a new file");
    let run = launch(&journal, &rules(Overlap::Allow), firing("p", 1), 1).await.start.expect("starts");
    let line = |state, wait_until, result| Record::Task {
        task: "a".into(),
        state,
        attempt: 2,
        failures: 1,
        wait_until,
        wait_data: Some(vec![5]),
        reason: "why".into(),
        result,
    };
    in_time(journal.note(run, vec![line(TaskState::Running, None, None)], Time(2)))
        .await
        .expect("handed over");
    let records = vec![
        line(TaskState::TimerWait, Some(Time(77)), None),
        Record::Run {
            state: RunState::Waiting,
            reason: "r".into(),
            closing: Some((RunState::Cancelled, "c".into())),
        },
    ];
    in_time(journal.advance(run, records, Time(3))).await.expect("the disk works");
    drop(journal);
    let journal = Journal::open(&path).expect("an old file");
    let open = journal.open_run(run).expect("reads").expect("is open");
    assert_eq!((open.state, open.started_at), (RunState::Waiting, Some(Time(3))));
    assert_eq!(open.closing, Some((RunState::Cancelled, "c".into())));
    let task = &open.tasks[0];
    assert_eq!((task.state, task.attempt, task.failures), (TaskState::TimerWait, 2, 1));
    assert_eq!((task.wait_until, task.wait_data.as_deref()), (Some(Time(77)), Some(&[5_u8][..])));
}

#[tokio::test]
async fn a_full_disk_poisons_the_journal_and_nothing_is_acknowledged() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("journal.db");
    let journal = Journal::open(&path).expect("a new file");
    let rules = rules(Overlap::Allow);
    launch(&journal, &rules, firing("p", 1), 1).await;
    // SQLite answers SQLITE_FULL, as it does when the disk is full.
    in_time(journal.write(|writing| writing.sql.pragma_update(None, "max_page_count", 1)))
        .await
        .expect("set");
    let mut large = firing("p", 2);
    large.rows = vec![0; 1 << 20].into();
    let error =
        in_time(journal.launch(Arc::clone(&rules), Arc::from([large]), Time(2))).await.expect_err("full");
    assert!(error.0.contains("journal.db") && error.0.contains("full"), "{error}");
    let after = in_time(journal.launch(Arc::clone(&rules), Arc::from([firing("p", 3)]), Time(3))).await;
    assert_eq!(after, Err(error.clone()), "every later call says why");
    assert_eq!(journal.poisoned(), Some(&error));
    drop(journal);
    let journal = Journal::open(&path).expect("opens again");
    let found: Vec<Time> = journal.runs(9).expect("reads").iter().map(|run| run.fired_at).collect();
    assert_eq!(found, [Time(1)], "what was acknowledged is there, the rest is not");
}

#[tokio::test]
async fn many_waiters_share_few_commits() {
    let folder = tempfile::tempdir().expect("a folder");
    let journal = Journal::open(&folder.path().join("journal.db")).expect("a new file");
    let rules = rules(Overlap::Allow);
    let waiters = (0..2_000).map(|at| launch(&journal, &rules, firing("p", at), at));
    let launched = in_time(futures::future::join_all(waiters)).await;
    assert!(launched.iter().all(|one| one.fresh && one.outcome == Outcome::Started));
    let mut ids: Vec<i64> = launched.iter().filter_map(|one| one.start).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 2_000, "numbers are unique though the clock stood");
}

#[test]
fn a_newer_journal_and_a_file_that_is_none_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("journal.db");
    drop(Journal::open(&path).expect("a new file"));
    let connection = Connection::open(&path).expect("opens");
    connection.pragma_update(None, "user_version", 99).expect("sets");
    drop(connection);
    let error = Journal::open(&path).err().expect("too new");
    assert!(error.0.contains("version 99"), "{error}");
    let error = JournalReader::open(&path).err().expect("too new");
    assert!(error.0.contains("version 99"), "{error}");
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "not a database, but long enough to look at; ".repeat(100)).expect("writes");
    assert!(Journal::open(&text).is_err());
    assert!(JournalReader::open(&folder.path().join("none.db")).is_err());
}
