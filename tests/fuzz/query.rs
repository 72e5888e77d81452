//! Any text as a query over two streams: it becomes operators or is refused, and
//! every message can be shown.

use std::path::PathBuf;
use std::sync::Arc;

use tidegate_engine::testing::fuzz::show;
use tidegate_engine::topology::load::{load, read};
use tidegate_engine::topology::node::BuildContext;
use tidegate_operators::expression::SqlExpressions;

use crate::catalog::CATALOG;

pub(crate) fn query(bytes: &[u8]) {
    let query = String::from_utf8_lossy(bytes);
    let source = |name: &str| {
        format!(
            "[source.{name}]\ntype = \"file\"\npath = \"rows.jsonl\"\nschema = {{ key = \"string\", n = \"int64\", ts = \"timestamp\", value = \"float64\" }}\ntime = {{ column = \"ts\", unit = \"ms\" }}\n"
        )
    };
    let text = format!(
        "{}{}[operator.q]\ntype = \"sql\"\nquery = '''\n{query}'''\n[sink.out]\ntype = \"discard\"\nfrom = \"q\"\n",
        source("a"),
        source("b"),
    );
    let parsed = match read(&text, "plant", &|_| None) {
        Ok((parsed, _)) => parsed,
        Err(error) => return show(&text, &error.0),
    };
    let nowhere = PathBuf::from("/proc/self/nowhere");
    let context = BuildContext::new("plant", nowhere.clone(), nowhere, Arc::new(SqlExpressions::new()));
    let context = BuildContext { once: true, ..context };
    match load(&parsed, &CATALOG, &context) {
        Ok(loaded) => show(&text, &loaded.warnings),
        Err(error) => show(&text, &error.0),
    }
}
