//! The text of a fingerprint read back, and what differs between two of them.
//! Pure.

use std::collections::{BTreeMap, BTreeSet};

/// Path of the columns of a node's inputs: they stand where `from` does.
const COLUMNS: &str = "from";

/// A fingerprint's text, read.
#[derive(Debug, PartialEq)]
pub(super) struct Words {
    keys: BTreeMap<String, Word>,
    /// Name and type, in order.
    columns: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
enum Word {
    /// As it is written.
    One(String),
    List(Vec<Word>),
    Table(BTreeMap<String, Word>),
}

/// A single value is a list of one, as in the file.
impl PartialEq for Word {
    fn eq(&self, other: &Word) -> bool {
        match (self, other) {
            (Word::One(a), Word::One(b)) => a == b,
            (Word::List(a), Word::List(b)) => a == b,
            (Word::Table(a), Word::Table(b)) => a == b,
            (Word::List(list), one) | (one, Word::List(list)) => {
                matches!(list.as_slice(), [only] if only == one)
            }
            (Word::One(_), Word::Table(_)) | (Word::Table(_), Word::One(_)) => false,
        }
    }
}

impl Word {
    fn is_list(&self) -> bool {
        matches!(self, Word::List(_))
    }

    /// Of a list, or of a single value.
    fn items(&self) -> Option<&[Word]> {
        match self {
            Word::One(_) => Some(std::slice::from_ref(self)),
            Word::List(list) => Some(list),
            Word::Table(_) => None,
        }
    }
}

/// One thing that differs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    /// The key, with dots.
    pub(super) path: String,
    pub(super) text: String,
    /// A list that has kept an item.
    pub(super) is_partial: bool,
}

impl Words {
    /// Reads a text, without these keys; `None` if it is none of ours.
    pub(super) fn read(text: &str, aside: &[&str]) -> Option<Words> {
        let (_, rest) = text.split_once(' ')?;
        let mut reader = Reader { rest };
        let Word::Table(mut keys) = reader.word()? else { return None };
        keys.retain(|key, _| !aside.contains(&key.as_str()));
        // A name may have a colon; a type has none.
        let columns = reader.rest.split(' ').filter(|column| !column.is_empty());
        let columns = columns.map(|column| {
            let (name, kind) = column.rsplit_once(':').unwrap_or((column, ""));
            (name.to_owned(), kind.to_owned())
        });
        Some(Words { keys, columns: columns.collect() })
    }

    /// The same with these columns only.
    pub(super) fn of_columns(mut self, names: &BTreeSet<String>) -> Words {
        self.columns.retain(|(name, _)| names.contains(name));
        self
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn word(&mut self) -> Option<Word> {
        match self.rest.chars().next()? {
            '{' => {
                let mut table = BTreeMap::new();
                self.skip(1);
                while !self.takes('}') {
                    self.takes(',');
                    let (key, rest) = self.rest.split_once('=')?;
                    self.rest = rest;
                    table.insert(key.to_owned(), self.word()?);
                }
                Some(Word::Table(table))
            }
            '[' => {
                let mut list = Vec::new();
                self.skip(1);
                while !self.takes(']') {
                    self.takes(',');
                    list.push(self.word()?);
                }
                Some(Word::List(list))
            }
            '"' => {
                let mut is_escaped = false;
                let inside = self.rest.char_indices().skip(1);
                let mut end = None;
                for (at, c) in inside {
                    if c == '"' && !is_escaped {
                        end = Some(at + 1);
                        break;
                    }
                    is_escaped = c == '\\' && !is_escaped;
                }
                self.take(end?).map(|text| Word::One(text.to_owned()))
            }
            _ => {
                let end = self.rest.find([',', ']', '}']).filter(|end| *end > 0)?;
                self.take(end).map(|text| Word::One(text.to_owned()))
            }
        }
    }

    fn take(&mut self, bytes: usize) -> Option<&'a str> {
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(taken)
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    fn takes(&mut self, c: char) -> bool {
        let rest = self.rest.strip_prefix(c);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }
}

/// Everything that differs, keys first.
pub(super) fn differences(then: &Words, now: &Words) -> Vec<Difference> {
    let mut out = Vec::new();
    compare_tables("", &then.keys, &now.keys, &mut out);
    compare_columns(&then.columns, &now.columns, &mut out);
    out
}

fn compare_tables(
    path: &str,
    then: &BTreeMap<String, Word>,
    now: &BTreeMap<String, Word>,
    out: &mut Vec<Difference>,
) {
    let keys: BTreeSet<&String> = then.keys().chain(now.keys()).collect();
    for key in keys {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let whole = |text: String| Difference { path: path.clone(), text, is_partial: false };
        match (then.get(key), now.get(key)) {
            (Some(Word::Table(then)), Some(Word::Table(now))) => compare_tables(&path, then, now, out),
            (Some(then), Some(now)) if then == now => {}
            (Some(then), Some(now)) => match (then.items(), now.items()) {
                // One is a list of one, where the other is a list.
                (Some(olds), Some(news)) if then.is_list() || now.is_list() => {
                    out.push(compare_lists(path, olds, news));
                }
                _ => out.push(whole(format!("{path} was {}, is {}", shown(then), shown(now)))),
            },
            (Some(then), None) => out.push(whole(format!("{path} was {}, is left out", shown(then)))),
            (None, Some(now)) => out.push(whole(format!("{path} was left out, is {}", shown(now)))),
            (None, None) => {}
        }
    }
}

fn compare_lists(path: String, then: &[Word], now: &[Word]) -> Difference {
    let missing = |from: &[Word], in_: &[Word]| {
        let missing: Vec<String> = from.iter().filter(|word| !in_.contains(word)).map(shown).collect();
        missing.join(", ")
    };
    let (went, came) = (missing(then, now), missing(now, then));
    let is_partial = then.iter().any(|word| now.contains(word));
    let text = match (is_partial, went.is_empty(), came.is_empty()) {
        (true, true, false) => format!("{path} has {came} besides what it had"),
        (true, false, true) => format!("{path} has {went} no more"),
        (true, false, false) => format!("{path} had {went}, has {came}"),
        (_, _, _) => {
            let list = |words: &[Word]| shown(&Word::List(words.to_vec()));
            format!("{path} was {}, is {}", list(then), list(now))
        }
    };
    Difference { path, text, is_partial }
}

fn compare_columns(then: &[(String, String)], now: &[(String, String)], out: &mut Vec<Difference>) {
    let mut tell = |text: String| out.push(Difference { path: COLUMNS.to_owned(), text, is_partial: false });
    let before = out_of(then, now);
    for (name, kind) in before {
        match now.iter().find(|(known, _)| known == name) {
            Some((_, now)) => tell(format!("its input's column `{name}` was {kind}, is {now}")),
            None => tell(format!("its input has no column `{name}` ({kind}) any more")),
        }
    }
    for (name, kind) in now.iter().filter(|(name, _)| !then.iter().any(|(known, _)| known == name)) {
        tell(format!("its input has a new column `{name}` ({kind})"));
    }
    let is_same_set = then.len() == now.len() && out_of(then, now).next().is_none();
    if is_same_set && then != now {
        let names =
            |columns: &[(String, String)]| columns.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        let (then, now) = (names(then).join(", "), names(now).join(", "));
        tell(format!("its input's columns stood in the order {then}, stand in {now}"));
    }
}

/// Those of the one that are not so in the other.
fn out_of<'a>(
    one: &'a [(String, String)],
    other: &'a [(String, String)],
) -> impl Iterator<Item = &'a (String, String)> {
    one.iter().filter(|column| !other.contains(column))
}

/// As the file would say it.
fn shown(word: &Word) -> String {
    match word {
        Word::One(text) => text.clone(),
        Word::List(list) => format!("[{}]", list.iter().map(shown).collect::<Vec<_>>().join(", ")),
        Word::Table(table) => {
            let entries: Vec<String> =
                table.iter().map(|(key, word)| format!("{key} = {}", shown(word))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
    }
}
