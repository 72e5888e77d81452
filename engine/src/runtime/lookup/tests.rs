//! The loop of a look-up against a peer that is slow, away, silent or wrong.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use arrow::array::{AsArray, Int64Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::*;
use crate::event::Watermark;
use crate::expression::Expression;
use crate::lookup::{Answers, Lookup, LookupError, LookupPart, OnError, Settings};
use crate::runtime::edge::{EdgeSender, edge};
use crate::runtime::parts::FromPart;
use crate::runtime::stats::NodeStats;
use crate::schema::StreamSchema;
use crate::time::Time;

/// Knows of each key `k` that `k * 10`, and of multiples of 3 nothing; takes
/// longer for smaller keys.
#[derive(Default)]
struct Peer {
    asked: Mutex<BTreeMap<i64, usize>>,
    at_once: AtomicUsize,
    most: AtomicUsize,
    /// Attempts that fail before one has an answer.
    failures: AtomicUsize,
}

#[async_trait]
impl Lookup for Peer {
    async fn fetch(&self, keys: &RecordBatch) -> Result<Answers, LookupError> {
        let key = keys.column(0).as_primitive::<Int64Type>().value(0);
        *self.asked.lock().expect("one thread").entry(key).or_default() += 1;
        let now = self.at_once.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(now, SeqCst);
        let pause = Duration::from_millis(u64::try_from(100 - key.min(90)).expect("small"));
        sleep(pause / 2).await;
        sleep(pause / 2).await;
        self.at_once.fetch_sub(1, SeqCst);
        if self.failures.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(LookupError::Later("is away".into()));
        }
        if key == 66 {
            return Err(LookupError::Never("is wrong".into()));
        }
        let known: Vec<i64> =
            if key % 3 == 0 { Vec::new() } else { vec![key * 10; usize::from(key == 7) + 1] };
        let of = vec![0; known.len()];
        let column: ArrayRef = Arc::new(Int64Array::from(known));
        Ok(Answers {
            rows: RecordBatch::try_new(answers(), vec![column]).expect("fits"),
            of,
            refused: Vec::new(),
        })
    }
}

#[derive(Debug)]
struct First;

impl Expression for First {
    fn data_type(&self) -> &DataType {
        &DataType::Int64
    }

    fn nullable(&self) -> bool {
        true
    }

    fn columns(&self) -> Vec<usize> {
        vec![0]
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, OperatorError> {
        Ok(Arc::clone(batch.column(0)))
    }
}

fn answers() -> arrow::datatypes::SchemaRef {
    Arc::new(Schema::new(vec![Field::new("v", DataType::Int64, true)]))
}

struct Run {
    peer: Arc<Peer>,
    sender: EdgeSender,
    rows: EdgeReceiver,
    rejects: EdgeReceiver,
    words: mpsc::Receiver<FromPart>,
}

fn start(settings: Settings) -> Run {
    let peer = Arc::new(Peer::default());
    let run = start_with(Arc::clone(&peer) as _, settings);
    Run { peer, ..run }
}

fn start_with(lookup: Arc<dyn Lookup>, settings: Settings) -> Run {
    let field = |name: &str| Field::new(name, DataType::Int64, true);
    let plan = LookupPlan {
        node: "x".into(),
        part: LookupPart { lookup, keys: vec![Arc::new(First)], columns: answers() },
        keys: Arc::new(Schema::new(vec![field("key 0")])),
        input: StreamSchema::new(vec![field("k")], None),
        output: StreamSchema::new(vec![field("k"), field("v")], None),
        settings,
    };
    let (sender, input) = edge(64, 1 << 20);
    let (out, rows) = edge(64, 1 << 20);
    let (bad, rejects) = edge(64, 1 << 20);
    let (words_in, words) = mpsc::channel(64);
    let stats = NodeStats::new("test", "x", "operator", &["", "rejects"]);
    let outlets = Outlets { ports: vec![vec![out], vec![bad]], stats };
    let job = JobLine { part: "x".into(), sender: words_in };
    tokio::spawn(Stage::new(plan, input, outlets, job).expect("keys that can be").run());
    Run { peer: Arc::default(), sender, rows, rejects, words }
}

impl Run {
    async fn give(&self, keys: &[Option<i64>]) {
        let column: ArrayRef = Arc::new(Int64Array::from(keys.to_vec()));
        let schema = Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, true)]));
        let batch = RecordBatch::try_new(schema, vec![column]).expect("fits");
        self.sender.send(Event::Batch(batch)).await.expect("it reads");
    }

    async fn watermark(&self, time: i64) {
        self.sender.send(Event::Watermark(Watermark::Time(Time(time)))).await.expect("it reads");
    }

    async fn end(&self) {
        self.sender.send(Event::End).await.expect("it reads");
    }

    /// What leaves until the end: `k=v`, `W…`, `B…`.
    async fn left(&mut self) -> Vec<String> {
        let mut left = Vec::new();
        loop {
            let event = timeout(Duration::from_secs(600), self.rows.recv()).await.expect("in time");
            match event {
                Some(Event::Batch(batch)) => {
                    let column = |index: usize| batch.column(index).as_primitive::<Int64Type>().clone();
                    let show = |value: Option<i64>| value.map_or("-".into(), |value| value.to_string());
                    left.extend(
                        column(0)
                            .iter()
                            .zip(column(1).iter())
                            .map(|(k, v)| format!("{}={}", show(k), show(v))),
                    );
                }
                Some(Event::Watermark(Watermark::Time(time))) => left.push(format!("W{}", time.0)),
                Some(Event::Watermark(Watermark::Idle)) => left.push("idle".into()),
                Some(Event::Barrier(barrier)) => left.push(format!("B{}", barrier.epoch)),
                Some(Event::End) | None => return left,
            }
        }
    }

    fn rejected(&mut self) -> usize {
        let mut count = 0;
        while let Some(event) = self.rejects.try_recv() {
            if let Event::Batch(batch) = event {
                count += batch.num_rows();
            }
        }
        count
    }
}

fn barrier(epoch: u64) -> Event {
    Event::Barrier(Barrier { epoch, then_stop: false, light: false })
}

#[tokio::test(start_paused = true)]
async fn rows_leave_as_they_came_and_each_key_is_asked_for_once() {
    let mut run = start(Settings::default());
    run.give(&[Some(1), Some(50), None, Some(3), Some(1)]).await;
    run.watermark(5).await;
    run.give(&[Some(7), Some(50)]).await;
    run.sender.send(barrier(1)).await.expect("it reads");
    run.give(&[Some(3), Some(80)]).await;
    run.end().await;
    let left = run.left().await;
    let expected =
        ["1=10", "50=500", "-=-", "3=-", "1=10", "W5", "7=70", "7=70", "50=500", "B1", "3=-", "80=800"];
    assert_eq!(left, expected);
    let asked = run.peer.asked.lock().expect("one thread").clone();
    assert_eq!(
        asked,
        BTreeMap::from([(1, 1), (3, 1), (7, 1), (50, 1), (80, 1)]),
        "also of which nothing is known"
    );
    let words: Vec<bool> = [run.words.recv().await, run.words.recv().await]
        .map(|word| matches!(word.expect("it has said").word, Word::Report(1, _) | Word::Ended(_)))
        .into();
    assert_eq!(words, [true, true]);
}

#[tokio::test(start_paused = true)]
async fn any_order_is_faster_but_no_watermark_or_barrier_overtakes() {
    let mut run = start(Settings { order: Order::Any, ..Settings::default() });
    run.give(&[Some(1)]).await;
    run.watermark(5).await;
    run.give(&[Some(80)]).await;
    run.sender.send(barrier(1)).await.expect("it reads");
    run.give(&[Some(80)]).await;
    run.end().await;
    assert_eq!(run.left().await, ["80=800", "1=10", "W5", "B1", "80=800"]);
}

#[tokio::test(start_paused = true)]
async fn requests_at_a_time_have_a_limit_and_senders_wait() {
    let mut run = start(Settings { in_flight: 3, cache_size: 0, ..Settings::default() });
    let keys: Vec<Option<i64>> = (1..=20_000).map(Some).collect();
    let sender = run.sender.clone();
    let column: ArrayRef = Arc::new(Int64Array::from(keys));
    let schema = Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, true)]));
    let batch = RecordBatch::try_new(schema, vec![column]).expect("fits");
    let send = async move {
        for start in (0..20_000).step_by(100) {
            sender.send(Event::Batch(batch.slice(start, 100))).await.expect("it reads");
        }
        sender.send(Event::End).await.expect("it reads");
    };
    let sending = tokio::spawn(send);
    sleep(Duration::from_secs(1)).await;
    assert!(!sending.is_finished(), "what waits has a limit");
    let left = timeout(Duration::from_secs(3_600), run.left()).await.expect("in time");
    // Of 7 two rows are known, of 66 none.
    assert_eq!(left.len(), 20_000);
    assert_eq!(run.peer.most.load(SeqCst), 3);
    assert_eq!(run.rejected(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_has_no_answer_is_tried_again_then_goes_where_it_should() {
    let given = |on_error, failures: usize| async move {
        let settings = Settings { on_error, timeout: Duration::from_millis(95), ..Settings::default() };
        let mut run = start(settings);
        run.peer.failures.store(failures, SeqCst);
        // Key 1 takes too long, whatever is tried.
        run.give(&[Some(50), Some(66), Some(1)]).await;
        run.end().await;
        let left = run.left().await;
        let failed = run.words.recv().await.is_some_and(|word| matches!(word.word, Word::Failed(_)));
        (left, run.rejected(), failed)
    };
    let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    assert_eq!(given(OnError::Reject, 2).await, (lines(&["50=500"]), 2, false));
    assert_eq!(given(OnError::Null, 2).await, (lines(&["50=500", "66=-", "1=-"]), 0, false));
    assert_eq!(given(OnError::Fail, 0).await, (lines(&[]), 0, true));
    assert_eq!(given(OnError::Reject, 1_000).await, (lines(&[]), 3, false), "three further attempts");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_slow_is_no_slow_peer() {
    let settings = Settings { timeout: Duration::from_millis(200), retries: 0, ..Settings::default() };
    let mut run = start(settings);
    let sender = run.sender.clone();
    let sending = tokio::spawn(async move {
        let schema = Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, true)]));
        for key in (1..=1_000).filter(|key| *key != 66) {
            let column: ArrayRef = Arc::new(Int64Array::from(vec![key]));
            let batch = RecordBatch::try_new(Arc::clone(&schema), vec![column]).expect("fits");
            sender.send(Event::Batch(batch)).await.expect("it reads");
        }
        sender.send(Event::End).await.expect("it reads");
    });
    sleep(Duration::from_secs(10)).await;
    assert!(!sending.is_finished(), "the reader has held it up");
    assert_eq!(run.left().await.len(), 1_000, "one of them twice");
    assert_eq!(run.rejected(), 0);
}

/// Answers so many keys in a tenth of a second each, or nothing.
struct Slow {
    is_deaf: std::sync::atomic::AtomicBool,
    requests: Mutex<Vec<usize>>,
}

#[async_trait]
impl Lookup for Slow {
    fn keys_max(&self) -> usize {
        256
    }

    fn at_once(&self) -> usize {
        1
    }

    async fn fetch(&self, keys: &RecordBatch) -> Result<Answers, LookupError> {
        self.requests.lock().expect("one thread").push(keys.num_rows());
        if self.is_deaf.load(SeqCst) {
            std::future::pending::<()>().await;
        }
        sleep(Duration::from_millis(100) * u32::try_from(keys.num_rows()).expect("small")).await;
        let column = Arc::clone(keys.column(0));
        let rows = RecordBatch::try_new(answers(), vec![column]).expect("fits");
        Ok(Answers { rows, of: (0..keys.num_rows()).collect(), refused: Vec::new() })
    }
}

fn slow(is_deaf: bool) -> (Arc<Slow>, Run) {
    let slow = Arc::new(Slow { is_deaf: is_deaf.into(), requests: Mutex::default() });
    (Arc::clone(&slow), start_with(slow, Settings::default()))
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_too_many_for_the_time_are_asked_for_in_fewer() {
    let (peer, mut run) = slow(false);
    run.give(&(0..1_000).map(Some).collect::<Vec<_>>()).await;
    run.end().await;
    assert_eq!(run.left().await.len(), 1_000);
    assert_eq!(run.rejected(), 0);
    let requests = peer.requests.lock().expect("one thread").clone();
    let late = requests.iter().filter(|keys| **keys >= 50).count();
    assert!(late <= 8, "it learns: {requests:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_silent_holds_a_checkpoint_up_for_a_time_only() {
    let (peer, mut run) = slow(true);
    run.give(&(0..8_000).map(Some).collect::<Vec<_>>()).await;
    run.sender.send(barrier(1)).await.expect("it reads");
    let began = Instant::now();
    assert!(matches!(run.words.recv().await.map(|word| word.word), Some(Word::Report(1, _))));
    assert!(began.elapsed() < Duration::from_secs(180), "{:?}", began.elapsed());
    assert_eq!(run.rejected(), 8_000);
    // From now on one question tells.
    run.give(&(0..8_000).map(Some).collect::<Vec<_>>()).await;
    run.sender.send(barrier(2)).await.expect("it reads");
    let (began, asked) = (Instant::now(), peer.requests.lock().expect("one thread").len());
    assert!(matches!(run.words.recv().await.map(|word| word.word), Some(Word::Report(2, _))));
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert_eq!(peer.requests.lock().expect("one thread").len(), asked + 1);
    // It is back: nobody is failed for what was.
    peer.is_deaf.store(false, SeqCst);
    assert_eq!(run.rejected(), 8_000);
    run.give(&(0..100).map(Some).collect::<Vec<_>>()).await;
    run.end().await;
    let left = run.left().await;
    assert_eq!(left.iter().filter(|line| line.contains('=')).count(), 100);
    assert_eq!(run.rejected(), 0);
}
