//! Which index of a table serves to find the rows of keys, if the table is one whose rows may be read
//! here.

use std::ffi::c_char;

use pgrx::pg_sys;

use super::index::{columns_of, equals, finds_key};
use super::open::{Found, Open};
use crate::postgres::datum::c_string;
use crate::postgres::descriptor::{elements, has_shards};
use crate::postgres::key::KeyType;
use crate::postgres::versions::attribute;

/// Which rows of which table are asked for, and what of them.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) table: pg_sys::Oid,
    /// The role that reads them: the table's owner.
    pub(crate) owner: pg_sys::Oid,
    /// A smallint column that comes after the key in the index, and what rows have in it.
    pub(crate) scope: Option<(&'static str, i16)>,
    pub(crate) key: String,
    pub(crate) key_type: KeyType,
    /// Each with what is read out of it.
    pub(crate) columns: Vec<(String, Holds)>,
}

/// What a column must hold to be read here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Holds {
    Key(KeyType),
    /// smallint, integer or bigint
    Integer,
    Numeric,
    /// timestamp with time zone
    Moment,
}

impl Holds {
    /// Whether a value of the base type can be read as that.
    fn is_read_from(self, base_type: pg_sys::Oid) -> bool {
        match self {
            Holds::Key(key_type) => KeyType::of(base_type) == Some(key_type),
            Holds::Integer => matches!(
                base_type,
                pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID
            ),
            Holds::Numeric => base_type == pg_sys::NUMERICOID,
            Holds::Moment => base_type == pg_sys::TIMESTAMPTZOID,
        }
    }
}

/// An index that serves, and where it has what is asked for.
pub(super) struct Path {
    pub(super) index: pg_sys::Oid,
    /// What is after the key in the index.
    pub(super) scope: Option<i16>,
    pub(super) key_type: KeyType,
    pub(super) collation: pg_sys::Oid,
    /// Whether the index has all that is asked for.
    pub(super) is_covering: bool,
    /// Of the key and of each column asked for: its place in the index, or in the table; and its base
    /// type.
    pub(super) columns: Vec<(usize, pg_sys::Oid)>,
    /// The last one of them.
    pub(super) last: i32,
    /// Each of them in the table, and in an index that has all: its number, from 1, and its declared
    /// type.
    pub(super) in_table: Vec<(pg_sys::AttrNumber, pg_sys::Oid)>,
    pub(super) in_index: Vec<(pg_sys::AttrNumber, pg_sys::Oid)>,
}

impl Found for Path {
    fn indexes(&self) -> impl ExactSizeIterator<Item = pg_sys::Oid> {
        std::iter::once(self.index)
    }
}

impl Path {
    /// Whether the columns of the table are of the types that were found: a value is never taken for
    /// one of another type.
    ///
    /// # Safety
    /// The table is open and locked.
    pub(super) unsafe fn fits_table(&self, table: pg_sys::Relation) -> bool {
        // SAFETY: as the caller promises.
        unsafe { are_of_types((*table).rd_att, &self.in_table) }
    }

    /// The same of the index whose entries are read: a btree may store another type than its table's
    /// column has.
    ///
    /// # Safety
    /// The index is open and locked.
    pub(super) unsafe fn fits_index(&self, index: pg_sys::Relation) -> bool {
        // SAFETY: as the caller promises.
        unsafe { are_of_types((*index).rd_att, &self.in_index) }
    }
}

/// # Safety
/// The descriptor is that of an open relation.
pub(super) unsafe fn are_of_types(
    descriptor: pg_sys::TupleDesc,
    columns: &[(pg_sys::AttrNumber, pg_sys::Oid)],
) -> bool {
    // SAFETY: as the caller promises; a column of the number is there or is not looked at.
    columns.iter().all(|(column, type_oid)| unsafe {
        i32::from(*column) <= (*descriptor).natts && {
            let column = attribute(descriptor, *column as usize - 1);
            (*column).atttypid == *type_oid && !(*column).attisdropped
        }
    })
}

impl Path {
    /// # Safety
    /// The table is open and locked.
    pub(super) unsafe fn find(wanted: &Wanted, table: pg_sys::Relation) -> Option<Self> {
        // SAFETY: as the caller promises; the list is a copy.
        unsafe {
            if !is_plain(table, wanted.owner) {
                return None;
            }
            let number = |column: &String| column_number(table, column);
            let key = number(&wanted.key)?;
            let scope = match wanted.scope {
                Some((column, _)) => Some(number(&column.to_owned())?),
                None => None,
            };
            if scope.is_some_and(|scope| base_type(table, scope) != pg_sys::INT2OID) {
                return None;
            }
            let mut columns = vec![key];
            for (column, holds) in &wanted.columns {
                let column = number(column)?;
                if !holds.is_read_from(base_type(table, column)) {
                    return None;
                }
                columns.push(column);
            }
            if !Holds::Key(wanted.key_type).is_read_from(base_type(table, key)) {
                return None;
            }
            let list = pg_sys::RelationGetIndexList(table);
            let mut best = None;
            for oid in elements(list) {
                let index = Open::index(oid.oid_value, pg_sys::AccessShareLock);
                let path = index.path(table, (scope, key), wanted.key_type, &columns);
                let path = path.map(|path| Path {
                    scope: wanted.scope.map(|(_, value)| value),
                    ..path
                });
                best = match (path, best) {
                    (Some(path), None) => Some(path),
                    (Some(path), Some(best)) if path.is_covering && !best.is_covering => Some(path),
                    (_, best) => best,
                };
            }
            pg_sys::list_free(list);
            best
        }
    }
}

/// The rows are all in this table, its owner may read it, and no code of anybody's computes them.
///
/// # Safety
/// The table is open and locked.
pub(super) unsafe fn is_plain(table: pg_sys::Relation, owner: pg_sys::Oid) -> bool {
    // SAFETY: as the caller promises.
    unsafe {
        let class = (*table).rd_rel;
        (*class).relkind == pg_sys::RELKIND_RELATION as c_char
            && (*class).relam == pg_sys::HEAP_TABLE_AM_OID
            && !(*class).relhassubclass
            && (*table).rd_rules.is_null()
            && (*class).relowner == owner
            && !has_shards()
            && pg_sys::pg_class_aclcheck(
                (*table).rd_id,
                owner,
                pg_sys::ACL_SELECT as pg_sys::AclMode,
            ) == pg_sys::AclResult::ACLCHECK_OK
    }
}

/// What `attgenerated` is of a column that is computed when it is read. From 18 on.
pub(super) const VIRTUAL: c_char = b'v' as c_char;

/// A column that is stored in the row; numbered from 1.
///
/// # Safety
/// The table is open and locked.
pub(super) unsafe fn column_number(
    table: pg_sys::Relation,
    name: &str,
) -> Option<pg_sys::AttrNumber> {
    // SAFETY: as the caller promises; a column that is not there has the number 0.
    unsafe {
        let number = pg_sys::get_attnum((*table).rd_id, c_string(name).as_ptr());
        (number > 0 && (*attribute((*table).rd_att, number as usize - 1)).attgenerated != VIRTUAL)
            .then_some(number)
    }
}

/// # Safety
/// The table is open, and has the column.
pub(super) unsafe fn base_type(table: pg_sys::Relation, column: pg_sys::AttrNumber) -> pg_sys::Oid {
    // SAFETY: as the caller promises.
    unsafe { pg_sys::getBaseType((*attribute((*table).rd_att, column as usize - 1)).atttypid) }
}

impl Open {
    /// The path that this index is, if it is a valid btree of all rows, with the key and the scope first.
    ///
    /// # Safety
    /// This is an index of the table; both are open.
    unsafe fn path(
        &self,
        table: pg_sys::Relation,
        (scope, key): (Option<pg_sys::AttrNumber>, pg_sys::AttrNumber),
        key_type: KeyType,
        columns: &[pg_sys::AttrNumber],
    ) -> Option<Path> {
        // SAFETY: as the caller promises. An index has at least one column, with an operator family
        // and a collation.
        unsafe {
            let relation = self.relation;
            let indexed = columns_of(relation);
            let has_scope = |scope: pg_sys::AttrNumber| {
                indexed.get(1) == Some(&scope)
                    && equals(relation, 1) == Some((pg_sys::INT2OID, KeyType::Int2.equals()))
            };
            if !finds_key(relation, table, key, key_type) || !scope.is_none_or(has_scope) {
                return None;
            }
            let type_of = |column: pg_sys::AttrNumber| base_type(table, column);
            let in_index: Option<Vec<_>> = columns
                .iter()
                .map(|column| {
                    let place = indexed.iter().position(|indexed| indexed == column)?;
                    Some((place, type_of(*column)))
                })
                .collect();
            let in_table = || {
                columns
                    .iter()
                    .map(|column| (*column as usize - 1, type_of(*column)))
                    .collect()
            };
            let is_covering = in_index.is_some();
            let declared = |descriptor: pg_sys::TupleDesc, number: pg_sys::AttrNumber| {
                (
                    number,
                    (*attribute(descriptor, number as usize - 1)).atttypid,
                )
            };
            let in_table_types = columns
                .iter()
                .map(|column| declared((*table).rd_att, *column));
            let scope_type = scope.map(|scope| declared((*table).rd_att, scope));
            let in_table_types = in_table_types.chain(scope_type).collect();
            let mut in_index_types = Vec::new();
            for (place, base_type) in in_index.iter().flatten() {
                let (number, type_oid) = declared((*relation).rd_att, *place as i16 + 1);
                if pg_sys::getBaseType(type_oid) != *base_type {
                    return None;
                }
                in_index_types.push((number, type_oid));
            }
            let columns: Vec<_> = in_index.unwrap_or_else(in_table);
            let last = columns.iter().map(|(place, _)| *place as i32 + 1).max();
            Some(Path {
                index: (*relation).rd_id,
                scope: None,
                key_type,
                collation: *(*relation).rd_indcollation,
                is_covering,
                last: last.unwrap_or_default(),
                columns,
                in_table: in_table_types,
                in_index: in_index_types,
            })
        }
    }
}
