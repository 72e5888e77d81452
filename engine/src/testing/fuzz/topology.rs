//! The text of a topology, and what is told about it.

use crate::diagnostic::Diagnostic;
use crate::topology::load::read;
use crate::topology::report;

/// Any text is read or refused, and every message can be shown at its place.
pub fn topology(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let variable = |name: &str| (name.len() == 1).then(|| name.repeat(3));
    match read(&text, "plant", &variable) {
        Ok((parsed, name)) => {
            assert!(!name.is_empty() && name.len() <= 64, "a topology called {name:?}");
            for node in parsed.nodes {
                let place = text.get(node.name_span.clone());
                let place = place.unwrap_or_else(|| panic!("{:?} is no place of the text", node.name_span));
                let is_there = place.contains(&node.name) || place.contains('\\');
                assert!(is_there, "{:?} stands at {place:?}", node.name);
            }
        }
        Err(error) => show(&text, &error.0),
    }
}

/// Shows messages as a person and as a program sees them.
pub fn show(text: &str, diagnostics: &[Diagnostic]) {
    assert!(!diagnostics.is_empty(), "refused without a word");
    let lines = text.lines().count().max(1);
    for diagnostic in diagnostics {
        let shown = report::to_json("plant.toml", text, diagnostic);
        let line = shown.get("line").and_then(serde_json::Value::as_u64).unwrap_or(1);
        assert!(line >= 1 && line <= lines as u64 + 1, "line {line} of {lines}");
    }
    let shown = report::render("plant.toml", text, diagnostics, false);
    assert!(diagnostics.iter().all(|one| shown.contains(one.code)), "a message is not shown");
}
