//! `tidegate`: the daemon and its command line. Each command is one call into
//! `cli`; nothing else is decided here.

mod api;
mod catalog;
mod cli;
mod config;
mod daemon;
#[cfg(feature = "demo")]
mod demo;
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
