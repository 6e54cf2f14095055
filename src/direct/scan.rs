//! The rows of one key, read with an index, without an executor.

use std::cell::RefCell;
use std::ffi::c_char;
use std::rc::Rc;

use pgrx::memcxt::PgMemoryContexts;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::{IntoDatum, Uuid, pg_sys};

use super::catalog::{attribute, elements, has_shards};
use super::raw;
use crate::cache;
use crate::key::KeyType;
use crate::spi::{c_string, plain_bytes, plain_text, uses_transaction_snapshot};

/// Which rows of which table are asked for, and what of them.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) table: pg_sys::Oid,
    /// Who reads them: the table's owner.
    pub(crate) owner: pg_sys::Oid,
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
        }
    }
}

/// How such rows are found; None if SQL must find them.
///
/// The path is kept as long as nothing that matters has changed ([`cache::generation`]): an ALTER
/// of the table, an index that is made, dropped or becomes valid, and a GRANT each invalidate the
/// table, which is watched as long as the backend lives. The number is read when the table is
/// locked. Whatever it says, the types of the columns are compared with those of the open relation
/// each time.
pub(crate) struct Lookup {
    wanted: Option<Wanted>,
    found: RefCell<Option<Found>>,
}

#[derive(Clone)]
struct Found {
    generation: u64,
    path: Option<Rc<Path>>,
}

impl Lookup {
    pub(crate) fn new(wanted: Option<Wanted>) -> Self {
        Lookup {
            wanted,
            found: RefCell::default(),
        }
    }

    /// Reads with a snapshot of now, whatever the isolation level ([`crate::spi::Snapshot::Latest`]).
    /// None if SQL must do it.
    pub(crate) fn reader(&self) -> Option<Reader> {
        let wanted = self.wanted.as_ref()?;
        let table = Open::table(wanted.table)?;
        // With the lock held, all that was changed before is known.
        let generation = cache::generation();
        let known = self.found.borrow().clone();
        let path = match known {
            Some(found) if found.generation == generation => found.path,
            _ => {
                // SAFETY: the table is open.
                let path = unsafe { Path::find(wanted, table.relation) }.map(Rc::new);
                self.found.replace(Some(Found {
                    generation,
                    path: path.clone(),
                }));
                path
            }
        };
        let path = path?;
        // SAFETY: the table is open and locked.
        if !unsafe { path.fits_table(table.relation) } {
            return None;
        }
        let reader = Reader::new(path, table)?;
        (cache::generation() == generation).then_some(reader)
    }
}

/// An index that serves, and where it has what is asked for.
struct Path {
    index: pg_sys::Oid,
    key_type: KeyType,
    collation: pg_sys::Oid,
    /// Whether the index has all that is asked for.
    is_covering: bool,
    /// Of the key and of each column asked for: its place in the index, or in the table; and its base
    /// type.
    columns: Vec<(usize, pg_sys::Oid)>,
    /// The last one of them.
    last: i32,
    /// Each of them in the table, and in an index that has all: its number, from 1, and its declared
    /// type.
    in_table: Vec<(pg_sys::AttrNumber, pg_sys::Oid)>,
    in_index: Vec<(pg_sys::AttrNumber, pg_sys::Oid)>,
}

impl Path {
    /// Whether the columns of the table are of the types that were found: a value is never taken for
    /// one of another type.
    ///
    /// # Safety
    /// The table is open and locked.
    unsafe fn fits_table(&self, table: pg_sys::Relation) -> bool {
        // SAFETY: as the caller promises.
        unsafe { are_of_types((*table).rd_att, &self.in_table) }
    }

    /// The same of the index whose entries are read: a btree may store another type than its table's
    /// column has.
    ///
    /// # Safety
    /// The index is open and locked.
    unsafe fn fits_index(&self, index: pg_sys::Relation) -> bool {
        // SAFETY: as the caller promises.
        unsafe { are_of_types((*index).rd_att, &self.in_index) }
    }
}

/// # Safety
/// The descriptor is that of an open relation.
unsafe fn are_of_types(
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
    unsafe fn find(wanted: &Wanted, table: pg_sys::Relation) -> Option<Self> {
        // SAFETY: as the caller promises; the list is a copy.
        unsafe {
            if !is_plain(table, wanted.owner) {
                return None;
            }
            let number = |column: &String| column_number(table, column);
            let key = number(&wanted.key)?;
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
                let index = Open::index(oid.oid_value);
                let path = index.path(table, key, wanted.key_type, &columns);
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
unsafe fn is_plain(table: pg_sys::Relation, owner: pg_sys::Oid) -> bool {
    // SAFETY: as the caller promises.
    unsafe {
        let class = (*table).rd_rel;
        (*class).relkind == pg_sys::RELKIND_RELATION as c_char
            && (*class).relam == pg_sys::HEAP_TABLE_AM_OID
            && !(*class).relhassubclass
            && (*table).rd_rules.is_null()
            && (*class).relowner == owner
            && !has_shards()
            && pg_sys::pg_class_aclcheck((*table).rd_id, owner, pg_sys::ACL_SELECT.into())
                == pg_sys::AclResult::ACLCHECK_OK
    }
}

/// A column that is stored in the row; numbered from 1.
///
/// # Safety
/// The table is open and locked.
unsafe fn column_number(table: pg_sys::Relation, name: &str) -> Option<pg_sys::AttrNumber> {
    const VIRTUAL: c_char = b'v' as c_char;
    // SAFETY: as the caller promises; a column that is not there has the number 0.
    unsafe {
        let number = pg_sys::get_attnum((*table).rd_id, c_string(name).as_ptr());
        (number > 0 && (*attribute((*table).rd_att, number as usize - 1)).attgenerated != VIRTUAL)
            .then_some(number)
    }
}

/// # Safety
/// The table is open, and has the column.
unsafe fn base_type(table: pg_sys::Relation, column: pg_sys::AttrNumber) -> pg_sys::Oid {
    // SAFETY: as the caller promises.
    unsafe { pg_sys::getBaseType((*attribute((*table).rd_att, column as usize - 1)).atttypid) }
}

/// A relation that is open for reading, locked to the end of the transaction.
struct Open {
    relation: pg_sys::Relation,
}

impl Open {
    /// None if it is not there any more.
    fn table(table: pg_sys::Oid) -> Option<Self> {
        // SAFETY: closed by Drop, or by the abort that follows an error.
        let relation = unsafe { pg_sys::try_relation_open(table, pg_sys::AccessShareLock as i32) };
        (!relation.is_null()).then_some(Open { relation })
    }

    /// # Safety
    /// The index is there: its table is locked and lists it.
    unsafe fn index(index: pg_sys::Oid) -> Self {
        Open {
            // SAFETY: as above.
            relation: unsafe { pg_sys::index_open(index, pg_sys::AccessShareLock as i32) },
        }
    }

    /// The path that this index is, if it is a valid btree of all rows, with the key first.
    ///
    /// # Safety
    /// This is an index of the table; both are open.
    unsafe fn path(
        &self,
        table: pg_sys::Relation,
        key: pg_sys::AttrNumber,
        key_type: KeyType,
        columns: &[pg_sys::AttrNumber],
    ) -> Option<Path> {
        // SAFETY: as the caller promises. An index has at least one column, with an operator family
        // and a collation.
        unsafe {
            let relation = self.relation;
            let index = (*relation).rd_index;
            let indexed = std::slice::from_raw_parts(
                (*index).indkey.values.as_ptr(),
                (*index).indnatts as usize,
            );
            let collation = *(*relation).rd_indcollation;
            let serves = (*(*relation).rd_rel).relam == pg_sys::BTREE_AM_OID
                && (*index).indisvalid
                && (*index).indislive
                && !(*index).indcheckxmin
                && pg_sys::RelationGetIndexPredicate(relation).is_null()
                && indexed[0] == key
                && (*attribute((*table).rd_att, key as usize - 1)).attcollation == collation
                // Another spelling may be equal to the key; SQL, too, then refuses.
                && (collation == pg_sys::InvalidOid
                    || pg_sys::get_collation_isdeterministic(collation))
                && equals(relation) == Some((key_type.operand(), key_type.equals()));
            if !serves {
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
            let in_table_types = in_table_types.collect();
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
                key_type,
                collation,
                is_covering,
                last: last.unwrap_or_default(),
                columns,
                in_table: in_table_types,
                in_index: in_index_types,
            })
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // While an error unwinds, the abort that follows closes it.
        if std::thread::panicking() {
            return;
        }
        // SAFETY: opened once, closed once; an index is closed like any relation. The lock stays.
        unsafe { pg_sys::relation_close(self.relation, pg_sys::NoLock as i32) };
    }
}

/// The type that an index's first column compares, and the function behind its `=`.
///
/// # Safety
/// The btree index is open.
unsafe fn equals(index: pg_sys::Relation) -> Option<(pg_sys::Oid, pg_sys::Oid)> {
    // SAFETY: as the caller promises.
    unsafe {
        let operand = *(*index).rd_opcintype;
        let operator = pg_sys::get_opfamily_member(
            *(*index).rd_opfamily,
            operand,
            operand,
            pg_sys::BTEqualStrategyNumber as i16,
        );
        (operator != pg_sys::InvalidOid).then(|| (operand, pg_sys::get_opcode(operator)))
    }
}

impl KeyType {
    /// The type whose operators compare such keys.
    fn operand(self) -> pg_sys::Oid {
        match self {
            KeyType::Text | KeyType::Varchar => pg_sys::TEXTOID,
            KeyType::Uuid => pg_sys::UUIDOID,
            KeyType::Int2 => pg_sys::INT2OID,
            KeyType::Int4 => pg_sys::INT4OID,
            KeyType::Int8 => pg_sys::INT8OID,
        }
    }

    /// The function behind `=`.
    fn equals(self) -> pg_sys::Oid {
        pg_sys::Oid::from(match self {
            KeyType::Text | KeyType::Varchar => pg_sys::F_TEXTEQ,
            KeyType::Uuid => pg_sys::F_UUID_EQ,
            KeyType::Int2 => pg_sys::F_INT2EQ,
            KeyType::Int4 => pg_sys::F_INT4EQ,
            KeyType::Int8 => pg_sys::F_INT8EQ,
        })
    }

    /// How the type is stored: its length, whether by value, its alignment.
    fn storage(self) -> (i32, bool, u8) {
        match self {
            KeyType::Text | KeyType::Varchar => (-1, false, pg_sys::TYPALIGN_INT),
            KeyType::Uuid => (16, false, pg_sys::TYPALIGN_CHAR),
            KeyType::Int2 => (2, true, pg_sys::TYPALIGN_SHORT),
            KeyType::Int4 => (4, true, pg_sys::TYPALIGN_INT),
            KeyType::Int8 => (8, true, pg_sys::TYPALIGN_DOUBLE),
        }
    }

    /// A key, given by canonical text, in the current memory context.
    fn datum(self, text: &str) -> Option<pg_sys::Datum> {
        match self {
            KeyType::Text | KeyType::Varchar => text.into_datum(),
            KeyType::Int2 => text.parse::<i16>().ok()?.into_datum(),
            KeyType::Int4 => text.parse::<i32>().ok()?.into_datum(),
            KeyType::Int8 => text.parse::<i64>().ok()?.into_datum(),
            KeyType::Uuid => {
                let number = u128::from_str_radix(&text.replace('-', ""), 16).ok()?;
                Uuid::from_bytes(number.to_be_bytes()).into_datum()
            }
        }
    }
}

/// Reads the rows of keys.
pub(crate) struct Reader {
    path: Rc<Path>,
    snapshot: pg_sys::Snapshot,
    scan: pg_sys::IndexScanDesc,
    /// Holds a row of the table; null until one is looked at.
    slot: *mut pg_sys::TupleTableSlot,
    visibility_map: pg_sys::Buffer,
    /// The values of an index entry, and which of them are null.
    values: [pg_sys::Datum; pg_sys::INDEX_MAX_KEYS as usize],
    nulls: [bool; pg_sys::INDEX_MAX_KEYS as usize],
    // Closed after what Drop gives back.
    _index: Open,
    table: Open,
}

impl Reader {
    /// None if the index is not what it was when it was found.
    fn new(path: Rc<Path>, table: Open) -> Option<Self> {
        // SAFETY: the index is one of the table's, which is locked, and is not gone: no invalidation
        // has come since it was found. What the transaction has written before is to be seen.
        unsafe {
            let index = Open::index(path.index);
            if !path.fits_index(index.relation) {
                return None;
            }
            let (snapshot, scan) = pg_guard_ffi_boundary(|| {
                raw::CommandCounterIncrement();
                let snapshot = raw::RegisterSnapshot(if uses_transaction_snapshot() {
                    raw::GetLatestSnapshot()
                } else {
                    raw::GetTransactionSnapshot()
                });
                let scan = begin_scan(table.relation, index.relation, snapshot);
                (snapshot, scan)
            });
            (*scan).xs_want_itup = path.is_covering;
            Some(Reader {
                path,
                snapshot,
                scan,
                slot: std::ptr::null_mut(),
                visibility_map: pg_sys::InvalidBuffer as pg_sys::Buffer,
                values: [pg_sys::Datum::from(0); pg_sys::INDEX_MAX_KEYS as usize],
                nulls: [true; pg_sys::INDEX_MAX_KEYS as usize],
                _index: index,
                table,
            })
        }
    }

    /// Call `each` with the rows of keys, which are given by canonical text and sorted: with the place
    /// of the row's key among them. The rows of one key come one after the other.
    pub(crate) fn read(&mut self, keys: &[String], mut each: impl FnMut(usize, &Row)) {
        let path = self.path.clone();
        let argument = Argument::of(path.key_type, keys);
        let mut key = argument.scan_key(&path);
        let mut at = 0;
        // SAFETY: the scan is of one key, which it copies; the argument lives until all is read.
        unsafe {
            pg_sys::index_rescan(self.scan, &mut key, 1, std::ptr::null_mut(), 0);
            while self.next() {
                let (values, nulls) = if path.is_covering {
                    (self.values.as_ptr(), self.nulls.as_ptr())
                } else {
                    let slot = self.slot;
                    (
                        (*slot).tts_values.cast_const(),
                        (*slot).tts_isnull.cast_const(),
                    )
                };
                let row = Row {
                    columns: &path.columns,
                    values,
                    nulls,
                };
                at = row.place_among(keys, at);
                each(at, &row);
            }
        }
    }

    /// Go to the next row that the snapshot sees. As `IndexOnlyNext` and `IndexNext` do it.
    ///
    /// # Safety
    /// The scan has a key.
    unsafe fn next(&mut self) -> bool {
        // SAFETY: as the caller promises. One guard goes around all that is done for a row; what it
        // guards has nothing to drop.
        unsafe {
            loop {
                pgrx::check_for_interrupts!();
                let mut found = pg_guard_ffi_boundary(|| self.find_next());
                if found == Next::NoSlot {
                    let table = self.table.relation;
                    self.slot = pg_sys::table_slot_create(table, std::ptr::null_mut());
                    found = pg_guard_ffi_boundary(|| self.fetch());
                }
                match found {
                    Next::Row => return true,
                    Next::End => return false,
                    Next::Unseen | Next::NoSlot => {}
                }
            }
        }
    }

    /// # Safety
    /// The scan has a key; pgrx's guard is around this.
    unsafe fn find_next(&mut self) -> Next {
        // SAFETY: as the caller promises; a tid lives until the next one is asked for.
        unsafe {
            let forward = pg_sys::ScanDirection::ForwardScanDirection;
            let Some(tid) = raw::index_getnext_tid(self.scan, forward).as_ref() else {
                return Next::End;
            };
            let block = u32::from(tid.ip_blkid.bi_hi) << 16 | u32::from(tid.ip_blkid.bi_lo);
            if self.path.is_covering && self.is_all_visible(block) {
                self.take_entry();
                return Next::Row;
            }
            self.fetch()
        }
    }

    /// The row in the table, of the entry that was just found.
    ///
    /// # Safety
    /// As of [`Reader::find_next`].
    unsafe fn fetch(&mut self) -> Next {
        if self.slot.is_null() {
            return Next::NoSlot;
        }
        // SAFETY: as the caller promises; the slot is of the table.
        unsafe {
            if !raw::index_fetch_heap(self.scan, self.slot) {
                return Next::Unseen;
            }
            if self.path.is_covering {
                self.take_entry();
            } else if i32::from((*self.slot).tts_nvalid) < self.path.last {
                raw::slot_getsomeattrs_int(self.slot, self.path.last);
            }
        }
        Next::Row
    }

    /// # Safety
    /// As of [`Reader::find_next`]; the scan has an entry.
    unsafe fn take_entry(&mut self) {
        // SAFETY: as the caller promises. An index has at most INDEX_MAX_KEYS columns.
        unsafe {
            let (values, nulls) = (self.values.as_mut_ptr(), self.nulls.as_mut_ptr());
            let (entry, descriptor) = ((*self.scan).xs_itup, (*self.scan).xs_itupdesc);
            raw::index_deform_tuple(entry, descriptor, values, nulls);
        }
    }

    /// Whether every transaction sees all rows of the block.
    ///
    /// # Safety
    /// As of [`Reader::find_next`]; the scan has just found a row in the block.
    unsafe fn is_all_visible(&mut self, block: pg_sys::BlockNumber) -> bool {
        let map = &raw mut self.visibility_map;
        // SAFETY: as the caller promises; the map's buffer is kept pinned.
        unsafe {
            let status = raw::visibilitymap_get_status(self.table.relation, block, map);
            if u32::from(status) & pg_sys::VISIBILITYMAP_ALL_VISIBLE == 0 {
                return false;
            }
            // Of a row that is fetched, the access method notes that it was read.
            if pg_sys::XactIsoLevel == pg_sys::XACT_SERIALIZABLE as i32 {
                raw::PredicateLockPage(self.table.relation, block, self.snapshot);
            }
            true
        }
    }
}

/// What there is of the next entry.
#[derive(Clone, Copy, PartialEq)]
enum Next {
    Row,
    /// The snapshot does not see its row.
    Unseen,
    /// The row is to be fetched, and there is no slot for it yet.
    NoSlot,
    End,
}

impl Drop for Reader {
    fn drop(&mut self) {
        // While an error unwinds, the abort that follows gives them back.
        if std::thread::panicking() {
            return;
        }
        // SAFETY: made by `new`, given back once, before the relations are closed.
        unsafe {
            pg_guard_ffi_boundary(|| {
                if self.visibility_map != pg_sys::InvalidBuffer as pg_sys::Buffer {
                    raw::ReleaseBuffer(self.visibility_map);
                }
                if !self.slot.is_null() {
                    raw::ExecDropSingleTupleTableSlot(self.slot);
                }
                raw::index_endscan(self.scan);
                raw::UnregisterSnapshot(self.snapshot);
            });
        }
    }
}

/// # Safety
/// Both relations are open, and the snapshot is registered; pgrx's guard is around this.
unsafe fn begin_scan(
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
) -> pg_sys::IndexScanDesc {
    // SAFETY: as the caller promises.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        return raw::index_beginscan(table, index, snapshot, 1, 0);
        #[cfg(feature = "pg18")]
        return raw::index_beginscan(table, index, snapshot, std::ptr::null_mut(), 1, 0);
    }
}

/// What is looked for, as the index has it: a key or an array of them.
struct Argument {
    datum: pg_sys::Datum,
    flags: u32,
    /// Whether the datum is a pointer to memory that is to be given back.
    is_owned: bool,
}

impl Argument {
    /// Text that the key type cannot hold is no row's key.
    fn of(key_type: KeyType, keys: &[String]) -> Self {
        let (length, is_by_value, alignment) = key_type.storage();
        if let [key] = keys
            && let Some(datum) = key_type.datum(key)
        {
            return Argument {
                datum,
                flags: 0,
                is_owned: !is_by_value,
            };
        }
        let mut memory = PgMemoryContexts::new("token_balance keys");
        // SAFETY: the keys live in that context until they are copied into the array.
        let array = unsafe {
            let mut datums: Vec<_> = memory.switch_to(|_| {
                let keys = keys.iter();
                keys.filter_map(|key| key_type.datum(key)).collect()
            });
            pg_sys::construct_array(
                datums.as_mut_ptr(),
                datums.len() as i32,
                key_type.operand(),
                length,
                is_by_value,
                alignment as c_char,
            )
        };
        Argument {
            datum: pg_sys::Datum::from(array),
            flags: pg_sys::SK_SEARCHARRAY,
            is_owned: true,
        }
    }

    /// Valid as long as the argument lives.
    fn scan_key(&self, path: &Path) -> pg_sys::ScanKeyData {
        let mut key = pg_sys::ScanKeyData::default();
        // SAFETY: the key is of the first column, and the function is that of the key type.
        unsafe {
            pg_sys::ScanKeyEntryInitialize(
                &mut key,
                self.flags as i32,
                1,
                pg_sys::BTEqualStrategyNumber as u16,
                pg_sys::InvalidOid,
                path.collation,
                path.key_type.equals(),
                self.datum,
            );
        }
        key
    }
}

impl Drop for Argument {
    fn drop(&mut self) {
        if self.is_owned && !std::thread::panicking() {
            // SAFETY: palloc'd by `of`.
            unsafe { pg_sys::pfree(self.datum.cast_mut_ptr()) };
        }
    }
}

/// What was asked for of a row.
pub(crate) struct Row<'a> {
    columns: &'a [(usize, pg_sys::Oid)],
    values: *const pg_sys::Datum,
    nulls: *const bool,
}

impl Row<'_> {
    fn datum(&self, column: usize) -> Option<(pg_sys::Datum, pg_sys::Oid)> {
        let (place, type_oid) = self.columns[column + 1]; // the key comes first
        // SAFETY: the row has a value and a flag at each place that the path names.
        unsafe { (!*self.nulls.add(place)).then(|| (*self.values.add(place), type_oid)) }
    }

    /// How many columns were asked for.
    pub(crate) fn len(&self) -> usize {
        self.columns.len() - 1
    }

    /// The place of the row's key among sorted `keys`, one of which it is: mostly that of the row
    /// before, or the next one.
    fn place_among(&self, keys: &[String], before: usize) -> usize {
        let (place, type_oid) = self.columns[0];
        // SAFETY: as in `datum`; a key that was found is not null.
        let datum = unsafe { *self.values.add(place) };
        let is = |key: &String| is_text_of(datum, type_oid, key);
        if keys.len() == 1 || is(&keys[before]) {
            return before;
        }
        if keys.get(before + 1).is_some_and(is) {
            return before + 1;
        }
        // SAFETY: the datum is of the type.
        let key = unsafe { plain_text(datum, type_oid) }.unwrap_or_default();
        keys.binary_search(&key).unwrap_or(before)
    }

    /// The text of a column of a key type; None for a null.
    pub(crate) fn text(&self, column: usize) -> Option<String> {
        let (datum, type_oid) = self.datum(column)?;
        // SAFETY: the datum is of the type.
        unsafe { plain_text(datum, type_oid) }
    }

    /// Whether that text is `other`.
    pub(crate) fn is_text(&self, column: usize, other: Option<&str>) -> bool {
        match (self.datum(column), other) {
            (None, None) => true,
            (Some((datum, type_oid)), Some(other)) => is_text_of(datum, type_oid, other),
            _ => false,
        }
    }

    /// A column that holds [`Holds::Integer`]; None for a null.
    pub(crate) fn integer(&self, column: usize) -> Option<i64> {
        let (datum, type_oid) = self.datum(column)?;
        Some(match type_oid {
            pg_sys::INT2OID => (datum.value() as i16).into(),
            pg_sys::INT4OID => (datum.value() as i32).into(),
            pg_sys::INT8OID => datum.value() as i64,
            other => unreachable!("a value of type {} is no integer", other.to_u32()),
        })
    }
}

/// Whether the text of a datum of a key type is `other`.
fn is_text_of(datum: pg_sys::Datum, type_oid: pg_sys::Oid, other: &str) -> bool {
    if matches!(type_oid, pg_sys::TEXTOID | pg_sys::VARCHAROID) {
        // SAFETY: the datum is of the type; what is stored plainly is compared as it stands.
        if let Some(bytes) = unsafe { plain_bytes(datum.cast_mut_ptr()) } {
            return bytes == other.as_bytes();
        }
    }
    // SAFETY: as above.
    unsafe { plain_text(datum, type_oid) }.as_deref() == Some(other)
}
