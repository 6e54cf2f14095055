//! `token_balance.detach`.

use pgrx::pg_sys;

use super::check::check_caller_owns;
use super::grants::change_grants;
use super::trigger_ddl;
use crate::binding::own::extension_owner;
use crate::binding::{BALANCE_COLUMN, Binding, BusyAccount, Ids, Spec, book, take_turns};
use crate::error::{Error, Result};
use crate::ledger::busy;
use crate::postgres::catalog::{self, Table};
use crate::postgres::lock::lock_relations;
use crate::postgres::patience::{StrongLocks, keep_ddl_out};
use crate::postgres::security::RunAs;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi;

/// Drop the triggers. The binding is remembered; balances, settlements and the ledger stay, and the column does
/// unless `drop_column`. Works also where some of the bound tables or columns are gone.
pub(crate) fn detach(drop_column: bool) -> Result<()> {
    let spec = Spec::load()?.ok_or(Error::NotAttached)?;
    let tables = remaining_tables(&spec)?;
    check_caller_owns(&tables)?;
    let oids: Vec<_> = tables.iter().map(|table| table.oid).collect();
    keep_ddl_out(&oids)?;
    // Owners may have changed, and tables gone, before the locks were granted.
    let tables = remaining_tables(&spec)?;
    check_caller_owns(&tables)?;
    lock_with_triggers(&tables, Some(spec.users.oid))?;
    drain_queue(&spec)?;

    take_turns()?;
    // What DDL sets off runs with the search_path of the binding, if that is not broken.
    let _ = book();
    let _owner = RunAs::owner(extension_owner()?);
    for table in &tables {
        trigger_ddl::drop_from(table)?;
    }
    if let Some(users) = tables.iter().find(|table| table.oid == spec.users.oid) {
        if drop_column {
            spi::command(&format!(
                "ALTER TABLE {} DROP COLUMN IF EXISTS {BALANCE_COLUMN}",
                users.sql
            ))?;
        }
        change_grants("REVOKE", "FROM", users.owner)?;
    }
    match has_nothing_to_remember(&spec, &tables)? {
        true => spec.forget(),
        false => spec.detached(),
    }
}

/// Whether there is no usage, and nothing is settled, and no entry, reference or charge in the queue is of these
/// accounts: the next attach is then a first one, for which what was loaded meanwhile is usage from before.
fn has_nothing_to_remember(spec: &Spec, tables: &[Table]) -> Result<bool> {
    let usage = tables.iter().find(|table| table.oid == spec.usage.oid);
    let (Some(ids), Some(usage)) = (spec.ids, usage) else {
        return Ok(false);
    };
    // Its trigger may have been dropped before, and with it no lock was taken.
    lock_relations(&[(usage.oid, pg_sys::ShareRowExclusiveLock)]);
    if catalog::has_rows(usage)? {
        return Ok(false);
    }
    let known = |table: &str, own: String| {
        format!("EXISTS (SELECT 1 FROM token_balance.{table} AS k WHERE {own} true)")
    };
    let of_accounts = || Ids::of_accounts(Some(ids), "k");
    let known = [
        known("settlement", Ids::of_binding(Some(ids), "k")),
        known("ledger", of_accounts()),
        known("queue", of_accounts()),
        known("reference", of_accounts()),
    ];
    let sql = format!("SELECT 1 WHERE {}", known.join(" OR "));
    Ok(spi::query_as_of(&sql, &[], Snapshot::Latest)?
        .rows
        .is_empty())
}

/// Another binding takes the place of one whose tables were dropped or renamed away: on those that are left, and
/// are not `next`'s, nothing of it stays.
pub(super) fn let_go(spec: &Spec, next: &Binding) -> Result<()> {
    let mut left = remaining_tables(spec)?;
    left.retain(|table| next.tables().iter().all(|bound| bound.oid != table.oid));
    check_caller_owns(&left)?;
    let oids: Vec<_> = left.iter().map(|table| table.oid).collect();
    keep_ddl_out(&oids)?;
    lock_with_triggers(&left, None)?;
    let _owner = RunAs::owner(extension_owner()?);
    for table in &left {
        trigger_ddl::drop_from(table)?;
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
    match book() {
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
