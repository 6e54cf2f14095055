//! An amount added to an integer of one row, without a plan and an executor: what `ExecUpdate` in nodeModifyTable.c does
//! with a row of a plain table, step by step.
//!
//! Whatever is awkward is not done here but left to the SQL statement, which does it or says why not: a row that is not
//! there, that is not to be changed so far, that another session has deleted or given another key, and a conflict in a
//! transaction that keeps one snapshot. So there is one answer here, the change that was made.
//!
//! No `ResultRelInfo` and no `EState` is made: minor releases of the server add fields to these.

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

use super::index::{RowValues, columns_of, finds_key, insert_entry, is_of_columns};
use super::index_path::{VIRTUAL, are_of_types, base_type, column_number, is_plain};
use super::key::Argument;
use super::open::{Found, Kept, Open, Opened};
use super::scratch::Scratch;
use super::setting::is_used;
use super::updater::{running_updater, wait_if_aborted};
use crate::postgres::descriptor::elements;
use crate::postgres::error_fields::with_error_fields_kept;
use crate::postgres::invalidation::is_stale;
use crate::postgres::key::KeyType;
use crate::postgres::raw;
use crate::postgres::versions::{attribute, begin_scan, heap_form_tuple, update_row};

/// The lock of an UPDATE on its table and on the indexes.
const MODE: u32 = pg_sys::RowExclusiveLock;

/// Which column of which table is changed.
#[derive(Clone, Debug)]
pub(crate) struct Changeable {
    pub(crate) table: pg_sys::Oid,
    /// The role that changes it: the table's owner.
    pub(crate) owner: pg_sys::Oid,
    pub(crate) key: String,
    pub(crate) key_type: KeyType,
    pub(crate) column: String,
    /// The function of an AFTER trigger for each row, which the table has. The caller does its work.
    pub(crate) done_by_caller: pg_sys::Oid,
    /// The function of a BEFORE trigger for each row, which lets the caller's changes pass.
    pub(crate) lets_pass: pg_sys::Oid,
}

/// A change that is asked for.
pub(crate) struct Addition<'a> {
    /// Of the row, by canonical text.
    pub(crate) key: &'a str,
    pub(crate) amount: i64,
    /// The value before may be none outside of these, nor is the one after.
    pub(crate) lowest: i64,
    pub(crate) highest: i64,
}

/// A value before and after.
pub(crate) struct Added {
    pub(crate) previous: i64,
    pub(crate) new: i64,
}

/// How rows are changed; None if SQL must do it. What was found of the table is kept.
pub(crate) struct Adder {
    wanted: Option<Changeable>,
    path: Kept<Path>,
}

impl Adder {
    pub(crate) fn new(wanted: Option<Changeable>) -> Self {
        Adder {
            wanted,
            path: Kept::default(),
        }
    }

    /// Whether rows of the table can be changed here, as it is now.
    #[cfg(any(test, feature = "pg_test"))]
    pub(crate) fn serves(&self) -> bool {
        self.open().is_some()
    }

    /// Add to the row of a key, as one command; what it did is visible to the next one. None if SQL must do it: nothing
    /// was changed.
    pub(crate) fn add(&self, addition: &Addition) -> Option<Added> {
        self.with_key(addition.key, |table, key| {
            // SAFETY: as `with_key` says.
            unsafe { table.find_and_add(key, addition) }
        })
    }

    /// Hold the row of a key to the end of the transaction, unless somebody else does, as FOR NO KEY UPDATE SKIP LOCKED.
    /// None if SQL must do it.
    pub(crate) fn hold_unless_busy(&self, key: &str) -> Option<bool> {
        self.with_key(key, |table, key| {
            // SAFETY: as `with_key` says.
            unsafe { table.find(key, |row, snapshot| table.hold(key, row, snapshot)) }
        })
    }

    /// What `work` makes of the open table and a key that is looked for: both as the path says, inside pgrx's guard.
    fn with_key<T>(
        &self,
        key: &str,
        work: impl FnOnce(&Table, *mut pg_sys::ScanKeyData) -> Option<T>,
    ) -> Option<T> {
        let table = self.open()?;
        let _memory = Scratch::enter();
        let path = &table.0.found;
        let argument = Argument::of(path.key_type, &[key]);
        let mut key = argument.scan_key(path.key_type, path.collation);
        // SAFETY: the argument lives until the work is done, which has nothing to drop.
        with_error_fields_kept(|| unsafe { pg_guard_ffi_boundary(|| work(&table, &raw mut key)) })
    }

    fn open(&self) -> Option<Table> {
        let wanted = self.wanted.as_ref().filter(|_| is_allowed())?;
        // SAFETY: the table is open.
        let find = |table| unsafe { Path::find(wanted, table) };
        Table::new(self.path.open(wanted.table, MODE, find)?)
    }
}

/// Whether this is a session in which nobody wants to see the statement, and in which an UPDATE would do the same: the
/// triggers of a replica's session are others, and a hook for privileges is pgaudit's or sepgsql's.
fn is_allowed() -> bool {
    // SAFETY: reads backend variables.
    unsafe {
        is_used()
            && !is_stale()
            && !pg_sys::XactReadOnly
            && pg_sys::SessionReplicationRole != pg_sys::SESSION_REPLICATION_ROLE_REPLICA as i32
            && (&raw const pg_sys::ExecutorCheckPerms_hook)
                .read()
                .is_none()
    }
}

/// What was found of a table whose rows may be changed here.
struct Path {
    index: pg_sys::Oid,
    key_type: KeyType,
    collation: pg_sys::Oid,
    key: pg_sys::AttrNumber,
    column: pg_sys::AttrNumber,
    /// One of the three types of integers.
    column_type: pg_sys::Oid,
    /// The key and the column, each with its declared type.
    types: [(pg_sys::AttrNumber, pg_sys::Oid); 2],
    /// So many columns.
    count: usize,
    /// Those that may not be null, and those that are gone: counted from 0.
    not_null: Vec<usize>,
    dropped: Vec<usize>,
    /// Whether the table refers to others.
    has_foreign_keys: bool,
}

impl Found for Path {
    fn indexes(&self) -> impl ExactSizeIterator<Item = pg_sys::Oid> {
        std::iter::once(self.index)
    }
}

impl Path {
    /// # Safety
    /// The table is open and locked.
    unsafe fn find(wanted: &Changeable, table: pg_sys::Relation) -> Option<Self> {
        // SAFETY: as the caller promises.
        unsafe {
            let descriptor = (*table).rd_att;
            let may_update = || {
                let mode = pg_sys::ACL_UPDATE as pg_sys::AclMode;
                pg_sys::pg_class_aclcheck((*table).rd_id, wanted.owner, mode)
                    == pg_sys::AclResult::ACLCHECK_OK
            };
            if !is_plain(table, wanted.owner)
                || (*(*table).rd_rel).relispartition
                || !may_update()
                || has_constraints(descriptor)
            {
                return None;
            }
            let key = column_number(table, &wanted.key)?;
            let column = column_number(table, &wanted.column)?;
            if KeyType::of(base_type(table, key)) != Some(wanted.key_type) {
                return None;
            }
            let declared = |number: pg_sys::AttrNumber| *attribute(descriptor, number as usize - 1);
            // Of a domain, the executor would check the constraints.
            let column_type = declared(column).atttypid;
            let is_integer = matches!(
                column_type,
                pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID
            );
            if !is_integer
                || declared(column).attgenerated != 0
                || declared(column).attidentity != 0
            {
                return None;
            }
            let all =
                || (0..(*descriptor).natts as usize).map(|at| (at, *attribute(descriptor, at)));
            // The executor computes such a column to see whether it is null.
            if all().any(|(_, column)| column.attnotnull && column.attgenerated == VIRTUAL) {
                return None;
            }
            let (index, collation) = index_of(table, wanted.key_type, key, column)?;
            let mut path = Path {
                index,
                key_type: wanted.key_type,
                collation,
                key,
                column,
                column_type,
                types: [(key, declared(key).atttypid), (column, column_type)],
                count: (*descriptor).natts as usize,
                not_null: all()
                    .filter(|(_, column)| column.attnotnull && !column.attisdropped)
                    .map(|(at, _)| at)
                    .collect(),
                dropped: all()
                    .filter(|(_, column)| column.attisdropped)
                    .map(|(at, _)| at)
                    .collect(),
                has_foreign_keys: false,
            };
            path.passes_triggers(wanted, table).then_some(path)
        }
    }

    /// Whether an UPDATE of the column would fire no trigger but the two that are known, and do no more for foreign keys
    /// than to see that the keys are as they were.
    ///
    /// # Safety
    /// The table is open and locked.
    unsafe fn passes_triggers(&mut self, wanted: &Changeable, table: pg_sys::Relation) -> bool {
        // SAFETY: as the caller promises.
        unsafe {
            let Some(triggers) = (*table).trigdesc.as_ref() else {
                return false;
            };
            let mut done_by_caller = 0;
            for at in 0..triggers.numtriggers as usize {
                let trigger = &*triggers.triggers.add(at);
                if !fires(trigger, self.column) {
                    continue;
                }
                let moment = trigger.tgtype as u32
                    & (pg_sys::TRIGGER_TYPE_ROW
                        | pg_sys::TRIGGER_TYPE_BEFORE
                        | pg_sys::TRIGGER_TYPE_INSTEAD);
                let is_plain = trigger.tgqual.is_null()
                    && trigger.tgnargs == 0
                    && !trigger.tgdeferrable
                    && trigger.tgoldtable.is_null()
                    && trigger.tgnewtable.is_null();
                let before_row = pg_sys::TRIGGER_TYPE_ROW | pg_sys::TRIGGER_TYPE_BEFORE;
                if trigger.tgfoid == wanted.done_by_caller
                    && is_plain
                    && trigger.tgnattr == 0
                    && moment == pg_sys::TRIGGER_TYPE_ROW
                {
                    done_by_caller += 1;
                } else if trigger.tgfoid == wanted.lets_pass && is_plain && moment == before_row {
                    // It does so.
                } else {
                    match pg_sys::RI_FKey_trigger_type(trigger.tgfoid) as u32 {
                        // The key that others refer to stays (`RI_FKey_pk_upd_check_required`).
                        pg_sys::RI_TRIGGER_PK => {}
                        pg_sys::RI_TRIGGER_FK => self.has_foreign_keys = true,
                        _ => return false,
                    }
                }
            }
            done_by_caller == 1 && (!self.has_foreign_keys || !self.refers(table))
        }
    }

    /// Whether the column is part of a foreign key of the table's own; or one of several columns is there, of which some
    /// may be null, and what comes then depends on how it matches.
    ///
    /// # Safety
    /// The table is open and locked.
    unsafe fn refers(&self, table: pg_sys::Relation) -> bool {
        // SAFETY: as the caller promises: a list of such structs.
        unsafe {
            elements(pg_sys::RelationGetFKeyList(table))
                .iter()
                .any(|key| {
                    let key = &*(key.ptr_value as *const pg_sys::ForeignKeyCacheInfo);
                    key.nkeys != 1 || key.conkey[0] == self.column
                })
        }
    }
}

/// Whether an UPDATE of the column fires the trigger.
///
/// # Safety
/// It is one of an open table's.
unsafe fn fires(trigger: &pg_sys::Trigger, column: pg_sys::AttrNumber) -> bool {
    let is_of_update = trigger.tgtype as u32 & pg_sys::TRIGGER_TYPE_UPDATE != 0;
    let is_on = !matches!(trigger.tgenabled as u8, b'D' | b'R'); // disabled, or a replica's
    // SAFETY: as the caller promises.
    let names_column = trigger.tgnattr == 0
        || unsafe {
            std::slice::from_raw_parts(trigger.tgattr, trigger.tgnattr as usize).contains(&column)
        };
    is_of_update && is_on && names_column
}

/// Whether there is anything that the executor computes for a new row: a CHECK, a stored column.
///
/// # Safety
/// The descriptor is that of an open relation.
unsafe fn has_constraints(descriptor: pg_sys::TupleDesc) -> bool {
    // SAFETY: as the caller promises.
    unsafe {
        let constraints = (*descriptor).constr.as_ref();
        constraints.is_some_and(|it| it.num_check > 0 || it.has_generated_stored)
    }
}

/// The index by which a row of a key is found, and its collation. None also where an index is of a kind that wants an
/// executor, or that makes a key of the column.
///
/// # Safety
/// The table is open and locked.
unsafe fn index_of(
    table: pg_sys::Relation,
    key_type: KeyType,
    key: pg_sys::AttrNumber,
    column: pg_sys::AttrNumber,
) -> Option<(pg_sys::Oid, pg_sys::Oid)> {
    // SAFETY: as the caller promises; the list is a copy.
    unsafe {
        let list = pg_sys::RelationGetIndexList(table);
        let mut found = None;
        let mut are_plain = true;
        for oid in elements(list) {
            let open = Open::index(oid.oid_value, pg_sys::AccessShareLock);
            let relation = open.relation;
            let index = (*relation).rd_index;
            let columns = columns_of(relation);
            are_plain &= is_plain_index(relation)
                // Others may refer to such a key.
                && !((*index).indisunique && columns[..(*index).indnkeyatts as usize].contains(&column));
            let serves = (*index).indisunique
                && (*index).indnkeyatts == 1
                && finds_key(relation, table, key, key_type);
            if serves && found.is_none() {
                found = Some(((*relation).rd_id, *(*relation).rd_indcollation));
            }
        }
        pg_sys::list_free(list);
        found.filter(|_| are_plain)
    }
}

/// A btree of columns that has all rows and is checked at once, and whose entries are compared by the server's own
/// functions alone: nobody's code runs for an entry, which would run as the table's owner with the caller's search_path.
///
/// # Safety
/// The index is open.
unsafe fn is_plain_index(relation: pg_sys::Relation) -> bool {
    const FIRST_OF_USERS: u32 = pg_sys::FirstNormalObjectId;
    // SAFETY: as the caller promises: for each key column there is an operator family and the type that it compares.
    unsafe {
        let index = (*relation).rd_index;
        let is_builtin = |at: usize| {
            let family = *(*relation).rd_opfamily.add(at);
            let operand = *(*relation).rd_opcintype.add(at);
            // Of a pseudo-type (arrays, ranges, rows), what is compared depends on the element's type.
            family.to_u32() < FIRST_OF_USERS
                && (operand == pg_sys::ANYENUMOID
                    || pg_sys::get_typtype(operand) as u8 != pg_sys::TYPTYPE_PSEUDO)
        };
        is_of_columns(relation)
            && pg_sys::RelationGetIndexPredicate(relation).is_null()
            && (0..(*index).indnkeyatts as usize).all(is_builtin)
    }
}

/// The table, open for changes.
struct Table(Opened<Path>);

impl Table {
    /// None if the columns are not of the types that were found.
    fn new(opened: Opened<Path>) -> Option<Self> {
        // SAFETY: the table is open and locked.
        let fits = unsafe {
            let descriptor = (*opened.table.relation).rd_att;
            (*descriptor).natts as usize == opened.found.count
                && are_of_types(descriptor, &opened.found.types)
        };
        fits.then_some(Table(opened))
    }

    fn relation(&self) -> pg_sys::Relation {
        self.0.table.relation
    }

    /// As `standard_ExecutorStart` and `ExecModifyTable` do it for an UPDATE of one row by its key; as a command of its
    /// own, as SPI does it.
    ///
    /// # Safety
    /// The key is valid; pgrx's guard is around this.
    unsafe fn find_and_add(
        &self,
        key: *mut pg_sys::ScanKeyData,
        addition: &Addition,
    ) -> Option<Added> {
        // SAFETY: as the caller promises; the relation is open.
        unsafe {
            raw::CheckCmdReplicaIdentity(self.relation(), pg_sys::CmdType::CMD_UPDATE);
            self.find(key, |row, snapshot| self.add(key, row, snapshot, addition))
        }
    }

    /// What `each` makes of the row of the key that a statement sees, as a command. None if there is none.
    ///
    /// # Safety
    /// As of [`Table::find_and_add`].
    unsafe fn find<T>(
        &self,
        key: *mut pg_sys::ScanKeyData,
        each: impl FnOnce(*mut pg_sys::TupleTableSlot, pg_sys::Snapshot) -> Option<T>,
    ) -> Option<T> {
        // SAFETY: as the caller promises; the relations are open.
        unsafe {
            let table = self.relation();
            raw::CommandCounterIncrement();
            raw::PushActiveSnapshot(raw::GetTransactionSnapshot());
            let snapshot = raw::GetActiveSnapshot();
            let row = raw::table_slot_create(table, std::ptr::null_mut());
            let scan = begin_scan(table, self.0.indexes[0].relation, snapshot, 1);
            raw::index_rescan(scan, key, 1, std::ptr::null_mut(), 0);
            let forward = pg_sys::ScanDirection::ForwardScanDirection;
            let is_found = raw::index_getnext_slot(scan, forward, row);
            raw::index_endscan(scan);
            let made = match is_found {
                true => each(row, snapshot),
                false => None,
            };
            raw::ExecDropSingleTupleTableSlot(row);
            raw::PopActiveSnapshot();
            if made.is_some() {
                raw::CommandCounterIncrement();
            }
            made
        }
    }

    /// As `ExecLockRows`.
    ///
    /// # Safety
    /// As of [`Table::find_and_add`]; the slot has the row that the snapshot sees.
    unsafe fn hold(
        &self,
        key: *mut pg_sys::ScanKeyData,
        row: *mut pg_sys::TupleTableSlot,
        snapshot: pg_sys::Snapshot,
    ) -> Option<bool> {
        // SAFETY: as the caller promises.
        unsafe {
            let result = self.lock_row(
                row,
                snapshot,
                raw::GetCurrentCommandId(true),
                pg_sys::LockTupleMode::LockTupleNoKeyExclusive,
                pg_sys::LockWaitPolicy::LockWaitSkip,
                pg_sys::TUPLE_LOCK_FLAG_LOCK_UPDATE_IN_PROGRESS
                    | pg_sys::TUPLE_LOCK_FLAG_FIND_LAST_VERSION,
            )?;
            match result {
                pg_sys::TM_Result::TM_Ok if self.has_key(row, key) => Some(true),
                pg_sys::TM_Result::TM_WouldBlock => Some(false),
                _ => None,
            }
        }
    }

    /// As `ExecUpdate`.
    ///
    /// # Safety
    /// As of [`Table::find_and_add`]; `old` has the row that the snapshot sees.
    unsafe fn add(
        &self,
        key: *mut pg_sys::ScanKeyData,
        old: *mut pg_sys::TupleTableSlot,
        snapshot: pg_sys::Snapshot,
        addition: &Addition,
    ) -> Option<Added> {
        // SAFETY: as the caller promises. The memory is that of the scratch context.
        unsafe {
            let path = &self.0.found;
            let table = self.relation();
            let size = size_of::<pg_sys::Datum>() + size_of::<bool>();
            let values: *mut pg_sys::Datum = raw::palloc(size * path.count).cast();
            let nulls: *mut bool = values.add(path.count).cast();
            let command = raw::GetCurrentCommandId(true);
            let may_follow = (pg_sys::XactIsoLevel as u32) < pg_sys::XACT_REPEATABLE_READ;
            loop {
                // Once the row is held nobody updates it but who has just aborted.
                while let Some(updater) = running_updater(old) {
                    if wait_if_aborted(updater) {
                        continue;
                    }
                    if !may_follow {
                        break;
                    }
                    let mode = pg_sys::LockTupleMode::LockTupleNoKeyExclusive;
                    if !self.lock_latest(key, old, snapshot, command, mode)? {
                        return None;
                    }
                }
                raw::get_columns(old, path.count as i32);
                std::ptr::copy_nonoverlapping((*old).tts_values, values, path.count);
                std::ptr::copy_nonoverlapping((*old).tts_isnull, nulls, path.count);
                let added = self.change(values, nulls, addition)?;
                // `RI_FKey_fk_upd_check_required`: a row of this transaction's own is checked again.
                if path.has_foreign_keys && is_of_this_transaction(old) {
                    return None;
                }
                let new = heap_form_tuple((*table).rd_att, values, nulls);
                let mut failure = std::mem::MaybeUninit::<pg_sys::TM_FailureData>::uninit();
                let mut mode = pg_sys::LockTupleMode::LockTupleNoKeyExclusive;
                let place = &raw mut (*old).tts_tid;
                match update_row(table, place, new, command, failure.as_mut_ptr(), &mut mode) {
                    pg_sys::TM_Result::TM_Ok => {
                        if u32::from((*(*new).t_data).t_infomask2) & pg_sys::HEAP_ONLY_TUPLE == 0 {
                            let datums = values;
                            self.insert_into_indexes(new, RowValues { datums, nulls });
                        }
                        return Some(added);
                    }
                    // As `EvalPlanQual` goes on with the latest version of the row.
                    pg_sys::TM_Result::TM_Updated if may_follow => {
                        if !self.lock_latest(key, old, snapshot, command, mode)? {
                            return None;
                        }
                    }
                    _ => return None,
                }
            }
        }
    }

    /// Lock the latest version of a row, which is then in the slot. False if there is none of the key.
    ///
    /// # Safety
    /// As of [`Table::find_and_add`]; the slot has a version of the row.
    unsafe fn lock_latest(
        &self,
        key: *mut pg_sys::ScanKeyData,
        row: *mut pg_sys::TupleTableSlot,
        snapshot: pg_sys::Snapshot,
        command: pg_sys::CommandId,
        mode: pg_sys::LockTupleMode::Type,
    ) -> Option<bool> {
        // SAFETY: as the caller promises.
        unsafe {
            let result = self.lock_row(
                row,
                snapshot,
                command,
                mode,
                pg_sys::LockWaitPolicy::LockWaitBlock,
                pg_sys::TUPLE_LOCK_FLAG_FIND_LAST_VERSION,
            )?;
            Some(result == pg_sys::TM_Result::TM_Ok && self.has_key(row, key))
        }
    }

    /// As `table_tuple_lock`; None if the table's access method locks no rows.
    ///
    /// # Safety
    /// As of [`Table::find_and_add`]; the slot has a version of the row, and has the locked one afterwards.
    unsafe fn lock_row(
        &self,
        row: *mut pg_sys::TupleTableSlot,
        snapshot: pg_sys::Snapshot,
        command: pg_sys::CommandId,
        mode: pg_sys::LockTupleMode::Type,
        wait: pg_sys::LockWaitPolicy::Type,
        flags: u32,
    ) -> Option<pg_sys::TM_Result::Type> {
        // SAFETY: as the caller promises.
        unsafe {
            let table = self.relation();
            let lock = (*(*table).rd_tableam).tuple_lock?;
            let mut tid = (*row).tts_tid;
            let mut failure = std::mem::MaybeUninit::<pg_sys::TM_FailureData>::uninit();
            Some(lock(
                table,
                &mut tid,
                snapshot,
                row,
                command,
                mode,
                wait,
                flags as u8,
                failure.as_mut_ptr(),
            ))
        }
    }

    /// Add to the column in a row's values; None if the row is not to be changed here.
    ///
    /// # Safety
    /// There are as many as the table has columns.
    unsafe fn change(
        &self,
        values: *mut pg_sys::Datum,
        nulls: *mut bool,
        addition: &Addition,
    ) -> Option<Added> {
        // SAFETY: as the caller promises.
        unsafe {
            let at = self.0.found.column as usize - 1;
            // The executor would raise an error, of a constraint that is not valid yet.
            if *nulls.add(at) || self.0.found.not_null.iter().any(|at| *nulls.add(*at)) {
                return None;
            }
            // As `ExecBuildUpdateProjection` has them.
            for at in &self.0.found.dropped {
                *nulls.add(*at) = true;
            }
            let value = &mut *values.add(at);
            let previous: i64 = match self.0.found.column_type {
                pg_sys::INT2OID => (value.value() as i16).into(),
                pg_sys::INT4OID => (value.value() as i32).into(),
                _ => value.value() as i64,
            };
            if previous < addition.lowest || previous > addition.highest {
                return None;
            }
            let new = previous.checked_add(addition.amount)?;
            *value = match self.0.found.column_type {
                pg_sys::INT2OID => pg_sys::Datum::from(i16::try_from(new).ok()?),
                pg_sys::INT4OID => pg_sys::Datum::from(i32::try_from(new).ok()?),
                _ => pg_sys::Datum::from(new),
            };
            Some(Added { previous, new })
        }
    }

    /// Whether the latest version of the row still has the key.
    ///
    /// # Safety
    /// As of [`Table::find_and_add`]; the slot has a row.
    unsafe fn has_key(
        &self,
        slot: *mut pg_sys::TupleTableSlot,
        key: *mut pg_sys::ScanKeyData,
    ) -> bool {
        // SAFETY: as the caller promises.
        unsafe {
            raw::get_columns(slot, self.0.found.key.into());
            let at = self.0.found.key as usize - 1;
            !*(*slot).tts_isnull.add(at)
                && raw::FunctionCall2Coll(
                    &raw mut (*key).sk_func,
                    (*key).sk_collation,
                    *(*slot).tts_values.add(at),
                    (*key).sk_argument,
                )
                .value()
                    != 0
        }
    }

    /// As `ExecInsertIndexTuples`.
    ///
    /// # Safety
    /// As of [`Table::find_and_add`]; the row was just written.
    unsafe fn insert_into_indexes(&self, row: pg_sys::HeapTuple, values: RowValues) {
        // SAFETY: as the caller promises; the list is a copy, of indexes that are there: the table is locked.
        unsafe {
            let table = self.relation();
            let list = raw::RelationGetIndexList(table);
            for oid in elements(list) {
                let index = raw::index_open(oid.oid_value, MODE as i32);
                let form = (*index).rd_index;
                let check = match (*form).indisunique {
                    true => pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES,
                    false => pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO,
                };
                // `index_unchanged_by_update`
                let keys = &columns_of(index)[..(*form).indnkeyatts as usize];
                let is_unchanged = !keys.contains(&self.0.found.column);
                insert_entry(
                    index,
                    table,
                    values,
                    &raw mut (*row).t_self,
                    check,
                    is_unchanged,
                );
                raw::index_close(index, pg_sys::NoLock as i32);
            }
            raw::list_free(list);
        }
    }
}

/// Whether this transaction has inserted or updated the row.
///
/// # Safety
/// The slot has a row of a heap; pgrx's guard is around this.
unsafe fn is_of_this_transaction(slot: *mut pg_sys::TupleTableSlot) -> bool {
    // SAFETY: as the caller promises.
    unsafe {
        let tuple = raw::ExecFetchSlotHeapTuple(slot, false, std::ptr::null_mut());
        raw::TransactionIdIsCurrentTransactionId((*(*tuple).t_data).t_choice.t_heap.t_xmin)
    }
}
