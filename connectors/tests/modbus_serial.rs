//! RTU on a real serial line (two pseudo-terminals joined by socat): against
//! pymodbus, and against a device that lies; B2, B5 and B13 of the fault list,
//! where frames have no number.

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
#[path = "support/python.rs"]
mod python;
#[path = "support/serial.rs"]
mod serial;
#[path = "support/topology.rs"]
mod topology;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use ledger::Ledger;
use plc::{Answer, Frames, Plc, Request};
use serial::SerialLine;
use tidegate_connectors::SOURCES;
use tidegate_engine::source::{Polled, Source};
use tidegate_engine::topology::node::BuildContext;
use tokio::time::{Instant, timeout};

const LIMIT: Duration = Duration::from_secs(30);

const FAST: &str = "every = \"20ms\"\ntimeout = \"200ms\"";
const SELDOM: &str = "every = \"200ms\"\ntimeout = \"200ms\"";
/// The time-out is no help where one second is the limit.
const PATIENT: &str = "every = \"20ms\"\ntimeout = \"3s\"";

/// pymodbus on a serial port: unit 1, registers 0 to 99 hold 0x1234.
const PYMODBUS: &str = r#"
import asyncio, sys
from pymodbus.framer import FramerType
from pymodbus.server import StartAsyncSerialServer
from pymodbus.simulator import DataType, SimData, SimDevice
device = SimDevice(id=1, simdata=[SimData(0, count=100, values=0x1234, datatype=DataType.REGISTERS)])
asyncio.run(StartAsyncSerialServer(device, port=sys.argv[1], framer=FramerType.RTU, baudrate=19200, parity="N"))
"#;

fn open(device: &str, times: &str, points: &str, context: &BuildContext) -> Box<dyn Source> {
    let text = format!(
        "[source.line]\ntype = \"modbus\"\ndevice = \"{device}\"\n{times}\nparity = \"none\"\npoints = [{points}]\nmax_gap = 0\n"
    );
    let row = SOURCES.iter().find(|row| row.name == "modbus").expect("a row");
    let part = (row.build)(&topology::node(&text), context);
    part.unwrap_or_else(|error| panic!("{error}")).source
}

/// Quality and values of the next rows.
async fn rows(source: &mut Box<dyn Source>) -> Vec<(String, BTreeMap<String, Option<i64>>)> {
    let polled = timeout(LIMIT, source.next()).await.expect("rows in time").expect("no error");
    let Polled::Rows(rows) = polled else { panic!("it does not end") };
    let batch = rows.batch;
    let quality = batch.column_by_name("quality").expect("a column").as_string::<i32>().clone();
    let schema = batch.schema();
    let first = schema.index_of("quality").expect("a column") + 1;
    (0..batch.num_rows())
        .map(|row| {
            let value = |column: usize| {
                let values = batch.column(column).as_primitive::<Int64Type>();
                (schema.field(column).name().clone(), values.is_valid(row).then(|| values.value(row)))
            };
            (quality.value(row).to_owned(), (first..batch.num_columns()).map(value).collect())
        })
        .collect()
}

/// Reads for a while; each value must be the number of its own register.
async fn each_value_is_its_own(source: &mut Box<dyn Source>, span: Duration) -> usize {
    let started = Instant::now();
    let mut read = 0;
    while started.elapsed() < span {
        for (quality, values) in rows(source).await {
            for (register, value) in values {
                let expected: i64 = register.trim_start_matches('r').parse().expect("a number");
                assert!(value.is_none_or(|value| value == expected), "{register} is {value:?} ({quality})");
                read += usize::from(value.is_some());
            }
        }
    }
    read
}

/// Two blocks of the same shape, so that one's answer could be the other's.
const TWO_BLOCKS: &str =
    r#"{ name = "r10", register = "holding:10" }, { name = "r500", register = "holding:500" }"#;

#[tokio::test(flavor = "multi_thread")]
async fn pymodbus_is_read_and_written_over_a_serial_line() {
    let line = SerialLine::start().await;
    let mut server = python::Process::start(PYMODBUS, &[&line.theirs]);
    let device = format!("rtu://{}", line.ours);
    let context = ledger::allowing(&format!("{device}/1/holding:7"));
    let mut source = open(&device, FAST, r#"{ name = "a", register = "holding:3" }"#, &context);
    source.open(None).await.expect("opens");
    let read = async {
        loop {
            server.must_run();
            if rows(&mut source).await.iter().any(|(_, values)| values["a"] == Some(0x1234)) {
                return;
            }
        }
    };
    timeout(LIMIT, read).await.expect("is read");
    // Over the same line, while polls go on.
    let keys =
        format!("device = \"{device}\"\nregister = \"holding:7\"\ntimeout = \"1s\"\nparity = \"none\"");
    let part = ledger::build("modbus.write", &keys, &context).unwrap_or_else(|error| panic!("{error}"));
    let ledger = Arc::new(Ledger::default());
    ledger::start(&part, 600.0, &ledger).await.expect("is written and read back");
    source.close().await.expect("closes");
}

/// Every few requests the answer comes after the time-out, at another moment
/// each time: with the next request on its way, or long after.
fn often_late() -> impl Fn(&Request) -> Answer + Send + Sync {
    let calls = AtomicU32::new(0);
    move |_| {
        let call = calls.fetch_add(1, Relaxed);
        if call % 5 == 4 {
            Answer::Late(Duration::from_millis(210 + u64::from(call * 37 % 300)))
        } else {
            Answer::Right
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b2_a_late_answer_on_a_serial_line_is_never_anothers() {
    let line = SerialLine::start().await;
    let device = format!("rtu://{}", line.ours);
    let _plc = Plc::on(device.clone(), line.device(), often_late());
    let context = topology::build_context();
    // Two sources on one line: the second asks while the first leaves the unit alone.
    let mut first = open(&device, FAST, TWO_BLOCKS, &context);
    let mut second = open(&device, FAST, r#"{ name = "r77", register = "holding:77" }"#, &context);
    first.open(None).await.expect("opens");
    second.open(None).await.expect("opens");
    let span = Duration::from_secs(8);
    let (read, also) =
        tokio::join!(each_value_is_its_own(&mut first, span), each_value_is_its_own(&mut second, span));
    assert!(read > 0 && also > 0, "{read} and {also} values");
    first.close().await.expect("closes");
    second.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn b2_a_late_answer_through_a_serial_gateway_is_never_anothers() {
    let plc = Plc::start(Frames::Rtu, often_late()).await;
    let mut source = open(&plc.device, FAST, TWO_BLOCKS, &topology::build_context());
    source.open(None).await.expect("opens");
    assert!(each_value_is_its_own(&mut source, Duration::from_secs(4)).await > 0);
    source.close().await.expect("closes");
}

/// The answer of a unit whose register holds this.
fn frame(unit: u8, value: u8) -> Vec<u8> {
    let mut frame = vec![unit, 3, 2, 0, value];
    let crc = plc::crc(&frame);
    frame.extend(crc.to_le_bytes());
    frame
}

#[tokio::test(flavor = "multi_thread")]
async fn b5_b13_what_is_broken_or_noise_is_a_bad_row_and_passes_within_a_second() {
    for (wrong, times) in [
        (Answer::Broken, PATIENT),
        (Answer::Half, PATIENT),
        (Answer::After(vec![0x55, 0xAA, 0x00]), PATIENT),
        // A whole answer of another unit.
        (Answer::After(frame(2, 66)), FAST),
    ] {
        let line = SerialLine::start().await;
        let device = format!("rtu://{}", line.ours);
        let calls = AtomicU32::new(0);
        let answer = wrong.clone();
        let script = move |_: &Request| {
            if calls.fetch_add(1, Relaxed) % 10 == 5 { answer.clone() } else { Answer::Right }
        };
        let _plc = Plc::on(device.clone(), line.device(), script);
        let mut source = open(&device, times, TWO_BLOCKS, &topology::build_context());
        source.open(None).await.expect("opens");
        let (started, mut good, mut silent_since) = (Instant::now(), 0, Instant::now());
        while started.elapsed() < Duration::from_secs(3) {
            for (quality, values) in rows(&mut source).await {
                let own = |name: &str, number| values[name].is_none_or(|value| value == number);
                assert!(own("r10", 10) && own("r500", 500), "{wrong:?}: {values:?}");
                if quality == "good" {
                    assert!(silent_since.elapsed() < Duration::from_secs(1), "{wrong:?}");
                    silent_since = Instant::now();
                    good += 1;
                }
            }
        }
        assert!(good > 5, "{wrong:?}: {good} good rows");
        source.close().await.expect("closes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_between_two_polls_is_thrown_away() {
    let line = SerialLine::start().await;
    let device = format!("rtu://{}", line.ours);
    // Some time after each answer comes one more, as good as the next poll's: 66.
    let more = Answer::AndLater(Duration::from_millis(5), frame(1, 66));
    let _plc = Plc::on(device.clone(), line.device(), move |_| more.clone());
    let mut source =
        open(&device, SELDOM, r#"{ name = "r10", register = "holding:10" }"#, &topology::build_context());
    source.open(None).await.expect("opens");
    assert!(each_value_is_its_own(&mut source, Duration::from_secs(3)).await > 10);
    source.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_pulled_out_gives_bad_rows_and_comes_back() {
    let line = SerialLine::start().await;
    let (ours, theirs) = (line.ours.clone(), line.theirs.clone());
    let device = format!("rtu://{ours}");
    let plc = Plc::on(device.clone(), line.device(), |_| Answer::Right);
    let mut source = open(&device, FAST, TWO_BLOCKS, &topology::build_context());
    source.open(None).await.expect("opens");
    assert!(each_value_is_its_own(&mut source, Duration::from_millis(500)).await > 0);
    assert!(topology::is_connected(source.as_ref()));
    drop((plc, line));
    let bad = async {
        while topology::is_connected(source.as_ref()) {
            rows(&mut source).await;
        }
    };
    timeout(LIMIT, bad).await.expect("is noticed");
    let line = SerialLine::start_at(&ours, &theirs).await;
    let _plc = Plc::on(device, line.device(), |_| Answer::Right);
    let good = async { while !rows(&mut source).await.iter().any(|(quality, _)| quality == "good") {} };
    timeout(LIMIT, good).await.expect("comes back by itself");
    source.close().await.expect("closes");
}

#[test]
fn every_unit_of_a_line_cannot_be_polled() {
    let text = "[source.s]\ntype = \"modbus\"\ndevice = \"rtu:///dev/ttyUSB0\"\nunit_id = 0\nevery = \"1s\"\npoints = [{ name = \"a\", register = \"holding:0\" }]\n";
    let row = SOURCES.iter().find(|row| row.name == "modbus").expect("a row");
    let refused = (row.build)(&topology::node(text), &topology::build_context()).err().expect("is refused");
    assert_eq!(refused.0[0].code, "TG-C006");
}
