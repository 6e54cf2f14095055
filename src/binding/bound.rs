//! What a backend keeps between calls: the binding, and what the rooms above have made of it.
//!
//! The binding is read with the latest snapshot, whatever the transaction's own one is, and is read
//! again after these invalidations (`invalidation`):
//! - of a bound table, one of the extension's own or a known partition: DDL on it; attach and detach,
//!   which alter triggers on bound tables or send an invalidation themselves;
//! - of a bound table's schema: the quoted names of tables, in statements and messages, hold its name;
//!   and of a schema in the stored search_path, in which others may come to be able to create;
//! - of any role or membership: which may read a table, or create in a schema.
//!
//! What comes while the binding is read makes it stale at once. What the rooms have made of it
//! ([`Bound::kept`]) survives if it is still the same.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

use pgrx::pg_sys;

use super::model::{Binding, Payer};
use super::own::{self, OwnTables};
use crate::error::Result;
use crate::postgres::catalog;
use crate::postgres::datum::c_string;
use crate::postgres::invalidation::{
    self, EverythingMatters, Reading, generation, watch, watch_schema,
};
use crate::postgres::lock::lock_relations;
use crate::postgres::security;

/// The binding, and what is kept with it.
pub(crate) struct Bound {
    pub(crate) binding: Binding,
    pub(crate) own: OwnTables,
    kept: RefCell<Vec<Rc<dyn Any>>>,
    parts: RefCell<Parts>,
}

/// What a room makes of a binding once, such as its statements, and keeps as long as it is the binding.
pub(crate) trait Kept: 'static {
    fn of(bound: &Bound) -> Self;
}

/// Partitions that are known to be parts of the bound tables: (partition, bound table). Each is watched
/// with all that is above it, and with the first invalidation none is known any more.
#[derive(Default)]
struct Parts {
    generation: u64,
    known: HashSet<(pg_sys::Oid, pg_sys::Oid)>,
}

impl Bound {
    /// What the room of `T` keeps with this binding, made at its first use. One value per type, as the
    /// server keeps `rd_amcache` with a relation: the binding knows none of the rooms above it.
    pub(crate) fn kept<T: Kept>(&self) -> Rc<T> {
        let known = self
            .kept
            .borrow()
            .iter()
            .find(|kept| kept.is::<T>())
            .cloned();
        if let Some(kept) = known.and_then(|kept| kept.downcast().ok()) {
            return kept;
        }
        let kept = Rc::new(T::of(self));
        self.kept.borrow_mut().push(kept.clone());
        kept
    }

    /// Whether `relation` is the bound table `root` or one of its partitions.
    pub(crate) fn is_part_of(&self, relation: pg_sys::Oid, root: pg_sys::Oid) -> Result<bool> {
        if relation == root {
            return Ok(true);
        }
        let now = generation();
        {
            let mut parts = self.parts.borrow_mut();
            if parts.generation != now {
                parts.known.clear();
                parts.generation = now;
            }
            if parts.known.contains(&(relation, root)) {
                return Ok(true);
            }
        }
        // A partition is taken from its root by an ALTER of any table between the two. What changes
        // while they are looked at is not kept.
        let ancestors = {
            let _everything = EverythingMatters::begin();
            let ancestors = catalog::partition_ancestors(relation)?;
            watch(ancestors.iter().copied());
            ancestors
        };
        let is_part = ancestors.contains(&root);
        if is_part && generation() == now {
            self.parts.borrow_mut().known.insert((relation, root));
        }
        Ok(is_part)
    }

    /// The bound tables, in the order in which their locks are taken.
    fn tables(&self) -> [pg_sys::Oid; 3] {
        let workflows = self.binding.workflows.as_ref();
        [
            workflows.map_or(pg_sys::InvalidOid, |workflows| workflows.table.oid),
            self.binding.usage.oid,
            self.binding.users.oid,
        ]
    }
}

thread_local! {
    static BOUND: RefCell<Option<Rc<Bound>>> = const { RefCell::new(None) };
}

/// The binding as it is now, and its search paths in force. Error 55000 if there is none.
pub(crate) fn bound() -> Result<Rc<Bound>> {
    let bound = present()?;
    security::follow(&bound.binding.paths);
    Ok(bound)
}

fn present() -> Result<Rc<Bound>> {
    if !invalidation::is_stale()
        && let Some(bound) = BOUND.with_borrow(Clone::clone)
    {
        return Ok(bound);
    }
    let reading = Reading::begin();
    let binding = Binding::load()?;
    let own = own::own_tables()?;
    watch_all(&binding, &own);
    let known = BOUND.with_borrow(Clone::clone);
    let bound = match known {
        Some(bound) if bound.binding == binding && bound.own == own => bound,
        _ => Rc::new(Bound::new(binding, own)),
    };
    BOUND.set(Some(bound.clone()));
    reading.end();
    Ok(bound)
}

impl Bound {
    fn new(binding: Binding, own: OwnTables) -> Self {
        Bound {
            kept: RefCell::default(),
            parts: RefCell::default(),
            binding,
            own,
        }
    }
}

/// The binding, with the bound tables locked as a settlement uses them: the users table as an UPDATE
/// locks it; as a reader the usage and, where they say who pays, the workflows. Until the transaction
/// ends nobody else can change their columns, nor take the ledger's trigger away between a claim and
/// its deduction.
pub(crate) fn bound_and_locked() -> Result<Rc<Bound>> {
    bound_with_locks(|bound| {
        let [mut workflows, usage, users] = bound.tables();
        if let Payer::Usage(_) = bound.binding.payer {
            workflows = pg_sys::InvalidOid;
        }
        lock_relations(&[
            (workflows, pg_sys::AccessShareLock),
            (usage, pg_sys::AccessShareLock),
            (users, pg_sys::RowExclusiveLock),
        ]);
    })
}

/// The binding, with the users table locked as an UPDATE locks it: for changes of a balance that have
/// nothing to do with usage.
pub(crate) fn bound_and_users_locked() -> Result<Rc<Bound>> {
    bound_with_locks(|bound| {
        lock_relations(&[(bound.binding.users.oid, pg_sys::RowExclusiveLock)]);
    })
}

/// Waiting for a lock takes in the invalidations of whoever held it, so the binding is looked at again
/// with the locks held. It is the one to use if it is of the tables that are locked: what else it
/// says of them cannot change any more. From `RangeVarGetRelidExtended`, which also looks again until
/// the answer is the same, and not until nothing was invalidated: there may always be something.
fn bound_with_locks(lock: impl Fn(&Bound)) -> Result<Rc<Bound>> {
    let mut before = bound()?;
    loop {
        lock(&before);
        let now = bound()?;
        if now.tables() == before.tables() {
            return Ok(now);
        }
        before = now;
    }
}

/// Wait for the transactions that settle, and keep others from it until this one ends: each of them
/// holds the lock of [`bound_and_locked`].
pub(crate) fn lock_out_settlements(users: pg_sys::Oid) {
    lock_relations(&[(users, pg_sys::ShareRowExclusiveLock)]);
}

fn watch_all(binding: &Binding, own: &OwnTables) {
    let tables = binding.tables();
    watch(tables.iter().map(|table| table.oid));
    watch([own.binding, own.settlement, own.ledger, own.queue]);
    for table in &tables {
        // SAFETY: a look-up in a system cache.
        watch_schema(unsafe { pg_sys::get_rel_namespace(table.oid) });
    }
    for schema in binding.spec.search_path.iter().flatten() {
        // SAFETY: as above; with `true` a schema that is gone is no error.
        watch_schema(unsafe { pg_sys::get_namespace_oid(c_string(schema).as_ptr(), true) });
    }
}
