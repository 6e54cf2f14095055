//! Locks of the extension's own: two settlements of one workflow take turns, and so do two credits
//! with one reference.
//!
//! # Who waits for whom
//! A transaction takes the locks of many workflows in one order, and **never waits for a stronger lock
//! on what it has locked already**: two that did so would wait for each other. It has either the lock
//! of all workflows, taken before any other, or locks on single ones.

use std::cell::RefCell;
use std::collections::BTreeMap;

use pgrx::IntoDatum;
use pgrx::pg_sys;

use crate::binding::{Binding, LateUsage, Payer};

/// SQL's advisory lock functions use 1 and 2 here, so no application can take these by accident.
const WORKFLOW_SPACE: u16 = 0x7462;
const REFERENCE_SPACE: u16 = 0x7463;
const ALL_WORKFLOWS: (u16, u64) = (0x7464, 0);

/// From this number of locks on, a transaction would rather have the lock of all workflows: the
/// server's lock table is shared by all sessions.
const MAX_LOCKS: usize = 1024;

/// Locks on single workflows that were acquired in a subtransaction; they go with it.
struct Taken {
    subtransaction: pg_sys::SubTransactionId,
    locks: usize,
}

thread_local! {
    static TAKEN: RefCell<Vec<Taken>> = const { RefCell::new(Vec::new()) };
}

/// Locks on single workflows that this transaction holds. One that it asks for again is no other one.
fn taken() -> usize {
    TAKEN.with_borrow(|taken| taken.iter().map(|taken| taken.locks).sum())
}

fn note_taken() {
    // SAFETY: reads a backend variable.
    let subtransaction = unsafe { pg_sys::GetCurrentSubTransactionId() };
    TAKEN.with_borrow_mut(|taken| match taken.last_mut() {
        Some(last) if last.subtransaction == subtransaction => last.locks += 1,
        _ => taken.push(Taken {
            subtransaction,
            locks: 1,
        }),
    });
}

/// Wait for the locks on `workflows` and hold them until the transaction ends. They are taken in one
/// order by everybody.
///
/// Where the usage names the account, the lock only saves retries, and a statement that completes
/// very many runs goes without: the settlement row alone decides (see `settle::claim`). It is needed
/// where the workflow's account pays, since two runs of one workflow may have two payers, whose
/// settlement rows do not know of each other; and where late usage is settled at once, since usage
/// that is just being written has no settlement row at all. There, very many runs lock all
/// workflows, and who locks a few says so on the whole first: the intention locks of J. Gray et al.,
/// "Granularity of Locks and Degrees of Consistency in a Shared Data Base", 1976.
pub(crate) fn lock_workflows(workflows: &[String], binding: &Binding) {
    let mut keys: Vec<_> = workflows.iter().map(|workflow| hash(workflow)).collect();
    keys.sort_unstable();
    keys.dedup();
    let taken = taken();
    if taken > 0 {
        keys.retain(|key| !holds((WORKFLOW_SPACE, *key), EXCLUSIVE));
    }
    let room = MAX_LOCKS.saturating_sub(taken);
    if !is_needed(binding) {
        keys.truncate(room);
    } else if holds_all_workflows() || keys.len() > room && lock_all_workflows() {
        return;
    } else {
        lock(ALL_WORKFLOWS, INTENTION_EXCLUSIVE);
    }
    for key in keys {
        if lock((WORKFLOW_SPACE, key), EXCLUSIVE) {
            note_taken();
        }
    }
}

/// Lock all workflows, so that everybody else who settles or writes late usage waits: whether this
/// transaction now has that lock.
///
/// Waits for it only if the transaction has none that is weaker. Otherwise it is taken if it can be had
/// at once; if not, the transaction goes on with locks on single workflows.
fn lock_all_workflows() -> bool {
    if holds(ALL_WORKFLOWS, INTENTION_EXCLUSIVE) || holds(ALL_WORKFLOWS, INTENTION_SHARE) {
        return acquire(ALL_WORKFLOWS, EXCLUSIVE, IfHeld::GiveUp) != NOT_AVAILABLE;
    }
    lock(ALL_WORKFLOWS, EXCLUSIVE);
    true
}

fn holds_all_workflows() -> bool {
    holds(ALL_WORKFLOWS, EXCLUSIVE)
}

fn is_needed(binding: &Binding) -> bool {
    matches!(binding.payer, Payer::Workflow(_))
        || binding.spec.options.late_usage == LateUsage::Settle
}

/// Locks on single workflows that the transaction had not held before.
pub(crate) struct Written(Vec<(u64, i32)>);

/// The locks of who has written usage, in the order that everybody keeps: workflows that are `over`
/// are locked to be settled, the `open` ones shared. Wait for settlements of these, and have the next
/// ones wait until the transaction ends.
pub(crate) fn lock_written(over: &[String], open: &[String]) -> Written {
    let mut wanted = BTreeMap::new();
    if !holds_all_workflows() {
        let holds = |key, mode| holds((WORKFLOW_SPACE, key), mode);
        let open = open.iter().map(|workflow| hash(workflow));
        let shared = open.filter(|key| !holds(*key, SHARE) && !holds(*key, EXCLUSIVE));
        wanted.extend(shared.map(|key| (key, SHARE)));
        let over = over.iter().map(|workflow| hash(workflow));
        wanted.extend(
            over.filter(|key| !holds(*key, EXCLUSIVE))
                .map(|key| (key, EXCLUSIVE)),
        );
    }
    let is_too_many = !wanted.is_empty() && taken() + wanted.len() > MAX_LOCKS;
    // Sharing the whole would not do: two who share it could not both settle what is late.
    if is_too_many && lock_all_workflows() {
        wanted.clear();
    }
    if !wanted.is_empty() {
        let intention = if over.is_empty() {
            INTENTION_SHARE
        } else {
            INTENTION_EXCLUSIVE
        };
        lock(ALL_WORKFLOWS, intention);
    }
    for (key, mode) in &wanted {
        lock((WORKFLOW_SPACE, *key), *mode);
        note_taken();
    }
    Written(wanted.into_iter().collect())
}

impl Written {
    /// Let go of them, to take them again with others in between.
    pub(crate) fn release(self) {
        for (key, mode) in &self.0 {
            // SAFETY: the lock is held by this transaction.
            unsafe { pg_sys::LockRelease(&tag((WORKFLOW_SPACE, *key)), *mode, false) };
        }
        TAKEN.with_borrow_mut(|taken| {
            if let Some(last) = taken.last_mut() {
                last.locks -= self.0.len();
            }
        });
    }
}

// The server's modes that conflict as the intention locks of the literature do.
const INTENTION_SHARE: i32 = pg_sys::RowShareLock as i32;
const INTENTION_EXCLUSIVE: i32 = pg_sys::RowExclusiveLock as i32;
const EXCLUSIVE: i32 = pg_sys::ExclusiveLock as i32;
const SHARE: i32 = pg_sys::ShareLock as i32;

const NOT_AVAILABLE: pg_sys::LockAcquireResult::Type =
    pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL;

/// What to do while somebody else holds a lock that conflicts.
#[derive(Clone, Copy, PartialEq)]
enum IfHeld {
    Wait,
    GiveUp,
}

/// Whether the transaction had not held it yet.
fn lock(object: (u16, u64), mode: i32) -> bool {
    acquire(object, mode, IfHeld::Wait) == pg_sys::LockAcquireResult::LOCKACQUIRE_OK
}

fn acquire(object: (u16, u64), mode: i32, if_held: IfHeld) -> pg_sys::LockAcquireResult::Type {
    let tag = tag(object);
    // SAFETY: the tag is complete; the lock manager copies it. A transaction-level lock is released
    // by the server.
    unsafe { pg_sys::LockAcquire(&tag, mode, false, if_held == IfHeld::GiveUp) }
}

/// Whether this transaction holds the lock in that very mode.
fn holds(object: (u16, u64), mode: i32) -> bool {
    let tag = tag(object);
    // SAFETY: looks into the backend's own table of locks.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
        return pg_sys::LockHeldByMe(&tag, mode);
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        return pg_sys::LockHeldByMe(&tag, mode, false);
    }
}

fn tag((space, hash): (u16, u64)) -> pg_sys::LOCKTAG {
    pg_sys::LOCKTAG {
        // SAFETY: reads a backend variable.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: (hash >> 32) as u32,
        locktag_field3: hash as u32,
        locktag_field4: space,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    }
}

/// Wait for locks on relations, in this order, and hold them until the transaction ends. InvalidOid
/// stands for none.
pub(crate) fn lock_relations(relations: &[(pg_sys::Oid, u32)]) {
    unsafe extern "C-unwind" {
        fn LockRelationOid(relation: pg_sys::Oid, mode: i32);
    }
    // SAFETY: locks OIDs. One guard of pgrx's around all; there is nothing inside to be dropped.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            for (relation, mode) in relations {
                if *relation != pg_sys::InvalidOid {
                    LockRelationOid(*relation, *mode as i32);
                }
            }
        });
    }
}

/// Wait for the lock on a credit's or refund's reference and hold it until the transaction ends.
pub(crate) fn lock_reference(account: &str, reference: &str) {
    // Two pairs that give the same text only wait for each other.
    let pair = format!("{account}\u{1}{reference}");
    lock((REFERENCE_SPACE, hash(&pair)), EXCLUSIVE);
}

fn hash(text: &str) -> u64 {
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

/// A subtransaction was rolled back, and what began in it: its locks are gone.
pub(crate) fn forget_subtransaction(subtransaction: pg_sys::SubTransactionId) {
    TAKEN.with_borrow_mut(|taken| taken.retain(|taken| taken.subtransaction < subtransaction));
}

/// The transaction has ended: its locks are gone.
pub(crate) fn forget() {
    TAKEN.take();
}
