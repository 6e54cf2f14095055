//! Rows where they are stored: by place, without a snapshot.

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

use super::datum::column_text;
use super::descriptor::column_number;
use super::unwind::unless_unwinding;

/// Where a row version is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RowPlace {
    pub(crate) table: pg_sys::Oid,
    block: (u16, u16),
    item: u16,
}

impl RowPlace {
    pub(crate) fn new(table: pg_sys::Oid, row: pg_sys::ItemPointerData) -> Self {
        RowPlace {
            table,
            block: (row.ip_blkid.bi_hi, row.ip_blkid.bi_lo),
            item: row.ip_posid,
        }
    }

    fn item_pointer(&self) -> pg_sys::ItemPointerData {
        pg_sys::ItemPointerData {
            ip_blkid: pg_sys::BlockIdData {
                bi_hi: self.block.0,
                bi_lo: self.block.1,
            },
            ip_posid: self.item,
        }
    }
}

/// Reads rows of one table where they are, without a snapshot.
pub(crate) struct StoredRows {
    relation: pg_sys::Relation,
    blocks: pg_sys::BlockNumber,
    slot: *mut pg_sys::TupleTableSlot,
}

impl StoredRows {
    pub(crate) fn of(table: pg_sys::Oid) -> Self {
        // SAFETY: the table is a part of a bound one, so it is there while its trigger fires. The
        // lock that is held to the end of the transaction is as weak as a reader's.
        unsafe {
            let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
            let slot = pg_sys::table_slot_create(relation, std::ptr::null_mut());
            // A partitioned table has no rows of its own.
            let blocks = if (*relation).rd_tableam.is_null() {
                0
            } else {
                pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM)
            };
            StoredRows {
                relation,
                blocks,
                slot,
            }
        }
    }

    /// The row version at `place`, if this transaction has written it and not rolled it back.
    pub(crate) fn written_by_this_transaction(
        &mut self,
        place: &RowPlace,
    ) -> Option<StoredRow<'_>> {
        let mut pointer = place.item_pointer();
        let block = u32::from(place.block.0) << 16 | u32::from(place.block.1);
        if place.item == 0 || block >= self.blocks {
            return None;
        }
        // SAFETY: the relation is open and the slot is its own; the access method finds no row at a
        // place that has none. Any version is asked for, so its inserter is looked at. The access
        // method may raise an error, which must not jump over Rust's frames: pgrx's guard is around
        // it, and there is nothing inside to be dropped.
        unsafe {
            let fetch = (*(*self.relation).rd_tableam).tuple_fetch_row_version?;
            let any = &raw mut pg_sys::SnapshotAnyData;
            let is_there =
                pg_guard_ffi_boundary(|| fetch(self.relation, &raw mut pointer, any, self.slot));
            if !is_there {
                return None;
            }
            let tuple = pg_sys::ExecFetchSlotHeapTuple(self.slot, false, std::ptr::null_mut());
            let inserter = (*(*tuple).t_data).t_choice.t_heap.t_xmin;
            pg_sys::TransactionIdIsCurrentTransactionId(inserter)
                .then_some(StoredRow { tuple, rows: self })
        }
    }
}

impl Drop for StoredRows {
    fn drop(&mut self) {
        // SAFETY: made by `of`, dropped once; the lock stays.
        unless_unwinding(|| unsafe {
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            pg_sys::table_close(self.relation, pg_sys::NoLock as i32);
        });
    }
}

/// A row version in its table.
pub(crate) struct StoredRow<'a> {
    tuple: pg_sys::HeapTuple,
    rows: &'a StoredRows,
}

impl StoredRow<'_> {
    /// A column; None if it is null or missing.
    pub(crate) fn text(&self, column: &str) -> Option<String> {
        // SAFETY: the tuple lives in the slot, which this value borrows.
        unsafe { text_of(self.tuple, (*self.rows.relation).rd_att, column) }
    }
}

/// The text of a tuple's column; None if it is null, or missing.
///
/// # Safety
/// `tuple` is null or of the descriptor.
pub(super) unsafe fn text_of(
    tuple: pg_sys::HeapTuple,
    descriptor: pg_sys::TupleDesc,
    column: &str,
) -> Option<String> {
    // SAFETY: as the caller promises.
    unsafe {
        let number = column_number(descriptor, column)?;
        if tuple.is_null() {
            return None;
        }
        column_text(tuple, descriptor, number)
    }
}
