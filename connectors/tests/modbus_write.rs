//! `modbus.write`: B9 of the fault list. A command goes out once, before the
//! polls, with the function that the device knows, and is read back.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails says where"
)]

#[path = "support/ledger.rs"]
mod ledger;
#[path = "support/plc.rs"]
mod plc;
#[path = "support/topology.rs"]
mod topology;

use std::sync::Arc;
use std::time::Duration;

use ledger::{Ledger, allowing, build, start};
use plc::{Answer, Frames, Plc, Request};
use tidegate_connectors::SOURCES;
use tidegate_engine::error::TaskError;
use tidegate_engine::source::Source;
use tidegate_engine::task::{TaskPart, WriteOutcome};
use tidegate_engine::topology::node::BuildContext;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);

fn task(plc: &Plc, unit: u8, register: &str, keys: &str) -> TaskPart {
    let context = allowing(&format!("{}/{unit}/{register}", plc.device));
    task_in(plc, unit, register, keys, &context)
}

fn task_in(plc: &Plc, unit: u8, register: &str, keys: &str, context: &BuildContext) -> TaskPart {
    let keys = format!(
        "device = \"{}\"\nunit_id = {unit}\nregister = \"{register}\"\ntimeout = \"400ms\"\n{keys}",
        plc.device
    );
    build("modbus.write", &keys, context).unwrap_or_else(|error| panic!("{error}"))
}

fn writes(plc: &Plc) -> Vec<Request> {
    plc.requests().into_iter().filter(Request::writes).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn b9_the_function_fits_what_is_written() {
    for (register, keys, value, function, held) in [
        ("holding:40", "", 600.0, 6, vec![600]),
        ("holding:40", "multiple = true", 600.0, 16, vec![600]),
        // 1.5 as IEEE 754 single is 3F C0 00 00.
        ("holding:40", "value_type = \"f32\"", 1.5, 16, vec![0x3FC0, 0]),
        ("holding:40", "value_type = \"f32\"\norder = \"CDAB\"", 1.5, 16, vec![0, 0x3FC0]),
        ("coil:4", "", 1.0, 5, vec![1]),
        ("coil:4", "multiple = true", 1.0, 15, vec![1]),
    ] {
        let plc = Plc::start(Frames::Tcp, |_| Answer::Right).await;
        let ledger = Arc::new(Ledger::default());
        start(&task(&plc, 1, register, keys), value, &ledger).await.expect("is written");
        let functions: Vec<u8> = writes(&plc).iter().map(|request| request.function).collect();
        assert_eq!(functions, [function], "{register} {keys}: exactly one attempt");
        let start = if register.starts_with("coil") { 4 } else { 40 };
        assert_eq!(plc.cells(1, start, held.len()), held, "{register} {keys}");
        let outcome = ledger.writes().remove(0).1;
        assert_eq!(outcome, Some(WriteOutcome::Done { read_back: value.to_string() }));
        // Asked before, written, read back.
        let kinds: Vec<bool> = plc.requests().iter().map(Request::writes).collect();
        assert_eq!(kinds, [false, true, false]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b9_a_write_goes_before_the_polls() {
    // Every answer takes a while, so that polls of four sources stand in line.
    let plc = Plc::start(Frames::Tcp, |_| Answer::Late(Duration::from_millis(30))).await;
    let context = allowing(&format!("{}/1/holding:40", plc.device));
    let mut sources: Vec<Box<dyn Source>> = Vec::new();
    for number in 0..8 {
        let text = format!(
            "[source.s{number}]\ntype = \"modbus\"\ndevice = \"{}\"\nunit_id = {}\nevery = \"1ms\"\ntimeout = \"400ms\"\npoints = [{{ name = \"a\", register = \"holding:0\" }}]\n",
            plc.device,
            number + 10
        );
        let row = SOURCES.iter().find(|row| row.name == "modbus").expect("a row");
        let part = (row.build)(&topology::node(&text), &context).unwrap_or_else(|error| panic!("{error}"));
        let mut source = part.source;
        source.open(None).await.expect("opens");
        sources.push(source);
    }
    for source in &mut sources {
        timeout(LIMIT, source.next()).await.expect("polls in time").expect("no error");
    }
    let before = plc.requests().len();
    let ledger = Arc::new(Ledger::default());
    start(&task_in(&plc, 1, "holding:40", "", &context), 7.0, &ledger).await.expect("is written");
    let requests = plc.requests();
    let own: Vec<usize> = (before..requests.len()).filter(|at| requests[*at].unit == 1).collect();
    assert_eq!(own.len(), 3, "read, write, read back");
    // One poll may be on its way and one may have its turn; the other six wait.
    assert!(own[0] - before <= 2, "{} polls went before", own[0] - before);
    for pair in own.windows(2) {
        assert!(pair[1] - pair[0] <= 2, "polls came in between: {own:?}");
    }
    for source in &mut sources {
        source.close().await.expect("closes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b9_a_refusal_is_final_and_sent_once() {
    let refuse = |code| {
        move |request: &Request| {
            if request.writes() { Answer::Exception(code) } else { Answer::Right }
        }
    };
    for code in [1, 2, 3, 6] {
        let plc = Plc::start(Frames::Tcp, refuse(code)).await;
        let ledger = Arc::new(Ledger::default());
        let refused = start(&task(&plc, 1, "holding:40", ""), 7.0, &ledger).await.expect_err("is refused");
        assert!(matches!(&refused, TaskError::Fatal(_)), "{code}: {refused:?}");
        assert_eq!(writes(&plc).len(), 1, "{code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b9_an_answer_that_leaves_doubt_is_cleared_up_by_reading_back() {
    // Failed half-way, taken and not finished, lost behind a gateway; and the value is there.
    for code in [4, 5, 0x0B] {
        let plc = Plc::start(Frames::Tcp, move |request| {
            if request.writes() { Answer::DoneAndException(code) } else { Answer::Right }
        })
        .await;
        let ledger = Arc::new(Ledger::default());
        start(&task(&plc, 1, "holding:40", ""), 7.0, &ledger).await.expect("the value is there");
        assert_eq!(writes(&plc).len(), 1, "{code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b9_no_answer_and_no_way_to_ask_is_unknown() {
    let silent = std::sync::atomic::AtomicBool::new(false);
    let plc = Plc::start(Frames::Tcp, move |request| {
        use std::sync::atomic::Ordering::Relaxed;
        let was_written = silent.fetch_or(request.writes(), Relaxed);
        if was_written || request.writes() { Answer::DoneAndSilence } else { Answer::Right }
    })
    .await;
    let ledger = Arc::new(Ledger::default());
    let unknown = start(&task(&plc, 1, "holding:40", ""), 7.0, &ledger).await.expect_err("nobody knows");
    assert!(matches!(&unknown, TaskError::Unknown(_)), "{unknown:?}");
    assert_eq!((writes(&plc).len(), ledger.tickets().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn b9_a_value_that_does_not_fit_is_never_sent() {
    let plc = Plc::start(Frames::Tcp, |_| Answer::Right).await;
    for (keys, value) in [("", 65_536.0), ("", -1.0), ("", 1.5), ("value_type = \"i16\"", 40_000.0)] {
        let ledger = Arc::new(Ledger::default());
        let refused =
            start(&task(&plc, 1, "holding:40", keys), value, &ledger).await.expect_err("does not fit");
        assert!(matches!(&refused, TaskError::Fatal(_)), "{refused:?}");
    }
    assert_eq!(writes(&plc).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn b9_a_broadcast_waits_for_no_answer_and_one_unit_is_read_back() {
    let plc = Plc::start(Frames::Rtu, |_| Answer::Right).await;
    let ledger = Arc::new(Ledger::default());
    let part = task(&plc, 0, "holding:40", "read_from = 3");
    let started = tokio::time::Instant::now();
    start(&part, 7.0, &ledger).await.expect("is written");
    // Every wait for an answer that does not come would be 400 ms.
    assert!(started.elapsed() < Duration::from_millis(350), "{:?}", started.elapsed());
    let asked: Vec<(u8, bool)> =
        plc.requests().iter().map(|request| (request.unit, request.writes())).collect();
    assert_eq!(asked, [(3, false), (0, true), (3, false)]);
    assert_eq!(plc.cells(3, 40, 1), [7]);
}

#[test]
fn writes_that_cannot_be_are_named() {
    let wrong = |keys: &str| {
        let refused = build("modbus.write", keys, &topology::build_context()).err().expect("is refused");
        let codes: Vec<&str> = refused.0.iter().map(|diagnostic| diagnostic.code).collect();
        codes.join(" ")
    };
    assert_eq!(wrong("device = \"tcp://x\"\nregister = \"input:0\""), "TG-M005");
    assert_eq!(wrong("device = \"tcp://x\"\nregister = \"coil:0\"\nvalue_type = \"u16\""), "TG-M005");
    assert_eq!(wrong("device = \"x\"\nregister = \"holding:0\""), "TG-M002");
    // Nobody answers a broadcast, so somebody must be read back.
    assert_eq!(wrong("device = \"rtu:///dev/x\"\nunit_id = 0\nregister = \"holding:0\""), "TG-M005");
    // Over TCP unit 0 is the device itself.
    let keys = "device = \"tcp://x\"\nunit_id = 0\nregister = \"holding:0\"";
    assert!(build("modbus.write", keys, &topology::build_context()).is_ok());
}
