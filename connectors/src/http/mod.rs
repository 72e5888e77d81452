//! HTTP: rows in as a webhook, rows out as requests.

mod door;
mod sink;
mod source;
#[cfg(test)]
mod tests;

pub(crate) use sink::ROW as SINK;
pub(crate) use source::ROW as SOURCE;
