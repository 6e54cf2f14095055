//! Rows written into the extension's own tables, without an executor.

use std::ffi::{CStr, c_char};

use pgrx::memcxt::PgMemoryContexts;
use pgrx::pg_sys;
use pgrx::pg_sys::IndexUniqueCheck;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

use super::key::{Argument, scope_key};
use crate::postgres::descriptor::elements;
use crate::postgres::error_fields::with_error_fields_kept;
use crate::postgres::invalidation;
use crate::postgres::key::KeyType;
use crate::postgres::raw;
use crate::postgres::unwind::unless_unwinding;
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

/// A table that is open for writing, with its indexes. Locked to the end of the transaction.
pub(crate) struct OpenTable {
    relation: pg_sys::Relation,
    indexes: Vec<Index>,
}

impl OpenTable {
    /// None if there is anything about the table that the executor would have to see to: it is not
    /// of the shape, or has a trigger, a rule, a policy, a constraint or a kind of index that the
    /// extension did not make.
    pub(crate) fn open(table: pg_sys::Oid, shape: &Shape) -> Option<Self> {
        if !super::is_used() {
            return None;
        }
        // SAFETY: the relation is closed by Drop, or by the abort that follows an error; the lock is
        // that of an INSERT and stays.
        unsafe {
            let relation = pg_sys::try_relation_open(table, pg_sys::RowExclusiveLock as i32);
            if relation.is_null() {
                return None;
            }
            let mut table = OpenTable {
                relation,
                indexes: Vec::new(),
            };
            let is_whole = is_of_shape(relation, shape) && table.open_indexes();
            // Whoever held the lock before may have made other tables, or another sequence.
            (is_whole && !invalidation::is_stale()).then_some(table)
        }
    }

    /// # Safety
    /// The relation is open.
    unsafe fn open_indexes(&mut self) -> bool {
        // SAFETY: as the caller promises; the list is a copy.
        unsafe {
            let list = pg_sys::RelationGetIndexList(self.relation);
            for oid in elements(list) {
                let lock = pg_sys::RowExclusiveLock as i32;
                self.indexes.push(Index {
                    relation: pg_sys::index_open(oid.oid_value, lock),
                    where_not_null: None,
                });
            }
            pg_sys::list_free(list);
            self.indexes.iter_mut().all(|index| index.look_at())
        }
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
        let slots = Slots::new(self.relation, rows.len().min(BATCH));
        let mut written = 0;
        for batch in rows.chunks(BATCH) {
            let slots = &slots.0[..batch.len()];
            // An index of the DBA's may have a function of the DBA's.
            let count = with_error_fields_kept(|| self.insert_batch(batch, slots, conflict));
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
        let index = self
            .indexes
            .iter()
            .find(|index| index.columns() == columns)?;
        // SAFETY: the index is one of the open table's, whose columns are of these types (`is_of_shape`).
        unsafe {
            let collation = *(*index.relation).rd_indcollation;
            let argument = Argument::of(KeyType::Text, &[key.to_owned()]);
            let mut keys = [
                argument.scan_key(KeyType::Text, collation),
                scope_key(scope),
            ];
            Some(pg_guard_ffi_boundary(|| {
                let snapshot = &raw mut pg_sys::SnapshotSelfData;
                let scan = begin_scan(self.relation, index.relation, snapshot, 2);
                raw::index_rescan(scan, keys.as_mut_ptr(), 2, std::ptr::null_mut(), 0);
                let slot = raw::table_slot_create(self.relation, std::ptr::null_mut());
                let backward = pg_sys::ScanDirection::BackwardScanDirection;
                let mut last = None;
                while last.is_none() && !raw::index_getnext_tid(scan, backward).is_null() {
                    if raw::index_fetch_heap(scan, slot) {
                        let number = columns[2];
                        raw::slot_getsomeattrs_int(slot, number.into());
                        last = Some((*(*slot).tts_values.add(number as usize - 1)).value() as i64);
                    }
                }
                raw::ExecDropSingleTupleTableSlot(slot);
                raw::index_endscan(scan);
                last
            }))
        }
    }

    /// Values and tuples live in a memory context of their own, until all are written.
    fn insert_batch<const COLUMNS: usize>(
        &self,
        rows: &[[Arg; COLUMNS]],
        slots: &[*mut pg_sys::TupleTableSlot],
        conflict: Conflict,
    ) -> usize {
        let mut memory = PgMemoryContexts::new("token_balance rows");
        // SAFETY: the slots are of this relation, and `is_of_shape` has seen that it has these
        // columns. What is guarded has nothing to drop.
        unsafe {
            memory.switch_to(|_| {
                for (row, slot) in rows.iter().zip(slots) {
                    fill(*slot, row);
                }
                let written = pg_guard_ffi_boundary(|| self.write(slots, conflict));
                pg_guard_ffi_boundary(|| {
                    for slot in slots {
                        raw::clear(*slot);
                    }
                });
                written
            })
        }
    }

    /// How many of the rows are now there; see [`OpenTable::insert`]. The next command sees them.
    ///
    /// # Safety
    /// The slots are filled and of this relation; pgrx's guard is around this.
    unsafe fn write(&self, slots: &[*mut pg_sys::TupleTableSlot], conflict: Conflict) -> usize {
        // SAFETY: as the caller promises.
        unsafe {
            let written = match conflict {
                Conflict::Error => self.insert_all(slots),
                Conflict::Stop => self.insert_speculatively(slots),
            };
            raw::CommandCounterIncrement();
            written
        }
    }

    /// Insert the rows, all of them or none. From `CopyMultiInsertBufferFlush`.
    ///
    /// # Safety
    /// As of [`OpenTable::write`].
    unsafe fn insert_all(&self, slots: &[*mut pg_sys::TupleTableSlot]) -> usize {
        // SAFETY: as the caller promises; the access method sets each slot's tid.
        unsafe {
            match slots {
                [slot] => raw::simple_table_tuple_insert(self.relation, *slot),
                _ => raw::heap_multi_insert(
                    self.relation,
                    slots.as_ptr().cast_mut(),
                    slots.len() as i32,
                    raw::GetCurrentCommandId(true),
                    0,
                    std::ptr::null_mut(),
                ),
            }
            for slot in slots {
                self.insert_into_indexes(*slot, Conflict::Error);
            }
            slots.len()
        }
    }

    /// Insert rows as long as no other one forbids one: how many are now there. Step by step as
    /// `ExecInsert` does it for ON CONFLICT, but for the look before it: a row that is there already
    /// is rare here, and then SQL looks.
    ///
    /// Until a row is known to stay, others wait for the speculative insertion only, and not for the
    /// end of this transaction. All rows have one such lock, so a waiter may wait for a batch
    /// of them; nothing waits while it is held, since a partial check does not.
    ///
    /// # Safety
    /// As of [`OpenTable::write`].
    unsafe fn insert_speculatively(&self, slots: &[*mut pg_sys::TupleTableSlot]) -> usize {
        // SAFETY: as the caller promises; a heap has both functions, and `is_of_shape` has seen that
        // this is one. They set the slot's tid and find the row by it. The slot that has the row as
        // it is stored keeps it between the two; the other one has its values.
        unsafe {
            let methods = (*self.relation).rd_tableam;
            let (Some(insert), Some(complete)) = (
                (*methods).tuple_insert_speculative,
                (*methods).tuple_complete_speculative,
            ) else {
                return 0;
            };
            let descriptor = (*self.relation).rd_att;
            let stored =
                raw::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsHeapTuple);
            let transaction = raw::GetCurrentTransactionId();
            let command = raw::GetCurrentCommandId(true);
            let token = raw::SpeculativeInsertionLockAcquire(transaction);
            let mut written = 0;
            for slot in slots {
                let (values, nulls) = ((**slot).tts_values, (**slot).tts_isnull);
                let tuple = heap_form_tuple(descriptor, values, nulls);
                raw::ExecStoreHeapTuple(tuple, stored, true);
                insert(
                    self.relation,
                    stored,
                    command,
                    0,
                    std::ptr::null_mut(),
                    token,
                );
                (**slot).tts_tid = (*stored).tts_tid;
                let stays = self.insert_into_indexes(*slot, Conflict::Stop);
                complete(self.relation, stored, token, stays);
                if !stays {
                    break;
                }
                written += 1;
            }
            raw::SpeculativeInsertionLockRelease(transaction);
            raw::ExecDropSingleTupleTableSlot(stored);
            written
        }
    }

    /// Whether no other row forbids this one. All indexes get their entry, as from
    /// `ExecInsertIndexTuples`.
    ///
    /// # Safety
    /// The slot is filled, and its row is in the table; pgrx's guard is around this.
    unsafe fn insert_into_indexes(
        &self,
        slot: *mut pg_sys::TupleTableSlot,
        conflict: Conflict,
    ) -> bool {
        let mut is_unique = true;
        for index in &self.indexes {
            // SAFETY: as the caller promises.
            is_unique &= unsafe { index.insert(slot, self.relation, conflict) };
        }
        is_unique
    }
}

impl Drop for OpenTable {
    fn drop(&mut self) {
        // SAFETY: opened by `open`, closed once. The locks stay until the transaction ends.
        unless_unwinding(|| unsafe {
            for index in &self.indexes {
                pg_sys::index_close(index.relation, pg_sys::NoLock as i32);
            }
            pg_sys::relation_close(self.relation, pg_sys::NoLock as i32);
        });
    }
}

/// Slots that hold the values of rows.
struct Slots(Vec<*mut pg_sys::TupleTableSlot>);

impl Slots {
    fn new(relation: pg_sys::Relation, count: usize) -> Self {
        // SAFETY: the relation is open for as long as the slots live.
        let slot = || unsafe {
            pg_sys::MakeSingleTupleTableSlot((*relation).rd_att, &raw const pg_sys::TTSOpsVirtual)
        };
        Slots(std::iter::repeat_with(slot).take(count).collect())
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        unless_unwinding(|| {
            for slot in &self.0 {
                // SAFETY: made by `new`, dropped once.
                unsafe { pg_sys::ExecDropSingleTupleTableSlot(*slot) };
            }
        });
    }
}

/// # Safety
/// The slot is empty and has as many columns, of the types of the values.
unsafe fn fill<const COLUMNS: usize>(slot: *mut pg_sys::TupleTableSlot, row: &[Arg; COLUMNS]) {
    // SAFETY: as the caller promises.
    unsafe {
        for (at, value) in row.iter().enumerate() {
            let datum = value.datum();
            *(*slot).tts_isnull.add(at) = datum.is_none();
            *(*slot).tts_values.add(at) = datum.unwrap_or(pg_sys::Datum::from(0));
        }
        pg_sys::ExecStoreVirtualTuple(slot);
    }
}

struct Index {
    relation: pg_sys::Relation,
    /// The index has only the rows in which this column is not null.
    where_not_null: Option<pg_sys::AttrNumber>,
}

impl Index {
    /// Whether it is of the kind that [`Index::insert`] keeps: a btree of columns that is checked at
    /// once and has all rows, or those in which a column is not null.
    ///
    /// # Safety
    /// The relation is open.
    unsafe fn look_at(&mut self) -> bool {
        // SAFETY: as the caller promises.
        unsafe {
            let index = (*self.relation).rd_index;
            let is_simple = (*(*self.relation).rd_rel).relam == pg_sys::BTREE_AM_OID
                && (*index).indimmediate
                && !(*index).indisexclusion
                && self.columns().iter().all(|column| *column > 0);
            // The cached predicate, if it was asked for before: a copy is made for nothing.
            let mut predicate = (*self.relation).rd_indpred;
            if predicate.is_null() {
                predicate = pg_sys::RelationGetIndexPredicate(self.relation);
            }
            if predicate.is_null() {
                return is_simple;
            }
            self.where_not_null = not_null_test(predicate);
            is_simple && self.where_not_null.is_some()
        }
    }

    /// The table's columns in it, numbered from 1; 0 stands for an expression.
    fn columns(&self) -> &[pg_sys::AttrNumber] {
        // SAFETY: the relation is open; the vector has one item per column.
        unsafe {
            let index = (*self.relation).rd_index;
            std::slice::from_raw_parts((*index).indkey.values.as_ptr(), (*index).indnatts as usize)
        }
    }

    /// # Safety
    /// The slot is filled; its row is in `table`, which this is an index of; pgrx's guard is around
    /// this.
    unsafe fn insert(
        &self,
        slot: *mut pg_sys::TupleTableSlot,
        table: pg_sys::Relation,
        conflict: Conflict,
    ) -> bool {
        // SAFETY: as the caller promises; the columns are those of the slot. A btree does not look
        // at the IndexInfo.
        unsafe {
            let index = (*self.relation).rd_index;
            let is_null = |column: pg_sys::AttrNumber| *(*slot).tts_isnull.add(column as usize - 1);
            if !(*index).indisready || self.where_not_null.is_some_and(is_null) {
                return true;
            }
            let mut values = [pg_sys::Datum::from(0); pg_sys::INDEX_MAX_KEYS as usize];
            let mut nulls = [false; pg_sys::INDEX_MAX_KEYS as usize];
            for (at, column) in self.columns().iter().enumerate() {
                values[at] = *(*slot).tts_values.add(*column as usize - 1);
                nulls[at] = is_null(*column);
            }
            let check = match conflict {
                _ if !(*index).indisunique => IndexUniqueCheck::UNIQUE_CHECK_NO,
                Conflict::Error => IndexUniqueCheck::UNIQUE_CHECK_YES,
                Conflict::Stop => IndexUniqueCheck::UNIQUE_CHECK_PARTIAL,
            };
            let is_unique = raw::index_insert(
                self.relation,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
                &raw mut (*slot).tts_tid,
                table,
                check,
                false,
                std::ptr::null_mut(),
            );
            is_unique || !(*index).indisunique
        }
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
            && has_columns((*relation).rd_att, shape.columns)
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
