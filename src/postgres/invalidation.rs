//! When what a backend keeps is no longer what the catalogs say: the server's invalidation messages,
//! which reach every session that takes a lock or begins a transaction.
//!
//! A room that keeps something has its relations, schemas and functions watched, by OID. These messages count:
//! - of a relation that is watched;
//! - of a schema that is watched: ALTER SCHEMA ... RENAME says nothing about the relations in it;
//! - of a function that is watched: CREATE OR REPLACE FUNCTION says nothing about the views that call it;
//! - of a type that is watched: ALTER DOMAIN says nothing about the tables that have columns of it;
//! - of any role or membership.
//!
//! While something is being read that is to be kept, all of them count, since nobody knows yet which
//! relations it is of.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;

use pgrx::pg_sys;
use pgrx::pg_sys::SysCacheIdentifier::{AUTHMEMROLEMEM, AUTHOID, NAMESPACEOID, PROCOID, TYPEOID};

thread_local! {
    /// The relations whose invalidation matters. None is ever taken out: a statement that is under
    /// way may still use what is no longer kept.
    static WATCHED: RefCell<HashSet<pg_sys::Oid>> = RefCell::default();
    /// The schemas, functions and types whose invalidation matters: each by its cache, and the hash under which that has it.
    static WATCHED_ENTRIES: RefCell<HashSet<(i32, u32)>> = RefCell::default();
    static IS_STALE: Cell<bool> = const { Cell::new(true) };
    /// How often [`EverythingMatters`].
    static READING: Cell<u32> = const { Cell::new(0) };
    static GENERATION: Cell<u64> = const { Cell::new(1) };
}

/// Whether something that matters has changed since a [`Reading`] ended well.
pub(crate) fn is_stale() -> bool {
    IS_STALE.get()
}

/// Another number after each change of something that matters. What is kept of a watched table is
/// kept with this number, read when the table was locked.
pub(crate) fn generation() -> u64 {
    GENERATION.get()
}

/// While this value lives, every invalidation counts.
pub(crate) struct EverythingMatters;

impl EverythingMatters {
    pub(crate) fn begin() -> Self {
        READING.set(READING.get() + 1);
        EverythingMatters
    }
}

impl Drop for EverythingMatters {
    fn drop(&mut self) {
        READING.set(READING.get() - 1);
    }
}

/// What is kept is being read anew. Until that has ended well it is stale.
pub(crate) struct Reading {
    since: u64,
    _everything: EverythingMatters,
}

impl Reading {
    pub(crate) fn begin() -> Self {
        IS_STALE.set(true);
        Reading {
            since: GENERATION.get(),
            _everything: EverythingMatters::begin(),
        }
    }

    /// What was read holds, unless something has changed since [`Reading::begin`].
    pub(crate) fn end(self) {
        IS_STALE.set(GENERATION.get() != self.since);
    }
}

/// From now on, the invalidation of these relations matters.
pub(crate) fn watch(relations: impl IntoIterator<Item = pg_sys::Oid>) {
    WATCHED.with_borrow_mut(|watched| watched.extend(relations));
}

/// From now on, the invalidation of this schema matters.
pub(crate) fn watch_schema(schema: pg_sys::Oid) {
    watch_entry(NAMESPACEOID as i32, schema);
}

/// From now on, the invalidation of these functions matters.
pub(crate) fn watch_functions(functions: impl IntoIterator<Item = pg_sys::Oid>) {
    for function in functions {
        watch_entry(PROCOID as i32, function);
    }
}

/// From now on, the invalidation of these types matters.
pub(crate) fn watch_types(types: impl IntoIterator<Item = pg_sys::Oid>) {
    for one in types {
        watch_entry(TYPEOID as i32, one);
    }
}

/// `cache` has an OID for its only key.
fn watch_entry(cache: i32, oid: pg_sys::Oid) {
    let (key, none) = (pg_sys::Datum::from(oid), pg_sys::Datum::from(0));
    // SAFETY: a cache of the server, with as many keys as it has.
    let hash = unsafe { pg_sys::GetSysCacheHashValue(cache, key, none, none, none) };
    WATCHED_ENTRIES.with_borrow_mut(|watched| watched.insert((cache, hash)));
}

/// Have the server tell what is invalidated. Called once per backend.
pub(crate) fn init() {
    // SAFETY: the callbacks are functions of this library, which is never unloaded.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(on_relation), pg_sys::Datum::from(0));
        for cache in [NAMESPACEOID, PROCOID, TYPEOID, AUTHOID, AUTHMEMROLEMEM] {
            let cache = cache as i32;
            pg_sys::CacheRegisterSyscacheCallback(cache, Some(on_entry), pg_sys::Datum::from(0));
        }
    }
}

/// Called by the server for each invalidated relation; InvalidOid stands for all of them. It may
/// run at any time, so it only marks.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_relation(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    let matters = READING.get() > 0
        || relation == pg_sys::InvalidOid
        || WATCHED.with_borrow(|watched| watched.contains(&relation));
    if matters {
        mark_stale();
    }
}

/// Called by the server for each invalidated entry of one of the caches; the hash 0 stands for all of
/// them. As above.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_entry(_argument: pg_sys::Datum, cache: i32, hash: u32) {
    let is_by_entry = [NAMESPACEOID, PROCOID, TYPEOID].map(|one| one as i32);
    let is_of_all = hash == 0 || !is_by_entry.contains(&cache);
    let matters = READING.get() > 0
        || is_of_all
        || WATCHED_ENTRIES.with_borrow(|watched| watched.contains(&(cache, hash)));
    if matters {
        mark_stale();
    }
}

/// What is kept is not what the catalogs say. Who has changed something for all sessions says so for the rest of its own
/// command, at the end of which the server does.
pub(crate) fn mark_stale() {
    IS_STALE.set(true);
    GENERATION.set(GENERATION.get() + 1);
}
