//! What the build functions of operators share.

use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::operator::Input;
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::topology::node::NodeConfig;

/// The one input of an operator that takes one.
pub(crate) fn only_input<'a>(config: &NodeConfig, inputs: &'a [Input]) -> Result<&'a Input, ConfigError> {
    match inputs {
        [input] => Ok(input),
        others => {
            let kind = &config.kind.value;
            let message = format!("`{}` has {} inputs, but `{kind}` takes one", config.name, others.len());
            let diagnostic = Diagnostic::error("TG-T005", message).at(config.table.span_of("from"));
            Err(diagnostic.help("join several streams with an operator of type `union` first").into())
        }
    }
}

/// The event-time column that an operator needs.
pub(crate) fn require_time(config: &NodeConfig, input: &Input) -> Result<usize, ConfigError> {
    input.stream.time.ok_or_else(|| {
        let message = format!("`{}` needs event time, but `{}` has none", config.name, input.name);
        let help =
            "let `select` keep the time column, or name one with `time = { column = … }` at the source";
        Diagnostic::error("TG-T007", message).at(config.table.span_of("from")).help(help).into()
    })
}

/// Indices of the columns that a key of the node names.
pub(crate) fn named_columns(
    config: &NodeConfig,
    key: &str,
    stream: &StreamSchema,
    out: &mut Vec<Diagnostic>,
) -> Vec<usize> {
    let fields = stream.columns.fields();
    let mut found = Vec::new();
    for text in config.table.texts(key) {
        match fields.iter().position(|field| *field.name() == text.value) {
            Some(index) => found.push(index),
            None => {
                let names = || fields.iter().map(|field| field.name().as_str());
                let diagnostic = Diagnostic::error("TG-X002", format!("there is no column `{}`", text.value));
                let help = format!("the columns are {}", names().collect::<Vec<_>>().join(", "));
                out.push(diagnostic.at(text.span.clone()).help(help).suggest(&text.value, names()));
            }
        }
    }
    found
}
