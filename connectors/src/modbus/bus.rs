//! One line to one or more units. Guards the client library: every request
//! has a deadline, after any doubt the connection is dropped, and the length
//! of every answer is checked, so that an answer is never taken for another
//! request's.

use std::borrow::Cow;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tokio_modbus::client::{Client, Context, rtu, tcp};
use tokio_modbus::slave::{Slave, SlaveContext};
use tokio_modbus::{ExceptionCode, Request, Response};
use tokio_serial::SerialPortBuilderExt;

use super::address::{Address, Area};
use super::ear::{Ear, Listening, drain};

/// Where the units are.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Transport {
    /// `tcp://host:port`
    Tcp(String),
    /// `rtu+tcp://host:port`: RTU frames through a TCP connection.
    RtuOverTcp(String),
    /// `rtu:///dev/ttyUSB0`
    Serial { path: String, line: SerialLine },
}

/// Settings of a serial line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SerialLine {
    pub(crate) baud: u32,
    pub(crate) data_bits: tokio_serial::DataBits,
    pub(crate) parity: tokio_serial::Parity,
    pub(crate) stop_bits: tokio_serial::StopBits,
}

/// Why a request gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BusError {
    /// Nobody can be reached; other units of the line cannot either.
    #[error("{0}")]
    Unreachable(String),
    /// No answer in time; the connection was dropped.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// An answer that cannot belong to the request; the connection was dropped.
    #[error("{0}")]
    Garbled(String),
    /// The unit refused: a normal answer, the connection is kept.
    #[error("exception: {0}")]
    Exception(ExceptionCode),
}

/// Times of a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// Longest wait for an answer, and for a connection.
    pub(crate) timeout: Duration,
    /// Silence between two requests.
    pub(crate) pause: Duration,
}

/// After a broadcast units are given this time to obey (Modbus over serial
/// line V1.02, section 2.4.1: 100 to 200 ms).
const BROADCAST_PAUSE: Duration = Duration::from_millis(100);

/// A unit that is busy (exceptions 5 and 6) is asked this often.
const BUSY_ATTEMPTS: u32 = 3;
/// With this much time in between.
const BUSY_WAIT: Duration = Duration::from_millis(100);

/// A line to units, shared by polls and writes: one request at a time.
pub(crate) struct Bus {
    transport: Transport,
    timing: Timing,
    /// Polls pass here one by one: no more than one stands before a write.
    polls: Mutex<()>,
    line: Mutex<Line>,
}

/// Who asks: a write, and what belongs to it, goes before all polls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    Poll,
    Write,
}

#[derive(Default)]
struct Line {
    client: Option<Connected>,
    last_use: Option<Instant>,
    /// Requests whose answers may still come.
    doubts: Vec<Doubt>,
}

/// A connection that is known to be clean.
struct Connected {
    context: Context,
    /// Hears bytes come in, where frames have neither length nor number.
    listening: Option<Listening>,
}

/// An RTU answer says neither which request it belongs to nor which registers
/// it holds: one that comes late looks like that of the next request to the
/// same unit with the same function. So none is made before this instant.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    shape: Shape,
    until: Instant,
}

/// What every RTU answer tells of its request: unit and function.
type Shape = (u8, u8);

/// Why an exchange has no answer.
enum NoAnswer {
    Silence,
    /// A part of a frame, and then silence.
    BrokenOff,
    /// Something else, or the connection is lost.
    Wrong(String),
}

impl Connected {
    /// Whether what came begins as an answer of this shape.
    fn began_with(&self, (unit, function): Shape) -> bool {
        let began = self.listening.as_ref().and_then(Listening::began_with);
        began.is_some_and(|[first, second]| first == unit && second & 0x7F == function)
    }
}

impl Line {
    /// The last request was answered: nothing more comes.
    fn clean_again(&mut self, client: Connected) {
        self.client = Some(client);
        self.doubts.pop();
    }
}

/// What a read gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cells {
    Bits(Vec<bool>),
    Registers(Vec<u16>),
}

impl Bus {
    pub(crate) fn new(transport: Transport, timing: Timing) -> Bus {
        Bus { transport, timing, polls: Mutex::new(()), line: Mutex::new(Line::default()) }
    }

    /// Longest wait for an answer.
    pub(crate) fn timeout(&self) -> Duration {
        self.timing.timeout
    }

    /// Whether unit 0 means every unit, and none of them answers.
    pub(crate) fn has_broadcast(&self) -> bool {
        self.is_rtu()
    }

    fn is_rtu(&self) -> bool {
        !matches!(self.transport, Transport::Tcp(_))
    }

    /// Reads cells of a unit.
    pub(crate) async fn read(
        &self,
        unit: u8,
        start: Address,
        count: u16,
        urgency: Urgency,
    ) -> Result<Cells, BusError> {
        let request = match start.area {
            Area::Coil => Request::ReadCoils(start.offset, count),
            Area::Discrete => Request::ReadDiscreteInputs(start.offset, count),
            Area::Input => Request::ReadInputRegisters(start.offset, count),
            Area::Holding => Request::ReadHoldingRegisters(start.offset, count),
        };
        let mut attempt = 1;
        loop {
            let check = |response| cells(start.area, count, response);
            let answer = self.exchange(unit, request.clone(), urgency, check).await;
            match answer {
                Err(BusError::Exception(ExceptionCode::Acknowledge | ExceptionCode::ServerDeviceBusy))
                    if attempt < BUSY_ATTEMPTS =>
                {
                    attempt += 1;
                    tokio::time::sleep(BUSY_WAIT).await;
                }
                other => return other,
            }
        }
    }

    /// Writes registers of a unit, once; whether it was taken is known only if
    /// this answers `Ok` or an exception. `multiple`: with function 16 even if
    /// it is a single one.
    pub(crate) async fn write_registers(
        &self,
        unit: u8,
        offset: u16,
        values: &[u16],
        multiple: bool,
    ) -> Result<(), BusError> {
        let request = match values {
            [value] if !multiple => Request::WriteSingleRegister(offset, *value),
            _ => Request::WriteMultipleRegisters(offset, Cow::Owned(values.to_vec())),
        };
        self.write(unit, request).await
    }

    /// Writes one coil of a unit, once; `multiple`: with function 15.
    pub(crate) async fn write_coil(
        &self,
        unit: u8,
        offset: u16,
        value: bool,
        multiple: bool,
    ) -> Result<(), BusError> {
        let request = if multiple {
            Request::WriteMultipleCoils(offset, Cow::Owned(vec![value]))
        } else {
            Request::WriteSingleCoil(offset, value)
        };
        self.write(unit, request).await
    }

    async fn write(&self, unit: u8, request: Request<'static>) -> Result<(), BusError> {
        if unit == 0 && self.has_broadcast() {
            return self.broadcast(request).await;
        }
        let expected = request.clone();
        let check = move |response| echoes(&expected, &response);
        self.exchange(unit, request, Urgency::Write, check).await
    }

    /// Sends to every unit; nobody answers, so nobody waits for an answer.
    async fn broadcast(&self, request: Request<'static>) -> Result<(), BusError> {
        let mut line = self.line.lock().await;
        let mut client = self.clean(&mut line, (0, request.function_code().value())).await?;
        client.context.set_slave(Slave(0));
        let sent = timeout(BROADCAST_PAUSE, client.context.call(request)).await;
        line.last_use = Some(Instant::now());
        match sent {
            Ok(Err(tokio_modbus::Error::Transport(error))) => {
                Err(BusError::Garbled(format!("connection lost: {}", error.kind())))
            }
            // An answer all the same: the line is not what it should be.
            Ok(_) => Ok(()),
            Err(_) => {
                line.client = Some(client);
                Ok(())
            }
        }
    }

    /// One request and its answer. If this future is dropped half-way, so is
    /// the connection: only a clean answer puts it back.
    async fn exchange<T>(
        &self,
        unit: u8,
        request: Request<'static>,
        urgency: Urgency,
        check: impl FnOnce(Response) -> Option<T>,
    ) -> Result<T, BusError> {
        let _turn = match urgency {
            Urgency::Poll => Some(self.polls.lock().await),
            Urgency::Write => None,
        };
        let mut line = self.line.lock().await;
        let shape = (unit, request.function_code().value());
        let mut client = self.clean(&mut line, shape).await?;
        let sent = Instant::now();
        // As long as nothing came, it may come: twice the time that was given.
        line.doubts.push(Doubt { shape, until: sent + self.timing.timeout * 3 });
        client.context.set_slave(Slave(unit));
        let answer = self.answer(&mut client, request).await;
        line.last_use = Some(Instant::now());
        let wrong = |reason: String| (BusError::Garbled(reason), Some(sent + self.timing.timeout));
        let failed = match answer {
            Ok(Ok(response)) => match check(response) {
                Some(checked) => {
                    line.clean_again(client);
                    return Ok(checked);
                }
                None => wrong("an answer of the wrong length or to another request".into()),
            },
            Ok(Err(exception)) => {
                line.clean_again(client);
                return Err(BusError::Exception(exception));
            }
            Err(NoAnswer::Silence) => return Err(BusError::Timeout(self.timing.timeout)),
            // What came was ours, and nothing more comes.
            Err(NoAnswer::BrokenOff) if client.began_with(shape) => {
                (BusError::Garbled("an answer that is broken off".into()), None)
            }
            Err(NoAnswer::BrokenOff) => wrong("noise instead of an answer".into()),
            Err(NoAnswer::Wrong(reason)) => wrong(reason),
        };
        // Something came; if it was another's, ours comes in its time.
        line.doubts.pop();
        line.doubts.extend(failed.1.map(|until| Doubt { shape, until }));
        Err(failed.0)
    }

    async fn answer(
        &self,
        client: &mut Connected,
        request: Request<'static>,
    ) -> Result<Result<Response, ExceptionCode>, NoAnswer> {
        let Connected { context, listening } = client;
        let broken_off = async {
            match listening {
                Some(listening) => listening.broken_off().await,
                None => std::future::pending().await,
            }
        };
        let answer = tokio::select! {
            biased;
            answer = timeout(self.timing.timeout, context.call(request)) => answer,
            () = broken_off => return Err(NoAnswer::BrokenOff),
        };
        match answer {
            Err(_) => Err(NoAnswer::Silence),
            Ok(Err(tokio_modbus::Error::Transport(error))) => {
                Err(NoAnswer::Wrong(format!("connection lost: {}", error.kind())))
            }
            Ok(Err(tokio_modbus::Error::Protocol(error))) => Err(NoAnswer::Wrong(error.to_string())),
            Ok(Ok(answer)) => Ok(answer),
        }
    }

    /// A connection on which no answer but ours can come. Taken out of the
    /// line: whatever happens, only a clean answer puts it back.
    async fn clean(&self, line: &mut Line, next: Shape) -> Result<Connected, BusError> {
        let pause_until = line.last_use.map(|last| last + self.timing.pause);
        if let Some(until) = pause_until.filter(|_| !self.timing.pause.is_zero()) {
            tokio::time::sleep_until(until).await;
        }
        let now = Instant::now();
        line.doubts.retain(|doubt| doubt.until > now);
        let same = line.doubts.iter().filter(|doubt| doubt.shape == next && self.is_rtu());
        let quiet = same.map(|doubt| doubt.until).max();
        match line.client.take() {
            Some(client) if quiet.is_none() => Ok(client),
            Some(_) | None => self.connect(quiet.unwrap_or(now)).await,
        }
    }

    /// `quiet`: until this instant something may come that belongs to an
    /// earlier request.
    async fn connect(&self, quiet: Instant) -> Result<Connected, BusError> {
        let unreachable = |error: std::io::Error| BusError::Unreachable(format!("cannot connect: {error}"));
        // The unit is set before each request.
        let nobody = Slave(0);
        match &self.transport {
            Transport::Tcp(address) => {
                // Answers carry the number of their request.
                let context = tcp::attach_slave(self.dial(address).await?, nobody);
                Ok(Connected { context, listening: None })
            }
            Transport::RtuOverTcp(address) => {
                let mut stream = self.dial(address).await?;
                drain(&mut stream, quiet).await.map_err(unreachable)?;
                let (ear, listening) = Ear::new(stream);
                Ok(Connected { context: rtu::attach_slave(ear, nobody), listening: Some(listening) })
            }
            Transport::Serial { path, line } => {
                let port = tokio_serial::new(path, line.baud)
                    .data_bits(line.data_bits)
                    .parity(line.parity)
                    .stop_bits(line.stop_bits);
                let mut port = port.open_native_async().map_err(|error| unreachable(error.into()))?;
                // The port may hold what came before it was opened.
                drain(&mut port, quiet).await.map_err(unreachable)?;
                let (ear, listening) = Ear::new(port);
                Ok(Connected { context: rtu::attach_slave(ear, nobody), listening: Some(listening) })
            }
        }
    }

    async fn dial(&self, address: &str) -> Result<TcpStream, BusError> {
        let unreachable = |reason: &dyn std::fmt::Display| {
            BusError::Unreachable(format!("cannot connect to {address}: {reason}"))
        };
        let dialled = timeout(self.timing.timeout, TcpStream::connect(address)).await;
        let stream = dialled.map_err(|_| unreachable(&"no answer"))?.map_err(|error| unreachable(&error))?;
        stream.set_nodelay(true).map_err(|error| unreachable(&error))?;
        // A command that the network holds up is not sent any more when the connection
        // is dropped: the kernel would go on trying, and it would come late or twice.
        stream.set_zero_linger().map_err(|error| unreachable(&error))?;
        Ok(stream)
    }
}

/// The cells of an answer, if it is one to this request.
pub(super) fn cells(area: Area, count: u16, response: Response) -> Option<Cells> {
    let count = usize::from(count);
    #[allow(clippy::wildcard_enum_match_arm, reason = "any other answer is to another request")]
    match (area, response) {
        (Area::Coil, Response::ReadCoils(mut bits))
        | (Area::Discrete, Response::ReadDiscreteInputs(mut bits)) => {
            // Bits come in whole bytes.
            let right_length = bits.len() == count || bits.len() == count.next_multiple_of(8);
            bits.truncate(count);
            right_length.then_some(Cells::Bits(bits))
        }
        (Area::Input, Response::ReadInputRegisters(words))
        | (Area::Holding, Response::ReadHoldingRegisters(words)) => {
            (words.len() == count).then_some(Cells::Registers(words))
        }
        (_, _) => None,
    }
}

/// Whether a write was answered with what was written.
pub(super) fn echoes(request: &Request<'static>, response: &Response) -> Option<()> {
    #[allow(clippy::wildcard_enum_match_arm, reason = "any other answer is to another request")]
    let same = match (request, response) {
        (Request::WriteSingleCoil(at, value), Response::WriteSingleCoil(there, written)) => {
            at == there && value == written
        }
        (Request::WriteMultipleCoils(at, values), Response::WriteMultipleCoils(there, count)) => {
            at == there && values.len() == usize::from(*count)
        }
        (Request::WriteSingleRegister(at, value), Response::WriteSingleRegister(there, written)) => {
            at == there && value == written
        }
        (Request::WriteMultipleRegisters(at, values), Response::WriteMultipleRegisters(there, count)) => {
            at == there && values.len() == usize::from(*count)
        }
        (_, _) => false,
    };
    same.then_some(())
}
