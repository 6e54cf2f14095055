//! Trigger functions: how they are called, and the row that fired one, column by column as text.
//!
//! pgrx's `#[pg_trigger]` panics (XX000) when such a function is not called by a trigger, so the
//! entry points are made here.

use std::ffi::CStr;

use super::quote::{quote_identifier, quote_qualified_identifier};
use pgrx::pg_sys;
use pgrx::trigger_support::{
    called_as_trigger, trigger_fired_after, trigger_fired_before, trigger_fired_by_delete,
    trigger_fired_by_insert, trigger_fired_by_update, trigger_fired_for_row,
};

use super::descriptor::column_number;
use super::spi::{self, Outcome};
use super::stored_row::{RowPlace, is_stored_alike, text_of};
use crate::error::{Error, Result};

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

    /// Whether its definition has arguments.
    pub(crate) fn has_arguments(&self) -> bool {
        // SAFETY: the server gives the trigger's definition with the call.
        unsafe { (*self.data.tg_trigger).tgnargs > 0 }
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

    /// Its own name, without the schema's.
    pub(crate) fn relation_own_name(&self) -> String {
        // SAFETY: as above.
        unsafe {
            let class = (*self.data.tg_relation).rd_rel;
            CStr::from_ptr((*class).relname.data.as_ptr())
                .to_string_lossy()
                .into_owned()
        }
    }

    /// Its quoted name: for messages and SQL. What is quoted depends on a setting.
    pub(crate) fn relation_name(&self) -> String {
        quote_qualified_identifier(self.relation_schema(), self.relation_own_name())
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

    /// When a trigger for each statement fires; error 39P01 for any other.
    pub(crate) fn time(&self, wanted: &'static str) -> Result<Time> {
        let event = self.data.tg_event;
        match (trigger_fired_for_row(event), trigger_fired_before(event)) {
            (false, true) => Ok(Time::Before),
            (false, false) => Ok(Time::After),
            (true, _) => Err(Error::TriggerProtocol {
                function: self.function,
                wanted,
            }),
        }
    }

    /// The name under which a query finds the rows that the statement has deleted, of a trigger that sees them.
    pub(crate) fn deleted_rows(&self) -> Option<String> {
        // SAFETY: the server gives the trigger's definition with the call; the name is a C string or null.
        unsafe {
            let name = (*self.data.tg_trigger).tgoldtable;
            let is_there = !name.is_null() && !self.data.tg_oldtable.is_null();
            is_there.then(|| quote_identifier(CStr::from_ptr(name).to_string_lossy()))
        }
    }

    /// Whether there is any.
    pub(crate) fn has_deleted_rows(&self) -> bool {
        let rows = self.data.tg_oldtable;
        // SAFETY: a tuplestore that lives as long as the trigger's call.
        !rows.is_null() && unsafe { pg_sys::tuplestore_tuple_count(rows) } > 0
    }

    /// Run a query of these rows.
    pub(crate) fn query(&self, sql: &str) -> Result<Outcome> {
        spi::query_in_trigger(self.data, &[self.relation()], sql)
    }

    /// The row of a BEFORE UPDATE trigger for each row; error 39P01 for any other.
    pub(crate) fn row_before_update(&self) -> Result<TriggerRow<'a>> {
        let event = self.data.tg_event;
        if trigger_fired_before(event)
            && trigger_fired_for_row(event)
            && trigger_fired_by_update(event)
        {
            return Ok(TriggerRow {
                data: self.data,
                is_update: true,
            });
        }
        Err(Error::TriggerProtocol {
            function: self.function,
            wanted: "BEFORE UPDATE FOR EACH ROW",
        })
    }

    /// The row of an AFTER INSERT OR UPDATE trigger for each row; error 39P01 for any other.
    pub(crate) fn row(&self) -> Result<TriggerRow<'a>> {
        let event = self.data.tg_event;
        let is_update = trigger_fired_by_update(event);
        if trigger_fired_after(event)
            && trigger_fired_for_row(event)
            && (is_update || trigger_fired_by_insert(event))
        {
            return Ok(TriggerRow {
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

/// When a trigger fires for a statement.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Time {
    Before,
    After,
}

/// Old and new version of a row.
pub(crate) struct TriggerRow<'a> {
    data: &'a pg_sys::TriggerData,
    is_update: bool,
}

impl TriggerRow<'_> {
    /// Where the row is, as it is now.
    pub(crate) fn place(&self) -> RowPlace {
        // SAFETY: the server opened the relation; a tuple that it gives to a trigger has a place.
        unsafe { RowPlace::new((*self.data.tg_relation).rd_id, (*self.new_tuple()).t_self) }
    }

    /// Where the row was before an UPDATE.
    pub(crate) fn old_place(&self) -> Option<RowPlace> {
        // SAFETY: as above.
        self.is_update.then(|| unsafe {
            RowPlace::new(
                (*self.data.tg_relation).rd_id,
                (*self.data.tg_trigtuple).t_self,
            )
        })
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

    /// Whether an UPDATE surely left the column as it was; to tell more, the texts are compared.
    pub(crate) fn keeps(&self, column: &str) -> bool {
        let (old, new) = (self.data.tg_trigtuple, self.data.tg_newtuple);
        // SAFETY: the tuples are the trigger's own, rows of the relation, which the server opened.
        self.is_update && unsafe { is_stored_alike(old, new, self.data.tg_relation, column) }
    }

    /// Whether an UPDATE changed the column.
    pub(crate) fn changes(&self, column: &str) -> bool {
        self.is_update && self.new_text(column) != self.old_text(column)
    }

    /// Whether an UPDATE takes the row out of its partition, as it is before triggers that come later. As `ExecUpdateAct` asks
    /// it.
    pub(crate) fn leaves_partition(&self) -> bool {
        // SAFETY: the relation is open and locked, and the new tuple one of its rows. What is made here lives in the memory
        // that the server gives to its triggers.
        unsafe {
            let relation = self.data.tg_relation;
            if !(*(*relation).rd_rel).relispartition {
                return false;
            }
            let info = pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>());
            let info = info.cast::<pg_sys::ResultRelInfo>();
            (*info).type_ = pg_sys::NodeTag::T_ResultRelInfo;
            pg_sys::InitResultRelInfo(info, relation, 1, std::ptr::null_mut(), 0);
            let executor = pg_sys::CreateExecutorState();
            let kind = &raw const pg_sys::TTSOpsHeapTuple;
            let slot = pg_sys::MakeSingleTupleTableSlot((*relation).rd_att, kind);
            pg_sys::ExecStoreHeapTuple(self.data.tg_newtuple, slot, false);
            let stays = pg_sys::ExecPartitionCheck(info, slot, executor, false);
            pg_sys::ExecDropSingleTupleTableSlot(slot);
            pg_sys::FreeExecutorState(executor);
            !stays
        }
    }

    /// The answer of a BEFORE UPDATE trigger that leaves these columns as they were.
    pub(crate) fn with_old(&self, columns: &[&str]) -> pg_sys::Datum {
        // SAFETY: both tuples are the trigger's own, of the relation's descriptor, and the numbers are those of
        // columns which both have. The new tuple is made in the memory that the server gives to its triggers.
        unsafe {
            let descriptor = (*self.data.tg_relation).rd_att;
            let numbers = columns.iter();
            let mut numbers: Vec<_> = numbers
                .filter_map(|column| column_number(descriptor, column))
                .collect();
            let (mut values, mut nulls): (Vec<_>, Vec<_>) = numbers
                .iter()
                .map(|number| {
                    let mut is_null = false;
                    let old = pg_sys::SPI_getbinval(
                        self.data.tg_trigtuple,
                        descriptor,
                        *number,
                        &mut is_null,
                    );
                    (old, is_null)
                })
                .unzip();
            let kept = pg_sys::heap_modify_tuple_by_cols(
                self.data.tg_newtuple,
                descriptor,
                numbers.len() as i32,
                // Read alone; 14 declares them as if they were written.
                numbers.as_mut_ptr(),
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
            pg_sys::Datum::from(kept)
        }
    }

    fn text(&self, tuple: pg_sys::HeapTuple, column: &str) -> Option<String> {
        // SAFETY: the tuple is the trigger's own, a row of the relation, which the server opened.
        unsafe { text_of(tuple, self.data.tg_relation, column) }
    }
}

/// What a trigger function answers to the server.
pub(crate) trait Answer {
    fn datum(self, call: &TriggerCall) -> pg_sys::Datum;
}

/// The row is to be as it is.
impl Answer for () {
    fn datum(self, call: &TriggerCall) -> pg_sys::Datum {
        call.unchanged()
    }
}

/// The row is to be this one.
impl Answer for pg_sys::Datum {
    fn datum(self, _call: &TriggerCall) -> pg_sys::Datum {
        self
    }
}

/// Define the C entry point `$symbol` of the trigger function `$name`, which calls `$body` with the
/// [`TriggerCall`] and raises its error.
macro_rules! trigger_function {
    ($symbol:ident, $finfo:ident, $name:literal, $body:path) => {
        $crate::postgres::call::entry_point!($symbol, $finfo, |fcinfo| {
            // SAFETY: the server calls with its own fcinfo.
            let call = unsafe { $crate::postgres::trigger::TriggerCall::new($name, fcinfo) };
            let answer = call.and_then(|call| {
                $body(&call).map(|row| $crate::postgres::trigger::Answer::datum(row, &call))
            });
            match answer {
                Ok(row) => row,
                Err(error) => error.raise(),
            }
        });
    };
}

pub(crate) use trigger_function;
