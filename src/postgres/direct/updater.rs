//! Who else updates a row that others hold locks on: what `heap_update` does not always wait for.
//!
//! A transaction that aborts is marked in the commit log before it leaves the list of those that run. In between,
//! `DoesMultiXactIdConflict` takes it for aborted and does not wait, and `MultiXactIdExpand` for running and keeps it:
//! `MultiXactIdCreateFromMembers` then finds two who update the row, and raises XX000.

use pgrx::pg_sys;

use crate::postgres::raw;
use crate::postgres::versions::updater_of;

/// The transaction that updates the row, where others hold locks on it: another one, which runs or has just aborted.
///
/// # Safety
/// The slot has a row of a heap, in its buffer; pgrx's guard is around this.
pub(super) unsafe fn running_updater(
    slot: *mut pg_sys::TupleTableSlot,
) -> Option<pg_sys::TransactionId> {
    // SAFETY: as the caller promises: the slot is of that kind, and its buffer is pinned.
    unsafe {
        let slot: *mut pg_sys::BufferHeapTupleTableSlot = slot.cast();
        let row = (*(*slot).base.tuple).t_data;
        if !is_updated_by_one_of_several(row) {
            return None;
        }
        // The two fields that say who it is change together.
        raw::LockBuffer((*slot).buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
        let updater = is_updated_by_one_of_several(row).then(|| updater_of(row));
        raw::LockBuffer((*slot).buffer, pg_sys::BUFFER_LOCK_UNLOCK as i32);
        updater.filter(|updater| {
            *updater != pg_sys::InvalidTransactionId
                && !raw::TransactionIdIsCurrentTransactionId(*updater)
                && raw::TransactionIdIsInProgress(*updater)
        })
    }
}

/// Of a transaction that ran a moment ago: wait for its end, if it has aborted. False if it has not.
///
/// # Safety
/// pgrx's guard is around this.
pub(super) unsafe fn wait_if_aborted(updater: pg_sys::TransactionId) -> bool {
    // SAFETY: as the caller promises.
    unsafe {
        let has_aborted = raw::TransactionIdDidAbort(updater);
        if has_aborted {
            let (table, row) = (std::ptr::null_mut(), std::ptr::null_mut());
            raw::XactLockTableWait(updater, table, row, pg_sys::XLTW_Oper::XLTW_None);
        }
        has_aborted
    }
}

/// `HEAP_XMAX_IS_MULTI` and not `HEAP_XMAX_IS_LOCKED_ONLY`.
///
/// # Safety
/// A row in a pinned buffer.
unsafe fn is_updated_by_one_of_several(row: pg_sys::HeapTupleHeader) -> bool {
    // SAFETY: as the caller promises; another session may write it.
    let said = u32::from(unsafe { (&raw const (*row).t_infomask).read_volatile() });
    said & pg_sys::HEAP_XMAX_IS_MULTI != 0 && said & pg_sys::HEAP_XMAX_LOCK_ONLY == 0
}
