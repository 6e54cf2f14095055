//! What a backend keeps between calls: the binding and the statements made from it.
//!
//! DDL on a bound table, on the extension's tables, or an attach or detach in any session sends a
//! relation-cache invalidation; the next use then reads the binding again. Statements survive if
//! the binding is still the same.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;

use pgrx::pg_sys;

use crate::account;
use crate::binding::Binding;
use crate::catalog::{self, OwnTables};
use crate::claim;
use crate::credit;
use crate::error::Result;
use crate::history;
use crate::late;
use crate::ledger;
use crate::overdraft;
use crate::queue;
use crate::security;
use crate::summary;
use crate::usage;

/// The binding and its statements.
pub(crate) struct Bound {
    pub(crate) binding: Binding,
    pub(crate) own: OwnTables,
    pub(crate) usage: usage::Statements,
    pub(crate) claims: claim::Statements,
    pub(crate) queue: queue::Statements,
    pub(crate) late: late::Statements,
    pub(crate) accounts: account::Statements,
    pub(crate) ledger: ledger::Statements,
    pub(crate) credits: credit::Statements,
    pub(crate) history: history::Statements,
    pub(crate) overdrafts: overdraft::Statements,
    pub(crate) summary: summary::Statements,
    /// Partitions that are known to be parts of the bound tables. One that is detached loses its
    /// triggers.
    parts: RefCell<HashSet<pg_sys::Oid>>,
}

impl Bound {
    /// Whether `relation` is the bound table `root` or one of its partitions.
    pub(crate) fn is_part_of(&self, relation: pg_sys::Oid, root: pg_sys::Oid) -> Result<bool> {
        if relation == root || self.parts.borrow().contains(&relation) {
            return Ok(true);
        }
        let is_part = catalog::is_part_of(relation, root)?;
        if is_part {
            self.parts.borrow_mut().insert(relation);
        }
        Ok(is_part)
    }
}

/// The relations whose invalidation matters: three bound ones, the binding itself, and the own tables
/// that are written without SPI.
type Watched = [pg_sys::Oid; 6];

thread_local! {
    static BOUND: RefCell<Option<Rc<Bound>>> = const { RefCell::new(None) };
    static WATCHED: Cell<Watched> = const { Cell::new([pg_sys::InvalidOid; 6]) };
    static IS_STALE: Cell<bool> = const { Cell::new(true) };
    static GENERATION: Cell<u64> = const { Cell::new(0) };
}

/// The binding as it is now, and its search paths in force. Error 55000 if there is none.
pub(crate) fn bound() -> Result<Rc<Bound>> {
    let bound = present()?;
    security::follow(&bound.binding.paths);
    Ok(bound)
}

fn present() -> Result<Rc<Bound>> {
    if !IS_STALE.get()
        && let Some(bound) = BOUND.with_borrow(Clone::clone)
    {
        return Ok(bound);
    }
    let fresh = Freshness::begin();
    let binding = Binding::load()?;
    let own = catalog::own_tables()?;
    fresh.keep();
    if let Some(bound) = BOUND.with_borrow(Clone::clone)
        && bound.binding == binding
        && bound.own == own
    {
        return Ok(bound);
    }
    watch(&binding, &own)?;
    let bound = Rc::new(Bound {
        usage: usage::Statements::new(&binding),
        claims: claim::Statements::new(&own, binding.extension_owner),
        queue: queue::Statements::new(&binding),
        late: late::Statements::new(&binding),
        accounts: account::Statements::new(&binding),
        ledger: ledger::Statements::new(),
        credits: credit::Statements::new(),
        history: history::Statements::new(),
        overdrafts: overdraft::Statements::new(),
        summary: summary::Statements::new(&binding),
        parts: RefCell::default(),
        binding,
        own,
    });
    BOUND.set(Some(bound.clone()));
    Ok(bound)
}

/// The binding counts as read from here on, so that an invalidation that arrives while it is read
/// makes it stale again; unless reading it fails, by an error of ours or of the server's.
struct Freshness;

impl Freshness {
    fn begin() -> Self {
        IS_STALE.set(false);
        Freshness
    }

    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Freshness {
    fn drop(&mut self) {
        IS_STALE.set(true);
        GENERATION.set(GENERATION.get() + 1);
    }
}

/// The binding, with the users table locked as an UPDATE locks it. Until the transaction ends no
/// detach can take the ledger's trigger away between a claim and its deduction.
pub(crate) fn bound_and_locked() -> Result<Rc<Bound>> {
    loop {
        let bound = bound()?;
        let lock = pg_sys::RowExclusiveLock as i32;
        // SAFETY: locks an OID. Waiting for a lock takes in the invalidations of who held it.
        unsafe { pg_sys::LockRelationOid(bound.binding.users.oid, lock) };
        if !IS_STALE.get() {
            return Ok(bound);
        }
    }
}

/// Wait for the transactions that settle, and keep others from it until this one ends: each of them
/// holds the lock of [`bound_and_locked`].
pub(crate) fn lock_out_settlements(users: pg_sys::Oid) {
    // SAFETY: locks an OID.
    unsafe { pg_sys::LockRelationOid(users, pg_sys::ShareRowExclusiveLock as i32) };
}

/// Whether something that matters has changed since [`bound`] answered.
pub(crate) fn is_stale() -> bool {
    IS_STALE.get()
}

/// Another number after each change of a table that is watched.
pub(crate) fn generation() -> u64 {
    GENERATION.get()
}

fn watch(binding: &Binding, own: &OwnTables) -> Result<()> {
    let itself = catalog::table_named("token_balance", "binding")?;
    let workflows = binding
        .workflows
        .as_ref()
        .map(|workflows| workflows.table.oid);
    WATCHED.set([
        binding.users.oid,
        binding.usage.oid,
        workflows.unwrap_or(pg_sys::InvalidOid),
        itself.map_or(pg_sys::InvalidOid, |table| table.oid),
        own.settlement,
        own.ledger,
    ]);
    Ok(())
}

/// Called by the server for each invalidated relation; InvalidOid stands for all of them. It may
/// run at any time, so it only makes notes.
pub(crate) extern "C-unwind" fn on_invalidation(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    if relation == pg_sys::InvalidOid || WATCHED.get().contains(&relation) {
        IS_STALE.set(true);
        GENERATION.set(GENERATION.get() + 1);
    }
}
