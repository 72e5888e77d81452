//! A message about a topology file: what is wrong, where, and what to write
//! instead. It must never be thrown away: whoever makes one returns it.

use std::ops::Range;

/// Bytes of a topology file.
pub type Span = Range<usize>;

/// Whether a topology may start in spite of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nothing starts.
    Error,
    /// It starts; the author should know.
    Warning,
}

/// One message with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnostic {
    /// Stable code, e.g. `TG-C003`; a code is never used for something else.
    pub code: &'static str,
    /// Error or warning.
    pub severity: Severity,
    /// What is wrong, lower case, without a full stop.
    pub message: String,
    /// Where in the file; `None` for what has no place in it.
    pub span: Option<Span>,
    /// Short words beside the marked place.
    pub label: String,
    /// What to do, as a sentence without a full stop.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error with a code.
    #[must_use]
    pub fn error(code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            code,
            severity: Severity::Error,
            message: message.into(),
            span: None,
            label: String::new(),
            help: None,
        }
    }

    /// A warning with a code.
    #[must_use]
    pub fn warning(code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(code, message) }
    }

    /// The same message at a place.
    #[must_use]
    pub fn at(mut self, span: Span) -> Diagnostic {
        self.span = Some(span);
        self
    }

    /// The same message with words beside the place.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Diagnostic {
        self.label = label.into();
        self
    }

    /// The same message with its cure.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }

    /// The same message with `did you mean` and the nearest of `words`, if one
    /// is near enough to be meant.
    #[must_use]
    pub fn suggest<'a>(self, wrong: &str, words: impl IntoIterator<Item = &'a str>) -> Diagnostic {
        match nearest(wrong, words) {
            Some(word) => self.help(format!("did you mean `{word}`?")),
            None => self,
        }
    }
}

/// The word nearest to `wrong`: fewest edits, at most a third of its letters
/// (at least two), or one that begins with it.
#[must_use]
pub fn nearest<'a>(wrong: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wrong_lower = wrong.to_lowercase();
    let edits_max = (wrong.chars().count() / 3).max(2);
    words
        .into_iter()
        .map(|word| {
            let edits = strsim::osa_distance(&wrong_lower, &word.to_lowercase());
            let begins = word.len() >= 3
                && wrong_lower.len() >= 3
                && (word.starts_with(&wrong_lower) || wrong_lower.starts_with(word));
            (if begins { edits.min(edits_max) } else { edits }, word)
        })
        .filter(|(edits, _)| *edits <= edits_max)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_the_nearest_word_only_when_it_is_near() {
        let words = ["every", "points", "device", "unit_id"];
        assert_eq!(nearest("evry", words), Some("every"));
        assert_eq!(nearest("point", words), Some("points"));
        assert_eq!(nearest("unitid", words), Some("unit_id"));
        assert_eq!(nearest("colour", words), None);
    }
}
