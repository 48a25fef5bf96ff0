//! Planted bugs: mistakes that somebody could have made, switched on to prove that the simulator would find them.
//!
//! A line of code that a bug would change asks [`planted`]. Without the feature `sim` the answer is a constant `false` and the
//! compiler takes the question out. With it, at most one bug is active in the process. Nothing but tests may switch one on.

/// A mistake and the rule it breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(
    not(feature = "sim"),
    allow(dead_code, unreachable_pub, reason = "only the simulator names them all, and re-exports it")
)]
#[repr(u32)]
pub enum Bug {
    /// A write is acknowledged before the failure of a member that missed it is durable.
    AckBeforeFailureDurable = 1,
    /// A flush leaves out a member that nothing is under way to.
    FlushSkipsIdle,
    /// A rebuild is checkpointed without a flush of the target.
    CheckpointBeforeFlush,
    /// A failure does not raise the event count, and so the failed member is as fresh as the others.
    StaleOnEqualEvents,
    /// Mirrors are read from any copy also where they do not agree yet.
    BalanceUnsynced,
    /// What could not be read is written again without the row lock.
    RepairWithoutLock,
    /// The bad-block list is written after the superblocks that say that the rebuild has passed it.
    ListLate,
    /// A flush that failed is tried again, and its success reported.
    FlushRetried,
    /// A write while a member is rebuilt leaves that member out.
    RebuildMissesWrite,
    /// Parity that is not known to agree is subtracted from.
    ModifyUnsynced,
    /// "Clean" is written without a flush of the members.
    CleanBeforeFlush,
    /// A record of the partial parity log is not durable when its writes begin.
    LogNotFua,
    /// A record is overwritten before its writes are flushed.
    LogReusedEarly,
    /// Writes of whole stripes are not logged.
    WholeStripeUnlogged,
    /// After a replay the log is cleared before what was repaired is flushed.
    LogClearedEarly,
    /// Bits of the write-intent bitmap are cleared without a flush of the members.
    BitClearedEarly,
    /// Writes do not wait for the bits of their regions.
    BitSetLate,
    /// A flush is answered while what another queue was told of the same disk has not been looked at.
    FlushAnsweredEarly,
}

#[cfg(feature = "sim")]
static ACTIVE: core::sync::atomic::AtomicU32 = core::sync::atomic::AtomicU32::new(0);

/// Is this bug planted?
#[cfg(feature = "sim")]
#[inline]
pub(crate) fn planted(bug: Bug) -> bool {
    ACTIVE.load(core::sync::atomic::Ordering::Relaxed) == bug as u32
}

/// Is this bug planted? Never.
#[cfg(not(feature = "sim"))]
#[inline(always)]
pub(crate) const fn planted(_bug: Bug) -> bool {
    false
}

/// Plants a bug in the whole process, or takes it out again.
#[cfg(feature = "sim")]
pub fn plant(bug: Option<Bug>) {
    ACTIVE.store(bug.map_or(0, |bug| bug as u32), core::sync::atomic::Ordering::Relaxed);
}

#[cfg(feature = "sim")]
impl Bug {
    /// All of them.
    pub const ALL: [Bug; 18] = [
        Bug::AckBeforeFailureDurable,
        Bug::FlushSkipsIdle,
        Bug::CheckpointBeforeFlush,
        Bug::StaleOnEqualEvents,
        Bug::BalanceUnsynced,
        Bug::RepairWithoutLock,
        Bug::ListLate,
        Bug::FlushRetried,
        Bug::RebuildMissesWrite,
        Bug::ModifyUnsynced,
        Bug::CleanBeforeFlush,
        Bug::LogNotFua,
        Bug::LogReusedEarly,
        Bug::WholeStripeUnlogged,
        Bug::LogClearedEarly,
        Bug::BitClearedEarly,
        Bug::BitSetLate,
        Bug::FlushAnsweredEarly,
    ];

    /// Its name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Bug::AckBeforeFailureDurable => "ack-before-failure-durable",
            Bug::FlushSkipsIdle => "flush-skips-idle",
            Bug::CheckpointBeforeFlush => "checkpoint-before-flush",
            Bug::StaleOnEqualEvents => "stale-on-equal-events",
            Bug::BalanceUnsynced => "balance-unsynced",
            Bug::RepairWithoutLock => "repair-without-lock",
            Bug::ListLate => "list-late",
            Bug::FlushRetried => "flush-retried",
            Bug::RebuildMissesWrite => "rebuild-misses-write",
            Bug::ModifyUnsynced => "modify-unsynced",
            Bug::CleanBeforeFlush => "clean-before-flush",
            Bug::LogNotFua => "log-not-fua",
            Bug::LogReusedEarly => "log-reused-early",
            Bug::WholeStripeUnlogged => "whole-stripe-unlogged",
            Bug::LogClearedEarly => "log-cleared-early",
            Bug::BitClearedEarly => "bit-cleared-early",
            Bug::BitSetLate => "bit-set-late",
            Bug::FlushAnsweredEarly => "flush-answered-early",
        }
    }
}
