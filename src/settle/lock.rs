//! Locks of workflows: two settlements of one workflow take turns.
//!
//! # Who waits for whom
//! A transaction takes the locks of many workflows in one order, and **never waits for a stronger lock
//! on what it has locked already**: two that did so would wait for each other. It has either the lock
//! of all workflows, taken before any other, or locks on single ones.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use pgrx::pg_sys;

use crate::binding::{Binding, LateUsage, Payer, lock_out_settlements};
use crate::postgres::lock::{
    EXCLUSIVE, INTENTION_EXCLUSIVE, INTENTION_SHARE, Object, SHARE, hash, holds, lock, release,
    try_lock,
};
use crate::postgres::transaction::{AtEnd, at_end, current_subtransaction};

fn workflow(key: u64) -> Object {
    Object { space: 0x7462, key }
}

const ALL_WORKFLOWS: Object = Object {
    space: 0x7464,
    key: 0,
};

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
    let subtransaction = current_subtransaction();
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
/// very many runs goes without: the settlement row alone decides (`claim`). It is needed
/// where the workflow's account pays, since two runs of one workflow may have two payers, whose
/// settlement rows do not know of each other; and where late usage is settled at once, since usage
/// that is just being written has no settlement row at all. There, very many runs lock all
/// workflows, and a locker of a few says so on the whole first: the intention locks of J. Gray et al.,
/// "Granularity of Locks and Degrees of Consistency in a Shared Data Base", 1976.
///
/// Bindings that know one id have one lock for it. `is_needed`: whether one of them needs it (`needs_locks`).
pub(crate) fn lock_workflows<'a>(workflows: impl Iterator<Item = &'a String>, is_needed: bool) {
    let mut keys: Vec<_> = workflows.map(|workflow| hash(workflow)).collect();
    keys.sort_unstable();
    keys.dedup();
    let taken = taken();
    if taken > 0 {
        keys.retain(|key| !holds(workflow(*key), EXCLUSIVE));
    }
    let room = MAX_LOCKS.saturating_sub(taken);
    if !is_needed {
        if keys.len() > room {
            // Nobody renames a workflow meanwhile (`lock_renamed`).
            lock(ALL_WORKFLOWS, SHARE);
            keys.truncate(room);
        }
    } else if holds_all_workflows() || keys.len() > room && lock_all_workflows() {
        return;
    } else {
        lock(ALL_WORKFLOWS, INTENTION_EXCLUSIVE);
    }
    for key in keys {
        if lock(workflow(key), EXCLUSIVE) {
            note_taken();
        }
    }
}

/// Take the locks of those that nobody else has, and leave the others out: for who holds some already, and must not wait.
/// Whether there was room for all of them.
pub(crate) fn try_lock_workflows<'a>(workflows: impl Iterator<Item = &'a mut Vec<String>>) -> bool {
    if holds_all_workflows() {
        return true;
    }
    let mut has_room = true;
    for workflows in workflows {
        workflows.retain(|id| {
            let object = workflow(hash(id));
            if holds(object, EXCLUSIVE) {
                return true;
            }
            has_room &= taken() < MAX_LOCKS;
            let is_locked = has_room && try_lock(object, EXCLUSIVE);
            if is_locked {
                note_taken();
            }
            is_locked
        });
    }
    has_room
}

/// The locks of a transaction that has changed the ids of workflows, on the old and the new ones. A settlement of an old
/// id would not find what has moved, so those that go without locks are kept out, and where there are very many ids,
/// all settlements are.
pub(crate) fn lock_renamed(workflows: &[String], bindings: &[&Binding]) {
    if !has_room_for(workflows.len()) {
        lock_out_all(bindings);
    }
    let is_needed = bindings.iter().any(|binding| needs_locks(binding));
    if !is_needed {
        lock(ALL_WORKFLOWS, INTENTION_EXCLUSIVE);
    }
    lock_workflows(workflows.iter(), is_needed);
}

/// The locks of who takes usage or settlements away, or brings them back. Settlements that go without locks are kept out, and
/// where there are more workflows than are locked singly, all settlements are, by the users tables: a settlement of few has no
/// lock on the whole. No lock of a workflow is needed then.
pub(crate) fn lock_taken_away(workflows: &[String], bindings: &[&Binding]) {
    match has_room_for(workflows.len()) {
        true => lock_workflows(workflows.iter(), true),
        false => lock_out_all(bindings),
    }
}

/// Keep out all that settle in these bindings.
pub(crate) fn lock_out_all(bindings: &[&Binding]) {
    let users = bindings.iter().map(|binding| binding.accounts.users.oid);
    let users: BTreeSet<_> = users.map(pg_sys::Oid::to_u32).collect();
    for users in users {
        lock_out_settlements(users.into());
    }
}

/// Whether a transaction may lock so many workflows one by one, with those that it holds.
pub(crate) fn has_room_for(workflows: usize) -> bool {
    taken() + workflows <= MAX_LOCKS
}

/// Lock all workflows, so that all others that settle or write late usage wait: whether this
/// transaction now has that lock.
///
/// Waits for it only if the transaction has none that is weaker. Otherwise it is taken if it can be had
/// at once; if not, the transaction goes on with locks on single workflows.
fn lock_all_workflows() -> bool {
    if holds(ALL_WORKFLOWS, INTENTION_EXCLUSIVE) || holds(ALL_WORKFLOWS, INTENTION_SHARE) {
        return try_lock(ALL_WORKFLOWS, EXCLUSIVE);
    }
    lock(ALL_WORKFLOWS, EXCLUSIVE);
    true
}

fn holds_all_workflows() -> bool {
    holds(ALL_WORKFLOWS, EXCLUSIVE)
}

/// Whether a settlement of the binding is not right without the locks.
pub(crate) fn needs_locks(binding: &Binding) -> bool {
    matches!(binding.payer, Payer::Workflow(_))
        || binding.spec.options.late_usage == LateUsage::Settle
}

/// Locks on single workflows that the transaction had not held before.
pub(crate) struct Written(Vec<(u64, i32)>);

/// The locks of a transaction that has written usage, in the order that everybody keeps: workflows that are `over`
/// are locked to be settled, the `open` ones shared. Wait for settlements of these, and have the next
/// ones wait until the transaction ends.
pub(crate) fn lock_written<'a>(
    over: impl Iterator<Item = &'a String> + Clone,
    open: impl Iterator<Item = &'a String>,
) -> Written {
    let is_any_over = over.clone().next().is_some();
    let mut wanted = BTreeMap::new();
    if !holds_all_workflows() {
        let holds = |key, mode| holds(workflow(key), mode);
        let open = open.map(|workflow| hash(workflow));
        let shared = open.filter(|key| !holds(*key, SHARE) && !holds(*key, EXCLUSIVE));
        wanted.extend(shared.map(|key| (key, SHARE)));
        let over = over.map(|workflow| hash(workflow));
        wanted.extend(
            over.filter(|key| !holds(*key, EXCLUSIVE))
                .map(|key| (key, EXCLUSIVE)),
        );
    }
    let is_too_many = !wanted.is_empty() && taken() + wanted.len() > MAX_LOCKS;
    // Sharing the whole would not do: two that share it could not both settle what is late.
    if is_too_many && lock_all_workflows() {
        wanted.clear();
    }
    if !wanted.is_empty() {
        let intention = if is_any_over {
            INTENTION_EXCLUSIVE
        } else {
            INTENTION_SHARE
        };
        lock(ALL_WORKFLOWS, intention);
    }
    for (key, mode) in &wanted {
        lock(workflow(*key), *mode);
        note_taken();
    }
    Written(wanted.into_iter().collect())
}

impl Written {
    /// Let go of them, to take them again with others in between.
    pub(crate) fn release(self) {
        for (key, mode) in &self.0 {
            release(workflow(*key), *mode);
        }
        TAKEN.with_borrow_mut(|taken| {
            if let Some(last) = taken.last_mut() {
                last.locks -= self.0.len();
            }
        });
    }
}

/// Called once per backend.
pub(crate) fn init() {
    at_end(AtEnd {
        of_transaction: || drop(TAKEN.take()),
        of_subtransaction: |subtransaction| {
            TAKEN.with_borrow_mut(|taken| {
                taken.retain(|taken| taken.subtransaction < subtransaction);
            });
        },
    });
}
