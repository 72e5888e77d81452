//! Silence and barriers where an operator waits for a table.

use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::runtime::edge::edge;
use crate::storage::vfs::RealDisk;
use crate::time::SystemClock;

/// Holds rows back until its table has come, and takes none while it has one.
#[derive(Default)]
struct Holds(Vec<RecordBatch>, bool);

impl Operator for Holds {
    fn on_batch(
        &mut self,
        input: usize,
        rows: &RecordBatch,
        out: &mut Output,
    ) -> Result<Progress, OperatorError> {
        if input == 0 {
            self.0.push(rows.clone());
        }
        self.1 |= input == 1;
        if self.1 {
            self.0.drain(..).for_each(|rows| out.emit(rows));
        }
        Ok(Progress::Done)
    }

    fn output_watermark(&self, input: Time) -> Time {
        if self.0.is_empty() { input } else { Time(1) }
    }

    fn waits(&self) -> bool {
        !self.0.is_empty()
    }

    fn accepts(&self, input: usize) -> bool {
        input == 1 || self.0.is_empty()
    }
}

struct Run {
    rows: EdgeSender,
    table: EdgeSender,
    left: EdgeReceiver,
    _words: mpsc::Receiver<super::super::parts::FromPart>,
}

fn start(folder: &std::path::Path) -> Run {
    let (rows, first) = edge(64, 1 << 20);
    let (table, second) = edge(64, 1 << 20);
    let (out, left) = edge(64, 1 << 20);
    let (sender, words) = mpsc::channel(64);
    let stats = NodeStats::new("test", "x", "operator", &[""]);
    let slot = Slot {
        operator: Box::new(Holds::default()),
        limit: StateLimit::new(None, Arc::clone(&stats)),
        stats,
        job: JobLine { part: "x".into(), sender },
        ports: vec![vec![Target::Edge(out)]],
        quarantine: DeadLetters::new(Arc::new(RealDisk), Arc::new(SystemClock), folder, "x"),
    };
    tokio::spawn(
        Segment { inputs: vec![first, second], tables: vec![1], slots: vec![slot], merges: false }.run(),
    );
    Run { rows, table, left, _words: words }
}

async fn give(edge: &EdgeSender, event: Event) {
    edge.send(event).await.expect("it reads");
}

fn batch() -> Event {
    let column: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    Event::Batch(RecordBatch::try_from_iter([("a", column)]).expect("a batch"))
}

impl Run {
    async fn next(&mut self) -> String {
        match timeout(Duration::from_secs(60), self.left.recv()).await {
            Err(_) => "nothing".into(),
            Ok(Some(Event::Batch(_))) => "rows".into(),
            Ok(event) => format!("{event:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn silence_does_not_overtake_rows_that_wait_for_a_table() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut run = start(folder.path());
    give(&run.rows, batch()).await;
    // Its rows are refused from now on, so this stays on the edge until a barrier.
    give(&run.rows, Event::Watermark(Watermark::Time(Time(5)))).await;
    give(&run.rows, Event::Watermark(Watermark::Idle)).await;
    let barrier = |epoch| Event::Barrier(Barrier { epoch, then_stop: false, light: false });
    give(&run.rows, barrier(1)).await;
    give(&run.table, barrier(1)).await;
    assert!(run.next().await.contains("Time(1)"), "held back");
    assert!(run.next().await.contains("Barrier"), "a checkpoint waits for no table");
    assert_eq!(run.next().await, "nothing", "silence waits");
    give(&run.table, batch()).await;
    assert_eq!(run.next().await, "rows");
    assert!(run.next().await.contains("Time(5)"));
    assert!(run.next().await.contains("Idle"));
    // Another version says nothing of rows.
    give(&run.table, batch()).await;
    assert!(run.next().await.contains("Time(5)"));
    assert!(run.next().await.contains("Idle"), "still silent");
}
