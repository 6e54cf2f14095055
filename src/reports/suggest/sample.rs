//! Values of tables, few of each, read with no more rights than their owner's.
//!
//! The caller has the owner's rights (`tables.rs`), so to read as the owner is to lay rights down: what is in an index
//! runs when a table is read, and a superuser's would be everything. Only columns of the server's own types are read,
//! and enums by their output function: a cast from a type may be its owner's.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use super::tables::Seen;
use crate::attach::plausible::last_blocks;
use crate::error::Result;
use crate::postgres::catalog::{self, Column};
use crate::postgres::key::KeyType;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi::{self, Statement};
use crate::postgres::subtransaction::attempt;
use crate::postgres::value::{Arg, texts};

/// Rows that are read of a table.
const ROWS: usize = 1_000;
/// Different values of them that are looked for elsewhere.
const IDS: usize = 200;
/// Longer ones are no ids.
const LONGEST: usize = 200;
/// Blocks of a table that is read as a whole, where no index leads to a key.
const SCANNED: i64 = 1_000;
/// Rows of JSON.
const DOCUMENTS: usize = 50;
/// For all that is read. What it does not suffice for goes by names.
const LIMIT: Duration = Duration::from_secs(10);
/// For one lock.
const PATIENCE: Duration = Duration::from_millis(200);

/// How many of the sampled ids of one column are in another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Share {
    pub(super) found: usize,
    pub(super) of: usize,
}

impl Share {
    pub(super) fn ratio(self) -> f64 {
        self.found as f64 / self.of.max(1) as f64
    }
}

/// A table and the number of a column.
type Place = (u32, i16);

pub(super) struct Sample {
    started: Instant,
    /// Tables that could not be read.
    failed: RefCell<HashSet<u32>>,
    values: RefCell<HashMap<Place, Option<Vec<String>>>>,
    shares: RefCell<HashMap<(Place, Place), Option<Share>>>,
}

impl Sample {
    pub(super) fn start() -> Self {
        Sample {
            started: Instant::now(),
            failed: RefCell::default(),
            values: RefCell::default(),
            shares: RefCell::default(),
        }
    }

    /// None where it cannot be read, or there is no time left.
    fn read<T>(&self, seen: &Seen, read: impl FnOnce() -> Result<T>) -> Option<T> {
        let table = seen.table.oid.to_u32();
        let is_past_reading = seen.hides_rows || self.failed.borrow().contains(&table);
        if is_past_reading || self.started.elapsed() > LIMIT {
            return None;
        }
        pgrx::check_for_interrupts!();
        let found = attempt(seen.table.owner, PATIENCE, read);
        if found.is_none() {
            // Somebody has it locked, say: one wait is enough.
            self.failed.borrow_mut().insert(table);
        }
        found
    }

    /// Different ids in the newest rows, as text; None if they were not read.
    pub(super) fn ids(&self, seen: &Seen, column: &Column) -> Option<Vec<String>> {
        let at = place(seen, column);
        if let Some(known) = self.values.borrow().get(&at) {
            return known.clone();
        }
        let found = self.read(seen, || {
            let id = format!("u.{}::pg_catalog.text", column.sql());
            let sql = format!(
                "SELECT DISTINCT s.id FROM (SELECT {id} AS id FROM {table} AS u {blocks} LIMIT {ROWS}) AS s \
                 WHERE pg_catalog.octet_length(s.id) OPERATOR(pg_catalog.<=) {LONGEST} LIMIT {IDS}",
                table = seen.table.sql,
                blocks = last_blocks(&seen.table)?,
            );
            let outcome = spi::query_of(&[seen.table.oid], &sql, &[], Snapshot::Statement)?;
            let ids = texts(&outcome.rows, 0);
            // What says "none" to many applications.
            Ok(Vec::from_iter(ids.into_iter().filter(|id| !id.is_empty())))
        });
        self.values.borrow_mut().insert(at, found.clone());
        found
    }

    /// How many of one column's ids are in a key of another table, which an index is on. None where that is not known.
    pub(super) fn share(
        &self,
        (seen, column): (&Seen, &Column),
        (other, key): (&Seen, &Column),
    ) -> Option<Share> {
        let at = (place(seen, column), place(other, key));
        if let Some(known) = self.shares.borrow().get(&at) {
            return *known;
        }
        let share = self.measure((seen, column), (other, key));
        self.shares.borrow_mut().insert(at, share);
        share
    }

    fn measure(
        &self,
        (seen, column): (&Seen, &Column),
        (other, key): (&Seen, &Column),
    ) -> Option<Share> {
        let key_type = KeyType::of(key.base_type)?;

        let ids = self.ids(seen, column)?;
        let of = ids.len();
        let can_be: Vec<_> = ids.into_iter().filter(|id| can_be(id, key_type)).collect();
        if of == 0 {
            return None;
        }
        if can_be.is_empty() {
            return Some(Share { found: 0, of });
        }
        let is_indexed = other.indexed.contains(&key.name) && key.computed.is_none();
        let found = self.read(other, || {
            if !is_indexed && catalog::blocks(&other.table)? > SCANNED {
                return Ok(None);
            }
            let sql = format!(
                "SELECT pg_catalog.count(*) FROM pg_catalog.unnest($1) AS k (id) WHERE EXISTS \
                 (SELECT 1 FROM {} AS w WHERE w.{} OPERATOR(pg_catalog.=) k.id::{})",
                other.table.sql,
                key.sql(),
                key_type.sql()
            );
            let statement = Statement::new(&sql, &[pg_sys::TEXTARRAYOID]).of(&[other.table.oid]);
            let outcome = statement.run(&[Arg::TextArray(&can_be)], Snapshot::Statement)?;
            outcome.rows.first().map(|row| row.amount(0)).transpose()
        })??;
        Some(Share { found, of })
    }

    /// The statuses of the newest rows, with how often each was seen. None if they were not read.
    pub(super) fn statuses(&self, seen: &Seen, column: &Column) -> Option<BTreeMap<String, i64>> {
        let status = match column.is_enum {
            true => format!("pg_catalog.textin(pg_catalog.enum_out(u.{}))", column.sql()),
            false => format!("u.{}::pg_catalog.text", column.sql()),
        };
        self.read(seen, || {
            let sql = format!(
                "SELECT s.status, pg_catalog.count(*) FROM (SELECT {status} AS status FROM {table} AS u \
                 {blocks} LIMIT {ROWS}) AS s \
                 WHERE pg_catalog.octet_length(s.status) OPERATOR(pg_catalog.<=) 60 \
                 GROUP BY 1 ORDER BY 2 DESC LIMIT 20",
                table = seen.table.sql,
                blocks = last_blocks(&seen.table)?,
            );
            let outcome = spi::query_of(&[seen.table.oid], &sql, &[], Snapshot::Statement)?;
            let rows = outcome.rows.iter();
            rows.map(|row| Ok((row.text(0).to_owned(), row.amount(1)?)))
                .collect()
        })
    }

    /// Of the newest rows how many there are, and how many have more than 0 in one of these columns. None if they were not
    /// read.
    pub(super) fn counted(&self, seen: &Seen, columns: &[&Column]) -> Option<Share> {
        let has_tokens = |column: &&Column| {
            format!(
                "COALESCE(u.{} OPERATOR(pg_catalog.>) 0, false)",
                column.sql()
            )
        };
        let has_tokens: Vec<_> = columns.iter().map(has_tokens).collect();
        self.share_of(seen, &has_tokens.join(" OR "))
    }

    /// Of the newest rows how many there are, and how many have a value there. None if they were not read.
    pub(super) fn filled(&self, seen: &Seen, column: &Column) -> Option<Share> {
        self.share_of(seen, &format!("u.{} IS NOT NULL", column.sql()))
    }

    fn share_of(&self, seen: &Seen, condition: &str) -> Option<Share> {
        self.read(seen, || {
            let sql = format!(
                "SELECT pg_catalog.count(*) FILTER (WHERE s.is_so), pg_catalog.count(*) \
                 FROM (SELECT {condition} AS is_so FROM {table} AS u {blocks} LIMIT {ROWS}) AS s",
                table = seen.table.sql,
                blocks = last_blocks(&seen.table)?,
            );
            let outcome = spi::query_of(&[seen.table.oid], &sql, &[], Snapshot::Statement)?;
            let share = |row: &crate::postgres::value::Row| {
                Ok(Share {
                    found: row.amount(0)?,
                    of: row.amount(1)?,
                })
            };
            outcome.rows.first().map(share).transpose()
        })?
    }

    /// Whether there is a row at all; None if that is not known.
    pub(super) fn is_empty(&self, seen: &Seen) -> Option<bool> {
        self.read(seen, || {
            let sql = format!("SELECT 1 FROM {} AS u LIMIT 1", seen.table.sql);
            let outcome = spi::query_of(&[seen.table.oid], &sql, &[], Snapshot::Statement)?;
            Ok(outcome.rows.is_empty())
        })
    }

    /// Paths to numbers in a column's JSON documents, one or two keys deep.
    pub(super) fn numbers_in(&self, seen: &Seen, column: &Column) -> Option<Vec<Vec<String>>> {
        let kind = match column.base_type {
            pg_sys::JSONBOID => "jsonb",
            _ => "json",
        };
        let each = |value: &str, alias: &str| {
            format!(
                "pg_catalog.{kind}_each(CASE WHEN pg_catalog.{kind}_typeof({value}) OPERATOR(pg_catalog.=) 'object' \
                 THEN {value} END) AS {alias}"
            )
        };
        let is_number = |value: &str| {
            format!("pg_catalog.{kind}_typeof({value}) OPERATOR(pg_catalog.=) 'number'")
        };
        self.read(seen, || {
            let sql = format!(
                "SELECT DISTINCT p.one, p.two FROM (SELECT CASE WHEN pg_catalog.pg_column_size(u.{column}) \
                 OPERATOR(pg_catalog.<) 100000 THEN u.{column} END AS document FROM {table} AS u {blocks} \
                 LIMIT {DOCUMENTS}) AS s, LATERAL (SELECT a.key, NULL FROM {first} WHERE {first_is_number} \
                 UNION ALL SELECT a.key, b.key FROM {first}, {second} WHERE {second_is_number}) AS p (one, two) \
                 ORDER BY 1, 2 LIMIT 200",
                column = column.sql(),
                table = seen.table.sql,
                blocks = last_blocks(&seen.table)?,
                first = each("s.document", "a"),
                first_is_number = is_number("a.value"),
                second = each("a.value", "b"),
                second_is_number = is_number("b.value"),
            );
            let outcome = spi::query_of(&[seen.table.oid], &sql, &[], Snapshot::Statement)?;
            let path = |row: &crate::postgres::value::Row| {
                Vec::from_iter(row.owned(0).into_iter().chain(row.owned(1)))
            };
            Ok(outcome.rows.iter().map(path).collect())
        })
    }
}

fn place(seen: &Seen, column: &Column) -> Place {
    (seen.table.oid.to_u32(), column.number)
}

/// Whether a type's input function takes an id.
fn can_be(id: &str, key_type: KeyType) -> bool {
    match key_type {
        KeyType::Text | KeyType::Varchar => true,
        KeyType::Int2 => id.parse::<i16>().is_ok(),
        KeyType::Int4 => id.parse::<i32>().is_ok(),
        KeyType::Int8 => id.parse::<i64>().is_ok(),
        KeyType::Uuid => {
            let digits = id.chars().filter(char::is_ascii_hexdigit).count();
            id.len() == 36 && digits == 32 && id.chars().filter(|it| *it == '-').count() == 4
        }
    }
}
