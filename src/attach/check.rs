//! What `attach` checks before anything is changed: values that make no sense, keys that do not fit, owners.
//! That tables and columns are there and of types that can be bound is checked where a spec is held against
//! the catalogs (`binding/resolve.rs`); schemas of a search_path, in `search_path.rs`.

use std::collections::HashSet;

use pgrx::pg_sys;

use super::trigger_ddl::has_function;
use super::{beside, deletions, plausible, statuses};
use crate::binding::{
    Accounts, BALANCE_TYPES, Binding, Key, LateUsage, Parts, Payer, Spec, Stored, Workflows,
    check_late_sources, numeric_scale, wrong_type,
};
use crate::error::{Error, Result};
use crate::postgres::catalog::{self, Column, Table};
use crate::postgres::security::{self, RunAs};
use crate::postgres::spi;

/// A spec whose values make sense, held against the catalogs.
///
/// Errors: the fault, or all of them at once.
pub(super) fn check(spec: Spec) -> Result<Binding> {
    let mut faults = faults_of_values(&spec);
    let is_sensible = faults.is_empty();
    match Binding::resolve(spec.clone()) {
        Ok(mut binding) => {
            faults.extend(check_catalog(&binding).err());
            let misfits = misfits(&Parts::of_binding(&binding), &spec, is_sensible);
            faults.extend(deletions::unrecordable(&binding)?);
            faults.extend(check_children(&binding).err());
            faults.extend(misfits);
            if faults.is_empty() {
                if let Some(workflows) = &binding.workflows {
                    let told = &binding.spec.completed_statuses;
                    binding.spec.completed_statuses = statuses::spelled(workflows, told)?;
                }
                return Ok(binding);
            }
        }
        Err(first) => {
            faults.extend(Binding::faults(&spec, first));
            faults.extend(misfits(&Parts::of_spec(&spec), &spec, is_sensible));
        }
    }
    let mut told = HashSet::new();
    faults.retain(|fault| told.insert(format!("{fault:?}")));
    match <[Error; 1]>::try_from(faults) {
        Ok([fault]) => Err(fault),
        Err(faults) => Err(Error::SeveralFaults(faults)),
    }
}

/// Whether `attach` would take the spec, as far as it can be said without reading the tables. `stored` is what is there.
///
/// Errors: those of `attach`.
pub(crate) fn could_attach(spec: &Spec, stored: &[Stored]) -> Result<()> {
    let binding = check(spec.clone())?;
    check_ownership(&binding)?;
    beside::check(stored, &binding, false)
}

/// Names that no column of a table can be given (`SysAtt` in heap.c).
const SYSTEM_COLUMNS: [&str; 6] = ["tableoid", "cmax", "xmax", "cmin", "xmin", "ctid"];

/// What makes no sense whatever the tables are.
fn faults_of_values(spec: &Spec) -> Vec<Error> {
    let mut faults = Vec::from_iter(require_utf8().err());
    let mut invalid = |message: String, hint: &str| {
        faults.push(Error::InvalidArgument {
            message,
            detail: None,
            hint: Some(hint.into()),
        });
    };
    let mut tokens = spec.usage_tokens.clone();
    tokens.sort_unstable();
    if let Some(twice) = tokens.windows(2).find(|pair| pair[0] == pair[1]) {
        invalid(
            format!("usage_tokens names column \"{}\" twice", twice[0]),
            "Name each column once.",
        );
    }
    if spec.name.trim().is_empty() {
        invalid("name is empty".into(), "Name the binding.");
    }
    if spec.balance_column.is_empty() || SYSTEM_COLUMNS.contains(&spec.balance_column.as_str()) {
        invalid(
            format!("balance_column is \"{}\"", spec.balance_column),
            "Name a column that is there, or that can be made.",
        );
    }
    if spec.usage_tokens.is_empty() {
        invalid(
            "usage_tokens names no column".into(),
            "Name at least one column.",
        );
    }
    if let Some(existing_usage) = &spec.existing_usage
        && !["exempt", "charge"].contains(&existing_usage.as_str())
    {
        invalid(
            format!("existing_usage is \"{existing_usage}\""),
            "Use 'exempt' or 'charge'.",
        );
    }
    if spec.completed_statuses.is_empty() {
        invalid(
            "completed_statuses is empty".into(),
            "Name at least one status.",
        );
    }
    match smallest_of(spec.balance_type) {
        None => invalid(
            format!(
                "balance_type {} is not a type for balances",
                type_name(spec.balance_type)
            ),
            "Use integer or bigint.",
        ),
        Some(smallest) if !is_within(spec.initial(), smallest) => invalid(
            format!(
                "initial_balance {} is out of range for balance_type",
                spec.initial()
            ),
            "Use balance_type => 'bigint'.",
        ),
        Some(_) => {}
    }
    faults
}

fn type_name(type_oid: pg_sys::Oid) -> String {
    // SAFETY: a palloc'd string, "???" for a type that is not there.
    unsafe {
        let name = pg_sys::format_type_be(type_oid);
        std::ffi::CStr::from_ptr(name)
            .to_string_lossy()
            .into_owned()
    }
}

/// Error 22023 in a database whose texts may not be UTF-8: ids are read as that.
pub(super) fn require_utf8() -> Result<()> {
    // SAFETY: reads a backend variable.
    if unsafe { pg_sys::GetDatabaseEncoding() } == pg_sys::pg_enc::PG_UTF8 as i32 {
        return Ok(());
    }
    Err(Error::InvalidArgument {
        message: "token_balance needs a database with the encoding UTF8".into(),
        detail: None,
        hint: Some("Use a database made with ENCODING 'UTF8'.".into()),
    })
}

/// The balances that a type has room for, if it is one for balances.
pub(super) fn range_of(balance_type: pg_sys::Oid) -> Option<(i64, i64)> {
    smallest_of(balance_type).map(|smallest| (smallest, -(smallest + 1)))
}

fn smallest_of(balance_type: pg_sys::Oid) -> Option<i64> {
    match balance_type {
        pg_sys::INT4OID => Some(i32::MIN.into()),
        pg_sys::INT8OID => Some(i64::MIN),
        _ => None,
    }
}

/// Whether a balance fits a type, given the smallest one that does: integers reach as far above
/// zero as below.
fn is_within(balance: i64, smallest: i64) -> bool {
    (smallest..=-(smallest + 1)).contains(&balance)
}

/// The catalog of an older version, until it is updated, has no function that reads them.
fn check_catalog(binding: &Binding) -> Result<()> {
    match binding.reads_floating_tokens() && !has_function("exact_numeric")? {
        true => Err(Error::OlderCatalog),
        false => Ok(()),
    }
}

fn check_children(binding: &Binding) -> Result<()> {
    for table in binding.tables() {
        if let Some(child) = plausible::children(&table)?.into_iter().next() {
            return Err(Error::InheritanceChildren {
                relation: table.sql,
                child,
            });
        }
    }
    Ok(())
}

/// How what is there fits together. An initial balance that makes no sense is told once.
fn misfits(parts: &Parts, spec: &Spec, is_sensible: bool) -> Vec<Error> {
    let mut faults = Vec::new();
    let mut add = |found: Result<()>| faults.extend(found.err());
    if let Some(accounts) = &parts.accounts {
        add(check_user_key(accounts));
        if let Some((table, payer)) = &parts.payer {
            add(check_payer(table, payer, accounts));
        }
    }
    if let (Some((usage, key)), Some(workflows)) = (&parts.usage, &parts.workflows) {
        add(check_workflow_key(usage, key, workflows));
    }
    if let Some(workflows) = &parts.workflows {
        add(statuses::spelled(workflows, &spec.completed_statuses).map(drop));
    }
    if let Some(accounts) = &parts.accounts
        && is_sensible
    {
        add(check_balance(accounts, spec));
    }
    faults
}

fn check_user_key(accounts: &Accounts) -> Result<()> {
    let (users, column) = (&accounts.users, &accounts.user_key.column.name);
    match catalog::is_unique(users.oid, column)? {
        true => Ok(()),
        false => Err(Error::NoUniqueKey {
            relation: users.sql.clone(),
            column: column.clone(),
        }),
    }
}

fn check_payer(table: &Table, payer: &Payer, accounts: &Accounts) -> Result<()> {
    let (key, argument) = match payer {
        Payer::Usage(key) => (key, "usage_user"),
        Payer::Workflow(key) => (key, "workflow_user"),
    };
    match key.key_type.matches(accounts.user_key.key_type) {
        true => Ok(()),
        false => Err(wrong_type(
            table,
            &key.column,
            argument,
            "types whose values can be keys of the users table",
        )),
    }
}

fn check_workflow_key(usage: &Table, key: &Key, workflows: &Workflows) -> Result<()> {
    match key.key_type.matches(workflows.key.key_type) {
        true => Ok(()),
        false => Err(wrong_type(
            usage,
            &key.column,
            "usage_workflow",
            "types whose values can be keys of the workflow table",
        )),
    }
}

fn check_balance(accounts: &Accounts, spec: &Spec) -> Result<()> {
    let Some(column) = &accounts.balance else {
        return Ok(());
    };
    if column.is_generated || column.is_always_identity {
        return Err(Error::GeneratedColumn {
            relation: accounts.users.sql.clone(),
            column: column.name.clone(),
        });
    }
    if !column.holds_balances() || numeric_scale(column.type_modifier) != 0 {
        return Err(wrong_type(&accounts.users, column, "", BALANCE_TYPES));
    }
    let (initial, smallest) = (spec.initial(), accounts.smallest_balance());
    let keeps_default = spec.initial_balance.is_none() && column.has_default;
    if !keeps_default && !is_within(initial, smallest) {
        return Err(Error::InvalidArgument {
            message: format!("initial_balance {initial} is out of range for the balance column"),
            detail: Some(format!(
                "Column \"{}\" of table {} is of type {}.",
                column.name, accounts.users.sql, column.type_name
            )),
            hint: Some("Name a smaller initial_balance, or give the column a wider type.".into()),
        });
    }
    Ok(())
}

/// What cannot be had of usage that is a view. Errors: 22023.
pub(super) fn check_usage_view(binding: &Binding, with_index: bool) -> Result<()> {
    let Some(view) = &binding.usage_view else {
        return match binding.spec.late_usage_on.is_empty() {
            true => Ok(()),
            false => Err(Error::InvalidArgument {
                message: format!(
                    "late_usage_on is given, but {} is no view",
                    binding.usage.sql
                ),
                detail: None,
                hint: Some("Leave it out: rows of the usage count by themselves.".into()),
            }),
        };
    };
    let tables: Vec<_> = view.tables.iter().map(|table| table.sql.as_str()).collect();
    let tables = tables.join(", ");
    let refused = |argument: &str, hint: String| {
        Err(Error::InvalidArgument {
            message: format!("{argument} is not possible where the usage is a view"),
            detail: Some(format!("View {} reads {tables}.", binding.usage.sql)),
            hint: Some(hint),
        })
    };
    if with_index {
        return refused(
            "create_index",
            "Create an index on the table and column that the view shows as the workflow; token_balance.verify() says \
             whether a settlement reaches one."
                .into(),
        );
    }
    let is_settling = binding.spec.options.late_usage == LateUsage::Settle;
    if is_settling && binding.spec.late_usage_on.is_empty() {
        return Err(Error::InvalidArgument {
            message: "late_usage => 'settle' of a view wants late_usage_on".into(),
            detail: Some(format!("View {} reads {tables}.", binding.usage.sql)),
            hint: Some(
                "Name the tables whose new rows count, each with its column that the view shows, as in \
                 late_usage_on => '{app.messages(id)}'; or leave late_usage out: token_balance.settle_pending() charges \
                 late usage."
                    .into(),
            ),
        });
    }
    check_late_sources(binding)?;
    let sources = binding.late_sources.iter();
    let sources: Vec<_> = sources.map(|source| source.table.clone()).collect();
    check_caller_owns(&sources)
}

/// A superuser, or an owner of all bound tables; and the users table's owner must be able to read
/// the others.
pub(super) fn check_ownership(binding: &Binding) -> Result<()> {
    let tables = binding.tables();
    check_caller_owns(&tables)?;
    binding.require_readable()
}

pub(super) fn check_caller_owns(tables: &[Table]) -> Result<()> {
    let caller = security::current_user();
    let foreign = tables
        .iter()
        .find(|table| !catalog::acts_for(caller, table.owner));
    match foreign {
        Some(table) => Err(Error::NotOwner {
            relation: table.sql.clone(),
        }),
        None => Ok(()),
    }
}

/// A `numeric` column may hold what is no number of tokens.
pub(super) fn check_existing_balances(binding: &Binding) -> Result<()> {
    let is_numeric = |column: &Column| column.base_type == pg_sys::NUMERICOID;
    if !binding.accounts.balance.as_ref().is_some_and(is_numeric) {
        return Ok(());
    }
    let _owner = RunAs::owner(binding.accounts.users.owner);
    let balance = format!("a.{}", binding.accounts.balance_sql());
    let odd = spi::query(
        &format!(
            "SELECT a.{key}::pg_catalog.text, {balance}::pg_catalog.text FROM {users} AS a \
             WHERE {balance} OPERATOR(pg_catalog.<>) pg_catalog.trunc({balance}) \
             OR {balance} OPERATOR(pg_catalog.>) {max}::pg_catalog.numeric \
             OR {balance} OPERATOR(pg_catalog.<) '{min}'::pg_catalog.numeric LIMIT 1",
            key = binding.accounts.user_key.sql(),
            users = binding.accounts.users.sql,
            max = i64::MAX,
            min = i64::MIN,
        ),
        &[],
    )?;
    match odd.rows.first() {
        Some(row) => Err(Error::UnsupportedBalance {
            account: row.text(0).into(),
            balance: row.text(1).into(),
        }),
        None => Ok(()),
    }
}
