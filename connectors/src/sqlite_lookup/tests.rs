//! Look-ups in files that others replace, and queries that take too long.

use arrow::array::{Int64Array, UInt64Array};
use arrow::datatypes::Int64Type;
use tokio::time::timeout;

use super::*;
use crate::testing::node;

const LIMIT: Duration = Duration::from_secs(30);

fn lookup(path: &Path, query: &str) -> SqliteLookup {
    let config = node("[table.t]\ntype = \"json\"\nformat = \"json\"\nschema = { v = \"int64\" }\n");
    let format = RowFormat::from_config(&config, Vec::new()).expect("a format");
    let columns = Arc::clone(format.decoder().schema());
    let (path, query) = (path.to_owned(), query.to_owned());
    SqliteLookup(Arc::new(File { path, query, format, columns, connection: Mutex::default() }))
}

fn make(path: &Path, value: i64) {
    let database = Connection::open(path).expect("opens");
    let text = format!("CREATE TABLE t (k INTEGER, v INTEGER); INSERT INTO t VALUES (0, 0), (1, {value})");
    database.execute_batch(&text).expect("rows");
}

async fn ask(lookup: &SqliteLookup, key: ArrayRef) -> Result<Vec<i64>, LookupError> {
    let keys = RecordBatch::try_from_iter([("k", key)]).expect("keys");
    let answers = timeout(LIMIT, lookup.fetch(&keys)).await.expect("in time")?;
    Ok(answers.rows.column(0).as_primitive::<Int64Type>().values().to_vec())
}

fn key(key: i64) -> ArrayRef {
    Arc::new(Int64Array::from(vec![key]))
}

#[tokio::test]
async fn another_file_of_the_same_name_is_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("plant.db");
    make(&path, 5);
    let lookup = lookup(&path, "SELECT v FROM t WHERE k = ?1");
    assert_eq!(ask(&lookup, key(1)).await, Ok(vec![5]));
    let new = folder.path().join("new.db");
    make(&new, 6);
    std::fs::rename(&new, &path).expect("renames");
    assert_eq!(ask(&lookup, key(1)).await, Ok(vec![6]));
    std::fs::remove_file(&path).expect("removes");
    assert!(matches!(ask(&lookup, key(1)).await, Err(LookupError::Later(_))));
}

#[tokio::test]
async fn neither_a_wrong_name_nor_a_large_number_becomes_something_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("plant.db");
    make(&path, 5);
    let wrong = ask(&lookup(&path, "SELECT \"vv\" FROM t WHERE k = ?1"), key(1)).await;
    assert!(matches!(&wrong, Err(LookupError::Never(reason)) if reason.contains("vv")), "{wrong:?}");
    let lookup = lookup(&path, "SELECT v FROM t WHERE k = ?1");
    let large = ask(&lookup, Arc::new(UInt64Array::from(vec![u64::MAX]))).await;
    assert!(matches!(large, Err(LookupError::Never(_))), "{large:?}");
    assert_eq!(ask(&lookup, Arc::new(UInt64Array::from(vec![1_u64]))).await, Ok(vec![5]));
}

#[tokio::test]
async fn a_query_that_nobody_waits_for_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("plant.db");
    make(&path, 5);
    let count = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < ?1) SELECT max(n) AS v FROM c";
    let lookup = lookup(&path, count);
    assert_eq!(ask(&lookup, key(10)).await, Ok(vec![10]));
    let keys = RecordBatch::try_from_iter([("k", key(2_000_000_000))]).expect("keys");
    let late = timeout(Duration::from_millis(300), lookup.fetch(&keys)).await;
    assert!(late.is_err(), "it takes minutes");
    // The next one does not wait for it.
    assert_eq!(ask(&lookup, key(11)).await, Ok(vec![11]));
}
