//! A Modbus device that falls silent with its connection open: the other
//! devices keep their period. Real pymodbus servers, one of which is stopped.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::parts::{Server, free_port, wait_for_port};
use crate::plant::{Plant, part};
use crate::process::pause;

/// Registers 0 to 9 hold 7.
const DEVICE: &str = r#"
import asyncio, sys
from pymodbus.server import StartAsyncTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice
device = SimDevice(id=1, simdata=[SimData(0, count=10, values=7, datatype=DataType.REGISTERS)])
asyncio.run(StartAsyncTcpServer(device, address=("127.0.0.1", int(sys.argv[1]))))
"#;

const SOURCE: &str = r#"
[source.NAME]
type    = "modbus"
device  = "tcp://127.0.0.1:PORT"
unit_id = 1
every   = "200ms"
timeout = "500ms"
points  = [{ name = "level", register = "holding:0" }]

[sink.NAME_rows]
type = "file"
from = "NAME"
path = "NAME/"
"#;

const PERIOD_MS: f64 = 200.0;
const NAMES: [&str; 3] = ["first", "second", "silent"];
/// How long each of both spans is.
const SPAN: Duration = Duration::from_secs(4);

/// Milliseconds between the rows of a device, from this row on, sorted.
fn periods(plant: &Plant, name: &str, from: usize) -> Vec<f64> {
    let rows = plant.rows(&format!("{name}/"));
    let at = |row: &serde_json::Value| instant_us(row["ts"].as_str().expect("a time"));
    let times: Vec<i64> = rows.iter().skip(from).map(at).collect();
    let mut periods: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / 1_000.0).collect();
    periods.sort_by(f64::total_cmp);
    periods
}

/// Microseconds within the day; a test does not take as long.
fn instant_us(text: &str) -> i64 {
    let part = |from: usize, to: usize| {
        text.get(from..to).and_then(|part| part.parse::<i64>().ok()).expect("a time")
    };
    let seconds = (part(11, 13) * 60 + part(14, 16)) * 60 + part(17, 19);
    seconds * 1_000_000 + part(20, 26)
}

#[test]
fn a_device_that_falls_silent_costs_the_others_nothing() {
    let python = part("python.sh");
    let mut devices = Vec::new();
    let mut topology = "[topology]\ncheckpoint_interval = \"500ms\"\n".to_owned();
    for name in NAMES {
        let port = free_port();
        let mut command = Command::new(&python);
        command.args(["-c", DEVICE, &port.to_string()]).stdout(Stdio::null());
        devices.push(Server::start(&mut command));
        wait_for_port(port);
        topology += &SOURCE.replace("NAME", name).replace("PORT", &port.to_string());
    }
    let plant = Plant::new(&topology);
    let daemon = plant.start();
    NAMES.iter().for_each(|name| plant.until_more(&format!("{name}/"), 5));
    let counts = || NAMES.map(|name| plant.rows(&format!("{name}/")).len());
    let begun = counts();
    pause(u64::try_from(SPAN.as_millis()).expect("short"));
    devices[2].signal("STOP");
    let cut = counts();
    pause(u64::try_from(SPAN.as_millis()).expect("short"));
    let ended = counts();
    devices[2].signal("CONT");
    let silent = plant.rows("silent/");
    assert!(silent.iter().skip(cut[2] + 3).any(|row| row["quality"] == "bad" && row["level"].is_null()));
    plant.until("the device is read again", || {
        plant.rows("silent/").iter().skip(ended[2]).any(|row| row["quality"] == "good" && row["level"] == 7)
    });
    plant.stop(daemon);
    for (at, name) in NAMES.iter().enumerate().take(2) {
        let rows = plant.rows(&format!("{name}/"));
        assert!(rows.iter().all(|row| row["quality"] == "good" && row["level"] == 7), "{name}");
        let before = periods(&plant, name, begun[at]);
        let before = &before[..before.len().min(cut[at] - begun[at])];
        let during = periods(&plant, name, cut[at]);
        let mean = (ended[at] - cut[at]) as f64;
        let mean = SPAN.as_secs_f64() * 1_000.0 / mean;
        let shown = |all: &[f64]| (all[0], all[all.len() / 2], all[all.len() - 1]);
        println!(
            "silent: {name} every {PERIOD_MS} ms: {:.1?} before, {:.1?} beside a silent device (min, median, max), {mean:.1} on average",
            shown(before),
            shown(&during)
        );
        let median = during[during.len() / 2];
        assert!((median - PERIOD_MS).abs() < PERIOD_MS * 0.25, "{name}: a period of {median} ms");
        assert!(mean < PERIOD_MS * 1.5, "{name}: polls are left out: {mean} ms");
    }
}
