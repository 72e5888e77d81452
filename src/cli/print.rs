//! Data on stdout. A reader that went away, as in `tidegate list | head -1`,
//! ends the command in silence; anything else that cannot be printed is said.

use std::io::{ErrorKind, Write, stdout};

use crate::exit::IO;

/// Prints a line, or ends the process.
#[allow(clippy::print_stderr, reason = "stdout is what cannot be written")]
pub(super) fn line(text: std::fmt::Arguments<'_>) {
    let mut out = stdout().lock();
    let written = out.write_fmt(text).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
    match written {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            eprintln!("error: cannot print: {error}");
            std::process::exit(i32::from(IO));
        }
    }
}

/// Text from data without what a terminal would obey: each control character
/// is written out, e.g. `\u{1b}`.
pub(super) fn plain(text: &str) -> String {
    // These reorder what is shown, or hide in it.
    let steers =
        |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || steers(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// `println!` for data: see [`line`].
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::print::line(format_args!($($text)*))
    };
}
pub(super) use say;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_data_steers_a_terminal() {
        let text = "pump\u{1b}[2J 1\r\n\tö \\ \u{9b}1m \u{202e}x";
        assert_eq!(plain(text), "pump\\u{1b}[2J 1\\r\\n\\tö \\ \\u{9b}1m \\u{202e}x");
    }
}
