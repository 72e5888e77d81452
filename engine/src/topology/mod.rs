//! TOML text to a checked plan: parse, check keys, resolve names, build parts.
//! Nothing here connects or starts anything.

mod check;
mod columns;
pub mod delivery;
pub mod fingerprint;
pub mod key;
pub mod keys;
pub mod load;
pub mod node;
pub mod parallel;
pub mod parse;
pub mod plan;
mod references;
mod replay;
pub mod report;
mod retention;
pub mod sections;
pub mod unique;
pub mod value;
