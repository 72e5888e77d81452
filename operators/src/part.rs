//! What the build functions of operators share.

use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::operator::Input;
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
