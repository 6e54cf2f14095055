//! The balance column: added where it is missing, and where one is there, made NOT NULL with a default. One that is
//! there keeps its own default unless the caller says what accounts are to begin with.

use pgrx::pg_sys;

use crate::binding::{Binding, Spec, Stored};
use crate::error::Result;
use crate::ledger::change::Restoring;
use crate::postgres::catalog::Column;
use crate::postgres::spi;
use crate::postgres::value::Arg;

use super::restored::Lost;

/// Of a column that attach makes.
const COMMENT: &str =
    "Prepaid tokens left; negative is an overdraft. Kept by the extension token_balance.";

/// Whether the column is there and has a default that stays; `given` is the initial balance that the caller names.
pub(super) fn keeps_default(binding: &Binding, given: Option<i64>) -> bool {
    let column = binding.accounts.balance.as_ref();
    given.is_none() && column.is_some_and(|column| column.has_default)
}

/// Whether the column is there, NOT NULL and with the default.
pub(super) fn is_prepared(binding: &Binding, given: Option<i64>) -> Result<bool> {
    match &binding.accounts.balance {
        Some(column) if column.is_not_null => {
            Ok(keeps_default(binding, given) || has_default(binding, column)?)
        }
        _ => Ok(false),
    }
}

/// Add the column, or make one that is there NOT NULL with a default. Balances that the ledger knows come from
/// there. The table is locked for it. How many accounts had NULL.
pub(super) fn prepare(binding: &Binding, given: Option<i64>, lost: Option<&Lost>) -> Result<u64> {
    if is_prepared(binding, given)? {
        return Ok(0);
    }
    let users = &binding.accounts.users.sql;
    let column = binding.accounts.balance_sql();
    let initial = binding.spec.initial();
    match &binding.accounts.balance {
        None => {
            let balance_type = if binding.spec.balance_type == pg_sys::INT8OID {
                "bigint"
            } else {
                "integer"
            };
            // A constant default: the server does not rewrite the table.
            spi::command(&format!(
                "ALTER TABLE {users} ADD COLUMN {column} {balance_type} \
                 NOT NULL DEFAULT {initial}"
            ))?;
            spi::command(&format!(
                "COMMENT ON COLUMN {users}.{column} IS '{COMMENT}'"
            ))?;
            lost.map_or(Ok(()), Lost::give_back)?;
            Ok(0)
        }
        Some(_) => {
            lost.map_or(Ok(()), Lost::give_back)?;
            let filled = fill_missing(binding, given)?;
            let default = match keeps_default(binding, given) {
                true => String::new(),
                false => format!("ALTER COLUMN {column} SET DEFAULT {initial}, "),
            };
            spi::command(&format!(
                "ALTER TABLE {users} {default}ALTER COLUMN {column} SET NOT NULL"
            ))?;
            Ok(filled)
        }
    }
}

/// Give those that have none the column's own default, where it stays, and else the initial balance. How many had none.
pub(super) fn fill_missing(binding: &Binding, given: Option<i64>) -> Result<u64> {
    let _restoring = Restoring::begin();
    let fill = |value: &str| {
        spi::command(&format!(
            "UPDATE {users} SET {column} = {value} WHERE {column} IS NULL",
            users = binding.accounts.users.sql,
            column = binding.accounts.balance_sql(),
        ))
    };
    let mut filled = 0;
    if keeps_default(binding, given) {
        filled = fill("DEFAULT")?;
        // What a default computes may be null.
        let is_missing = format!(
            "SELECT 1 FROM {} WHERE {} IS NULL LIMIT 1",
            binding.accounts.users.sql,
            binding.accounts.balance_sql()
        );
        if spi::query(&is_missing, &[])?.rows.is_empty() {
            return Ok(filled);
        }
    }
    Ok(filled.max(fill(&binding.spec.initial().to_string())?))
}

/// Whether the column's default is the initial balance already.
fn has_default(binding: &Binding, column: &Column) -> Result<bool> {
    let default = default_of(binding, &column.name)?;
    Ok(default == Some(binding.spec.initial().to_string()))
}

/// The default of a column of users; None if it has none of its own.
pub(super) fn default_of(binding: &Binding, column: &str) -> Result<Option<String>> {
    let outcome = spi::query(
        "SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid) FROM pg_catalog.pg_attrdef AS d \
         JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) d.adrelid \
         AND a.attnum OPERATOR(pg_catalog.=) d.adnum \
         WHERE d.adrelid OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) \
         AND a.attname OPERATOR(pg_catalog.=) $2::pg_catalog.name",
        &[
            Arg::Int8(binding.accounts.users.oid.to_u32().into()),
            Arg::Text(column),
        ],
    )?;
    Ok(outcome.rows.first().and_then(|row| row.owned(0)))
}

/// What a new account gets if nobody says otherwise. Tokens.
pub(super) fn initial_of(binding: &Binding) -> Result<i64> {
    let default = match &binding.accounts.balance {
        Some(column) => default_of(binding, &column.name)?,
        None => None,
    };
    let constant = default.and_then(|default| default.parse().ok());
    Ok(constant.unwrap_or(binding.spec.initial()))
}

/// Whether attach makes, or has made, the column that is there: by this binding, or by another one of these users. None
/// where an older version has bound it, which did not say.
pub(super) fn is_made_by_attach(binding: &Binding, stored: &[Stored]) -> Result<Option<bool>> {
    let Some(column) = &binding.accounts.balance else {
        return Ok(Some(true));
    };
    let specs = stored.iter().map(|stored| &stored.spec);
    let mut made = specs.filter(|spec| is_of_column(spec, binding, column));
    let known = made.next().map(|first| {
        made.fold(first.made_column, |one, spec| {
            match (one, spec.made_column) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (None, _) | (_, None) => None,
                _ => Some(false),
            }
        })
    });
    // What an older version did not say, and what went with the extension, the column's comment may say.
    match known {
        Some(Some(made)) => Ok(Some(made)),
        _ if is_marked(binding, column)? => Ok(Some(true)),
        Some(None) => Ok(None),
        None => Ok(Some(false)),
    }
}

/// Whether the column has the comment that attach gives it.
fn is_marked(binding: &Binding, column: &Column) -> Result<bool> {
    let outcome = spi::query(
        "SELECT pg_catalog.col_description($1::pg_catalog.oid, $2::integer)",
        &[
            Arg::Int8(binding.accounts.users.oid.to_u32().into()),
            Arg::Int8(column.number.into()),
        ],
    )?;
    let comment = outcome.rows.first().and_then(|row| row.get(0));
    Ok(comment == Some(COMMENT))
}

fn is_of_column(spec: &Spec, binding: &Binding, column: &Column) -> bool {
    spec.users.oid == binding.accounts.users.oid
        && match spec.balance_number() {
            Some(number) => number == column.number,
            None => spec.balance_column == column.name,
        }
}
