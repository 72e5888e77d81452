//! The real binary over a file that grows, killed at any moment.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long one run to the end may take.
const RUN_LIMIT: &str = "180";

/// Devices that the rows belong to.
pub(crate) const DEVICES: u64 = 7;

/// Rows `{"id":n,"device":"d…"}` that are appended until it is stopped.
pub(crate) struct Feed {
    is_stopped: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Feed {
    pub(crate) fn start(path: &Path) -> Feed {
        let mut file = std::fs::File::create(path).expect("a file");
        let (is_stopped, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&is_stopped), Arc::clone(&written));
        let thread = std::thread::spawn(move || {
            let mut id = 0;
            while !stopped.load(Ordering::Relaxed) {
                let mut text = String::new();
                for _ in 0..40 {
                    id += 1;
                    text += &format!("{{\"id\":{id},\"device\":\"d{}\"}}\n", id % DEVICES);
                }
                file.write_all(text.as_bytes()).expect("written");
                count.store(id, Ordering::Relaxed);
                pause(10);
            }
        });
        Feed { is_stopped, written, thread: Some(thread) }
    }

    /// Answers how many rows there are.
    pub(crate) fn stop(mut self) -> u64 {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.thread.take().expect("one stop").join().expect("no panic");
        self.written.load(Ordering::Relaxed)
    }
}

pub(crate) fn pause(ms: u64) {
    #[allow(clippy::disallowed_methods, reason = "the world goes on at its own pace")]
    std::thread::sleep(Duration::from_millis(ms));
}

pub(crate) fn start(folder: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["run", "topology.toml"])
        .current_dir(folder)
        .stderr(Stdio::null())
        .spawn()
        .expect("tidegate starts")
}

pub(crate) fn kill(mut child: Child) {
    child.kill().expect("it runs");
    child.wait().expect("ends");
}

/// Runs to the end of the input; answers what it said.
pub(crate) fn run_once(folder: &Path) -> String {
    let output = Command::new("timeout")
        .args([RUN_LIMIT, env!("CARGO_BIN_EXE_tidegate"), "run", "--once", "topology.toml"])
        .current_dir(folder)
        .output()
        .expect("tidegate starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// The last id of each device.
#[allow(dead_code, reason = "not every test file uses every helper")]
pub(crate) fn last_ids(rows: u64) -> Vec<(String, i64)> {
    let last = |device: u64| (0..=rows).rev().find(|id| *id > 0 && id % DEVICES == device);
    (0..DEVICES)
        .filter_map(|device| Some((format!("d{device}"), i64::try_from(last(device)?).expect("small"))))
        .collect()
}
