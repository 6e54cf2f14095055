//! Relations that are open, and what is kept of them until the server says that they have changed.

use std::cell::RefCell;
use std::rc::Rc;

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

use crate::postgres::invalidation::generation;
use crate::postgres::raw;
use crate::postgres::unwind::unless_unwinding;

/// A relation that is open, locked to the end of the transaction.
pub(super) struct Open {
    pub(super) relation: pg_sys::Relation,
}

impl Open {
    /// None if it is not there any more.
    fn table(table: pg_sys::Oid, mode: u32) -> Option<Self> {
        // SAFETY: closed by Drop, or by the abort that follows an error.
        let relation = unsafe { pg_sys::try_relation_open(table, mode as i32) };
        Self::of(relation)
    }

    /// None for null.
    fn of(relation: pg_sys::Relation) -> Option<Self> {
        (!relation.is_null()).then(|| Open { relation })
    }

    /// # Safety
    /// The index is there: its table is locked and lists it.
    pub(super) unsafe fn index(index: pg_sys::Oid, mode: u32) -> Self {
        Open {
            // SAFETY: as above.
            relation: unsafe { pg_sys::index_open(index, mode as i32) },
        }
    }

    /// A table, and indexes that it had in this generation of what is kept: None if it is another one by now. One guard
    /// of pgrx's around all.
    fn together(
        table: pg_sys::Oid,
        indexes: impl ExactSizeIterator<Item = pg_sys::Oid>,
        mode: u32,
        since: u64,
    ) -> Option<(Self, Vec<Self>)> {
        let mode = mode as i32;
        let mut opened = Vec::with_capacity(indexes.len());
        // SAFETY: closed by Drop, or by the abort that follows an error. With the table's lock held, all that was
        // changed before is known: if that is nothing, the indexes are there. Nothing inside is to be dropped: the list
        // has room.
        let table = unsafe {
            pg_guard_ffi_boundary(|| {
                let table = raw::try_relation_open(table, mode);
                if !table.is_null() && generation() == since {
                    for index in indexes {
                        let relation = raw::index_open(index, mode);
                        opened.push(Open { relation });
                    }
                }
                table
            })
        };
        let table = Self::of(table)?;
        (generation() == since).then_some((table, opened))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // SAFETY: opened once, closed once; an index is closed like any relation. The lock stays, so nothing is raised.
        unless_unwinding(|| unsafe { raw::relation_close(self.relation, pg_sys::NoLock as i32) });
    }
}

/// What was found of a table.
pub(super) trait Found {
    /// The indexes that are opened with it.
    fn indexes(&self) -> impl ExactSizeIterator<Item = pg_sys::Oid>;
}

/// A table that is open, and what was found of it.
pub(super) struct Opened<T> {
    pub(super) found: Rc<T>,
    /// Those that [`Found::indexes`] names, in their order. Closed before the table.
    pub(super) indexes: Vec<Open>,
    pub(super) table: Open,
}

/// What was found of a table, kept as long as nothing that matters has changed ([`generation`]): an ALTER of the table,
/// an index or a trigger that is made or dropped, an index that becomes valid, and a GRANT each invalidate the table,
/// which is watched as long as the backend lives.
pub(super) struct Kept<T>(RefCell<Option<(u64, Option<Rc<T>>)>>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Kept(RefCell::default())
    }
}

impl<T: Found> Kept<T> {
    /// The table, locked in this mode to the end of the transaction, with what `find` finds of it or has found before.
    /// None if that is nothing, if the table is gone, or if something changes meanwhile.
    pub(super) fn open(
        &self,
        table: pg_sys::Oid,
        mode: u32,
        find: impl FnOnce(pg_sys::Relation) -> Option<T>,
    ) -> Option<Opened<T>> {
        if let Some((since, found)) = self.known() {
            let found = found?;
            if let Some((table, indexes)) = Open::together(table, found.indexes(), mode, since) {
                return Some(Opened {
                    found,
                    indexes,
                    table,
                });
            }
        }
        let table = Open::table(table, mode)?;
        // With the lock held, all that was changed before is known.
        let since = generation();
        let found = find(table.relation).map(Rc::new);
        self.0.replace(Some((since, found.clone())));
        let found = found?;
        // SAFETY: the indexes are the table's, which is locked.
        let open = |index| unsafe { Open::index(index, mode) };
        let indexes = found.indexes().map(open).collect();
        (generation() == since).then_some(Opened {
            found,
            indexes,
            table,
        })
    }

    /// What was found in the present generation, and that; None if nothing was looked for in it.
    fn known(&self) -> Option<(u64, Option<Rc<T>>)> {
        let known = self.0.borrow();
        known.clone().filter(|(since, _)| *since == generation())
    }
}
