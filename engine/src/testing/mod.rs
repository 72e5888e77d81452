//! Kits and simulations for tests, here and in the other crates (feature
//! `testing`).

pub mod disk;
#[cfg(feature = "testing")]
pub mod fuzz;
pub mod planted;
pub mod seed;
mod survive;
