//! The tables below a usage view whose new and changed rows count at once: `late_usage_on`.

use pgrx::pg_sys;

use super::spec::{LateKey, Spec};
use crate::error::{Error, Result};
use crate::postgres::catalog::{self, Column, Table};
use crate::postgres::key::KeyType;
use crate::postgres::quote::quote_identifier;
use crate::postgres::value::Arg;
use crate::postgres::view::View;

/// A table, and how the view shows its rows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LateSource {
    pub(crate) table: Table,
    /// Its column whose values the view shows.
    pub(crate) key: Column,
    /// The view's column that has them.
    pub(crate) shown_as: Column,
    /// The type of that one.
    pub(crate) key_type: KeyType,
}

impl LateSource {
    /// Where it is, to be stored.
    pub(crate) fn known(&self) -> LateKey {
        LateKey {
            told: self.told(),
            relation: self.table.oid,
            number: self.key.number,
        }
    }

    /// As `attach` is told it, with the names of now.
    pub(crate) fn told(&self) -> String {
        let (key, shown_as) = (self.key.sql(), self.shown_as.sql());
        match key == shown_as {
            true => format!("{}({key})", self.table.sql),
            false => format!("{}({key} AS {shown_as})", self.table.sql),
        }
    }
}

/// Those that a spec names, as the stored numbers say where they are known. What is not right is for attach to say, and
/// for `verify`.
pub(super) fn found(spec: &Spec, usage: &Table, view: &View) -> Vec<LateSource> {
    let sources = spec.late_usage_on.iter();
    let sources =
        sources.filter_map(
            |told| match spec.late_keys.iter().find(|key| key.told == *told) {
                Some(known) => by_number(told, known, usage, view).ok().flatten(),
                None => find(told, usage, view, "late_usage_on").ok(),
            },
        );
    sources.collect()
}

/// The one that has been told so, whatever the names of table and column are by now.
fn by_number(
    told: &str,
    known: &LateKey,
    usage: &Table,
    view: &View,
) -> Result<Option<LateSource>> {
    let Some(table) = view.tables.iter().find(|table| table.oid == known.relation) else {
        return Ok(None);
    };
    let mut columns = catalog::columns(table.oid)?.into_iter();
    let Some(key) = columns.find(|column| column.number == known.number) else {
        return Ok(None);
    };
    let Ok((_, _, shown_as)) = parts(told) else {
        return Ok(None);
    };
    let shown_as = column(usage, shown_as, "late_usage_on")?;
    Ok(fitting(table, key, shown_as).ok())
}

/// What `schema.table(key)` names, or `schema.table(key AS column of the view)`, of what the view reads.
///
/// Errors: 22023 if it is not of that form, or not of the view's; 42703 for a column that is not there.
pub(super) fn find(
    told: &str,
    usage: &Table,
    view: &View,
    argument: &'static str,
) -> Result<LateSource> {
    let (table, key, shown_as) = parts(told).map_err(|detail| invalid(argument, told, detail))?;
    let oid = named(table)?;
    let Some(table) = view.tables.iter().find(|table| Some(table.oid) == oid) else {
        let detail = format!("View {} reads no such table.", usage.sql);
        return Err(invalid(argument, told, detail));
    };
    let (key, shown_as) = (
        column(table, key, argument)?,
        column(usage, shown_as, argument)?,
    );
    fitting(table, key, shown_as).map_err(|detail| invalid(argument, told, detail))
}

/// The table, its column, and that of the view.
/// Error: in words.
fn parts(told: &str) -> std::result::Result<(&str, &str, &str), String> {
    let parts = told
        .trim()
        .strip_suffix(')')
        .and_then(|it| it.rsplit_once('('));
    let Some((table, columns)) = parts else {
        return Err("It has no column in parentheses.".into());
    };
    let (key, shown_as) = match columns.split_once(" AS ").or(columns.split_once(" as ")) {
        Some((key, shown_as)) => (key, shown_as),
        None => (columns, columns),
    };
    Ok((table.trim(), key.trim(), shown_as.trim()))
}

fn column(of: &Table, name: &str, argument: &'static str) -> Result<Column> {
    let name = unquoted(name);
    let columns = catalog::columns(of.oid)?.into_iter();
    let mut named = columns.filter(|column| column.name == name);
    named.next().ok_or_else(|| Error::ColumnMissing {
        relation: of.sql.clone(),
        column: name.clone(),
        argument,
    })
}

/// Error: in words, that their types do not fit.
fn fitting(
    table: &Table,
    key: Column,
    shown_as: Column,
) -> std::result::Result<LateSource, String> {
    let types = KeyType::of(key.base_type).zip(KeyType::of(shown_as.base_type));
    match types {
        Some((of_table, key_type)) if of_table.matches(key_type) => Ok(LateSource {
            table: table.clone(),
            key,
            shown_as,
            key_type,
        }),
        None if key.type_name == shown_as.type_name => Err(format!(
            "Column {} of {} is of type {}, which no key has.",
            key.sql(),
            table.sql,
            key.type_name
        )),
        _ => Err(format!(
            "Column {} of {} is of type {}, and {} of the view of type {}.",
            key.sql(),
            table.sql,
            key.type_name,
            shown_as.sql(),
            shown_as.type_name
        )),
    }
}

fn invalid(argument: &str, told: &str, detail: String) -> Error {
    Error::InvalidArgument {
        message: format!("{argument} names {told}"),
        detail: Some(detail),
        hint: Some(
            "Name a table that the view reads, and its column that the view shows, as in app.messages(id); or \
             app.messages(id AS message_id) where the view shows it under another name."
                .into(),
        ),
    }
}

fn named(table: &str) -> Result<Option<pg_sys::Oid>> {
    let outcome = catalog::query(
        // Of more parts it would be of another database, or of none.
        "SELECT CASE WHEN pg_catalog.cardinality(pg_catalog.parse_ident($1)) OPERATOR(pg_catalog.<=) 2 \
         THEN pg_catalog.to_regclass($1)::pg_catalog.oid END",
        &[Arg::Text(table)],
    )?;
    let row = outcome.rows.first().filter(|row| row.get(0).is_some());
    Ok(row.map(|row| row.oid(0)))
}

/// The name that a word of SQL is: quoted, or in small letters.
fn unquoted(word: &str) -> String {
    match word
        .strip_prefix('"')
        .and_then(|word| word.strip_suffix('"'))
    {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None if quote_identifier(word) == word => word.to_owned(),
        None => word.to_lowercase(),
    }
}
