//! `token_balance.detach`.

use pgrx::pg_sys;

use super::check::check_caller_owns;
use super::grants::change_grants;
use super::trigger_ddl;
use crate::binding::own::extension_owner;
use crate::binding::{
    BALANCE_COLUMN, Binding, BusyAccount, Spec, book, lock_out_settlements, take_turns,
};
use crate::error::{Error, Result};
use crate::ledger::busy;
use crate::postgres::catalog::{self, Table};
use crate::postgres::security::RunAs;
use crate::postgres::spi;

/// Drop the triggers. The binding is remembered; balances, settlements and the ledger stay, and the column does
/// unless `drop_column`. Works also where some of the bound tables or columns are gone.
pub(crate) fn detach(drop_column: bool) -> Result<()> {
    let spec = Spec::load()?.ok_or(Error::NotAttached)?;
    let tables = remaining_tables(&spec)?;
    check_caller_owns(&tables)?;
    for table in &tables {
        // SAFETY: locks an OID.
        unsafe { pg_sys::LockRelationOid(table.oid, pg_sys::ShareUpdateExclusiveLock as i32) };
    }
    // Owners may have changed, and tables gone, before the locks were granted.
    let tables = remaining_tables(&spec)?;
    check_caller_owns(&tables)?;
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
    let _owner = RunAs::owner(extension_owner()?);
    for table in &left {
        // SAFETY: locks an OID.
        unsafe { pg_sys::LockRelationOid(table.oid, pg_sys::ShareUpdateExclusiveLock as i32) };
        trigger_ddl::drop_from(table)?;
    }
    Ok(())
}

/// Charges that wait are paid before nobody is left to apply them. Where the users table is broken they
/// stay: the next attach pays them, and reconcile() tells what no account can pay.
fn drain_queue(spec: &Spec) -> Result<()> {
    if spec.options.busy_account == BusyAccount::Wait {
        return Ok(());
    }
    // Settlements that run may still queue.
    lock_out_settlements(spec.users.oid);
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
