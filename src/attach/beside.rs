//! Several bindings that are attached at once: whether one can stand beside the others, and what they share.

use crate::binding::{Binding, LateUsage, Spec, Stored, is_part_of};
use crate::error::{Error, Result};
use crate::postgres::quote::quote_literal;

/// The other bindings that are attached, as far as they are whole.
pub(super) fn others(stored: &[Stored], binding: &Spec) -> Vec<Binding> {
    let attached = stored.iter().filter(|stored| stored.is_attached);
    attached
        .filter(|stored| stored.spec.name != binding.name)
        .filter_map(|stored| Binding::resolve(stored.spec.clone()).ok())
        .collect()
}

/// Whether the two charge the same balances.
pub(super) fn share_accounts(one: &Spec, other: &Spec) -> bool {
    one.users.oid == other.users.oid && one.balance_column == other.balance_column
}

/// Error 55000 if it cannot stand beside those that are attached under other names. `is_attached`: it is one of them
/// already, and may change what they share.
pub(super) fn check(stored: &[Stored], binding: &Binding, is_attached: bool) -> Result<()> {
    let attached = stored.iter().filter(|stored| stored.is_attached);
    for Stored { spec: other, .. } in attached {
        let spec = &binding.spec;
        if other.name == spec.name {
            continue;
        }
        check_usage(other, binding)?;
        check_key(other, binding)?;
        if share_accounts(other, spec) && !is_attached {
            check_options(other, binding)?;
        }
        check_partitions(other, binding)?;
    }
    Ok(())
}

/// A table's rows are noted once: as usage itself, or by one column for all views above it. Error 55000 otherwise.
pub(super) fn check_late_sources(binding: &Binding, others: &[Binding]) -> Result<()> {
    for other in others {
        for (one, by) in [(binding, other), (other, binding)] {
            for source in &one.late_sources {
                let is_usage = by.usage.oid == source.table.oid
                    && by.spec.options.late_usage == LateUsage::Settle;
                let mut same = by.late_sources.iter();
                let same = same.find(|known| known.table.oid == source.table.oid);
                if !is_usage && same.is_none_or(|known| known.key.name == source.key.name) {
                    continue;
                }
                return cannot(
                    format!(
                        "late usage of {} is settled in another way already",
                        source.table.sql
                    ),
                    format!(
                        "Bindings \"{}\" and \"{}\" want it.",
                        one.spec.name, by.spec.name
                    ),
                    "Name the same column in late_usage_on, or leave late_usage out of one of them.",
                );
            }
        }
    }
    Ok(())
}

fn cannot(message: String, detail: String, hint: impl Into<String>) -> Result<()> {
    Err(Error::CannotStandBeside {
        message,
        detail,
        hint: hint.into(),
    })
}

/// The same usage would be charged to the same accounts twice.
fn check_usage(other: &Spec, binding: &Binding) -> Result<()> {
    if other.usage.oid != binding.usage.oid || !share_accounts(other, &binding.spec) {
        return Ok(());
    }
    cannot(
        format!(
            "usage of {} is charged to {} already",
            binding.usage.sql, binding.accounts.users.sql
        ),
        format!("It is attached as \"{}\".", other.name),
        format!(
            "Several columns of tokens are one binding: name them all in usage_tokens. To repair that one, call {}.",
            other.attach_call()
        ),
    )
}

/// Accounts are charged in the order of their ids: by two keys, two sessions could wait for each other.
fn check_key(other: &Spec, binding: &Binding) -> Result<()> {
    let spec = &binding.spec;
    if other.users.oid != spec.users.oid || other.user_key == spec.user_key {
        return Ok(());
    }
    cannot(
        format!(
            "accounts of {} are known by another key",
            binding.accounts.users.sql
        ),
        format!(
            "Binding \"{}\" has user_key \"{}\".",
            other.name, other.user_key
        ),
        format!(
            "Name the same: user_key => {}.",
            quote_literal(&other.user_key)
        ),
    )
}

/// One row of users has one way to be charged.
fn check_options(other: &Spec, binding: &Binding) -> Result<()> {
    let of_accounts = |spec: &Spec| (spec.options.busy_account, spec.options.outside_changes);
    if of_accounts(other) == of_accounts(&binding.spec) {
        return Ok(());
    }
    let [busy_account, outside_changes] = other.options_of_accounts();
    cannot(
        format!(
            "bindings of {} have busy_account and outside_changes in common",
            binding.accounts.users.sql
        ),
        format!(
            "Binding \"{}\" has busy_account => '{busy_account}', outside_changes => '{outside_changes}'.",
            other.name
        ),
        "Name the same. Calling attach again for one that is attached changes them for all.",
    )
}

/// A partition has the triggers of the table above it.
fn check_partitions(other: &Spec, binding: &Binding) -> Result<()> {
    for table in binding.tables() {
        for bound in other.relations() {
            if table.oid == bound.oid
                || !is_part_of(table.oid, bound.oid)? && !is_part_of(bound.oid, table.oid)?
            {
                continue;
            }
            return cannot(
                format!("{} cannot be bound beside {}", table.sql, bound.name),
                format!(
                    "One is a partition of the other, which binding \"{}\" is attached to.",
                    other.name
                ),
                format!(
                    "Detach that one first: token_balance.detach(name => {}).",
                    quote_literal(&other.name)
                ),
            );
        }
    }
    Ok(())
}
