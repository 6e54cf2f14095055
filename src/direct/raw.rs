//! Functions of the server's as they are, without pgrx's guard around each, which costs more than most
//! of them do. Whoever calls several of them for one row puts one guard around all
//! (`pg_guard_ffi_boundary`); nothing inside it may need to be dropped, or panic.

use pgrx::pg_sys::{
    BlockNumber, Buffer, BulkInsertStateData, CommandId, Datum, HeapTuple, IndexInfo,
    IndexScanDesc, IndexTuple, IndexUniqueCheck, ItemPointer, Oid, Relation, ScanDirection,
    Snapshot, TimestampTz, TransactionId, TupleDesc, TupleTableSlot, TupleTableSlotOps,
};

unsafe extern "C-unwind" {
    pub(super) fn CommandCounterIncrement();
    pub(super) fn ExecStoreHeapTuple(
        tuple: HeapTuple,
        slot: *mut TupleTableSlot,
        should_free: bool,
    ) -> *mut TupleTableSlot;
    pub(super) fn ExecDropSingleTupleTableSlot(slot: *mut TupleTableSlot);
    pub(super) fn GetCurrentCommandId(used: bool) -> CommandId;
    pub(super) fn GetCurrentTransactionId() -> TransactionId;
    pub(super) fn GetCurrentTimestamp() -> TimestampTz;
    pub(super) fn GetLatestSnapshot() -> Snapshot;
    pub(super) fn GetTransactionSnapshot() -> Snapshot;
    pub(super) fn MakeSingleTupleTableSlot(
        descriptor: TupleDesc,
        kind: *const TupleTableSlotOps,
    ) -> *mut TupleTableSlot;
    pub(super) fn PredicateLockPage(relation: Relation, block: BlockNumber, snapshot: Snapshot);
    pub(super) fn RegisterSnapshot(snapshot: Snapshot) -> Snapshot;
    pub(super) fn ReleaseBuffer(buffer: Buffer);
    pub(super) fn SpeculativeInsertionLockAcquire(transaction: TransactionId) -> u32;
    pub(super) fn SpeculativeInsertionLockRelease(transaction: TransactionId);
    pub(super) fn UnregisterSnapshot(snapshot: Snapshot);
    #[cfg(not(feature = "pg18"))]
    pub(super) fn index_beginscan(
        table: Relation,
        index: Relation,
        snapshot: Snapshot,
        keys: i32,
        orders: i32,
    ) -> IndexScanDesc;
    #[cfg(feature = "pg18")]
    pub(super) fn index_beginscan(
        table: Relation,
        index: Relation,
        snapshot: Snapshot,
        instrumentation: *mut pgrx::pg_sys::IndexScanInstrumentation,
        keys: i32,
        orders: i32,
    ) -> IndexScanDesc;
    pub(super) fn heap_form_tuple(
        descriptor: TupleDesc,
        values: *mut Datum,
        nulls: *mut bool,
    ) -> HeapTuple;
    pub(super) fn heap_multi_insert(
        table: Relation,
        slots: *const *mut TupleTableSlot,
        count: i32,
        command: CommandId,
        options: i32,
        state: *mut BulkInsertStateData,
    );
    pub(super) fn index_deform_tuple(
        tuple: IndexTuple,
        descriptor: TupleDesc,
        values: *mut Datum,
        nulls: *mut bool,
    );
    pub(super) fn index_endscan(scan: IndexScanDesc);
    pub(super) fn index_fetch_heap(scan: IndexScanDesc, slot: *mut TupleTableSlot) -> bool;
    pub(super) fn index_getnext_tid(
        scan: IndexScanDesc,
        direction: ScanDirection::Type,
    ) -> ItemPointer;
    pub(super) fn index_insert(
        index: Relation,
        values: *mut Datum,
        nulls: *mut bool,
        row: ItemPointer,
        table: Relation,
        check: IndexUniqueCheck::Type,
        is_unchanged: bool,
        info: *mut IndexInfo,
    ) -> bool;
    pub(super) fn nextval_internal(sequence: Oid, check_permissions: bool) -> i64;
    pub(super) fn simple_table_tuple_insert(table: Relation, slot: *mut TupleTableSlot);
    pub(super) fn slot_getsomeattrs_int(slot: *mut TupleTableSlot, count: i32);
    pub(super) fn visibilitymap_get_status(
        table: Relation,
        block: BlockNumber,
        map: *mut Buffer,
    ) -> u8;
}

/// As the inline function `ExecClearTuple`.
///
/// # Safety
/// The slot is one of the server's; pgrx's guard is around this.
pub(super) unsafe fn clear(slot: *mut TupleTableSlot) {
    // SAFETY: as the caller promises; every kind of slot can be cleared.
    unsafe {
        if let Some(clear) = (*(*slot).tts_ops).clear {
            clear(slot);
        }
    }
}
