//! `http` and pushed tickets against a server that answers as it is told.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::Response;
use axum::routing::any;
use tidegate_engine::flow::events::What;
use tidegate_engine::flow::state::{RunState, TaskState};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::parts::{LIMIT, in_time};
use super::{attempts, end, fire, paused_by, start};

/// What the server does with a request.
#[derive(Clone)]
enum Answer {
    Status(u16, &'static str, String),
    Body(&'static str),
    /// More bytes than a task reads.
    Endless,
    /// None.
    Silence,
}

/// A request as it came.
#[derive(Clone, Debug)]
struct Request {
    line: String,
    key: String,
    headers: HeaderMap,
    body: String,
    at: Instant,
}

#[derive(Default)]
struct Server {
    answers: Mutex<Vec<Answer>>,
    seen: Mutex<Vec<Request>>,
    came: Notify,
}

impl Server {
    fn seen(&self) -> Vec<Request> {
        self.seen.lock().expect("no panic").clone()
    }
}

async fn answer(
    State(server): State<Arc<Server>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: String,
) -> Response {
    let key = headers.get("idempotency-key").map_or("", |value| value.to_str().expect("text")).to_owned();
    let line = format!("{method} {uri}");
    server.seen.lock().expect("no panic").push(Request { line, key, headers, body, at: Instant::now() });
    server.came.notify_one();
    let next = {
        let mut answers = server.answers.lock().expect("no panic");
        if answers.is_empty() { Answer::Body("{}") } else { answers.remove(0) }
    };
    let response = Response::builder();
    match next {
        Answer::Status(status, header, value) => {
            response.status(status).header(header, value).body(Body::from("because"))
        }
        Answer::Body(text) => response.body(Body::from(text)),
        Answer::Endless => {
            let chunk = Bytes::from(vec![b' '; 64 * 1024]);
            let chunks = futures::stream::repeat_with(move || Ok::<_, Infallible>(chunk.clone()));
            response.body(Body::from_stream(chunks))
        }
        Answer::Silence => return std::future::pending().await,
    }
    .expect("a right response")
}

fn serve_on(listener: TcpListener, answers: Vec<Answer>) -> Arc<Server> {
    let server = Arc::new(Server { answers: Mutex::new(answers), ..Server::default() });
    let router = Router::new().fallback(any(answer)).with_state(Arc::clone(&server));
    tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") });
    server
}

async fn serve(answers: Vec<Answer>) -> (Arc<Server>, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    (serve_on(listener, answers), address)
}

fn status(code: u16) -> Answer {
    Answer::Status(code, "x-nothing", String::new())
}

fn post(address: SocketAddr, keys: &str) -> String {
    format!(
        "[[flow.warn.task]]\nid = \"a\"\ntype = \"http\"\npost = \"http://{address}/orders/{{machine}}\"\n\
         json = {{ machine = \"{{machine}}\", v = \"{{v}}\" }}\n{keys}\n"
    )
}

#[tokio::test]
async fn every_attempt_carries_the_same_key_and_the_answer_is_a_result() {
    let (server, address) =
        serve(vec![status(503), status(500), Answer::Body(r#"{"order": {"id": "A-7"}}"#)]).await;
    let tasks = post(address, "retry = { wait = \"5ms\" }\noutput = { order = \"body.order.id\" }")
        + "[[flow.warn.task]]\nid = \"b\"\ntype = \"ticket\"\ntitle = \"{a.status} {a.order}\"\n";
    let folder = tempfile::tempdir().expect("a folder");
    let mut plant = start(&tasks, folder.path());
    let run = fire(&mut plant).await;
    assert_eq!((run.state, attempts(&plant, &run, "a")), (RunState::Succeeded, 3));
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|request| request.key == seen[0].key && request.key.ends_with("-a")), "{seen:?}");
    assert_eq!(seen[0].line, "POST /orders/pump%201");
    assert_eq!(seen[0].body, r#"{"machine":"pump 1","v":99.5}"#);
    assert_eq!(plant.scheduler.journal().tickets(1).expect("reads")[0].title, "200 A-7");
}

#[tokio::test]
async fn the_server_says_when_to_come_back() {
    let later = (chrono::Utc::now() + Duration::from_secs(2)).to_rfc2822().replace("+0000", "GMT");
    let busy = |code, value: &str| Answer::Status(code, "retry-after", value.to_owned());
    let (server, address) = serve(vec![busy(429, "1"), busy(503, &later)]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut plant = start(&post(address, "retry = { wait = \"5ms\" }"), folder.path());
    let run = fire(&mut plant).await;
    assert_eq!(run.state, RunState::Succeeded);
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    // The journal keeps microseconds, the server's clock nanoseconds.
    assert!(seen[1].at - seen[0].at > Duration::from_millis(999), "{seen:?}");
    let date = chrono::DateTime::parse_from_rfc2822(&later).expect("a date");
    assert!(chrono::Utc::now() >= date, "the third attempt waited for the date");
}

#[tokio::test]
async fn what_is_refused_is_not_sent_again() {
    let (elsewhere, other) = serve(Vec::new()).await;
    let cases = [
        (status(400), "the server answers 400"),
        (status(404), "the server answers 404"),
        (Answer::Status(302, "location", format!("http://{other}/orders")), "the server answers 302"),
        (Answer::Endless, "larger than 8388608 bytes"),
        (Answer::Body("{}"), "no usable `id`"),
    ];
    for (answer, words) in cases {
        let (server, address) = serve(vec![answer]).await;
        let folder = tempfile::tempdir().expect("a folder");
        let mut plant = start(&post(address, "output = { id = \"body.id\" }"), folder.path());
        paused_by(&fire(&mut plant).await, words);
        assert_eq!(server.seen().len(), 1, "{words}");
    }
    assert!(elsewhere.seen().is_empty(), "a redirect is not followed");
}

#[tokio::test]
async fn a_value_does_not_lead_to_another_place() {
    let (server, address) = serve(Vec::new()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let tasks = format!(
        "[[flow.warn.task]]\nid = \"a\"\ntype = \"http\"\ndelete = \"http://{address}/orders/{{replace(machine, 'pump 1', '..')}}\"\n"
    );
    let mut plant = start(&tasks, folder.path());
    paused_by(&fire(&mut plant).await, "another place");
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn silence_is_a_timeout_and_a_server_that_is_away_is_tried_again() {
    let (server, address) = serve(vec![Answer::Silence]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let keys = "timeout = \"300ms\"\nretry = { wait = \"5ms\", on = [\"timeout\"] }";
    let mut plant = start(&post(address, keys), folder.path());
    let run = fire(&mut plant).await;
    assert_eq!((run.state, attempts(&plant, &run, "a")), (RunState::Succeeded, 2));
    assert_eq!(server.seen().len(), 2);

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let folder = tempfile::tempdir().expect("a folder");
    let keys = "retry = { times = 1000, wait = \"20ms\", factor = 1, on = [\"network\"] }";
    let mut plant = start(&post(address, keys), folder.path());
    let mut heard = plant.events.listen();
    let back = tokio::spawn(async move {
        loop {
            let event = heard.recv().await.expect("is told");
            if matches!(event.what, What::Task { state: TaskState::RetryWait, .. }) {
                break;
            }
        }
        serve_on(TcpListener::bind(address).await.expect("still free"), Vec::new())
    });
    assert_eq!(fire(&mut plant).await.state, RunState::Succeeded);
    assert_eq!(in_time(back).await.expect("no panic").seen().len(), 1);
}

#[tokio::test]
async fn a_fallback_stands_in_for_a_server_that_fails() {
    let (_, address) = serve(vec![status(500)]).await;
    let tasks = format!(
        "[[flow.warn.task]]\nid = \"a\"\ntype = \"http\"\nget = \"http://{address}/\"\n\
         output = {{ mm = \"body.rain.mm\" }}\nfallback = {{ mm = 0.5 }}\n\
         [[flow.warn.task]]\nid = \"b\"\ntype = \"ticket\"\ntitle = \"{{a.mm + 1}}\"\n"
    );
    let folder = tempfile::tempdir().expect("a folder");
    let mut plant = start(&tasks, folder.path());
    assert_eq!(fire(&mut plant).await.state, RunState::Succeeded);
    assert_eq!(plant.scheduler.journal().tickets(1).expect("reads")[0].title, "1.5");
}

#[tokio::test]
async fn headers_are_templates_and_whole_numbers_stay_whole() {
    let (server, address) = serve(Vec::new()).await;
    let keys = "headers = { \"X-Machine\" = \"of {machine}\", \"X-Braces\" = \"{{}}\" }";
    let task = post(address, keys).replace("{v}\" }", "{v}\", lit = 5, half = 0.5 }");
    let folder = tempfile::tempdir().expect("a folder");
    let mut plant = start(&task, folder.path());
    assert_eq!(fire(&mut plant).await.state, RunState::Succeeded);
    let request = server.seen().remove(0);
    assert_eq!(
        (&request.headers["x-machine"], &request.headers["x-braces"]),
        (&"of pump 1".parse().expect("text"), &"{}".parse().expect("text"))
    );
    for number in ["\"lit\":5,", "\"half\":0.5", "\"v\":99.5"] {
        assert!(request.body.contains(number), "{}", request.body);
    }
    assert_eq!(request.headers.get_all("idempotency-key").iter().count(), 1);

    let keys = "headers = { \"idempotency-KEY\" = \"mine\", \"a b\" = \"x\", \"X-A\" = \"{nobody}\" }";
    let wrong = super::flows(&super::topology(&post(address, keys)), folder.path(), Vec::new());
    let said = wrong.err().expect("is refused").to_string();
    for words in ["`idempotency-KEY` cannot be set", "`a b` is no header's name", "no column `nobody`"] {
        assert!(said.contains(words), "{said}");
    }
}

#[tokio::test]
async fn a_failure_names_the_host_and_the_cause_but_not_the_path() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let folder = tempfile::tempdir().expect("a folder");
    let mut plant = start(&post(address, "retry = { times = 0 }"), folder.path());
    let run = fire(&mut plant).await;
    paused_by(&run, &format!("{address}: "));
    paused_by(&run, "refused");
    assert!(!run.reason.contains("orders"), "{run:?}");
}

/// Where the server of the program that is killed listens, and its folder.
const CRASH: &str = "TIDEGATE_TEST_PUSH";

fn pushing(address: &str) -> String {
    format!(
        "[[flow.warn.task]]\nid = \"order\"\ntype = \"ticket\"\ntitle = \"Look at {{machine}}\"\n\
         push = {{ type = \"http\", url = \"http://{address}/tickets\" }}\n"
    )
}

/// The test starts itself again as the program that is killed.
#[test]
fn a_ticket_is_pushed_under_its_key_also_after_a_kill() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if let Ok(place) = std::env::var(CRASH) {
        let (address, folder) = place.split_once(' ').expect("address and folder");
        runtime.block_on(async {
            let mut plant = start(&pushing(address), std::path::Path::new(folder));
            fire(&mut plant).await;
        });
        return;
    }
    runtime.block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        let (server, address) = serve(vec![Answer::Silence]).await;
        let place = format!("{address} {}", folder.path().display());
        let mut child = Command::new(std::env::current_exe().expect("its path"))
            .args(["--exact", "http::a_ticket_is_pushed_under_its_key_also_after_a_kill"])
            .env(CRASH, place)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        tokio::time::timeout(LIMIT, server.came.notified()).await.expect("it pushes");
        child.kill().expect("runs");
        child.wait().expect("ends");
        let mut plant = start(&pushing(&address.to_string()), folder.path());
        let run = end(&plant).await;
        assert_eq!(run.state, RunState::Succeeded);
        // The source rewinds: the firing comes again and starts nothing.
        assert_eq!(fire(&mut plant).await.id, run.id);
        let seen = server.seen();
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert_eq!(seen[0].key, seen[1].key);
        let number =
            |body: &str| serde_json::from_str::<serde_json::Value>(body).expect("JSON")["number"].clone();
        assert_eq!(number(&seen[0].body), number(&seen[1].body));
        assert_eq!(plant.scheduler.journal().tickets(9).expect("reads").len(), 1);
    });
}
