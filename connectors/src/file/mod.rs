//! Files: rows in from one file or many, whole or as they grow; rows out to
//! one file or to a directory whose files have their final name when they are
//! complete.

mod sink;
mod source;
mod tail;
#[cfg(test)]
mod tests;

pub(crate) use sink::ROW as SINK;
pub(crate) use source::ROW as SOURCE;
