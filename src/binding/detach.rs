//! `token_balance.detach`, and the grants that attach makes and detach takes back.

use pgrx::pg_sys;
use pgrx::spi::quote_identifier;

use super::check::check_caller_owns;
use super::{BALANCE_COLUMN, BusyAccount, Spec};
use crate::cache;
use crate::catalog::{self, Table};
use crate::error::{Error, Result};
use crate::queue;
use crate::security::RunAs;
use crate::spi::{self, Arg};

/// What the owner of the users table may call after attach. `{}` is the extension's schema.
const EVERYDAY_FUNCTIONS: [&str; 7] = [
    "{}.settle_workflow(pg_catalog.text)",
    "{}.settle_workflow(bigint)",
    "{}.settle_workflow(pg_catalog.uuid)",
    "token_balance.settle_workflows(pg_catalog.text[])",
    "token_balance.balance(pg_catalog.text)",
    "token_balance.summary(pg_catalog.text, integer)",
    "token_balance.statement(pg_catalog.text, timestamp with time zone, timestamp with time zone)",
];

/// Drop the triggers and the binding. Balances, settlements and the ledger stay; so does the column
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

    // What DDL sets off runs with the search_path of the binding, if that is not broken.
    let _ = cache::bound();
    let _owner = RunAs::owner(catalog::extension_owner()?);
    for table in &tables {
        super::triggers::drop_from(table)?;
    }
    if let Some(users) = tables.iter().find(|table| table.oid == spec.users) {
        if drop_column {
            spi::command(&format!(
                "ALTER TABLE {} DROP COLUMN IF EXISTS {BALANCE_COLUMN}",
                users.sql
            ))?;
        }
        change_grants("REVOKE", "FROM", users.owner)?;
    }
    Spec::forget()
}

/// Charges that wait are paid before nobody is left to apply them. Where the binding is broken they
/// stay: the next attach pays them, and reconcile() tells what no account can pay.
fn drain_queue(spec: &Spec) -> Result<()> {
    if spec.options.busy_account == BusyAccount::Wait {
        return Ok(());
    }
    // Settlements that run may still queue.
    cache::lock_out_settlements(spec.users);
    match cache::bound() {
        Ok(bound) => queue::drain_all(&bound).map(|_| ()),
        Err(_) => Ok(()),
    }
}

/// The bound tables that are there, in the order in which a settlement locks them.
fn remaining_tables(spec: &Spec) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for oid in spec.relations() {
        tables.extend(catalog::table(oid)?);
    }
    Ok(tables)
}

/// Let the owner of the users table call the everyday functions.
pub(super) fn grant_everyday_functions(users_owner: pg_sys::Oid) -> Result<()> {
    change_grants("GRANT", "TO", users_owner)?;
    // Left alone by detach: it may have been granted by hand, and gives nothing without EXECUTE.
    let role = quote_identifier(catalog::role_name(users_owner));
    spi::command(&format!("GRANT USAGE ON SCHEMA token_balance TO {role}")).map(|_| ())
}

fn change_grants(verb: &str, preposition: &str, users_owner: pg_sys::Oid) -> Result<()> {
    if users_owner == catalog::extension_owner()? {
        // The owner of a function needs no grant, and revoking one would take the owner's own.
        return Ok(());
    }
    let role = quote_identifier(catalog::role_name(users_owner));
    let schema = catalog::extension_schema()?;
    let functions: Vec<_> = EVERYDAY_FUNCTIONS
        .iter()
        .map(|function| function.replace("{}", &schema))
        .collect();
    // The catalog of 0.1.0, before it is updated, has not all of them.
    let present = spi::query(
        "SELECT f FROM pg_catalog.unnest($1::pg_catalog.text[]) AS f \
         WHERE pg_catalog.to_regprocedure(f) IS NOT NULL",
        &[Arg::TextArray(&functions)],
    )?;
    let functions: Vec<_> = present.rows.iter().map(|row| row.text(0)).collect();
    spi::command(&format!(
        "{verb} EXECUTE ON FUNCTION {} {preposition} {role}",
        functions.join(", ")
    ))
    .map(|_| ())
}
