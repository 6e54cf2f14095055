//! What `attach` tells of that its caller may not expect: arguments that have no effect, since there is a binding or a
//! column already, and what it has changed of a balance column that was there.

use pgrx::pg_sys;

use super::balance_column::default_of;
use super::remembered::Said;
use crate::binding::{Binding, Spec};
use crate::error::Result;
use crate::postgres::notice::notice;

/// A NOTICE that names the arguments of `binding` that count for a new one, or for a new column, and say something else than
/// what there is. An argument that nobody gave has its usual value, so what is usual is not told.
pub(super) fn tell_of_ignored(kept: Option<&Spec>, binding: &Binding, said: Said, is_same: bool) {
    let mut arguments = Vec::new();
    let mut details = Vec::new();
    let mut hint = None;
    if is_same {
        arguments.extend(said.usage_ids.map(|_| "usage_ids"));
        arguments.extend(said.accounts.map(|_| "accounts"));
    }
    if !arguments.is_empty() {
        details.push(format!(
            "\"{}\" is attached to these tables: they are for tables that were made anew, or after a detach.",
            binding.spec.name
        ));
    }
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

/// A NOTICE where new accounts do not start with the usual balance, since the column was there and says something else.
pub(super) fn tell_of_kept_default(binding: &Binding) -> Result<()> {
    let Some(column) = &binding.accounts.balance else {
        return Ok(());
    };
    let default = default_of(binding, &column.name)?;
    if default == Some(binding.spec.initial().to_string()) {
        return Ok(());
    }
    let default = default.unwrap_or_else(|| format!("that of its type, {}", column.type_name));
    notice(
        format!(
            "column \"{}\" of {} was there, and keeps its default",
            column.name, binding.accounts.users.sql
        ),
        Some(format!("New accounts start with it: {default}.")),
        Some("To have another one, call attach with initial_balance.".into()),
    );
    Ok(())
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

    /// A NOTICE that says what is another one by now; `filled` accounts had no balance, and have the default that
    /// the column had before, if that is kept.
    pub(super) fn tell_changes(
        &self,
        binding: &Binding,
        filled: u64,
        keeps_default: bool,
    ) -> Result<()> {
        let mut changes = Vec::new();
        let default = default_of(binding, &self.name)?;
        if default != self.default {
            let word = |default: &Option<String>| default.clone().unwrap_or("none".into());
            changes.push(format!(
                "Its default, for accounts to come, is {}; it was {}.",
                word(&default),
                word(&self.default)
            ));
        }
        if !self.is_not_null {
            changes.push("It is NOT NULL.".into());
        }
        if filled > 0 {
            let initial = match keeps_default {
                true => "its default".into(),
                false => binding.spec.initial().to_string(),
            };
            changes.push(format!("Accounts that had NULL have {initial}: {filled}."));
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
