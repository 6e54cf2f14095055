//! `token_balance.verify`: whether the binding is whole, one row a check.

use super::triggers::Trigger;
use super::{BALANCE_COLUMN, Binding, Payer};
use crate::catalog;
use crate::error::{Error, Result};
use crate::security::RunAs;
use crate::spi::{self, Arg};

/// One thing that was looked at.
pub(crate) struct Check {
    pub(crate) name: String,
    pub(crate) ok: bool,
    pub(crate) detail: String,
    /// What to do, if it is not ok.
    pub(crate) hint: Option<String>,
}

impl Check {
    fn new(name: &str, ok: bool, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        let hint = if ok { None } else { Some(hint.into()) };
        Check {
            name: name.into(),
            ok,
            detail: detail.into(),
            hint,
        }
    }
}

/// All checks. One that cannot go on because the binding is broken says so in its row.
pub(crate) fn verify() -> Result<Vec<Check>> {
    let mut checks = vec![ledger_guard()?, ledger_sequence()?];
    match Binding::load() {
        Ok(binding) => {
            checks.insert(0, names(&binding));
            checks.extend(of_binding(&binding)?);
        }
        Err(error) => checks.insert(0, broken(error)),
    }
    Ok(checks)
}

fn broken(error: Error) -> Check {
    let report = pgrx::pg_sys::panic::ErrorReport::from(error);
    Check::new(
        "binding",
        false,
        report.message(),
        report.hint().unwrap_or_default(),
    )
}

fn of_binding(binding: &Binding) -> Result<Vec<Check>> {
    let mut checks = vec![
        key(binding)?,
        balance(binding),
        readable(binding)?,
        granted(binding)?,
    ];
    checks.extend(verify_triggers(binding)?);
    checks.push(index(binding)?);
    checks.extend(summary_index(binding)?);
    Ok(checks)
}

/// Whether the triggers on the bound tables are there and fire.
pub(crate) fn verify_triggers(binding: &Binding) -> Result<Vec<Check>> {
    let triggers = binding.triggers();
    triggers
        .iter()
        .map(|trigger| of_trigger(trigger, binding))
        .collect()
}

fn of_trigger(trigger: &Trigger, binding: &Binding) -> Result<Check> {
    let name = format!("trigger {} on {}", trigger.name, trigger.table.sql);
    let attach = format!("Call {}.", binding.spec.attach_call());
    let Some(standing) = trigger.standing()? else {
        return Ok(Check::new(&name, false, "missing", attach));
    };
    let state = standing.state.as_str();
    let mut disabled = trigger.disabled_partitions()?;
    if state != "O" {
        disabled.insert(0, trigger.table.sql.clone());
    }
    let overlooked = trigger.overlooked(&standing)?;
    if disabled.is_empty() && !overlooked.is_empty() {
        let detail = format!(
            "overlooks what BEFORE triggers set: {}",
            overlooked.join(", ")
        );
        return Ok(Check::new(&name, false, detail, attach));
    }
    let repairs: Vec<_> = disabled
        .iter()
        .map(|table| format!("ALTER TABLE {table} ENABLE TRIGGER \"{}\";", trigger.name))
        .collect();
    let detail = match (disabled.is_empty(), state) {
        (true, _) => "enabled".into(),
        (false, "A" | "R") => format!("fires for replicated changes on {}", disabled.join(", ")),
        (false, _) => format!("disabled on {}", disabled.join(", ")),
    };
    Ok(Check::new(
        &name,
        disabled.is_empty(),
        detail,
        repairs.join(" "),
    ))
}

/// The tables are bound by OID; after a rename or a restore their names may be others.
fn names(binding: &Binding) -> Check {
    let spec = &binding.spec;
    let present: Vec<_> = binding
        .tables()
        .into_iter()
        .map(|table| table.sql.clone())
        .collect();
    let stored: Vec<_> = spec
        .workflows_name
        .iter()
        .chain([&spec.usage_name, &spec.users_name])
        .cloned()
        .collect();
    let ok = present == stored;
    let detail = if ok {
        format!("attached to {}", present.join(", "))
    } else {
        format!(
            "attached to {}, which were {} then",
            present.join(", "),
            stored.join(", ")
        )
    };
    Check::new(
        "binding",
        ok,
        detail,
        "If these are the right tables, call token_balance.detach() and attach() again.",
    )
}

fn key(binding: &Binding) -> Result<Check> {
    let users = &binding.users.sql;
    let key = binding.user_key.sql();
    let ok = catalog::is_unique(binding.users.oid, &binding.user_key.column.name)?;
    Ok(Check::new(
        &format!("key {users}.{key}"),
        ok,
        if ok { "unique" } else { "not unique" },
        format!("ALTER TABLE {users} ADD UNIQUE ({key});"),
    ))
}

fn balance(binding: &Binding) -> Check {
    let name = format!("column {}.{BALANCE_COLUMN}", binding.users.sql);
    match &binding.balance {
        None => Check::new(
            &name,
            false,
            "missing",
            format!("Call {}.", binding.spec.attach_call()),
        ),
        Some(column) => Check::new(
            &name,
            column.is_not_null && column.has_default,
            format!(
                "{}{}{}",
                column.type_name,
                if column.is_not_null {
                    " not null"
                } else {
                    ", nullable"
                },
                if column.has_default {
                    ""
                } else {
                    ", no default"
                }
            ),
            format!("Call {}.", binding.spec.attach_call()),
        ),
    }
}

fn readable(binding: &Binding) -> Result<Check> {
    let owner = binding.users.owner;
    let role = catalog::role_name(owner);
    for table in binding.tables() {
        if !catalog::can_read(owner, table.oid)? {
            return Ok(Check::new(
                "owners",
                false,
                format!("role \"{role}\" cannot read table {}", table.sql),
                format!(
                    "GRANT SELECT ON {} to the owner of {}.",
                    table.sql, binding.users.sql
                ),
            ));
        }
    }
    Ok(Check::new(
        "owners",
        true,
        format!("role \"{role}\" can read all bound tables"),
        "",
    ))
}

fn granted(binding: &Binding) -> Result<Check> {
    let role = catalog::role_name(binding.users.owner);
    let call = format!(
        "{}.settle_workflow(pg_catalog.text)",
        catalog::extension_schema()?
    );
    let ok = catalog::exists(
        "SELECT 1 WHERE pg_catalog.has_function_privilege($1::pg_catalog.oid, $2, 'EXECUTE')",
        &[
            Arg::Int8(binding.users.owner.to_u32().into()),
            Arg::Text(&call),
        ],
    )?;
    let can = if ok { "can" } else { "cannot" };
    Ok(Check::new(
        "grants",
        ok,
        format!("role \"{role}\" {can} call settle_workflow"),
        format!("Call {}.", binding.spec.attach_call()),
    ))
}

fn index(binding: &Binding) -> Result<Check> {
    let ok = catalog::has_index_on(binding.usage.oid, &binding.usage_workflow.column.name)?;
    let concurrently = concurrently(binding);
    let column = binding.usage_workflow.sql();
    Ok(Check::new(
        "usage index",
        ok,
        format!(
            "{} index on {} begins with {column}",
            an_or_no(ok),
            binding.usage.sql
        ),
        format!(
            "CREATE INDEX {concurrently}ON {} {};",
            binding.usage.sql,
            binding.usage_index()
        ),
    ))
}

fn summary_index(binding: &Binding) -> Result<Option<Check>> {
    let (Some(columns), Payer::Usage(key)) = (binding.summary_index(), &binding.payer) else {
        return Ok(None);
    };
    let usage = &binding.usage.sql;
    let ok = catalog::has_index_on(binding.usage.oid, &key.column.name)?;
    let concurrently = concurrently(binding);
    Ok(Some(Check::new(
        "summary index",
        ok,
        format!(
            "{} index on {usage} begins with {}",
            an_or_no(ok),
            key.sql()
        ),
        format!("CREATE INDEX {concurrently}ON {usage} {columns};"),
    )))
}

fn an_or_no(ok: bool) -> &'static str {
    if ok { "an" } else { "no" }
}

/// CREATE INDEX CONCURRENTLY does not work on a partitioned table.
fn concurrently(binding: &Binding) -> &'static str {
    if binding.usage.is_partitioned() {
        ""
    } else {
        "CONCURRENTLY "
    }
}

/// The triggers that keep the ledger append-only and the extension's tables its own. They fire
/// always, also in a replica role.
pub(crate) fn ledger_guard() -> Result<Check> {
    let mut repairs = Vec::new();
    let mut open = Vec::new();
    for (table, trigger) in GUARDS {
        if !fires_always(table, trigger)? {
            open.push(format!("{trigger} on {table}"));
            repairs.push(format!(
                "ALTER TABLE token_balance.{table} ENABLE ALWAYS TRIGGER {trigger};"
            ));
        }
    }
    let detail = if open.is_empty() {
        "the ledger is append-only".to_owned()
    } else {
        format!("the ledger can be changed: off are {}", open.join(", "))
    };
    Ok(Check::new(
        "ledger guard",
        open.is_empty(),
        detail,
        repairs.join(" "),
    ))
}

const GUARDS: [(&str, &str); 7] = [
    ("ledger", "append_only_rows"),
    ("ledger", "append_only_truncate"),
    ("ledger", "owner_only"),
    ("settlement", "owner_only"),
    ("binding", "owner_only"),
    ("queue", "owner_only"),
    ("archived_reference", "owner_only"),
];

fn fires_always(table: &str, trigger: &str) -> Result<bool> {
    catalog::exists(
        "SELECT 1 FROM pg_catalog.pg_trigger AS t \
         JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) t.tgrelid \
         JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
         WHERE n.nspname OPERATOR(pg_catalog.=) 'token_balance'::pg_catalog.name \
         AND c.relname OPERATOR(pg_catalog.=) $1::pg_catalog.name \
         AND t.tgname OPERATOR(pg_catalog.=) $2::pg_catalog.name \
         AND t.tgenabled OPERATOR(pg_catalog.=) 'A'::pg_catalog.\"char\"",
        &[Arg::Text(table), Arg::Text(trigger)],
    )
}

/// After a restore the next entry id must be past the last one.
pub(crate) fn ledger_sequence() -> Result<Check> {
    let _owner = RunAs::owner(catalog::extension_owner()?);
    let outcome = spi::query(
        "SELECT COALESCE(pg_catalog.max(l.entry_id), 0), \
         (SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END \
         FROM token_balance.ledger_entry_id_seq AS s) FROM token_balance.ledger AS l",
        &[],
    )?;
    let number = |column| -> i64 {
        outcome
            .rows
            .first()
            .and_then(|row| row.number(column))
            .unwrap_or_default()
    };
    let (last_entry, last_given) = (number(0), number(1));
    Ok(Check::new(
        "ledger sequence",
        last_entry <= last_given,
        format!("last entry {last_entry}, last id given {last_given}"),
        format!("SELECT pg_catalog.setval('token_balance.ledger_entry_id_seq', {last_entry});"),
    ))
}
