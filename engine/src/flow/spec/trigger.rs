//! What joins a trigger to the flow it starts: its columns to the flow's
//! parameters, its words about how often.

use std::sync::Arc;
use std::time::Duration;

use crate::diagnostic::Diagnostic;
use crate::flow::spec::{Flow, fits};
use crate::operator::Input;
use crate::schema::{StreamSchema, type_name};
use crate::topology::node::NodeConfig;
use crate::topology::value::parse_duration;

/// Columns before those of `give`: `firing_time`, `firing_key`,
/// `firing_ordinal`.
pub(crate) const FIRING_COLUMNS: usize = 3;
/// What `give` columns begin with.
const GIVE: &str = "give.";

/// A trigger and the flow it starts.
#[derive(Clone)]
pub struct TriggerLink {
    /// The trigger's name.
    pub trigger: String,
    /// The flow.
    pub flow: Arc<Flow>,
    /// Rows of the trigger's operator.
    pub stream: StreamSchema,
    /// For each parameter of the flow the column that gives it.
    pub(crate) gives: Vec<usize>,
    /// Indices of the columns that the trigger's own input had.
    pub(crate) own: Vec<usize>,
    /// After a start the same key starts nothing for so long (event time).
    pub cooldown: Duration,
    /// At most so many starts in this time.
    pub starts_max: Option<(u32, Duration)>,
    /// Firings are recorded, nothing starts.
    pub shadow: bool,
}

/// The columns of the stream that a trigger reads.
pub(super) fn own_columns(stream: &StreamSchema) -> StreamSchema {
    let fields = own_indices(stream).filter_map(|index| stream.columns.fields().get(index));
    StreamSchema::new(fields.map(|field| field.as_ref().clone()).collect(), None)
}

fn own_indices(stream: &StreamSchema) -> impl Iterator<Item = usize> + '_ {
    let fields = stream.columns.fields().iter().enumerate().skip(FIRING_COLUMNS);
    fields.filter(|(_, field)| !field.name().starts_with(GIVE)).map(|(index, _)| index)
}

/// Checks `start` and `give`; `None` if the trigger starts nothing.
pub(super) fn link(
    node: &NodeConfig,
    input: &Input,
    flows: &[Arc<Flow>],
    broken: &[&str],
    out: &mut Vec<Diagnostic>,
) -> Option<TriggerLink> {
    let start = node.table.text("start")?;
    if broken.contains(&start.value.as_str()) {
        return None;
    }
    let Some(flow) = flows.iter().find(|flow| flow.name == start.value) else {
        let message = format!("trigger `{}` starts `{}`, but there is no such flow", node.name, start.value);
        let names = flows.iter().map(|flow| flow.name.as_str()).chain(broken.iter().copied());
        out.push(Diagnostic::error("TG-F007", message).at(start.span.clone()).suggest(&start.value, names));
        return None;
    };
    let before = out.len();
    refuse_unknown_gives(node, flow, out);
    let gives: Vec<usize> =
        flow.params.fields().iter().filter_map(|param| given(node, input, flow, param, out)).collect();
    let starts_max = node.table.text("max_starts").and_then(|text| {
        let parsed = parse_starts(&text.value);
        if parsed.is_none() {
            let message = format!("`max_starts` is no count of starts in a time: {:?}", text.value);
            out.push(Diagnostic::error("TG-F013", message).at(text.span.clone()).help("write \"100/m\""));
        }
        parsed
    });
    (out.len() == before).then(|| TriggerLink {
        trigger: node.name.clone(),
        flow: Arc::clone(flow),
        stream: input.stream.clone(),
        gives,
        own: own_indices(&input.stream).collect(),
        cooldown: node.table.duration("cooldown").unwrap_or_default(),
        starts_max,
        shadow: node.table.str("mode") == Some("shadow"),
    })
}

fn refuse_unknown_gives(node: &NodeConfig, flow: &Flow, out: &mut Vec<Diagnostic>) {
    for entry in node.table.table("give").into_iter().flat_map(|give| &give.entries) {
        if flow.params.field_with_name(&entry.key).is_err() {
            let names: Vec<&str> = flow.params.fields().iter().map(|field| field.name().as_str()).collect();
            let message = format!("flow `{}` has no parameter `{}`", flow.name, entry.key);
            let diagnostic = Diagnostic::error("TG-F008", message).at(entry.key_span.clone());
            let known = if names.is_empty() {
                format!("add `params = {{ {} = \"string\" }}` to the flow", entry.key)
            } else {
                format!("its parameters are {}", names.join(", "))
            };
            out.push(diagnostic.help(known).suggest(&entry.key, names.iter().copied()));
        }
    }
}

fn given(
    node: &NodeConfig,
    input: &Input,
    flow: &Flow,
    param: &arrow::datatypes::Field,
    out: &mut Vec<Diagnostic>,
) -> Option<usize> {
    let give = node.table.table("give");
    let column = format!("{GIVE}{}", param.name());
    let found = input.stream.columns.fields().iter().enumerate().find(|(_, field)| field.name() == &column);
    let Some((index, field)) = found else {
        let message =
            format!("trigger `{}` does not give `{}` to flow `{}`", node.name, param.name(), flow.name);
        let at = give.map_or_else(|| node.name_span.clone(), |give| give.span.clone());
        let help = format!("add `{} = \"expr\"` to `give`", param.name());
        out.push(Diagnostic::error("TG-F009", message).at(at).help(help));
        return None;
    };
    if !fits(field.data_type(), param.data_type()) {
        let (from, to) = (type_name(field.data_type()), type_name(param.data_type()));
        let message = format!("`{}` of flow `{}` is {to}, but {from} is given", param.name(), flow.name);
        let at = give.map_or_else(|| node.name_span.clone(), |give| give.span_of(param.name()));
        let help = format!("convert it with CAST(… AS …), or declare `{}` as {from}", param.name());
        out.push(Diagnostic::error("TG-F010", message).at(at).label(format!("is {from}")).help(help));
    }
    Some(index)
}

/// `100/m`, `5/10s`: a count and a time.
fn parse_starts(text: &str) -> Option<(u32, Duration)> {
    let (count, time) = text.split_once('/')?;
    let count: u32 = count.trim().parse().ok().filter(|count| *count > 0)?;
    let time = time.trim();
    let with_number =
        if time.starts_with(|c: char| c.is_ascii_digit()) { time.to_owned() } else { format!("1{time}") };
    parse_duration(&with_number).filter(|time| !time.is_zero()).map(|time| (count, time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_max_starts() {
        assert_eq!(parse_starts("100/m"), Some((100, Duration::from_secs(60))));
        assert_eq!(parse_starts("5/10s"), Some((5, Duration::from_secs(10))));
        for wrong in ["", "5", "0/s", "-1/s", "5/0s", "x/m", "5/moon"] {
            assert_eq!(parse_starts(wrong), None, "{wrong}");
        }
    }
}
