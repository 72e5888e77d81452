//! OPC UA: subscriptions with a publish loop of our own, polling, browsing,
//! namespaces by URI. The library's own loop stops delivering after a
//! reconnect and acknowledges before we have seen the data.

mod connect;
mod gap;
mod held;
mod items;
mod link;
mod nodes;
mod poll;
mod session;
mod source;
mod subscription;
mod value;
mod write;

pub(crate) use source::ROW as SOURCE;
pub(crate) use write::ROW as WRITE;
