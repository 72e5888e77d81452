//! `alert`, `emit`, `ticket` and `wait`: kept in the journal, once, also over a
//! restart in the wait.

use tidegate_engine::flow::events::What;
use tidegate_engine::flow::state::{RunState, TaskState};

use super::parts::{firing_batch, in_time};
use super::{end, start};

const TASKS: &str = r#"
[[flow.warn.task]]
id = "tell"
type = "alert"
severity = "critical"
text = "{machine}: {round(v)}"
[[flow.warn.task]]
id = "order"
type = "ticket"
severity = "high"
title = "Look at {machine}"
body = "{{{v}}}"
[[flow.warn.task]]
id = "pause"
type = "wait"
for = "1s"
[[flow.warn.task]]
id = "on"
type = "emit"
name = "looked-at"
text = "run {run.id}"
"#;

#[tokio::test]
async fn what_is_told_is_kept_once_and_a_wait_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut first = start(TASKS, folder.path());
    let mut heard = first.events.listen();
    first.fire(&firing_batch(&[(5, "pump 1", 99.5)])).await;
    let waits = async {
        loop {
            let what = heard.recv().await.expect("is told").what;
            if matches!(what, What::Task { state: TaskState::TimerWait, .. }) {
                break;
            }
        }
    };
    in_time(waits).await;
    in_time(first.scheduler.stop()).await;
    drop(first);
    let second = start(TASKS, folder.path());
    let run = end(&second).await;
    assert_eq!(run.state, RunState::Succeeded, "{run:?}");
    let journal = second.scheduler.journal();
    let told: Vec<(String, String, String)> = journal
        .notices(9)
        .expect("reads")
        .into_iter()
        .map(|line| (line.kind, line.severity, line.text))
        .collect();
    let id = tidegate_engine::flow::key::run_id_text(run.id);
    let expected =
        [("looked-at", "info", format!("run {id}")), ("alert", "critical", "pump 1: 100.0".into())];
    assert_eq!(told, expected.map(|(kind, severity, text)| (kind.into(), severity.into(), text)));
    let tickets = journal.tickets(9).expect("reads");
    let [ticket] = tickets.as_slice() else { panic!("{tickets:?}") };
    assert_eq!((ticket.title.as_str(), ticket.body.as_str()), ("Look at pump 1", "{99.5}"));
    assert_eq!((ticket.severity.as_str(), ticket.state.as_str(), ticket.run), ("high", "open", run.id));
}
