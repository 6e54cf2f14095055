//! `token_balance.detach`, and the grants that attach makes and detach takes back.

use pgrx::pg_sys;
use pgrx::spi::quote_identifier;

use super::attach::check_caller_owns;
use super::{BALANCE_COLUMN, Binding, Spec};
use crate::catalog;
use crate::error::Result;
use crate::security::RunAs;
use crate::spi;

/// What the owner of the users table may call after attach. `{}` is the extension's schema.
const EVERYDAY_FUNCTIONS: [&str; 5] = [
    "{}.settle_workflow(pg_catalog.text)",
    "{}.settle_workflow(bigint)",
    "{}.settle_workflow(pg_catalog.uuid)",
    "token_balance.settle_workflows(pg_catalog.text[])",
    "token_balance.balance(pg_catalog.text)",
];

/// Drop the triggers and the binding. Balances, settlements and the ledger stay; so does the column
/// unless `drop_column`.
pub(crate) fn detach(drop_column: bool) -> Result<()> {
    let binding = match Binding::load() {
        Ok(binding) => binding,
        // A binding that points at dropped tables or columns has nothing else to take back.
        Err(error) => return forget_broken(error),
    };
    check_caller_owns(&binding)?;
    // In the order in which a settlement locks.
    for table in binding.tables() {
        // SAFETY: locks an OID.
        unsafe { pg_sys::LockRelationOid(table.oid, pg_sys::ShareUpdateExclusiveLock as i32) };
    }
    let binding = Binding::load()?;
    check_caller_owns(&binding)?;

    let _owner = RunAs::owner(binding.extension_owner);
    for trigger in binding.triggers() {
        trigger.drop()?;
    }
    if drop_column && binding.balance.is_some() {
        spi::command(&format!(
            "ALTER TABLE {} DROP COLUMN {BALANCE_COLUMN}",
            binding.users.sql
        ))?;
    }
    change_grants("REVOKE", "FROM", &binding)?;
    Spec::forget()
}

fn forget_broken(error: crate::error::Error) -> Result<()> {
    use crate::error::Error::{ColumnMissing, NotOwner, RelationMissing};
    match error {
        RelationMissing { .. } | ColumnMissing { .. } => {
            let owner = catalog::extension_owner()?;
            if !catalog::acts_for(crate::security::current_user(), owner) {
                return Err(NotOwner {
                    relation: "token_balance.binding".into(),
                });
            }
            Spec::forget()
        }
        other => Err(other),
    }
}

/// Let the owner of the users table call the everyday functions.
pub(super) fn grant_everyday_functions(binding: &Binding) -> Result<()> {
    change_grants("GRANT", "TO", binding)
}

fn change_grants(verb: &str, preposition: &str, binding: &Binding) -> Result<()> {
    if binding.users.owner == binding.extension_owner {
        // The owner of a function needs no grant, and revoking one would take the owner's own.
        return Ok(());
    }
    let role = quote_identifier(catalog::role_name(binding.users.owner));
    let schema = catalog::extension_schema()?;
    let functions: Vec<_> = EVERYDAY_FUNCTIONS
        .iter()
        .map(|function| function.replace("{}", &schema))
        .collect();
    spi::command(&format!(
        "{verb} EXECUTE ON FUNCTION {} {preposition} {role}",
        functions.join(", ")
    ))?;
    spi::command(&format!(
        "{verb} USAGE ON SCHEMA token_balance {preposition} {role}"
    ))?;
    Ok(())
}
