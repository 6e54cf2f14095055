//! `token_balance.attach`: bind the extension to an application's tables.

use std::time::{Duration, Instant};

use pgrx::pg_sys;

use super::{BALANCE_COLUMN, Binding, Payer, Spec, numeric_scale, wrong_type};
use crate::catalog::{self, Column, Table};
use crate::error::{Error, Result, notice};
use crate::security::{self, RunAs};
use crate::spi::{self, Arg, Cursor, Life, Snapshot};

/// What attach does besides binding.
pub(crate) struct Options {
    pub(crate) balance_type: pg_sys::Oid,
    pub(crate) create_index: bool,
}

/// Locks the tables against other DDL while reads and writes go on.
const SHARE_UPDATE_EXCLUSIVE: i32 = pg_sys::ShareUpdateExclusiveLock as i32;

const BATCH: usize = 10_000;
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Bind `spec`. Idempotent: an equal binding is only repaired (a missing trigger, column or grant);
/// its usage is not exempted again.
pub(crate) fn attach(spec: Spec, options: &Options) -> Result<Binding> {
    let binding = check(spec.clone(), options)?;
    check_ownership(&binding)?;
    for table in binding.tables() {
        // SAFETY: locks an OID; a table that is gone by then is found by the check below.
        unsafe { pg_sys::LockRelationOid(table.oid, SHARE_UPDATE_EXCLUSIVE) };
    }
    // Owner, kind and columns may have changed before the locks were granted.
    let binding = check(spec, options)?;
    check_ownership(&binding)?;

    check_existing_balances(&binding)?;
    let is_new = check_not_bound_elsewhere(&binding)?;
    // Nothing was changed so far; attach by convention counts on that for every error of ours.
    if is_new {
        binding.spec.store(security::current_user())?;
        if binding.spec.existing_usage == "exempt" {
            exempt_existing_usage(&binding)?;
        }
    }
    if options.create_index {
        create_index(&binding)?;
    }
    // The strong locks come last, so that they are held for milliseconds and not for the scan.
    as_owner(binding.users.owner, || prepare_balance(&binding, options))?;
    let _owner = RunAs::owner(binding.extension_owner);
    for trigger in binding.triggers() {
        trigger.create()?;
    }
    if is_new {
        record_changes_while_detached(&binding)?;
    }
    super::detach::grant_everyday_functions(binding.users.owner)?;
    Ok(binding)
}

/// Everything that can be wrong with a spec, before anything is changed.
fn check(spec: Spec, options: &Options) -> Result<Binding> {
    check_values(&spec, options)?;
    let binding = Binding::resolve(spec)?;
    check_keys(&binding)?;
    check_statuses(&binding)?;
    check_balance(&binding)?;
    Ok(binding)
}

fn check_values(spec: &Spec, options: &Options) -> Result<()> {
    let invalid = |message: String, hint: &str| {
        Err(Error::InvalidArgument {
            message,
            detail: None,
            hint: Some(hint.into()),
        })
    };
    if !is_utf8() {
        return invalid(
            "token_balance needs a database with the encoding UTF8".into(),
            "Use a database made with ENCODING 'UTF8'.",
        );
    }
    let mut tokens = spec.usage_tokens.clone();
    tokens.sort_unstable();
    if let Some(twice) = tokens.windows(2).find(|pair| pair[0] == pair[1]) {
        return invalid(
            format!("usage_tokens names column \"{}\" twice", twice[0]),
            "Name each column once.",
        );
    }
    if spec.usage_tokens.is_empty() {
        return invalid(
            "usage_tokens names no column".into(),
            "Name at least one column.",
        );
    }
    if !["exempt", "charge"].contains(&spec.existing_usage.as_str()) {
        return invalid(
            format!("existing_usage is \"{}\"", spec.existing_usage),
            "Use 'exempt' or 'charge'.",
        );
    }
    if spec.completed_statuses.is_empty() {
        return invalid(
            "completed_statuses is empty".into(),
            "Name at least one status.",
        );
    }
    let Some(smallest) = smallest_of(options.balance_type) else {
        return invalid(
            "balance_type is not a type for balances".into(),
            "Use integer or bigint.",
        );
    };
    if !is_within(spec.initial_balance, smallest) {
        return invalid(
            format!(
                "initial_balance {} is out of range for balance_type",
                spec.initial_balance
            ),
            "Use balance_type => 'bigint'.",
        );
    }
    Ok(())
}

fn is_utf8() -> bool {
    // SAFETY: reads a backend variable.
    unsafe { pg_sys::GetDatabaseEncoding() == pg_sys::pg_enc::PG_UTF8 as i32 }
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

fn check_keys(binding: &Binding) -> Result<()> {
    let users = &binding.users;
    if !catalog::is_unique(users.oid, &binding.user_key.column.name)? {
        return Err(Error::NoUniqueKey {
            relation: users.sql.clone(),
            column: binding.user_key.column.name.clone(),
        });
    }
    let (payer_table, payer) = match (&binding.payer, &binding.workflows) {
        (Payer::Workflow(key), Some(workflows)) => (&workflows.table, key),
        (Payer::Usage(key) | Payer::Workflow(key), _) => (&binding.usage, key),
    };
    if !payer.key_type.matches(binding.user_key.key_type) {
        return Err(wrong_type(
            payer_table,
            &payer.column,
            "types whose values can be keys of the users table",
        ));
    }
    let mut keys = vec![
        (users, &binding.user_key),
        (&binding.usage, &binding.usage_workflow),
        (payer_table, payer),
    ];
    if let Some(workflows) = &binding.workflows {
        if !binding
            .usage_workflow
            .key_type
            .matches(workflows.key.key_type)
        {
            return Err(wrong_type(
                &binding.usage,
                &binding.usage_workflow.column,
                "types whose values can be keys of the workflow table",
            ));
        }
        keys.push((&workflows.table, &workflows.key));
    }
    for (table, key) in keys {
        if let Some(collation) = &key.column.loose_collation {
            return Err(Error::UnsupportedCollation {
                relation: table.sql.clone(),
                column: key.column.name.clone(),
                collation: collation.clone(),
            });
        }
    }
    Ok(())
}

fn check_statuses(binding: &Binding) -> Result<()> {
    let Some(workflows) = &binding.workflows else {
        return Ok(());
    };
    let Some(status) = &workflows.status else {
        return Ok(());
    };
    if status.is_enum {
        let labels = catalog::enum_labels(status.base_type)?;
        let statuses = &binding.spec.completed_statuses;
        if !statuses.iter().any(|status| labels.contains(status)) {
            return Err(Error::InvalidArgument {
                message: format!(
                    "no value of {} is a completed status",
                    workflows.table.sql.clone() + "." + &status.sql()
                ),
                detail: Some(format!(
                    "Its values are {}; completed_statuses are {}.",
                    labels.join(", "),
                    statuses.join(", ")
                )),
                hint: Some("Name the completed ones in completed_statuses.".into()),
            });
        }
        return Ok(());
    }
    match status.base_type {
        pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID => Ok(()),
        _ => Err(wrong_type(
            &workflows.table,
            status,
            "text, varchar and enums",
        )),
    }
}

fn check_balance(binding: &Binding) -> Result<()> {
    let Some(column) = &binding.balance else {
        return Ok(());
    };
    if column.is_generated {
        return Err(Error::GeneratedColumn {
            relation: binding.users.sql.clone(),
            column: column.name.clone(),
        });
    }
    let is_whole = match column.base_type {
        pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID => true,
        pg_sys::NUMERICOID => numeric_scale(column.type_modifier) == 0,
        _ => false,
    };
    if !is_whole {
        return Err(wrong_type(
            &binding.users,
            column,
            "smallint, integer, bigint and numeric without a fraction",
        ));
    }
    let smallest = binding.smallest_balance();
    let initial = binding.spec.initial_balance;
    if !is_within(initial, smallest) {
        return Err(Error::InvalidArgument {
            message: format!("initial_balance {initial} is out of range for the balance column"),
            detail: Some(format!(
                "Column \"{}\" of table {} is of type {}.",
                column.name, binding.users.sql, column.type_name
            )),
            hint: Some("Name a smaller initial_balance, or give the column a wider type.".into()),
        });
    }
    Ok(())
}

/// A superuser, or an owner of all bound tables; and the users table's owner must be able to read
/// the others.
fn check_ownership(binding: &Binding) -> Result<()> {
    let tables = binding.tables();
    check_caller_owns(&tables)?;
    for table in tables {
        if !catalog::can_read(binding.users.owner, table.oid)? {
            return Err(Error::UnreadableRelation {
                relation: table.sql.clone(),
                role: catalog::role_name(binding.users.owner),
            });
        }
    }
    Ok(())
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

/// True if there is no binding yet, or only one whose tables were dropped.
fn check_not_bound_elsewhere(binding: &Binding) -> Result<bool> {
    let Some(present) = Spec::load()? else {
        return Ok(true);
    };
    let differences = present.differences(&binding.spec);
    if differences.is_empty() {
        return Ok(false);
    }
    for oid in present.relations() {
        if catalog::table(oid)?.is_none() {
            return Ok(true);
        }
    }
    Err(Error::AlreadyAttached {
        detail: format!("{}.", differences.join("; ")),
    })
}

/// Record what was used before the extension as accounted for, and charge nothing.
fn exempt_existing_usage(binding: &Binding) -> Result<()> {
    let started = Instant::now();
    let mut last_told = started;
    let mut recorded = 0_usize;
    let cursor = as_owner(binding.users.owner, || {
        Cursor::open(
            &existing_usage_sql(binding),
            &[],
            Snapshot::Statement,
            Life::Transaction,
        )
    })?;
    loop {
        let batch = as_owner(binding.users.owner, || cursor.fetch(BATCH))?;
        if batch.is_empty() {
            break;
        }
        let texts = |column| -> Vec<String> {
            batch
                .iter()
                .map(|row| row.text(column).to_owned())
                .collect()
        };
        as_owner(binding.extension_owner, || {
            spi::query(
                "INSERT INTO token_balance.settlement AS s \
                 (workflow_id, user_id, usage_tokens, charged_tokens, refunded_tokens, \
                 first_settled_at, last_settled_at) \
                 SELECT e.workflow_id, e.user_id, e.usage_tokens, 0, 0, NULL, NULL \
                 FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), \
                 pg_catalog.unnest($3::bigint[])) AS e (workflow_id, user_id, usage_tokens) \
                 ON CONFLICT (workflow_id, user_id) DO UPDATE \
                 SET usage_tokens = EXCLUDED.usage_tokens \
                 WHERE s.usage_tokens OPERATOR(pg_catalog.<) EXCLUDED.usage_tokens",
                &[
                    Arg::TextArray(&texts(0)),
                    Arg::TextArray(&texts(1)),
                    Arg::TextArray(&texts(2)),
                ],
            )
        })?;
        recorded += batch.len();
        if last_told.elapsed() >= PROGRESS_EVERY {
            last_told = Instant::now();
            notice(
                format!("existing usage recorded for {recorded} pairs of workflow and account"),
                Some(format!("{} s have passed.", started.elapsed().as_secs())),
                None,
            );
        }
    }
    cursor.close()
}

/// One row a workflow and account: what they used so far. Sums past bigint are cut off there: such
/// usage could not be charged anyway.
fn existing_usage_sql(binding: &Binding) -> String {
    let workflow = format!("u.{}", binding.usage_workflow.sql());
    let tokens = format!(
        "LEAST(({})::pg_catalog.numeric, {}::pg_catalog.numeric)::bigint",
        binding.tokens_sql("u"),
        i64::MAX
    );
    let usage = &binding.usage.sql;
    match (&binding.payer, &binding.workflows) {
        (Payer::Workflow(payer), Some(workflows)) => format!(
            "SELECT g.workflow_id, COALESCE(w.user_id, ''), g.tokens \
             FROM (SELECT {workflow}::pg_catalog.text AS workflow_id, {tokens} AS tokens \
             FROM {usage} AS u WHERE {workflow} IS NOT NULL GROUP BY 1) AS g \
             LEFT JOIN (SELECT {workflow_key} AS workflow_id, pg_catalog.min({account}) AS user_id \
             FROM {workflows} AS w WHERE w.{payer} IS NOT NULL GROUP BY 1) AS w \
             ON w.workflow_id OPERATOR(pg_catalog.=) g.workflow_id \
             WHERE g.tokens OPERATOR(pg_catalog.>) 0",
            workflow_key = workflows.key.key_type.canonical_sql(
                &format!("w.{}", workflows.key.sql()),
                binding.usage_workflow.key_type
            ),
            account = binding.account_sql("w"),
            workflows = workflows.table.sql,
            payer = payer.sql(),
        ),
        (Payer::Usage(payer) | Payer::Workflow(payer), _) => format!(
            "SELECT g.workflow_id, g.user_id, g.tokens \
             FROM (SELECT {workflow}::pg_catalog.text AS workflow_id, {account} AS user_id, \
             {tokens} AS tokens FROM {usage} AS u \
             WHERE {workflow} IS NOT NULL AND u.{payer} IS NOT NULL GROUP BY 1, 2) AS g \
             WHERE g.tokens OPERATOR(pg_catalog.>) 0",
            account = binding.account_sql("u"),
            payer = payer.sql(),
        ),
    }
}

fn create_index(binding: &Binding) -> Result<()> {
    if catalog::has_index_on(binding.usage.oid, &binding.usage_workflow.column.name)? {
        return Ok(());
    }
    // The server runs the build as the table's owner.
    as_owner(binding.extension_owner, || {
        spi::command(&format!(
            "CREATE INDEX ON {} {}",
            binding.usage.sql,
            binding.usage_index()
        ))
    })
    .map(|_| ())
}

/// Add the column, or make one that is there NOT NULL with the default.
fn prepare_balance(binding: &Binding, options: &Options) -> Result<()> {
    let users = &binding.users.sql;
    let initial = binding.spec.initial_balance;
    match &binding.balance {
        None => {
            let balance_type = if options.balance_type == pg_sys::INT8OID {
                "bigint"
            } else {
                "integer"
            };
            // A constant default: the server does not rewrite the table.
            spi::command(&format!(
                "ALTER TABLE {users} ADD COLUMN {BALANCE_COLUMN} {balance_type} \
                 NOT NULL DEFAULT {initial}"
            ))?;
            spi::command(&format!(
                "COMMENT ON COLUMN {users}.{BALANCE_COLUMN} IS \
                 'Prepaid tokens left; negative is an overdraft. Kept by the extension token_balance.'"
            ))?;
        }
        Some(column) if column.is_not_null && has_default(binding, column)? => {}
        Some(_) => {
            fill_missing_balances(binding)?;
            spi::command(&format!("LOCK TABLE {users} IN ACCESS EXCLUSIVE MODE"))?;
            // What was inserted before the lock was granted.
            fill_missing_balances(binding)?;
            spi::command(&format!(
                "ALTER TABLE {users} ALTER COLUMN {BALANCE_COLUMN} SET DEFAULT {initial}, \
                 ALTER COLUMN {BALANCE_COLUMN} SET NOT NULL"
            ))?;
        }
    }
    Ok(())
}

/// Whether the column's default is the initial balance already.
fn has_default(binding: &Binding, column: &Column) -> Result<bool> {
    if !column.has_default {
        return Ok(false);
    }
    catalog::exists(
        "SELECT 1 FROM pg_catalog.pg_attrdef AS d JOIN pg_catalog.pg_attribute AS a \
         ON a.attrelid OPERATOR(pg_catalog.=) d.adrelid \
         AND a.attnum OPERATOR(pg_catalog.=) d.adnum \
         WHERE d.adrelid OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) \
         AND a.attname OPERATOR(pg_catalog.=) $2::pg_catalog.name \
         AND pg_catalog.pg_get_expr(d.adbin, d.adrelid) OPERATOR(pg_catalog.=) $3",
        &[
            Arg::Int8(binding.users.oid.to_u32().into()),
            Arg::Text(&column.name),
            Arg::Text(&binding.spec.initial_balance.to_string()),
        ],
    )
}

/// A `numeric` column may hold what is no number of tokens.
fn check_existing_balances(binding: &Binding) -> Result<()> {
    let is_numeric = |column: &Column| column.base_type == pg_sys::NUMERICOID;
    if !binding.balance.as_ref().is_some_and(is_numeric) {
        return Ok(());
    }
    let _owner = RunAs::owner(binding.users.owner);
    let balance = format!("a.{BALANCE_COLUMN}");
    let odd = spi::query(
        &format!(
            "SELECT a.{key}::pg_catalog.text, {balance}::pg_catalog.text FROM {users} AS a \
             WHERE {balance} OPERATOR(pg_catalog.<>) pg_catalog.trunc({balance}) \
             OR pg_catalog.abs({balance}) OPERATOR(pg_catalog.>) {max}::pg_catalog.numeric LIMIT 1",
            key = binding.user_key.sql(),
            users = binding.users.sql,
            max = i64::MAX
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

fn fill_missing_balances(binding: &Binding) -> Result<()> {
    spi::command(&format!(
        "UPDATE {} SET {BALANCE_COLUMN} = {} WHERE {BALANCE_COLUMN} IS NULL",
        binding.users.sql, binding.spec.initial_balance
    ))
    .map(|_| ())
}

/// Accounts that have a ledger from an earlier binding and whose balance has changed since get an
/// entry for the difference: the chain goes on. The trigger's lock keeps balances still meanwhile.
fn record_changes_while_detached(binding: &Binding) -> Result<()> {
    if !catalog::exists("SELECT 1 FROM token_balance.ledger LIMIT 1", &[])? {
        return Ok(());
    }
    let accounts = format!(
        "SELECT a.{}::pg_catalog.text, a.{BALANCE_COLUMN}::bigint FROM {} AS a",
        binding.user_key.sql(),
        binding.users.sql
    );
    let cursor = as_owner(binding.users.owner, || {
        Cursor::open(&accounts, &[], Snapshot::Statement, Life::Transaction)
    })?;
    loop {
        let batch = as_owner(binding.users.owner, || cursor.fetch(BATCH))?;
        if batch.is_empty() {
            break;
        }
        let texts = |column| -> Vec<String> {
            batch
                .iter()
                .map(|row| row.text(column).to_owned())
                .collect()
        };
        let actor = catalog::role_name(binding.extension_owner);
        spi::query(
            "INSERT INTO token_balance.ledger \
             (user_id, kind, amount, previous_balance, new_balance, note, actor) \
             SELECT a.user_id, 'adjustment', a.balance OPERATOR(pg_catalog.-) l.new_balance, \
             l.new_balance, a.balance, 'changed while token_balance was not attached', $3 \
             FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2::bigint[])) \
             AS a (user_id, balance) \
             CROSS JOIN LATERAL (SELECT e.new_balance FROM token_balance.ledger AS e \
             WHERE e.user_id OPERATOR(pg_catalog.=) a.user_id \
             ORDER BY e.entry_id DESC LIMIT 1) AS l \
             WHERE l.new_balance OPERATOR(pg_catalog.<>) a.balance",
            &[
                Arg::TextArray(&texts(0)),
                Arg::TextArray(&texts(1)),
                Arg::Text(&actor),
            ],
        )?;
    }
    cursor.close()
}

fn as_owner<T>(owner: pg_sys::Oid, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let _owner = RunAs::owner(owner);
    work()
}
