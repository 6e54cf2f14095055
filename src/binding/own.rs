//! The extension's own tables in the schema `token_balance`, and the extension itself.

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::postgres::catalog::{Table, columns, query, table, table_named};
use crate::postgres::quote::quote_identifier;
use crate::postgres::security::RunAs;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi;
use crate::postgres::value::Arg;

/// The owner of the extension's tables. Error 55000 if the extension is not complete.
pub(crate) fn extension_owner() -> Result<pg_sys::Oid> {
    Ok(table_named("token_balance", "settlement")?
        .ok_or(Error::NotAttached)?
        .owner)
}

/// The extension's own tables that are kept by OID, and the functions of its triggers on users.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct OwnObjects {
    pub(crate) binding: pg_sys::Oid,
    pub(crate) settlement: pg_sys::Oid,
    pub(crate) ledger: pg_sys::Oid,
    pub(crate) queue: pg_sys::Oid,
    pub(crate) workflow_alias: pg_sys::Oid,
    pub(crate) account_move: pg_sys::Oid,
    pub(crate) record_balance_change: pg_sys::Oid,
    pub(crate) keep_balance: pg_sys::Oid,
}

/// Where one is not there, or is no member of an extension, InvalidOid stands for it.
pub(crate) fn own_objects() -> Result<OwnObjects> {
    let outcome = query(
        "SELECT c.relname, c.oid \
         FROM pg_catalog.pg_class AS c \
         JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
         JOIN pg_catalog.pg_depend AS d ON d.objid OPERATOR(pg_catalog.=) c.oid \
         AND d.classid OPERATOR(pg_catalog.=) \
         'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid \
         AND d.objsubid OPERATOR(pg_catalog.=) 0 \
         AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog.\"char\" \
         WHERE n.nspname OPERATOR(pg_catalog.=) 'token_balance'::pg_catalog.name \
         AND c.relname OPERATOR(pg_catalog.=) ANY (ARRAY['binding', 'settlement', 'ledger', \
         'queue', 'workflow_alias', 'account_move']::pg_catalog.name[]) \
         UNION ALL SELECT p.proname, p.oid \
         FROM pg_catalog.pg_proc AS p \
         JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace \
         JOIN pg_catalog.pg_depend AS d ON d.objid OPERATOR(pg_catalog.=) p.oid \
         AND d.classid OPERATOR(pg_catalog.=) \
         'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid \
         AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog.\"char\" \
         WHERE n.nspname OPERATOR(pg_catalog.=) 'token_balance'::pg_catalog.name \
         AND p.pronargs OPERATOR(pg_catalog.=) 0 \
         AND p.proname OPERATOR(pg_catalog.=) ANY (ARRAY['record_balance_change', \
         'keep_balance']::pg_catalog.name[])",
        &[],
    )?;
    let mut own = OwnObjects::default();
    for row in &outcome.rows {
        match row.text(0) {
            "binding" => own.binding = row.oid(1),
            "settlement" => own.settlement = row.oid(1),
            "queue" => own.queue = row.oid(1),
            "workflow_alias" => own.workflow_alias = row.oid(1),
            "account_move" => own.account_move = row.oid(1),
            "record_balance_change" => own.record_balance_change = row.oid(1),
            "keep_balance" => own.keep_balance = row.oid(1),
            _ => own.ledger = row.oid(1),
        }
    }
    Ok(own)
}

/// SQL for the number of a row's binding or accounts. In the catalog of an older version there is one of each.
pub(crate) fn id(alias: &str, column: &str) -> Result<String> {
    Ok(match has_ids()? {
        true => format!("{alias}.{column}"),
        false => "1::smallint".into(),
    })
}

/// Error 55000 in the catalog of an older version.
pub(crate) fn refuse_older_catalog() -> Result<()> {
    match has_ids()? {
        true => Ok(()),
        false => Err(Error::OlderCatalog),
    }
}

/// Whether the extension's tables know more than one binding.
fn has_ids() -> Result<bool> {
    let table = table_named("token_balance", "settlement")?.ok_or(Error::NotAttached)?;
    let columns = columns(table.oid)?;
    Ok(columns.iter().any(|column| column.name == "binding_id"))
}

/// Whether one of the accounts of that number was ever moved to another database. Such rows stay for good, so what was
/// true once is true in every session that has read it.
pub(super) fn has_moved(accounts: Option<i16>) -> Result<bool> {
    let (Some(accounts), Some(table)) = (accounts, table_named("token_balance", "account_move")?)
    else {
        return Ok(false);
    };
    let _owner = RunAs::owner(table.owner);
    let outcome = spi::query_as_of(
        "SELECT EXISTS (SELECT 1 FROM token_balance.account_move AS m \
         WHERE m.accounts_id OPERATOR(pg_catalog.=) $1 \
         AND m.direction OPERATOR(pg_catalog.=) 'out')",
        &[Arg::OptionalInt2(Some(accounts))],
        // With the catalogs', as the bindings are read.
        Snapshot::Latest,
    )?;
    Ok(outcome.rows.first().is_some_and(|row| row.is_true(0)))
}

/// An UPDATE of the binding alone would stay unknown to sessions that have read it (`Bound`).
pub(crate) fn tell_other_sessions() -> Result<()> {
    if let Some(table) = table_named("token_balance", "binding")? {
        // SAFETY: an invalidation of an OID, sent at commit.
        unsafe { pg_sys::CacheInvalidateRelcacheByRelid(table.oid) };
    }
    Ok(())
}

/// The schema that holds settle_workflow, quoted.
pub(crate) fn extension_schema() -> Result<String> {
    let outcome = query(
        "SELECT n.nspname FROM pg_catalog.pg_extension AS e \
         JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace \
         WHERE e.extname OPERATOR(pg_catalog.=) 'token_balance'::pg_catalog.name",
        &[],
    )?;
    outcome
        .rows
        .first()
        .map(|row| quote_identifier(row.text(0)))
        .ok_or(Error::NotAttached)
}

/// The first of `relations`, or of the extension's own tables, that Citus has distributed, if any.
pub(crate) fn distributed(relations: &[pg_sys::Oid]) -> Result<Option<Table>> {
    if table_named("pg_catalog", "pg_dist_partition")?.is_none() {
        return Ok(None);
    }
    let oids = relations.iter().map(|oid| oid.to_u32().into()).collect();
    let outcome = query(
        "SELECT c.oid FROM pg_catalog.pg_dist_partition AS d \
         JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) d.logicalrelid::pg_catalog.oid \
         JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
         WHERE c.oid::bigint OPERATOR(pg_catalog.=) ANY ($1) \
         OR n.nspname OPERATOR(pg_catalog.=) 'token_balance'::pg_catalog.name \
         ORDER BY c.oid LIMIT 1",
        &[Arg::Int8Array(oids)],
    )?;
    match outcome.rows.first() {
        Some(row) => table(row.oid(0)),
        None => Ok(None),
    }
}
