//! Orders over HTTP, acknowledged when they are durable, for tests that change
//! the file of their source.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Instant;

use crate::process::{LIMIT, end_of_log, pause};

/// Nothing is checkpointed by itself: what was acknowledged is in the log.
pub(crate) const ORDERS: &str = r#"[topology]
checkpoint_interval = "1h"

[source.orders]
type   = "http"
listen = "ADDRESS"
schema = { id = "int64" }

[sink.out]
type = "file"
from = "orders"
path = "out/"
"#;

/// Sends one order and has it acknowledged.
pub(crate) fn post(folder: &Path, address: &str, id: u64) {
    let started = Instant::now();
    let mut stream = loop {
        match TcpStream::connect(address) {
            Ok(stream) => break stream,
            Err(error) => assert!(started.elapsed() < LIMIT, "{error}; {}", end_of_log(folder)),
        }
        pause(10);
    };
    stream.set_read_timeout(Some(LIMIT)).expect("a time limit");
    let body = format!("{{\"id\":{id}}}");
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).expect("is read");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answers");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
