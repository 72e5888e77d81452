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

/// `println!` for data: see [`line`].
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::print::line(format_args!($($text)*))
    };
}
pub(super) use say;
