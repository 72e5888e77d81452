//! `tidegate`: the daemon and its command line. Each command is one call into
//! `cli`; nothing else is decided here.

mod catalog;
mod cli;
mod daemon;
mod exit;
mod topology;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::run(cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
