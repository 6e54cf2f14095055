//! What the relation cache says.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::versions::attribute;

/// The type of a column, counted from 1.
///
/// # Safety
/// The descriptor has the column.
pub(crate) unsafe fn column_type(descriptor: pg_sys::TupleDesc, number: i32) -> pg_sys::Oid {
    // SAFETY: as the caller promises.
    unsafe { (*attribute(descriptor, number as usize - 1)).atttypid }
}

/// How values of a column are stored.
#[derive(Clone, Copy)]
pub(super) struct Storage {
    /// In bytes; below 0 where a value says it itself.
    pub(super) length: i16,
    pub(super) is_by_value: bool,
}

/// How the values of a column, counted from 1, are stored.
///
/// # Safety
/// The descriptor has the column.
pub(super) unsafe fn column_storage(descriptor: pg_sys::TupleDesc, number: i32) -> Storage {
    // SAFETY: as the caller promises.
    unsafe {
        let column = attribute(descriptor, number as usize - 1);
        Storage {
            length: (*column).attlen,
            is_by_value: (*column).attbyval,
        }
    }
}

/// The number of a column, counted from 1; None if there is none of that name.
///
/// # Safety
/// The descriptor is that of an open relation.
pub(crate) unsafe fn column_number(descriptor: pg_sys::TupleDesc, name: &str) -> Option<i32> {
    // SAFETY: as the caller promises.
    unsafe {
        (0..(*descriptor).natts)
            .find(|at| {
                let column = attribute(descriptor, *at as usize);
                let found = CStr::from_ptr((*column).attname.data.as_ptr());
                found.to_bytes() == name.as_bytes() && !(*column).attisdropped
            })
            .map(|at| at + 1)
    }
}

/// Whether Citus is installed here. A table that it has distributed looks like any other, but its rows
/// are elsewhere: SQL decides. Distributing a table invalidates it, as `CitusInvalidateRelcacheByRelid`
/// does.
///
/// # Safety
/// In a transaction.
pub(super) unsafe fn has_shards() -> bool {
    let (table, schema) = (c"pg_dist_partition", pg_sys::PG_CATALOG_NAMESPACE);
    // SAFETY: as the caller promises; a look-up in a system cache.
    unsafe {
        pg_sys::get_relname_relid(table.as_ptr(), pg_sys::Oid::from(schema)) != pg_sys::InvalidOid
    }
}

/// The elements of a list.
///
/// # Safety
/// `list` is null or lives as long as the slice.
pub(crate) unsafe fn elements<'a>(list: *const pg_sys::List) -> &'a [pg_sys::ListCell] {
    // SAFETY: as the caller promises.
    unsafe {
        match list.as_ref() {
            Some(list) => std::slice::from_raw_parts(list.elements, list.length as usize),
            None => &[],
        }
    }
}
