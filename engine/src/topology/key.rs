//! The keys that a node may have, as data. One table per kind of node serves
//! checking, `tidegate doc` and the JSON schema, so they cannot disagree.

/// One key of a node's table.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The word in the file.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// Whether it must be there.
    pub required: bool,
    /// One sentence for `tidegate doc`, with the default in it.
    pub doc: &'static str,
    /// What a change of its value means for what was saved.
    pub touches: Touches,
}

/// What the value of a key means for what a node has saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touches {
    /// State of an operator: a change is refused.
    State,
    /// Nothing that is saved.
    Nothing,
    /// Which outside a source's position, or a sink's waiting rows, belong to.
    Outside,
}

impl Key {
    /// The same, but state does not depend on it.
    #[must_use]
    pub const fn aside(self) -> Key {
        Key { touches: Touches::Nothing, ..self }
    }

    /// The same, and it says which outside a source reads or a sink writes.
    #[must_use]
    pub const fn outside(self) -> Key {
        Key { touches: Touches::Outside, ..self }
    }
}

/// What values a key takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Text as it stands.
    Text,
    /// Text in which `{expr}` inserts a value.
    Template,
    /// A SQL expression, compiled when the file is loaded.
    Expression,
    /// Text that should be a `secret://` reference.
    Secret,
    /// One of these words.
    Word(&'static [&'static str]),
    /// `true` or `false`.
    Bool,
    /// A whole number in this range, ends included.
    Int(i64, i64),
    /// A number.
    Number,
    /// A time such as `"250ms"`, `"10s"`, `"5m"`, `"48h"`, `"30d"`.
    Duration,
    /// A size such as `"4MiB"`.
    Size,
    /// A rate such as `"10/s"`.
    Rate,
    /// An array of these; a single value is an array of one.
    List(&'static Kind),
    /// A table with these keys.
    Table(&'static [Key]),
    /// A table with any keys and values of this kind.
    Map(&'static Kind),
    /// A value of one of these kinds.
    AnyOf(&'static [Kind]),
    /// Any TOML value.
    Any,
}

impl Kind {
    /// What a reader would call it: "a duration such as \"10s\"".
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Kind::Text => "a string".into(),
            Kind::Template => "a string (with {expr} inserted)".into(),
            Kind::Expression => "an expression in a string".into(),
            Kind::Secret => "a string, best a secret:// reference".into(),
            Kind::Word(words) => format!("one of {}", quoted(words)),
            Kind::Bool => "true or false".into(),
            Kind::Int(i64::MIN, i64::MAX) => "a whole number".into(),
            Kind::Int(low, i64::MAX) => format!("a whole number, {low} or more"),
            Kind::Int(low, high) => format!("a whole number from {low} to {high}"),
            Kind::Number => "a number".into(),
            Kind::Duration => "a time in a string, such as \"10s\"".into(),
            Kind::Size => "a size in a string, such as \"4MiB\"".into(),
            Kind::Rate => "a rate in a string, such as \"10/s\"".into(),
            Kind::List(kind) => format!("an array, each item {}", kind.describe()),
            Kind::Table(keys) => {
                let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
                format!("a table with the keys {}", names.join(", "))
            }
            Kind::Map(kind) => format!("a table whose values are {}", kind.describe()),
            Kind::AnyOf(kinds) => {
                let texts: Vec<String> = kinds.iter().map(Kind::describe).collect();
                texts.join(", or ")
            }
            Kind::Any => "any value".into(),
        }
    }
}

fn quoted(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    quoted.join(", ")
}

/// A key that must be there.
#[must_use]
pub const fn required(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { name, kind, required: true, doc, touches: Touches::State }
}

/// A key that may be left out.
#[must_use]
pub const fn optional(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { name, kind, required: false, doc, touches: Touches::State }
}
