//! A topology file on disk to a loaded topology, with its messages printed.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::expression::Expressions;
use tidegate_engine::flow::{
    self,
    spec::{Flows, Workshop},
};
use tidegate_engine::storage::watched::{DiskWatch, watched_disk};
use tidegate_engine::task::WriteRule;
use tidegate_engine::time::SystemClock;
use tidegate_engine::topology::load::{Loaded, load, read};
use tidegate_engine::topology::node::BuildContext;
use tidegate_engine::topology::report;
use tidegate_operators::expression::SqlExpressions;

use crate::catalog::CATALOG;
use crate::exit::{CONFIG, Failure, IO};

/// A topology file, read.
pub(crate) struct TopologyFile {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// How a topology is to be loaded.
#[derive(Clone, Default)]
pub(crate) struct LoadOptions {
    /// Where state is kept; beside the file if left out.
    pub(crate) data_dir: Option<PathBuf>,
    /// Bounded sources end at what is there now.
    pub(crate) once: bool,
    /// Values of `${NAME}` that go before the environment's.
    pub(crate) variables: BTreeMap<String, String>,
    /// Recorded files that take the place of sources, by node name.
    pub(crate) replay: BTreeMap<String, PathBuf>,
    /// Device points that flows may write.
    pub(crate) writes: Arc<Vec<WriteRule>>,
}

/// A topology whose every part is built and whose flows are checked.
pub(crate) struct Topology {
    pub(crate) loaded: Loaded,
    pub(crate) flows: Flows,
    pub(crate) context: BuildContext,
    /// What is known of the disk that its state is on.
    pub(crate) disk: DiskWatch,
}

impl TopologyFile {
    pub(crate) fn open(path: &Path) -> Result<TopologyFile, Failure> {
        let bytes = std::fs::read(path)
            .map_err(|error| Failure::new(IO, format!("cannot read {}: {error}", path.display())))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let message = format!("{} is not UTF-8: byte {at} begins no character", path.display());
            Failure::new(CONFIG, message)
        })?;
        Ok(TopologyFile { path: path.to_owned(), text })
    }

    /// The file's messages as text for a person.
    pub(crate) fn render(&self, diagnostics: &[Diagnostic]) -> String {
        let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        report::render(&self.path.display().to_string(), &self.text, diagnostics, colour)
    }

    /// Checks and builds everything; nothing connects or starts.
    pub(crate) fn load(&self, options: &LoadOptions) -> Result<Topology, ConfigError> {
        let stem = self.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("topology");
        let stem = if stem == "topology" { self.folder_name().unwrap_or(stem) } else { stem };
        let given = options.variables.clone();
        let variable = move |name: &str| given.get(name).cloned().or_else(|| std::env::var(name).ok());
        let (parsed, name) = read(&self.text, stem, &variable)?;
        let base_dir = self.path.parent().map(Path::to_owned).unwrap_or_default();
        let data_dir = options.data_dir.clone().unwrap_or_else(|| base_dir.join(".tidegate").join(&name));
        let expressions: Arc<dyn Expressions> = Arc::new(SqlExpressions::new());
        let (disk, watch) = watched_disk();
        let context = BuildContext {
            disk,
            expressions,
            clock: Arc::new(SystemClock),
            file: self.path.display().to_string(),
            base_dir,
            data_dir,
            topology: name,
            once: options.once,
            replay: options.replay.clone(),
            shared: Arc::default(),
            writes: Arc::clone(&options.writes),
            state_max: crate::memory::state_max(),
            warnings: Arc::default(),
        };
        let loaded = load(&parsed, &CATALOG, &context)?;
        let workshop = Workshop {
            catalog: CATALOG,
            context: context.clone(),
            tables: loaded.tables.clone(),
            text: self.text.as_str().into(),
            variable: Arc::new(variable),
        };
        let flows = flow::spec::build(&loaded.flows, &loaded.triggers, workshop)?;
        Ok(Topology { loaded, flows, context, disk: watch })
    }

    /// `examples/cold-chain/topology.toml` is called after its folder.
    fn folder_name(&self) -> Option<&str> {
        self.path.parent()?.file_name()?.to_str()
    }
}

/// Loads a file, printing its messages; errors end with exit code 78.
pub(crate) fn load_and_report(
    path: &Path,
    options: &LoadOptions,
) -> Result<(TopologyFile, Topology), Failure> {
    let file = TopologyFile::open(path)?;
    match file.load(options) {
        Ok(topology) => {
            if !topology.loaded.warnings.is_empty() {
                eprintln!("{}", file.render(&topology.loaded.warnings));
            }
            Ok((file, topology))
        }
        Err(error) => {
            eprintln!("{}", file.render(&error.0));
            let count = error.0.len();
            let plural = if count == 1 { "" } else { "s" };
            Err(Failure::new(
                CONFIG,
                format!("{count} error{plural} in {}; nothing was started", path.display()),
            ))
        }
    }
}
