//! An HTTP server that takes rows, remembers what came and when, and answers
//! what a test wants.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::Value;

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) key: String,
    /// The numbers `n` of its rows.
    pub(crate) numbers: Vec<u64>,
    pub(crate) at: Instant,
    pub(crate) status: u16,
}

/// What to answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    Status(u16),
    /// With `Retry-After` in seconds.
    Later(u16, u64),
    /// After a while.
    Slowly(Duration),
    /// Not before the request is given up.
    Never,
}

type Script = dyn Fn(usize, &[u64]) -> Answer + Send + Sync;

pub(crate) struct Peer {
    pub(crate) port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
    script: Arc<Mutex<Arc<Script>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Peer {
    /// A peer that answers so to the request of this number, from 0, with these rows.
    pub(crate) fn start(script: impl Fn(usize, &[u64]) -> Answer + Send + Sync + 'static) -> Peer {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let script: Arc<Mutex<Arc<Script>>> = Arc::new(Mutex::new(Arc::new(script)));
        let (kept, asked) = (Arc::clone(&requests), Arc::clone(&script));
        let take = move |headers: HeaderMap, body: String| {
            answer(Arc::clone(&kept), Arc::clone(&asked), headers, body)
        };
        runtime.spawn(async move {
            axum::serve(listener, Router::new().route("/", post(take))).await.expect("serves");
        });
        Peer { port, requests, script, _runtime: runtime }
    }

    /// Answers otherwise from now on.
    pub(crate) fn change(&self, script: impl Fn(usize, &[u64]) -> Answer + Send + Sync + 'static) {
        *self.script.lock().expect("no panic") = Arc::new(script);
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no panic").clone()
    }

    /// The numbers that were taken, in order.
    pub(crate) fn taken(&self) -> Vec<u64> {
        let requests = self.requests();
        requests.iter().filter(|one| one.status == 200).flat_map(|one| one.numbers.clone()).collect()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }
}

async fn answer(
    requests: Arc<Mutex<Vec<Request>>>,
    script: Arc<Mutex<Arc<Script>>>,
    headers: HeaderMap,
    body: String,
) -> Response {
    let number = |line: &str| serde_json::from_str::<Value>(line).expect("JSON lines")["n"].as_u64();
    let numbers: Vec<u64> = body.lines().filter_map(number).collect();
    let key = headers.get("idempotency-key").map_or("", |key| key.to_str().expect("text")).to_owned();
    let (script, at) = (Arc::clone(&script.lock().expect("no panic")), Instant::now());
    let before = requests.lock().expect("no panic").len();
    let said = script(before, &numbers);
    let (status, after) = match said {
        Answer::Status(status) => (status, None),
        Answer::Later(status, seconds) => (status, Some(seconds)),
        Answer::Slowly(time) => {
            tokio::time::sleep(time).await;
            (200, None)
        }
        Answer::Never => (0, None),
    };
    requests.lock().expect("no panic").push(Request { key, numbers, at, status });
    if matches!(said, Answer::Never) {
        return std::future::pending().await;
    }
    let status = StatusCode::from_u16(status).expect("a status");
    match after {
        Some(seconds) => (status, [("Retry-After", seconds.to_string())], "later").into_response(),
        None => (status, "").into_response(),
    }
}
