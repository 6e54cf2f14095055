//! `token_balance.attach`: bind the extension to an application's tables.

use pgrx::PgLogLevel;
use pgrx::pg_sys;

use super::balance_column::{self, fill_missing, is_made_by_attach, is_prepared, keeps_default};
use super::beside::{self, share_accounts};
use super::check::{check, check_existing_balances, check_ownership, check_usage_view};
use super::detach::let_go;
use super::dry_run;
use super::existing::{
    Outstanding, exempt_existing_usage, outstanding, record_changes_while_detached,
};
use super::grants::{grant_everyday_functions, grant_reading};
use super::key_types::{refuse_other_ids, spell_anew};
use super::made_anew;
use super::overdraft;
use super::plausible;
use super::remembered::{Identity, Said, Standing, standing};
use super::restored::{lost, warn_of_other_balances};
use super::search_path::{self, Attacher};
use super::told::{ColumnBefore, tell_of_ignored, tell_of_kept_default};
use super::trigger_ddl::{drop_optional, stop_recording, unwanted_recording};
use super::wanted_triggers::{Trigger, optional_usage, triggers};
use crate::binding::own::tell_other_sessions;
use crate::binding::{
    Binding, LateSource, LateUsage, OutsideChanges, Spec, Stored, book, take_turns,
};
use crate::error::{Error, Result};
use crate::ledger::{busy, reference};
use crate::postgres::catalog::{self, Column, Table};
use crate::postgres::notice::notice;
use crate::postgres::patience::{StrongLocks, keep_ddl_out};
use crate::postgres::security::{self, Following, RunAs};
use crate::postgres::spi;

/// Bind `spec`, as the caller asks, which may be the script of an extension.
pub(crate) fn attach(spec: Spec, with_index: bool, said: Said) -> Result<Binding> {
    // SAFETY: reads a backend variable.
    let is_in_script = unsafe { pg_sys::creating_extension };
    attach_for(Attacher::of(is_in_script), spec, with_index, said)
}

/// Bind `spec`. Idempotent: an equal binding is only repaired (a missing trigger, column or grant). One that was
/// attached before goes on where it was; nothing is exempted again.
pub(super) fn attach_for(
    attacher: Attacher,
    spec: Spec,
    with_index: bool,
    said: Said,
) -> Result<Binding> {
    if let Some(names) = &spec.search_path {
        search_path::check(names)?;
    }
    let binding = check(spec.clone().known_again(specs(&Stored::all()?))?)?;
    check_ownership(&binding)?;
    check_usage_view(&binding, with_index)?;
    if !said.dry_run {
        // Before any lock on a table: two that wait for each other's turn with one in hand would wait for ever.
        take_turns()?;
        // A table that is gone by the time is found by the check below.
        keep_ddl_out(&oids(&binding))?;
    }
    // Owner, kind and columns may have changed before the locks were granted.
    let stored = Stored::all()?;
    let mut binding = check(spec.known_again(specs(&stored))?)?;
    check_ownership(&binding)?;
    binding.spec.number_columns()?;
    let standing = standing(&stored, &binding, said)?;
    beside::check(&stored, &binding, standing.is_attached())?;
    let others = beside::others(&stored, &binding.spec);
    beside::check_late_sources(&binding, &others)?;
    let shares_accounts = others
        .iter()
        .find(|other| share_accounts(&other.spec, &binding.spec));
    let given = binding.spec.initial_balance;
    if let Some(other) = shares_accounts {
        binding.spec.initial_balance = given.or(other.spec.initial_balance);
        binding.spec.balance_type = other.spec.balance_type;
    }
    let is_this = |stored: &&Stored| stored.is_attached && stored.spec.name == binding.spec.name;
    let replaced = stored.iter().find(is_this);
    // What its tables' triggers are made of until now.
    let before: Vec<_> = replaced
        .and_then(|stored| Binding::resolve(stored.spec.clone()).ok())
        .into_iter()
        .chain(others.iter().cloned())
        .collect();
    binding.spec.ids = standing.ids();
    binding.accounts.id = standing.ids().map(|ids| ids.accounts);
    binding.spec.spellings = Some(binding.spellings());
    let sources = binding.late_sources.iter();
    binding.spec.late_usage_on = sources.clone().map(LateSource::told).collect();
    binding.spec.late_keys = sources.map(LateSource::known).collect();
    binding.spec.definition = binding
        .usage_view
        .as_ref()
        .map(|view| view.definition.clone());
    let kept = stored.iter().find(|stored| match &standing {
        Standing::New(_) => false,
        _ => stored.spec.ids == binding.spec.ids,
    });
    if let Some(kept) = kept {
        if said.usage_ids != Some(Identity::Same) {
            refuse_other_ids(&binding, &kept.spec)?;
        }
        binding.spec.initial_balance = binding.spec.initial_balance.or(kept.spec.initial_balance);
    }
    binding.spec.made_column = is_made_by_attach(&binding, &stored)?;
    binding.choose_search_path(kept.map(|stored| &stored.spec), attacher)?;
    // The tables' triggers may fire from here on. A settlement that they ask for goes by what is
    // stored.
    let _following = Following::start(&binding.accounts.paths);

    check_existing_balances(&binding)?;
    let as_found = binding.clone();
    let had_balance = as_found.accounts.balance.is_some();
    let column_before = ColumnBefore::of(&as_found)?;
    let is_same = matches!(standing, Standing::Same(_));
    tell_of_ignored(kept.map(|stored| &stored.spec), &as_found, said, is_same);
    if let Some(stored) = kept {
        tell_of_replaced_view(&stored.spec, &binding)?;
    }
    if kept.is_none() && shares_accounts.is_none() && keeps_default(&as_found, given) {
        tell_of_kept_default(&as_found)?;
    }
    let lost = lost(&as_found)?;
    if lost.is_none() && standing.is_attached() && had_balance {
        warn_of_other_balances(&binding)?;
    }
    if let Standing::GoesOn(_) = standing
        && binding.spec.existing_usage.as_deref() == Some("exempt")
    {
        refuse_to_forgive(&binding)?;
    }
    // Nothing was changed so far; attach by convention counts on that for every error of ours.
    if said.dry_run {
        let changes = changed_options(&binding, &standing)?;
        let spec = kept.map(|stored| &stored.spec);
        let locks = strong_locks(&binding, &others, &before, spec, changes.as_ref(), given)?;
        let prepared = (given, lost.is_some(), with_index);
        dry_run::tell(&binding, &others, &standing, &locks, prepared)?;
        return Ok(as_found);
    }
    if binding.spec.ids.is_some()
        && (stored.is_empty() || stored.iter().any(|stored| stored.spec.is_of_older_dump))
    {
        let _owner = RunAs::owner(binding.accounts.extension_owner);
        reference::take_in_all()?;
    }
    if let Some(replaced) = replaced {
        let_go(&replaced.spec, &binding, &before, &others)?;
    }
    if !standing.is_attached() {
        if let Some(replaced) = replaced {
            replaced.spec.detached()?;
        }
        binding.spec.store(security::current_user())?;
        // This session, too: what it has read of a binding that a savepoint takes back is not there any more.
        tell_other_sessions()?;
    }
    as_owner(binding.accounts.extension_owner, || grant_reading(&binding))?;
    if let Standing::New(_) = standing
        && binding.spec.existing_usage.as_deref() != Some("charge")
    {
        exempt_existing_usage(&binding)?;
    }
    if with_index {
        create_index(&binding)?;
    }
    let mut filled = 0;
    if binding.accounts.balance.is_some() && lost.is_none() && !is_prepared(&binding, given)? {
        // Most of them before the table is locked; what is inserted until then, below.
        filled += as_owner(binding.accounts.users.owner, || {
            fill_missing(&binding, given)
        })?;
    }
    // The strong locks come last, so that they are held for milliseconds and not for the scan. And all at once:
    // what follows waits for none.
    let changes = changed_options(&binding, &standing)?;
    let spec = kept.map(|stored| &stored.spec);
    strong_locks(&binding, &others, &before, spec, changes.as_ref(), given)?.take()?;
    if changes.is_some() {
        change_options(&binding, &others)?;
    }
    if standing.is_attached() {
        change_search_path_and_names(&binding)?;
    }
    if given.is_some() {
        change_initial_balance(&binding, &others)?;
    }
    if let Standing::OtherWorkflows(_) = standing {
        binding.spec.store(security::current_user())?;
        tell_other_sessions()?;
    }
    filled += as_owner(binding.accounts.users.owner, || {
        balance_column::prepare(&binding, given, lost.as_ref())
    })?;
    if let Some(column) = column_before {
        column.tell_changes(&binding, filled, keeps_default(&binding, given))?;
    }
    let is_balance =
        |column: &Column| column.name == binding.accounts.balance_column && column.is_not_null;
    let columns = catalog::columns(binding.accounts.users.oid)?;
    binding.accounts.balance = columns.into_iter().find(is_balance);
    if binding.accounts.balance.is_none() {
        // Another table had the name by then.
        return Err(Error::ConcurrentRename);
    }
    // That of the balance is there by now, too.
    binding.spec.store_columns()?;
    if let Some(stored) = kept {
        spell_anew(&binding, &stored.spec)?;
    }
    {
        let _owner = RunAs::owner(binding.accounts.extension_owner);
        for table in not_recording_any_more(&binding)? {
            stop_recording(&table)?;
        }
        let was = triggers_of(&before);
        for trigger in triggers(&binding, &others) {
            match trigger.is_another(&was) {
                true => trigger.renew()?,
                false => trigger.create()?,
            }
        }
        if !standing.is_attached() && shares_accounts.is_none() {
            record_changes_while_detached(&binding)?;
        }
        if !standing.is_attached() || !had_balance {
            // What was left there, since the binding was broken.
            busy::drain_all(&*book(Some(&binding.spec.name))?)?;
        }
        grant_everyday_functions(binding.accounts.users.owner)?;
    }
    if let Standing::GoesOn(_) | Standing::OtherWorkflows(_) = standing {
        tell_that_it_goes_on(&binding)?;
    }
    if let Some(error) = overdraft::forbidden(&binding)? {
        error.report(PgLogLevel::WARNING);
    }
    plausible::warn_if_nothing_matches(&binding)?;
    Ok(binding)
}

fn specs(stored: &[Stored]) -> impl Iterator<Item = &Spec> + Clone {
    stored.iter().map(|stored| &stored.spec)
}

/// Error 55000 if usage waits to be charged, of a binding that goes on.
fn refuse_to_forgive(binding: &Binding) -> Result<()> {
    let outstanding = outstanding(binding)?;
    match outstanding.completed.0 + outstanding.open.0 {
        0 => Ok(()),
        pairs => Err(Error::WouldForgive {
            relation: binding.usage.sql.clone(),
            pairs,
            tokens: outstanding.completed.1 + outstanding.open.1,
        }),
    }
}

/// What another definition of the usage view changes of runs that were settled.
fn tell_of_replaced_view(known: &Spec, binding: &Binding) -> Result<()> {
    let (Some(before), Some(now), Some(ids)) =
        (&known.definition, &binding.spec.definition, known.ids)
    else {
        return Ok(());
    };
    if before.is_same(now) {
        return Ok(());
    }
    let Outstanding { completed, open } = outstanding(binding)?;
    let fewer = made_anew::compare_usage(binding, ids)?.with_less();
    notice(
        format!("view {} was replaced since it was attached", binding.usage.sql),
        Some(format!(
            "By what it shows now, not charged yet are {} tokens of completed runs ({} pairs of workflow and account) \
             and {} tokens of others ({}). {fewer} pairs have less than was accounted for.",
            completed.1, completed.0, open.1, open.0
        )),
        Some(
            "If that is not right, roll back, or put the view right and call token_balance.attach_again()."
                .into(),
        ),
    );
    Ok(())
}

/// What waits, of a binding that goes on.
fn tell_that_it_goes_on(binding: &Binding) -> Result<()> {
    let message = format!(
        "token_balance goes on with {} where it was",
        binding.usage.sql
    );
    let Outstanding { completed, open } = match outstanding(binding) {
        // One row does not keep the rest from being charged.
        Err(Error::UnreadableUsageThere { said, .. }) => {
            notice(
                message,
                Some(format!(
                    "How much waits cannot be told. The server says: {said}."
                )),
                Some("token_balance.settle_pending() names each run that it cannot read.".into()),
            );
            return Ok(());
        }
        found => found?,
    };
    let hint = "Call token_balance.settle_pending() for runs that have completed meanwhile.";
    notice(
        message,
        Some(format!(
            "Not charged yet: {} tokens of completed runs ({} pairs of workflow and account), \
             {} tokens of others ({}).",
            completed.1, completed.0, open.1, open.0
        )),
        (completed.0 > 0).then(|| hint.into()),
    );
    Ok(())
}

fn oids(binding: &Binding) -> Vec<pg_sys::Oid> {
    let tables = binding.tables().into_iter().map(|table| table.oid);
    let below = binding.usage_relations().skip(1);
    tables.chain(below).collect()
}

/// The triggers of all these.
fn triggers_of(bindings: &[Binding]) -> Vec<Trigger<'_>> {
    let each = bindings.iter();
    each.flat_map(|binding| triggers(binding, bindings))
        .collect()
}

/// The locks with which attach does what there is to do: triggers, other options of the binding that is there, and the
/// balance column.
fn strong_locks(
    binding: &Binding,
    others: &[Binding],
    before: &[Binding],
    kept: Option<&Spec>,
    changes: Option<&Spec>,
    given: Option<i64>,
) -> Result<StrongLocks> {
    let mut locks = StrongLocks::default();
    let was = triggers_of(before);
    for trigger in triggers(binding, others) {
        if let Some(mode) = trigger.lock_to_create(trigger.is_another(&was))? {
            locks.add(trigger.table.oid, mode)?;
        }
    }
    for table in not_recording_any_more(binding)? {
        locks.add(table.oid, pg_sys::AccessExclusiveLock)?;
    }
    let users = binding.accounts.users.oid;
    if let Some(present) = changes {
        // Settlements that run still go by the old options: each has locked users as a writer does.
        locks.add(users, pg_sys::ShareRowExclusiveLock)?;
        // Their triggers are dropped.
        if present.options.late_usage == LateUsage::Settle {
            for table in optional_usage(binding, others) {
                if !table.is_view() {
                    locks.add(table.oid, pg_sys::AccessExclusiveLock)?;
                }
            }
        }
        if present.options.outside_changes != OutsideChanges::Record {
            locks.add(users, pg_sys::AccessExclusiveLock)?;
        }
    }
    if kept.is_some_and(|spec| spec.spellings != binding.spec.spellings) {
        locks.add(users, pg_sys::ShareRowExclusiveLock)?;
    }
    if !is_prepared(binding, given)? {
        locks.add(users, pg_sys::AccessExclusiveLock)?;
    }
    Ok(locks)
}

/// The tables whose triggers record what is deleted, and which nobody wants to any more once this is attached.
fn not_recording_any_more(binding: &Binding) -> Result<Vec<Table>> {
    let attached = Stored::attached()?;
    let others = attached
        .iter()
        .filter(|other| other.name != binding.spec.name);
    let wanted: Vec<_> = others.chain([&binding.spec]).collect();
    unwanted_recording(&wanted)
}

fn has_other_options(one: &Spec, other: &Spec) -> bool {
    one.options != other.options || one.late_usage_on != other.late_usage_on
}

/// What is stored of the binding that is attached, if it has other options.
fn changed_options(binding: &Binding, standing: &Standing) -> Result<Option<Spec>> {
    let present = binding.spec.present()?;
    Ok(present
        .filter(|present| standing.is_attached() && has_other_options(present, &binding.spec)))
}

/// Give the binding that is there the options of `binding`. Settlements are locked out.
fn change_options(binding: &Binding, others: &[Binding]) -> Result<()> {
    if binding.accounts.balance.is_some() {
        busy::drain_all(&*book(Some(&binding.spec.name))?)?;
    }
    binding.spec.store_changes()?;
    for Binding { spec: other, .. } in others {
        if share_accounts(other, &binding.spec) {
            let mut other = other.clone();
            other.options.busy_account = binding.spec.options.busy_account;
            other.options.outside_changes = binding.spec.options.outside_changes;
            other.store_changes()?;
        }
    }
    tell_other_sessions()?;
    drop_optional(binding, others)
}

/// Give the binding that is there the search_path of `binding`, and its tables' names. Settlements that run go on
/// by the earlier path.
fn change_search_path_and_names(binding: &Binding) -> Result<()> {
    let named =
        |spec: &Spec| Vec::from_iter(spec.relations().map(|relation| relation.name.clone()));
    match binding.spec.present()? {
        Some(present)
            if present.search_path != binding.spec.search_path
                || present.definition != binding.spec.definition
                || present.spellings != binding.spec.spellings
                || present.initial_balance != binding.spec.initial_balance
                || present.made_column != binding.spec.made_column
                || named(&present) != named(&binding.spec) =>
        {
            binding.spec.store_changes()?;
            tell_other_sessions()
        }
        _ => Ok(()),
    }
}

/// The accounts have one, whatever the number of bindings that charge them.
fn change_initial_balance(binding: &Binding, others: &[Binding]) -> Result<()> {
    for Binding { spec: other, .. } in others {
        if share_accounts(other, &binding.spec)
            && other.initial_balance != binding.spec.initial_balance
        {
            let mut other = other.clone();
            other.initial_balance = binding.spec.initial_balance;
            other.store_changes()?;
            tell_other_sessions()?;
        }
    }
    Ok(())
}

fn create_index(binding: &Binding) -> Result<()> {
    if catalog::has_index_on(&binding.usage, &binding.usage_workflow.column)? {
        return Ok(());
    }
    let mut locks = StrongLocks::default();
    locks.add(binding.usage.oid, pg_sys::ShareLock)?;
    locks.take()?;
    // The server runs the build as the table's owner.
    as_owner(binding.accounts.extension_owner, || {
        spi::command(&format!(
            "CREATE INDEX ON {} {}",
            binding.usage.sql,
            binding.usage_index()
        ))
    })
    .map(|_| ())
}

fn as_owner<T>(owner: pg_sys::Oid, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let _owner = RunAs::owner(owner);
    work()
}
