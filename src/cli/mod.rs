//! The command line: one file per command. stdout carries data, stderr
//! messages.

mod check;
mod codes;
mod completions;
mod dead;
#[cfg(feature = "demo")]
mod demo;
mod doc;
mod eval;
mod explain;
mod flow;
mod graph;
mod list;
mod logging;
mod made_of;
mod print;
mod promises;
mod run;
mod runs;
mod serve;
mod status;
mod tickets;

use clap::{Parser, Subcommand};

use crate::exit::Failure;

/// Event-driven streaming dataflow engine: sources, windows, triggers and
/// durable flows, in one binary.
#[derive(Parser)]
#[command(name = "tidegate", version, about, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a simulated plant and the three topologies that run on it
    #[cfg(feature = "demo")]
    Demo(demo::Demo),
    /// Run the daemon: every topology of a folder, with an API
    Serve(serve::Serve),
    /// What a running daemon does
    Status(status::Status),
    /// Runs of flows, newest first
    Runs(runs::Runs),
    /// Runs of flows, and a word about those that wait for one
    Flow(flow::Flow),
    /// Tickets that flows have opened, newest first
    Tickets(tickets::Tickets),
    /// Rows that were refused for good: list, show, deliver again
    Dead(dead::Dead),
    /// Run one topology in the foreground
    Run(run::Run),
    /// Check topologies without starting or connecting anything
    Check(check::Check),
    /// List every source, operator, sink and task
    List(list::List),
    /// Show the keys and an example of a type, e.g. `source.modbus`
    Doc(doc::Doc),
    /// Explain an error code, e.g. `TG-C003`
    Explain(explain::Explain),
    /// Draw a topology as Mermaid or Graphviz text
    Graph(graph::Graph),
    /// Evaluate an expression on a JSON row
    Eval(eval::Eval),
    /// Print a completion script for a shell
    Completions(completions::Completions),
}

/// Runs the command that was asked for.
pub(crate) fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        #[cfg(feature = "demo")]
        Command::Demo(command) => command.run(),
        Command::Serve(command) => command.run(),
        Command::Status(command) => command.run(),
        Command::Runs(command) => command.run(),
        Command::Flow(command) => command.run(),
        Command::Tickets(command) => command.run(),
        Command::Dead(command) => command.run(),
        Command::Run(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::List(command) => command.run(),
        Command::Doc(command) => command.run(),
        Command::Explain(command) => command.run(),
        Command::Graph(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::Completions(command) => command.run(),
    }
}
