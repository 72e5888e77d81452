//! Which task waits for which: names to an order without cycles.

use std::collections::BTreeMap;

use crate::diagnostic::Diagnostic;
use crate::topology::value::{Table, Text};

/// A task as the graph sees it.
pub(super) struct Node<'a> {
    pub(super) id: &'a Text,
    pub(super) table: &'a Table,
    pub(super) finally: bool,
    /// Its keys are right, so that it can be built.
    pub(super) fit: bool,
}

/// The tasks in an order in which each stands after those it waits for, and
/// what each waits for, as indices of that order.
pub(super) struct Order {
    /// Index in the file, by index in the order.
    pub(super) file_index: Vec<usize>,
    /// By index in the order.
    pub(super) after: Vec<Vec<usize>>,
}

/// Resolves `after`. Messages are added; the order is only good without them.
pub(super) fn order(nodes: &[Node<'_>], out: &mut Vec<Diagnostic>) -> Order {
    let mut index_of: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, node) in nodes.iter().enumerate() {
        if index_of.insert(&node.id.value, index).is_some() {
            let message = format!("two tasks are called `{}`", node.id.value);
            let diagnostic = Diagnostic::error("TG-F002", message).at(node.id.span.clone());
            out.push(diagnostic.label("the second one").help("a task's id is how other tasks name it"));
        }
    }
    let waits: Vec<Vec<usize>> =
        nodes.iter().enumerate().map(|(index, node)| waits_for(nodes, index, node, &index_of, out)).collect();
    let mut file_index: Vec<usize> = Vec::with_capacity(nodes.len());
    while file_index.len() < nodes.len() {
        let done = |index: &usize| file_index.contains(index);
        let next = waits.iter().enumerate().position(|(index, wanted)| {
            // `finally` tasks come after all others, whatever they name.
            let in_turn = nodes.get(index).is_some_and(|node| !node.finally)
                || nodes.iter().enumerate().all(|(other, node)| node.finally || done(&other));
            !done(&index) && in_turn && wanted.iter().all(done)
        });
        let Some(next) = next else {
            out.push(cycle(nodes, &waits, &file_index));
            break;
        };
        file_index.push(next);
    }
    let place = |index: &usize| file_index.iter().position(|found| found == index);
    let after = file_index
        .iter()
        .map(|index| waits.get(*index).into_iter().flatten().filter_map(place).collect())
        .collect();
    Order { file_index, after }
}

fn waits_for(
    nodes: &[Node<'_>],
    index: usize,
    node: &Node<'_>,
    index_of: &BTreeMap<&str, usize>,
    out: &mut Vec<Diagnostic>,
) -> Vec<usize> {
    if node.table.get("after").is_none() {
        // The task above, in the same list.
        let above = index.checked_sub(1);
        let same_list =
            above.and_then(|above| nodes.get(above)).is_some_and(|above| above.finally == node.finally);
        return above.filter(|_| same_list).into_iter().collect();
    }
    let mut waits = Vec::new();
    for text in node.table.texts("after") {
        let found = index_of.get(text.value.as_str()).copied();
        let Some(other) = found else {
            let message =
                format!("task `{}` waits for `{}`, but there is no such task", node.id.value, text.value);
            let names = nodes.iter().map(|node| node.id.value.as_str()).filter(|name| *name != node.id.value);
            out.push(Diagnostic::error("TG-F003", message).at(text.span.clone()).suggest(&text.value, names));
            continue;
        };
        if nodes.get(other).is_some_and(|found| found.finally != node.finally) {
            let message = format!("task `{}` cannot wait for `{}`", node.id.value, text.value);
            let help = "`finally` tasks begin when all others have ended, and wait for one another only";
            out.push(Diagnostic::error("TG-F003", message).at(text.span.clone()).help(help));
            continue;
        }
        waits.push(other);
    }
    waits
}

fn cycle(nodes: &[Node<'_>], waits: &[Vec<usize>], done: &[usize]) -> Diagnostic {
    // From any task that is left, whom it waits for leads into the cycle.
    let mut path: Vec<usize> = Vec::new();
    let mut at = (0..nodes.len()).find(|index| !done.contains(index));
    while let Some(index) = at {
        if let Some(begin) = path.iter().position(|seen| *seen == index) {
            path.drain(..begin);
            break;
        }
        path.push(index);
        at = waits.get(index).and_then(|wanted| wanted.iter().find(|other| !done.contains(other)).copied());
    }
    let mut names: Vec<&str> =
        path.iter().rev().filter_map(|index| nodes.get(*index)).map(|node| node.id.value.as_str()).collect();
    names.extend(names.first().copied());
    let message = format!("tasks wait for each other: `{}`", names.join("` → `"));
    let diagnostic = Diagnostic::error("TG-F004", message).help("remove one name from an `after`");
    match path.first().and_then(|index| nodes.get(*index)) {
        Some(node) => diagnostic.at(node.table.span_of("after")),
        None => diagnostic,
    }
}
