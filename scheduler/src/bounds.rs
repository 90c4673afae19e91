//! Every maximum of ours, as a named constant with its reason. No constant of this kind hides elsewhere.

/// A run id ends up in keys, URLs and idempotency keys (255 bytes at common payment APIs).
pub const RUN_ID_BYTES_MAX: usize = 200;
/// Names of workflows, steps, signals, views, queues, limits.
pub const NAME_BYTES_MAX: usize = 120;
/// What travels inline through the log; above it a payload would need chunks.
pub const INLINE_PAYLOAD_BYTES_MAX: usize = 256 * 1024;
/// One command must fit one log entry with room to spare.
pub const COMMAND_BYTES_MAX: usize = 1024 * 1024;
/// Progress of one attempt.
pub const PROGRESS_BYTES_MAX: usize = 16 * 1024;
/// Commands in an entry; with `GRANTS_PER_COMMAND_MAX` it fills the 16 bits of a fence's slot.
pub const COMMANDS_PER_ENTRY_MAX: usize = 512;
/// Grants that one command gives at once; further steps stay scheduled and follow by a duty.
pub const GRANTS_PER_COMMAND_MAX: usize = 128;
/// Intents in one Advance; the driver splits a larger one.
pub const INTENTS_PER_ADVANCE_MAX: usize = 128;
/// Steps, timers and waits of a run that are open at once: they lie inside or beside the run row.
pub const OPEN_INTENTS_MAX: usize = 1_000;
/// Signals buffered for a run before anything waits for them.
pub const SIGNALS_PER_RUN_MAX: usize = 1_000;
/// Bytes of signals buffered for a run.
pub const SIGNAL_BYTES_PER_RUN_MAX: usize = 4 * 1024 * 1024;
/// Journal rows at which a run is paused and told to fold.
pub const JOURNAL_ROWS_MAX: u32 = 50_000;
/// Runs that one duty over many runs (fire, expire) touches at once.
pub const RUNS_PER_DUTY_MAX: usize = 128;
/// Limits that one step may name.
pub const LIMITS_PER_STEP_MAX: usize = 8;
/// Workflows and steps that one session may register.
pub const REGISTRATIONS_PER_SESSION_MAX: usize = 1_000;
/// Error texts are cut to this many bytes before they are stored.
pub const ERROR_TEXT_BYTES_MAX: usize = 2 * 1024;
