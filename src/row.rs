//! The row that fired a trigger, column by column as text.

use std::ffi::CStr;

use pgrx::pg_sys;
use pgrx::prelude::PgTrigger;
use pgrx::spi::quote_qualified_identifier;
use pgrx::trigger_support::{PgTriggerLevel, PgTriggerOperation, PgTriggerWhen};

use crate::spi::{c_string, column_text};

/// Old and new version of the row of an AFTER INSERT OR UPDATE trigger.
pub(crate) struct RowImage<'a> {
    data: &'a pg_sys::TriggerData,
    is_update: bool,
}

impl<'a> RowImage<'a> {
    /// None if the trigger is of another kind.
    pub(crate) fn of(trigger: &'a PgTrigger<'a>) -> Option<Self> {
        if !matches!(trigger.when(), Ok(PgTriggerWhen::After))
            || !matches!(trigger.level(), PgTriggerLevel::Row)
        {
            return None;
        }
        let is_update = match trigger.op() {
            Ok(PgTriggerOperation::Insert) => false,
            Ok(PgTriggerOperation::Update) => true,
            _ => return None,
        };
        Some(RowImage {
            data: trigger.trigger_data(),
            is_update,
        })
    }

    /// The table on which the trigger fired: of a partitioned table, the partition.
    pub(crate) fn relation(&self) -> pg_sys::Oid {
        // SAFETY: the server opened the relation for the trigger call.
        unsafe { (*self.data.tg_relation).rd_id }
    }

    pub(crate) fn relation_name(&self) -> String {
        // SAFETY: as above; the namespace's name is palloc'd.
        unsafe {
            let class = (*self.data.tg_relation).rd_rel;
            let schema = pg_sys::get_namespace_name((*class).relnamespace);
            let schema = if schema.is_null() {
                String::new()
            } else {
                CStr::from_ptr(schema).to_string_lossy().into_owned()
            };
            let name = CStr::from_ptr((*class).relname.data.as_ptr())
                .to_string_lossy()
                .into_owned();
            quote_qualified_identifier(schema, name)
        }
    }

    /// A column of the row as it is now; None if it is null or missing.
    pub(crate) fn new_text(&self, column: &str) -> Option<String> {
        let tuple = if self.is_update {
            self.data.tg_newtuple
        } else {
            self.data.tg_trigtuple
        };
        self.text(tuple, column)
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
        let name = c_string(column);
        // SAFETY: the tuple is the trigger's own, of the relation's descriptor; a column that does
        // not exist has a number below 1.
        unsafe {
            let descriptor = (*self.data.tg_relation).rd_att;
            let number = pg_sys::SPI_fnumber(descriptor, name.as_ptr());
            if tuple.is_null() || number < 1 {
                return None;
            }
            column_text(tuple, descriptor, number)
        }
    }
}
