//! Rows written into the extension's own tables, without an executor.

use std::ffi::{CStr, c_char};

use pgrx::pg_sys;
use pgrx::pg_sys::IndexUniqueCheck;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

use super::index::{RowValues, columns_of, insert_entry, is_of_columns};
use super::key::{Argument, scope_key};
use super::open::{Found, Kept, Open, Opened};
use super::scratch::Scratch;
use super::setting::is_used;
use crate::postgres::descriptor::elements;
use crate::postgres::error_fields::with_error_fields_kept;
use crate::postgres::invalidation::is_stale;
use crate::postgres::key::KeyType;
use crate::postgres::raw;
use crate::postgres::value::Arg;
use crate::postgres::versions::{attribute, begin_scan, heap_form_tuple};

/// How many rows are in memory at a time.
const BATCH: usize = 200;

/// What the extension made of one of its tables, as far as an INSERT has to know it.
pub(crate) struct Shape {
    /// The type of each column, and whether it may be null.
    pub(crate) columns: &'static [(pg_sys::Oid, bool)],
    /// Constraints that hold for every row that is written here.
    pub(crate) checks: &'static [&'static CStr],
}

/// What becomes of a row that another one may forbid.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Conflict {
    /// Error 23505.
    Error,
    /// It is not written, nor are those after it.
    Stop,
}

/// How rows are inserted into a table of the extension's own. What was found of it is kept.
pub(crate) struct Inserter {
    table: pg_sys::Oid,
    shape: &'static Shape,
    found: Kept<Vec<Index>>,
}

/// The lock of an INSERT on its table and on the indexes.
const MODE: u32 = pg_sys::RowExclusiveLock;

impl Inserter {
    pub(crate) fn new(table: pg_sys::Oid, shape: &'static Shape) -> Self {
        Inserter {
            table,
            shape,
            found: Kept::default(),
        }
    }

    /// The table, open and locked to the end of the transaction. None if there is anything about it that the executor
    /// would have to see to: it is not of the shape, or has a trigger, a rule, a policy, a constraint or a kind of index
    /// that the extension did not make.
    pub(crate) fn open(&self) -> Option<OpenTable> {
        if !is_used() {
            return None;
        }
        // SAFETY: the table is open.
        let find = |table| unsafe { look_at(table, self.shape) };
        OpenTable::new(self.shape, self.found.open(self.table, MODE, find)?)
    }
}

impl Found for Vec<Index> {
    fn indexes(&self) -> impl ExactSizeIterator<Item = pg_sys::Oid> {
        self.iter().map(|index| index.oid)
    }
}

/// A table that is open for writing, with its indexes. Locked to the end of the transaction.
pub(crate) struct OpenTable(Opened<Vec<Index>>);

impl OpenTable {
    /// None if its columns are others, or if whoever held the lock before has made other tables.
    fn new(shape: &Shape, opened: Opened<Vec<Index>>) -> Option<Self> {
        // SAFETY: the table is open.
        let is_whole = unsafe { has_columns((*opened.table.relation).rd_att, shape.columns) };
        (is_whole && !is_stale()).then_some(OpenTable(opened))
    }

    fn relation(&self) -> pg_sys::Relation {
        self.0.table.relation
    }

    /// The indexes, each with its relation.
    fn indexes(&self) -> impl Iterator<Item = (&Index, pg_sys::Relation)> {
        let relations = self.0.indexes.iter().map(|open| open.relation);
        self.0.found.iter().zip(relations)
    }

    /// Insert rows, values in the order of the columns. How many were written: all, unless one may
    /// be in conflict with another and [`Conflict::Stop`] is asked for.
    ///
    /// What was written is visible to the next command of this transaction.
    pub(crate) fn insert<const COLUMNS: usize>(
        &self,
        rows: &[[Arg; COLUMNS]],
        conflict: Conflict,
    ) -> usize {
        let memory = Scratch::enter();
        let mut written = 0;
        for batch in rows.chunks(BATCH) {
            // An index of the DBA's may have a function of the DBA's.
            let count = with_error_fields_kept(|| {
                let rows: Vec<_> = batch.iter().map(Values::of).collect();
                // SAFETY: the rows have the table's columns (`has_columns`), and live until they are written. What is
                // guarded has nothing to drop.
                unsafe { pg_guard_ffi_boundary(|| self.write(&rows, conflict)) }
            });
            memory.reset();
            written += count;
            if count < batch.len() {
                break;
            }
        }
        written
    }

    /// The number in the last row of `key` and `scope`, in the order of an index of the columns (key: text, scope:
    /// smallint, number: bigint); columns from 1. None if there is no such index.
    ///
    /// What others have committed is seen, and what this transaction has written, as `HeapTupleSatisfiesSelf` sees it:
    /// the caller has seen to it that nobody else is writing rows of the key.
    pub(crate) fn last_number(
        &self,
        columns: [pg_sys::AttrNumber; 3],
        key: &str,
        scope: i16,
    ) -> Option<Option<i64>> {
        let (_, index) = self.indexes().find(|(index, _)| index.columns == columns)?;
        let _memory = Scratch::enter();
        let table = self.relation();
        // SAFETY: the index is one of the open table's, whose columns are of these types (`has_columns`).
        unsafe {
            let collation = *(*index).rd_indcollation;
            let argument = Argument::of(KeyType::Text, &[key]);
            let mut keys = [
                argument.scan_key(KeyType::Text, collation),
                scope_key(scope),
            ];
            Some(pg_guard_ffi_boundary(|| {
                let snapshot = &raw mut pg_sys::SnapshotSelfData;
                let scan = begin_scan(table, index, snapshot, 2);
                raw::index_rescan(scan, keys.as_mut_ptr(), 2, std::ptr::null_mut(), 0);
                let slot = raw::table_slot_create(table, std::ptr::null_mut());
                let backward = pg_sys::ScanDirection::BackwardScanDirection;
                let mut last = None;
                while last.is_none() && !raw::index_getnext_tid(scan, backward).is_null() {
                    if raw::index_fetch_heap(scan, slot) {
                        let number = columns[2];
                        raw::get_columns(slot, number.into());
                        last = Some((*(*slot).tts_values.add(number as usize - 1)).value() as i64);
                    }
                }
                raw::ExecDropSingleTupleTableSlot(slot);
                raw::index_endscan(scan);
                last
            }))
        }
    }

    /// How many of the rows are now there; see [`OpenTable::insert`]. The next command sees them.
    ///
    /// # Safety
    /// The rows have the table's columns; pgrx's guard is around this.
    unsafe fn write<const COLUMNS: usize>(
        &self,
        rows: &[Values<COLUMNS>],
        conflict: Conflict,
    ) -> usize {
        // SAFETY: as the caller promises.
        unsafe {
            let written = match (conflict, rows) {
                (Conflict::Stop, _) => self.insert_speculatively(rows),
                (Conflict::Error, [row]) => self.insert_one(row),
                (Conflict::Error, _) => self.insert_all(rows),
            };
            raw::CommandCounterIncrement();
            written
        }
    }

    /// As `simple_heap_insert`, and `ExecInsertIndexTuples`.
    ///
    /// # Safety
    /// As of [`OpenTable::write`].
    unsafe fn insert_one<const COLUMNS: usize>(&self, row: &Values<COLUMNS>) -> usize {
        let table = self.relation();
        // SAFETY: as the caller promises.
        unsafe {
            let tuple = row.tuple(table);
            let command = raw::GetCurrentCommandId(true);
            raw::heap_insert(table, tuple, command, 0, std::ptr::null_mut());
            self.insert_into_indexes(row, &raw mut (*tuple).t_self, Conflict::Error);
        }
        1
    }

    /// Insert the rows, all of them or none. From `CopyMultiInsertBufferFlush`.
    ///
    /// # Safety
    /// As of [`OpenTable::write`].
    unsafe fn insert_all<const COLUMNS: usize>(&self, rows: &[Values<COLUMNS>]) -> usize {
        let table = self.relation();
        // SAFETY: as the caller promises; the access method sets each slot's tid. The array is as long as there are rows.
        unsafe {
            let kind = &raw const pg_sys::TTSOpsHeapTuple;
            let slots: *mut *mut pg_sys::TupleTableSlot =
                raw::palloc(rows.len() * size_of::<*mut pg_sys::TupleTableSlot>()).cast();
            for (at, row) in rows.iter().enumerate() {
                let slot = raw::MakeSingleTupleTableSlot((*table).rd_att, kind);
                raw::ExecStoreHeapTuple(row.tuple(table), slot, false);
                *slots.add(at) = slot;
            }
            raw::heap_multi_insert(
                table,
                slots,
                rows.len() as i32,
                raw::GetCurrentCommandId(true),
                0,
                std::ptr::null_mut(),
            );
            for (at, row) in rows.iter().enumerate() {
                let slot = *slots.add(at);
                self.insert_into_indexes(row, &raw mut (*slot).tts_tid, Conflict::Error);
                raw::ExecDropSingleTupleTableSlot(slot);
            }
        }
        rows.len()
    }

    /// Insert rows as long as no other one forbids one: how many are now there. Step by step as
    /// `ExecInsert` does it for ON CONFLICT, with `heapam_tuple_insert_speculative` and
    /// `heapam_tuple_complete_speculative`, but for the look before it: a row that is there already
    /// is rare here, and then SQL looks.
    ///
    /// Until a row is known to stay, others wait for the speculative insertion only, and not for the
    /// end of this transaction. All rows have one such lock, so a waiter may wait for a batch
    /// of them; nothing waits while it is held, since a partial check does not.
    ///
    /// # Safety
    /// As of [`OpenTable::write`].
    unsafe fn insert_speculatively<const COLUMNS: usize>(&self, rows: &[Values<COLUMNS>]) -> usize {
        let table = self.relation();
        // SAFETY: as the caller promises.
        unsafe {
            let transaction = raw::GetCurrentTransactionId();
            let command = raw::GetCurrentCommandId(true);
            let token = raw::SpeculativeInsertionLockAcquire(transaction);
            let mut written = 0;
            for row in rows {
                let tuple = row.tuple(table);
                // HeapTupleHeaderSetSpeculativeToken
                let mark = &mut (*(*tuple).t_data).t_ctid;
                mark.ip_blkid.bi_hi = (token >> 16) as u16;
                mark.ip_blkid.bi_lo = token as u16;
                mark.ip_posid = SPECULATIVE;
                let options = pg_sys::HEAP_INSERT_SPECULATIVE as i32;
                raw::heap_insert(table, tuple, command, options, std::ptr::null_mut());
                let place = &raw mut (*tuple).t_self;
                if !self.insert_into_indexes(row, place, Conflict::Stop) {
                    raw::heap_abort_speculative(table, place);
                    break;
                }
                raw::heap_finish_speculative(table, place);
                written += 1;
            }
            raw::SpeculativeInsertionLockRelease(transaction);
            written
        }
    }

    /// Whether no other row forbids this one. All indexes get their entry, as from
    /// `ExecInsertIndexTuples`.
    ///
    /// # Safety
    /// The row is in the table, at that place; pgrx's guard is around this.
    unsafe fn insert_into_indexes<const COLUMNS: usize>(
        &self,
        row: &Values<COLUMNS>,
        place: pg_sys::ItemPointer,
        conflict: Conflict,
    ) -> bool {
        let mut is_unique = true;
        for (index, relation) in self.indexes() {
            // SAFETY: as the caller promises.
            is_unique &= unsafe { index.insert(relation, row, place, self.relation(), conflict) };
        }
        is_unique
    }
}

/// SpecTokenOffsetNumber: a row with this for its next version is inserted speculatively.
const SPECULATIVE: pg_sys::OffsetNumber = 0xfffe;

/// The values of a row, in the memory of the scratch context.
struct Values<const COLUMNS: usize> {
    datums: [pg_sys::Datum; COLUMNS],
    nulls: [bool; COLUMNS],
}

impl<const COLUMNS: usize> Values<COLUMNS> {
    fn of(row: &[Arg; COLUMNS]) -> Self {
        let mut values = Values {
            datums: [pg_sys::Datum::from(0); COLUMNS],
            nulls: [true; COLUMNS],
        };
        for (at, value) in row.iter().enumerate() {
            if let Some(datum) = value.datum() {
                values.datums[at] = datum;
                values.nulls[at] = false;
            }
        }
        values
    }

    /// # Safety
    /// The table is open and has these columns; pgrx's guard is around this.
    unsafe fn tuple(&self, table: pg_sys::Relation) -> pg_sys::HeapTuple {
        let (values, nulls) = (self.datums.as_ptr(), self.nulls.as_ptr());
        // SAFETY: as the caller promises; older versions declare them as if they were written.
        unsafe { heap_form_tuple((*table).rd_att, values.cast_mut(), nulls.cast_mut()) }
    }
}

/// What is known of an index.
struct Index {
    oid: pg_sys::Oid,
    /// The table's columns in it, numbered from 1.
    columns: Vec<pg_sys::AttrNumber>,
    is_unique: bool,
    /// The index has only the rows in which this column is not null.
    where_not_null: Option<pg_sys::AttrNumber>,
}

impl Index {
    /// None if it is not of the kind that [`Index::insert`] keeps: a btree of columns that is checked at
    /// once and has all rows, or those in which a column is not null.
    ///
    /// # Safety
    /// The relation is open.
    unsafe fn look_at(relation: pg_sys::Relation) -> Option<Self> {
        // SAFETY: as the caller promises. The vector has one item per column.
        unsafe {
            // The cached predicate, if it was asked for before: a copy is made for nothing.
            let mut predicate = (*relation).rd_indpred;
            if predicate.is_null() {
                predicate = pg_sys::RelationGetIndexPredicate(relation);
            }
            let where_not_null = match predicate.is_null() {
                true => None,
                false => Some(not_null_test(predicate)?),
            };
            is_of_columns(relation).then(|| Index {
                oid: (*relation).rd_id,
                columns: columns_of(relation).to_vec(),
                is_unique: (*(*relation).rd_index).indisunique,
                where_not_null,
            })
        }
    }

    /// # Safety
    /// The row is in `table`, at that place; this is `relation`, an index of it; pgrx's guard is around this.
    unsafe fn insert<const COLUMNS: usize>(
        &self,
        relation: pg_sys::Relation,
        row: &Values<COLUMNS>,
        place: pg_sys::ItemPointer,
        table: pg_sys::Relation,
        conflict: Conflict,
    ) -> bool {
        let is_null = |column: pg_sys::AttrNumber| row.nulls[column as usize - 1];
        if self.where_not_null.is_some_and(is_null) {
            return true;
        }
        let check = match conflict {
            _ if !self.is_unique => IndexUniqueCheck::UNIQUE_CHECK_NO,
            Conflict::Error => IndexUniqueCheck::UNIQUE_CHECK_YES,
            Conflict::Stop => IndexUniqueCheck::UNIQUE_CHECK_PARTIAL,
        };
        let row = RowValues {
            datums: row.datums.as_ptr(),
            nulls: row.nulls.as_ptr(),
        };
        // SAFETY: as the caller promises; the columns are those of the row.
        let is_unique = unsafe { insert_entry(relation, table, row, place, check, false) };
        is_unique || !self.is_unique
    }
}

/// The indexes of a table, if it is as the extension has made it.
///
/// # Safety
/// The table is open and locked.
unsafe fn look_at(table: pg_sys::Relation, shape: &Shape) -> Option<Vec<Index>> {
    // SAFETY: as the caller promises; the list is a copy.
    unsafe {
        if !is_of_shape(table, shape) {
            return None;
        }
        let list = pg_sys::RelationGetIndexList(table);
        let indexes = elements(list).iter().map(|oid| {
            let index = Open::index(oid.oid_value, MODE);
            Index::look_at(index.relation)
        });
        let indexes = indexes.collect();
        pg_sys::list_free(list);
        indexes
    }
}

/// The column of a predicate `column IS NOT NULL`; None for any other.
///
/// # Safety
/// `predicate` is that of an index.
unsafe fn not_null_test(predicate: *mut pg_sys::List) -> Option<pg_sys::AttrNumber> {
    // SAFETY: as the caller promises: a list of expressions, each of which begins with its tag.
    unsafe {
        let [only] = elements(predicate) else {
            return None;
        };
        let test = only.ptr_value as *const pg_sys::NullTest;
        if (*test).xpr.type_ != pg_sys::NodeTag::T_NullTest
            || (*test).nulltesttype != pg_sys::NullTestType::IS_NOT_NULL
        {
            return None;
        }
        let column = (*test).arg as *const pg_sys::Var;
        ((*column).xpr.type_ == pg_sys::NodeTag::T_Var && (*column).varattno > 0)
            .then_some((*column).varattno)
    }
}

/// # Safety
/// The relation is open and locked.
unsafe fn is_of_shape(relation: pg_sys::Relation, shape: &Shape) -> bool {
    // SAFETY: as the caller promises.
    unsafe {
        let class = (*relation).rd_rel;
        (*class).relkind == pg_sys::RELKIND_RELATION as c_char
            && (*class).relam == pg_sys::HEAP_TABLE_AM_OID
            && !(*class).relispartition
            && !(*class).relrowsecurity
            && (*relation).rd_rules.is_null()
            && has_only_checks((*relation).rd_att, shape.checks)
            && has_only_own_triggers((*relation).trigdesc)
    }
}

/// # Safety
/// The descriptor is that of an open relation.
unsafe fn has_columns(descriptor: pg_sys::TupleDesc, columns: &[(pg_sys::Oid, bool)]) -> bool {
    // SAFETY: as the caller promises.
    unsafe {
        (*descriptor).natts as usize == columns.len()
            && columns
                .iter()
                .enumerate()
                .all(|(at, (type_oid, is_nullable))| {
                    let column = attribute(descriptor, at);
                    (*column).atttypid == *type_oid
                        && !(*column).attisdropped
                        && (*column).attgenerated == 0
                        && !(*is_nullable && (*column).attnotnull)
                })
    }
}

/// # Safety
/// The descriptor is that of an open relation.
unsafe fn has_only_checks(descriptor: pg_sys::TupleDesc, checks: &[&CStr]) -> bool {
    // SAFETY: as the caller promises.
    unsafe {
        let Some(constraints) = (*descriptor).constr.as_ref() else {
            return true;
        };
        (0..constraints.num_check as usize)
            .map(|at| CStr::from_ptr((*constraints.check.add(at)).ccname))
            .all(|name| checks.contains(&name))
    }
}

/// The trigger `owner_only` lets pass roles that act for the table's owner, as the extension does here;
/// `append_only_*` do not fire on INSERT.
///
/// # Safety
/// `triggers` is null or that of an open relation.
unsafe fn has_only_own_triggers(triggers: *const pg_sys::TriggerDesc) -> bool {
    // SAFETY: as the caller promises.
    unsafe {
        let Some(triggers) = triggers.as_ref() else {
            return true;
        };
        (0..triggers.numtriggers as usize)
            .map(|at| &*triggers.triggers.add(at))
            .filter(|trigger| trigger.tgtype as u32 & pg_sys::TRIGGER_TYPE_INSERT != 0)
            .all(|trigger| {
                let moment = pg_sys::TRIGGER_TYPE_ROW | pg_sys::TRIGGER_TYPE_BEFORE;
                trigger.tgtype as u32 & moment == pg_sys::TRIGGER_TYPE_BEFORE
                    && CStr::from_ptr(trigger.tgname) == c"owner_only"
            })
    }
}
