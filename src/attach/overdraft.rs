//! A CHECK constraint, of the table or of a domain, by which no balance can be below zero: charges that an account does not cover wait then.

use crate::binding::Binding;
use crate::error::{Error, Result};
use crate::postgres::catalog;
use crate::postgres::security::RunAs;
use crate::postgres::spi;

/// What is wrong if no balance can be -1, by constraints of the column alone or of the whole row. The planner decides
/// it, so functions in them are not called, and what they forbid is not seen; nor is a constraint that is not validated, or
/// one that other columns may satisfy. Those of a domain are asked.
pub(crate) fn forbidden(binding: &Binding) -> Result<Option<Error>> {
    let accounts = &binding.accounts;
    let Some(column) = &accounts.balance else {
        return Ok(None);
    };
    let below_zero = format!("(-1)::{}", accounts.balance_type_sql());
    let (of_domain, says) =
        catalog::domain_checks_of(accounts.users.oid, column.number, &below_zero)?;
    let of_table = catalog::check_names(accounts.users.oid, column.number)?;
    let _owner = RunAs::owner(accounts.users.owner);
    let mut constraints = Vec::new();
    if !of_domain.is_empty() && catalog::exists(&format!("SELECT 1 WHERE {says} IS FALSE"), &[])? {
        constraints.extend(of_domain);
    }
    if !of_table.is_empty()
        && spi::is_refuted(&format!(
            "SELECT 1 FROM {} AS a WHERE a.{} OPERATOR(pg_catalog.=) {below_zero}",
            accounts.users.sql,
            accounts.balance_sql(),
        ))?
    {
        constraints.extend(of_table);
    }
    Ok(
        (!constraints.is_empty()).then(|| Error::OverdraftForbidden {
            relation: accounts.users.sql.clone(),
            column: column.name.clone(),
            constraints,
        }),
    )
}
