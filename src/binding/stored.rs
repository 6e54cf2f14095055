//! The row of `token_balance.binding`, which keeps what `attach` was told.
//!
//! It is read and written by way of JSON: until `ALTER EXTENSION ... UPDATE` the library works on the
//! catalog of an older version, which has not all of its columns.

use pgrx::pg_sys;
use serde_json::{Map, Value};

use super::attach_arguments::changeable;
use super::own::extension_owner;
use super::spec::Spec;
use crate::error::{Error, Result};
use crate::postgres::catalog;
use crate::postgres::security::RunAs;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi;
use crate::postgres::value::Arg;

impl Spec {
    /// What is bound in this database, if anything is.
    pub(crate) fn load() -> Result<Option<Self>> {
        let _owner = RunAs::owner(extension_owner()?);
        // The names that regclass and regtype give depend on the search_path; their numbers do not.
        let outcome = spi::query_as_of(
            "SELECT pg_catalog.to_jsonb(b) OPERATOR(pg_catalog.||) pg_catalog.jsonb_build_object( \
             'users', b.users::pg_catalog.oid::bigint, \
             'usage', b.usage::pg_catalog.oid::bigint, \
             'workflows', b.workflows::pg_catalog.oid::bigint, \
             'balance_type', (pg_catalog.to_jsonb(b) OPERATOR(pg_catalog.->>) 'balance_type') \
             ::pg_catalog.regtype::pg_catalog.oid::bigint) FROM token_balance.binding AS b",
            &[],
            // With the catalogs', or an old snapshot would have it bound as it no longer is.
            Snapshot::Latest,
        )?;
        let Some(row) = outcome.rows.first() else {
            return Ok(None);
        };
        let row: Map<String, Value> =
            serde_json::from_str(row.text(0)).map_err(|error| Error::Spi {
                code: error.to_string(),
            })?;
        let mut spec = Spec::of_row(&row)?;
        spec.is_of_older_catalog = !row.contains_key("search_path");
        Ok(Some(spec))
    }

    /// Make it the binding of this database, in place of one that there was.
    pub(crate) fn store(&self, attached_by: pg_sys::Oid) -> Result<()> {
        let _owner = RunAs::owner(extension_owner()?);
        delete_rows()?;
        let attached_by = catalog::role_name(attached_by);
        spi::query(
            "INSERT INTO token_balance.binding SELECT r.* \
             FROM pg_catalog.jsonb_populate_record(NULL::token_balance.binding, \
             $1::pg_catalog.jsonb OPERATOR(pg_catalog.||) pg_catalog.jsonb_build_object( \
             'singleton', true, 'attached_by', $2, 'attached_at', pg_catalog.now())) AS r",
            &[Arg::Text(&self.row_text()), Arg::Text(&attached_by)],
        )
        .map(drop)
    }

    /// Give the binding that is there what it can be given anew: the options and the search_path.
    pub(crate) fn store_changes(&self) -> Result<()> {
        let mut changes = Vec::new();
        for name in changeable() {
            if has_column(name)? {
                changes.push(format!("{name} = r.{name}"));
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        let _owner = RunAs::owner(extension_owner()?);
        spi::query(
            &format!(
                "UPDATE token_balance.binding SET {} FROM pg_catalog.jsonb_populate_record( \
                 NULL::token_balance.binding, $1::pg_catalog.jsonb) AS r",
                changes.join(", ")
            ),
            &[Arg::Text(&self.row_text())],
        )
        .map(drop)
    }

    fn row_text(&self) -> String {
        Value::Object(self.to_row()).to_string()
    }

    /// Whether the catalog has a place for a search_path.
    pub(crate) fn has_search_path() -> Result<bool> {
        has_column("search_path")
    }

    pub(crate) fn forget() -> Result<()> {
        let _owner = RunAs::owner(extension_owner()?);
        delete_rows()
    }
}

fn delete_rows() -> Result<()> {
    spi::command("DELETE FROM token_balance.binding").map(drop)
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
