//! The tables that the caller could bind, as the catalogs have them.

use std::collections::HashMap;

use pgrx::pg_sys;

use crate::error::Result;
use crate::postgres::catalog::{self, Column, Table};
use crate::postgres::key::KeyType;

/// More are not looked at.
const MOST: usize = 2_000;

/// A table.
pub(super) struct Seen {
    pub(super) table: Table,
    /// Unquoted, without its schema.
    pub(super) name: String,
    pub(super) columns: Vec<Column>,
    /// Columns that are unique alone.
    pub(super) keys: Vec<String>,
    /// Columns that an index begins with.
    pub(super) indexed: Vec<String>,
    pub(super) references: Vec<Reference>,
    /// Whether policies hide rows from the caller: then its values are not read.
    pub(super) hides_rows: bool,
}

/// A foreign key of one column.
pub(super) struct Reference {
    pub(super) column: String,
    pub(super) table: pg_sys::Oid,
    pub(super) key: String,
}

impl Seen {
    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Columns that can hold ids.
    pub(super) fn ids(&self) -> impl Iterator<Item = (&Column, KeyType)> {
        self.columns
            .iter()
            .filter_map(|column| Some((column, KeyType::of(column.base_type)?)))
    }
}

/// All that is there.
pub(super) struct Schema {
    pub(super) tables: Vec<Seen>,
    /// Whether there are tables that the caller may not bind, since they are others'.
    pub(super) has_others: bool,
    /// Names of all tables, those that cannot be bound as well.
    pub(super) names: Vec<String>,
}

/// Ordinary and partitioned tables whose owner's rights the caller has, with SELECT: attach refuses others. Partitions,
/// what belongs to an extension, and foreign tables are not among them.
pub(super) fn schema() -> Result<Schema> {
    let found = catalog::query(
        "SELECT c.oid, c.relname, pg_catalog.has_schema_privilege(n.oid, 'USAGE') \
         AND pg_catalog.has_table_privilege(c.oid, 'SELECT') \
         AND pg_catalog.pg_has_role(c.relowner, 'USAGE'), pg_catalog.row_security_active(c.oid) \
         FROM pg_catalog.pg_class AS c \
         JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
         WHERE c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'p']::pg_catalog.\"char\"[]) \
         AND c.relpersistence OPERATOR(pg_catalog.<>) 't'::pg_catalog.\"char\" AND NOT c.relispartition \
         AND NOT pg_catalog.starts_with(n.nspname::pg_catalog.text, 'pg_') \
         AND n.nspname OPERATOR(pg_catalog.<>) ALL (ARRAY['information_schema', 'token_balance']::pg_catalog.name[]) \
         AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend AS d \
         WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid \
         AND d.objid OPERATOR(pg_catalog.=) c.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog.\"char\") \
         ORDER BY n.nspname, c.relname",
        &[],
    )?;
    let mut keys = by_table(
        "SELECT i.indrelid, a.attname FROM pg_catalog.pg_index AS i \
         JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid \
         AND a.attnum OPERATOR(pg_catalog.=) i.indkey[0] \
         WHERE i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL \
         AND i.indnkeyatts OPERATOR(pg_catalog.=) 1 ORDER BY NOT i.indisprimary, a.attnum",
    )?;
    let mut indexed = by_table(
        "SELECT i.indrelid, a.attname FROM pg_catalog.pg_index AS i \
         JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid \
         AND a.attnum OPERATOR(pg_catalog.=) i.indkey[0] \
         JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid \
         JOIN pg_catalog.pg_am AS m ON m.oid OPERATOR(pg_catalog.=) c.relam \
         WHERE i.indisvalid AND i.indpred IS NULL \
         AND m.amname OPERATOR(pg_catalog.=) ANY (ARRAY['btree', 'hash']::pg_catalog.name[])",
    )?;
    let mut references = references()?;
    let mut schema = Schema {
        tables: Vec::new(),
        has_others: false,
        names: Vec::new(),
    };
    for row in &found.rows {
        let (oid, name) = (row.oid(0), row.text(1).to_owned());
        schema.names.push(name.clone());
        if !row.is_true(2) {
            schema.has_others = true;
            continue;
        }
        if schema.tables.len() == MOST {
            continue;
        }
        // It may be gone by now.
        let Some(table) = catalog::table(oid)? else {
            continue;
        };
        schema.tables.push(Seen {
            table,
            name,
            columns: catalog::columns(oid)?,
            keys: keys.remove(&oid.to_u32()).unwrap_or_default(),
            indexed: indexed.remove(&oid.to_u32()).unwrap_or_default(),
            references: references.remove(&oid.to_u32()).unwrap_or_default(),
            hides_rows: row.is_true(3),
        });
    }
    Ok(schema)
}

fn by_table(sql: &str) -> Result<HashMap<u32, Vec<String>>> {
    let mut found: HashMap<u32, Vec<String>> = HashMap::new();
    for row in &catalog::query(sql, &[])?.rows {
        let of_table = found.entry(row.oid(0).to_u32()).or_default();
        let name = row.text(1).to_owned();
        if !of_table.contains(&name) {
            of_table.push(name);
        }
    }
    Ok(found)
}

fn references() -> Result<HashMap<u32, Vec<Reference>>> {
    let outcome = catalog::query(
        "SELECT c.conrelid, a.attname, c.confrelid, k.attname FROM pg_catalog.pg_constraint AS c \
         JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) c.conrelid \
         AND a.attnum OPERATOR(pg_catalog.=) c.conkey[1] \
         JOIN pg_catalog.pg_attribute AS k ON k.attrelid OPERATOR(pg_catalog.=) c.confrelid \
         AND k.attnum OPERATOR(pg_catalog.=) c.confkey[1] \
         WHERE c.contype OPERATOR(pg_catalog.=) 'f'::pg_catalog.\"char\" \
         AND pg_catalog.cardinality(c.conkey) OPERATOR(pg_catalog.=) 1 ORDER BY c.oid",
        &[],
    )?;
    let mut found: HashMap<u32, Vec<Reference>> = HashMap::new();
    for row in &outcome.rows {
        found
            .entry(row.oid(0).to_u32())
            .or_default()
            .push(Reference {
                column: row.text(1).to_owned(),
                table: row.oid(2),
                key: row.text(3).to_owned(),
            });
    }
    Ok(found)
}
