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
mod memory;
mod supervise;
mod topology;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // One TLS provider for every library; a second installation changes nothing.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("warning: a TLS provider was installed already");
    }
    match cli::run(cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
