//! How the program ends: the exit codes of `sysexits.h` that users rely on.

use std::process::ExitCode;

/// Why a command did not succeed. The message has been made for a person.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What to print on stderr; empty if it has been printed.
    pub(crate) message: String,
    /// The exit code.
    pub(crate) code: u8,
    /// What the daemon does about it.
    pub(crate) retry: Retry,
}

/// Whether trying again is of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// A few times: the next start may meet the same row.
    Counted,
    /// As long as it takes: its cause is outside, and goes away by itself.
    Always,
    /// Not before a person has done something.
    Never,
}

/// Something failed.
pub(crate) const FAILED: u8 = 1;
/// The daemon cannot be reached.
pub(crate) const UNREACHABLE: u8 = 69;
/// A file or disk cannot be read or written.
pub(crate) const IO: u8 = 74;
/// The configuration is wrong; nothing was started.
pub(crate) const CONFIG: u8 = 78;

impl Failure {
    pub(crate) fn new(code: u8, message: impl std::fmt::Display) -> Failure {
        Failure { message: message.to_string(), code, retry: Retry::Counted }
    }

    /// Something failed that will fail again.
    pub(crate) fn hopeless(message: impl std::fmt::Display) -> Failure {
        Failure { retry: Retry::Never, ..Failure::new(FAILED, message) }
    }

    /// Something outside is not as it must be, for now.
    pub(crate) fn passing(code: u8, message: impl std::fmt::Display) -> Failure {
        Failure { retry: Retry::Always, ..Failure::new(code, message) }
    }

    /// Prints the message and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        if !self.message.is_empty() {
            eprintln!("error: {}", self.message);
        }
        ExitCode::from(self.code)
    }
}
