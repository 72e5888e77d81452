//! An HTTP service that knows of devices, and remembers what it was asked.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::process::pause;

pub(crate) struct Service {
    pub(crate) port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Service {
    pub(crate) fn start() -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&asked);
        std::thread::spawn(move || {
            for line in listener.incoming().map_while(Result::ok) {
                let notes = Arc::clone(&notes);
                std::thread::spawn(move || serve(&line, &notes));
            }
        });
        Service { port, asked }
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }
}

/// Answers the requests of a connection.
fn serve(line: &TcpStream, notes: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(line.try_clone().expect("a handle"));
    loop {
        let mut path = None;
        loop {
            let mut text = String::new();
            if reader.read_line(&mut text).unwrap_or(0) == 0 {
                return;
            }
            if text == "\r\n" {
                break;
            }
            path = path.or_else(|| text.split(' ').nth(1).map(str::to_owned));
        }
        let path = path.unwrap_or_default();
        let before = {
            let mut notes = notes.lock().expect("no panic");
            notes.push(path.clone());
            notes.iter().filter(|note| **note == path).count()
        };
        let device = path.trim_start_matches("/devices/").split('?').next().unwrap_or_default();
        let (status, body) = match device {
            "a" => {
                pause(300);
                ("200 OK", r#"{"owner": "ada", "limits": {"high": 5.5}, "spare": []}"#)
            }
            "b" if before < 3 => ("503 Service Unavailable", "not now"),
            "b" => ("200 OK", r#"[{"owner": "bob"}]"#),
            "e" => ("200 OK", "<html>"),
            "x%2Fy%20z" => ("200 OK", r#"{"owner": "path"}"#),
            _ => ("404 Not Found", "no such device"),
        };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let mut answers = line;
        if answers.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
