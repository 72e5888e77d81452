//! JSON rows by example: layouts, payload shapes, policies, and what hostile
//! input gets.

use std::time::{Duration, Instant};

use tidegate_engine::codec::{Decoded, Decoder};

use crate::format::testing::{format, shown};
use crate::format::{PAYLOAD_BYTES_MAX, REJECT_BYTES_MAX};

const AB: &str = "schema = { a = \"int64\", b = \"string\" }";

fn decode(mut decoder: Box<dyn Decoder>, text: &[u8]) -> (Vec<String>, Vec<(String, String)>) {
    decoder.decode(text, &|index| index.to_string());
    let Decoded { batch, bad } = decoder.finish();
    (shown(&batch), bad.into_iter().map(|row| (row.position, row.reason)).collect())
}

fn lines(config: &str, text: &str) -> (Vec<String>, Vec<(String, String)>) {
    let mut decoder = format(config).stream_decoder();
    decoder.decode(text.as_bytes(), &|index| index.to_string());
    let Decoded { batch, bad } = decoder.finish();
    (shown(&batch), bad.into_iter().map(|row| (row.position, row.reason)).collect())
}

#[test]
fn any_order_spacing_and_escape_gives_the_same_rows() {
    let text = r#"{"a":1,"b":"x"}
{"b":"x","a":1}
  { "a" : 1 ,	"b" : "x" }  
{"a":1,"b":"\u0078"}
{"\u0061":1,"b":"x"}
{"a":1e0,"b":"x","c":{"d":[1,"}",{}]},"e":[]}
{"a":2,"a":1,"b":"x"}
"#;
    let (rows, bad) = lines(AB, &text.replace("  \n", "  \r\n"));
    assert_eq!(bad, []);
    assert_eq!(rows, vec!["1|x"; 7]);
}

#[test]
fn a_bad_row_never_takes_its_neighbours() {
    let broken = [
        "{",
        "}",
        "[",
        "nul",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":01}",
        "{\"a\":\"x\"}",
        "{\"a\":1.5}",
        "{\"a\":9223372036854775808}",
        "{\"a\":NaN}",
        "{'a':1}",
        "{\"b\":\"\\ud800\"}",
        "{\"b\":\"\\x\"}",
        "{\"b\":\"\0\"}",
        "{\"b\":\"tab\there\"}",
        "{\"a\":8}x",
        "{\"a\":8}{\"a\":9}",
        "5",
        "\"a\"",
        "{\"a\":-}",
        "{\"a\":true}",
        "[5]",
        "[{\"a\":1},]",
    ];
    for bad_line in broken {
        let text = format!("{{\"a\":1,\"b\":\"x\"}}\n{bad_line}\n{{\"a\":2,\"b\":\"y\"}}\n");
        let (rows, bad) = lines(AB, &text);
        assert_eq!(bad.len(), 1, "{bad_line}: {bad:?}");
        assert_eq!(bad[0].0, "1", "{bad_line}");
        // Objects of an array are rows of their own.
        let kept = rows.iter().filter(|row| *row != "1|NULL");
        assert_eq!(kept.collect::<Vec<_>>(), ["1|x", "2|y"], "{bad_line}");
    }
}

#[test]
fn invalid_utf8_is_a_bad_row_wherever_it_stands() {
    for bad_line in
        [&b"{\"b\":\"\xff\"}"[..], b"{\"\xc3\x28\":1}", b"{\"c\":\"\xed\xa0\x80\"}", b"{\"a\":\xfe}"]
    {
        let text = [b"{\"a\":1}\n", bad_line, b"\n{\"b\":\"\xc3\xa9\"}\n"].concat();
        let mut decoder = format(AB).stream_decoder();
        decoder.decode(&text, &|index| index.to_string());
        let Decoded { batch, bad } = decoder.finish();
        assert_eq!(shown(&batch), ["1|NULL", "NULL|é"]);
        assert_eq!((bad.len(), &*bad[0].payload), (1, bad_line));
    }
}

#[test]
fn payloads_hold_objects_lines_or_arrays() {
    let read = |text: &str| decode(format(AB).decoder(), text.as_bytes());
    for text in [
        "{\"a\":1}{\"a\":2}",
        "{\"a\":1}\n{\"a\":2}\n",
        "[{\"a\":1},{\"a\":2}]",
        " [ {\"a\":1} , {\"a\":2} ] ",
        "[\n  {\n    \"a\": 1\n  },\n  {\n    \"a\": 2\n  }\n]\n",
        "{\n \"a\": 1\n}\n{\n \"a\": 2\n}\n",
    ] {
        let (rows, bad) = read(text);
        assert_eq!((rows, bad), (vec!["1|NULL".to_owned(), "2|NULL".to_owned()], vec![]), "{text}");
    }
    assert_eq!(read("[]"), (vec![], vec![]));
    assert_eq!(read(" ").1.len(), 1);
    // One bad line of a payload of lines costs that line; a broken array its rest.
    let (rows, bad) = read("{\"a\":1}\n{\"a\":\n{\"a\":3}\n");
    assert_eq!((rows.len(), bad.len()), (2, 1), "{rows:?} {bad:?}");
    let (rows, bad) = read("[{\"a\":1},{\"a\":\"x\"},{\"a\":3},4,{\"a\":5}]");
    assert_eq!((rows, bad.len()), (vec!["1|NULL".to_owned(), "3|NULL".to_owned()], 2));
    assert_eq!(read("[{\"a\":1},").1.len(), 1);
}

#[test]
fn policies_do_what_they_say() {
    let text = "{\"a\":\"5\",\"b\":7}\n{\"a\":1}\n{\"a\":2,\"b\":null}\n{\"a\":3,\"b\":\"x\",\"c\":0}\n";
    let read = |policy: &str| {
        let (rows, bad) = lines(&format!("{AB}\n{policy}"), text);
        (rows.join(" "), bad.into_iter().map(|(line, _)| line).collect::<String>())
    };
    assert_eq!(read(""), ("1|NULL 2|NULL 3|x".into(), "0".into()));
    assert_eq!(read("mistyped = \"null\""), ("NULL|NULL 1|NULL 2|NULL 3|x".into(), String::new()));
    assert_eq!(read("mistyped = \"coerce\""), ("5|7 1|NULL 2|NULL 3|x".into(), String::new()));
    assert_eq!(read("missing = \"reject\""), ("2|NULL 3|x".into(), "01".into()));
    assert_eq!(read("extra = \"reject\""), ("1|NULL 2|NULL".into(), "03".into()));
}

#[test]
fn columns_stand_inside_objects() {
    let config = "schema = { id = { type = \"int64\", from = \"meta.id\" }, v = { type = \"float64\", from = \"data.x.v\" } }";
    let text = r#"{"meta":{"id":1,"z":2},"data":{"x":{"v":0.5}}}
{"data":{"x":{"v":1.5,"w":[]},"y":1},"meta":{"id":2}}
{"meta":{"id":3},"data":null}
{"meta":7,"data":{"x":[]}}
{"meta":{"i\u0064":5}}
"#;
    let (rows, bad) = lines(config, text);
    assert_eq!(bad, []);
    assert_eq!(rows, ["1|0.5", "2|1.5", "3|NULL", "NULL|NULL", "5|NULL"]);
}

#[test]
fn event_time_is_read_in_its_unit_or_rejected() {
    let read = |time: &str, value: &str| {
        let config = format!(
            "schema = {{ ts = \"timestamp\" }}\ntime = {{ column = \"ts\", {time} }}\nmistyped = \"null\""
        );
        let (rows, bad) = lines(&config, &format!("{{\"ts\":{value}}}\n"));
        rows.into_iter().chain(bad.into_iter().map(|_| "rejected".to_owned())).collect::<String>()
    };
    assert_eq!(read("unit = \"ms\"", "1709210096000"), "2024-02-29T12:34:56Z");
    assert_eq!(read("unit = \"s\"", "1709210096.25"), "2024-02-29T12:34:56.250Z");
    assert_eq!(read("unit = \"s\"", "1.709210096e9"), "2024-02-29T12:34:56Z");
    assert_eq!(read("unit = \"ns\"", "-1"), "1969-12-31T23:59:59.999999Z");
    assert_eq!(read("format = \"rfc3339\"", "\"2024-02-29T13:34:56+01:00\""), "2024-02-29T12:34:56Z");
    for wrong in ["null", "\"\"", "true", "1e300", "9223372036854775807", "\"2024-02-29T12:34:56\""] {
        assert_eq!(read("unit = \"s\"", wrong), "rejected", "{wrong}");
    }
    let config = "schema = { ts = \"timestamp\" }\ntime = { column = \"ts\" }";
    assert_eq!(lines(config, "{}\n").1[0].1, "time column `ts` is missing or NULL");
}

#[test]
fn columns_that_are_not_kept_are_null_and_checked_all_the_same() {
    let mut reduced = format(
        "schema = { a = \"int64\", b = \"string\", ts = \"timestamp\" }\ntime = { column = \"ts\", unit = \"s\" }\nextra = \"reject\"",
    );
    reduced.keep(&["b"]);
    let text = br#"{"a":7,"b":"x","ts":0}{"a":"no number","b":"y","ts":0}{"b":"z","a":null,"ts":1}"#;
    let (rows, bad) = decode(reduced.decoder(), text);
    assert_eq!(rows, ["NULL|x|1970-01-01T00:00:00Z", "NULL|z|1970-01-01T00:00:01Z"]);
    assert_eq!(bad.len(), 1);
    reduced.keep(&["a"]);
    let (rows, bad) = decode(reduced.decoder(), br#"{"a":7,"b":"x","ts":0}{"a":8,"b":9,"ts":0}"#);
    assert_eq!((rows, bad.len()), (vec!["7|NULL|1970-01-01T00:00:00Z".to_owned()], 1));
}

/// A debug build on a shared machine reads 4 MiB well within this; a
/// quadratic reader would need many minutes.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
#[allow(clippy::disallowed_methods, reason = "a limit on the time of hostile input")]
fn hostile_input_is_rejected_in_linear_time() {
    let size = PAYLOAD_BYTES_MAX / 4;
    let hostile: Vec<(&str, Vec<u8>)> = vec![
        ("deep array", "[".repeat(size).into_bytes()),
        ("deep value", format!("{{\"a\":{}", "[".repeat(10_000)).into_bytes()),
        ("deep and closed", format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000)).into_bytes()),
        ("deep lines", "{\"a\":\n".repeat(size / 6).into_bytes()),
        ("open strings", "{\"a\":\"\n".repeat(size / 7).into_bytes()),
        ("one open string", format!("{{\"b\":\"{}", "x".repeat(size)).into_bytes()),
        ("backslashes", format!("{{\"b\":\"{}", "\\".repeat(size)).into_bytes()),
        ("a long number", format!("{{\"a\":{}}}", "9".repeat(size)).into_bytes()),
        ("NUL", vec![0; size]),
        ("too long", vec![b' '; PAYLOAD_BYTES_MAX + 1]),
        ("100 MB", format!("{{\"b\":\"{}\"}}", "x".repeat(100_000_000)).into_bytes()),
    ];
    for (what, payload) in &hostile {
        let started = Instant::now();
        let mut decoder = format(AB).decoder();
        assert_eq!(decoder.decode(payload, &|_| String::new()), 0, "{what}");
        let bad = decoder.finish().bad;
        assert!(!bad.is_empty(), "{what}");
        assert!(
            bad.iter().all(|row| row.payload.len() <= REJECT_BYTES_MAX && row.reason.len() < 300),
            "{what}"
        );
        let mut by_line = format(AB).stream_decoder();
        assert_eq!(by_line.decode(payload, &|_| String::new()), 0, "{what}");
        assert!(started.elapsed() < LIMIT, "{what} took {:?}", started.elapsed());
    }
}
