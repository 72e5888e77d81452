//! Diagnostics as text for a person, with the marked line, and as JSON lines
//! for a program.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use crate::diagnostic::{Diagnostic, Severity};

/// All messages about a file, as text.
#[must_use]
pub fn render(file: &str, text: &str, diagnostics: &[Diagnostic], colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let rendered: Vec<String> =
        diagnostics.iter().map(|diagnostic| one(file, text, diagnostic, &renderer)).collect();
    rendered.join("\n\n")
}

fn one(file: &str, text: &str, diagnostic: &Diagnostic, renderer: &Renderer) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut group = level
        .primary_title(diagnostic.message.as_str())
        .id(diagnostic.code)
        .elements(Vec::<Snippet<'_, annotate_snippets::Annotation<'_>>>::new());
    if let Some(span) = &diagnostic.span {
        let span = clamp(text, span.start)..clamp(text, span.end.max(span.start));
        let annotation = AnnotationKind::Primary.span(span).label(diagnostic.label.as_str());
        group = group.element(Snippet::source(text).path(file).annotation(annotation));
    }
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(help.as_str()));
    }
    renderer.render(&[group]).to_string()
}

/// The nearest place that is in the text and not inside a character.
fn clamp(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// Line and column of a byte, both from 1; the column counts characters.
#[must_use]
pub fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..clamp(text, at)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

/// One message as a JSON object: file, line, column, code, severity, message, help.
#[must_use]
pub fn to_json(file: &str, text: &str, diagnostic: &Diagnostic) -> serde_json::Value {
    let place = diagnostic.span.as_ref().map(|span| line_and_column(text, span.start));
    serde_json::json!({
        "file": file,
        "line": place.map(|(line, _)| line),
        "column": place.map(|(_, column)| column),
        "code": diagnostic.code,
        "severity": match diagnostic.severity { Severity::Error => "error", Severity::Warning => "warning" },
        "message": diagnostic.message,
        "help": diagnostic.help,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_file_line_column_mark_and_cure() {
        let text = "[source.press]\ntype = \"modbus\"\npoll_intervall = \"2s\"\n";
        let at = text.find("poll").expect("is there");
        let diagnostic = Diagnostic::error("TG-C003", "unknown key `poll_intervall`")
            .at(at..at + 14)
            .label("not a key here")
            .help("did you mean `every`?");
        let shown = render("press.toml", text, &[diagnostic], false);
        for part in
            ["error[TG-C003]", "press.toml:3:1", "^^^^^^^^^^^^^^ not a key here", "did you mean `every`?"]
        {
            assert!(shown.contains(part), "{part} is missing in\n{shown}");
        }
    }

    #[test]
    fn a_place_outside_of_the_text_does_no_harm() {
        let diagnostic = Diagnostic::error("TG-C001", "cut off").at(90..95);
        assert!(render("a.toml", "ä", std::slice::from_ref(&diagnostic), false).contains("cut off"));
        assert_eq!(line_and_column("a\nbä", 5), (2, 3));
        assert_eq!(to_json("a.toml", "x", &diagnostic)["line"], 1);
    }
}
