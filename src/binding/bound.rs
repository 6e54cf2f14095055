//! What a backend keeps between calls: what is attached, and what the rooms above have made of it.
//!
//! The bindings are read with the latest snapshot, whatever the transaction's own one is, and are read
//! again after these invalidations (`invalidation`):
//! - of a bound table, one of the extension's own or a known partition: DDL on it; attach and detach,
//!   which alter triggers on bound tables or send an invalidation themselves;
//! - of a bound table's schema: the quoted names of tables, in statements and messages, hold its name;
//!   and of a schema in a stored search_path, in which others may come to be able to create;
//! - of any role or membership: which may read a table, or create in a schema.
//!
//! What comes while they are read makes them stale at once. What the rooms have made of one
//! ([`Bound::kept`]) survives if it is still the same.
//!
//! Several may be attached. One that is broken breaks no other: what is wrong with it is told to those who
//! want that one.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use pgrx::{PgLogLevel, pg_sys};

use super::model::{Accounts, Binding};
use super::options::{DeletedUsage, LateUsage};
use super::own::{self, OwnObjects};
use super::parts::is_part_of;
use super::resolve::wrong_type;
use super::spec::Spec;
use super::stored::Stored;
use super::tokens::BALANCE_TYPES;
use crate::counters::{self, Counter};
use crate::error::{Error, Result};
use crate::postgres::catalog;
use crate::postgres::datum::c_string;
use crate::postgres::invalidation::{
    self, Reading, watch, watch_functions, watch_schema, watch_types,
};
use crate::postgres::lock::lock_relations;
use crate::postgres::security::{self, RunAs};
use crate::postgres::view;

/// The accounts, and what is kept with them. There whatever has become of the other bound tables. Bindings that
/// charge the same accounts have one book.
pub(crate) struct Book {
    pub(crate) accounts: Accounts,
    pub(crate) own: OwnObjects,
    kept: Store,
}

/// A binding, and what is kept with it.
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

impl Book {
    /// What the room of `T` keeps with these accounts, made at its first use.
    pub(crate) fn kept<T: Kept<Book>>(&self) -> Rc<T> {
        self.kept.get(self)
    }

    /// Act as `owner`, with the search_path of these accounts.
    pub(crate) fn run_as(&self, owner: pg_sys::Oid) -> RunAs {
        RunAs::with(owner, &self.accounts.paths)
    }

    /// Act as the owner of the users table.
    pub(crate) fn run_as_users_owner(&self) -> RunAs {
        self.run_as(self.accounts.users.owner)
    }

    /// Act as the owner of the extension's tables.
    pub(crate) fn run_as_extension(&self) -> RunAs {
        self.run_as(self.accounts.extension_owner)
    }
}

impl Bound {
    /// What the room of `T` keeps with this binding, made at its first use.
    pub(crate) fn kept<T: Kept<Bound>>(&self) -> Rc<T> {
        self.kept.get(self)
    }

    /// Act as `owner`, with the search_path of this binding.
    pub(crate) fn run_as(&self, owner: pg_sys::Oid) -> RunAs {
        RunAs::with(owner, &self.binding.accounts.paths)
    }

    /// Act as the owner of the extension's tables.
    pub(crate) fn run_as_extension(&self) -> RunAs {
        self.run_as(self.binding.accounts.extension_owner)
    }

    /// What is run from here on without naming a binding goes by the search_path of this one.
    pub(crate) fn follow(&self) {
        security::follow(&self.binding.accounts.paths);
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.binding.spec.name
    }

    /// The bound tables, in the order in which their locks are taken, each with what kind it is of. Of usage that is a
    /// view, also the tables that it reads.
    fn tables(&self) -> impl Iterator<Item = (Place, pg_sys::Oid)> {
        let binding = &self.binding;
        let workflows = binding
            .workflows
            .iter()
            .map(|workflows| workflows.table.oid);
        let usage = binding.usage_relations();
        workflows
            .map(|oid| (Place::Workflows, oid))
            .chain(usage.map(|oid| (Place::Usage, oid)))
            .chain([(Place::Users, binding.accounts.users.oid)])
    }
}

/// What a table is bound as, in the order in which locks are taken.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Workflows,
    Usage,
    Users,
}

/// One that is attached, or what is wrong with it.
struct Attached {
    spec: Spec,
    /// Whether there are others whose accounts have another owner.
    is_guarded: bool,
    book: Result<Rc<Book>>,
    bound: Result<Rc<Bound>>,
}

impl Attached {
    /// Whether a call of the current role may be about it. Who may call a function may do so for all accounts that it
    /// finds, which is right as long as they are one owner's. Where tenants share a database, it is for the accounts of
    /// those tables that the role may read.
    fn may_be_used(&self) -> bool {
        if !self.is_guarded {
            return true;
        }
        let role = security::current_user();
        match &self.book {
            Ok(book) => {
                let users = &book.accounts.users;
                catalog::acts_for(role, users.owner) || catalog::may_select(role, users.oid)
            }
            // Whose it was, nobody knows.
            Err(_) => catalog::is_superuser(role),
        }
    }
}

/// All that are attached, in the order of their numbers.
type Present = Rc<Vec<Attached>>;

thread_local! {
    static PRESENT: RefCell<Option<Present>> = const { RefCell::new(None) };
}

/// Which of the attached bindings are meant.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which<'a> {
    /// The one of this name; without one, all of them.
    Named(Option<&'a str>),
    /// Those whose workflow table this is, or has this partition.
    OfWorkflows(pg_sys::Oid),
    /// The same of the usage table.
    OfUsage(pg_sys::Oid),
    /// The same, and those whose usage is a view that reads the table.
    OfUsageRows(pg_sys::Oid),
    /// Those that settle at once what is written there late: their usage, or a table below it.
    OfLateUsage(pg_sys::Oid),
    /// Those that record what is deleted there: of their usage.
    OfDeletedUsage(pg_sys::Oid),
    /// Those of these numbers.
    Numbered(&'a [i16]),
    /// Those that charge the accounts of this number.
    OfAccounts(i16),
}

impl Which<'_> {
    fn is(&self, attached: &Attached) -> Result<bool> {
        let spec = &attached.spec;
        match (self, &spec.workflows) {
            (Which::Named(name), _) => Ok(name.is_none_or(|name| name == spec.name)),
            (Which::OfWorkflows(relation), Some(workflows)) => is_part_of(*relation, workflows.oid),
            (Which::OfWorkflows(_), None) => Ok(false),
            (Which::OfUsage(relation), _) => is_part_of(*relation, spec.usage.oid),
            (Which::OfUsageRows(relation), _) => {
                let is_read = match &attached.bound {
                    Ok(bound) => bound.binding.usage_relations().any(|oid| oid == *relation),
                    Err(_) => false,
                };
                Ok(is_read || is_part_of(*relation, spec.usage.oid)?)
            }
            (Which::OfLateUsage(relation), _) if spec.options.late_usage == LateUsage::Settle => {
                let source = match &attached.bound {
                    Ok(bound) => bound.binding.late_source(*relation)?,
                    Err(_) => None,
                };
                Ok(source.is_some() || is_part_of(*relation, spec.usage.oid)?)
            }
            (Which::OfLateUsage(_), _) => Ok(false),
            (Which::OfDeletedUsage(relation), _) => Ok(spec.options.deleted_usage
                == DeletedUsage::Record
                && is_part_of(*relation, spec.usage.oid)?),
            (Which::Numbered(numbers), _) => Ok(numbers.contains(&spec.number())),
            (Which::OfAccounts(accounts), _) => {
                Ok(spec.ids.is_some_and(|ids| ids.accounts == *accounts))
            }
        }
    }
}

/// Attached bindings, in the order of their numbers.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) whole: Vec<Rc<Bound>>,
    /// The others, and what is wrong with them.
    pub(crate) broken: Vec<(Spec, Error)>,
}

impl Found {
    /// All of them. Error: what is wrong with one.
    pub(crate) fn all(mut self) -> Result<Vec<Rc<Bound>>> {
        match self.broken.is_empty() {
            true => Ok(self.whole),
            false => Err(self.broken.swap_remove(0).1),
        }
    }

    /// Those that are whole, with a WARNING for each of the others. Error: what is wrong, if none is whole.
    pub(crate) fn or_warn(self) -> Result<Vec<Rc<Bound>>> {
        if self.whole.is_empty() {
            return self.all();
        }
        for (_, error) in self.broken {
            error.report(PgLogLevel::WARNING);
        }
        Ok(self.whole)
    }

    /// The same, also where none is whole: what became of other tables keeps no row from being written. Error: what is
    /// wrong, if it is something else.
    pub(crate) fn whole_or_warn(self) -> Result<Vec<Rc<Bound>>> {
        for (_, error) in self.broken {
            match error.is_broken_binding() {
                true => error.report(PgLogLevel::WARNING),
                false => return Err(error),
            }
        }
        Ok(self.whole)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.broken.is_empty()
    }

    fn tables(&self) -> Vec<pg_sys::Oid> {
        let tables = self.whole.iter().flat_map(|bound| bound.tables());
        tables.map(|(_, oid)| oid).collect()
    }
}

/// Those of the attached bindings that are meant, with the bound tables locked as a reader locks them. A statement that
/// waits for such a lock itself was made with the names of before the wait, and columns may have exchanged them
/// meanwhile. Error 55000 if nothing is attached, 42704 if none has the name.
pub(crate) fn bindings(which: Which) -> Result<Found> {
    let modes = [pg_sys::AccessShareLock; 3];
    look_until_locked(|| bindings_unlocked(which), locker(modes), Found::tables)
}

/// The same with the workflow tables alone locked.
pub(crate) fn bindings_and_workflows_locked(which: Which) -> Result<Found> {
    let modes = [pg_sys::AccessShareLock, pg_sys::NoLock, pg_sys::NoLock];
    look_until_locked(|| bindings_unlocked(which), locker(modes), Found::tables)
}

/// Locks workflows, then usage, then users of all of them.
fn locker(modes: [u32; 3]) -> impl Fn(&Found) {
    move |found: &Found| {
        let places = [Place::Workflows, Place::Usage, Place::Users];
        let locks = places.into_iter().zip(modes);
        let locks = locks.filter(|(_, mode)| *mode != pg_sys::NoLock);
        let locks = locks.flat_map(|(place, mode)| {
            let tables = found.whole.iter().flat_map(|bound| bound.tables());
            let tables = tables.filter(move |(of, _)| *of == place);
            tables.map(move |(_, table)| (table, mode))
        });
        lock_relations(&locks.collect::<Vec<_>>());
    }
}

/// The same without a lock: for who reads nothing but a trigger's row, whose table the statement has locked.
pub(crate) fn bindings_unlocked(which: Which) -> Result<Found> {
    let present = present()?;
    let mut found = Found::default();
    for attached in present.iter() {
        if !which.is(attached)? {
            continue;
        }
        match which {
            Which::Named(_) | Which::OfAccounts(_) if attached.may_be_used() => {}
            Which::Named(Some(name)) => return Err(not_yours(Some(name))),
            Which::Named(None) => continue,
            Which::OfAccounts(_) => return Err(not_yours(Some(&attached.spec.name))),
            _ => {}
        }
        match whole(attached) {
            Ok(bound) => found.whole.push(bound),
            Err(error) => found.broken.push((attached.spec.clone(), error)),
        }
    }
    match (which, found.whole.first()) {
        (Which::Named(Some(name)), None) if found.broken.is_empty() => Err(unknown(name, &present)),
        (Which::Named(None), None) if found.broken.is_empty() => Err(not_yours(None)),
        (_, Some(first)) => {
            first.follow();
            Ok(found)
        }
        _ => Ok(found),
    }
}

/// The binding of this name; without one, the only one that is attached. Its tables are locked as a reader locks them,
/// and its search path is in force.
///
/// Errors: 55000 if nothing is attached, 42704 if none has the name, 22023 if several are attached and none is named,
/// or what is wrong with it.
pub(crate) fn bound(name: Option<&str>) -> Result<Rc<Bound>> {
    let lock = |bound: &Rc<Bound>| {
        let tables = bound
            .tables()
            .map(|(_, oid)| (oid, pg_sys::AccessShareLock));
        lock_relations(&tables.collect::<Vec<_>>());
    };
    look_until_locked(|| bound_unlocked(name), lock, oids)
}

fn oids(bound: &Rc<Bound>) -> Vec<pg_sys::Oid> {
    bound.tables().map(|(_, oid)| oid).collect()
}

fn bound_unlocked(name: Option<&str>) -> Result<Rc<Bound>> {
    let present = present()?;
    let attached = only(name, &present)?;
    let bound = whole(attached)?;
    bound.follow();
    Ok(bound)
}

/// The accounts that the binding of this name charges, with their table locked as a reader locks it; without a name,
/// the only ones there are: what a change of a balance wants that has nothing to do with usage. Errors: as [`bound`].
pub(crate) fn book(name: Option<&str>) -> Result<Rc<Book>> {
    look_until_locked(
        || book_unlocked(name),
        read_users,
        |book| book.accounts.users.oid,
    )
}

fn read_users(book: &Rc<Book>) {
    lock_relations(&[(book.accounts.users.oid, pg_sys::AccessShareLock)]);
}

fn book_unlocked(name: Option<&str>) -> Result<Rc<Book>> {
    let present = present()?;
    let attached = match (name, &each_of_accounts(&present).collect::<Vec<_>>()[..]) {
        (None, [one]) => one,
        _ => only(name, &present)?,
    };
    let book = usable_book(attached)?;
    security::follow(&book.accounts.paths);
    Ok(book)
}

/// The accounts that the binding of this name charges; without one, all that there are, each once, with a WARNING for
/// what cannot be used. Errors: as [`bound`]; and what is wrong, if none can be used.
pub(crate) fn books(name: Option<&str>) -> Result<Vec<Rc<Book>>> {
    if name.is_some() {
        return Ok(vec![book(name)?]);
    }
    let books = whole_books(None)?;
    usable_names()?;
    for attached in each_of_accounts(&present()?) {
        match usable_book(attached) {
            Err(error) if books.is_empty() => return Err(error),
            Err(error) => error.report(PgLogLevel::WARNING),
            Ok(_) => {}
        }
    }
    Ok(books)
}

/// The same without a word.
pub(crate) fn whole_books(name: Option<&str>) -> Result<Vec<Rc<Book>>> {
    if name.is_some() {
        return Ok(vec![book(name)?]);
    }
    let books = || -> Result<Vec<Rc<Book>>> {
        let present = present()?;
        let books = each_of_accounts(&present).map(usable_book);
        Ok(books.filter_map(Result::ok).collect())
    };
    let tables = |books: &Vec<Rc<Book>>| -> Vec<_> {
        let tables = books.iter().map(|book| book.accounts.users.oid);
        tables.collect()
    };
    look_until_locked(books, |books| books.iter().for_each(read_users), tables)
}

fn usable_book(attached: &Attached) -> Result<Rc<Book>> {
    let book = attached.book.clone().map_err(|_| fault(attached))?;
    require_balance(&book, &attached.spec)?;
    Ok(book)
}

/// The accounts of this users table, or of the one that it is a partition of: one per balance column, which may be
/// gone. What the triggers on users want.
pub(crate) fn books_of(relation: pg_sys::Oid) -> Result<Vec<Rc<Book>>> {
    let present = present()?;
    let mut books = Vec::new();
    for attached in one_per_accounts(present.iter()) {
        if is_part_of(relation, attached.spec.users.oid)? {
            books.push(attached.book.clone().map_err(|_| fault(attached))?);
        }
    }
    Ok(books)
}

/// Those that a call may be about, one for each accounts.
fn each_of_accounts(present: &[Attached]) -> impl Iterator<Item = &Attached> {
    one_per_accounts(usable(present))
}

fn one_per_accounts<'a>(
    attached: impl Iterator<Item = &'a Attached>,
) -> impl Iterator<Item = &'a Attached> {
    let mut seen = BTreeSet::new();
    attached.filter(move |attached| seen.insert(attached.spec.ids.map(|ids| ids.accounts)))
}

/// Those that a call may be about.
fn usable(present: &[Attached]) -> impl Iterator<Item = &Attached> {
    present.iter().filter(|attached| attached.may_be_used())
}

/// The names of those that a call may be about; None if these are all. Error: 42501 if there are none.
pub(crate) fn usable_names() -> Result<Option<Vec<String>>> {
    let present = present()?;
    match names(&present) {
        names if names.is_empty() => Err(not_yours(None)),
        names if names.len() < present.len() => Ok(Some(names)),
        _ => Ok(None),
    }
}

fn only<'a>(name: Option<&str>, present: &'a Present) -> Result<&'a Attached> {
    let Some(name) = name else {
        return match &usable(present).collect::<Vec<_>>()[..] {
            [] => Err(not_yours(None)),
            [only] => Ok(only),
            _ => Err(Error::SeveralBindings {
                names: names(present),
                argument: "binding",
            }),
        };
    };
    match present.iter().find(|attached| attached.spec.name == name) {
        Some(attached) if attached.may_be_used() => Ok(attached),
        Some(_) => Err(not_yours(Some(name))),
        None => Err(unknown(name, present)),
    }
}

fn unknown(name: &str, present: &Present) -> Error {
    Error::UnknownBinding {
        name: name.to_owned(),
        names: names(present),
    }
}

/// With no name, none of them is.
fn not_yours(name: Option<&str>) -> Error {
    Error::BindingOfOthers {
        name: name.map(str::to_owned),
        role: catalog::role_name(security::current_user()),
    }
}

fn names(present: &[Attached]) -> Vec<String> {
    let names = usable(present).map(|attached| attached.spec.name.clone());
    names.collect()
}

/// Whether more than one is attached: then answers say which one they are of.
pub(crate) fn is_one_of_several() -> Result<bool> {
    Ok(present()?.len() > 1)
}

/// The binding, if it is whole.
fn whole(attached: &Attached) -> Result<Rc<Bound>> {
    match &attached.bound {
        Ok(bound) => {
            require_balance(&bound.book, &attached.spec)?;
            Ok(bound.clone())
        }
        Err(_) => Err(fault(attached)),
    }
}

/// What is wrong by now: whether another table has the name of one that was dropped is seen by no invalidation.
fn fault(attached: &Attached) -> Error {
    match (
        Binding::resolve(attached.spec.clone()),
        &attached.book,
        &attached.bound,
    ) {
        (Err(error), _, _) => error,
        (Ok(_), Err(error), _) | (Ok(_), _, Err(error)) => error.clone(),
        (Ok(_), Ok(_), Ok(_)) => Error::ConcurrentRename,
    }
}

/// Error 42703 if the balance column is gone, 42804 if it is of a type that holds no balances.
fn require_balance(book: &Book, spec: &Spec) -> Result<()> {
    let (users, balance) = (&book.accounts.users, &book.accounts.balance);
    match balance {
        Some(column) if !column.holds_balances() => {
            Err(wrong_type(users, column, "", BALANCE_TYPES))
        }
        Some(_) => Ok(()),
        None => Err(Error::BalanceColumnMissing {
            relation: book.accounts.users.sql.clone(),
            column: book.accounts.balance_column.clone(),
            attach: spec.attach_call(),
        }),
    }
}

/// What is attached; error 55000 if nothing is.
fn present() -> Result<Present> {
    let known = match invalidation::is_stale() {
        true => None,
        false => PRESENT.with_borrow(Clone::clone),
    };
    let present = match known {
        Some(present) => present,
        None => read()?,
    };
    match present.is_empty() {
        true => Err(Error::NotAttached),
        false => Ok(present),
    }
}

/// Read the bindings anew. What was kept stays if it is of what is the same still.
fn read() -> Result<Present> {
    // Whoever counts anything has come here before.
    counters::join();
    counters::count_now(Counter::BindingReads);
    let reading = Reading::begin();
    let mut resolved = Vec::new();
    for spec in Stored::attached()? {
        watch_all(&spec)?;
        let accounts = Accounts::resolve(&spec);
        if let Ok(Accounts {
            checks: Some(checks),
            ..
        }) = &accounts
        {
            watch_types(checks.domains.iter().copied());
        }
        let binding = accounts
            .clone()
            .and_then(|accounts| Binding::resolve_with(spec.clone(), accounts));
        resolved.push((spec, accounts, binding));
    }
    let own = own::own_objects()?;
    // Also where nothing is attached: attach says so by one of them.
    watch([
        own.binding,
        own.settlement,
        own.ledger,
        own.queue,
        own.workflow_alias,
    ]);
    let before = PRESENT.with_borrow(Clone::clone).unwrap_or_default();
    let mut present: Vec<Attached> = Vec::new();
    for (spec, accounts, binding) in resolved {
        let of_same_accounts = present.iter().find(|attached| {
            attached.spec.ids.map(|ids| ids.accounts) == spec.ids.map(|ids| ids.accounts)
        });
        let book = match (of_same_accounts, &accounts) {
            (Some(Attached { book: Ok(book), .. }), _) => Ok(book.clone()),
            (_, Ok(accounts)) => Ok(book_of(accounts, &own, &before)),
            (_, Err(error)) => Err(error.clone()),
        };
        let bound = binding.and_then(|binding| Ok(bound_of(binding, book.clone()?, &before)));
        present.push(Attached {
            spec,
            is_guarded: false,
            book,
            bound,
        });
    }
    let books = present
        .iter()
        .filter_map(|attached| attached.book.as_ref().ok());
    let owners: BTreeSet<_> = books
        .map(|book| book.accounts.users.owner.to_u32())
        .collect();
    for attached in &mut present {
        attached.is_guarded = owners.len() > 1;
    }
    let present = Rc::new(present);
    PRESENT.set(Some(present.clone()));
    reading.end();
    Ok(present)
}

fn book_of(accounts: &Accounts, own: &OwnObjects, before: &[Attached]) -> Rc<Book> {
    let mut books = before
        .iter()
        .filter_map(|attached| attached.book.as_ref().ok());
    let same = books.find(|book| book.accounts == *accounts && book.own == *own);
    same.cloned().unwrap_or_else(|| {
        Rc::new(Book {
            accounts: accounts.clone(),
            own: *own,
            kept: Store::default(),
        })
    })
}

fn bound_of(binding: Binding, book: Rc<Book>, before: &[Attached]) -> Rc<Bound> {
    let mut bounds = before
        .iter()
        .filter_map(|attached| attached.bound.as_ref().ok());
    let same = bounds.find(|bound| bound.binding == binding && Rc::ptr_eq(&bound.book, &book));
    same.cloned().unwrap_or_else(|| {
        Rc::new(Bound {
            book,
            binding,
            kept: Store::default(),
        })
    })
}

/// The bindings that are meant, with the bound tables locked as a settlement uses them: the users tables as an
/// UPDATE locks them; the workflows and the usage as a reader does. Until the transaction
/// ends nobody else can change their columns, nor take the ledger's trigger away between a claim and
/// its deduction.
pub(crate) fn bindings_locked(which: Which) -> Result<Found> {
    let modes = [
        pg_sys::AccessShareLock,
        pg_sys::AccessShareLock,
        pg_sys::RowExclusiveLock,
    ];
    look_until_locked(|| bindings_unlocked(which), locker(modes), Found::tables)
}

/// The same, with the usage locked so that nobody else reads it.
pub(crate) fn bindings_and_usage_alone(which: Which) -> Result<Found> {
    let modes = [
        pg_sys::AccessShareLock,
        pg_sys::AccessExclusiveLock,
        pg_sys::RowExclusiveLock,
    ];
    look_until_locked(|| bindings_unlocked(which), locker(modes), Found::tables)
}

/// The bindings that are meant, with the users tables locked as an UPDATE locks them: for a refund, which does
/// not read the usage.
pub(crate) fn bindings_and_users_locked(which: Which) -> Result<Found> {
    look_until_locked(
        || bindings_unlocked(which),
        |found| {
            for bound in &found.whole {
                lock_users(&bound.book);
            }
        },
        Found::tables,
    )
}

/// The binding, with usage and users locked so that nobody else writes them.
pub(crate) fn bound_and_alone(name: Option<&str>) -> Result<Rc<Bound>> {
    look_until_locked(
        || bound_unlocked(name),
        |bound| {
            let tables = bound
                .tables()
                .filter(|(place, _)| *place != Place::Workflows);
            let locks = tables.map(|(_, oid)| (oid, pg_sys::ShareRowExclusiveLock));
            lock_relations(&locks.collect::<Vec<_>>());
        },
        oids,
    )
}

/// The accounts, with the users table locked as an UPDATE locks it.
pub(crate) fn book_and_users_locked(name: Option<&str>) -> Result<Rc<Book>> {
    look_until_locked(
        || book_unlocked(name),
        |book| lock_users(book),
        |book| book.accounts.users.oid,
    )
}

fn lock_users(book: &Book) {
    lock_relations(&[(book.accounts.users.oid, pg_sys::RowExclusiveLock)]);
}

/// Waiting for a lock takes in the invalidations of whoever held it, so what is bound is looked at again
/// with the locks held. It is the one to use if it is of the tables that are locked: what else it
/// says of them cannot change any more. From `RangeVarGetRelidExtended`, which also looks again until
/// the answer is the same, and not until nothing was invalidated: there may always be something.
fn look_until_locked<T, Tables: PartialEq>(
    look: impl Fn() -> Result<T>,
    lock: impl Fn(&T),
    tables: impl Fn(&T) -> Tables,
) -> Result<T> {
    let mut before = look()?;
    loop {
        let since = invalidation::generation();
        lock(&before);
        // Nothing has come while the locks were waited for: the same would be found.
        if !invalidation::is_stale() && invalidation::generation() == since {
            return Ok(before);
        }
        let now = look()?;
        if tables(&now) == tables(&before) {
            return Ok(now);
        }
        before = now;
    }
}

/// Wait for the transactions that settle, and keep others from it until this one ends: each of them
/// holds the lock of [`bindings_locked`].
pub(crate) fn lock_out_settlements(users: pg_sys::Oid) {
    lock_relations(&[(users, pg_sys::ShareRowExclusiveLock)]);
}

/// Also what is not there any more, or not of a kind that can be bound.
fn watch_all(spec: &Spec) -> Result<()> {
    watch(spec.relations().map(|relation| relation.oid));
    let below = view::relations_below(spec.usage.oid)?;
    if !below.is_empty() {
        let views: Vec<_> = below.iter().copied().chain([spec.usage.oid]).collect();
        watch_functions(view::functions_of(&views)?);
    }
    watch(below);
    for relation in spec.relations() {
        // SAFETY: a look-up in a system cache; InvalidOid for a relation that is gone.
        watch_schema(unsafe { pg_sys::get_rel_namespace(relation.oid) });
    }
    for schema in spec.search_path.iter().flatten() {
        // SAFETY: as above; with `true` a schema that is gone is no error.
        watch_schema(unsafe { pg_sys::get_namespace_oid(c_string(schema).as_ptr(), true) });
    }
    Ok(())
}
