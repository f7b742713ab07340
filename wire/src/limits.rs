//! The protocol's bounds. Both ends enforce them when they decode.

/// Longest body, in bytes: header and message.
pub const BODY: usize = 60 * 1024;
/// What `ZMQ_MAXMSGSIZE` must allow on sockets that carry bodies (CURVE takes 33 B of it).
pub const MAX_MESSAGE_SIZE: i64 = 65_600;
/// Longest node id, group, job or schedule entry id, in bytes.
pub const NAME: usize = 63;
/// Most arguments a trigger or a schedule entry carries.
pub const ARGS: usize = 8;
/// Longest value of an argument, in bytes.
pub const ARG_VALUE: usize = 256;
/// Longest origin of a trigger (who asked), in bytes.
pub const ORIGIN: usize = 128;
/// Most run ids in one `Query`.
pub const QUERY_RUNS: usize = 64;
/// Most entries in a node's schedule.
pub const ENTRIES: usize = 64;
/// Longest cron expression, in bytes.
pub const CRON: usize = 128;
/// Most ranges in one `Ack`.
pub const ACK_RANGES: usize = 64;
/// Most groups a node may be in, or propose.
pub const GROUPS: usize = 16;
/// Most jobs a node may offer.
pub const JOBS: usize = 64;
/// Most outboxes whose records an agent can still hold (its own and spooled ones).
pub const OUTBOXES: usize = 64;
/// Longest `Hello` that a hub reads from a key it does not know, in bytes.
pub const FIRST_HELLO: usize = 512;
/// Longest chunk of a run's output, in bytes.
pub const CHUNK: usize = 16 * 1024;
/// Longest tail of a run's standard error in `Finished`, in bytes.
pub const STDERR_TAIL: usize = 4 * 1024;
/// Longest human text in a report (reasons, notes, errors), in bytes.
pub const TEXT: usize = 256;
/// Longest version text of an agent, in bytes.
pub const AGENT_VERSION: usize = 32;
/// Longest time ahead of hub time that a deadline may lie, in milliseconds: 24 h.
pub const DEADLINE_AHEAD_MS: u64 = 24 * 60 * 60 * 1000;
