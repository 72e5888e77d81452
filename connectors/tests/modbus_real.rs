//! Against somebody else's device: pymodbus, over TCP and over RTU frames in
//! TCP.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails says where"
)]

#[path = "support/python.rs"]
mod python;
#[path = "support/topology.rs"]
mod topology;

use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Int64Type};
use tidegate_connectors::SOURCES;
use tidegate_engine::source::Polled;

/// A device with registers 0 to 999 = 0x1234, a float 1.5 at 1000, coils.
const SERVER: &str = r#"
import asyncio, sys
from pymodbus.framer import FramerType
from pymodbus.server import StartAsyncTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice
port, framer = int(sys.argv[1]), sys.argv[2]
device = SimDevice(id=1, simdata=[
    SimData(0, count=1000, values=0x1234, datatype=DataType.REGISTERS),
    SimData(1000, values=[1.5], datatype=DataType.FLOAT32),
    SimData(1010, values=[-7], datatype=DataType.INT16),
])
asyncio.run(StartAsyncTcpServer(device, address=("127.0.0.1", port),
    framer=FramerType.RTU if framer == "rtu" else FramerType.SOCKET))
"#;

async fn reads(framer: &str, scheme: &str) {
    let server = python::Server::start(SERVER, &[framer]).await;
    let text = format!(
        r#"[source.plc]
type    = "modbus"
device  = "{scheme}://127.0.0.1:{}"
every   = "50ms"
points  = [
  {{ name = "word", register = "holding:0" }},
  {{ name = "far", register = "40501" }},
  {{ name = "float", register = "holding:1000", type = "f32" }},
  {{ name = "small", register = "holding:1010", type = "i16" }},
  {{ name = "scaled", register = "holding:1", type = "u16", scale = 0.5, add = 1 }},
]
"#,
        server.port
    );
    let row = SOURCES.iter().find(|row| row.name == "modbus").expect("a row");
    let part = (row.build)(&topology::node(&text), &topology::build_context());
    let mut source = part.unwrap_or_else(|error| panic!("{error}")).source;
    source.open(None).await.expect("opens");
    let mut polls = 0;
    while polls < 5 {
        let polled = tokio::time::timeout(Duration::from_secs(20), source.next()).await.expect("in time");
        let Polled::Rows(rows) = polled.expect("no error") else { panic!("it does not end") };
        // No rows: only the connection has changed.
        if rows.batch.num_rows() == 0 {
            continue;
        }
        polls += 1;
        let column = |name: &str| rows.batch.column_by_name(name).expect("a column").clone();
        assert_eq!(column("quality").as_string::<i32>().value(0), "good");
        assert_eq!(column("word").as_primitive::<Int64Type>().value(0), 0x1234);
        assert_eq!(column("far").as_primitive::<Int64Type>().value(0), 0x1234);
        assert!((column("float").as_primitive::<Float64Type>().value(0) - 1.5).abs() < f64::EPSILON);
        assert_eq!(column("small").as_primitive::<Int64Type>().value(0), -7);
        assert!((column("scaled").as_primitive::<Float64Type>().value(0) - 2331.0).abs() < f64::EPSILON);
    }
    source.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_pymodbus_over_tcp() {
    reads("tcp", "tcp").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_pymodbus_over_rtu_frames_in_tcp() {
    reads("rtu", "rtu+tcp").await;
}
