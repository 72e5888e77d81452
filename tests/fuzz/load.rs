//! A topology from its text to built parts and flows, with the whole catalog:
//! keys, references, expressions, devices, times. Nothing is connected.

use std::path::PathBuf;
use std::sync::Arc;

use tidegate_engine::flow;
use tidegate_engine::flow::spec::Workshop;
use tidegate_engine::testing::fuzz::show;
use tidegate_engine::topology::load::{load as build, read};
use tidegate_engine::topology::node::BuildContext;
use tidegate_operators::expression::SqlExpressions;

use crate::catalog::CATALOG;

/// Any text is loaded or refused, and every message can be shown.
pub(crate) fn load(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let variable = |name: &str| (name.len() == 1).then(|| name.repeat(3));
    let (parsed, name) = match read(&text, "plant", &variable) {
        Ok(read) => read,
        Err(error) => return show(&text, &error.0),
    };
    // No file is there: a topology may name any.
    let nowhere = PathBuf::from("/proc/self/nowhere");
    let expressions = Arc::new(SqlExpressions::new());
    let context = BuildContext::new(&name, nowhere.clone(), nowhere, expressions);
    let context = BuildContext { once: true, ..context };
    let loaded = match build(&parsed, &CATALOG, &context) {
        Ok(loaded) => loaded,
        Err(error) => return show(&text, &error.0),
    };
    let workshop = Workshop {
        catalog: CATALOG,
        context,
        tables: loaded.tables,
        text: text.as_ref().into(),
        variable: Arc::new(variable),
    };
    if let Err(error) = flow::spec::build(&loaded.flows, &loaded.triggers, workshop) {
        show(&text, &error.0);
    }
}
