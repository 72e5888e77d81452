//! Applies a changelog as a table would, and does not believe it: what is taken
//! back must be there, what is new must not be.

use std::collections::BTreeMap;

/// An image, its time and its word of one line of a changelog.
pub(crate) fn parts(line: &str) -> (Vec<&str>, &str, &str) {
    let mut words: Vec<&str> = line.split(' ').collect();
    let change = words.pop().expect("a word");
    let at = words.pop().expect("a time");
    (words, at, change)
}

/// The rows that stand, sorted; `key` are the columns that name a row.
pub(crate) fn applied(lines: &[String], key: &[usize]) -> Vec<String> {
    let mut table: BTreeMap<Vec<String>, String> = BTreeMap::new();
    let mut last_at: BTreeMap<Vec<String>, String> = BTreeMap::new();
    let mut open: Option<Vec<String>> = None;
    for line in lines {
        let (image, at, change) = parts(line);
        let key: Vec<String> = key.iter().map(|column| image[*column].to_owned()).collect();
        let image = image.join(" ");
        if let Some(open) = open.take() {
            assert_eq!((open, change), (key.clone(), "+U"), "behind -U comes +U of its key: {line}");
        }
        match change {
            "+I" => assert_eq!(table.insert(key.clone(), image), None, "{line}"),
            "-U" => {
                assert_eq!(table.remove(&key), Some(image), "{line}");
                open = Some(key.clone());
            }
            "+U" => assert_eq!(table.insert(key.clone(), image), None, "{line}"),
            "-D" => assert_eq!(table.remove(&key), Some(image), "{line}"),
            other => panic!("{other} in {line}"),
        }
        let before = last_at.insert(key, at.trim_end_matches('Z').to_owned());
        assert!(
            before.is_none_or(|before| before.as_str() <= at.trim_end_matches('Z')),
            "time goes back: {line}"
        );
    }
    assert_eq!(open, None);
    let mut rows: Vec<String> = table.into_values().collect();
    rows.sort();
    rows
}
