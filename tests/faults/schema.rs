//! Rows that change their shape in the middle of a stream: columns more, columns
//! less, other types. The file's `schema` stands; `missing`, `extra` and
//! `mistyped` say what becomes of a row that does not fit, and nothing is lost
//! without a word.

use serde_json::Value;

use crate::plant::Plant;

const TOPOLOGY: &str = r#"
[topology]
checkpoint_interval = "100ms"

[source.rows]
type   = "file"
path   = "rows.FORMAT"
format = "FORMAT"
schema = { n = "int64", value = "float64", device = "string" }
POLICY

[sink.out]
type = "file"
from = "rows"
path = "out/"
"#;

/// As it was; a field more; one less; a whole number for a float; text for a
/// number; a number for text; a list for a number; as it was.
const JSON: [&str; 8] = [
    r#"{"n":0,"value":1.5,"device":"a"}"#,
    r#"{"n":1,"value":1.5,"device":"a","unit":"bar"}"#,
    r#"{"n":2,"device":"a"}"#,
    r#"{"n":3,"value":2,"device":"a"}"#,
    r#"{"n":4,"value":"3.5","device":"a"}"#,
    r#"{"n":5,"value":1.5,"device":7}"#,
    r#"{"n":6,"value":[1.5],"device":"a"}"#,
    r#"{"n":7,"value":1.5,"device":"a"}"#,
];

/// The same for cells: a cell more, one less, a whole number, text for a number.
const CSV: [&str; 6] = ["0,1.5,a", "1,1.5,a,bar", "2,1.5", "3,2,a", "4,high,a", "7,1.5,a"];

fn run(format: &str, policy: &str, rows: &[&str]) -> Plant {
    let plant = Plant::new(&TOPOLOGY.replace("FORMAT", format).replace("POLICY", policy));
    let file = format!("rows.{format}");
    plant.write(&file, if format == "csv" { "n,value,device\n" } else { "" });
    let (before, after) = rows.split_at(1);
    let daemon = plant.start();
    plant.append(&file, &format!("{}\n", before.join("\n")));
    plant.until("the rows as they were", || plant.rows("out/").len() == 1);
    // The shape changes while it runs.
    plant.append(&file, &format!("{}\n", after.join("\n")));
    plant.until("the rows as they are again", || plant.numbers("out/", "n").contains(&7));
    plant.stop(daemon);
    plant
}

fn letters(plant: &Plant, rows: &[&str]) -> Vec<u64> {
    let mut numbers: Vec<u64> = Vec::new();
    for letter in plant.letters() {
        let content = letter["content"].as_str().expect("text").to_owned();
        assert!(rows.contains(&content.as_str()), "the payload is another one: {content}");
        assert!(!letter["reason"].as_str().expect("text").is_empty());
        let digit = content.chars().find(char::is_ascii_digit).expect("a number");
        numbers.push(u64::from(digit.to_digit(10).expect("a digit")));
    }
    numbers.sort_unstable();
    numbers
}

fn value(plant: &Plant, n: u64) -> Value {
    let rows = plant.rows("out/");
    rows.iter().find(|row| row["n"] == n).expect("is there")["value"].clone()
}

/// What a file's policies make of these rows: numbers that come, numbers that are
/// kept aside, and values.
struct Case<'c> {
    policy: &'c str,
    comes: &'c [u64],
    kept_aside: &'c [u64],
    values: &'c [(u64, Value)],
}

/// Tries all policies at once.
fn check(format: &str, rows: &[&str], cases: &[Case<'_>]) {
    std::thread::scope(|scope| {
        for Case { policy, comes, kept_aside, values } in cases {
            scope.spawn(move || {
                let plant = run(format, policy, rows);
                assert_eq!(plant.sorted("out/", "n"), *comes, "{policy}");
                assert_eq!(letters(&plant, rows), *kept_aside, "{policy}");
                for (n, expected) in *values {
                    assert_eq!(value(&plant, *n), *expected, "{policy}: row {n}");
                }
            });
        }
    });
}

#[test]
fn json_that_changes_its_shape_is_widened_or_kept_aside_as_the_file_says() {
    let (null, float) = (Value::Null, Value::from);
    let cases = [
        // Left to itself: what is compatible passes, the rest is kept aside.
        Case {
            policy: "",
            comes: &[0, 1, 2, 3, 7],
            kept_aside: &[4, 5, 6],
            values: &[(2, null.clone()), (3, float(2.0))],
        },
        // A column more is a reason only if the file says so, as is one less.
        Case {
            policy: "extra = \"reject\"\nmissing = \"reject\"",
            comes: &[0, 3, 7],
            kept_aside: &[1, 2, 4, 5, 6],
            values: &[],
        },
        // Coerced where a value says the same in another type, else kept aside.
        Case {
            policy: "mistyped = \"coerce\"",
            comes: &[0, 1, 2, 3, 4, 5, 7],
            kept_aside: &[6],
            values: &[(4, float(3.5))],
        },
        Case {
            policy: "mistyped = \"null\"",
            comes: &[0, 1, 2, 3, 4, 5, 6, 7],
            kept_aside: &[],
            values: &[(4, null.clone()), (6, null)],
        },
    ];
    check("json", &JSON, &cases);
}

#[test]
fn csv_that_changes_its_shape_is_widened_or_kept_aside_as_the_file_says() {
    let cases = [
        Case { policy: "", comes: &[0, 1, 2, 3, 7], kept_aside: &[4], values: &[(2, Value::from(1.5))] },
        Case {
            policy: "extra = \"reject\"\nmissing = \"reject\"",
            comes: &[0, 3, 7],
            kept_aside: &[1, 2, 4],
            values: &[],
        },
        Case {
            policy: "mistyped = \"null\"",
            comes: &[0, 1, 2, 3, 4, 7],
            kept_aside: &[],
            values: &[(4, Value::Null)],
        },
    ];
    check("csv", &CSV, &cases);
}
