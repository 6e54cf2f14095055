//! The grants that attach makes and detach takes back.

use pgrx::pg_sys;

use crate::binding::Binding;
use crate::binding::own::{extension_owner, extension_schema};
use crate::error::Result;
use crate::postgres::catalog;
use crate::postgres::quote::quote_identifier;
use crate::postgres::spi;
use crate::postgres::value::Arg;

/// What the owner of the users table may call after attach. `{}` is the extension's schema. The catalog has either
/// those of this version or, until it is updated, the older ones, which do not name a binding.
const EVERYDAY_FUNCTIONS: [&str; 21] = [
    "{}.settle_workflow(pg_catalog.text, pg_catalog.name)",
    "{}.settle_workflow(bigint, pg_catalog.name)",
    "{}.settle_workflow(pg_catalog.uuid, pg_catalog.name)",
    "token_balance.settle_workflows(pg_catalog.text[], pg_catalog.name)",
    "token_balance.attach_again(pg_catalog.name)",
    "token_balance.balance(pg_catalog.text, pg_catalog.name)",
    "token_balance.balance(bigint, pg_catalog.name)",
    "token_balance.balance(pg_catalog.uuid, pg_catalog.name)",
    "token_balance.summary(pg_catalog.text, integer, pg_catalog.name)",
    "token_balance.summary(bigint, integer, pg_catalog.name)",
    "token_balance.summary(pg_catalog.uuid, integer, pg_catalog.name)",
    "token_balance.statement(pg_catalog.text, timestamp with time zone, timestamp with time zone, pg_catalog.name)",
    "token_balance.statement(bigint, timestamp with time zone, timestamp with time zone, pg_catalog.name)",
    "token_balance.statement(pg_catalog.uuid, timestamp with time zone, timestamp with time zone, pg_catalog.name)",
    "{}.settle_workflow(pg_catalog.text)",
    "{}.settle_workflow(bigint)",
    "{}.settle_workflow(pg_catalog.uuid)",
    "token_balance.settle_workflows(pg_catalog.text[])",
    "token_balance.balance(pg_catalog.text)",
    "token_balance.summary(pg_catalog.text, integer)",
    "token_balance.statement(pg_catalog.text, timestamp with time zone, timestamp with time zone)",
];

/// Let the owner of the users table call the everyday functions.
pub(super) fn grant_everyday_functions(users_owner: pg_sys::Oid) -> Result<()> {
    change_grants("GRANT", "TO", users_owner)?;
    // Left alone by detach: it may have been granted by hand, and gives nothing without EXECUTE.
    let role = quote_identifier(catalog::role_name(users_owner));
    spi::command(&format!("GRANT USAGE ON SCHEMA token_balance TO {role}")).map(|_| ())
}

/// Let the usage be read, as its owner. Where the statements name a function of ours, that role has to find it: whoever
/// it will be, since a table may be given to another one later.
pub(super) fn grant_reading(binding: &Binding) -> Result<()> {
    if !binding.reads_floating_tokens() {
        return Ok(());
    }
    spi::command("GRANT USAGE ON SCHEMA token_balance TO PUBLIC").map(|_| ())
}

pub(super) fn change_grants(verb: &str, preposition: &str, users_owner: pg_sys::Oid) -> Result<()> {
    if users_owner == extension_owner()? {
        // The owner of a function needs no grant, and revoking one would take the owner's own.
        return Ok(());
    }
    let role = quote_identifier(catalog::role_name(users_owner));
    let schema = extension_schema()?;
    let functions: Vec<_> = EVERYDAY_FUNCTIONS
        .iter()
        .map(|function| function.replace("{}", &schema))
        .collect();
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
