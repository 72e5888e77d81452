//! The daemon's own configuration: where it listens, what it runs, and which
//! points of devices flows may write.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::task::WriteRule;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::keys::check_keys;
use tidegate_engine::topology::parse::parse_table;
use tidegate_engine::topology::report;
use tidegate_engine::topology::value::Table;

use crate::exit::{CONFIG, Failure, IO};

const DAEMON_KEYS: &[Key] = &[
    optional("listen", Kind::Text, "address of the API, \"127.0.0.1:7450\" if left out"),
    optional("data_dir", Kind::Text, "where state is kept, \"/var/lib/tidegate\" if left out"),
    optional("topologies", Kind::Text, "folder of topology files, \"/etc/tidegate/topologies\" if left out"),
];

const WRITE_KEYS: &[Key] = &[
    required("min", Kind::Number, "smallest value"),
    required("max", Kind::Number, "largest value"),
    optional("every_min", Kind::Duration, "shortest time between two writes"),
];

const KEYS: &[Key] = &[
    optional("daemon", Kind::Table(DAEMON_KEYS), "the daemon"),
    optional("writes", Kind::Map(&Kind::Table(WRITE_KEYS)), "points that flows may write, by name"),
];

/// The API's address unless the configuration says otherwise.
const LISTEN: &str = "127.0.0.1:7450";

/// The configuration of a daemon.
#[derive(Clone, Debug)]
pub(crate) struct DaemonConfig {
    pub(crate) listen: SocketAddr,
    pub(crate) data_dir: PathBuf,
    pub(crate) topologies: PathBuf,
    pub(crate) writes: Arc<Vec<WriteRule>>,
}

impl DaemonConfig {
    /// Reads a file; relative paths in it start at its folder.
    pub(crate) fn open(path: &Path) -> Result<DaemonConfig, Failure> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::new(IO, format!("cannot read {}: {error}", path.display())))?;
        let (table, mut diagnostics) = parse_table(&text);
        check_keys(&table, &[KEYS], "the daemon's configuration", &table.span, &mut diagnostics);
        let base = path.parent().unwrap_or(Path::new("."));
        let config = DaemonConfig::from_table(&table, base, &mut diagnostics);
        if diagnostics.is_empty() {
            return Ok(config);
        }
        eprintln!("{}", report::render(&path.display().to_string(), &text, &diagnostics, false));
        Err(Failure::new(CONFIG, format!("{} errors in {}", diagnostics.len(), path.display())))
    }

    fn from_table(table: &Table, base: &Path, out: &mut Vec<Diagnostic>) -> DaemonConfig {
        let empty = Table::default();
        let daemon = table.table("daemon").unwrap_or(&empty);
        let listen = daemon.str("listen").unwrap_or(LISTEN);
        let listen = listen.parse().unwrap_or_else(|_| {
            let message = format!("`{listen}` is no address and port");
            out.push(Diagnostic::error("TG-C006", message).at(daemon.span_of("listen")));
            SocketAddr::from(([127, 0, 0, 1], 7450))
        });
        if !listen.ip().is_loopback() {
            let message = format!("the API may listen on loopback only, not on {listen}");
            let diagnostic = Diagnostic::error("TG-P001", message).at(daemon.span_of("listen"));
            out.push(diagnostic.help("it has no authentication yet; put a proxy with TLS in front of it"));
        }
        let writes = table.table("writes").map(|table| table.entries.as_slice()).unwrap_or_default();
        let rules = writes.iter().filter_map(|entry| {
            let limits = entry.value.as_table()?;
            let (min, max) = (limits.number("min")?, limits.number("max")?);
            if min > max {
                let message = format!("`{}`: min is greater than max", entry.key);
                out.push(Diagnostic::error("TG-C006", message).at(entry.key_span.clone()));
            }
            let every_min = limits.duration("every_min").unwrap_or(Duration::ZERO);
            Some(WriteRule { target: entry.key.clone(), min, max, every_min })
        });
        let writes = Arc::new(rules.collect());
        DaemonConfig {
            listen,
            data_dir: base.join(daemon.str("data_dir").unwrap_or("/var/lib/tidegate")),
            topologies: base.join(daemon.str("topologies").unwrap_or("/etc/tidegate/topologies")),
            writes,
        }
    }
}
