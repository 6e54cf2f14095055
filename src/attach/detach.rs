//! `token_balance.detach`.

use pgrx::pg_sys;

use super::check::check_caller_owns;
use super::grants::change_grants;
use super::trigger_ddl;
use crate::binding::own::extension_owner;
use crate::binding::{BALANCE_COLUMN, Binding, BusyAccount, Spec, book, take_turns};
use crate::error::{Error, Result};
use crate::ledger::busy;
use crate::postgres::catalog::{self, Table};
use crate::postgres::patience::{StrongLocks, keep_ddl_out};
use crate::postgres::security::RunAs;
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
    // All at once: what follows waits for none.
    let mut locks = StrongLocks::default();
    for table in &tables {
        // Usage has none but for late_usage => 'settle', and goes on being written.
        if table.oid == spec.users.oid || trigger_ddl::is_any_on(table)? {
            locks.add(table.oid, pg_sys::AccessExclusiveLock)?;
        }
    }
    locks.take()?;
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
    spec.detached()
}

/// Another binding takes the place of one whose tables were dropped or renamed away: on those that are left, and
/// are not `next`'s, nothing of it stays.
pub(super) fn let_go(spec: &Spec, next: &Binding) -> Result<()> {
    let mut left = remaining_tables(spec)?;
    left.retain(|table| next.tables().iter().all(|bound| bound.oid != table.oid));
    check_caller_owns(&left)?;
    let oids: Vec<_> = left.iter().map(|table| table.oid).collect();
    keep_ddl_out(&oids)?;
    let mut locks = StrongLocks::default();
    for table in &left {
        if trigger_ddl::is_any_on(table)? {
            locks.add(table.oid, pg_sys::AccessExclusiveLock)?;
        }
    }
    locks.take()?;
    let _owner = RunAs::owner(extension_owner()?);
    for table in &left {
        trigger_ddl::drop_from(table)?;
    }
    Ok(())
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
