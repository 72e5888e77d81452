//! What polling costs us: 50 devices with 200 points each, once a second, as
//! the share of one core that this process uses. The devices run in a process
//! of their own. Prints minimum, median and maximum of the windows.
//!
//! `cargo bench -p tidegate-connectors --bench modbus -- [WINDOWS] [SECONDS]`

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark stops at the first surprise and measures real time"
)]

#[path = "support/child.rs"]
mod child;
#[path = "../tests/support/plc.rs"]
mod plc;
#[path = "../tests/support/topology.rs"]
mod topology;

use std::time::{Duration, Instant};

use arrow::array::AsArray;
use child::{Child, cpu_time, numbers, report};
use plc::{Answer, Frames, Plc};
use tidegate_connectors::SOURCES;
use tidegate_engine::source::Polled;

const DEVICES: usize = 50;
/// Of each device: half of them words, half of them floats.
const POINTS: usize = 200;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    if child::is_child() {
        runtime.block_on(devices());
        return;
    }
    let numbers = numbers();
    let windows = numbers.first().copied().unwrap_or(5);
    let seconds = numbers.get(1).copied().unwrap_or(10);
    runtime.block_on(measure(windows, Duration::from_secs(seconds)));
}

/// Serves until this process is killed.
async fn devices() {
    let mut plcs = Vec::new();
    for _ in 0..DEVICES {
        plcs.push(Plc::start(Frames::Tcp, |_| Answer::Right).await);
    }
    child::tell(&plcs.iter().map(|plc| plc.device.as_str()).collect::<Vec<_>>().join(" "));
    std::future::pending::<()>().await;
}

async fn measure(windows: u64, window: Duration) {
    let child = Child::start(&[]);
    let devices: Vec<String> = child.told.split(' ').map(|device| format!("\"{device}\"")).collect();
    let points: Vec<String> = (0..POINTS)
        .map(|point| match point % 2 {
            0 => format!("{{ name = \"p{point}\", register = \"holding:{}\", scale = 0.1 }}", point / 2),
            _ => format!("{{ name = \"p{point}\", register = \"input:{}\", type = \"f32\" }}", point / 2 * 2),
        })
        .collect();
    let text = format!(
        "[source.plant]\ntype = \"modbus\"\ndevice = [{}]\nevery = \"1s\"\npoints = [{}]\n",
        devices.join(", "),
        points.join(", ")
    );
    let row = SOURCES.iter().find(|row| row.name == "modbus").expect("a row");
    let part = (row.build)(&topology::node(&text), &topology::build_context()).expect("builds");
    let mut source = part.source;
    source.open(None).await.expect("opens");
    let mut shares = Vec::new();
    // The first window makes the connections and is not counted.
    for number in 0..=windows {
        let (started, cpu) = (Instant::now(), cpu_time());
        let mut rows = 0;
        while started.elapsed() < window {
            let next = tokio::time::timeout(window.saturating_sub(started.elapsed()), source.next()).await;
            let Ok(polled) = next else { break };
            let Polled::Rows(read) = polled.expect("no error") else { unreachable!("it does not end") };
            let quality = read.batch.column_by_name("quality").expect("a column").as_string::<i32>();
            assert!(quality.iter().all(|word| word == Some("good")), "a poll has failed");
            rows += read.batch.num_rows();
        }
        let share = (cpu_time() - cpu).as_secs_f64() / started.elapsed().as_secs_f64();
        if number > 0 {
            let expected = DEVICES as u64 * window.as_secs();
            println!("window {number}: {rows} rows of {POINTS} points (about {expected} are due)");
            shares.push(share * 100.0);
        }
    }
    println!("{}; {} points a second from {DEVICES} devices", child::machine(), DEVICES * POINTS);
    report("share of one core", "%", &mut shares);
    source.close().await.expect("closes");
}
