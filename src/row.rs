//! Trigger functions: how they are called, and the row that fired one, column by column as text.
//!
//! pgrx's `#[pg_trigger]` panics (XX000) when such a function is not called by a trigger, so the
//! entry points are made here.

use std::ffi::CStr;

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::spi::quote_qualified_identifier;
use pgrx::trigger_support::{
    called_as_trigger, trigger_fired_after, trigger_fired_by_delete, trigger_fired_by_insert,
    trigger_fired_by_update, trigger_fired_for_row,
};

use crate::direct;
use crate::error::{Error, Result};
use crate::spi::column_text;

/// The call of a trigger function.
pub(crate) struct TriggerCall<'a> {
    /// The function's name in SQL.
    pub(crate) function: &'static str,
    /// What the server called it with.
    pub(crate) fcinfo: pg_sys::FunctionCallInfo,
    data: &'a pg_sys::TriggerData,
}

impl<'a> TriggerCall<'a> {
    /// Error 39P01 if a trigger did not call.
    ///
    /// # Safety
    /// `fcinfo` is what the server called the function with.
    pub(crate) unsafe fn new(
        function: &'static str,
        fcinfo: pg_sys::FunctionCallInfo,
    ) -> Result<Self> {
        // SAFETY: as the caller promises; a trigger's call has TriggerData for its context.
        unsafe {
            if !called_as_trigger(fcinfo) {
                return Err(Error::TriggerProtocol {
                    function,
                    wanted: "by a trigger",
                });
            }
            let data = &*((*fcinfo).context as *const pg_sys::TriggerData);
            Ok(TriggerCall {
                function,
                fcinfo,
                data,
            })
        }
    }

    /// The statement that fired the trigger.
    pub(crate) fn operation(&self) -> &'static str {
        let event = self.data.tg_event;
        if trigger_fired_by_insert(event) {
            "INSERT"
        } else if trigger_fired_by_update(event) {
            "UPDATE"
        } else if trigger_fired_by_delete(event) {
            "DELETE"
        } else {
            "TRUNCATE"
        }
    }

    /// The table on which the trigger fired: of a partitioned table, the partition.
    pub(crate) fn relation(&self) -> pg_sys::Oid {
        // SAFETY: the server opened the relation for the trigger call.
        unsafe { (*self.data.tg_relation).rd_id }
    }

    pub(crate) fn relation_owner(&self) -> pg_sys::Oid {
        // SAFETY: as above.
        unsafe { (*(*self.data.tg_relation).rd_rel).relowner }
    }

    /// Its schema.
    pub(crate) fn relation_schema(&self) -> String {
        // SAFETY: as above; the namespace's name is null or palloc'd.
        unsafe {
            let class = (*self.data.tg_relation).rd_rel;
            let schema = pg_sys::get_namespace_name((*class).relnamespace);
            if schema.is_null() {
                return String::new();
            }
            CStr::from_ptr(schema).to_string_lossy().into_owned()
        }
    }

    /// Its quoted name.
    pub(crate) fn relation_name(&self) -> String {
        let schema = self.relation_schema();
        // SAFETY: as above.
        unsafe {
            let class = (*self.data.tg_relation).rd_rel;
            let name = CStr::from_ptr((*class).relname.data.as_ptr())
                .to_string_lossy()
                .into_owned();
            quote_qualified_identifier(schema, name)
        }
    }

    /// The error for a trigger on a table that is not the function's.
    pub(crate) fn foreign(&self) -> Error {
        Error::ForeignTrigger {
            function: self.function,
            relation: self.relation_name(),
        }
    }

    /// The answer of a trigger that lets the row be as it is; null for a statement's trigger.
    pub(crate) fn unchanged(&self) -> pg_sys::Datum {
        if trigger_fired_by_update(self.data.tg_event) {
            pg_sys::Datum::from(self.data.tg_newtuple)
        } else {
            pg_sys::Datum::from(self.data.tg_trigtuple)
        }
    }

    /// The row of an AFTER INSERT OR UPDATE trigger for each row; error 39P01 for any other.
    pub(crate) fn row(&self) -> Result<Row<'a>> {
        let event = self.data.tg_event;
        let is_update = trigger_fired_by_update(event);
        if trigger_fired_after(event)
            && trigger_fired_for_row(event)
            && (is_update || trigger_fired_by_insert(event))
        {
            return Ok(Row {
                data: self.data,
                is_update,
            });
        }
        Err(Error::TriggerProtocol {
            function: self.function,
            wanted: "AFTER INSERT OR UPDATE FOR EACH ROW",
        })
    }
}

/// Old and new version of a row.
pub(crate) struct Row<'a> {
    data: &'a pg_sys::TriggerData,
    is_update: bool,
}

impl Row<'_> {
    /// Where the row is, as it is now.
    pub(crate) fn spot(&self) -> Spot {
        // SAFETY: the server opened the relation; a tuple that it gives to a trigger has a place.
        unsafe { Spot::new((*self.data.tg_relation).rd_id, (*self.new_tuple()).t_self) }
    }

    fn new_tuple(&self) -> pg_sys::HeapTuple {
        if self.is_update {
            self.data.tg_newtuple
        } else {
            self.data.tg_trigtuple
        }
    }

    /// A column of the row as it is now; None if it is null or missing.
    pub(crate) fn new_text(&self, column: &str) -> Option<String> {
        self.text(self.new_tuple(), column)
    }

    /// A column of the row as it was before an UPDATE.
    pub(crate) fn old_text(&self, column: &str) -> Option<String> {
        if self.is_update {
            self.text(self.data.tg_trigtuple, column)
        } else {
            None
        }
    }

    /// Whether an UPDATE changed the column.
    pub(crate) fn changes(&self, column: &str) -> bool {
        self.is_update && self.new_text(column) != self.old_text(column)
    }

    fn text(&self, tuple: pg_sys::HeapTuple, column: &str) -> Option<String> {
        // SAFETY: the tuple is the trigger's own, of the relation's descriptor.
        unsafe { text_of(tuple, (*self.data.tg_relation).rd_att, column) }
    }
}

/// The text of a tuple's column; None if it is null, or missing.
///
/// # Safety
/// `tuple` is null or of the descriptor.
unsafe fn text_of(
    tuple: pg_sys::HeapTuple,
    descriptor: pg_sys::TupleDesc,
    column: &str,
) -> Option<String> {
    // SAFETY: as the caller promises.
    unsafe {
        let number = direct::column_number(descriptor, column)?;
        if tuple.is_null() {
            return None;
        }
        column_text(tuple, descriptor, number)
    }
}

/// Where a row version is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Spot {
    pub(crate) table: pg_sys::Oid,
    block: (u16, u16),
    item: u16,
}

impl Spot {
    pub(crate) fn new(table: pg_sys::Oid, row: pg_sys::ItemPointerData) -> Self {
        Spot {
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

    /// The row version at `spot`, if this transaction has written it and not rolled it back.
    pub(crate) fn written_by_this_transaction(&mut self, spot: &Spot) -> Option<StoredRow<'_>> {
        let mut place = spot.item_pointer();
        let block = u32::from(spot.block.0) << 16 | u32::from(spot.block.1);
        if spot.item == 0 || block >= self.blocks {
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
                pg_guard_ffi_boundary(|| fetch(self.relation, &raw mut place, any, self.slot));
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
        // While an error unwinds, the abort that follows releases both.
        if !std::thread::panicking() {
            // SAFETY: made by `of`, dropped once; the lock stays.
            unsafe {
                pg_sys::ExecDropSingleTupleTableSlot(self.slot);
                pg_sys::table_close(self.relation, pg_sys::NoLock as i32);
            }
        }
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

/// Define the C entry point `$symbol` of the trigger function `$name`, which calls `$body` with the
/// [`TriggerCall`] and raises its error.
macro_rules! trigger_function {
    ($symbol:ident, $finfo:ident, $name:literal, $body:path) => {
        #[doc(hidden)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $finfo() -> &'static ::pgrx::pg_sys::Pg_finfo_record {
            static V1: ::pgrx::pg_sys::Pg_finfo_record =
                ::pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &V1
        }

        #[doc(hidden)]
        #[unsafe(no_mangle)]
        #[::pgrx::pg_guard]
        pub extern "C-unwind" fn $symbol(
            fcinfo: ::pgrx::pg_sys::FunctionCallInfo,
        ) -> ::pgrx::pg_sys::Datum {
            // SAFETY: the server calls with its own fcinfo.
            let call = unsafe { $crate::row::TriggerCall::new($name, fcinfo) };
            match call.and_then(|call| $body(&call).map(|()| call.unchanged())) {
                Ok(row) => row,
                Err(error) => error.raise(),
            }
        }
    };
}

pub(crate) use trigger_function;
