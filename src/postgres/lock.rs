//! Locks that are held until the transaction ends: on things of the extension's own, which have a
//! number, and on relations.

use pgrx::{IntoDatum, pg_sys};

use super::raw;
use super::versions::is_lock_held;

/// What is locked: a number in a space of such numbers. The server calls these advisory locks; its SQL
/// functions use the spaces 1 and 2, so no application takes one of another space by accident.
#[derive(Clone, Copy)]
pub(crate) struct Object {
    pub(crate) space: u16,
    pub(crate) key: u64,
}

// The server's modes that conflict as the intention locks of the literature do.
pub(crate) const INTENTION_SHARE: i32 = pg_sys::RowShareLock as i32;
pub(crate) const INTENTION_EXCLUSIVE: i32 = pg_sys::RowExclusiveLock as i32;
pub(crate) const EXCLUSIVE: i32 = pg_sys::ExclusiveLock as i32;
pub(crate) const SHARE: i32 = pg_sys::ShareLock as i32;

/// Wait for the lock. Whether the transaction had not held it yet.
pub(crate) fn lock(object: Object, mode: i32) -> bool {
    acquire(object, mode, false) == pg_sys::LockAcquireResult::LOCKACQUIRE_OK
}

/// Take the lock if that is possible at once. Whether the transaction now has it.
pub(crate) fn try_lock(object: Object, mode: i32) -> bool {
    acquire(object, mode, true) != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

fn acquire(object: Object, mode: i32, gives_up: bool) -> pg_sys::LockAcquireResult::Type {
    let tag = tag(object);
    // SAFETY: the tag is complete; the lock manager copies it. A transaction-level lock is released
    // by the server.
    unsafe { pg_sys::LockAcquire(&tag, mode, false, gives_up) }
}

/// Let go of a lock that this transaction holds.
pub(crate) fn release(object: Object, mode: i32) {
    // SAFETY: the tag is complete.
    unsafe { pg_sys::LockRelease(&tag(object), mode, false) };
}

/// Whether this transaction holds the lock in that very mode.
pub(crate) fn holds(object: Object, mode: i32) -> bool {
    is_lock_held(&tag(object), mode)
}

fn tag(object: Object) -> pg_sys::LOCKTAG {
    pg_sys::LOCKTAG {
        // SAFETY: reads a backend variable.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: (object.key >> 32) as u32,
        locktag_field3: object.key as u32,
        locktag_field4: object.space,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    }
}

/// Whether this transaction writes the rows of the relation, or has: a statement locks its table so.
pub(crate) fn is_written(relation: pg_sys::Oid) -> bool {
    let tag = pg_sys::LOCKTAG {
        // SAFETY: reads a backend variable.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: relation.to_u32(),
        locktag_field3: 0,
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_RELATION as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    };
    is_lock_held(&tag, pg_sys::RowExclusiveLock as i32)
}

/// A number for a text. Two texts that have the same one only wait for each other.
pub(crate) fn hash(text: &str) -> u64 {
    // SAFETY: the arguments are of the types that the function takes; the C collation makes it a
    // hash of the bytes.
    unsafe {
        let hash = pg_sys::OidFunctionCall2Coll(
            pg_sys::Oid::from(pg_sys::F_HASHTEXTEXTENDED),
            pg_sys::C_COLLATION_OID,
            text.into_datum().unwrap_or(pg_sys::Datum::from(0)),
            pg_sys::Datum::from(0),
        );
        hash.value() as u64
    }
}

/// Wait for locks on relations, in this order. InvalidOid stands for none.
pub(crate) fn lock_relations(relations: &[(pg_sys::Oid, u32)]) {
    // SAFETY: locks OIDs. One guard of pgrx's around all; there is nothing inside to be dropped.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            for (relation, mode) in relations {
                if *relation != pg_sys::InvalidOid {
                    raw::LockRelationOid(*relation, *mode as i32);
                }
            }
        });
    }
}
