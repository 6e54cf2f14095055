//! What the system catalogs say about tables and columns.
//!
//! Catalogs are readable by everyone, so these run as the caller. Every operator, function and type
//! is named with its schema: the caller's search_path may be hostile.

use pgrx::pg_sys;

use super::quote::{QuotedWhereNeeded, quote_identifier, quote_qualified_identifier};
use super::security::{self, NOTHING_ELSE, RunAs};
use super::snapshot::Snapshot;
use super::spi::{self, Outcome};
use super::value::{Arg, Row};
use crate::error::{Error, Result};

/// As the catalogs are now: DDL is not held off by a transaction that keeps an old snapshot, and what
/// it has done holds for that one, too.
pub(crate) fn query(sql: &str, args: &[Arg]) -> Result<Outcome> {
    spi::query_as_of(sql, args, Snapshot::Latest)
}

/// The same, of a query that is run for table after table: its plan is kept.
pub(super) fn query_kept(sql: &str, args: &[Arg]) -> Result<Outcome> {
    spi::query_kept(sql, args, Snapshot::Latest)
}

/// A table, as the catalog has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Table {
    pub(crate) oid: pg_sys::Oid,
    /// `schema.name`, quoted, ready for SQL and for people.
    pub(crate) sql: String,
    /// Its schema's name, unquoted.
    pub(crate) schema: String,
    pub(crate) owner: pg_sys::Oid,
    /// Whether row-level policies apply, to all but its owner.
    pub(crate) has_policies: bool,
    kind: String,
    persistence: String,
}

impl Table {
    pub(crate) fn is_view(&self) -> bool {
        self.kind == "v" && self.persistence == "p"
    }

    /// Whether it is a composite type, which has no rows.
    pub(crate) fn is_type(&self) -> bool {
        self.kind == "c"
    }

    pub(crate) fn is_partitioned(&self) -> bool {
        self.kind == "p"
    }

    /// Whether its rows are another server's.
    pub(crate) fn is_foreign(&self) -> bool {
        self.kind == "f"
    }

    /// Whether its rows outlive a crash.
    pub(crate) fn is_logged(&self) -> bool {
        self.persistence == "p"
    }

    /// What stands in the way of binding it, in words; None for an ordinary or partitioned table.
    pub(crate) fn unsupported_kind(&self) -> Option<&'static str> {
        match (self.kind.as_str(), self.persistence.as_str()) {
            (_, "t") => Some("temporary table"),
            ("r" | "p", _) => None,
            ("v", _) => Some("view"),
            ("m", _) => Some("materialized view"),
            ("f", _) => Some("foreign table"),
            ("S", _) => Some("sequence"),
            ("i" | "I", _) => Some("index"),
            ("c", _) => Some("composite type"),
            _ => Some("relation"),
        }
    }
}

/// A column, as the catalog has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// Its number, which no rename changes.
    pub(crate) number: i16,
    /// Its type, or that of the domain's base.
    pub(crate) base_type: pg_sys::Oid,
    /// Its type in words.
    pub(crate) type_name: String,
    pub(crate) type_modifier: i32,
    pub(crate) is_enum: bool,
    pub(crate) is_generated: bool,
    /// GENERATED ALWAYS AS IDENTITY: no UPDATE may set it.
    pub(crate) is_always_identity: bool,
    pub(crate) is_not_null: bool,
    /// Of its own, or by its type, which may be a domain.
    pub(crate) has_default: bool,
    /// The name of its collation, if that is a nondeterministic one.
    pub(crate) loose_collation: Option<String>,
    /// What computes it, as an index takes it, if it is generated and not stored.
    pub(crate) computed: Option<String>,
}

impl Column {
    /// Its type in SQL, of a column that holds a time.
    pub(crate) fn time_type_sql(&self) -> &'static str {
        match self.base_type {
            pg_sys::TIMESTAMPTZOID => "timestamp with time zone",
            pg_sys::DATEOID => "pg_catalog.date",
            _ => "timestamp without time zone",
        }
    }

    /// Its quoted name.
    pub(crate) fn sql(&self) -> String {
        quote_identifier(&self.name)
    }

    /// As a key of an index. The server makes none on a column that is not stored.
    pub(crate) fn index_sql(&self) -> String {
        match &self.computed {
            Some(expression) => format!("({expression})"),
            None => self.sql(),
        }
    }
}

pub(crate) fn table(oid: pg_sys::Oid) -> Result<Option<Table>> {
    let one = "c.oid OPERATOR(pg_catalog.=) ($1::pg_catalog.oid)";
    Ok(tables(one, oid)?.into_iter().next())
}

/// The tables below a partitioned one, on each level.
pub(crate) fn partitions(table: pg_sys::Oid) -> Result<Vec<Table>> {
    let below = "c.oid OPERATOR(pg_catalog.=) ANY (SELECT p.relid::pg_catalog.oid \
                 FROM pg_catalog.pg_partition_tree($1::pg_catalog.oid::pg_catalog.regclass) AS p \
                 WHERE p.level OPERATOR(pg_catalog.>) 0)";
    tables(below, table)
}

/// The tables `c` for which the condition on $1 holds.
fn tables(condition: &str, of: pg_sys::Oid) -> Result<Vec<Table>> {
    let outcome = query_kept(
        &format!(
            "SELECT c.oid, n.nspname, c.relname, c.relowner, c.relkind, c.relpersistence, \
             c.relrowsecurity \
             FROM pg_catalog.pg_class AS c \
             JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
             WHERE {condition} ORDER BY c.oid"
        ),
        &[Arg::Int8(of.to_u32().into())],
    )?;
    let table = |row: &Row| Table {
        oid: row.oid(0),
        sql: quote_qualified_identifier(row.text(1), row.text(2)),
        schema: row.text(1).into(),
        owner: row.oid(3),
        kind: row.text(4).into(),
        persistence: row.text(5).into(),
        has_policies: row.is_true(6),
    };
    Ok(outcome.rows.iter().map(table).collect())
}

/// Whether it has a row now, whatever the transaction's snapshot and whoever asks.
pub(crate) fn has_rows(table: &Table) -> Result<bool> {
    let _owner = RunAs::owner(table.owner);
    let sql = format!("SELECT 1 FROM {} AS t LIMIT 1", table.sql);
    let outcome = spi::query_as_of(&sql, &[], Snapshot::Latest)?;
    Ok(!outcome.rows.is_empty())
}

/// How many blocks it has, with those of its partitions.
pub(crate) fn blocks(table: &Table) -> Result<i64> {
    let outcome = query(
        "SELECT COALESCE((SELECT pg_catalog.sum(pg_catalog.pg_relation_size(p.relid)) \
         FROM pg_catalog.pg_partition_tree(($1::pg_catalog.oid)::pg_catalog.regclass) AS p), \
         pg_catalog.pg_relation_size(($1::pg_catalog.oid)::pg_catalog.regclass))::bigint \
         OPERATOR(pg_catalog./) pg_catalog.current_setting('block_size')::bigint",
        &[Arg::Int8(table.oid.to_u32().into())],
    )?;
    outcome.rows.first().map_or(Ok(0), |row| row.amount(0))
}

/// The table `name` in `schema`, whatever the search_path.
pub(crate) fn table_named(schema: &str, name: &str) -> Result<Option<Table>> {
    let outcome = query_kept(
        "SELECT c.oid FROM pg_catalog.pg_class AS c \
         JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
         WHERE n.nspname OPERATOR(pg_catalog.=) $1::pg_catalog.name \
         AND c.relname OPERATOR(pg_catalog.=) $2::pg_catalog.name",
        &[Arg::Text(schema), Arg::Text(name)],
    )?;
    match outcome.rows.first() {
        Some(row) => table(row.oid(0)),
        None => Ok(None),
    }
}

/// Whether a relation has this name, quoted and with its schema.
pub(crate) fn is_taken(name: &str) -> Result<bool> {
    let _names = QuotedWhereNeeded::start();
    exists(
        "SELECT 1 FROM pg_catalog.pg_class AS c \
         JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
         WHERE pg_catalog.format('%I.%I', n.nspname, c.relname) OPERATOR(pg_catalog.=) $1",
        &[Arg::Text(name)],
    )
}

/// In the table's order.
pub(crate) fn columns(relation: pg_sys::Oid) -> Result<Vec<Column>> {
    let outcome = query_kept(
        "SELECT a.attname, a.atttypid, pg_catalog.format_type(a.atttypid, a.atttypmod), \
         a.atttypmod, t.typtype OPERATOR(pg_catalog.=) 'e'::pg_catalog.\"char\", \
         a.attgenerated OPERATOR(pg_catalog.<>) ''::pg_catalog.\"char\", \
         a.attnotnull, \
         a.atthasdef OR t.typdefault IS NOT NULL, \
         CASE WHEN NOT c.collisdeterministic THEN c.collname END, \
         CASE WHEN a.attgenerated OPERATOR(pg_catalog.=) 'v'::pg_catalog.\"char\" \
         THEN pg_catalog.format(CASE WHEN a.atttypmod OPERATOR(pg_catalog.>) 0 \
         AND a.atttypid OPERATOR(pg_catalog.=) \
         'pg_catalog.varchar'::pg_catalog.regtype::pg_catalog.oid \
         THEN 'pg_catalog.\"varchar\"((%1$s)::pg_catalog.varchar, %3$s, false)%4$s' \
         ELSE '(%1$s)::%2$s%4$s' END, \
         pg_catalog.pg_get_expr(d.adbin, d.adrelid), \
         pg_catalog.format_type(a.atttypid, a.atttypmod), a.atttypmod, \
         CASE WHEN a.attcollation OPERATOR(pg_catalog.<>) t.typcollation \
         THEN pg_catalog.format(' COLLATE %I.%I', n.nspname, c.collname) END) END, a.attnum, \
         a.attidentity OPERATOR(pg_catalog.=) 'a'::pg_catalog.\"char\" \
         FROM pg_catalog.pg_attribute AS a \
         JOIN pg_catalog.pg_type AS t ON t.oid OPERATOR(pg_catalog.=) a.atttypid \
         LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid OPERATOR(pg_catalog.=) a.attrelid \
         AND d.adnum OPERATOR(pg_catalog.=) a.attnum \
         LEFT JOIN pg_catalog.pg_collation AS c \
         ON c.oid OPERATOR(pg_catalog.=) a.attcollation \
         LEFT JOIN pg_catalog.pg_namespace AS n \
         ON n.oid OPERATOR(pg_catalog.=) c.collnamespace \
         WHERE a.attrelid OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) \
         AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped ORDER BY a.attnum",
        &[Arg::Int8(relation.to_u32().into())],
    )?;
    Ok(outcome
        .rows
        .iter()
        .map(|row| Column {
            name: row.text(0).into(),
            number: row.number(10).unwrap_or(0),
            // SAFETY: a syscache lookup of a type that exists.
            base_type: unsafe { pg_sys::getBaseType(row.oid(1)) },
            type_name: row.text(2).into(),
            type_modifier: row.number(3).unwrap_or(-1),
            is_enum: row.is_true(4),
            is_generated: row.is_true(5),
            is_always_identity: row.is_true(11),
            is_not_null: row.is_true(6),
            has_default: row.is_true(7),
            loose_collation: row.get(8).map(str::to_owned),
            computed: row.get(9).map(str::to_owned),
        })
        .collect())
}

/// What the CHECK constraints want in which a column is, and those of its domain.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Checks {
    /// All of it in SQL, of a row that has the columns. What is not the server's own is named with its schema, whatever
    /// search_path it runs with.
    pub(crate) sql: String,
    /// The names of the other columns that are in it.
    pub(crate) others: Vec<String>,
    /// The column's domain, and those that it is made of.
    pub(crate) domains: Vec<pg_sys::Oid>,
}

/// None if there are none that count, nor a domain that may get some.
pub(crate) fn checks_on(relation: pg_sys::Oid, column: &Column) -> Result<Option<Checks>> {
    let (name, column) = (column.sql(), column.number);
    let _path = RunAs::as_before(security::current_user(), &Some(NOTHING_ELSE.into()));
    // Since 18 there are some that nobody enforces. One of whole rows is of column 0. A generated column would have another
    // value.
    let outcome = query(
        "SELECT pg_catalog.pg_get_expr(c.conbin, c.conrelid), pg_catalog.to_jsonb(ARRAY(SELECT a.attname \
         FROM pg_catalog.pg_attribute AS a WHERE a.attrelid OPERATOR(pg_catalog.=) c.conrelid \
         AND a.attnum OPERATOR(pg_catalog.=) ANY (c.conkey) \
         AND a.attnum OPERATOR(pg_catalog.<>) $2::smallint ORDER BY a.attnum)) \
         FROM pg_catalog.pg_constraint AS c \
         WHERE c.conrelid OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) \
         AND c.contype OPERATOR(pg_catalog.=) 'c'::pg_catalog.\"char\" \
         AND $2::smallint OPERATOR(pg_catalog.=) ANY (c.conkey) \
         AND 0 OPERATOR(pg_catalog.<) ALL (c.conkey) \
         AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_attribute AS g \
         WHERE g.attrelid OPERATOR(pg_catalog.=) c.conrelid \
         AND g.attnum OPERATOR(pg_catalog.=) ANY (c.conkey) \
         AND g.attgenerated OPERATOR(pg_catalog.<>) ''::pg_catalog.\"char\") \
         AND COALESCE(pg_catalog.to_jsonb(c) OPERATOR(pg_catalog.->>) 'conenforced', 'true') \
         OPERATOR(pg_catalog.=) 'true' ORDER BY c.conname",
        &[
            Arg::Int8(relation.to_u32().into()),
            Arg::Int8(column.into()),
        ],
    )?;
    let domains = domains_of(relation, column)?;
    if outcome.rows.is_empty() && domains.is_empty() {
        return Ok(None);
    }
    let of_table = outcome.rows.iter().map(|row| format!("({})", row.text(0)));
    // As the domain calls it: VALUE.
    let of_domain = domain_checks(&domains)?.into_iter();
    let of_domain = of_domain.map(|check| {
        format!(
            "(SELECT {} FROM (SELECT c.{name} AS value) AS d)",
            check.sql
        )
    });
    let checks: Vec<_> = of_table
        .chain(of_domain)
        .chain(["true".to_owned()])
        .collect();
    let mut others: Vec<String> = Vec::new();
    for row in &outcome.rows {
        let names: Vec<String> = serde_json::from_str(row.text(1)).map_err(|error| Error::Spi {
            code: error.to_string(),
        })?;
        others.extend(names);
    }
    others.sort_unstable();
    others.dedup();
    Ok(Some(Checks {
        sql: checks.join(" AND "),
        others,
        domains,
    }))
}

/// The domain of a column, and those that it is made of; none if it is of another type.
fn domains_of(relation: pg_sys::Oid, column: i16) -> Result<Vec<pg_sys::Oid>> {
    let outcome = query(
        "WITH RECURSIVE d AS (SELECT t.oid, t.typbasetype FROM pg_catalog.pg_attribute AS a \
         JOIN pg_catalog.pg_type AS t ON t.oid OPERATOR(pg_catalog.=) a.atttypid \
         AND t.typtype OPERATOR(pg_catalog.=) 'd'::pg_catalog.\"char\" \
         WHERE a.attrelid OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) \
         AND a.attnum OPERATOR(pg_catalog.=) $2::smallint \
         UNION ALL SELECT t.oid, t.typbasetype FROM d JOIN pg_catalog.pg_type AS t \
         ON t.oid OPERATOR(pg_catalog.=) d.typbasetype AND t.typtype OPERATOR(pg_catalog.=) 'd'::pg_catalog.\"char\") \
         SELECT d.oid FROM d",
        &[
            Arg::Int8(relation.to_u32().into()),
            Arg::Int8(column.into()),
        ],
    )?;
    Ok(outcome.rows.iter().map(|row| row.oid(0)).collect())
}

/// A CHECK constraint of a domain.
struct DomainCheck {
    name: String,
    /// Of VALUE.
    sql: String,
}

/// Those of the domains themselves.
fn domain_checks(domains: &[pg_sys::Oid]) -> Result<Vec<DomainCheck>> {
    let outcome = query(
        "SELECT c.conname, pg_catalog.pg_get_expr(c.conbin, 0) FROM pg_catalog.pg_constraint AS c \
         WHERE c.contypid OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.oid[]) \
         AND c.contype OPERATOR(pg_catalog.=) 'c'::pg_catalog.\"char\" ORDER BY c.conname",
        &[Arg::Int8Array(
            domains.iter().map(|oid| oid.to_u32().into()).collect(),
        )],
    )?;
    let checks = outcome.rows.iter();
    let checks = checks.map(|row| DomainCheck {
        name: row.text(0).into(),
        sql: row.text(1).into(),
    });
    Ok(checks.collect())
}

/// The names of the CHECK constraints of a column's domain, and what they say of a value, in SQL.
pub(crate) fn domain_checks_of(
    relation: pg_sys::Oid,
    column: i16,
    value: &str,
) -> Result<(Vec<String>, String)> {
    let _path = RunAs::as_before(security::current_user(), &Some(NOTHING_ELSE.into()));
    let checks = domain_checks(&domains_of(relation, column)?)?;
    let sql = checks.iter().map(|check| format!("({})", check.sql));
    let sql = sql
        .chain(["true".to_owned()])
        .collect::<Vec<_>>()
        .join(" AND ");
    Ok((
        checks.into_iter().map(|check| check.name).collect(),
        format!("(SELECT {sql} FROM (SELECT {value} AS value) AS d)"),
    ))
}

/// The names of the CHECK constraints in which the column is.
pub(crate) fn check_names(relation: pg_sys::Oid, column: i16) -> Result<Vec<String>> {
    let outcome = query(
        "SELECT c.conname FROM pg_catalog.pg_constraint AS c \
         WHERE c.conrelid OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) \
         AND c.contype OPERATOR(pg_catalog.=) 'c'::pg_catalog.\"char\" \
         AND $2::smallint OPERATOR(pg_catalog.=) ANY (c.conkey) ORDER BY c.conname",
        &[
            Arg::Int8(relation.to_u32().into()),
            Arg::Int8(column.into()),
        ],
    )?;
    Ok(outcome.rows.iter().map(|row| row.text(0).into()).collect())
}

/// Whether `column` alone is unique in the table, at every moment.
pub(crate) fn is_unique(relation: pg_sys::Oid, column: &str) -> Result<bool> {
    exists(
        "SELECT 1 FROM pg_catalog.pg_index AS i \
         JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid \
         AND a.attnum OPERATOR(pg_catalog.=) i.indkey[0] \
         WHERE i.indrelid OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) \
         AND a.attname OPERATOR(pg_catalog.=) $2::pg_catalog.name \
         AND i.indisunique AND i.indimmediate AND i.indisvalid \
         AND i.indnkeyatts OPERATOR(pg_catalog.=) 1 AND i.indpred IS NULL",
        &[Arg::Int8(relation.to_u32().into()), Arg::Text(column)],
    )
}

/// Whether an UPDATE of `key` alone sets `column` of the other table along with it: a foreign key with ON UPDATE CASCADE.
pub(crate) fn cascades_to(
    table: pg_sys::Oid,
    key: &str,
    other: pg_sys::Oid,
    column: &str,
) -> Result<bool> {
    exists(
        "SELECT 1 FROM pg_catalog.pg_constraint AS c \
         JOIN pg_catalog.pg_attribute AS k ON k.attrelid OPERATOR(pg_catalog.=) c.confrelid \
         AND k.attnum OPERATOR(pg_catalog.=) c.confkey[1] \
         JOIN pg_catalog.pg_attribute AS r ON r.attrelid OPERATOR(pg_catalog.=) c.conrelid \
         AND r.attnum OPERATOR(pg_catalog.=) c.conkey[1] \
         WHERE c.contype OPERATOR(pg_catalog.=) 'f'::pg_catalog.\"char\" \
         AND c.confupdtype OPERATOR(pg_catalog.=) 'c'::pg_catalog.\"char\" \
         AND pg_catalog.cardinality(c.conkey) OPERATOR(pg_catalog.=) 1 \
         AND c.confrelid OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) \
         AND k.attname OPERATOR(pg_catalog.=) $2::pg_catalog.name \
         AND c.conrelid OPERATOR(pg_catalog.=) ($3::pg_catalog.oid) \
         AND r.attname OPERATOR(pg_catalog.=) $4::pg_catalog.name",
        &[
            Arg::Int8(table.to_u32().into()),
            Arg::Text(key),
            Arg::Int8(other.to_u32().into()),
            Arg::Text(column),
        ],
    )
}

/// Whether an index begins with `column`, so that one workflow's usage is found without a scan.
pub(crate) fn has_index_on(table: &Table, column: &Column) -> Result<bool> {
    match column.computed {
        None => has_index_on_stored(table.oid, &column.name),
        Some(_) => has_index_on_computed(table, column),
    }
}

/// Which expressions serve for a column that is not stored, the planner knows.
fn has_index_on_computed(table: &Table, column: &Column) -> Result<bool> {
    let _owner = RunAs::owner(table.owner);
    let plan = spi::plan_without_scans(&format!(
        "SELECT 1 FROM {} AS u WHERE u.{} OPERATOR(pg_catalog.=) (SELECT NULL::{})",
        table.sql,
        column.sql(),
        column.type_name
    ))?;
    let has = |what| plan.iter().any(|line| line.trim_start().starts_with(what));
    let scans = plan.iter().any(|line| line.contains("Seq Scan on "));
    Ok(has("Index Cond:") && !scans)
}

fn has_index_on_stored(relation: pg_sys::Oid, column: &str) -> Result<bool> {
    exists(
        "SELECT 1 FROM pg_catalog.pg_index AS i \
         JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid \
         AND a.attnum OPERATOR(pg_catalog.=) i.indkey[0] \
         JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid \
         JOIN pg_catalog.pg_am AS m ON m.oid OPERATOR(pg_catalog.=) c.relam \
         WHERE i.indrelid OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) \
         AND a.attname OPERATOR(pg_catalog.=) $2::pg_catalog.name \
         AND i.indisvalid AND i.indpred IS NULL \
         AND m.amname OPERATOR(pg_catalog.=) ANY (ARRAY['btree', 'hash']::pg_catalog.name[])",
        &[Arg::Int8(relation.to_u32().into()), Arg::Text(column)],
    )
}

/// Whether one is the other, or shows its rows: a partition or an inheritance child, at whatever level.
pub(crate) fn are_kin(one: pg_sys::Oid, other: pg_sys::Oid) -> Result<bool> {
    let oids = [one, other].map(|oid| Arg::Int8(oid.to_u32().into()));
    Ok(one == other
        || exists(
            "WITH RECURSIVE below (top, oid) AS (\
             SELECT i.inhparent, i.inhrelid FROM pg_catalog.pg_inherits AS i \
             WHERE i.inhparent OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) \
             OR i.inhparent OPERATOR(pg_catalog.=) ($2::pg_catalog.oid) \
             UNION SELECT b.top, i.inhrelid FROM below AS b \
             JOIN pg_catalog.pg_inherits AS i ON i.inhparent OPERATOR(pg_catalog.=) b.oid) \
             SELECT 1 FROM below AS b WHERE b.oid OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) \
             OR b.oid OPERATOR(pg_catalog.=) ($2::pg_catalog.oid)",
            &oids,
        )?)
}

/// The tables that `relation` is a partition of, itself included.
pub(crate) fn partition_ancestors(relation: pg_sys::Oid) -> Result<Vec<pg_sys::Oid>> {
    let outcome = query(
        "SELECT a.relid::pg_catalog.oid FROM \
         pg_catalog.pg_partition_ancestors($1::pg_catalog.oid::pg_catalog.regclass) AS a(relid)",
        &[Arg::Int8(relation.to_u32().into())],
    )?;
    Ok(outcome.rows.iter().map(|row| row.oid(0)).collect())
}

/// The labels of an enum type, in order.
pub(crate) fn enum_labels(type_oid: pg_sys::Oid) -> Result<Vec<String>> {
    let outcome = query(
        "SELECT e.enumlabel FROM pg_catalog.pg_enum AS e \
         WHERE e.enumtypid OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) ORDER BY e.enumsortorder",
        &[Arg::Int8(type_oid.to_u32().into())],
    )?;
    Ok(outcome
        .rows
        .iter()
        .map(|row| row.text(0).to_owned())
        .collect())
}

/// Whether `role` may SELECT from the table, its schema included.
pub(crate) fn can_read(role: pg_sys::Oid, relation: pg_sys::Oid) -> Result<bool> {
    exists(
        "SELECT 1 FROM pg_catalog.pg_class AS c \
         WHERE c.oid OPERATOR(pg_catalog.=) ($2::pg_catalog.oid) \
         AND pg_catalog.has_schema_privilege($1::pg_catalog.oid, c.relnamespace, 'USAGE') \
         AND pg_catalog.has_table_privilege($1::pg_catalog.oid, c.oid, 'SELECT')",
        &[
            Arg::Int8(role.to_u32().into()),
            Arg::Int8(relation.to_u32().into()),
        ],
    )
}

/// Whether `role` has the rights of `owner`; a superuser has everybody's.
pub(crate) fn acts_for(role: pg_sys::Oid, owner: pg_sys::Oid) -> bool {
    // SAFETY: syscache lookups.
    unsafe { pg_sys::has_privs_of_role(role, owner) }
}

/// Whether no policy of the table hides rows from the role, where its owner's statements see them all (`check_enable_rls`).
pub(crate) fn sees_all_rows(role: pg_sys::Oid, table: &Table) -> bool {
    // SAFETY: a syscache lookup.
    acts_for(role, table.owner) || unsafe { pg_sys::has_bypassrls_privilege(role) }
}

pub(crate) fn is_superuser(role: pg_sys::Oid) -> bool {
    // SAFETY: a syscache lookup.
    unsafe { pg_sys::superuser_arg(role) }
}

/// Whether `role` may SELECT from the table, whatever it may in its schema.
pub(crate) fn may_select(role: pg_sys::Oid, relation: pg_sys::Oid) -> bool {
    // SAFETY: a syscache lookup; a table that is gone would be an error, which pgrx raises as the server does.
    let found =
        unsafe { pg_sys::pg_class_aclcheck(relation, role, pg_sys::ACL_SELECT as pg_sys::AclMode) };
    found == pg_sys::AclResult::ACLCHECK_OK
}

/// The name of a role, unquoted.
pub(crate) fn role_name(role: pg_sys::Oid) -> String {
    // SAFETY: with `true`, a role that does not exist gives null instead of an error; else the
    // string is palloc'd.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        if name.is_null() {
            return role.to_u32().to_string();
        }
        std::ffi::CStr::from_ptr(name)
            .to_string_lossy()
            .into_owned()
    }
}

pub(crate) fn exists(sql: &str, args: &[Arg]) -> Result<bool> {
    Ok(!query(sql, args)?.rows.is_empty())
}
