//! `tidegate check --promises`: what may be relied on, from the parts
//! themselves, so that nobody has to guess.

use tidegate_engine::sink::Delivery;
use tidegate_engine::topology::delivery::WhenFull;
use tidegate_engine::topology::plan::{Plan, SinkNode, SourceNode};

use super::print::say;

/// One line for each source and sink of the file.
pub(super) fn print(file: &str, plan: &Plan, json: bool) {
    let sources = plan.sources.iter().map(|node| ("source", node.name.as_str(), of_source(node)));
    let sinks = plan.sinks.iter().map(|node| ("sink", node.name.as_str(), of_sink(node)));
    // Names with a dot are the engine's own.
    for (section, name, promise) in sources.chain(sinks).filter(|(_, name, _)| !name.contains('.')) {
        if json {
            say!(
                "{}",
                serde_json::json!({ "file": file, "section": section, "node": name, "promise": promise })
            );
        } else {
            say!("{section}.{name:<16} {promise}");
        }
    }
}

fn of_source(node: &SourceNode) -> String {
    let part = &node.part;
    let promise: String = match (part.logged, part.replayable, part.commit_quickly) {
        (true, _, _) if node.unique.is_empty() => {
            "durable in our log before its peer hears \"got it\"; nothing acknowledged is lost; what a peer sends again is a row of its own".into()
        }
        (true, _, _) => {
            "durable in our log before its peer hears \"got it\"; nothing acknowledged is lost; what a peer sends again is known and left out".into()
        }
        (false, true, _) => "read again from the checkpoint's position: state and windows as if nothing had happened".into(),
        (false, false, true) => "acknowledged when sinks have made rows durable; a message that its peer sends again is a row of its own".into(),
        (false, false, false) => {
            "cannot be read again: rows since the last checkpoint are lost in a crash (durable = true keeps them)".into()
        }
    };
    if part.source.remembers() {
        return format!(
            "{promise}; what it missed while nobody read is told, as a row of quality bad or a reject"
        );
    }
    promise
}

fn of_sink(node: &SinkNode) -> String {
    let promise = match node.part.sink.delivery() {
        Delivery::ExactlyOnce => {
            return "each row exactly once, from a log of its own; its peer may be away without holding others up".into();
        }
        Delivery::Published => {
            return "each row exactly once, in files that appear with their checkpoint".into();
        }
        Delivery::Local => return "at once; rows since the last checkpoint come again after a crash".into(),
        Delivery::AtLeastOnce => {
            "at least once: rows since the last checkpoint may go out again after a crash"
        }
    };
    let Some(queue) = node.queue else {
        return format!(
            "{promise}; while its peer is away its sources wait (queue = {{ disk = … }} lets them go on)"
        );
    };
    let full = match queue.when_full {
        WhenFull::Block => "then its sources wait",
        WhenFull::DropOldest => "then the oldest rows are dropped and counted",
        WhenFull::DropNewest => "then new rows are dropped and counted",
    };
    let age = queue.age.map(|age| format!(", rows at most {age:?}")).unwrap_or_default();
    format!("{promise}; while its peer is away {} MiB wait on disk{age}, {full}", queue.bytes_max >> 20)
}
