//! Which of the bindings that are stored an attach is about: the one that is attached, one that is remembered and
//! goes on, or a new one.
//!
//! A relation is its OID. Where another table has its name by now, that may be the same one made anew, by a
//! rebuild, or other people's rows with the same ids. What is in it is held against what was
//! settled and against the ledger: it goes on where they agree, and where they do not the caller has to say.

use pgrx::pg_sys;

use super::beside::share_accounts;
use super::made_anew::{self, Comparison};
use crate::binding::{Binding, Ids, Relation, Spec, Stored, new_ids};
use crate::error::{Error, Result};
use crate::postgres::catalog::{self, Table};
use crate::postgres::quote::quote_identifier;

/// What the caller says for this call alone: of tables that were made anew, whether their ids mean what they meant; and
/// whether it is only to be told what would happen.
#[derive(Clone, Copy, Default)]
pub(crate) struct Said {
    pub(crate) usage_ids: Option<Identity>,
    pub(crate) accounts: Option<Identity>,
    pub(crate) dry_run: bool,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Identity {
    Same,
    New,
}

/// How the binding that is asked for stands to those that are stored.
pub(super) enum Standing {
    /// It is none of them.
    New(Option<Ids>),
    /// It is the one that is attached, to be repaired.
    Same(Option<Ids>),
    /// It is the attached one with another workflow table in place of its own, which was dropped or renamed away:
    /// nothing is forgotten.
    OtherWorkflows(Option<Ids>),
    /// It is one that was detached, or whose tables were dropped, and goes on where it was.
    GoesOn(Option<Ids>),
}

impl Standing {
    pub(super) fn ids(&self) -> Option<Ids> {
        let (Standing::New(ids)
        | Standing::Same(ids)
        | Standing::OtherWorkflows(ids)
        | Standing::GoesOn(ids)) = self;
        *ids
    }

    /// Whether it was attached until now.
    pub(super) fn is_attached(&self) -> bool {
        matches!(self, Standing::Same(_) | Standing::OtherWorkflows(_))
    }
}

/// Errors: 55000 if another binding is attached, or if it is not clear whether a table that was made anew has the
/// same ids.
pub(super) fn standing(stored: &[Stored], binding: &Binding, said: Said) -> Result<Standing> {
    let is_named = |stored: &&Stored| stored.is_attached && stored.spec.name == binding.spec.name;
    if let Some(attached) = stored.iter().find(is_named)
        && let Some(standing) = to_attached(&attached.spec, binding)?
    {
        return Ok(standing);
    }
    if stored.is_empty()
        && let Some(ids) = made_before_names(binding, said)?
    {
        return Ok(Standing::GoesOn(Some(ids)));
    }
    let accounts = known_accounts(stored, binding, said)?;
    if let Some(spec) = known_usage(stored, binding, accounts, said)? {
        return Ok(Standing::GoesOn(spec.ids));
    }
    Ok(Standing::New(new_ids(stored, accounts)?))
}

/// What an older version has settled, of a binding that was detached: it has forgotten which tables those were. The
/// usage is held against it, as one that was made anew.
fn made_before_names(binding: &Binding, said: Said) -> Result<Option<Ids>> {
    let Some(ids) = new_ids(&[], None)? else {
        return Ok(None);
    };
    let comparison = made_anew::compare_usage(binding, ids)?;
    let is_same = match said.usage_ids {
        _ if comparison.is_of_nothing() => false,
        Some(identity) => identity == Identity::Same,
        None => comparison.decide()?,
    };
    Ok(is_same.then_some(ids))
}

/// None if one of its tables was dropped or made anew, so that it can only be remembered.
fn to_attached(attached: &Spec, binding: &Binding) -> Result<Option<Standing>> {
    let wanted = &binding.spec;
    let differences = attached.differences(wanted);
    if differences.is_empty() {
        return Ok(Some(Standing::Same(attached.ids)));
    }
    let is_of_workflows = |name: &str| name.starts_with("workflow") || name == "completed_statuses";
    if let Some(workflows) = &attached.workflows
        && differences.iter().all(|(name, _)| is_of_workflows(name))
        && (is_gone(workflows)? || is_made_anew(Some(workflows), wanted.workflows.as_ref()))
    {
        return Ok(Some(Standing::OtherWorkflows(attached.ids)));
    }
    let is_other_table = |name: &str| matches!(name, "users" | "usage" | "workflows");
    if differences.iter().all(|(name, _)| is_other_table(name))
        && is_same_or_anew(Some(&attached.users), Some(&wanted.users))
        && is_same_or_anew(Some(&attached.usage), Some(&wanted.usage))
        && is_same_or_anew(attached.workflows.as_ref(), wanted.workflows.as_ref())
    {
        return Ok(None);
    }
    for relation in attached.relations() {
        if is_gone(relation)? {
            return Ok(None);
        }
    }
    let differences: Vec<_> = differences.into_iter().map(|(_, both)| both).collect();
    let is_same_table = attached.usage.oid == wanted.usage.oid;
    Err(Error::AlreadyAttached {
        could_stand_beside: !(is_same_table && share_accounts(attached, wanted)),
        name: attached.name.clone(),
        detail: format!("{}.", differences.join("; ")),
        is_same_usage: is_same_or_anew(Some(&attached.usage), Some(&wanted.usage))
            && means_the_same(attached, binding)?,
    })
}

/// The number of the accounts, if they are known from an earlier binding.
fn known_accounts(stored: &[Stored], binding: &Binding, said: Said) -> Result<Option<i16>> {
    let users = &binding.spec.users;
    let specs = || stored.iter().map(|stored| &stored.spec);
    let is_same_column = |spec: &&Spec| spec.balance_column == binding.spec.balance_column;
    let of_this_table = || specs().filter(|spec| spec.users.oid == users.oid);
    if let Some(spec) = of_this_table().find(is_same_column) {
        return Ok(spec.ids.map(|ids| ids.accounts));
    }
    // The column may have another name by now: a dump knows it by the one before.
    if binding.accounts.balance.is_some() {
        let columns = catalog::columns(users.oid)?;
        let is_gone = |spec: &&Spec| {
            let mut there = columns.iter();
            there.all(|column| column.name != spec.balance_column)
        };
        for spec in of_this_table().filter(is_gone) {
            let Some(ids) = spec.ids else { continue };
            if follows(made_anew::compare_balances(binding, ids)?, said.accounts)? {
                return Ok(Some(ids.accounts));
            }
        }
    }
    let specs = || specs().filter(is_same_column);
    for spec in specs() {
        let Some(ids) = spec.ids else { continue };
        if !is_made_anew(Some(&spec.users), Some(users)) {
            continue;
        }
        let is_same = match said.accounts {
            Some(identity) => identity == Identity::Same,
            None => made_anew::compare_balances(binding, ids)?.decide()?,
        };
        return Ok(is_same.then_some(ids.accounts));
    }
    for spec in specs() {
        let Some(ids) = spec.ids else { continue };
        if is_gone(&spec.users)?
            && is_of_schema(&spec.users, &binding.accounts.users)
            && follows(made_anew::compare_balances(binding, ids)?, said.accounts)?
        {
            return Ok(Some(ids.accounts));
        }
    }
    Ok(None)
}

/// Whether a table takes the place of one that was dropped, and that had another name when it was bound: it may have been
/// renamed before. Only what is in it can tell.
fn follows(comparison: Comparison, said: Option<Identity>) -> Result<bool> {
    match said {
        _ if comparison.has_nothing_of_it() => Ok(false),
        Some(identity) => Ok(identity == Identity::Same),
        None => comparison.decide(),
    }
}

/// The binding of these accounts that knows the usage.
fn known_usage<'a>(
    stored: &'a [Stored],
    binding: &Binding,
    accounts: Option<i16>,
    said: Said,
) -> Result<Option<&'a Spec>> {
    let usage = &binding.spec.usage;
    let of_accounts = |spec: &&Spec| {
        let ids = spec.ids.map(|ids| ids.accounts);
        ids == accounts
    };
    // What is attached by another name goes on as that one.
    let is_free = |stored: &&Stored| !stored.is_attached || stored.spec.name == binding.spec.name;
    let specs = stored.iter().filter(is_free).map(|stored| &stored.spec);
    let specs: Vec<_> = specs.filter(of_accounts).collect();
    let mut is_another_later = false;
    for spec in &specs {
        if spec.usage.oid != usage.oid {
            continue;
        }
        if !means_the_same(spec, binding)? {
            is_another_later = true;
        } else if is_another_later && said.usage_ids.is_none() {
            // What that one has charged, this one does not know.
            return Err(Error::MadeAnew {
                what: "usage table",
                relation: binding.usage.sql.clone(),
                argument: "usage_ids",
                detail: "It was attached with other columns meanwhile, by which runs may have been charged."
                    .into(),
            });
        } else {
            return Ok((said.usage_ids != Some(Identity::New)).then_some(*spec));
        }
    }
    for spec in &specs {
        let Some(ids) = spec.ids else { continue };
        if !is_made_anew(Some(&spec.usage), Some(usage)) || !means_the_same(spec, binding)? {
            continue;
        }
        let is_same = match said.usage_ids {
            Some(identity) => identity == Identity::Same,
            None => made_anew::compare_usage(binding, ids)?.decide()?,
        };
        return Ok(is_same.then_some(*spec));
    }
    for spec in specs {
        let Some(ids) = spec.ids else { continue };
        if is_gone(&spec.usage)?
            && is_of_schema(&spec.usage, &binding.usage)
            && means_the_same(spec, binding)?
            && follows(made_anew::compare_usage(binding, ids)?, said.usage_ids)?
        {
            return Ok(Some(spec));
        }
    }
    Ok(None)
}

/// Whether the settlements' ids are those of the columns that are bound now: the same ones, which may have another
/// name by now.
fn means_the_same(spec: &Spec, binding: &Binding) -> Result<bool> {
    let wanted = &binding.spec;
    let columns = catalog::columns(wanted.usage.oid)?;
    let is_there = |name: &str| columns.iter().any(|column| column.name == name);
    let is_same = |old: &Option<String>, new: &Option<String>| {
        old == new || matches!((old, new), (Some(old), Some(_)) if !is_there(old))
    };
    let is_same = |argument, old: &Option<String>, new: &Option<String>| {
        let number = |spec: &Spec| spec.column_number(argument, wanted.usage.oid);
        match (number(spec), number(wanted)) {
            (Some(old), Some(new)) => {
                old == new || !columns.iter().any(|column| column.number == old)
            }
            _ => is_same(old, new),
        }
    };
    Ok(is_same(
        "usage_workflow",
        &Some(spec.usage_workflow.clone()),
        &Some(wanted.usage_workflow.clone()),
    ) && is_same("usage_user", &spec.usage_user, &wanted.usage_user))
}

/// Whether another table has the name that one had when it was bound.
fn is_made_anew(old: Option<&Relation>, new: Option<&Relation>) -> bool {
    matches!((old, new), (Some(old), Some(new)) if old.oid != new.oid && old.name == new.name)
}

/// Whether a table that is gone was in the schema of this one. Who owns a table elsewhere does not inherit what was known
/// of others.
fn is_of_schema(gone: &Relation, table: &Table) -> bool {
    let schema = format!("{}.", quote_identifier(&table.schema));
    gone.name.starts_with(&schema)
}

fn is_same_or_anew(old: Option<&Relation>, new: Option<&Relation>) -> bool {
    old.map(|old| old.oid) == new.map(|new| new.oid) || is_made_anew(old, new)
}

fn is_gone(relation: &Relation) -> Result<bool> {
    Ok(relation.oid == pg_sys::InvalidOid || catalog::table(relation.oid)?.is_none())
}
