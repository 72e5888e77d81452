//! The sink against a peer that answers as it is told; the source under
//! clients that are right, wrong, early and many.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::any;
use tidegate_engine::error::ConnectorError;
use tidegate_engine::operator::Input;
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::sink::Sink;
use tidegate_engine::source::{Polled, Rows, Source};
use tokio::time::Instant;

use super::{SINK, SOURCE};
use crate::format::testing::shown;
use crate::testing::{build_context, node};

const LIMIT: Duration = Duration::from_secs(30);

/// What the peer was sent: key, authorization, body.
type Seen = Vec<(String, String, String)>;

/// A peer that gives these answers in turn, then 200.
#[derive(Default)]
struct Peer {
    answers: Mutex<Vec<(u16, &'static str)>>,
    seen: Mutex<Seen>,
}

async fn answer(State(peer): State<Arc<Peer>>, headers: HeaderMap, body: String) -> impl IntoResponse {
    let header = |name: &str| headers.get(name).map_or("", |value| value.to_str().expect("text")).to_owned();
    peer.seen.lock().expect("no panic").push((header("idempotency-key"), header("authorization"), body));
    let mut answers = peer.answers.lock().expect("no panic");
    let (status, retry_after) = if answers.is_empty() { (200, "0") } else { answers.remove(0) };
    (StatusCode::from_u16(status).expect("a status"), [("Retry-After", retry_after)], "because")
}

async fn peer(answers: Vec<(u16, &'static str)>) -> (Arc<Peer>, u16) {
    let peer = Arc::new(Peer { answers: Mutex::new(answers), ..Peer::default() });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let router = Router::new().route("/rows", any(answer)).with_state(Arc::clone(&peer));
    tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") });
    (peer, port)
}

fn batch(range: std::ops::Range<i64>) -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(range));
    RecordBatch::try_from_iter([("n", numbers)]).expect("one column")
}

async fn sink(port: u16, keys: &str) -> Box<dyn Sink> {
    let fields = batch(0..0).schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    let input = Input { name: "x".into(), stream: StreamSchema::new(fields, None) };
    let text = format!(
        "[sink.out]\ntype = \"http\"\nfrom = \"x\"\nurl = \"http://127.0.0.1:{port}/rows\"\n{keys}\n"
    );
    let mut sink = (SINK.build)(&node(&text), &build_context(), &input).expect("a right node").sink;
    sink.open().await.expect("opens");
    sink
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("in time")
}

#[tokio::test]
async fn a_request_that_failed_is_repeated_with_its_key_and_no_other_one_is() {
    let (peer, port) = peer(vec![(200, "0"), (503, "1")]).await;
    let mut sink = sink(port, "rows_max = 2\ntoken = \"t0p\"").await;
    let started = Instant::now();
    sink.write(&batch(0..3)).await.expect("takes");
    let error = in_time(sink.flush(7)).await.expect_err("the second request fails");
    assert!(
        matches!(&error, ConnectorError::Lost(message) if message.contains("503") && message.contains("because")),
        "{error:?}"
    );
    // As the driver does: open, write again, flush again.
    in_time(sink.open()).await.expect("opens");
    assert!(started.elapsed() >= Duration::from_secs(1), "waits as the peer wishes");
    sink.write(&batch(0..3)).await.expect("takes");
    in_time(sink.flush(7)).await.expect("goes through");
    for row in 3..5 {
        sink.write(&batch(row..row + 1)).await.expect("takes");
        in_time(sink.flush(8)).await.expect("goes through");
    }
    let seen = peer.seen.lock().expect("no panic").clone();
    let bodies: Vec<&str> = seen.iter().map(|(_, _, body)| body.as_str()).collect();
    let (first, second) = ("{\"n\":0}\n{\"n\":1}\n", "{\"n\":2}\n");
    assert_eq!(bodies, [first, second, second, "{\"n\":3}\n", "{\"n\":4}\n"]);
    let keys: Vec<&str> = seen.iter().map(|(key, ..)| key.as_str()).collect();
    assert_eq!(keys[1], keys[2]);
    assert!(keys[0] != keys[1] && keys[2] != keys[3] && keys[3] != keys[4], "{keys:?}");
    assert!(keys[0].contains("/out/") && keys[0].ends_with("/7/0"), "{keys:?}");
    assert!(seen.iter().all(|(_, token, _)| token == "Bearer t0p"));
}

#[tokio::test]
async fn refused_rows_cost_nobody_else() {
    let (peer, port) = peer(vec![(200, "0"), (422, "0")]).await;
    let mut sink = sink(port, "rows_max = 2\nbody = \"array\"").await;
    sink.write(&batch(0..2)).await.expect("takes");
    sink.write(&batch(2..5)).await.expect("takes");
    let Err(ConnectorError::Rejected(rows)) = in_time(sink.flush(1)).await else { panic!("is refused") };
    assert_eq!(rows.iter().map(|row| row.row).collect::<Vec<_>>(), [2, 3]);
    assert!(rows[0].reason.contains("422"), "{rows:?}");
    let bodies: Vec<String> =
        peer.seen.lock().expect("no panic").iter().map(|(_, _, body)| body.clone()).collect();
    assert_eq!(bodies, ["[{\"n\":0},{\"n\":1}]", "[{\"n\":2},{\"n\":3}]", "[{\"n\":4}]"]);
}

#[tokio::test]
async fn what_will_not_get_better_fails_and_what_may_is_tried_again() {
    for (status, fatal) in [(401, true), (404, true), (301, true), (429, false), (500, false), (408, false)] {
        let (_, port) = peer(vec![(status, "0")]).await;
        let mut sink = sink(port, "").await;
        sink.write(&batch(0..1)).await.expect("takes");
        let error = in_time(sink.flush(1)).await.expect_err("fails");
        assert_eq!(matches!(error, ConnectorError::Fatal(_)), fatal, "{status}: {error:?}");
        assert_eq!(matches!(error, ConnectorError::Lost(_)), !fatal, "{status}: {error:?}");
    }
    // Nobody listens; somebody listens and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let mut sink_of_silence = sink(port, "timeout = \"200ms\"").await;
    sink_of_silence.write(&batch(0..1)).await.expect("takes");
    assert!(matches!(in_time(sink_of_silence.flush(1)).await, Err(ConnectorError::Lost(_))));
    drop(silent);
    let mut sink_of_nobody = sink(port, "").await;
    sink_of_nobody.write(&batch(0..1)).await.expect("takes");
    let error = in_time(sink_of_nobody.flush(1)).await.expect_err("nobody is there");
    assert!(error.to_string().contains("refused"), "{error}");
}

/// A port that is free now.
async fn free_port() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("an address").port()
}

async fn source(keys: &str) -> (Box<dyn Source>, String) {
    let port = free_port().await;
    let text = format!(
        "[source.s]\ntype = \"http\"\nlisten = \"127.0.0.1:{port}\"\npath = \"/in\"\nschema = {{ n = \"int64\" }}\n{keys}\n"
    );
    let mut source = (SOURCE.build)(&node(&text), &build_context()).expect("a right node").source;
    source.open(None).await.expect("listens");
    (source, format!("http://127.0.0.1:{port}/in"))
}

/// Sends a request in the background; answers its status and text.
fn send(url: &str, token: &str, body: impl Into<reqwest::Body>) -> tokio::task::JoinHandle<(u16, String)> {
    let chosen = rustls::crypto::ring::default_provider().install_default();
    tracing::trace!(first = chosen.is_ok(), "cryptography of TLS");
    let request = reqwest::Client::new().post(url).header("Authorization", token).body(body);
    tokio::spawn(async move {
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    })
}

async fn next(source: &mut dyn Source) -> Rows {
    match in_time(source.next()).await.expect("reads") {
        Polled::Rows(rows) => rows,
        Polled::End | Polled::Partitions(_) => panic!("no rows"),
    }
}

#[tokio::test]
async fn a_request_is_answered_when_its_rows_are_durable() {
    let (mut source, url) = source("").await;
    let mut committer = source.committer().expect("answers requests");
    let request = send(&url, "", "{\"n\":1}\n{\"n\":\"x\"}\n[{\"n\":2}]");
    let rows = next(source.as_mut()).await;
    let numbers: Vec<String> =
        shown(&rows.batch).iter().map(|row| row.split('|').next().expect("a cell").to_owned()).collect();
    assert_eq!(numbers, ["1", "2"]);
    assert_eq!(rows.rejects.as_ref().map(RecordBatch::num_rows), Some(1));
    let later = send(&url, "", "{\"n\":3}");
    let later_rows = next(source.as_mut()).await;
    assert!(!request.is_finished(), "nothing is durable yet");
    committer.commit(&rows.position).await.expect("answers");
    let (status, text) = in_time(request).await.expect("no panic");
    assert_eq!(status, 200);
    assert!(
        text.contains("\"rows\":2") && text.contains("\"rejected\":1") && text.contains("int64"),
        "{text}"
    );
    assert!(!later.is_finished(), "its rows are not durable");
    committer.commit(&later_rows.position).await.expect("answers");
    assert_eq!(in_time(later).await.expect("no panic").0, 200);
}

#[tokio::test]
async fn a_wrong_request_is_told_so() {
    let (mut source, url) = source("token = \"t0p\"\npayload_max = \"1KiB\"").await;
    for wrong in ["", "Bearer t0q", "Bearer t0", "t0p"] {
        assert_eq!(in_time(send(&url, wrong, "{}")).await.expect("no panic").0, 401, "{wrong}");
    }
    assert_eq!(in_time(send(&url, "Bearer t0p", vec![b' '; 2_000])).await.expect("no panic").0, 413);
    assert_eq!(in_time(send(&format!("{url}/x"), "Bearer t0p", "{}")).await.expect("no panic").0, 404);
    let request = send(&url, "Bearer t0p", "{\"n\":");
    let rows = next(source.as_mut()).await;
    assert_eq!((rows.batch.num_rows(), rows.rejects.map(|bad| bad.num_rows())), (0, Some(1)));
    source.committer().expect("answers").commit(&rows.position).await.expect("answers");
    let (status, text) = in_time(request).await.expect("no panic");
    assert_eq!(status, 422);
    assert!(text.contains("brackets open"), "{text}");
}

/// Large, deep and broken bodies: the sender is told, the next one is served.
#[tokio::test]
async fn bodies_that_mean_harm_are_refused_with_a_reason() {
    let (mut source, url) = source("").await;
    let large = in_time(send(&url, "", vec![b' '; 100 << 20])).await.expect("no panic");
    assert_eq!(large.0, 413, "more than the default payload_max of 16 MiB");
    let mut committer = source.committer().expect("answers");
    let bodies: [(Vec<u8>, &str); 4] = [
        (b"[".repeat(1 << 20), "expected an object"),
        (format!("{{\"n\":{}", "[".repeat(100_000)).into_bytes(), "nested"),
        (b"{\"n\":1,\"x\":\"\xff\xfe\"}".to_vec(), "unicode"),
        (b"\x00\x01\x02".to_vec(), "expected an object"),
    ];
    for (body, expected) in bodies {
        let request = send(&url, "", body);
        let rows = next(source.as_mut()).await;
        let rejects = rows.rejects.expect("is rejected");
        let texts = |name: &str| {
            rejects.column_by_name(name).expect("is there").as_string::<i32>().value(0).to_owned()
        };
        assert!(texts("position").starts_with("request "), "{}", texts("position"));
        assert!(texts("reason").contains(expected), "{expected}: {}", texts("reason"));
        committer.commit(&rows.position).await.expect("answers");
        let (status, text) = in_time(request).await.expect("no panic");
        assert_eq!(status, 422, "{text}");
    }
    let request = send(&url, "", "{\"n\":7}");
    let rows = next(source.as_mut()).await;
    committer.commit(&rows.position).await.expect("answers");
    assert_eq!(in_time(request).await.expect("no panic").0, 200);
}

#[tokio::test]
async fn whoever_is_not_served_hears_503() {
    let (mut source, url) = source("").await;
    let waiting = send(&url, "", "{\"n\":1}");
    next(source.as_mut()).await;
    in_time(source.close()).await.expect("closes");
    assert_eq!(in_time(waiting).await.expect("no panic").0, 503, "its rows may be lost");
    // More requests than may wait: the others are sent away at once, none hangs.
    let (mut source, url) = self::source("").await;
    let requests: Vec<_> = (0..300).map(|n| send(&url, "", format!("{{\"n\":{n}}}"))).collect();
    let refused = async {
        loop {
            let refused = requests.iter().filter(|request| request.is_finished()).count();
            if refused == 300 - 256 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    in_time(refused).await;
    let mut rows = 0;
    let mut committer = source.committer().expect("answers");
    while rows < 256 {
        let found = next(source.as_mut()).await;
        rows += found.batch.num_rows();
        committer.commit(&found.position).await.expect("answers");
    }
    let mut answers = Vec::new();
    for request in requests {
        answers.push(in_time(request).await.expect("no panic").0);
    }
    assert_eq!(answers.iter().filter(|status| **status == 200).count(), 256);
    assert_eq!(answers.iter().filter(|status| **status == 503).count(), 44);
}

#[test]
fn wrong_addresses_are_said() {
    let wrong =
        node("[source.s]\ntype = \"http\"\nlisten = \"here\"\npath = \"in\"\nschema = { n = \"int64\" }\n");
    let errors = (SOURCE.build)(&wrong, &build_context()).err().expect("is wrong");
    assert_eq!(errors.0.iter().map(|error| error.code).collect::<Vec<_>>(), ["TG-C034", "TG-C034"]);
}
