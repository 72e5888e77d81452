//! Log lines on stderr: for a person, or as JSON for a collector.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging; `TIDEGATE_LOG` chooses what, e.g. `info` or `tidegate_engine=debug`.
pub(super) fn start(json: bool, default_level: &str) {
    let filter = EnvFilter::try_from_env("TIDEGATE_LOG").unwrap_or_else(|_| {
        // librdkafka repeats what our own lines say with a node's name.
        EnvFilter::new(format!("{default_level},librdkafka=off,rdkafka=off,opcua_crypto=off,opcua_client=off,opcua_server=off,opcua_core=off,rumqttd=off"))
    });
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if json { builder.json().init() } else { builder.with_ansi(colour).compact().init() }
}
