//! The decoders against any bytes. The first byte chooses the format, the
//! second one how the bytes come in pieces; the rest is what came.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a target panics to say that a promise is broken"
)]

use std::sync::LazyLock;

use arrow::array::RecordBatch;
use tidegate_engine::codec::Decoded;

use super::encode::EncodeFormat;
use super::testing::{format, shown};
use super::{RowFormat, StreamDecoder};

const TYPES: &str = "b = \"bool\", i = \"int64\", u = \"uint64\", s = \"int16\", f = \"float64\", g = \"float32\", \
    t = \"string\", x = \"bytes\", at = \"timestamp\", day = \"date\", d = \"decimal(9,3)\"";

/// A format, and how its rows are written so that they are read back.
type Case = (RowFormat, Option<EncodeFormat>);

static JSON: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let written = Some(EncodeFormat::Json);
    vec![
        (format(&format!("schema = {{ {TYPES} }}")), written),
        (format(&format!("schema = {{ {TYPES} }}\nmistyped = \"coerce\"\nextra = \"reject\"")), written),
        (format(&format!("schema = {{ {TYPES} }}\nmistyped = \"null\"\npayload_max = \"100B\"")), None),
        (
            format(
                "schema = { v = { type = \"float64\", from = \"a.b.v\" }, w = { type = \"string\", from = \"a.w\" }, \
                 ts = { type = \"timestamp\", unit = \"ms\" } }\nmissing = \"reject\"\ntime = { column = \"ts\" }",
            ),
            None,
        ),
    ]
});

static CSV: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let case = |header, delimiter: u8, more: &str| {
        let lines = format!(
            "format = \"csv\"\nheader = {header}\ndelimiter = \"{}\"\nschema = {{ {TYPES} }}\n{more}",
            char::from(delimiter).escape_default(),
        );
        (format(&lines), Some(EncodeFormat::Csv { delimiter, header }))
    };
    vec![
        case(true, b',', ""),
        case(false, b';', "extra = \"reject\"\nmissing = \"reject\""),
        case(false, b'\t', "mistyped = \"null\""),
        (case(true, b',', "payload_max = \"100B\"\nmistyped = \"coerce\"").0, None),
    ]
});

static RAW: LazyLock<Vec<Case>> = LazyLock::new(|| {
    vec![
        (format("format = \"raw\""), None),
        (format("format = \"raw\"\nschema = { line = \"string\" }\npayload_max = \"100B\""), None),
    ]
});

/// JSON, as payloads and as lines.
pub fn json(bytes: &[u8]) {
    check(&JSON, bytes);
}

/// CSV, as payloads and as lines.
pub fn csv(bytes: &[u8]) {
    check(&CSV, bytes);
}

/// Raw payloads and lines.
pub fn raw(bytes: &[u8]) {
    check(&RAW, bytes);
}

fn check(cases: &[Case], bytes: &[u8]) {
    let [choice, piece, bytes @ ..] = bytes else { return };
    let index = usize::from(*choice).checked_rem(cases.len()).unwrap_or(0);
    let Some((format, written)) = cases.get(index) else { return };
    let payload = payload(format, bytes);
    let at_once = stream(format, bytes, usize::MAX);
    let in_pieces = stream(format, bytes, usize::from(*piece) + 1);
    assert_eq!(rows(&in_pieces), rows(&at_once), "pieces make a difference");
    for decoded in [&payload, &at_once] {
        let read = decoded.batch.num_rows() + decoded.bad.len();
        assert!(read <= bytes.len() + 1, "{read} rows in {} bytes", bytes.len());
    }
    if let Some(written) = written {
        check_read_back(format, *written, &payload.batch);
        check_read_back(format, *written, &at_once.batch);
    }
}

/// One payload, by a decoder that has read it before.
fn payload(format: &RowFormat, bytes: &[u8]) -> Decoded {
    let mut decoder = format.decoder();
    let count = decoder.decode(bytes, &|row| row.to_string());
    let first = decoder.finish();
    assert_eq!(count, first.batch.num_rows(), "rows that are counted and not there");
    decoder.decode(bytes, &|row| row.to_string());
    let second = decoder.finish();
    assert_eq!(rows(&second), rows(&first), "a decoder remembers a payload");
    second
}

/// A file that is read in pieces of so many bytes; without its header nothing.
fn stream(format: &RowFormat, mut bytes: &[u8], piece: usize) -> Decoded {
    let mut decoder = format.stream_decoder();
    let mut wants_header = decoder.wants_header();
    let mut buffer = Vec::new();
    while !bytes.is_empty() {
        let (now, later) = bytes.split_at(piece.min(bytes.len()));
        bytes = later;
        buffer.extend_from_slice(now);
        if wants_header {
            let header = decoder.first_row(&buffer).or_else(|| bytes.is_empty().then_some(buffer.len()));
            let Some(header) = header else { continue };
            let header: Vec<u8> = buffer.drain(..header).collect();
            if decoder.set_header(&header).is_err() {
                break;
            }
            wants_header = false;
        }
        feed(decoder.as_mut(), &mut buffer, bytes.is_empty());
    }
    decoder.finish()
}

fn feed(decoder: &mut dyn StreamDecoder, buffer: &mut Vec<u8>, is_end: bool) {
    let whole = if is_end { buffer.len() } else { decoder.whole_rows(buffer) };
    assert!(whole <= buffer.len(), "more whole rows than bytes");
    if whole > 0 {
        let rows: Vec<u8> = buffer.drain(..whole).collect();
        decoder.decode(&rows, &|row| row.to_string());
    }
}

/// Good rows, and bad ones without their places.
fn rows(decoded: &Decoded) -> (Vec<String>, Vec<(&str, &[u8])>) {
    let bad = decoded.bad.iter().map(|row| (row.reason.as_str(), row.payload.as_ref())).collect();
    (shown(&decoded.batch), bad)
}

/// What was read is the same when it was written and is read again.
fn check_read_back(format: &RowFormat, how: EncodeFormat, batch: &RecordBatch) {
    let mut bytes = Vec::new();
    how.encoder().encode(batch, &mut bytes).expect("flat columns are written");
    if batch.num_rows() == 0 {
        return;
    }
    let again = payload(format, &bytes);
    let text = String::from_utf8_lossy(&bytes);
    assert_eq!(again.bad, [], "what was written is refused: {text}");
    assert_eq!(shown(&again.batch), shown(batch), "other rows come back from {text}");
}
