//! The other side of a benchmark in a process of its own, so that its work is
//! not counted as ours.

#![allow(clippy::expect_used, reason = "a benchmark stops at the first surprise")]
#![allow(dead_code, reason = "not every benchmark uses every helper")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The first argument of the other process.
const WORD: &str = "other-side";

/// This program once more, until the value is dropped.
pub(crate) struct Child {
    process: std::process::Child,
    /// Its first line.
    pub(crate) told: String,
}

impl Drop for Child {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Child {
    pub(crate) fn start(arguments: &[String]) -> Child {
        let mut command = Command::new(std::env::current_exe().expect("a program"));
        command.arg(WORD).args(arguments).stdout(Stdio::piped());
        let mut process = command.spawn().expect("starts");
        let mut told = String::new();
        BufReader::new(process.stdout.take().expect("a pipe")).read_line(&mut told).expect("a line");
        Child { process, told: told.trim().to_owned() }
    }
}

pub(crate) fn is_child() -> bool {
    std::env::args().nth(1).as_deref() == Some(WORD)
}

/// Tells the parent one line.
pub(crate) fn tell(line: &str) {
    println!("{line}");
    std::io::stdout().flush().expect("the parent listens");
}

/// Every argument that is a number.
pub(crate) fn numbers() -> Vec<u64> {
    std::env::args().filter_map(|argument| argument.parse().ok()).collect()
}

/// What all threads of this process have used so far.
pub(crate) fn cpu_time() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let used = tasks.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(used.sum())
}

/// Prints minimum, median and maximum; answers the median.
pub(crate) fn report(name: &str, unit: &str, values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    let median = at(values.len() / 2);
    println!("{name:36} {:10.2} {median:10.2} {:10.2} {unit}", at(0), at(values.len().saturating_sub(1)));
    median
}

pub(crate) fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or("unknown processor", |(_, name)| name).to_owned()
}
