//! The faults that `tests/README.md` lists, injected into the real binary with
//! real peers: a cgroup, descriptors that run out, a clock that is set, disks
//! that are full, read-only or slow, peers that hang, rows that mean harm.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::wildcard_enum_match_arm,
    reason = "a test that fails says where, and measures real time"
)]

mod broker;
mod cgroup;
mod checkpoint;
mod clock;
mod descriptors;
mod disk;
#[path = "../../connectors/tests/support/kafka.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod kafka_client;
#[path = "../../connectors/tests/support/kafka_real.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod kafka_real;
mod lies;
mod memory;
mod partition;
#[path = "../../connectors/tests/support/parts.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod parts;
mod peer;
mod peers;
mod plant;
mod poison;
#[path = "../exactly_once/postgres.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod postgres;
#[path = "../crash/process.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod process;
mod schema;
mod silent;
mod slow;
mod stall;
