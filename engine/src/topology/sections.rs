//! The keys that every node of a section has, whatever its type.

use super::delivery::{QUEUE_KEYS, RETRY_KEYS};
use super::key::{Key, Kind, optional, required};

/// Keys of `[topology]`.
pub const TOPOLOGY_KEYS: &[Key] = &[
    optional("name", Kind::Text, "the topology's name; the file's name if left out"),
    optional("checkpoint_interval", Kind::Duration, "time between two checkpoints, \"5s\" if left out"),
    optional(
        "keep_runs",
        Kind::Duration,
        "how long runs of flows are kept after their end, \"30d\" if left out",
    ),
    optional(
        "keep_runs_max",
        Kind::Int(1, i64::MAX),
        "most ended runs that are kept, the newest ones; 1000000 if left out",
    ),
];
/// Keys that every source has.
pub const SOURCE_KEYS: &[Key] = &[
    required("type", Kind::Text, "which kind of source"),
    optional(
        "unique",
        Kind::List(&Kind::Text),
        "columns that name a row: one that its peer sends again is left out and counted (sources that are `durable`)",
    ),
];
const PARALLELISM: Key = optional(
    "parallelism",
    Kind::Int(1, super::parallel::COPIES_MAX),
    "so many copies of it share its rows by their key, 1 if left out; the results are the same, those of one time in any order",
)
.aside();
const STATE_MAX: Key = optional(
    "state_max",
    Kind::Size,
    "most memory that its state may take, about: with more of it the topology fails, by name; half of the machine's if left out",
)
.aside();
/// Keys that every operator has.
pub const OPERATOR_KEYS: &[Key] = &[
    required("type", Kind::Text, "which kind of operator"),
    required(
        "from",
        Kind::List(&Kind::Text),
        "where rows come from: a node, or a node's port such as \"x.late\"",
    )
    .aside(),
    PARALLELISM,
    STATE_MAX,
];
/// Keys that every operator has which is made of others; it says by its own keys
/// what it reads.
pub const COMPOSED_KEYS: &[Key] =
    &[required("type", Kind::Text, "which kind of operator"), PARALLELISM, STATE_MAX];
/// Keys that every sink has.
pub const SINK_KEYS: &[Key] = &[
    required("type", Kind::Text, "which kind of sink"),
    required(
        "from",
        Kind::List(&Kind::Text),
        "where rows come from: a node, or a node's port such as \"x.late\"",
    ),
    optional(
        "queue",
        Kind::Table(QUEUE_KEYS),
        "rows wait on disk while the peer is away (store and forward)",
    ),
    optional("retry", Kind::Table(RETRY_KEYS), "how a peer that is away is tried again"),
    optional(
        "accept_changes",
        Kind::Bool,
        "takes results that are given several times (`early`, `allowed_lateness`) as rows of their own; a sink that replaces rows by key needs no word",
    )
    .aside(),
];

/// Keys that every table has.
pub const TABLE_KEYS: &[Key] = &[required("type", Kind::Text, "which kind of table")];
