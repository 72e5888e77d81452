//! The second layer of a file: each node's type exists, and its keys are those
//! that the type has.

use crate::catalog::{Catalog, find, names};
use crate::diagnostic::Diagnostic;
use crate::topology::key::Key;
use crate::topology::keys::check_keys;
use crate::topology::node::{NodeConfig, Section};
use crate::topology::sections::{COMPOSED_KEYS, OPERATOR_KEYS, SINK_KEYS, SOURCE_KEYS, TABLE_KEYS};

/// Tells what is wrong with a node taken alone.
pub(super) fn check_node(node: &NodeConfig, catalog: &Catalog, out: &mut Vec<Diagnostic>) {
    let kind = node.kind.value.as_str();
    let word = node.section.word();
    let keys: Option<(&[Key], &[&[Key]])> = match node.section {
        Section::Source => find(catalog.sources, kind).map(|row| (SOURCE_KEYS, row.keys)),
        Section::Operator => operator_keys(catalog, kind),
        Section::Sink => find(catalog.sinks, kind).map(|row| (SINK_KEYS, row.keys)),
        Section::Trigger => Some((&[], catalog.trigger.keys)),
        Section::Table => find(catalog.tables, kind).map(|row| (TABLE_KEYS, row.keys)),
        // Its keys are checked by those who build it.
        Section::Flow => return,
    };
    let Some((common, own)) = keys else {
        let known: Vec<&str> = match node.section {
            Section::Source => names(catalog.sources).collect(),
            Section::Operator => names(catalog.operators).chain(names(catalog.composed)).collect(),
            Section::Sink => names(catalog.sinks).collect(),
            Section::Table => names(catalog.tables).collect(),
            Section::Trigger | Section::Flow => Vec::new(),
        };
        out.push(
            Diagnostic::error("TG-C007", format!("there is no {word} of type `{kind}`"))
                .at(node.kind.span.clone())
                .help(format!("the types are {}", known.join(", ")))
                .suggest(kind, known.iter().copied()),
        );
        return;
    };
    let what = match node.section {
        Section::Trigger => format!("trigger `{}`", node.name),
        Section::Source | Section::Operator | Section::Sink | Section::Flow | Section::Table => {
            format!("{word} `{}` (type `{kind}`)", node.name)
        }
    };
    check_keys(&node.table, &own_and(common, own), &what, &node.name_span, out);
}

/// The keys of an operator of this type, which may be made of others: those that
/// all have, and its own.
fn operator_keys(catalog: &Catalog, kind: &str) -> Option<(&'static [Key], &'static [&'static [Key]])> {
    let plain = find(catalog.operators, kind).map(|row| (OPERATOR_KEYS, row.keys));
    plain.or_else(|| find(catalog.composed, kind).map(|row| (COMPOSED_KEYS, row.keys)))
}

/// The keys that every node of a section has, and its own.
pub(super) fn own_and<'a>(common: &'a [Key], own: &[&'a [Key]]) -> Vec<&'a [Key]> {
    std::iter::once(common).chain(own.iter().copied()).collect()
}
