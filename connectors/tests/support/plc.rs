//! A Modbus device that obeys a script: real cells, and any answer a test
//! wants, as TCP frames or as RTU frames over TCP.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]
#![allow(dead_code, reason = "not every test file uses every helper")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// How requests and answers are wrapped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Frames {
    Tcp,
    Rtu,
}

/// What the device does with a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    /// Obeys and answers.
    Right,
    /// The same, after this time.
    Late(Duration),
    /// Refuses.
    Exception(u8),
    /// Obeys and says that it did not.
    DoneAndException(u8),
    /// Obeys and says nothing.
    DoneAndSilence,
    /// Nothing at all.
    Silence,
    /// The right answer with a wrong last byte.
    Broken,
    /// The first half of the right answer.
    Half,
    /// One cell too few, in a frame that is right otherwise.
    Short,
    /// Bytes that are no Modbus.
    Garbage,
    /// These bytes, and then the right answer.
    After(Vec<u8>),
    /// The right answer, and these bytes after this time.
    AndLater(Duration, Vec<u8>),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) unit: u8,
    pub(crate) function: u8,
    pub(crate) start: u16,
    /// Cells, or the value of a single write.
    pub(crate) count: u16,
    values: Vec<u16>,
}

impl Request {
    pub(crate) fn writes(&self) -> bool {
        matches!(self.function, 5 | 6 | 15 | 16)
    }
}

type Script = Arc<dyn Fn(&Request) -> Answer + Send + Sync>;
type Cells = Arc<Mutex<HashMap<(u8, u16), u16>>>;

/// Serves on a port of its own until it is dropped. A cell that nobody has
/// written holds its own number.
pub(crate) struct Plc {
    pub(crate) device: String,
    /// 0 on a serial line.
    pub(crate) port: u16,
    cells: Cells,
    requests: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Drop for Plc {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Server {
    frames: Frames,
    script: Script,
    cells: Cells,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Plc {
    pub(crate) async fn start(
        frames: Frames,
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Plc {
        Plc::start_on(0, frames, script).await
    }

    /// On this port, for a device that comes back.
    pub(crate) async fn start_on(
        port: u16,
        frames: Frames,
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Plc {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let scheme = if frames == Frames::Tcp { "tcp" } else { "rtu+tcp" };
        let server = Server::new(frames, script);
        let (cells, requests) = (Arc::clone(&server.cells), Arc::clone(&server.requests));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("accepts");
                connections.spawn(server.clone().serve(stream));
            }
        });
        Plc { device: format!("{scheme}://127.0.0.1:{port}"), port, cells, requests, task }
    }

    /// On a stream that is there already, such as a serial line.
    pub(crate) fn on(
        device: String,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Plc {
        let server = Server::new(Frames::Rtu, script);
        let (cells, requests) = (Arc::clone(&server.cells), Arc::clone(&server.requests));
        let task = tokio::spawn(server.serve(stream));
        Plc { device, port: 0, cells, requests, task }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no panic").clone()
    }

    pub(crate) fn cells(&self, unit: u8, start: u16, count: usize) -> Vec<u16> {
        let count = u16::try_from(count).expect("few");
        read(&self.cells, unit, start, count)
    }
}

fn read(cells: &Cells, unit: u8, start: u16, count: u16) -> Vec<u16> {
    let cells = cells.lock().expect("no panic");
    (start..start + count).map(|cell| cells.get(&(unit, cell)).copied().unwrap_or(cell)).collect()
}

impl Server {
    fn new(frames: Frames, script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Server {
        Server { frames, script: Arc::new(script), cells: Cells::default(), requests: Arc::default() }
    }

    async fn serve(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        while let Some((number, request)) = self.receive(&mut stream).await {
            self.requests.lock().expect("no panic").push(request.clone());
            let answer = (self.script)(&request);
            if let Answer::Late(time) = answer {
                tokio::time::sleep(time).await;
            }
            if !matches!(answer, Answer::Silence | Answer::Exception(_)) {
                self.obey(&request);
            }
            // Nobody answers what is said to everybody.
            let silent = matches!(answer, Answer::Silence | Answer::DoneAndSilence);
            if silent || (self.frames == Frames::Rtu && request.unit == 0) {
                continue;
            }
            let refused = match answer {
                Answer::Exception(code) | Answer::DoneAndException(code) => Some(code),
                Answer::Right | Answer::Late(_) | Answer::DoneAndSilence | Answer::Silence => None,
                Answer::Broken | Answer::Half | Answer::Short | Answer::Garbage => None,
                Answer::After(_) | Answer::AndLater(..) => None,
            };
            let mut asked = request.clone();
            asked.count -= u16::from(answer == Answer::Short);
            let body = refused.map_or_else(|| self.body(&asked), |code| vec![request.function | 0x80, code]);
            let mut frame = self.frame(number, request.unit, &body);
            #[allow(clippy::wildcard_enum_match_arm, reason = "the others change nothing")]
            match &answer {
                Answer::Broken => *frame.last_mut().expect("a byte") ^= 0xFF,
                Answer::Half => frame.truncate(frame.len() / 2),
                Answer::Garbage => frame = vec![0xFF; 40],
                Answer::After(noise) => frame.splice(0..0, noise.iter().copied()).for_each(drop),
                _ => {}
            }
            if stream.write_all(&frame).await.is_err() {
                return;
            }
            if let Answer::AndLater(time, more) = answer {
                tokio::time::sleep(time).await;
                stream.write_all(&more).await.ok();
            }
        }
    }

    async fn receive(&self, stream: &mut (impl AsyncRead + Unpin)) -> Option<([u8; 2], Request)> {
        let mut number = [0; 2];
        if self.frames == Frames::Tcp {
            let mut head = [0; 6];
            stream.read_exact(&mut head).await.ok()?;
            number = [head[0], head[1]];
        }
        let mut head = [0; 6];
        stream.read_exact(&mut head).await.ok()?;
        let [unit, function, ..] = head;
        let (start, count) = (u16::from_be_bytes([head[2], head[3]]), u16::from_be_bytes([head[4], head[5]]));
        let mut values = vec![count];
        if matches!(function, 15 | 16) {
            let length = stream.read_u8().await.ok()?;
            let mut bytes = vec![0; usize::from(length)];
            stream.read_exact(&mut bytes).await.ok()?;
            values = if function == 16 {
                bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
            } else {
                (0..count).map(|bit| u16::from(bytes[usize::from(bit / 8)] >> (bit % 8)) & 1).collect()
            };
        }
        if function == 5 {
            values = vec![u16::from(count == 0xFF00)];
        }
        if self.frames == Frames::Rtu {
            stream.read_exact(&mut [0; 2]).await.ok()?;
        }
        Some((number, Request { unit, function, start, count, values }))
    }

    fn obey(&self, request: &Request) {
        if !request.writes() {
            return;
        }
        let units: Vec<u8> = if request.unit == 0 { (0..=10).collect() } else { vec![request.unit] };
        let mut cells = self.cells.lock().expect("no panic");
        for unit in units {
            for (cell, value) in (request.start..).zip(&request.values) {
                cells.insert((unit, cell), *value);
            }
        }
    }

    fn body(&self, request: &Request) -> Vec<u8> {
        let Request { unit, function, start, count, .. } = request;
        let mut body = vec![*function];
        match function {
            1 | 2 => {
                let bits = read(&self.cells, *unit, *start, *count);
                let mut bytes = vec![0_u8; bits.len().div_ceil(8)];
                for (at, bit) in bits.iter().enumerate() {
                    bytes[at / 8] |= u8::from(*bit == 1) << (at % 8);
                }
                body.push(u8::try_from(bytes.len()).expect("short"));
                body.extend(bytes);
            }
            3 | 4 => {
                let words = read(&self.cells, *unit, *start, *count);
                body.push(u8::try_from(words.len() * 2).expect("short"));
                body.extend(words.iter().flat_map(|word| word.to_be_bytes()));
            }
            _ => body.extend([start.to_be_bytes(), count.to_be_bytes()].concat()),
        }
        body
    }

    fn frame(&self, number: [u8; 2], unit: u8, body: &[u8]) -> Vec<u8> {
        let mut inner = vec![unit];
        inner.extend(body);
        if self.frames == Frames::Rtu {
            let crc = crc(&inner);
            inner.extend(crc.to_le_bytes());
            return inner;
        }
        let length = u16::try_from(inner.len()).expect("short").to_be_bytes();
        [&number[..], &[0, 0], &length[..], &inner[..]].concat()
    }
}

/// CRC of Modbus RTU (Modbus over serial line V1.02, section 6.2.2).
pub(crate) fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |mut crc: u16, byte| {
        crc ^= u16::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xA001 } else { crc >> 1 };
        }
        crc
    })
}
