//! Kits and simulations for tests, here and in the other crates (feature
//! `testing`).

pub mod disk;
pub mod planted;
pub mod seed;
