//! What has changed in a topology's file since its state was saved: state goes
//! on by the names of nodes, and what cannot go on is refused before anything
//! starts, all of it at once. Nothing is forgotten without a word.

use std::collections::BTreeSet;

use super::allowed::Allowed;
use super::checkpoint::Checkpoint;
use super::ingress::record_of;
use super::job::JobConfig;
use super::leftover::{Leftover, folders, unread_records, waiting_rows};
use super::parallel::node_of;
use crate::sink::Delivery;
use crate::topology::fingerprint::Change;
use crate::topology::plan::{Plan, SinkNode, SourceNode};

/// Keys whose change makes a position or a log one of another kind.
const KINDS: [&str; 2] = ["type", "delivery"];

/// Compares what was saved with the plan. Answers what a person should know.
///
/// # Errors
/// Everything that cannot go on, with its place and its cure.
pub(super) fn check(plan: &Plan, checkpoint: &Checkpoint, config: &JobConfig) -> Result<Vec<String>, String> {
    names(plan, checkpoint, &config.allowed)?;
    let mut edits = Edits { plan, checkpoint, config, notes: Vec::new(), refused: Vec::new() };
    edits.operators();
    edits.sources();
    edits.sinks();
    if edits.refused.is_empty() {
        return Ok(edits.notes);
    }
    Err(format!("the saved state does not fit the file any more:\n{}", edits.refused.join("\n")))
}

/// A word of the command line that names nothing is a slip.
pub(super) fn names(plan: &Plan, checkpoint: &Checkpoint, allowed: &Allowed) -> Result<(), String> {
    let is_source = |name: &String| plan.sources.iter().any(|node| node.name == *name);
    let in_plan = |name: &String| is_source(name) || plan.operators.iter().any(|node| node.name == *name);
    let in_state = |name: &String| {
        checkpoint.sources.contains_key(name) || checkpoint.operators.keys().any(|part| node_of(part) == name)
    };
    if let Some(name) = allowed.reset_state.iter().find(|name| !in_plan(name) && !in_state(name)) {
        return Err(format!("there is no node `{name}` whose state could be thrown away"));
    }
    match allowed.keep_position.iter().find(|name| !is_source(name)) {
        Some(name) => Err(format!("there is no source `{name}` whose position could be kept")),
        None => Ok(()),
    }
}

struct Edits<'a> {
    plan: &'a Plan,
    checkpoint: &'a Checkpoint,
    config: &'a JobConfig,
    notes: Vec<String>,
    refused: Vec<String>,
}

impl Edits<'_> {
    fn is_reset(&self, name: &str) -> bool {
        self.config.allowed.reset_state.iter().any(|reset| reset == name)
    }

    fn refuse(&mut self, messages: &[String], cure: &str) {
        let lines = messages.iter().map(|message| format!("  {message}\n"));
        let refused = format!("{}    {cure}", lines.collect::<String>());
        // Copies of a node say the same.
        if !self.refused.contains(&refused) {
            self.refused.push(refused);
        }
    }

    fn operators(&mut self) {
        for (part, state) in &self.checkpoint.operators {
            let name = node_of(part);
            if state.batches.is_empty() || self.is_reset(name) {
                continue;
            }
            let Some(node) = self.plan.operators.iter().find(|node| node.name == name) else {
                let rows: usize = state.batches.iter().map(|batch| batch.num_rows()).sum();
                let bytes: usize = state.batches.iter().map(|batch| batch.get_array_memory_size()).sum();
                self.notes.push(format!(
                    "`{name}` is not in the file any more: its state ({rows} rows, {bytes} bytes) is forgotten with the next checkpoint; the checkpoints before that keep it"
                ));
                continue;
            };
            let changes = node.fingerprint.changes(&state.fingerprint);
            if !changes.is_empty() {
                let cure = format!("change it back, or throw its state away: --reset-state {name}");
                self.refuse(&messages(&changes), &cure);
            }
        }
    }

    fn sources(&mut self) {
        for node in &self.plan.sources {
            self.source(node);
        }
        for (name, (position, _)) in &self.checkpoint.sources {
            if self.plan.sources.iter().any(|node| node.name == *name) || self.is_reset(name) {
                continue;
            }
            let position =
                position.as_ref().map(|position| String::from_utf8_lossy(&position.0).into_owned());
            let position = position.map(|text| format!(" {}", text.chars().take(200).collect::<String>()));
            self.notes.push(format!(
                "source `{name}` is not in the file any more: its position{} is forgotten with the next checkpoint; the checkpoints before that keep it",
                position.unwrap_or_default()
            ));
        }
        self.left_logs();
    }

    fn source(&mut self, node: &SourceNode) {
        let name = &node.name;
        let nothing = (None, None);
        let saved = self.checkpoint.sources.get(name).filter(|saved| **saved != nothing);
        let then = self.checkpoint.outsides.get(name);
        let (Some(_), Some(then), false) = (saved, then, self.is_reset(name)) else { return };
        let changes = node.fingerprint.changes(then);
        if changes.is_empty() {
            return;
        }
        let is_other_kind = changes.iter().any(is_of_another_kind);
        let is_kept = self.config.allowed.keep_position.contains(name);
        if !is_other_kind && (is_kept || changes.iter().all(|change| change.is_partial)) {
            let told = messages(&changes).join("; ");
            self.notes.push(format!(
                "{told}; what it still reads goes on from its position, what is new begins as its keys say, what went is forgotten with the next checkpoint"
            ));
            return;
        }
        let begin = format!("change it back, or begin it anew: --reset-state {name}");
        if is_other_kind {
            self.refuse(&messages(&changes), &begin);
        } else {
            let keep = format!("{begin}; if it is the same under another name: --keep-position {name}");
            self.refuse(&messages(&changes), &keep);
        }
    }

    /// Logs of sources that no longer read them: their rows were acknowledged,
    /// and nobody else has them.
    fn left_logs(&mut self) {
        let folder = self.config.data_dir.join("ingress");
        for (name, folder) in folders(self.config.vfs.as_ref(), &folder) {
            let is_logged = |node: &SourceNode| node.name == name && node.part.logged;
            if self.plan.sources.iter().any(is_logged) || self.is_reset(&name) {
                continue;
            }
            let position = self.checkpoint.sources.get(&name).and_then(|(position, _)| position.as_ref());
            // One of another kind is of the source that has taken its name.
            let position = position.filter(|position| record_of(position).is_some());
            let shown = folder.display();
            match (unread_records(&self.config.vfs, &folder, position), position) {
                (Ok(None), _) => {}
                (Ok(Some(Leftover { count, bytes })), Some(_)) => {
                    let message = format!(
                        "source `{name}` no longer reads {shown}: {count} records of it ({bytes} bytes with what was read) were acknowledged and not yet worked on"
                    );
                    let cure = format!(
                        "put it back and let it run to a checkpoint, or lose them: --reset-state {name}"
                    );
                    self.refuse(&[message], &cure);
                }
                (Ok(Some(Leftover { bytes, .. })), None) => self.notes.push(format!(
                    "no source reads {shown} ({bytes} bytes): if its rows are not wanted, remove the folder; a source `{name}` would read them"
                )),
                (Err(reason), _) => self.notes.push(format!("no source reads {shown}: {reason}")),
            }
        }
    }

    fn sinks(&mut self) {
        for (name, folder) in folders(self.config.vfs.as_ref(), &self.config.data_dir.join("egress")) {
            let keeper = self.plan.sinks.iter().find(|node| node.name == name && keeps_rows(node));
            let then = self.checkpoint.outsides.get(&name);
            let changes = keeper.zip(then).map(|(node, then)| node.fingerprint.changes(then));
            let changes = changes.unwrap_or_default();
            if keeper.is_some() && changes.is_empty() {
                continue;
            }
            let waiting = match waiting_rows(&self.config.vfs, &folder) {
                Ok(None) => continue,
                Ok(Some(Leftover { count, bytes })) => format!("{count} rows ({bytes} bytes)"),
                Err(reason) => format!("rows that cannot be counted ({reason})"),
            };
            let shown = folder.display();
            if keeper.is_none() {
                self.notes.push(format!(
                    "sink `{name}` is not in the file any more, or keeps no rows: up to {waiting} in {shown} are delivered by nobody; a sink of that name as it was delivers them; if they are not wanted, remove the folder"
                ));
            } else if changes.iter().any(is_of_another_kind) {
                let mut told = messages(&changes);
                told.push(format!("up to {waiting} in {shown} wait for what it was"));
                let cure = "change it back and let it deliver them, give it another name, or remove the folder and lose them";
                self.refuse(&told, cure);
            } else {
                let told = messages(&changes).join("; ");
                self.notes.push(format!("{told}; up to {waiting} that waited go there"));
            }
        }
    }
}

/// Whether rows wait for this sink in a folder of its own.
pub(super) fn keeps_rows(node: &SinkNode) -> bool {
    node.queue.is_some() || node.part.sink.delivery() == Delivery::ExactlyOnce
}

fn is_of_another_kind(change: &Change) -> bool {
    KINDS.contains(&change.path.as_str())
}

fn messages(changes: &[Change]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let all = changes.iter().map(|change| change.message.clone());
    all.filter(|message| seen.insert(message.clone())).collect()
}
