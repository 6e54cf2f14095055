//! The rows of `token_balance.binding`, which keep what `attach` was told, also of bindings that are detached.
//!
//! It is read and written by way of JSON: until `ALTER EXTENSION ... UPDATE` the library works on the
//! catalog of an older version, which has not all of its columns.

use pgrx::pg_sys;
use serde_json::{Map, Value, json};

use super::attach_arguments::changeable;
use super::columns::LATE_USAGE_ON;
use super::own::{extension_owner, tell_other_sessions};
use super::spec::{Ids, Spec, Spellings};
use crate::error::{Error, Result};
use crate::postgres::catalog;
use crate::postgres::lock::lock_relations;
use crate::postgres::security::RunAs;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi;
use crate::postgres::value::Arg;
use crate::postgres::view::Definition;

/// A row: a binding, attached or remembered.
pub(crate) struct Stored {
    pub(crate) spec: Spec,
    pub(crate) is_attached: bool,
}

impl Spec {
    /// The same binding as it is stored, if it is attached.
    pub(crate) fn present(&self) -> Result<Option<Self>> {
        let mut attached = Stored::attached()?.into_iter();
        Ok(attached.find(|spec| spec.ids == self.ids))
    }

    /// Make it a binding of this database, in place of what is stored of it.
    pub(crate) fn store(&self, attached_by: pg_sys::Oid) -> Result<()> {
        let _owner = RunAs::owner(extension_owner()?);
        delete_row(self.ids)?;
        let attached_by = catalog::role_name(attached_by);
        let mut row = self.row()?;
        let existing_usage = self.existing_usage.as_deref().unwrap_or("exempt");
        row.insert("existing_usage".into(), existing_usage.into());
        match self.ids {
            Some(ids) => {
                row.insert("binding_id".into(), ids.binding.into());
                row.insert("accounts_id".into(), ids.accounts.into());
            }
            None => drop(row.insert("singleton".into(), true.into())),
        }
        spi::query(
            "INSERT INTO token_balance.binding SELECT r.* \
             FROM pg_catalog.jsonb_populate_record(NULL::token_balance.binding, \
             $1::pg_catalog.jsonb OPERATOR(pg_catalog.||) pg_catalog.jsonb_build_object( \
             'attached_by', $2, 'attached_at', pg_catalog.clock_timestamp())) AS r",
            &[
                Arg::Text(&Value::Object(row).to_string()),
                Arg::Text(&attached_by),
            ],
        )
        .map(drop)
    }

    /// Give the binding that is there what it can be given anew: the options, the search_path, and the names that
    /// its tables have by now.
    pub(crate) fn store_changes(&self) -> Result<()> {
        let mut changes = Vec::new();
        for name in changeable().chain([
            "users_name",
            "usage_name",
            "workflows_name",
            "workflow_ids",
            "account_ids",
            "usage_definition",
            "usage_rule",
            "made_column",
        ]) {
            if has_column(name)? {
                changes.push(format!("{name} = r.{name}"));
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        let _owner = RunAs::owner(extension_owner()?);
        let row = Value::Object(self.row()?).to_string();
        spi::query(
            &format!(
                "UPDATE token_balance.binding AS b SET {} FROM pg_catalog.jsonb_populate_record( \
                 NULL::token_balance.binding, $1::pg_catalog.jsonb) AS r WHERE {} true",
                changes.join(", "),
                Ids::of_binding(self.ids, "b"),
            ),
            &[Arg::Text(&row)],
        )
        .map(drop)
    }

    /// Store the names and the numbers of its columns, where others are stored.
    pub(crate) fn store_columns(&self) -> Result<()> {
        let Some(ids) = self.ids else { return Ok(()) };
        if !has_numbers()? {
            return Ok(());
        }
        let mut present = self.clone();
        present.number_columns()?;
        let names = present.column_names();
        let stored = Stored::all()?;
        let stored = stored.iter().find(|stored| stored.spec.ids == self.ids);
        if stored.is_some_and(|stored| {
            stored.spec.columns == present.columns
                && stored.spec.late_keys == present.late_keys
                && stored.spec.column_names() == names
        }) {
            return Ok(());
        }
        let _owner = RunAs::owner(extension_owner()?);
        forget_columns(ids)?;
        let columns = present.columns.iter().map(|column| {
            json!({
                "binding_id": ids.binding,
                "argument": column.argument,
                "position": column.position,
                "relation": column.relation.to_u32(),
                "number": column.number,
                "told": column.told,
            })
        });
        let late_keys = self.late_keys.iter().enumerate().map(|(position, key)| {
            json!({
                "binding_id": ids.binding,
                "argument": LATE_USAGE_ON,
                "position": position,
                "relation": key.relation.to_u32(),
                "number": key.number,
                "told": key.told,
            })
        });
        let columns = columns.chain(late_keys);
        spi::query(
            "INSERT INTO token_balance.bound_column SELECT r.* \
             FROM pg_catalog.jsonb_populate_recordset(NULL::token_balance.bound_column, \
             $1::pg_catalog.jsonb) AS r",
            &[Arg::Text(&Value::Array(columns.collect()).to_string())],
        )?;
        let changes: Vec<_> = names
            .keys()
            .map(|name| format!("{name} = r.{name}"))
            .collect();
        spi::query(
            &format!(
                "UPDATE token_balance.binding AS b SET {} FROM pg_catalog.jsonb_populate_record( \
                 NULL::token_balance.binding, $1::pg_catalog.jsonb) AS r WHERE {} true",
                changes.join(", "),
                Ids::of_binding(self.ids, "b"),
            ),
            &[Arg::Text(&Value::Object(names).to_string())],
        )?;
        tell_other_sessions()
    }

    /// What attach was told, how ids are spelled, and what a view says.
    fn row(&self) -> Result<Map<String, Value>> {
        let mut row = self.to_row();
        row.insert("made_column".into(), self.made_column.into());
        if !has_column("made_column")? {
            // The catalog of an older version wants one.
            row.insert("initial_balance".into(), self.initial().into());
        }
        if let Some(spellings) = &self.spellings {
            row.insert("workflow_ids".into(), spellings.workflows.clone().into());
            row.insert("account_ids".into(), spellings.accounts.clone().into());
        }
        if let Some(definition) = &self.definition {
            row.insert("usage_definition".into(), definition.text.clone().into());
            row.insert("usage_rule".into(), definition.rule.clone().into());
        }
        Ok(row)
    }

    /// Whether the catalog has a place for a search_path.
    pub(crate) fn has_search_path() -> Result<bool> {
        has_column("search_path")
    }

    /// It is no longer attached, and there is nothing of it to be remembered.
    pub(crate) fn forget(&self) -> Result<()> {
        let _owner = RunAs::owner(extension_owner()?);
        delete_row(self.ids)?;
        tell_other_sessions()
    }

    /// It is no longer attached, and is remembered: a binding of the same usage goes on where it was.
    pub(crate) fn detached(&self) -> Result<()> {
        let _owner = RunAs::owner(extension_owner()?);
        if self.ids.is_none() {
            return delete_row(None);
        }
        spi::command(&format!(
            "UPDATE token_balance.binding AS b SET detached_at = pg_catalog.now() WHERE {} true",
            Ids::of_binding(self.ids, "b")
        ))?;
        // No trigger may be left whose table would tell them.
        tell_other_sessions()
    }
}

impl Stored {
    /// What is bound in this database, in the order of numbers.
    pub(crate) fn attached() -> Result<Vec<Spec>> {
        let stored = Stored::all()?.into_iter();
        let mut attached: Vec<_> = stored
            .filter(|stored| stored.is_attached)
            .map(|stored| stored.spec)
            .collect();
        attached.sort_by_key(|spec| spec.ids.map(|ids| ids.binding));
        Ok(attached)
    }

    /// All of them, the latest first.
    pub(crate) fn all() -> Result<Vec<Self>> {
        let _owner = RunAs::owner(extension_owner()?);
        // The names that regclass and regtype give depend on the search_path; their numbers do not.
        let columns = match has_numbers()? {
            true => numbers_sql("b"),
            false => "NULL::pg_catalog.jsonb".into(),
        };
        let sql = format!(
            "SELECT pg_catalog.to_jsonb(b) OPERATOR(pg_catalog.||) pg_catalog.jsonb_build_object( \
             'users', b.users::pg_catalog.oid::bigint, \
             'usage', b.usage::pg_catalog.oid::bigint, \
             'workflows', b.workflows::pg_catalog.oid::bigint, \
             'balance_type', (pg_catalog.to_jsonb(b) OPERATOR(pg_catalog.->>) 'balance_type') \
             ::pg_catalog.regtype::pg_catalog.oid::bigint, 'columns', {columns}) \
             FROM token_balance.binding AS b ORDER BY b.attached_at DESC"
        );
        let outcome = spi::query_as_of(
            &sql,
            &[],
            // With the catalogs', or an old snapshot would have it bound as it no longer is.
            Snapshot::Latest,
        )?;
        outcome
            .rows
            .iter()
            .map(|row| Stored::of_row(row.text(0)))
            .collect()
    }

    fn of_row(row: &str) -> Result<Self> {
        let row: Map<String, Value> = serde_json::from_str(row).map_err(|error| Error::Spi {
            code: error.to_string(),
        })?;
        let mut spec = Spec::of_row(&row)?;
        spec.follow(row.get("columns"))?;
        spec.is_of_older_catalog = !row.contains_key("search_path");
        let text = |name| Some(row.get(name)?.as_str()?.to_owned());
        if let (Some(workflows), Some(accounts)) = (text("workflow_ids"), text("account_ids")) {
            spec.spellings = Some(Spellings {
                workflows,
                accounts,
            });
        }
        if let (Some(text), Some(rule)) = (text("usage_definition"), text("usage_rule")) {
            spec.definition = Some(Definition { text, rule });
        }
        spec.made_column = row.get("made_column").and_then(Value::as_bool);
        let id = |name| row.get(name)?.as_i64()?.try_into().ok();
        if let (Some(binding), Some(accounts)) = (id("binding_id"), id("accounts_id")) {
            spec.ids = Some(Ids { binding, accounts });
            spec.is_of_older_dump = row.get("singleton") == Some(&Value::Bool(true));
        }
        Ok(Stored {
            spec,
            is_attached: row.get("detached_at").is_none_or(Value::is_null),
        })
    }
}

/// Those who change what is bound take turns; who reads it goes on.
pub(crate) fn take_turns() -> Result<()> {
    if let Some(table) = catalog::table_named("token_balance", "binding")? {
        lock_relations(&[(table.oid, pg_sys::ShareRowExclusiveLock)]);
    }
    Ok(())
}

/// Numbers for what is bound for the first time. None in the catalog of an older version, which has no place for
/// them.
pub(crate) fn new_ids(stored: &[Stored], accounts: Option<i16>) -> Result<Option<Ids>> {
    if !has_column("binding_id")? {
        return Ok(None);
    }
    let next = |id: fn(Ids) -> i16, least: i16| {
        let ids = stored.iter().filter_map(|stored| stored.spec.ids);
        ids.map(id).fold(least, i16::max).checked_add(1)
    };
    let accounts = match accounts {
        Some(accounts) => Some(accounts),
        None => next(|ids| ids.accounts, 0),
    };
    match (next(|ids| ids.binding, last_archived()?), accounts) {
        (Some(binding), Some(accounts)) => Ok(Some(Ids { binding, accounts })),
        _ => Err(Error::TooManyBindings),
    }
}

/// The last binding of which something is in an archive: it may be forgotten, and what comes back from there is of no other.
fn last_archived() -> Result<i16> {
    let _owner = RunAs::owner(extension_owner()?);
    let outcome = spi::query(
        "SELECT COALESCE(pg_catalog.max(a.binding_id), 0) FROM token_balance.archived AS a",
        &[],
    )?;
    let last = outcome.rows.first().and_then(|row| row.number(0));
    Ok(last.unwrap_or(0))
}

/// Without `ids`: the one row that the catalog of an older version has.
fn delete_row(ids: Option<Ids>) -> Result<()> {
    if let Some(ids) = ids
        && has_numbers()?
    {
        forget_columns(ids)?;
    }
    spi::command(&format!(
        "DELETE FROM token_balance.binding AS b WHERE {} true",
        Ids::of_binding(ids, "b")
    ))
    .map(drop)
}

/// Whether the catalog's binding has a column: that of an older version, until it is updated, may
/// not.
fn has_column(name: &str) -> Result<bool> {
    let Some(table) = catalog::table_named("token_balance", "binding")? else {
        return Ok(true);
    };
    let columns = catalog::columns(table.oid)?;
    Ok(columns.iter().any(|column| column.name == name))
}

/// Whether the catalog has a place for numbers.
fn has_numbers() -> Result<bool> {
    Ok(catalog::table_named("token_balance", "bound_column")?.is_some())
}

/// SQL for the numbers of a binding's columns, with the names that these have now.
fn numbers_sql(binding: &str) -> String {
    format!(
        "(SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(c) OPERATOR(pg_catalog.||) \
         pg_catalog.jsonb_build_object('relation', c.relation::bigint, 'present', a.attname)) \
         FROM token_balance.bound_column AS c LEFT JOIN pg_catalog.pg_attribute AS a \
         ON a.attrelid OPERATOR(pg_catalog.=) c.relation AND a.attnum OPERATOR(pg_catalog.=) c.number \
         AND NOT a.attisdropped WHERE c.binding_id OPERATOR(pg_catalog.=) {binding}.binding_id)"
    )
}

/// As the extension's owner.
fn forget_columns(ids: Ids) -> Result<()> {
    spi::command(&format!(
        "DELETE FROM token_balance.bound_column AS c WHERE {} true",
        Ids::of_binding(Some(ids), "c")
    ))
    .map(drop)
}
