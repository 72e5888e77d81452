//! Answers of a unit that may say anything, from the bytes on the line to the
//! values of points. The first four bytes choose line, request, count and how
//! the answer comes in pieces; the rest is the answer.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a target panics to say that a promise is broken"
)]

use std::io;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use tidegate_engine::topology::parse::parse_table;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_modbus::client::{Client, rtu, tcp};
use tokio_modbus::slave::{Slave, SlaveContext};
use tokio_modbus::{Request, Response};

use super::address::Area;
use super::bus::{Cells, cells, echoes};
use super::decode::{Order, TYPE_WORDS, Type, Value, decode, encode};
use super::ear::Ear;
use super::point::Point;

const UNIT: u8 = 17;
const AREAS: [Area; 4] = [Area::Coil, Area::Discrete, Area::Input, Area::Holding];

/// A point of every type in every area that has it, near the first register.
static POINTS: LazyLock<Vec<Point>> = LazyLock::new(|| {
    let types = TYPE_WORDS.iter().filter(|word| **word != "bool");
    let registers = types.map(|word| {
        format!("{{ name = \"{word}\", register = \"holding:1\", type = \"{word}\", length = 5 }}")
    });
    let more = [
        "{ name = \"swapped\", register = \"input:0\", type = \"f32\", order = \"CDAB\", scale = 0.1, add = -1 }",
        "{ name = \"bit\", register = \"holding:3\", bit = 15 }",
        "{ name = \"coil\", register = \"coil:7\" }",
        "{ name = \"discrete\", register = \"discrete:0\" }",
    ];
    let points: Vec<String> = registers.chain(more.map(str::to_owned)).collect();
    let (table, wrong) = parse_table(&format!("points = [{}]", points.join(",\n")));
    assert!(wrong.is_empty(), "{wrong:?}");
    table.tables("points").into_iter().map(|point| Point::read(point).expect("a right point")).collect()
});

/// An answer to a request: taken as what it is, or not at all.
pub fn modbus(bytes: &[u8]) {
    let [line, what, count, piece, answer @ ..] = bytes else { return };
    let count = u16::from(count % 125) + 1;
    let area = AREAS.get(usize::from(what % 4)).copied().unwrap_or(Area::Holding);
    let request = match (area, what & 4 == 0) {
        (Area::Coil, true) => Request::ReadCoils(0, count),
        (Area::Discrete, true) => Request::ReadDiscreteInputs(0, count),
        (Area::Input, true) => Request::ReadInputRegisters(0, count),
        (Area::Holding, true) => Request::ReadHoldingRegisters(0, count),
        (Area::Coil, false) => Request::WriteSingleCoil(0, true),
        (Area::Discrete, false) => Request::WriteMultipleCoils(0, vec![true].into()),
        (Area::Input, false) => Request::WriteSingleRegister(0, count),
        (Area::Holding, false) => Request::WriteMultipleRegisters(0, vec![count; usize::from(count)].into()),
    };
    let is_rtu = line & 1 == 1;
    if let Some(response) = ask(is_rtu, request.clone(), answer, usize::from(*piece) + 1) {
        if what & 4 != 0 {
            // An echo has the function of its request and the address, 0.
            let echo = [request.function_code().value(), 0, 0];
            let is_there = answer.windows(echo.len()).any(|place| place == echo);
            assert!(
                is_there || echoes(&request, &response).is_none(),
                "an echo that nobody sent: {response:?}"
            );
        } else if let Some(cells) = cells(area, count, response) {
            check_cells(&cells, usize::from(count), answer);
        }
    }
    let words: Vec<u16> =
        answer.chunks_exact(2).filter_map(|pair| pair.try_into().ok()).map(u16::from_be_bytes).collect();
    check_values(&words);
}

/// What came is what stands in the answer, and every point finds its value in
/// it or none.
fn check_cells(cells: &Cells, count: usize, answer: &[u8]) {
    match cells {
        Cells::Bits(bits) => assert_eq!(bits.len(), count, "another number of bits"),
        Cells::Registers(words) => {
            assert_eq!(words.len(), count, "another number of registers");
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            let is_there = answer.windows(bytes.len()).any(|place| place == bytes);
            assert!(is_there, "registers that nobody sent: {words:?}");
        }
    }
    for point in POINTS.iter() {
        for start in [0, 1, 2, u16::MAX] {
            let value = point.value_in(start, cells);
            let begins = point.address.offset >= start;
            assert!(begins || value.is_none(), "a value from before its block");
        }
    }
}

/// What registers hold as any type, written and read again, is the same.
#[allow(clippy::cast_precision_loss, reason = "numbers that a float may not name are passed over")]
fn check_values(words: &[u16]) {
    for word in TYPE_WORDS {
        let Some(kind) = Type::parse(word, Some(7)) else { continue };
        let order = Order::big_endian(kind);
        let Some(value) = decode(kind, &order, None, words) else { continue };
        assert!(
            words.len() >= usize::from(kind.registers()) || matches!(kind, Type::Text(_)),
            "{word} of too little"
        );
        let number = match &value {
            // A float may not name it.
            Value::Int(number) if number.unsigned_abs() > 1 << 53 => continue,
            Value::Unsigned(number) if *number > 1 << 53 => continue,
            Value::Bool(bit) => f64::from(u8::from(*bit)),
            Value::Int(number) => *number as f64,
            Value::Unsigned(number) => *number as f64,
            Value::Float(number) => *number,
            Value::Text(text) => {
                assert!(text.len() <= 7, "a text of {} bytes", text.len());
                continue;
            }
        };
        if let Some(written) = encode(kind, &order, number) {
            assert_eq!(decode(kind, &order, None, &written), Some(value), "another {word} comes back");
        } else {
            assert!(!number.is_finite(), "{word} {number} is not written");
        }
    }
}

/// What the client makes of an answer; `None` if it does not take it.
fn ask(is_rtu: bool, request: Request<'static>, answer: &[u8], piece: usize) -> Option<Response> {
    let line = Line { answer: answer.to_vec(), at: 0, piece, is_asked: false };
    let mut context = if is_rtu {
        rtu::attach_slave(Ear::new(line).0, Slave(UNIT))
    } else {
        tcp::attach_slave(line, Slave(UNIT))
    };
    context.set_slave(Slave(UNIT));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(context.call(request)).ok()?.ok()
}

/// A line whose unit answers with these bytes and hangs up.
#[derive(Debug)]
struct Line {
    answer: Vec<u8>,
    at: usize,
    piece: usize,
    is_asked: bool,
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.is_asked {
            return Poll::Pending;
        }
        let rest = self.answer.get(self.at..).unwrap_or_default();
        let now = rest.get(..self.piece.min(rest.len()).min(buffer.remaining())).unwrap_or_default();
        buffer.put_slice(now);
        let length = now.len();
        self.at += length;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.is_asked = true;
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
