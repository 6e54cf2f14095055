//! What differs between the versions of PostgreSQL. No other file asks which one it is.
//!
//! Each variant names its versions, so that the next one takes none of them by silence: it does not
//! compile until somebody has looked at each.

use pgrx::pg_sys;

use super::raw::server_functions;

/// A column of a descriptor, counted from 0.
///
/// # Safety
/// The descriptor is that of an open relation and has the column.
#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17"))]
pub(super) unsafe fn attribute(
    descriptor: pg_sys::TupleDesc,
    at: usize,
) -> *const pg_sys::FormData_pg_attribute {
    // SAFETY: as the caller promises.
    unsafe { (*descriptor).attrs.as_ptr().add(at) }
}

/// The full rows come after the compact ones, as in `TupleDescAttrAddress`.
///
/// # Safety
/// The descriptor is that of an open relation and has the column.
#[cfg(feature = "pg18")]
pub(super) unsafe fn attribute(
    descriptor: pg_sys::TupleDesc,
    at: usize,
) -> *const pg_sys::FormData_pg_attribute {
    // SAFETY: as the caller promises.
    unsafe {
        (*descriptor)
            .compact_attrs
            .as_ptr()
            .add((*descriptor).natts as usize)
            .cast::<pg_sys::FormData_pg_attribute>()
            .add(at)
    }
}

/// What computes a column that is not stored, counted from 1; null for one that is. 14 to 17 store all.
///
/// # Safety
/// The relation is open and has the column.
pub(super) unsafe fn virtual_expression(
    relation: pg_sys::Relation,
    number: i32,
) -> *mut pg_sys::Expr {
    #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17"))]
    {
        let _ = (relation, number);
        std::ptr::null_mut()
    }
    #[cfg(feature = "pg18")]
    // SAFETY: as the caller promises.
    unsafe {
        let column = attribute((*relation).rd_att, number as usize - 1);
        match (*column).attgenerated as u8 {
            pg_sys::ATTRIBUTE_GENERATED_VIRTUAL => {
                pg_sys::build_generation_expression(relation, number).cast()
            }
            _ => std::ptr::null_mut(),
        }
    }
}

#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17"))]
server_functions! {
    fn index_beginscan(
        table: pg_sys::Relation,
        index: pg_sys::Relation,
        snapshot: pg_sys::Snapshot,
        keys: i32,
        orders: i32,
    ) -> pg_sys::IndexScanDesc;
}

#[cfg(feature = "pg18")]
server_functions! {
    fn index_beginscan(
        table: pg_sys::Relation,
        index: pg_sys::Relation,
        snapshot: pg_sys::Snapshot,
        instrumentation: *mut pg_sys::IndexScanInstrumentation,
        keys: i32,
        orders: i32,
    ) -> pg_sys::IndexScanDesc;
}

#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
server_functions! {
    fn heap_form_tuple(
        descriptor: pg_sys::TupleDesc,
        values: *mut pg_sys::Datum,
        nulls: *mut bool,
    ) -> pg_sys::HeapTuple;
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
server_functions! {
    fn heap_form_tuple(
        descriptor: pg_sys::TupleDesc,
        values: *const pg_sys::Datum,
        nulls: *const bool,
    ) -> pg_sys::HeapTuple;
}

#[cfg(any(feature = "pg14", feature = "pg15"))]
server_functions! {
    fn heap_update(
        table: pg_sys::Relation,
        place: pg_sys::ItemPointer,
        row: pg_sys::HeapTuple,
        command: pg_sys::CommandId,
        crosscheck: pg_sys::Snapshot,
        waits: bool,
        failure: *mut pg_sys::TM_FailureData,
        mode: *mut pg_sys::LockTupleMode::Type,
    ) -> pg_sys::TM_Result::Type;
}

#[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
server_functions! {
    fn heap_update(
        table: pg_sys::Relation,
        place: pg_sys::ItemPointer,
        row: pg_sys::HeapTuple,
        command: pg_sys::CommandId,
        crosscheck: pg_sys::Snapshot,
        waits: bool,
        failure: *mut pg_sys::TM_FailureData,
        mode: *mut pg_sys::LockTupleMode::Type,
        indexes: *mut pg_sys::TU_UpdateIndexes::Type,
    ) -> pg_sys::TM_Result::Type;
}

#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17"))]
server_functions! {
    fn HeapTupleGetUpdateXid(row: pg_sys::HeapTupleHeader) -> pg_sys::TransactionId;
}

#[cfg(feature = "pg18")]
server_functions! {
    fn HeapTupleGetUpdateXid(row: *const pg_sys::HeapTupleHeaderData) -> pg_sys::TransactionId;
}

/// Which of several transactions that have locked a row updates it.
///
/// # Safety
/// The row is in a locked buffer and says that one does; pgrx's guard is around this.
pub(super) unsafe fn updater_of(row: pg_sys::HeapTupleHeader) -> pg_sys::TransactionId {
    // SAFETY: as the caller promises.
    unsafe { HeapTupleGetUpdateXid(row) }
}

/// Put a row in the place of another one, waiting for whoever else changes that. The mode is that of the row's lock, set
/// by the server. `row` is then where it was put, and says whether it is heap-only: if not, all indexes want an entry. (The
/// newer versions say also whether indexes that summarize do.)
///
/// # Safety
/// The table is open, the row is of it; pgrx's guard is around this.
pub(super) unsafe fn update_row(
    table: pg_sys::Relation,
    place: pg_sys::ItemPointer,
    row: pg_sys::HeapTuple,
    command: pg_sys::CommandId,
    failure: *mut pg_sys::TM_FailureData,
    mode: &mut pg_sys::LockTupleMode::Type,
) -> pg_sys::TM_Result::Type {
    let any = std::ptr::null_mut();
    // SAFETY: as the caller promises.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        return heap_update(table, place, row, command, any, true, failure, mode);
        #[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
        {
            let mut indexes = pg_sys::TU_UpdateIndexes::TU_None;
            heap_update(
                table,
                place,
                row,
                command,
                any,
                true,
                failure,
                mode,
                &mut indexes,
            )
        }
    }
}

/// A scan of an index by one key, with nothing looked for yet.
///
/// # Safety
/// Both relations are open, and the snapshot is registered; pgrx's guard is around this.
pub(super) unsafe fn begin_scan(
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    keys: i32,
) -> pg_sys::IndexScanDesc {
    // SAFETY: as the caller promises.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17"))]
        return index_beginscan(table, index, snapshot, keys, 0);
        #[cfg(feature = "pg18")]
        return index_beginscan(table, index, snapshot, std::ptr::null_mut(), keys, 0);
    }
}

/// Whether this transaction holds a lock in that very mode.
pub(super) fn is_lock_held(tag: &pg_sys::LOCKTAG, mode: i32) -> bool {
    // SAFETY: looks into the backend's own table of locks.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
        return pg_sys::LockHeldByMe(tag, mode);
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        return pg_sys::LockHeldByMe(tag, mode, false);
    }
}

/// Whether the search_path in force is the one that a plan was made with.
///
/// # Safety
/// The path is null or a plan's own.
#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
pub(super) unsafe fn is_search_path(path: *mut pg_sys::OverrideSearchPath) -> bool {
    // SAFETY: as the caller promises.
    path.is_null() || unsafe { pg_sys::OverrideSearchPathMatchesCurrent(path) }
}

/// Whether the search_path in force is the one that a plan was made with.
///
/// # Safety
/// The path is null or a plan's own.
#[cfg(any(feature = "pg17", feature = "pg18"))]
pub(super) unsafe fn is_search_path(path: *mut pg_sys::SearchPathMatcher) -> bool {
    // SAFETY: as the caller promises.
    path.is_null() || unsafe { pg_sys::SearchPathMatchesCurrentEnvironment(path) }
}

/// The server's record of a setting, which stays where it is while the backend lives; null if there is none of that name.
#[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
pub(super) fn setting(name: &std::ffi::CStr) -> *mut pg_sys::config_generic {
    // SAFETY: the name outlives the call; looks at the server's table of settings.
    unsafe { pg_sys::find_option(name.as_ptr(), false, true, 0) }
}

/// The server's record of a setting, which stays where it is while the backend lives; null if there is none of that name.
#[cfg(any(feature = "pg14", feature = "pg15"))]
pub(super) fn setting(name: &std::ffi::CStr) -> *mut pg_sys::config_generic {
    // SAFETY: an array of as many pointers to records, each with a name.
    unsafe {
        let settings = std::slice::from_raw_parts(
            pg_sys::get_guc_variables(),
            pg_sys::GetNumConfigOptions() as usize,
        );
        let is_it = |setting: &*mut pg_sys::config_generic| {
            std::ffi::CStr::from_ptr((**setting).name) == name
        };
        settings
            .iter()
            .copied()
            .find(is_it)
            .unwrap_or(std::ptr::null_mut())
    }
}

/// Whether a session can name memory that others find by that name, at any time and without preloading.
pub(super) const NAMES_SHARED_MEMORY: bool = cfg!(any(feature = "pg17", feature = "pg18"));

/// Shared memory by its name, which `begin` fills if nobody has before.
///
/// # Safety
/// Errors of the server are caught in a subtransaction; `begin` raises none.
#[cfg(any(feature = "pg17", feature = "pg18"))]
pub(super) unsafe fn named_memory(
    name: &std::ffi::CStr,
    size: usize,
    begin: unsafe extern "C-unwind" fn(*mut std::ffi::c_void),
) -> *mut std::ffi::c_void {
    let mut is_found = false;
    // SAFETY: as the caller promises; the server copies the name.
    unsafe { pg_sys::GetNamedDSMSegment(name.as_ptr(), size, Some(begin), &mut is_found) }
}

/// There is none before 17.
///
/// # Safety
/// None is needed.
#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
pub(super) unsafe fn named_memory(
    _name: &std::ffi::CStr,
    _size: usize,
    _begin: unsafe extern "C-unwind" fn(*mut std::ffi::c_void),
) -> *mut std::ffi::c_void {
    std::ptr::null_mut()
}
