//! Rows where they are stored: by place, without a snapshot.

use std::collections::HashMap;

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

use super::datum::{column_text, datum_text, is_same_image};
use super::descriptor::{column_number, column_storage, column_type};
use super::unwind::unless_unwinding;
use super::versions::virtual_expression;

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
    /// For the version before an UPDATE; null until one is asked for.
    slot_before: *mut pg_sys::TupleTableSlot,
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
                slot_before: std::ptr::null_mut(),
            }
        }
    }

    /// The row version at `place`, if this transaction has written it and not rolled it back.
    pub(crate) fn written_by_this_transaction(
        &mut self,
        place: &RowPlace,
    ) -> Option<StoredRow<'_>> {
        let tuple = self.written(place)?;
        Some(StoredRow { tuple, rows: self })
    }

    /// The same, and the version that the UPDATE found which wrote it: the one at `before`, if that is its predecessor.
    pub(crate) fn updated_by_this_transaction(
        &mut self,
        place: &RowPlace,
        before: &RowPlace,
    ) -> Option<(StoredRow<'_>, Option<StoredRow<'_>>)> {
        let tuple = self.written(place)?;
        if self.slot_before.is_null() {
            // SAFETY: the relation is open.
            self.slot_before =
                unsafe { pg_sys::table_slot_create(self.relation, std::ptr::null_mut()) };
        }
        let old = self.fetch(before, self.slot_before).filter(|old| {
            // SAFETY: the tuple lives in its slot. What this transaction has replaced, nobody clears away yet.
            let next = unsafe { (*(**old).t_data).t_ctid };
            RowPlace::new(place.table, next) == *place
        });
        let rows = &*self;
        let old = old.map(|tuple| StoredRow { tuple, rows });
        Some((StoredRow { tuple, rows }, old))
    }

    /// The place of the version by which this transaction has replaced the one at `place`; None if there is none, or if it
    /// was rolled back.
    pub(crate) fn replaced_by_this_transaction(&self, place: &RowPlace) -> Option<RowPlace> {
        let tuple = self.fetch(place, self.slot)?;
        // SAFETY: the tuple lives in the slot. As `heap_get_latest_tid` follows a chain: the next version is of who has
        // replaced this one, or the place is another row's by now.
        unsafe {
            let header = (*tuple).t_data;
            let next = RowPlace::new(place.table, (*header).t_ctid);
            let updater = update_xid(header);
            if next == *place || !pg_sys::TransactionIdIsCurrentTransactionId(updater) {
                return None;
            }
            let tuple = self.fetch(&next, self.slot)?;
            ((*(*tuple).t_data).t_choice.t_heap.t_xmin == updater).then_some(next)
        }
    }

    fn written(&self, place: &RowPlace) -> Option<pg_sys::HeapTuple> {
        let tuple = self.fetch(place, self.slot)?;
        // SAFETY: the tuple lives in the slot. Any version is asked for, so its inserter is looked at.
        unsafe {
            let inserter = (*(*tuple).t_data).t_choice.t_heap.t_xmin;
            pg_sys::TransactionIdIsCurrentTransactionId(inserter).then_some(tuple)
        }
    }

    /// The row version at `place`, whoever has written it; it lives in the slot.
    fn fetch(
        &self,
        place: &RowPlace,
        slot: *mut pg_sys::TupleTableSlot,
    ) -> Option<pg_sys::HeapTuple> {
        let mut pointer = place.item_pointer();
        let block = u32::from(place.block.0) << 16 | u32::from(place.block.1);
        if place.item == 0 || block >= self.blocks {
            return None;
        }
        // SAFETY: the relation is open and the slot is its own; the access method finds no row at a
        // place that has none. The access method may raise an error, which must not jump over Rust's
        // frames: pgrx's guard is around it, and there is nothing inside to be dropped.
        unsafe {
            let fetch = (*(*self.relation).rd_tableam).tuple_fetch_row_version?;
            let any = &raw mut pg_sys::SnapshotAnyData;
            let is_there =
                pg_guard_ffi_boundary(|| fetch(self.relation, &raw mut pointer, any, slot));
            is_there.then(|| pg_sys::ExecFetchSlotHeapTuple(slot, false, std::ptr::null_mut()))
        }
    }
}

impl Drop for StoredRows {
    fn drop(&mut self) {
        // SAFETY: made by `of`, dropped once; the lock stays.
        unless_unwinding(|| unsafe {
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            if !self.slot_before.is_null() {
                pg_sys::ExecDropSingleTupleTableSlot(self.slot_before);
            }
            pg_sys::table_close(self.relation, pg_sys::NoLock as i32);
        });
    }
}

/// What this transaction makes of rows that it has written, in whichever tables.
#[derive(Default)]
pub(crate) struct Versions(HashMap<pg_sys::Oid, StoredRows>);

impl Versions {
    fn rows(&mut self, table: pg_sys::Oid) -> &mut StoredRows {
        self.0.entry(table).or_insert_with(|| StoredRows::of(table))
    }

    /// The place of the version that has replaced the one at `place`.
    pub(crate) fn next(&mut self, place: &RowPlace) -> Option<RowPlace> {
        self.rows(place.table).replaced_by_this_transaction(place)
    }

    /// A column of the row that was at `place`, as it is now, or as it was when it was deleted; None if it is null or
    /// missing.
    pub(crate) fn text_now(&mut self, place: &RowPlace, column: &str) -> Option<String> {
        let mut place = *place;
        while let Some(next) = self.next(&place) {
            place = next;
        }
        let rows = self.rows(place.table);
        rows.written_by_this_transaction(&place)?.text(column)
    }
}

/// `HeapTupleHeaderGetUpdateXid` in htup_details.h.
///
/// # Safety
/// The header is that of a row version that is there.
unsafe fn update_xid(header: pg_sys::HeapTupleHeader) -> pg_sys::TransactionId {
    // SAFETY: as the caller promises.
    unsafe {
        const IS_MULTI: u32 = pg_sys::HEAP_XMAX_IS_MULTI;
        const OTHERS: u32 = pg_sys::HEAP_XMAX_INVALID | pg_sys::HEAP_XMAX_LOCK_ONLY;
        if u32::from((*header).t_infomask) & (IS_MULTI | OTHERS) == IS_MULTI {
            return pg_guard_ffi_boundary(|| pg_sys::HeapTupleGetUpdateXid(header));
        }
        (*header).t_choice.t_heap.t_xmax
    }
}

/// A row version in its table.
pub(crate) struct StoredRow<'a> {
    tuple: pg_sys::HeapTuple,
    rows: &'a StoredRows,
}

impl StoredRow<'_> {
    pub(crate) fn place(&self) -> RowPlace {
        // SAFETY: the tuple lives in the slot, which this value borrows; the relation is open.
        unsafe { RowPlace::new((*self.rows.relation).rd_id, (*self.tuple).t_self) }
    }

    /// A column; None if it is null or missing.
    pub(crate) fn text(&self, column: &str) -> Option<String> {
        // SAFETY: the tuple lives in the slot, which this value borrows.
        unsafe { text_of(self.tuple, self.rows.relation, column) }
    }
}

/// The text of a tuple's column; None if it is null, or missing.
///
/// # Safety
/// The relation is open, and `tuple` is null or one of its rows.
pub(super) unsafe fn text_of(
    tuple: pg_sys::HeapTuple,
    relation: pg_sys::Relation,
    column: &str,
) -> Option<String> {
    // SAFETY: as the caller promises.
    unsafe {
        let descriptor = (*relation).rd_att;
        let number = column_number(descriptor, column)?;
        if tuple.is_null() {
            return None;
        }
        let expression = virtual_expression(relation, number);
        if expression.is_null() {
            return column_text(tuple, descriptor, number);
        }
        computed_text(
            tuple,
            descriptor,
            expression,
            column_type(descriptor, number),
        )
    }
}

/// Whether two versions of a row store the same bytes in a column, so that it has the same value in both. It may have so
/// where they do not, and where one of them stores none.
///
/// # Safety
/// The relation is open, and both are its rows.
pub(super) unsafe fn is_stored_alike(
    old: pg_sys::HeapTuple,
    new: pg_sys::HeapTuple,
    relation: pg_sys::Relation,
    column: &str,
) -> bool {
    // SAFETY: as the caller promises.
    unsafe {
        let descriptor = (*relation).rd_att;
        let Some(number) = column_number(descriptor, column) else {
            return false;
        };
        let stored = |tuple| {
            let mut is_null = false;
            let datum = pg_sys::heap_getattr(tuple, number, descriptor, &mut is_null);
            (!is_null).then_some(datum)
        };
        match (stored(old), stored(new)) {
            (Some(old), Some(new)) => is_same_image(old, new, column_storage(descriptor, number)),
            _ => false,
        }
    }
}

/// The text of a column that is not stored: a null is where it would be. The server computes it as it
/// does for a trigger's condition (`TriggerEnabled`). It lets such a column use its own functions only,
/// so no code of anybody's runs.
///
/// # Safety
/// The expression is of the descriptor's columns, and gives the type; `tuple` is of the descriptor.
unsafe fn computed_text(
    tuple: pg_sys::HeapTuple,
    descriptor: pg_sys::TupleDesc,
    expression: *mut pg_sys::Expr,
    type_oid: pg_sys::Oid,
) -> Option<String> {
    // SAFETY: as the caller promises. The slot does not own the tuple. What is computed lives as long as
    // the executor's state.
    unsafe {
        let executor = pg_sys::CreateExecutorState();
        let slot = pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsHeapTuple);
        pg_sys::ExecStoreHeapTuple(tuple, slot, false);
        let state = pg_sys::ExecPrepareExpr(expression, executor);
        let context = pg_sys::MakePerTupleExprContext(executor);
        (*context).ecxt_scantuple = slot;
        let evaluate = (*state).evalfunc?;
        let mut is_null = false;
        let before = pg_sys::MemoryContextSwitchTo((*context).ecxt_per_tuple_memory);
        let datum = pg_guard_ffi_boundary(|| evaluate(state, context, &mut is_null));
        let text = (!is_null).then(|| datum_text(datum, type_oid));
        pg_sys::MemoryContextSwitchTo(before);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::FreeExecutorState(executor);
        text
    }
}
