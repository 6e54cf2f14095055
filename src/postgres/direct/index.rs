//! What the relation cache says of an index, and an entry more in one.

use std::mem::MaybeUninit;

use pgrx::pg_sys;

use crate::postgres::key::KeyType;
use crate::postgres::raw;
use crate::postgres::versions::attribute;

const MOST_KEYS: usize = pg_sys::INDEX_MAX_KEYS as usize;

/// The table's columns in an index, numbered from 1; 0 stands for an expression.
///
/// # Safety
/// The index is open.
pub(super) unsafe fn columns_of<'a>(index: pg_sys::Relation) -> &'a [pg_sys::AttrNumber] {
    // SAFETY: as the caller promises; the vector has one item per column.
    unsafe {
        let index = (*index).rd_index;
        std::slice::from_raw_parts((*index).indkey.values.as_ptr(), (*index).indnatts as usize)
    }
}

/// Whether it is a btree of columns that is checked at once.
///
/// # Safety
/// The index is open.
pub(super) unsafe fn is_of_columns(relation: pg_sys::Relation) -> bool {
    // SAFETY: as the caller promises.
    unsafe {
        let index = (*relation).rd_index;
        (*(*relation).rd_rel).relam == pg_sys::BTREE_AM_OID
            && (*index).indimmediate
            && !(*index).indisexclusion
            && columns_of(relation).iter().all(|column| *column > 0)
    }
}

/// Whether it is a valid btree of all rows by which those of a key are found: that is its first column, compared as the
/// key's type and the column's collation do.
///
/// # Safety
/// This is an index of the table; both are open, and the table has the column.
pub(super) unsafe fn finds_key(
    relation: pg_sys::Relation,
    table: pg_sys::Relation,
    key: pg_sys::AttrNumber,
    key_type: KeyType,
) -> bool {
    // SAFETY: as the caller promises. An index has at least one column, with an operator family and a collation.
    unsafe {
        let index = (*relation).rd_index;
        let collation = *(*relation).rd_indcollation;
        columns_of(relation)[0] == key
            && (*(*relation).rd_rel).relam == pg_sys::BTREE_AM_OID
            && (*index).indisvalid
            && (*index).indislive
            && !(*index).indcheckxmin
            && pg_sys::RelationGetIndexPredicate(relation).is_null()
            && (*attribute((*table).rd_att, key as usize - 1)).attcollation == collation
            // Another spelling may be equal to the key; SQL, too, then refuses.
            && (collation == pg_sys::InvalidOid
                || pg_sys::get_collation_isdeterministic(collation))
            && equals(relation, 0) == Some((key_type.operand(), key_type.equals()))
    }
}

/// The type that an index's column compares, and the function behind its `=`; columns from 0.
///
/// # Safety
/// The btree index is open, and has the column.
pub(super) unsafe fn equals(
    index: pg_sys::Relation,
    column: usize,
) -> Option<(pg_sys::Oid, pg_sys::Oid)> {
    // SAFETY: as the caller promises.
    unsafe {
        let operand = *(*index).rd_opcintype.add(column);
        let operator = pg_sys::get_opfamily_member(
            *(*index).rd_opfamily.add(column),
            operand,
            operand,
            pg_sys::BTEqualStrategyNumber as i16,
        );
        (operator != pg_sys::InvalidOid).then(|| (operand, pg_sys::get_opcode(operator)))
    }
}

/// The values of a row, one for each column of its table.
#[derive(Clone, Copy)]
pub(super) struct RowValues {
    pub(super) datums: *const pg_sys::Datum,
    pub(super) nulls: *const bool,
}

/// Put an entry into an index for a row that was just written at `place`, as `ExecInsertIndexTuples` does. What
/// `index_insert` answers: of a partial check, whether no other row forbids this one.
///
/// # Safety
/// The index is open, of `table` and as [`is_of_columns`] says; pgrx's guard is around this.
pub(super) unsafe fn insert_entry(
    relation: pg_sys::Relation,
    table: pg_sys::Relation,
    row: RowValues,
    place: pg_sys::ItemPointer,
    check: pg_sys::IndexUniqueCheck::Type,
    is_unchanged: bool,
) -> bool {
    // SAFETY: as the caller promises. A btree does not look at the IndexInfo.
    unsafe {
        if !(*(*relation).rd_index).indisready {
            return true;
        }
        let mut values = [const { MaybeUninit::<pg_sys::Datum>::uninit() }; MOST_KEYS];
        let mut nulls = [const { MaybeUninit::<bool>::uninit() }; MOST_KEYS];
        for (at, column) in columns_of(relation).iter().enumerate() {
            let column = *column as usize - 1;
            values[at].write(*row.datums.add(column));
            nulls[at].write(*row.nulls.add(column));
        }
        raw::index_insert(
            relation,
            values.as_mut_ptr().cast(),
            nulls.as_mut_ptr().cast(),
            place,
            table,
            check,
            is_unchanged,
            std::ptr::null_mut(),
        )
    }
}
