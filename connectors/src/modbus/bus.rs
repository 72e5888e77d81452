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

/// A serial line is drained until it was silent for this long: 3.5 characters
/// at 1,200 baud are 32 ms.
const SERIAL_SILENCE: Duration = Duration::from_millis(50);

/// A unit that is busy (exceptions 5 and 6) is asked this often.
const BUSY_ATTEMPTS: u32 = 3;
/// With this much time in between.
const BUSY_WAIT: Duration = Duration::from_millis(100);

/// A line to units, shared by polls and writes: one request at a time.
pub(crate) struct Bus {
    transport: Transport,
    timing: Timing,
    line: Mutex<Line>,
}

#[derive(Default)]
struct Line {
    client: Option<Context>,
    last_use: Option<Instant>,
    /// The connection was dropped in doubt: a serial line may still carry the
    /// late answer.
    in_doubt: bool,
}

/// What a read gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cells {
    Bits(Vec<bool>),
    Registers(Vec<u16>),
}

impl Bus {
    pub(crate) fn new(transport: Transport, timing: Timing) -> Bus {
        Bus { transport, timing, line: Mutex::new(Line::default()) }
    }

    /// Longest wait for an answer.
    pub(crate) fn timeout(&self) -> Duration {
        self.timing.timeout
    }

    /// Reads cells of a unit.
    pub(crate) async fn read(&self, unit: u8, start: Address, count: u16) -> Result<Cells, BusError> {
        let request = match start.area {
            Area::Coil => Request::ReadCoils(start.offset, count),
            Area::Discrete => Request::ReadDiscreteInputs(start.offset, count),
            Area::Input => Request::ReadInputRegisters(start.offset, count),
            Area::Holding => Request::ReadHoldingRegisters(start.offset, count),
        };
        let mut attempt = 1;
        loop {
            let answer =
                self.exchange(unit, request.clone(), |response| cells(start.area, count, response)).await;
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
    /// this answers `Ok` or an exception.
    pub(crate) async fn write_registers(
        &self,
        unit: u8,
        offset: u16,
        values: &[u16],
    ) -> Result<(), BusError> {
        let request = match values {
            [value] => Request::WriteSingleRegister(offset, *value),
            _ => Request::WriteMultipleRegisters(offset, Cow::Owned(values.to_vec())),
        };
        self.write(unit, request).await
    }

    /// Writes one coil of a unit, once.
    pub(crate) async fn write_coil(&self, unit: u8, offset: u16, value: bool) -> Result<(), BusError> {
        self.write(unit, Request::WriteSingleCoil(offset, value)).await
    }

    async fn write(&self, unit: u8, request: Request<'static>) -> Result<(), BusError> {
        let expected = request.clone();
        self.exchange(unit, request, move |response| echoes(&expected, &response)).await
    }

    /// One request and its answer. Not cancel-safe by itself: the guard below
    /// drops the connection if this future is dropped half-way.
    async fn exchange<T>(
        &self,
        unit: u8,
        request: Request<'static>,
        check: impl FnOnce(Response) -> Option<T>,
    ) -> Result<T, BusError> {
        let mut line = self.line.lock().await;
        let pause_until = line.last_use.map(|last| last + self.timing.pause);
        if let Some(until) = pause_until.filter(|_| !self.timing.pause.is_zero()) {
            tokio::time::sleep_until(until).await;
        }
        // Taken out: whatever happens below, only a clean answer puts it back.
        let mut client = match line.client.take() {
            Some(client) => client,
            None => self.connect(line.in_doubt).await?,
        };
        line.in_doubt = true;
        client.set_slave(Slave(unit));
        let answer = timeout(self.timing.timeout, client.call(request)).await;
        line.last_use = Some(Instant::now());
        let answer = match answer {
            Err(_) => return Err(BusError::Timeout(self.timing.timeout)),
            Ok(Err(tokio_modbus::Error::Transport(error))) => {
                return Err(BusError::Garbled(format!("connection lost: {}", error.kind())));
            }
            Ok(Err(tokio_modbus::Error::Protocol(error))) => {
                return Err(BusError::Garbled(error.to_string()));
            }
            Ok(Ok(answer)) => answer,
        };
        let checked = match answer {
            Ok(response) => check(response).ok_or_else(|| {
                BusError::Garbled("an answer of the wrong length or to another request".into())
            })?,
            Err(exception) => {
                line.client = Some(client);
                line.in_doubt = false;
                return Err(BusError::Exception(exception));
            }
        };
        line.client = Some(client);
        line.in_doubt = false;
        Ok(checked)
    }

    async fn connect(&self, in_doubt: bool) -> Result<Context, BusError> {
        let unreachable = |error: std::io::Error| BusError::Unreachable(format!("cannot connect: {error}"));
        // The unit is set before each request.
        let nobody = Slave(0);
        match &self.transport {
            Transport::Tcp(address) => Ok(tcp::attach_slave(self.dial(address).await?, nobody)),
            Transport::RtuOverTcp(address) => Ok(rtu::attach_slave(self.dial(address).await?, nobody)),
            Transport::Serial { path, line } => {
                let port = tokio_serial::new(path, line.baud)
                    .data_bits(line.data_bits)
                    .parity(line.parity)
                    .stop_bits(line.stop_bits);
                let mut port = port.open_native_async().map_err(|error| unreachable(error.into()))?;
                if in_doubt {
                    drain(&mut port).await.map_err(unreachable)?;
                }
                Ok(rtu::attach_slave(port, nobody))
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
        Ok(stream)
    }
}

/// Reads a line until it is silent: a late answer must not meet the next request.
async fn drain(port: &mut tokio_serial::SerialStream) -> std::io::Result<()> {
    use tokio::io::AsyncReadExt;
    let mut bytes = [0; 256];
    // Noise without end is given up after twenty times the silence.
    for _ in 0..20 {
        match timeout(SERIAL_SILENCE, port.read(&mut bytes)).await {
            Err(_) => return Ok(()),
            Ok(read) => read?,
        };
    }
    Ok(())
}

/// The cells of an answer, if it is one to this request.
fn cells(area: Area, count: u16, response: Response) -> Option<Cells> {
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
fn echoes(request: &Request<'static>, response: &Response) -> Option<()> {
    #[allow(clippy::wildcard_enum_match_arm, reason = "any other answer is to another request")]
    let same = match (request, response) {
        (Request::WriteSingleCoil(at, value), Response::WriteSingleCoil(there, written)) => {
            at == there && value == written
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
