//! What a sink whose peer is away costs its neighbour: rows go to a sink that is
//! well and to an HTTP peer behind a queue, one row each 2 ms; after a minute the
//! peer is gone for SECONDS (argument, default 600). Printed: the latency of
//! the healthy branch with the peer there and away, and the memory meanwhile.
//! Open loop: a row's time begins when it is due.
//!
//! `cargo bench --bench outage -- --seconds 600`

#![allow(
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "a benchmark stops at the first surprise"
)]

#[path = "../src/catalog.rs"]
mod catalog;
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use support::due::{CATALOG, Times};
use support::{Engine, machine, percentiles};

/// Rows a second.
const RATE: u64 = 500;
/// Seconds that the peer is there.
const THERE: u64 = 60;

const TOPOLOGY: &str = r#"
[source.rows]
type  = "due"
rows  = ROWS
every = "2ms"

[sink.healthy]
type = "arrived"
from = "rows"

[sink.away]
type  = "http"
from  = "rows"
url   = "http://ADDRESS/rows"
queue = { disk = "4GiB" }
"#;

/// A peer that takes everything until it is gone.
struct Peer {
    is_gone: AtomicBool,
    requests: AtomicU64,
}

impl Peer {
    fn start() -> (Arc<Peer>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("is bound").to_string();
        let peer = Arc::new(Peer { is_gone: AtomicBool::new(false), requests: AtomicU64::new(0) });
        let at_work = Arc::clone(&peer);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if at_work.is_gone.load(Ordering::Acquire) {
                    // The listener goes: from now on nobody is there.
                    return;
                }
                let at_work = Arc::clone(&at_work);
                std::thread::spawn(move || at_work.serve(stream));
            }
        });
        (peer, address)
    }

    /// Ends at the first request after it is gone, without an answer.
    fn serve(&self, stream: TcpStream) {
        let mut writer = stream.try_clone().expect("a second handle");
        let mut reader = BufReader::new(stream);
        while let Some(length) = head(&mut reader) {
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).is_err() || self.is_gone.load(Ordering::Acquire) {
                return;
            }
            self.requests.fetch_add(1, Ordering::Relaxed);
            if writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_err() {
                return;
            }
        }
    }
}

/// Reads the head of a request; answers the length of its body.
fn head(reader: &mut BufReader<TcpStream>) -> Option<usize> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            return Some(length);
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
}

/// Resident memory in MB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("is there");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") / 1_024
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == "--seconds");
    let seconds: u64 = at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(600);
    println!("{}; one row each 2 ms, the peer is there for {THERE} s, then away for {seconds} s", machine());
    let (peer, address) = Peer::start();
    let rows = RATE * (THERE + seconds);
    let text = TOPOLOGY.replace("ROWS", &rows.to_string()).replace("ADDRESS", &address);
    let watcher = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(THERE));
        let mut sizes = vec![memory().to_string()];
        peer.is_gone.store(true, Ordering::Release);
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(seconds * 100));
            sizes.push(memory().to_string());
        }
        (sizes.join(" "), peer.requests.load(Ordering::Relaxed))
    });
    let shared = Engine::start().run_with(&CATALOG, &text).1;
    let times = shared.get_or_insert("healthy", Times::default).take();
    let (sizes, requests) = watcher.join().expect("no panic");
    let (there, away) = times.split_at(usize::try_from(RATE * THERE).expect("small"));
    // The first second is the start.
    println!("  peer there  {}", percentiles(&there[usize::try_from(RATE).expect("small")..]));
    println!("  peer away   {}", percentiles(away));
    println!("  memory in MB when it goes, and each tenth of its absence: {sizes}");
    println!("  {requests} requests were taken");
}
