//! What `attach` tells of that its caller may not expect: arguments that have no effect, since there is a binding or a
//! column already, and what it has changed of a balance column that was there.

use pgrx::pg_sys;

use crate::binding::{Binding, Spec};
use crate::error::Result;
use crate::postgres::notice::notice;
use crate::postgres::spi;
use crate::postgres::value::Arg;

/// A NOTICE that names the arguments of `binding` that count for a new one, or for a new column, and say something else than
/// what there is. An argument that nobody gave has its usual value, so what is usual is not told.
pub(super) fn tell_of_ignored(kept: Option<&Spec>, binding: &Binding) {
    let mut arguments = Vec::new();
    let mut details = Vec::new();
    let mut hint = None;
    if let (Some(kept), Some(given)) = (kept, binding.spec.existing_usage.as_deref()) {
        let stays = kept.existing_usage.as_deref().unwrap_or("exempt");
        if given != stays {
            arguments.push("existing_usage");
            details.push(format!(
                "existing_usage decided when {} was attached for the first time: it was '{stays}'.",
                binding.usage.sql
            ));
            hint = Some(match given {
                "charge" => {
                    "CALL token_balance.settle_backlog(existing => true) charges what is exempt."
                }
                _ => "token_balance.exempt_pending() forgives what waits to be charged.",
            });
        }
    }
    if let Some(column) = &binding.accounts.balance
        && binding.spec.balance_type != pg_sys::INT4OID
        && binding.spec.balance_type != column.base_type
    {
        arguments.push("balance_type");
        details.push(format!(
            "balance_type is for a column that attach adds: column \"{}\" of {} is there, of type {}.",
            column.name, binding.accounts.users.sql, column.type_name
        ));
    }
    if !arguments.is_empty() {
        notice(
            format!("attach ignores {}", arguments.join(" and ")),
            Some(details.join(" ")),
            hint.map(str::to_owned),
        );
    }
}

/// A balance column that is there, before attach changes it.
pub(super) struct ColumnBefore {
    name: String,
    is_not_null: bool,
    default: Option<String>,
}

impl ColumnBefore {
    pub(super) fn of(binding: &Binding) -> Result<Option<Self>> {
        let Some(column) = &binding.accounts.balance else {
            return Ok(None);
        };
        Ok(Some(ColumnBefore {
            name: column.name.clone(),
            is_not_null: column.is_not_null,
            default: default_of(binding, &column.name)?,
        }))
    }

    /// A NOTICE that says what is another one by now; `filled` accounts had no balance.
    pub(super) fn tell_changes(&self, binding: &Binding, filled: u64) -> Result<()> {
        let mut changes = Vec::new();
        let default = default_of(binding, &self.name)?;
        if default != self.default {
            let word = |default: &Option<String>| default.clone().unwrap_or("none".into());
            changes.push(format!(
                "Its default is {}; it was {}.",
                word(&default),
                word(&self.default)
            ));
        }
        if !self.is_not_null {
            changes.push("It is NOT NULL.".into());
        }
        if filled > 0 {
            changes.push(format!(
                "Accounts that had NULL have {}: {filled}.",
                binding.spec.initial_balance
            ));
        }
        if !changes.is_empty() {
            notice(
                format!(
                    "column \"{}\" of {} was there, and was changed",
                    self.name, binding.accounts.users.sql
                ),
                Some(changes.join(" ")),
                None,
            );
        }
        Ok(())
    }
}

fn default_of(binding: &Binding, column: &str) -> Result<Option<String>> {
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
