//! A CHECK constraint by which no balance can be below zero: charges that an account does not cover wait then.

use crate::binding::Binding;
use crate::error::{Error, Result};
use crate::postgres::catalog;
use crate::postgres::security::RunAs;
use crate::postgres::spi;

/// What is wrong if no balance can be -1, by constraints of the column alone or of the whole row. The planner decides
/// it, so functions in them are not called, and what they forbid is not seen; nor is what a domain forbids, or a
/// constraint that is not validated, or one that other columns may satisfy.
pub(crate) fn forbidden(binding: &Binding) -> Result<Option<Error>> {
    let accounts = &binding.accounts;
    let Some(column) = &accounts.balance else {
        return Ok(None);
    };
    let constraints = catalog::check_names(accounts.users.oid, column.number)?;
    if constraints.is_empty() {
        return Ok(None);
    }
    let _owner = RunAs::owner(accounts.users.owner);
    let is_refuted = spi::is_refuted(&format!(
        "SELECT 1 FROM {} AS a WHERE a.{} OPERATOR(pg_catalog.=) (-1)::{}",
        accounts.users.sql,
        accounts.balance_sql(),
        accounts.balance_type_sql()
    ))?;
    Ok(is_refuted.then(|| Error::OverdraftForbidden {
        relation: accounts.users.sql.clone(),
        column: column.name.clone(),
        constraints,
    }))
}
