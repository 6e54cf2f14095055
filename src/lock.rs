//! Locks of the extension's own: two settlements of one workflow take turns, and so do two credits
//! with one reference.

use std::cell::Cell;

use pgrx::IntoDatum;
use pgrx::pg_sys;

use crate::binding::{Binding, LateUsage, Payer};

/// SQL's advisory lock functions use 1 and 2 here, so no application can take these by accident.
const WORKFLOW_SPACE: u16 = 0x7462;
const REFERENCE_SPACE: u16 = 0x7463;
const ALL_WORKFLOWS: (u16, u64) = (0x7464, 0);

/// So many locks a transaction, at most: the server's lock table is shared by all sessions.
const MAX_LOCKS: usize = 1024;

thread_local! {
    static LOCKS_TAKEN: Cell<usize> = const { Cell::new(0) };
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
    let has_room = LOCKS_TAKEN.get() + keys.len() <= MAX_LOCKS;
    match (is_needed(binding), has_room) {
        (true, false) => {
            lock(ALL_WORKFLOWS, EXCLUSIVE);
            return;
        }
        (true, true) => {
            lock(ALL_WORKFLOWS, INTENTION_EXCLUSIVE);
        }
        (false, _) => keys.truncate(MAX_LOCKS.saturating_sub(LOCKS_TAKEN.get())),
    }
    LOCKS_TAKEN.set(LOCKS_TAKEN.get() + keys.len());
    for key in keys {
        lock((WORKFLOW_SPACE, key), EXCLUSIVE);
    }
}

fn is_needed(binding: &Binding) -> bool {
    matches!(binding.payer, Payer::Workflow(_))
        || binding.spec.options.late_usage == LateUsage::Settle
}

/// A lock on a workflow that others share, and a settlement waits for; None if the transaction had
/// it before.
pub(crate) struct Shared(Option<(u16, u64)>);

/// Wait for settlements of the workflow, and have the next ones wait until the transaction ends.
pub(crate) fn share_workflow(workflow: &str) -> Shared {
    let mut object = ALL_WORKFLOWS;
    if LOCKS_TAKEN.get() < MAX_LOCKS {
        lock(ALL_WORKFLOWS, INTENTION_SHARE);
        object = (WORKFLOW_SPACE, hash(workflow));
    }
    let is_new = lock(object, SHARE);
    LOCKS_TAKEN.set(LOCKS_TAKEN.get() + usize::from(is_new));
    Shared(is_new.then_some(object))
}

impl Shared {
    /// Let go of it, so that two who share it can both settle; not if the transaction had it before.
    pub(crate) fn release(self) {
        if let Some(object) = self.0 {
            // SAFETY: the lock is held by this transaction.
            unsafe { pg_sys::LockRelease(&tag(object), SHARE, false) };
            LOCKS_TAKEN.set(LOCKS_TAKEN.get().saturating_sub(1));
        }
    }
}

// The server's modes that conflict as the intention locks of the literature do.
const INTENTION_SHARE: i32 = pg_sys::RowShareLock as i32;
const INTENTION_EXCLUSIVE: i32 = pg_sys::RowExclusiveLock as i32;
const EXCLUSIVE: i32 = pg_sys::ExclusiveLock as i32;
const SHARE: i32 = pg_sys::ShareLock as i32;

/// Whether the transaction had not held it yet.
fn lock(object: (u16, u64), mode: i32) -> bool {
    let tag = tag(object);
    // SAFETY: the tag is complete; the lock manager copies it. A transaction-level lock is released
    // by the server.
    let outcome = unsafe { pg_sys::LockAcquire(&tag, mode, false, false) };
    outcome == pg_sys::LockAcquireResult::LOCKACQUIRE_OK
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

/// The transaction has ended: its locks are gone.
pub(crate) fn forget() {
    LOCKS_TAKEN.set(0);
}
