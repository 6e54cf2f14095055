//! Locks of the extension's own: two settlements of one workflow take turns, and so do two credits
//! with one reference.

use std::cell::Cell;

use pgrx::IntoDatum;
use pgrx::pg_sys;

use crate::binding::{Binding, LateUsage, Payer};

/// SQL's advisory lock functions use 1 and 2 here, so no application can take these by accident.
const WORKFLOW_SPACE: u16 = 0x7462;
const REFERENCE_SPACE: u16 = 0x7463;

/// So many locks a transaction, at most: the server's lock table is shared by all sessions.
/// Past that, the settlement row alone decides (see `settle::claim`).
const MAX_LOCKS: u32 = 1024;

/// Where the settlement row alone cannot decide, workflows share this many locks.
const STRIPES: u64 = 2048;

thread_local! {
    static LOCKS_TAKEN: Cell<u32> = const { Cell::new(0) };
}

/// Wait for the locks on `workflows` and hold them until the transaction ends. They are taken in one
/// order by everybody.
///
/// Where the usage names the account, the lock only saves retries, and a statement that completes
/// very many runs may go without. It is needed where the workflow's account pays, since two runs of
/// one workflow may have two payers, whose settlement rows do not know of each other; and where late
/// usage is settled at once, since usage that is just being written has no settlement row at all.
pub(crate) fn lock_workflows(workflows: &[String], binding: &Binding) {
    let is_needed = is_needed(binding);
    let mut keys: Vec<_> = workflows
        .iter()
        .map(|workflow| hash(workflow))
        .map(|hash| if is_needed { hash % STRIPES } else { hash })
        .collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        if !is_needed && LOCKS_TAKEN.get() >= MAX_LOCKS {
            return;
        }
        LOCKS_TAKEN.set(LOCKS_TAKEN.get() + 1);
        lock(WORKFLOW_SPACE, key, EXCLUSIVE);
    }
}

fn is_needed(binding: &Binding) -> bool {
    matches!(binding.payer, Payer::Workflow(_))
        || binding.spec.options.late_usage == LateUsage::Settle
}

/// A lock on a workflow that others share, and a settlement waits for.
pub(crate) struct Shared(Option<u64>);

/// Wait for settlements of the workflow, and have the next ones wait until the transaction ends.
pub(crate) fn share_workflow(workflow: &str) -> Shared {
    let key = hash(workflow) % STRIPES;
    let is_new = lock(WORKFLOW_SPACE, key, SHARE);
    Shared(is_new.then_some(key))
}

impl Shared {
    /// Let go of it, so that two who share it can both settle; not if the transaction had it before.
    pub(crate) fn release(self) {
        if let Some(key) = self.0 {
            let tag = tag(WORKFLOW_SPACE, key);
            // SAFETY: the lock is held by this transaction.
            unsafe { pg_sys::LockRelease(&tag, SHARE, false) };
        }
    }
}

const EXCLUSIVE: i32 = pg_sys::ExclusiveLock as i32;
const SHARE: i32 = pg_sys::ShareLock as i32;

/// Whether the transaction had not held it yet.
fn lock(space: u16, hash: u64, mode: i32) -> bool {
    let tag = tag(space, hash);
    // SAFETY: the tag is complete; the lock manager copies it. A transaction-level lock is released
    // by the server.
    let outcome = unsafe { pg_sys::LockAcquire(&tag, mode, false, false) };
    outcome == pg_sys::LockAcquireResult::LOCKACQUIRE_OK
}

fn tag(space: u16, hash: u64) -> pg_sys::LOCKTAG {
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
    lock(
        REFERENCE_SPACE,
        hash(&format!("{account}\u{1}{reference}")),
        EXCLUSIVE,
    );
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

/// Forget the count when the transaction ends. Registered once a backend.
pub(crate) extern "C-unwind" fn at_transaction_end(
    event: pg_sys::XactEvent::Type,
    _argument: *mut std::ffi::c_void,
) {
    use pg_sys::XactEvent::*;
    if matches!(
        event,
        XACT_EVENT_COMMIT | XACT_EVENT_ABORT | XACT_EVENT_PREPARE
    ) {
        LOCKS_TAKEN.set(0);
    }
}
