//! `unique` of a source: which columns name a row.

use super::node::NodeConfig;
use crate::diagnostic::Diagnostic;
use crate::source::SourcePart;

/// Indices of the columns that name a row of this source; none without `unique`.
///
/// # Errors
/// A column is not there, or nobody could remember what has come.
pub fn unique(node: &NodeConfig, part: &SourcePart) -> Result<Vec<usize>, Vec<Diagnostic>> {
    let names = node.table.texts("unique");
    if names.is_empty() {
        return Ok(Vec::new());
    }
    if !part.logged {
        let message =
            format!("rows of `{}` do not pass a log, so nothing remembers what has come", node.name);
        let diagnostic = Diagnostic::error("TG-T011", message).at(node.table.span_of("unique"));
        return Err(vec![
            diagnostic.help("where there is `durable`, say durable = true; else leave `unique` out"),
        ]);
    }
    let fields = part.stream.columns.fields();
    let (mut columns, mut wrong) = (Vec::new(), Vec::new());
    for name in names {
        match fields.iter().position(|field| *field.name() == name.value) {
            Some(column) => columns.push(column),
            None => {
                let known: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
                let message = format!("`{}` has no column `{}`", node.name, name.value);
                wrong.push(
                    Diagnostic::error("TG-X002", message)
                        .at(name.span.clone())
                        .help(format!("its columns are {}", known.join(", ")))
                        .suggest(&name.value, known.iter().copied()),
                );
            }
        }
    }
    if wrong.is_empty() { Ok(columns) } else { Err(wrong) }
}
