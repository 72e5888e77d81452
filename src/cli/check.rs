//! `tidegate check`: syntax, keys, references, types; offline.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use tidegate_engine::topology::report::to_json;

use super::made_of;
use super::print::say;
use super::promises;
use crate::exit::{CONFIG, Failure, IO};
use crate::topology::{LoadOptions, TopologyFile};

#[derive(Args)]
pub(crate) struct Check {
    /// Topology files, or folders of them
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// How messages are printed
    #[arg(long, default_value = "text")]
    format: Format,
    /// Print what may be relied on: what each source and sink does after a crash
    #[arg(long)]
    promises: bool,
    /// Print what each node is, and the operators that a query becomes, as a file could say them
    #[arg(long)]
    explain: bool,
}

#[derive(Clone, Copy, ValueEnum, PartialEq)]
enum Format {
    /// For a person, on stderr
    Text,
    /// One JSON object a line, on stdout
    Json,
}

impl Check {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let mut wrong = 0;
        let files = topology_files(&self.paths)?;
        for path in &files {
            let file = TopologyFile::open(path)?;
            let (diagnostics, failed) = match file.load(&LoadOptions::default()) {
                Ok(topology) => {
                    if self.promises {
                        promises::print(
                            &path.display().to_string(),
                            &topology.loaded.plan,
                            self.format == Format::Json,
                        );
                    }
                    if self.explain {
                        let (name, json) = (path.display().to_string(), self.format == Format::Json);
                        made_of::print(&name, &file.text, &topology.loaded, json);
                    }
                    (topology.loaded.warnings, false)
                }
                Err(error) => (error.0, true),
            };
            wrong += usize::from(failed);
            match self.format {
                Format::Json => {
                    for diagnostic in &diagnostics {
                        say!("{}", to_json(&path.display().to_string(), &file.text, diagnostic));
                    }
                }
                Format::Text if diagnostics.is_empty() => eprintln!("{}: ok", path.display()),
                Format::Text => eprintln!("{}\n", file.render(&diagnostics)),
            }
        }
        if wrong > 0 {
            let message = if self.format == Format::Json {
                String::new()
            } else {
                format!("{wrong} of {} topologies cannot start", files.len())
            };
            return Err(Failure::new(CONFIG, message));
        }
        Ok(())
    }
}

/// The files named, and every `.toml` in the folders named.
pub(crate) fn topology_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let found = folder(path);
            let mut found = found
                .map_err(|error| Failure::new(IO, format!("cannot read {}: {error}", path.display())))?;
            if found.is_empty() {
                return Err(Failure::new(IO, format!("{} holds no .toml file", path.display())));
            }
            found.sort();
            files.append(&mut found);
        } else {
            files.push(path.clone());
        }
    }
    Ok(files)
}

fn folder(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            found.push(path);
        }
    }
    Ok(found)
}
