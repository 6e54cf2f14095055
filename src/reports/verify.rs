//! `token_balance.verify`: whether the binding is whole, one row per check.

use pgrx::pg_sys;

use super::check::Check;
use super::usage_view;
use crate::attach::wanted_triggers::{Trigger, triggers};
use crate::attach::{deletions, overdraft, plausible};
use crate::binding::own::extension_schema;
use crate::binding::search_path::{Untrusted, Who};
use crate::binding::{Binding, Completion, Payer, Spec, Stored, Workflows, usable_names};
use crate::error::{Error, Result};
use crate::postgres::catalog;
use crate::postgres::quote::{quote_identifier, quote_literal};
use crate::postgres::security::{Following, NOTHING_ELSE, RunAs, SearchPath};
use crate::postgres::spi;
use crate::postgres::value::{Arg, texts};

/// All checks, of the binding of this name, or of all. One that cannot go on because the binding is broken says so in
/// its row. Error 42704 if none has the name.
pub(crate) fn verify(name: Option<&str>) -> Result<Vec<Check>> {
    let attached = Stored::attached()?;
    let resolved: Vec<_> = attached
        .into_iter()
        .map(|spec| {
            let binding = Binding::resolve(spec.clone());
            (spec, binding)
        })
        .collect();
    let whole: Vec<_> = resolved
        .iter()
        .filter_map(|(_, binding)| binding.as_ref().ok().cloned())
        .collect();
    // A table's triggers are those of all bindings; what a role may not use it is not told.
    let usable = match resolved.is_empty() {
        true => None,
        false => usable_names()?,
    };
    let is_usable = |spec: &Spec| {
        usable
            .as_ref()
            .is_none_or(|names| names.contains(&spec.name))
    };
    let is_meant = |spec: &Spec| name.is_none_or(|name| name == spec.name) && is_usable(spec);
    let mut checks = Vec::new();
    let names = resolved.iter().map(|(spec, _)| spec);
    let names = names
        .filter(|spec| is_usable(spec))
        .map(|spec| spec.name.clone());
    let names: Vec<_> = names.collect();
    for (spec, binding) in resolved {
        if !is_meant(&spec) {
            continue;
        }
        let found = match binding {
            Ok(binding) => {
                let _following = Following::start(&binding.accounts.paths);
                let mut found = vec![bound_names(&binding)?];
                found.extend(of_binding(&binding, &whole)?);
                found
            }
            Err(error) => vec![broken(error)],
        };
        checks.extend(found.into_iter().map(|check| Check {
            binding: Some(spec.name.clone()),
            ..check
        }));
    }
    if checks.is_empty() {
        match name {
            Some(name) => {
                return Err(Error::UnknownBinding {
                    name: name.to_owned(),
                    names,
                });
            }
            None => checks.push(broken(Error::NotAttached)),
        }
    }
    // Second, where one is attached: what people look at comes first.
    checks.insert(1, ledger_guard()?);
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

fn of_binding(binding: &Binding, attached: &[Binding]) -> Result<Vec<Check>> {
    let mut checks = vec![
        key(binding)?,
        balance(binding),
        readable(binding)?,
        granted(binding)?,
    ];
    checks.extend(verify_triggers(binding, attached)?);
    checks.extend(search_path(binding)?);
    checks.extend(deferrable_triggers(binding)?);
    checks.extend(reset_wanted(binding)?);
    checks.push(index(binding)?);
    checks.extend(summary_index(binding)?);
    checks.extend(overdraft(binding)?);
    checks.extend(deletions(binding)?);
    checks.extend(usage_view::definition(binding));
    checks.extend(usage_view::late_usage(binding)?);
    checks.extend(children(binding)?);
    checks.extend(statuses(binding)?);
    checks.extend(newest_usage(binding)?);
    Ok(checks)
}

/// Attach warns of it; it may have come later.
fn overdraft(binding: &Binding) -> Result<Option<Check>> {
    let forbidden = overdraft::forbidden(binding)?;
    Ok(forbidden.map(|error| Check {
        name: format!("overdraft of {}", binding.accounts.users.sql),
        ..broken(error)
    }))
}

/// Attach refuses it; it may have come later.
fn deletions(binding: &Binding) -> Result<Option<Check>> {
    let unrecordable = deletions::unrecordable(binding)?;
    Ok(unrecordable.map(|error| Check {
        name: format!("deletions from {}", binding.usage.sql),
        ..broken(error)
    }))
}

/// Attach refuses them; they may have come later.
fn children(binding: &Binding) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for table in binding.tables() {
        let children = plausible::children(&table)?;
        if !children.is_empty() {
            checks.push(Check::new(
                &format!("children of {}", table.sql),
                false,
                format!(
                    "rows of {} are read with it, and no trigger sees them",
                    children.join(", ")
                ),
                "Take them out: ALTER TABLE … NO INHERIT.",
            ));
        }
    }
    Ok(checks)
}

/// What the workflow table has in its status column, against what completes a run.
fn statuses(binding: &Binding) -> Result<Option<Check>> {
    let Some(Workflows {
        table,
        completion: Completion::Status(status),
        ..
    }) = &binding.workflows
    else {
        return Ok(None);
    };
    let completed = &binding.spec.completed_statuses;
    let name = format!("statuses of {}", table.sql);
    let hint = format!(
        "Name the completed ones: call {}, then {}; it goes on where it was.",
        binding.spec.detach_call(),
        binding.spec.attach_with("..., completed_statuses => ...")
    );
    let hint = hint.as_str();
    if status.is_enum {
        let labels = catalog::enum_labels(status.base_type)?;
        if !completed.iter().any(|bound| labels.contains(bound)) {
            let detail = format!(
                "none of {} is a value of {}: no run completes",
                completed.join(", "),
                status.sql()
            );
            return Ok(Some(Check::new(&name, false, detail, hint)));
        }
    }
    let seen = plausible::statuses(binding)?;
    let other: Vec<_> = seen
        .iter()
        .filter(|(status, _)| !completed.contains(status))
        .collect();
    if other.is_empty() {
        return Ok(None);
    }
    // Numbers, true and false have one spelling.
    let has_spellings = !matches!(
        status.base_type,
        pg_sys::BOOLOID | pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID
    );
    let reads_as_bound = |status: &str| {
        let mut bound = completed.iter();
        bound.any(|bound| plausible::reads_as(bound, status))
    };
    let misspelt = has_spellings && other.iter().any(|(status, _)| reads_as_bound(status));
    let listed: Vec<_> = other
        .iter()
        .map(|(status, count)| format!("{status} ({count})"))
        .collect();
    let detail = format!("in a sample, these complete nothing: {}", listed.join(", "));
    Ok(Some(Check::new(&name, !misspelt, detail, hint)))
}

fn newest_usage(binding: &Binding) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    let Some(newest) = plausible::newest_usage(binding)? else {
        return Ok(checks);
    };
    if newest.matches_nothing() {
        checks.push(Check::new(
            "workflow ids",
            false,
            format!(
                "none of the newest {} ids in {} is in the workflow table",
                newest.ids, binding.usage.sql
            ),
            format!(
                "The wrong key may be bound: compare the two columns, then call {}, and attach with the right ones.",
                binding.spec.detach_call()
            ),
        ));
    }
    if let Some(rows) = newest.counts_nothing() {
        checks.push(Check::new(
            "tokens",
            false,
            format!(
                "none of the newest {rows} rows of {} has tokens in {}",
                binding.usage.sql,
                plausible::tokens_named(binding)
            ),
            format!(
                "They may be in other columns: call {}, and attach with those as usage_tokens.",
                binding.spec.detach_call()
            ),
        ));
    }
    if newest.unowned > 0 {
        checks.push(Check::new(
            "unowned usage",
            false,
            format!(
                "{} of the newest {} rows of {} name no workflow or no account",
                newest.unowned, newest.rows, binding.usage.sql
            ),
            "Nobody is charged for them: see token_balance.unsettled.",
        ));
    }
    Ok(checks)
}

/// Whether the triggers on the bound tables are there and fire.
pub(crate) fn verify_triggers(binding: &Binding, attached: &[Binding]) -> Result<Vec<Check>> {
    let others: Vec<_> = attached
        .iter()
        .filter(|other| other.spec.name != binding.spec.name)
        .cloned()
        .collect();
    let is_on_part = |trigger: &Trigger| {
        let mut bindings = others.iter().chain([binding]);
        bindings.any(|it| {
            it.usage_parts
                .iter()
                .any(|part| part.oid == trigger.table.oid)
        })
    };
    let mut checks = Vec::new();
    for trigger in &triggers(binding, &others) {
        if !trigger.is_known()? {
            continue;
        }
        let check = of_trigger(trigger, binding)?;
        // Of partitions, which may be very many, only what is wrong is told.
        if !check.ok || !is_on_part(trigger) {
            checks.push(check);
        }
    }
    Ok(checks)
}

fn of_trigger(trigger: &Trigger, binding: &Binding) -> Result<Check> {
    let name = format!("trigger {} on {}", trigger.name, trigger.table.sql);
    let attach = format!("Call {}.", binding.spec.attach_call());
    let Some(standing) = trigger.standing()? else {
        return Ok(Check::new(&name, false, "missing", attach));
    };
    if !standing.reads_its_columns {
        let detail = "reads a column that has another name now";
        return Ok(Check::new(&name, false, detail, attach));
    }
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

/// No user and no usage is there, and something is known of both: they were truncated, or all rows were deleted. None
/// if that is not so.
fn reset_wanted(binding: &Binding) -> Result<Option<Check>> {
    let known = {
        let _owner = RunAs::owner(binding.accounts.extension_owner);
        let sql = format!(
            "SELECT 1 WHERE EXISTS (SELECT 1 FROM token_balance.settlement AS s WHERE {} true) \
             OR EXISTS (SELECT 1 FROM token_balance.ledger AS l WHERE {} true)",
            binding.own("s"),
            binding.accounts.own("l")
        );
        !spi::query(&sql, &[])?.rows.is_empty()
    };
    for table in [&binding.accounts.users, &binding.usage] {
        if !known || catalog::has_rows(table)? {
            return Ok(None);
        }
    }
    Ok(Some(Check::new(
        "ids",
        false,
        "users and usage are empty, and what was settled is known: ids that are used again are not new",
        "If they are to be, call token_balance.reset().",
    )))
}

/// Tables are bound by OID and columns by number; after a rename or a restore their names may be others.
fn bound_names(binding: &Binding) -> Result<Check> {
    let spec = &binding.spec;
    let present: Vec<_> = binding
        .tables()
        .into_iter()
        .map(|table| table.sql.clone())
        .collect();
    let stored: Vec<_> = spec
        .relations()
        .map(|relation| relation.name.clone())
        .collect();
    let mut detail = format!("attached to {}", present.join(", "));
    if present != stored {
        detail += &format!(", which were {} then", stored.join(", "));
    }
    let columns = spec.renamed_columns()?;
    for column in &columns {
        detail += &format!("; {column}");
    }
    let ok = present == stored && columns.is_empty();
    Ok(Check::new(
        "binding",
        ok,
        detail,
        format!(
            "If these are the right {}, call {}.",
            if present == stored {
                "columns"
            } else {
                "tables"
            },
            spec.attach_call()
        ),
    ))
}

fn key(binding: &Binding) -> Result<Check> {
    let users = &binding.accounts.users.sql;
    let key = binding.accounts.user_key.sql();
    let ok = catalog::is_unique(
        binding.accounts.users.oid,
        &binding.accounts.user_key.column.name,
    )?;
    Ok(Check::new(
        &format!("key {users}.{key}"),
        ok,
        if ok { "unique" } else { "not unique" },
        format!("ALTER TABLE {users} ADD UNIQUE ({key});"),
    ))
}

fn balance(binding: &Binding) -> Check {
    let accounts = &binding.accounts;
    let name = format!("column {}.{}", accounts.users.sql, accounts.balance_sql());
    match &binding.accounts.balance {
        None => Check::new(
            &name,
            false,
            "missing; if it has another name by now, detach() and attach(..., balance_column => ...) go on where it was",
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
    let owner = binding.accounts.users.owner;
    let role = catalog::role_name(owner);
    for table in binding.tables() {
        if table.has_policies && !catalog::sees_all_rows(owner, &table) {
            return Ok(Check::new(
                "owners",
                false,
                format!(
                    "policies hide rows of table {} from role \"{role}\"",
                    table.sql
                ),
                "Give all bound tables one owner, or that role BYPASSRLS.",
            ));
        }
        if !catalog::can_read(owner, table.oid)? {
            return Ok(Check::new(
                "owners",
                false,
                format!("role \"{role}\" cannot read table {}", table.sql),
                format!(
                    "GRANT USAGE ON SCHEMA {} TO {sql}; GRANT SELECT ON {} TO {sql};",
                    quote_identifier(&table.schema),
                    table.sql,
                    sql = quote_identifier(&role),
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
    let role = catalog::role_name(binding.accounts.users.owner);
    let schema = extension_schema()?;
    // The second one until the extension is updated.
    let calls = [
        format!("{schema}.settle_workflow(pg_catalog.text, pg_catalog.name)"),
        format!("{schema}.settle_workflow(pg_catalog.text)"),
    ];
    let ok = catalog::exists(
        "SELECT 1 FROM pg_catalog.unnest($2::pg_catalog.text[]) AS f WHERE pg_catalog.has_function_privilege( \
         $1::pg_catalog.oid, pg_catalog.to_regprocedure(f)::pg_catalog.oid, 'EXECUTE')",
        &[
            Arg::Int8(binding.accounts.users.owner.to_u32().into()),
            Arg::TextArray(&calls),
        ],
    )?;
    if binding.reads_floating_tokens() && !can_find_ours(binding.usage.owner)? {
        let role = catalog::role_name(binding.usage.owner);
        return Ok(Check::new(
            "grants",
            false,
            format!(
                "role \"{role}\" cannot use the schema token_balance, in which is what reads {}",
                binding.usage.sql
            ),
            format!("Call {}.", binding.spec.attach_call()),
        ));
    }
    let can = if ok { "can" } else { "cannot" };
    Ok(Check::new(
        "grants",
        ok,
        format!("role \"{role}\" {can} call settle_workflow"),
        format!("Call {}.", binding.spec.attach_call()),
    ))
}

/// Whether the role finds functions of ours by their names.
fn can_find_ours(role: pg_sys::Oid) -> Result<bool> {
    catalog::exists(
        "SELECT 1 WHERE pg_catalog.has_schema_privilege($1::pg_catalog.oid, 'token_balance', 'USAGE')",
        &[Arg::Int8(role.to_u32().into())],
    )
}

/// In which schemas the code on the bound tables finds names that it does not qualify. It matters
/// which roles may create in them if there is such code. None on the catalog of an older version.
fn search_path(binding: &Binding) -> Result<Option<Check>> {
    let Some(path) = &binding.accounts.paths.of_tables else {
        return Ok(None);
    };
    let path = path.to_string_lossy().into_owned();
    let name = "search_path";
    if binding.spec.search_path.is_none() {
        return Ok(Some(Check::new(
            name,
            false,
            format!("{path}: only the bound tables' schemas, since none was chosen"),
            format!("Call {}.", binding.spec.attach_call()),
        )));
    }
    let untrusted = binding.untrusted_on_path()?;
    let functions = if untrusted.is_empty() {
        Vec::new()
    } else {
        functions_on_path(binding)?
    };
    if functions.is_empty() {
        return Ok(Some(Check::new(name, true, path, "")));
    }
    let reasons: Vec<_> = untrusted.iter().map(reason).collect();
    Ok(Some(Check::new(
        name,
        false,
        format!(
            "{path}: {}, and these functions run as an owner of the tables without a search_path \
             of their own: {}",
            reasons.join("; "),
            functions.join(", ")
        ),
        repairs_of_path(binding, &untrusted).join(" "),
    )))
}

fn reason(untrusted: &Untrusted) -> String {
    let schema = quote_identifier(&untrusted.schema);
    match &untrusted.who {
        Who::Anybody => format!("schema {schema} does not exist"),
        Who::Owner(role) | Who::Grantee(role) => format!("{role} may create in schema {schema}"),
    }
}

/// Grants are taken back. A schema that somebody else owns, or that is gone, leaves the path, unless a
/// bound table is in it.
fn repairs_of_path(binding: &Binding, untrusted: &[Untrusted]) -> Vec<String> {
    let is_bound = |name: &String| binding.tables().iter().any(|table| table.schema == *name);
    let mut repairs = Vec::new();
    let mut leaving = Vec::new();
    for Untrusted { schema, who } in untrusted {
        let sql = quote_identifier(schema);
        match who {
            Who::Grantee(role) => {
                repairs.push(format!("REVOKE CREATE ON SCHEMA {sql} FROM {role};"));
            }
            Who::Owner(_) if is_bound(schema) => {
                let owner = quote_identifier(catalog::role_name(binding.accounts.users.owner));
                repairs.push(format!("ALTER SCHEMA {sql} OWNER TO {owner};"));
            }
            Who::Owner(_) | Who::Anybody => leaving.push(schema),
        }
    }
    if !leaving.is_empty() {
        let kept = binding.spec.search_path.iter().flatten();
        let staying = kept.filter(|name| !leaving.contains(name));
        let names: Vec<_> = staying.map(quote_literal).collect();
        repairs.push(format!(
            "SELECT {};",
            binding.spec.attach_call_with(&format!(
                "search_path => ARRAY[{}]::name[]",
                names.join(", ")
            ))
        ));
    }
    repairs
}

/// SQL for the bound tables ($1) and their partitions.
const TABLES: &str = "SELECT b.id::pg_catalog.oid AS id FROM pg_catalog.unnest($1::bigint[]) \
     AS b (id) UNION SELECT p.relid::pg_catalog.oid FROM pg_catalog.unnest($1::bigint[]) AS b (id), \
     pg_catalog.pg_partition_tree(b.id::pg_catalog.oid::pg_catalog.regclass) AS p";

/// SQL for "function p looks names up in the search_path that it is called with". The body of a
/// function in the form of the standard was read when it was made.
const LOOKS_UP: &str = "NOT EXISTS (SELECT 1 FROM pg_catalog.unnest(p.proconfig) AS c (setting) \
     WHERE pg_catalog.starts_with(c.setting, 'search_path=')) \
     AND p.prosqlbody IS NULL AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_language AS l \
     WHERE l.oid OPERATOR(pg_catalog.=) p.prolang \
     AND l.lanname OPERATOR(pg_catalog.=) 'internal'::pg_catalog.name) \
     AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_namespace AS n \
     WHERE n.oid OPERATOR(pg_catalog.=) p.pronamespace \
     AND n.nspname OPERATOR(pg_catalog.=) 'token_balance'::pg_catalog.name)";

/// The functions that triggers, constraints, defaults, index expressions, policies and rules on the
/// bound tables call and that look names up in the path in force. (Foreign keys have functions of the
/// server's, which are in no pg_depend.)
fn functions_on_path(binding: &Binding) -> Result<Vec<String>> {
    // So that regprocedure names the schema.
    let _path = SearchPath::enter(NOTHING_ELSE);
    let outcome = spi::query(
        &format!(
            "SELECT DISTINCT p.oid::pg_catalog.regprocedure::pg_catalog.text \
             FROM ({TABLES}) AS t \
             JOIN pg_catalog.pg_depend AS o ON o.refobjid OPERATOR(pg_catalog.=) t.id \
             AND o.refclassid OPERATOR(pg_catalog.=) \
             'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid \
             JOIN pg_catalog.pg_depend AS f ON f.objid OPERATOR(pg_catalog.=) o.objid \
             AND f.classid OPERATOR(pg_catalog.=) o.classid \
             AND f.refclassid OPERATOR(pg_catalog.=) \
             'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid \
             JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) f.refobjid \
             WHERE {LOOKS_UP} AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_rewrite AS r \
             WHERE r.oid OPERATOR(pg_catalog.=) o.objid \
             AND o.classid OPERATOR(pg_catalog.=) \
             'pg_catalog.pg_rewrite'::pg_catalog.regclass::pg_catalog.oid \
             AND r.ev_class OPERATOR(pg_catalog.<>) t.id) ORDER BY 1"
        ),
        &[Arg::Int8Array(tables(binding))],
    )?;
    Ok(texts(&outcome.rows, 0))
}

fn tables(binding: &Binding) -> Vec<i64> {
    let tables = binding.tables();
    tables.iter().map(|it| it.oid.to_u32().into()).collect()
}

/// The triggers on users that a charge may leave to the end of the transaction, when neither this
/// path nor this role is in force any more, and whose function has no search_path of its own.
fn deferrable_triggers(binding: &Binding) -> Result<Vec<Check>> {
    let Some(path) = &binding.accounts.paths.of_tables else {
        return Ok(Vec::new());
    };
    // So that regprocedure names the schema.
    let _path = SearchPath::enter(NOTHING_ELSE);
    let outcome = spi::query(
        &format!(
            "SELECT t.tgname, t.tgrelid, p.oid::pg_catalog.regprocedure \
             FROM pg_catalog.pg_trigger AS t \
             JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid \
             WHERE t.tgrelid OPERATOR(pg_catalog.=) ANY ({TABLES}) \
             AND t.tgdeferrable AND NOT t.tgisinternal \
             AND t.tgparentid OPERATOR(pg_catalog.=) 0::pg_catalog.oid AND {LOOKS_UP} \
             ORDER BY t.tgrelid, t.tgname"
        ),
        &[Arg::Int8Array(vec![
            binding.accounts.users.oid.to_u32().into(),
        ])],
    )?;
    let path = path.to_string_lossy();
    let mut checks = Vec::new();
    for row in &outcome.rows {
        let Some(table) = catalog::table(row.oid(1))? else {
            continue;
        };
        let function = row.text(2);
        let trigger = quote_identifier(row.text(0));
        checks.push(Check::new(
            &format!("deferrable trigger {trigger} on {}", table.sql),
            false,
            format!(
                "if it is deferred, {function} runs with the search_path of who commits: it has none \
                 of its own"
            ),
            format!("ALTER FUNCTION {function} SET search_path = {path};"),
        ));
    }
    Ok(checks)
}

fn index(binding: &Binding) -> Result<Check> {
    if binding.usage_view.is_some() {
        return usage_view::index(binding);
    }
    let ok = catalog::has_index_on(&binding.usage, &binding.usage_workflow.column)?;
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
    let Payer::Usage(key) = &binding.payer else {
        return Ok(None);
    };
    // Without a time a summary reads all that the account has used.
    let of_account = || format!("({})", key.column.index_sql());
    let columns = binding.summary_index().unwrap_or_else(of_account);
    // Which of a view's tables wants which index, nobody knows.
    if binding.usage_view.is_some() {
        return Ok(None);
    }
    let usage = &binding.usage.sql;
    let ok = catalog::has_index_on(&binding.usage, &key.column)?;
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
        // The catalog of an older version has not all of them.
        if catalog::table_named("token_balance", table)?.is_some() && !fires_always(table, trigger)?
        {
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

const GUARDS: [(&str, &str); 11] = [
    ("ledger", "append_only_rows"),
    ("ledger", "append_only_truncate"),
    ("ledger", "owner_only"),
    ("settlement", "owner_only"),
    ("binding", "owner_only"),
    ("queue", "owner_only"),
    ("reference", "owner_only"),
    ("archived_reference", "owner_only"),
    ("workflow_alias", "owner_only"),
    ("exemption", "owner_only"),
    ("archived", "owner_only"),
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
