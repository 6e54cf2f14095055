//! `token_balance.detach`.

use pgrx::pg_sys;

use super::beside::share_accounts;
use super::check::check_caller_owns;
use super::grants::change_grants;
use super::trigger_ddl;
use crate::binding::own::extension_owner;
use crate::binding::{Binding, BusyAccount, Ids, Spec, Stored, book, take_turns};
use crate::error::{Error, Result};
use crate::ledger::busy;
use crate::postgres::catalog::{self, Table};
use crate::postgres::lock::lock_relations;
use crate::postgres::notice::notice;
use crate::postgres::patience::{StrongLocks, keep_ddl_out};
use crate::postgres::quote::quote_identifier;
use crate::postgres::security::RunAs;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi;
use crate::postgres::view;

/// Drop the triggers of the binding of this name; without one, of the only one. It is remembered; balances, settlements
/// and the ledger stay, and the column does unless `drop_column`. Works also where some of the bound tables or columns
/// are gone. What other bindings that are attached want of its tables stays.
///
/// Errors: 55000 if nothing is attached, or if another binding charges the column that is to be dropped; 42704 if none
/// has the name, 22023 if several are attached and none is named.
pub(crate) fn detach(name: Option<&str>, drop_column: bool) -> Result<()> {
    check_caller_owns(&remaining_tables(&chosen("name", name)?)?)?;
    // Before any lock on a table, as attach takes them.
    take_turns()?;
    let spec = chosen("name", name)?;
    let tables = remaining_tables(&spec)?;
    check_caller_owns(&tables)?;
    let oids: Vec<_> = tables.iter().map(|table| table.oid).collect();
    keep_ddl_out(&oids)?;
    // Owners may have changed, and tables gone, before the locks were granted.
    let tables = remaining_tables(&spec)?;
    check_caller_owns(&tables)?;
    let others: Vec<_> = Stored::attached()?
        .into_iter()
        .filter(|other| other.ids != spec.ids)
        .collect();
    if drop_column {
        refuse_to_drop(&spec, &others)?;
    }
    let whole = |specs: &[Spec]| -> Vec<Binding> {
        let bindings = specs.iter().map(|spec| Binding::resolve(spec.clone()));
        bindings.filter_map(Result::ok).collect()
    };
    let after = whole(&others);
    // What a broken one wants, nobody knows.
    let below = match after.len() == others.len() {
        true => trigger_ddl::unwanted_late_sources(&after)?,
        false => Vec::new(),
    };
    let recording = trigger_ddl::unwanted_recording(&others.iter().collect::<Vec<_>>())?;
    let all = tables.iter().chain(&below).chain(&recording).cloned();
    lock_with_triggers(&all.collect::<Vec<_>>(), Some(spec.users.oid))?;
    drain_queue(&spec)?;

    // What DDL sets off runs with the search_path of the binding, if that is not broken.
    let _ = book(Some(&spec.name));
    let before: Vec<_> = whole(std::slice::from_ref(&spec))
        .into_iter()
        .chain(after.iter().cloned())
        .collect();
    let _owner = RunAs::owner(extension_owner()?);
    for table in &tables {
        give_up(table, &others, &before, &after)?;
    }
    for table in &below {
        trigger_ddl::leave_to(table, &before, &after)?;
    }
    recording.iter().try_for_each(trigger_ddl::stop_recording)?;
    if let Some(users) = tables.iter().find(|table| table.oid == spec.users.oid) {
        if drop_column {
            drop_balance(&spec, users)?;
        }
        let is_owner_of_another = |other: &Binding| other.accounts.users.owner == users.owner;
        if !after.iter().any(is_owner_of_another) {
            change_grants("REVOKE", "FROM", users.owner)?;
        }
    }
    match has_nothing_to_remember(&spec, &tables)? {
        true => spec.forget(),
        false => spec.detached(),
    }
}

/// Drop the column, unless it was there before attach, or is another one by now: a NOTICE says so. Of one that an older
/// version has bound nobody knows.
fn drop_balance(spec: &Spec, users: &Table) -> Result<()> {
    let columns = catalog::columns(users.oid)?;
    let mut columns = columns.into_iter();
    let Some(column) = columns.find(|column| column.name == spec.balance_column) else {
        return Ok(());
    };
    let name = quote_identifier(&column.name);
    let is_bound = spec
        .balance_number()
        .is_none_or(|number| number == column.number);
    if is_bound && spec.made_column != Some(false) {
        return spi::command(&format!("ALTER TABLE {} DROP COLUMN {name}", users.sql)).map(drop);
    }
    notice(
        format!("column {name} of {} stays", users.sql),
        Some("token_balance.attach() has not made it.".into()),
        Some(format!(
            "To drop it: ALTER TABLE {} DROP COLUMN {name};",
            users.sql
        )),
    );
    Ok(())
}

/// The attached binding that is meant by an argument.
pub(super) fn chosen(argument: &'static str, name: Option<&str>) -> Result<Spec> {
    let mut attached = Stored::attached()?;
    let names = attached.iter().map(|spec| spec.name.clone()).collect();
    match name {
        _ if attached.is_empty() => Err(Error::NotAttached),
        None if attached.len() == 1 => Ok(attached.remove(0)),
        None => Err(Error::SeveralBindings { names, argument }),
        Some(name) => attached
            .into_iter()
            .find(|spec| spec.name == name)
            .ok_or_else(|| Error::UnknownBinding {
                name: name.to_owned(),
                names,
            }),
    }
}

fn refuse_to_drop(spec: &Spec, others: &[Spec]) -> Result<()> {
    match others.iter().find(|other| share_accounts(other, spec)) {
        Some(other) => Err(Error::CannotStandBeside {
            message: format!("the balance column of {} is in use", spec.users.name),
            detail: format!("Binding \"{}\" charges it as well.", other.name),
            hint: "Leave drop_column out.".into(),
        }),
        None => Ok(()),
    }
}

/// Take from a table the triggers that nobody wants any more of `others`, who are attached still. Those of a broken
/// binding stay as they are: it may be healed.
fn give_up(table: &Table, others: &[Spec], before: &[Binding], after: &[Binding]) -> Result<()> {
    let has = |spec: &Spec| spec.relations().any(|relation| relation.oid == table.oid);
    let is_whole = |spec: &&Spec| after.iter().any(|whole| whole.spec.ids == spec.ids);
    let others: Vec<_> = others.iter().filter(|other| has(other)).collect();
    if others.is_empty() {
        return trigger_ddl::drop_from(table);
    }
    match others.iter().all(is_whole) {
        true => trigger_ddl::leave_to(table, before, after),
        false => Ok(()),
    }
}

/// Whether there is no usage, and nothing is settled, and no entry, reference, charge in the queue or move is of these
/// accounts: the next attach is then a first one, for which what was loaded meanwhile is usage from before.
fn has_nothing_to_remember(spec: &Spec, tables: &[Table]) -> Result<bool> {
    let usage = tables.iter().find(|table| table.oid == spec.usage.oid);
    let (Some(ids), Some(usage)) = (spec.ids, usage) else {
        return Ok(false);
    };
    // Its trigger may have been dropped before, and with it no lock was taken.
    let below = view::relations_below(usage.oid)?;
    let locks = std::iter::once(usage.oid).chain(below);
    let locks = locks.map(|oid| (oid, pg_sys::ShareRowExclusiveLock));
    lock_relations(&locks.collect::<Vec<_>>());
    if catalog::has_rows(usage)? {
        return Ok(false);
    }
    let known = |table: &str, own: String| {
        format!("EXISTS (SELECT 1 FROM token_balance.{table} AS k WHERE {own} true)")
    };
    let of_accounts = || ids.of_accounts("k");
    let known = [
        known("settlement", Ids::of_binding(Some(ids), "k")),
        known("ledger", of_accounts()),
        known("queue", of_accounts()),
        known("reference", of_accounts()),
        known("account_move", of_accounts()),
    ];
    let sql = format!("SELECT 1 WHERE {}", known.join(" OR "));
    Ok(spi::query_as_of(&sql, &[], Snapshot::Latest)?
        .rows
        .is_empty())
}

/// Another binding takes the place of one whose tables were dropped or renamed away: on those that are left, and
/// are neither `next`'s nor one of the `others`', nothing of it stays. `before` is what was attached until now.
pub(super) fn let_go(
    spec: &Spec,
    next: &Binding,
    before: &[Binding],
    others: &[Binding],
) -> Result<()> {
    let mut left = remaining_tables(spec)?;
    left.retain(|table| next.tables().iter().all(|bound| bound.oid != table.oid));
    check_caller_owns(&left)?;
    let oids: Vec<_> = left.iter().map(|table| table.oid).collect();
    keep_ddl_out(&oids)?;
    let attached: Vec<_> = std::iter::once(next).chain(others).cloned().collect();
    let below = trigger_ddl::unwanted_late_sources(&attached)?;
    let all: Vec<_> = left.iter().chain(&below).cloned().collect();
    lock_with_triggers(&all, None)?;
    let specs: Vec<_> = Stored::attached()?
        .into_iter()
        .filter(|other| other.ids != spec.ids)
        .collect();
    let _owner = RunAs::owner(extension_owner()?);
    for table in &left {
        give_up(table, &specs, before, others)?;
    }
    for table in &below {
        trigger_ddl::leave_to(table, before, &attached)?;
    }
    Ok(())
}

/// Lock those that have triggers of the extension's, and users in any case, whose column may go. All at once: what
/// follows waits for none.
fn lock_with_triggers(tables: &[Table], users: Option<pg_sys::Oid>) -> Result<()> {
    let mut locks = StrongLocks::default();
    for table in tables {
        if users == Some(table.oid) || trigger_ddl::is_any_on(table)? {
            locks.add(table.oid, pg_sys::AccessExclusiveLock)?;
        }
    }
    locks.take()
}

/// No settlement runs any more that could queue one. Charges that wait are paid before nobody is left to apply them.
/// Where the users table is broken they stay: the next attach pays them, and reconcile() tells what no account can pay.
fn drain_queue(spec: &Spec) -> Result<()> {
    if spec.options.busy_account == BusyAccount::Wait {
        return Ok(());
    }
    match book(Some(&spec.name)) {
        Ok(book) => busy::drain_all(&book).map(drop),
        Err(_) => Ok(()),
    }
}

/// The bound tables that are there, in the order in which a settlement locks them.
fn remaining_tables(spec: &Spec) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for relation in spec.relations() {
        tables.extend(catalog::table(relation.oid)?);
    }
    Ok(tables)
}
