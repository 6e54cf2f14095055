//! Which snapshot a statement goes by.

use pgrx::pg_sys;

use super::unwind::unless_unwinding;

/// What a statement sees.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Snapshot {
    /// What any statement of this transaction's isolation level sees.
    Statement,
    /// What the calling statement sees, so that several queries see one state. Only for reading.
    Caller,
    /// All that is committed now, whatever the isolation level: in REPEATABLE READ and SERIALIZABLE
    /// the transaction's own snapshot is older than the lock that was waited for. From
    /// `ri_PerformCheck`.
    Latest,
}

/// While this value lives, [`Snapshot::Caller`] is a snapshot of now, whatever the isolation level, in
/// which the transaction sees its own changes.
pub(crate) struct FreshSnapshot(());

impl FreshSnapshot {
    pub(crate) fn push() -> Self {
        // SAFETY: popped by Drop; an abort drops it by itself.
        unsafe {
            pg_sys::CommandCounterIncrement();
            pg_sys::PushActiveSnapshot(if uses_transaction_snapshot() {
                pg_sys::GetLatestSnapshot()
            } else {
                pg_sys::GetTransactionSnapshot()
            });
        }
        FreshSnapshot(())
    }

    /// It sees what the transaction has changed since, and still nothing that others have.
    pub(crate) fn see_own_changes(&self) {
        // SAFETY: it is the active snapshot, a copy that nobody else holds.
        unsafe {
            pg_sys::CommandCounterIncrement();
            pg_sys::UpdateActiveSnapshotCommandId();
        }
    }
}

/// While this value lives, [`Snapshot::Caller`] is the one that was pushed last, but for what this transaction has done
/// since a statement began: what that has deleted is there, and what it has written is not.
pub(crate) struct BeforeStatement(());

impl BeforeStatement {
    pub(crate) fn push(_fresh: &FreshSnapshot, command: pg_sys::CommandId) -> Self {
        // SAFETY: the fresh snapshot is active; its copy is ours to change, and popped by Drop.
        unsafe {
            pg_sys::PushCopiedSnapshot(pg_sys::GetActiveSnapshot());
            (*pg_sys::GetActiveSnapshot()).curcid = command;
        }
        BeforeStatement(())
    }
}

impl Drop for BeforeStatement {
    fn drop(&mut self) {
        // SAFETY: as of FreshSnapshot.
        unless_unwinding(|| unsafe { pg_sys::PopActiveSnapshot() });
    }
}

/// The command of the statement that fires a trigger, before the trigger has run one.
pub(crate) fn firing_command() -> pg_sys::CommandId {
    // SAFETY: the server has a snapshot active while it fires a trigger.
    unsafe { (*pg_sys::GetActiveSnapshot()).curcid }
}

impl Drop for FreshSnapshot {
    fn drop(&mut self) {
        // SAFETY: pushed by `push`, and what was pushed after it was popped.
        unless_unwinding(|| unsafe { pg_sys::PopActiveSnapshot() });
    }
}

/// Whether the isolation level keeps one snapshot for the transaction.
pub(crate) fn uses_transaction_snapshot() -> bool {
    // SAFETY: reads a backend variable.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}
