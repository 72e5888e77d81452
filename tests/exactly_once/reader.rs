//! Other people's readers of Parquet.

use std::path::Path;
use std::process::Command;

/// Runs a program of Python with pyarrow and duckdb; answers what it prints.
pub(crate) fn python(program: &str, arguments: &[&Path]) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parts/parquet.sh");
    let output = Command::new("bash").arg(script).output().expect("bash runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let interpreter = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let output = Command::new(interpreter).args(["-c", program]).args(arguments).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Rows, different ids and the highest id of all Parquet files of a folder, as
/// DuckDB counts them; none if there is no file.
pub(crate) fn counted(folder: &Path) -> (u64, u64, u64) {
    let program = "import sys, glob, duckdb\n\
         files = glob.glob(sys.argv[1] + '/*.parquet')\n\
         print(*(duckdb.execute('SELECT count(*), count(DISTINCT id), max(id) FROM read_parquet($1)', [files])\
         .fetchone() if files else (0, 0, 0)))";
    let said = python(program, &[folder]);
    let mut numbers = said.split(' ').map(|number| number.parse().expect("a number"));
    let mut next = || numbers.next().expect("three numbers");
    (next(), next(), next())
}

/// Names of the Parquet files of a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".parquet")).collect();
    names.sort();
    names
}
