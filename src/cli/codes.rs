//! Every code that a message can carry. A code is never used for something
//! else; `tests/tidy.rs` checks that each one used in the sources is here.

/// A code and what it means.
pub(super) struct Code {
    pub(super) code: &'static str,
    pub(super) means: &'static str,
    pub(super) wrong: &'static str,
    pub(super) right: &'static str,
}

const fn code(code: &'static str, means: &'static str, wrong: &'static str, right: &'static str) -> Code {
    Code { code, means, wrong, right }
}

/// All codes, in order.
pub(super) const CODES: &[Code] = &[
    code("TG-C001", "the file is not valid TOML", "every = 10s", "every = \"10s\""),
    code("TG-C002", "a table or key stands where none belongs", "[sorce.x]", "[source.x]"),
    code("TG-C003", "a key that this kind of node does not have", "evry = \"1s\"", "every = \"1s\""),
    code("TG-C004", "a key that must be there is missing", "[source.x]", "[source.x]  type = \"file\""),
    code("TG-C005", "a value of the wrong TOML type", "qos = \"1\"", "qos = 1"),
    code("TG-C006", "a value that this key cannot have", "qos = 3", "qos = 1"),
    code(
        "TG-C007",
        "there is no such type of source, operator, sink or task",
        "type = \"modbuss\"",
        "type = \"modbus\"",
    ),
    code(
        "TG-C008",
        "an environment variable that is not set",
        "path = \"${DATA}\"",
        "path = \"${DATA:-/var/data}\"",
    ),
    code("TG-C009", "a file that cannot be read", "path = \"no-such-file.jsonl\"", "path = \"rows.jsonl\""),
    code("TG-C010", "a bare number where a time is due", "every = 10", "every = \"10s\""),
    code(
        "TG-C011",
        "a secret written into the file",
        "password = \"hunter2\"",
        "password = \"secret://env/MQTT_PASSWORD\"",
    ),
    code("TG-C012", "a name that cannot be a name", "[source.\"my source\"]", "[source.my_source]"),
    code("TG-C013", "the topology is too large", "1,001 nodes", "two topologies"),
    code("TG-T001", "a node that does not exist, or gives no rows", "from = \"pres\"", "from = \"press\""),
    code("TG-T002", "rows would go round for ever", "a reads b, b reads a", "a reads b, b reads a source"),
    code(
        "TG-T003",
        "two nodes or ports have one name",
        "[source.x] and [sink.x]",
        "[source.x] and [sink.out]",
    ),
    code("TG-T004", "a port that the node does not have", "from = \"load.lat\"", "from = \"load.late\""),
    code(
        "TG-T005",
        "a number of inputs that the operator does not take",
        "type = \"filter\"  from = [\"a\", \"b\"]",
        "type = \"union\"  from = [\"a\", \"b\"]",
    ),
    code("TG-T006", "a node that nobody reads (a warning)", "[source.x] alone", "[sink.out]  from = \"x\""),
    code(
        "TG-T007",
        "a node that needs event time reads a stream without",
        "select = [\"value\"]",
        "select = [\"ts\", \"value\"]",
    ),
    code(
        "TG-T008",
        "streams of different shape are joined into one",
        "from = [\"a\", \"b\"]",
        "a `project` before the `union`",
    ),
    code(
        "TG-T009",
        "two columns have one name",
        "select = [\"*\", \"value\"]",
        "select = [\"*\", \"value AS again\"]",
    ),
    code("TG-X001", "not an expression", "where = \"value >\"", "where = \"value > 50\""),
    code("TG-X002", "a column that does not exist", "where = \"valu > 50\"", "where = \"value > 50\""),
    code("TG-X003", "types that do not fit", "where = \"value\"", "where = \"value > 50\""),
    code(
        "TG-X004",
        "a function that does not exist",
        "select = [\"avrg(value)\"]",
        "select = [\"avg(value)\"]",
    ),
    code(
        "TG-X005",
        "an expression that is too long",
        "a + a + … 2,000 times",
        "two operators of type `project`",
    ),
    code("TG-X006", "a brace without its partner", "topic = \"fleet/{truck\"", "topic = \"fleet/{truck}\""),
    code(
        "TG-X007",
        "an aggregate where there is one row, or a plain column where there are many",
        "where = \"avg(value) > 5\"",
        "select = [\"avg(value)\"] of a window",
    ),
    code(
        "TG-X008",
        "a function whose value depends on the moment",
        "where = \"ts > now()\"",
        "where = \"value > 50\"",
    ),
    code("TG-F010", "words of a trigger that do not go together", "count = 5", "count = 5  within = \"10m\""),
];
