//! The first command of the README: a plant in one process, three topologies
//! over real sockets, and everything that has to happen within twenty seconds.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails says where"
)]
#![cfg(feature = "demo")]

use std::process::Command;

use serde_json::Value;

fn demo(seconds: u32) -> (Option<i32>, Vec<Value>) {
    let output = Command::new("timeout")
        .args(["90", env!("CARGO_BIN_EXE_tidegate"), "demo", "--json", "--for"])
        .arg(format!("{seconds}s"))
        .current_dir(std::env::temp_dir())
        .output()
        .expect("tidegate starts");
    let stdout = String::from_utf8(output.stdout).expect("UTF-8");
    let lines =
        stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")));
    (output.status.code(), lines.collect())
}

#[test]
fn a_bearing_a_truck_and_a_field_are_looked_after() {
    let (status, lines) = demo(20);
    assert_eq!(status, Some(0), "{lines:?}");
    let of = |topology: &str, kind: &str| -> Vec<&Value> {
        lines.iter().filter(|line| line["topology"] == topology && line["kind"] == kind).collect()
    };
    let says = |lines: &[&Value], words: &str| {
        lines.iter().any(|line| line["text"].as_str().unwrap_or("").contains(words))
    };

    assert!(says(&of("wind-farm", "ticket"), "Replace bearing of WTG02"), "{:?}", of("wind-farm", "ticket"));
    let derate = of("wind-farm", "write");
    assert_eq!(derate.len(), 1, "{derate:?}");
    assert_eq!(
        (&derate[0]["before"], &derate[0]["value"], &derate[0]["read_back"]),
        (&"100".into(), &"40".into(), &"40".into())
    );

    assert!(says(&of("cold-chain", "alert"), "truck-2: too warm"), "{:?}", of("cold-chain", "alert"));
    assert!(says(&of("cold-chain", "alert"), "truck-3: no signal"), "{:?}", of("cold-chain", "alert"));
    assert!(says(&of("cold-chain", "task"), "task cool succeeded"), "{:?}", of("cold-chain", "task"));

    let valve = of("irrigation", "write");
    assert_eq!(valve.len(), 1, "{valve:?}");
    assert!(valve[0]["address"].as_str().unwrap_or("").ends_with("/1/holding:40"), "{valve:?}");
    assert_eq!(valve[0]["value"], valve[0]["read_back"]);

    let summary = of("demo", "summary");
    assert_eq!(summary.len(), 1);
    for (count, least) in
        [("rows", 1_000), ("windows", 50), ("firings", 4), ("runs", 4), ("tickets", 3), ("writes", 2)]
    {
        assert!(summary[0][count].as_u64().unwrap_or(0) >= least, "{count}: {}", summary[0]);
    }
}
