//! `tidegate dead`: rows that were refused for good, with their reasons. The
//! topology may run meanwhile; what is to be delivered again goes out with its
//! next checkpoint, or when it starts.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use clap::{Args, Subcommand};
use tidegate_connectors::format::encode::EncodeFormat;
use tidegate_engine::dead_letters::{DeadLetter, Fate, LetterId, Shelf, request, shelves};
use tidegate_engine::storage::vfs::{RealDisk, Vfs};
use tidegate_engine::time::{Clock, SystemClock, Time};

use super::print::{plain, say};
use super::runs::{Where, short};
use crate::exit::{Failure, IO};

/// Characters of a payload that a list shows.
const SHOWN: usize = 120;

#[derive(Args)]
pub(crate) struct Dead {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List them, oldest first
    List(List),
    /// Show one as it was: reason, position, row or payload
    Show(Show),
    /// Have refused rows of a sink delivered again, each once
    Replay(Replay),
}

#[derive(Args)]
struct List {
    #[command(flatten)]
    place: Where,
    /// Only those of this node
    #[arg(long)]
    node: Option<String>,
    /// At most so many, the newest ones
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Show {
    /// Node and number, as listed, e.g. out/12.0
    id: String,
    #[command(flatten)]
    place: Where,
    /// Print the bytes of the row or payload, and nothing else
    #[arg(long)]
    raw: bool,
}

#[derive(Args)]
struct Replay {
    #[command(flatten)]
    place: Where,
    /// The sink
    #[arg(long)]
    node: String,
    /// These ones, e.g. 12.0; or say --all
    #[arg(long = "id", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// All that were neither delivered again nor asked for
    #[arg(long)]
    all: bool,
}

impl Dead {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::List(command) => command.run(),
            Command::Show(command) => command.run(),
            Command::Replay(command) => command.run(),
        }
    }
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let mut all = Vec::new();
        for shelf in open(&self.place.data_dir()?)? {
            if self.node.as_ref().is_none_or(|node| *node == shelf.node) {
                let letters = letters(&shelf)?;
                all.extend(letters.into_iter().map(|letter| (shelf.node.clone(), letter)));
            }
        }
        all.sort_by_key(|(_, letter)| letter.letter.at_us);
        for (node, letter) in all.split_off(all.len().saturating_sub(self.limit)) {
            let (at, state) = (Time(letter.letter.at_us), state(&letter));
            let content = String::from_utf8_lossy(&content(&letter)?).into_owned();
            if self.json {
                let line = serde_json::json!({
                    "id": format!("{node}/{}", letter.id), "node": node, "at": at.to_string(), "state": state,
                    "reason": letter.letter.reason, "position": letter.letter.position, "content": content,
                });
                say!("{line}");
                continue;
            }
            let id = format!("{node}/{}", letter.id);
            say!("{id:<20} {} {state:<9} {}", short(at), plain(&letter.letter.reason));
            let cut: String = content.chars().take(SHOWN).collect();
            let more = if cut.len() < content.len() { " …" } else { "" };
            say!("    {}{more}", plain(&cut));
        }
        Ok(())
    }
}

impl Show {
    fn run(self) -> Result<(), Failure> {
        let (node, id) = self.id.split_once('/').ok_or_else(|| {
            Failure::new(2, format!("`{}` is no name of a dead letter, such as out/12.0", self.id))
        })?;
        let id: LetterId = id.parse().map_err(|reason: String| Failure::new(2, reason))?;
        let shelf = shelf(&self.place.data_dir()?, node)?;
        let found = letters(&shelf)?.into_iter().find(|letter| letter.id == id);
        let letter = found.ok_or_else(|| Failure::new(2, format!("there is no dead letter {node}/{id}")))?;
        let content = content(&letter)?;
        if self.raw {
            let written = std::io::stdout().lock().write_all(&content);
            return written.map_err(|error| Failure::new(IO, error));
        }
        say!("node:     {node}");
        say!("at:       {}", Time(letter.letter.at_us));
        say!("state:    {}", state(&letter));
        say!("reason:   {}", plain(&letter.letter.reason));
        if !letter.letter.position.is_empty() {
            say!("position: {}", plain(&letter.letter.position));
        }
        say!("{}", plain(&String::from_utf8_lossy(&content)));
        Ok(())
    }
}

impl Replay {
    fn run(self) -> Result<(), Failure> {
        let shelf = shelf(&self.place.data_dir()?, &self.node)?;
        let asked: Result<BTreeSet<LetterId>, String> = self.ids.iter().map(|id| id.parse()).collect();
        let asked = asked.map_err(|reason| Failure::new(2, reason))?;
        let letters = letters(&shelf)?;
        if let Some(unknown) = asked.iter().find(|id| letters.iter().all(|letter| letter.id != **id)) {
            return Err(Failure::new(2, format!("there is no dead letter {}/{unknown}", self.node)));
        }
        let wanted = letters.iter().filter(|letter| {
            let is_open = !letter.is_replayed && !letter.is_requested;
            if self.all { is_open } else { asked.contains(&letter.id) && is_open }
        });
        let wanted: Vec<&DeadLetter> = wanted.collect();
        if wanted.iter().any(|letter| letter.fate == Fate::Quarantined) {
            let node = &self.node;
            let message = format!("rows of `{node}` come again by themselves, from the checkpoint");
            return Err(Failure::new(2, message));
        }
        if wanted.iter().any(|letter| letter.fate == Fate::Rejected) {
            let node = &self.node;
            return Err(Failure::new(
                2,
                format!(
                    "rows of `{node}` were rejected before they were rows: `tidegate dead show {node}/ID --raw` gives the payload, to be sent to the source again when it is mended"
                ),
            ));
        }
        let ids: Vec<LetterId> = wanted.iter().map(|letter| letter.id).collect();
        if ids.is_empty() {
            say!("nothing to do: all of them were delivered, or asked for, before");
            return Ok(());
        }
        let now = SystemClock.now().0;
        let name = format!("{now}-{}", std::process::id());
        request(&shelf, &ids, &name).map_err(|error| Failure::new(IO, error))?;
        say!("{} of `{}` go out with the next checkpoint, or when the topology starts", ids.len(), self.node);
        Ok(())
    }
}

fn open(data_dir: &Path) -> Result<Vec<Shelf>, Failure> {
    let vfs: Arc<dyn Vfs> = Arc::new(RealDisk);
    let mut shelves = shelves(&vfs, data_dir)
        .map_err(|error| Failure::new(IO, format!("{}: {error}", data_dir.display())))?;
    shelves.sort_by(|a, b| a.node.cmp(&b.node));
    Ok(shelves)
}

fn shelf(data_dir: &Path, node: &str) -> Result<Shelf, Failure> {
    let found = open(data_dir)?.into_iter().find(|shelf| shelf.node == node);
    found.ok_or_else(|| Failure::new(2, format!("`{node}` has no dead letters")))
}

fn letters(shelf: &Shelf) -> Result<Vec<DeadLetter>, Failure> {
    shelf.letters().map_err(|error| Failure::new(IO, error))
}

fn state(letter: &DeadLetter) -> &'static str {
    match (letter.is_replayed, letter.is_requested, letter.fate) {
        (true, _, _) => "delivered",
        (_, true, _) => "asked for",
        (_, _, Fate::Refused) => "refused",
        (_, _, Fate::Rejected) => "rejected",
        (_, _, Fate::Quarantined) => "quarantined",
    }
}

/// The payload as it came, or the row as JSON.
fn content(letter: &DeadLetter) -> Result<Vec<u8>, Failure> {
    match letter.fate {
        Fate::Rejected => Ok(payload(&letter.row)),
        Fate::Refused | Fate::Quarantined => {
            let mut line = Vec::new();
            let encoded = EncodeFormat::Json.encoder().encode(&letter.row, &mut line);
            encoded.map_err(|reason| Failure::new(IO, reason))?;
            line.pop();
            Ok(line)
        }
    }
}

fn payload(row: &RecordBatch) -> Vec<u8> {
    let bytes = row.columns().first().and_then(|column| column.as_binary_opt::<i32>());
    bytes.filter(|bytes| !bytes.is_empty()).map(|bytes| bytes.value(0).to_vec()).unwrap_or_default()
}
