//! The rows of keys, read with an index.

use std::rc::Rc;

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

use super::index_path::Path;
use super::key::{Argument, scope_key};
use super::open::{Open, Opened};
use crate::postgres::datum::{datum_text, plain_bytes, plain_text};
use crate::postgres::raw;
use crate::postgres::snapshot::uses_transaction_snapshot;
use crate::postgres::unwind::unless_unwinding;
use crate::postgres::versions::begin_scan;

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
    /// None if they are not what they were when the path was found.
    pub(super) fn new(opened: Opened<Path>) -> Option<Self> {
        let Opened {
            found: path,
            mut indexes,
            table,
        } = opened;
        let index = indexes.pop()?;
        // SAFETY: both are open and locked. What the transaction has written before is to be seen.
        unsafe {
            if !path.fits_table(table.relation) || !path.fits_index(index.relation) {
                return None;
            }
            let (snapshot, scan) = pg_guard_ffi_boundary(|| {
                raw::CommandCounterIncrement();
                let snapshot = raw::RegisterSnapshot(if uses_transaction_snapshot() {
                    raw::GetLatestSnapshot()
                } else {
                    raw::GetTransactionSnapshot()
                });
                let keys = 1 + i32::from(path.scope.is_some());
                let scan = begin_scan(table.relation, index.relation, snapshot, keys);
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
    pub(crate) fn read(&mut self, keys: &[String], mut each: impl FnMut(usize, &FoundRow)) {
        debug_assert!(keys.is_sorted(), "rows are found by a search among keys");
        let path = self.path.clone();
        let argument = Argument::of(path.key_type, keys);
        let mut at = 0;
        // SAFETY: the argument lives until all is read.
        unsafe {
            self.start(&path, &argument);
            while self.next() {
                let row = self.row(&path);
                at = row.place_among(keys, at);
                each(at, &row);
            }
        }
    }

    /// Whether there is a row of the key.
    pub(crate) fn has_any(&mut self, key: &str) -> bool {
        let path = self.path.clone();
        let argument = Argument::of(path.key_type, &[key]);
        // SAFETY: the argument lives until a row is found.
        unsafe {
            self.start(&path, &argument);
            self.next()
        }
    }

    /// # Safety
    /// The argument lives until all is read.
    unsafe fn start(&mut self, path: &Path, argument: &Argument) {
        let mut keys = [argument.scan_key(path.key_type, path.collation); 2];
        let mut count = 1;
        if let Some(scope) = path.scope {
            keys[1] = scope_key(scope);
            count = 2;
        }
        // SAFETY: the scan is of as many keys, which it copies.
        unsafe {
            pg_sys::index_rescan(self.scan, keys.as_mut_ptr(), count, std::ptr::null_mut(), 0);
        }
    }

    /// The row that was just found.
    fn row<'a>(&self, path: &'a Path) -> FoundRow<'a> {
        let (values, nulls) = if path.is_covering {
            (self.values.as_ptr(), self.nulls.as_ptr())
        } else {
            // SAFETY: the slot has the row.
            unsafe {
                let slot = self.slot;
                (
                    (*slot).tts_values.cast_const(),
                    (*slot).tts_isnull.cast_const(),
                )
            }
        };
        FoundRow {
            columns: &path.columns,
            values,
            nulls,
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
            } else {
                raw::get_columns(self.slot, self.path.last);
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
        // SAFETY: made by `new`, given back once, before the relations are closed.
        unless_unwinding(|| unsafe {
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
        });
    }
}

/// What was asked for of a row.
pub(crate) struct FoundRow<'a> {
    columns: &'a [(usize, pg_sys::Oid)],
    values: *const pg_sys::Datum,
    nulls: *const bool,
}

impl FoundRow<'_> {
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

    /// The text of a column that holds [`Holds::Numeric`]; None for a null.
    pub(crate) fn numeric(&self, column: usize) -> Option<String> {
        let (datum, type_oid) = self.datum(column)?;
        // SAFETY: the datum is of the type.
        Some(unsafe { datum_text(datum, type_oid) })
    }

    /// A column that holds [`Holds::Moment`], in the server's own count; None for a null.
    pub(crate) fn moment(&self, column: usize) -> Option<pg_sys::TimestampTz> {
        self.datum(column)
            .map(|(datum, _)| datum.value() as pg_sys::TimestampTz)
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
