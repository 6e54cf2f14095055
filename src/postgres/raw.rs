//! Functions of the server as they are, without pgrx's guard around each, which costs more than most
//! of them do. Where one of them may raise an error, its callers put one guard around several
//! (`pg_guard_ffi_boundary`); nothing inside it may need to be dropped, or panic.

use pgrx::pg_sys::{
    BlockNumber, Buffer, BulkInsertStateData, CmdType, CommandId, Datum, FmgrInfo, HeapTuple,
    IndexInfo, IndexScanDesc, IndexTuple, IndexUniqueCheck, ItemPointer, List, MemoryContext, Oid,
    Relation, ScanDirection, ScanKey, Snapshot, TimestampTz, TransactionId, TupleDesc,
    TupleTableSlot, TupleTableSlotOps, XLTW_Oper,
};

/// Declare functions of the server, each with the type that pgrx has generated from its headers: a
/// declaration that differs from a version's own does not compile with that version.
macro_rules! server_functions {
    ($(fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        unsafe extern "C-unwind" {
            $(pub(crate) fn $name($($argument: $type),*) $(-> $result)?;)*
        }
        $(const _: unsafe fn($($type),*) $(-> $result)? = pgrx::pg_sys::$name;)*
    };
}

pub(super) use server_functions;

server_functions! {
    fn AtEOXact_GUC(is_commit: bool, nest_level: i32);
    fn CommandCounterIncrement();
    fn ExecStoreHeapTuple(
        tuple: HeapTuple,
        slot: *mut TupleTableSlot,
        should_free: bool,
    ) -> *mut TupleTableSlot;
    fn ExecDropSingleTupleTableSlot(slot: *mut TupleTableSlot);
    fn GetCurrentCommandId(used: bool) -> CommandId;
    fn GetCurrentTransactionId() -> TransactionId;
    fn GetCurrentTimestamp() -> TimestampTz;
    fn GetLatestSnapshot() -> Snapshot;
    fn GetTransactionSnapshot() -> Snapshot;
    fn MakeSingleTupleTableSlot(
        descriptor: TupleDesc,
        kind: *const TupleTableSlotOps,
    ) -> *mut TupleTableSlot;
    fn RegisterSnapshot(snapshot: Snapshot) -> Snapshot;
    fn ReleaseBuffer(buffer: Buffer);
    fn SpeculativeInsertionLockAcquire(transaction: TransactionId) -> u32;
    fn SpeculativeInsertionLockRelease(transaction: TransactionId);
    fn UnregisterSnapshot(snapshot: Snapshot);
    fn heap_abort_speculative(table: Relation, row: ItemPointer);
    fn heap_finish_speculative(table: Relation, row: ItemPointer);
    fn heap_insert(
        table: Relation,
        tuple: HeapTuple,
        command: CommandId,
        options: i32,
        state: *mut BulkInsertStateData,
    );
    fn heap_multi_insert(
        table: Relation,
        slots: *mut *mut TupleTableSlot,
        count: i32,
        command: CommandId,
        options: i32,
        state: *mut BulkInsertStateData,
    );
    fn index_deform_tuple(
        tuple: IndexTuple,
        descriptor: TupleDesc,
        values: *mut Datum,
        nulls: *mut bool,
    );
    fn index_endscan(scan: IndexScanDesc);
    fn index_fetch_heap(scan: IndexScanDesc, slot: *mut TupleTableSlot) -> bool;
    fn index_getnext_tid(
        scan: IndexScanDesc,
        direction: ScanDirection::Type,
    ) -> ItemPointer;
    fn index_insert(
        index: Relation,
        values: *mut Datum,
        nulls: *mut bool,
        row: ItemPointer,
        table: Relation,
        check: IndexUniqueCheck::Type,
        is_unchanged: bool,
        info: *mut IndexInfo,
    ) -> bool;
    fn index_rescan(
        scan: IndexScanDesc,
        keys: ScanKey,
        key_count: i32,
        order: ScanKey,
        order_count: i32,
    );
    fn table_slot_create(table: Relation, list: *mut *mut List) -> *mut TupleTableSlot;
    fn slot_getsomeattrs_int(slot: *mut TupleTableSlot, count: i32);
    fn visibilitymap_get_status(
        table: Relation,
        block: BlockNumber,
        map: *mut Buffer,
    ) -> u8;
    fn CheckCmdReplicaIdentity(relation: Relation, command: CmdType::Type);
    fn ExecFetchSlotHeapTuple(
        slot: *mut TupleTableSlot,
        materialize: bool,
        should_free: *mut bool,
    ) -> HeapTuple;
    fn FunctionCall2Coll(
        function: *mut FmgrInfo,
        collation: Oid,
        first: Datum,
        second: Datum,
    ) -> Datum;
    fn GetActiveSnapshot() -> Snapshot;
    fn GetUserId() -> Oid;
    fn IsInParallelMode() -> bool;
    fn MemoryContextReset(context: MemoryContext);
    fn PopActiveSnapshot();
    fn PushActiveSnapshot(snapshot: Snapshot);
    fn RelationGetIndexList(relation: Relation) -> *mut List;
    fn LockBuffer(buffer: Buffer, mode: i32);
    fn TransactionIdDidAbort(transaction: TransactionId) -> bool;
    fn TransactionIdIsCurrentTransactionId(transaction: TransactionId) -> bool;
    fn TransactionIdIsInProgress(transaction: TransactionId) -> bool;
    fn XactLockTableWait(
        transaction: TransactionId,
        table: Relation,
        row: ItemPointer,
        why: XLTW_Oper::Type,
    );
    fn index_close(index: Relation, mode: i32);
    fn index_getnext_slot(
        scan: IndexScanDesc,
        direction: ScanDirection::Type,
        slot: *mut TupleTableSlot,
    ) -> bool;
    fn index_open(index: Oid, mode: i32) -> Relation;
    fn list_free(list: *mut List);
    fn palloc(size: usize) -> *mut std::ffi::c_void;
    fn relation_close(relation: Relation, mode: i32);
    fn try_relation_open(relation: Oid, mode: i32) -> Relation;
    fn GetUserIdAndSecContext(user: *mut Oid, context: *mut i32);
    fn LockRelationOid(relation: Oid, mode: i32);
    fn NewGUCNestLevel() -> i32;
    fn SetUserIdAndSecContext(user: Oid, context: i32);
}

// In a header that pgrx does not bind: predicate.h, the same from 14 to 18.
unsafe extern "C-unwind" {
    pub(crate) fn PredicateLockPage(relation: Relation, block: BlockNumber, snapshot: Snapshot);
}

/// As the inline function `slot_getsomeattrs`.
///
/// # Safety
/// The slot has a row of so many columns; pgrx's guard is around this.
pub(crate) unsafe fn get_columns(slot: *mut TupleTableSlot, count: i32) {
    // SAFETY: as the caller promises.
    unsafe {
        if i32::from((*slot).tts_nvalid) < count {
            slot_getsomeattrs_int(slot, count);
        }
    }
}
