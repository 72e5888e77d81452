//! Which nodes are read: named ones, and those that a browse pattern finds.
//! Namespaces are named by URI, because a server may number them anew after
//! every restart.

use std::str::FromStr;
use std::sync::Arc;

use opcua::client::Session;
use opcua::types::{
    BrowseDescription, BrowseDirection, BrowseResultMask, ByteString, DataValue, NodeClass, NodeId, ObjectId,
    ReferenceTypeId, StatusCode,
};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConnectorError;
use tidegate_engine::topology::key::{Key, Kind, optional};
use tidegate_engine::topology::value::Table;

/// Keys of an entry of `nodes`.
pub(crate) const NODE_KEYS: &[Key] = &[
    optional("node", Kind::Text, "\"ns=2;s=Speed\", or with the namespace's URI \"nsu=urn:plant;s=Speed\""),
    optional("browse", Kind::Text, "browse names from the root, `*` for any, e.g. \"Objects/*/Vibration\""),
    optional("name", Kind::Text, "what the column `node` says, the node's id if left out"),
    optional(
        "tags",
        Kind::Map(&Kind::Text),
        "columns of text; {path[1]} is the second name of a browse path",
    ),
];

/// Most nodes a pattern may find.
const FOUND_MAX: usize = 100_000;
/// Nodes asked about in one browse request.
const BROWSE_CHUNK: usize = 500;

/// An entry of `nodes`.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    target: Target,
    name: Option<String>,
    tags: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
enum Target {
    Node { namespace_uri: Option<String>, node: NodeId },
    Browse(Vec<String>),
}

/// A node that is read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Item {
    pub(crate) node: NodeId,
    /// What the column `node` says.
    pub(crate) name: Arc<str>,
    /// One text for each tag column.
    pub(crate) tags: Vec<Arc<str>>,
}

/// What a connected server has of the selections.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) items: Vec<Arc<Item>>,
    /// Nodes that it cannot have, and why.
    pub(crate) absent: Vec<Refused>,
}

/// A node that cannot be read, and what the server says.
pub(crate) type Refused = (Arc<Item>, StatusCode);

/// A refused node as a value without a value.
pub(crate) fn refusal((item, status): &Refused) -> (Arc<Item>, DataValue) {
    (Arc::clone(item), DataValue { status: Some(*status), ..DataValue::default() })
}

/// Reads the entries of `nodes`; answers them and the names of all tags.
pub(crate) fn read(tables: &[&Table], out: &mut Vec<Diagnostic>) -> (Vec<Selection>, Vec<String>) {
    let mut selections = Vec::new();
    let mut tag_names: Vec<String> = Vec::new();
    for table in tables {
        let target = match (table.text("node"), table.text("browse")) {
            (Some(node), None) => match parse_node(&node.value) {
                Ok((namespace_uri, node)) => Target::Node { namespace_uri, node },
                Err(message) => {
                    out.push(Diagnostic::error("TG-O003", message).at(node.span.clone()));
                    continue;
                }
            },
            (None, Some(pattern)) => Target::Browse(pattern.value.split('/').map(str::to_owned).collect()),
            (_, _) => {
                let message = "an entry of `nodes` has either `node` or `browse`";
                out.push(Diagnostic::error("TG-O003", message).at(table.span.clone()));
                continue;
            }
        };
        let tags = table.table("tags").map(|tags| tags.entries.as_slice()).unwrap_or_default();
        let tags: Vec<(String, String)> = tags
            .iter()
            .filter_map(|entry| Some((entry.key.clone(), entry.value.as_text()?.value.clone())))
            .collect();
        for (name, _) in &tags {
            if !tag_names.contains(name) {
                tag_names.push(name.clone());
            }
        }
        selections.push(Selection { target, name: table.str("name").map(str::to_owned), tags });
    }
    (selections, tag_names)
}

/// `nsu=URI;s=x` or `ns=2;s=x` or `i=2258`.
pub(crate) fn parse_node(text: &str) -> Result<(Option<String>, NodeId), String> {
    let wrong =
        || format!("`{text}` is no node id; write e.g. \"ns=2;s=Speed\" or \"nsu=urn:plant;s=Speed\"");
    let (uri, rest) = match text.strip_prefix("nsu=") {
        Some(rest) => {
            let (uri, rest) = rest.split_once(';').ok_or_else(wrong)?;
            (Some(uri.to_owned()), rest)
        }
        None => (None, text),
    };
    let node = NodeId::from_str(rest).map_err(|_| wrong())?;
    Ok((uri, node))
}

/// Finds every node of the selections on a connected server.
pub(crate) async fn resolve(
    session: &Session,
    selections: &[Selection],
    tag_names: &[String],
) -> Result<Found, ConnectorError> {
    let lost = |error: opcua::types::Error| ConnectorError::Lost(format!("cannot browse: {error}"));
    let namespaces = session.read_namespace_array().await.map_err(lost)?;
    let mut found = Found::default();
    for selection in selections {
        match &selection.target {
            Target::Node { namespace_uri, node } => {
                let mut node = node.clone();
                let index = namespace_uri.as_ref().map(|uri| (uri, namespaces.get_index(uri)));
                if let Some((_, Some(index))) = index {
                    node.namespace = index;
                }
                // A name that stays the same when the server numbers its namespaces anew.
                let written = match namespace_uri {
                    Some(uri) => format!("nsu={uri};{}", node.identifier),
                    None => node.to_string(),
                };
                let name = selection.name.as_ref().unwrap_or(&written);
                let item = Arc::new(item(node, name, selection, &[], tag_names));
                if let Some((uri, None)) = index {
                    tracing::warn!("the server has no namespace {uri}; {written} is not read");
                    found.absent.push((item, StatusCode::BadNodeIdUnknown));
                } else {
                    found.items.push(item);
                }
            }
            Target::Browse(pattern) => {
                let nodes = browse(session, pattern).await?;
                if nodes.is_empty() {
                    tracing::warn!("the pattern {} finds no node", pattern.join("/"));
                }
                for (node, path) in nodes {
                    let name = selection.name.clone().unwrap_or_else(|| path.join("/"));
                    found.items.push(Arc::new(item(node, &name, selection, &path, tag_names)));
                }
            }
        }
    }
    Ok(found)
}

fn item(node: NodeId, name: &str, selection: &Selection, path: &[String], tag_names: &[String]) -> Item {
    let tag = |wanted: &String| {
        let template = selection.tags.iter().find(|(name, _)| name == wanted);
        template.map_or_else(String::new, |(_, template)| insert(template, path)).into()
    };
    Item { node, name: insert(name, path).into(), tags: tag_names.iter().map(tag).collect() }
}

/// Replaces `{path[n]}` by the n-th browse name, the first is 0.
fn insert(template: &str, path: &[String]) -> String {
    let mut text = template.to_owned();
    for (index, name) in path.iter().enumerate() {
        text = text.replace(&format!("{{path[{index}]}}"), name);
    }
    text
}

/// Walks the address space along a pattern, level by level.
async fn browse(session: &Session, pattern: &[String]) -> Result<Vec<(NodeId, Vec<String>)>, ConnectorError> {
    let root: NodeId = ObjectId::RootFolder.into();
    let mut level = vec![(root, Vec::new())];
    for wanted in pattern {
        let mut next = Vec::new();
        for chunk in level.chunks(BROWSE_CHUNK) {
            for ((_, path), children) in chunk.iter().zip(children(session, chunk).await?) {
                for (node, name) in children {
                    if matches(wanted, &name) {
                        let mut path = path.clone();
                        path.push(name);
                        next.push((node, path));
                    }
                }
            }
        }
        if next.len() > FOUND_MAX {
            let message = format!("the pattern {} finds over {FOUND_MAX} nodes", pattern.join("/"));
            return Err(ConnectorError::Fatal(message));
        }
        level = next;
    }
    Ok(level)
}

/// The children of each node: id and browse name.
async fn children(
    session: &Session,
    nodes: &[(NodeId, Vec<String>)],
) -> Result<Vec<Vec<(NodeId, String)>>, ConnectorError> {
    let lost = |error: opcua::types::Error| ConnectorError::Lost(format!("cannot browse: {error}"));
    let requests: Vec<BrowseDescription> = nodes
        .iter()
        .map(|(node, _)| BrowseDescription {
            node_id: node.clone(),
            browse_direction: BrowseDirection::Forward,
            reference_type_id: ReferenceTypeId::HierarchicalReferences.into(),
            include_subtypes: true,
            node_class_mask: NodeClass::Object as u32 | NodeClass::Variable as u32,
            result_mask: BrowseResultMask::All as u32,
        })
        .collect();
    let results = session.browse(&requests, 0, None).await.map_err(lost)?;
    let mut all = Vec::new();
    for result in results {
        let mut references = result.references.unwrap_or_default();
        let mut more: ByteString = result.continuation_point;
        while !more.is_null() {
            let continued = session.browse_next(false, &[more]).await.map_err(lost)?;
            let Some(result) = continued.into_iter().next() else { break };
            references.extend(result.references.unwrap_or_default());
            more = result.continuation_point;
        }
        let child = |reference: opcua::types::ReferenceDescription| {
            (reference.node_id.node_id, reference.browse_name.name.as_ref().to_owned())
        };
        all.push(references.into_iter().map(child).collect());
    }
    Ok(all)
}

/// `*` stands for any run of characters.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => match name.strip_prefix(start) {
            None => false,
            Some(name) => {
                let ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
                ends.filter_map(|at| name.get(at..)).any(|tail| matches(rest, tail))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_node_ids_with_index_or_uri() {
        let (uri, node) = parse_node("nsu=urn:plant;s=WTG01.Power").expect("a node id");
        assert_eq!(uri.as_deref(), Some("urn:plant"));
        assert!(matches!(node.identifier, opcua::types::Identifier::String(_)));
        assert!(parse_node("ns=2;i=17").is_ok());
        for wrong in ["", "speed", "nsu=urn:x", "ns=x;s=y"] {
            assert!(parse_node(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        assert!(matches("WTG*", "WTG01") && matches("*", "x") && matches("a*c*e", "abcde"));
        assert!(!matches("WTG*", "PUMP") && !matches("a*c", "ab"));
    }

    #[test]
    fn inserts_names_of_the_path() {
        let path = ["Objects".to_owned(), "WTG01".to_owned()];
        assert_eq!(insert("turbine {path[1]}", &path), "turbine WTG01");
    }
}
