//! `opcua.write`: a value is set in the node's own type and read back; what a
//! server refuses, and what nobody knows, are different things (U14).

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails says where"
)]

#[path = "support/ledger.rs"]
mod ledger;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/topology.rs"]
mod topology;
#[path = "support/uaserver.rs"]
mod uaserver;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use ledger::{Ledger, allowing, build, start};
use opcua::types::{StatusCode, Variant};
use proxy::Proxy;
use tidegate_engine::error::TaskError;
use tidegate_engine::task::{TaskPart, WriteOutcome};
use uaserver::UaServer;

async fn server() -> (UaServer, tempfile::TempDir) {
    let pki = tempfile::tempdir().expect("a folder");
    (UaServer::start(1, pki.path()).await, pki)
}

fn task(port: u16, node: &str) -> TaskPart {
    let endpoint = format!("opc.tcp://127.0.0.1:{port}/");
    let node = format!("nsu=urn:t;s={node}");
    let keys =
        format!("endpoint = \"{endpoint}\"\nnode = \"{node}\"\nrequest_timeout = \"1s\"\ndeadline = \"8s\"");
    build("opcua.write", &keys, &allowing(&format!("{endpoint} {node}"))).unwrap_or_else(|e| panic!("{e}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_written_in_the_nodes_type_once_and_read_back() {
    let (server, _pki) = server().await;
    for (name, held) in
        [("double", Variant::Double(1.0)), ("int", Variant::Int16(1)), ("byte", Variant::Byte(1))]
    {
        let writes = Arc::new(AtomicU32::new(0));
        let (counter, like) = (Arc::clone(&writes), held.clone());
        server.add_writable(name, held, move |written| {
            counter.fetch_add(1, Relaxed);
            assert_eq!(written.type_id(), like.type_id(), "the node's own type");
            StatusCode::Good
        });
        let ledger = Arc::new(Ledger::default());
        start(&task(server.port, name), 40.0, &ledger).await.expect("is written");
        assert_eq!(writes.load(Relaxed), 1);
        let (intent, outcome) = ledger.writes().remove(0);
        assert_eq!((intent.before.as_str(), intent.value.as_str()), ("1", "40"));
        assert_eq!(outcome, Some(WriteOutcome::Done { read_back: "40".into() }));
    }
    assert_eq!(server.sessions(), 0, "every visit takes leave");
}

#[tokio::test(flavor = "multi_thread")]
async fn u14_each_refusal_has_its_own_words_and_nothing_is_tried_again() {
    let (server, _pki) = server().await;
    for (status, words) in [
        (StatusCode::BadTypeMismatch, "another type"),
        (StatusCode::BadNotWritable, "cannot be written"),
        (StatusCode::BadUserAccessDenied, "our user may not"),
        (StatusCode::BadOutOfRange, "out of the node's range"),
    ] {
        let writes = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&writes);
        let name = status.to_string();
        server.add_writable(&name, 1.0, move |_| {
            counter.fetch_add(1, Relaxed);
            status
        });
        let ledger = Arc::new(Ledger::default());
        let refused = start(&task(server.port, &name), 40.0, &ledger).await.expect_err("is refused");
        assert!(matches!(&refused, TaskError::Fatal(reason) if reason.contains(words)), "{refused:?}");
        assert!(
            matches!(&ledger.writes()[0].1, Some(WriteOutcome::Refused { reason }) if reason.contains(words))
        );
        assert_eq!(writes.load(Relaxed), 1, "{name}");
    }
    // A node that the server itself knows to be read only.
    let ledger = Arc::new(Ledger::default());
    let refused = start(&task(server.port, "v0"), 40.0, &ledger).await.expect_err("is read only");
    assert!(matches!(&refused, TaskError::Fatal(_)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn u14_what_does_not_fit_or_does_not_exist_is_never_sent() {
    let (server, _pki) = server().await;
    let writes = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&writes);
    server.add_writable("byte", Variant::Byte(1), move |_| {
        counter.fetch_add(1, Relaxed);
        StatusCode::Good
    });
    for wrong in [256.0, 1.5, -1.0] {
        let ledger = Arc::new(Ledger::default());
        let refused = start(&task(server.port, "byte"), wrong, &ledger).await.expect_err("does not fit");
        assert!(
            matches!(&refused, TaskError::Fatal(reason) if reason.contains("does not fit")),
            "{refused:?}"
        );
    }
    let ledger = Arc::new(Ledger::default());
    let absent = start(&task(server.port, "nobody"), 1.0, &ledger).await.expect_err("no such node");
    assert!(matches!(&absent, TaskError::Fatal(reason) if reason.contains("no such node")), "{absent:?}");
    assert!(ledger.writes().is_empty(), "no intent for what cannot be");
    assert_eq!(writes.load(Relaxed), 0);
    assert_eq!(server.sessions(), 0, "every visit takes leave");
}

#[tokio::test(flavor = "multi_thread")]
async fn u14_no_answer_after_the_command_is_unknown_and_a_person_is_asked() {
    let (server, _pki) = server().await;
    let proxy = Proxy::start(server.port).await;
    let (orders, writes) = (proxy.orders(), Arc::new(AtomicU32::new(0)));
    let counter = Arc::clone(&writes);
    server.add_writable("silent", 1.0, move |_| {
        counter.fetch_add(1, Relaxed);
        orders.hold_answers(true);
        StatusCode::Good
    });
    let ledger = Arc::new(Ledger::default());
    let unknown = start(&task(proxy.port, "silent"), 40.0, &ledger).await.expect_err("nobody knows");
    assert!(matches!(&unknown, TaskError::Unknown(_)), "{unknown:?}");
    assert!(matches!(&ledger.writes()[0].1, Some(WriteOutcome::Unknown { .. })), "{:?}", ledger.writes());
    assert_eq!((writes.load(Relaxed), ledger.tickets().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn u14_a_lost_answer_is_cleared_up_by_reading_back() {
    let (server, _pki) = server().await;
    let proxy = Proxy::start(server.port).await;
    let (orders, writes) = (proxy.orders(), Arc::new(AtomicU32::new(0)));
    let counter = Arc::clone(&writes);
    server.add_writable("cut", 1.0, move |_| {
        counter.fetch_add(1, Relaxed);
        orders.drop_all();
        StatusCode::Good
    });
    let ledger = Arc::new(Ledger::default());
    start(&task(proxy.port, "cut"), 40.0, &ledger).await.expect("the value is there");
    assert_eq!(writes.load(Relaxed), 1, "exactly one attempt");
    assert_eq!(ledger.writes()[0].1, Some(WriteOutcome::Done { read_back: "40".into() }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_worth_another_attempt() {
    let port = {
        let (server, _pki) = server().await;
        server.port
    };
    let ledger = Arc::new(Ledger::default());
    let away = start(&task(port, "v0"), 40.0, &ledger).await.expect_err("nobody is there");
    assert!(matches!(&away, TaskError::Retry { class: "network", .. }), "{away:?}");
    assert!(ledger.writes().is_empty());
}
