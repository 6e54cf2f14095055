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

use super::model::{Accounts, Binding};
use super::own::{self, OwnTables};
use super::spec::Spec;
use crate::error::{Error, Result};
use crate::postgres::catalog;
use crate::postgres::datum::c_string;
use crate::postgres::invalidation::{
    self, EverythingMatters, Reading, generation, watch, watch_schema,
};
use crate::postgres::lock::lock_relations;
use crate::postgres::security;

/// The accounts, and what is kept with them. There whatever has become of the other bound tables.
pub(crate) struct Book {
    pub(crate) accounts: Accounts,
    pub(crate) own: OwnTables,
    kept: Store,
    parts: RefCell<Parts>,
}

/// The binding, and what is kept with it.
pub(crate) struct Bound {
    pub(crate) book: Rc<Book>,
    pub(crate) binding: Binding,
    kept: Store,
}

/// What a room makes of accounts or of a binding once, such as its statements, and keeps as long as they
/// are the ones.
pub(crate) trait Kept<Of>: 'static {
    fn of(of: &Of) -> Self;
}

/// One value per type, as the server keeps `rd_amcache` with a relation: nobody here knows the rooms above.
#[derive(Default)]
struct Store(RefCell<Vec<Rc<dyn Any>>>);

impl Store {
    fn get<T: Kept<Of>, Of>(&self, of: &Of) -> Rc<T> {
        let known = self.0.borrow().iter().find(|kept| kept.is::<T>()).cloned();
        if let Some(kept) = known.and_then(|kept| kept.downcast().ok()) {
            return kept;
        }
        let kept = Rc::new(T::of(of));
        self.0.borrow_mut().push(kept.clone());
        kept
    }
}

/// Partitions that are known to be parts of the bound tables: (partition, bound table). Each is watched
/// with all that is above it, and with the first invalidation none is known any more.
#[derive(Default)]
struct Parts {
    generation: u64,
    known: HashSet<(pg_sys::Oid, pg_sys::Oid)>,
}

impl Book {
    /// What the room of `T` keeps with these accounts, made at its first use.
    pub(crate) fn kept<T: Kept<Book>>(&self) -> Rc<T> {
        self.kept.get(self)
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
}

impl Bound {
    /// What the room of `T` keeps with this binding, made at its first use.
    pub(crate) fn kept<T: Kept<Bound>>(&self) -> Rc<T> {
        self.kept.get(self)
    }

    /// The bound tables, in the order in which their locks are taken.
    fn tables(&self) -> [pg_sys::Oid; 3] {
        let workflows = self.binding.workflows.as_ref();
        [
            workflows.map_or(pg_sys::InvalidOid, |workflows| workflows.table.oid),
            self.binding.usage.oid,
            self.binding.accounts.users.oid,
        ]
    }
}

/// What is bound, as far as it is whole.
#[derive(Clone)]
struct Present {
    book: Rc<Book>,
    /// None if it is not whole: it is looked at again at each use, which says what is wrong.
    bound: Option<Rc<Bound>>,
}

thread_local! {
    static PRESENT: RefCell<Option<Present>> = const { RefCell::new(None) };
}

/// The binding as it is now, with the bound tables locked as a reader locks them, and its search paths in force. A
/// statement that waits for such a lock itself was made with the names of before the wait, and columns may have
/// exchanged them meanwhile. Error 55000 if there is none, or what is wrong with it.
pub(crate) fn bound() -> Result<Rc<Bound>> {
    bound_with_locks(|bound| {
        lock_relations(&bound.tables().map(|table| (table, pg_sys::AccessShareLock)));
    })
}

/// The same with the workflow table alone locked.
pub(crate) fn bound_and_workflows_locked() -> Result<Rc<Bound>> {
    bound_with_locks(|bound| {
        let [workflows, _, _] = bound.tables();
        lock_relations(&[(workflows, pg_sys::AccessShareLock)]);
    })
}

/// The same without a lock: for a trigger that reads nothing but its row, whose table the statement has locked.
pub(crate) fn bound_for_row() -> Result<Rc<Bound>> {
    look_at_binding()
}

fn look_at_binding() -> Result<Rc<Bound>> {
    let known = known().and_then(|present| present.bound);
    let bound = match known {
        Some(bound) => bound,
        None => read()?.1?,
    };
    security::follow(&bound.book.accounts.paths);
    require_balance(&bound.book)?;
    Ok(bound)
}

/// The accounts as they are now, with their table locked as a reader locks it, and the binding's search paths in
/// force: what a change of a balance wants that has nothing to do with usage. Error 55000 if there are none, or what
/// is wrong with their table.
pub(crate) fn book() -> Result<Rc<Book>> {
    let lock = |book: &Book| {
        lock_relations(&[(book.accounts.users.oid, pg_sys::AccessShareLock)]);
    };
    look_until_locked(look_at_book, lock, |book| book.accounts.users.oid)
}

fn look_at_book() -> Result<Rc<Book>> {
    let book = book_of_any_column()?;
    require_balance(&book)?;
    Ok(book)
}

/// Error 42703 if the balance column is gone.
fn require_balance(book: &Book) -> Result<()> {
    if book.accounts.balance.is_some() {
        return Ok(());
    }
    let spec = Spec::load()?.ok_or(Error::NotAttached)?;
    Err(Error::BalanceColumnMissing {
        relation: book.accounts.users.sql.clone(),
        attach: spec.attach_call(),
    })
}

/// The same, also where the balance column is gone: what the trigger on users wants.
pub(crate) fn book_of_any_column() -> Result<Rc<Book>> {
    let book = match known() {
        Some(present) => present.book,
        None => read()?.0,
    };
    security::follow(&book.accounts.paths);
    Ok(book)
}

fn known() -> Option<Present> {
    match invalidation::is_stale() {
        true => None,
        false => PRESENT.with_borrow(Clone::clone),
    }
}

/// Read the binding anew. What was kept stays if it is of what is the same still.
fn read() -> Result<(Rc<Book>, Result<Rc<Bound>>)> {
    let reading = Reading::begin();
    let spec = Spec::load()?.ok_or(Error::NotAttached)?;
    let accounts = Accounts::resolve(&spec)?;
    let binding = Binding::resolve_with(spec.clone(), accounts.clone());
    let own = own::own_tables()?;
    watch_all(&spec, &own);
    let before = PRESENT.with_borrow(Clone::clone);
    let book = match before.as_ref().map(|present| &present.book) {
        Some(book) if book.accounts == accounts && book.own == own => book.clone(),
        _ => Rc::new(Book {
            accounts,
            own,
            kept: Store::default(),
            parts: RefCell::default(),
        }),
    };
    let bound = binding.map(|binding| match before.and_then(|present| present.bound) {
        Some(bound) if bound.binding == binding && Rc::ptr_eq(&bound.book, &book) => bound,
        _ => Rc::new(Bound {
            book: book.clone(),
            binding,
            kept: Store::default(),
        }),
    });
    PRESENT.set(Some(Present {
        book: book.clone(),
        bound: bound.as_ref().ok().cloned(),
    }));
    reading.end();
    Ok((book, bound))
}

/// The binding, with the bound tables locked as a settlement uses them: the users table as an UPDATE
/// locks it; the workflows and the usage as a reader does. Until the transaction
/// ends nobody else can change their columns, nor take the ledger's trigger away between a claim and
/// its deduction.
pub(crate) fn bound_and_locked() -> Result<Rc<Bound>> {
    bound_with_locks(|bound| {
        let [workflows, usage, users] = bound.tables();
        lock_relations(&[
            (workflows, pg_sys::AccessShareLock),
            (usage, pg_sys::AccessShareLock),
            (users, pg_sys::RowExclusiveLock),
        ]);
    })
}

/// The binding, with the users table locked as an UPDATE locks it: for a refund, which does not read the
/// usage.
pub(crate) fn bound_and_users_locked() -> Result<Rc<Bound>> {
    bound_with_locks(|bound| lock_users(&bound.book))
}

/// The binding, with usage and users locked so that nobody else writes them.
pub(crate) fn bound_and_alone() -> Result<Rc<Bound>> {
    bound_with_locks(|bound| {
        let [_, usage, users] = bound.tables();
        lock_relations(&[
            (usage, pg_sys::ShareRowExclusiveLock),
            (users, pg_sys::ShareRowExclusiveLock),
        ]);
    })
}

/// The accounts, with the users table locked as an UPDATE locks it.
pub(crate) fn book_and_users_locked() -> Result<Rc<Book>> {
    look_until_locked(look_at_book, lock_users, |book| book.accounts.users.oid)
}

fn lock_users(book: &Book) {
    lock_relations(&[(book.accounts.users.oid, pg_sys::RowExclusiveLock)]);
}

fn bound_with_locks(lock: impl Fn(&Bound)) -> Result<Rc<Bound>> {
    look_until_locked(look_at_binding, lock, Bound::tables)
}

/// Waiting for a lock takes in the invalidations of whoever held it, so what is bound is looked at again
/// with the locks held. It is the one to use if it is of the tables that are locked: what else it
/// says of them cannot change any more. From `RangeVarGetRelidExtended`, which also looks again until
/// the answer is the same, and not until nothing was invalidated: there may always be something.
fn look_until_locked<T, Tables: PartialEq>(
    look: impl Fn() -> Result<Rc<T>>,
    lock: impl Fn(&T),
    tables: impl Fn(&T) -> Tables,
) -> Result<Rc<T>> {
    let mut before = look()?;
    loop {
        lock(&before);
        let now = look()?;
        if tables(&now) == tables(&before) {
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

/// Also what is not there any more, or not of a kind that can be bound.
fn watch_all(spec: &Spec, own: &OwnTables) {
    watch(spec.relations().map(|relation| relation.oid));
    watch([
        own.binding,
        own.settlement,
        own.ledger,
        own.queue,
        own.workflow_alias,
    ]);
    for relation in spec.relations() {
        // SAFETY: a look-up in a system cache; InvalidOid for a relation that is gone.
        watch_schema(unsafe { pg_sys::get_rel_namespace(relation.oid) });
    }
    for schema in spec.search_path.iter().flatten() {
        // SAFETY: as above; with `true` a schema that is gone is no error.
        watch_schema(unsafe { pg_sys::get_namespace_oid(c_string(schema).as_ptr(), true) });
    }
}
