//! Inputs that are kept: those of `fuzz/corpus`, and for topologies every file
//! of the examples and of the mistakes.

use std::path::{Path, PathBuf};

/// Name and bytes of every kept input of a target, in order.
pub(crate) fn of(target: &str) -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = files(&root.join("fuzz/corpus").join(target));
    if matches!(target, "topology" | "load") {
        files.extend(self::files(&root.join("fuzz/corpus/topology")));
        files.extend(self::files(&root.join("tests/broken")));
        let examples =
            self::files(&root.join("examples")).into_iter().flat_map(|folder| self::files(&folder));
        files.extend(examples.filter(|path| path.extension().is_some_and(|extension| extension == "toml")));
    }
    files.sort();
    files.dedup();
    assert!(!files.is_empty(), "no corpus of {target}");
    let read = |path: PathBuf| (path.display().to_string(), std::fs::read(&path).expect("is readable"));
    files.into_iter().map(read).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.expect("is readable").path()).collect()
}
