//! `token_balance.archive_ledger`: old ledger entries move to a table of the DBA's.
//!
//! Of each account the entries before a moment leave, and its last one of them stays as its opening
//! entry: the same id and time, no amount, no workflow and no reference. So the chain begins there.
//! What left is not forgotten: each settlement keeps the sum of its archived entries, by which
//! `reconcile` goes on checking it. References are no entries (`reference`): a retry is still answered as the
//! first time.
//!
//! A settlement meanwhile adds entries at the end of a chain, and only its beginning is moved: none
//! waits for the other but on one settlement row. Those rows are locked in the order in which
//! settlements lock them.

use std::cell::Cell;

use pgrx::pg_sys::{self, TimestampTz};

use super::archive_table::{ArchiveTable, all, take_turns};
use super::change::Kind;
use super::entries::COLUMNS;
use crate::binding::own;
use crate::error::Result;
use crate::postgres::catalog;
use crate::postgres::cursor::{Cursor, Life};
use crate::postgres::security::{self, RunAs};
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi;
use crate::postgres::value::{Arg, Row, texts};

/// Entries that are moved at a time: memory does not grow with the ledger.
const BATCH: usize = 1_000;

const LEDGER: &str = "token_balance.ledger";

/// What was archived.
pub(crate) struct Archived {
    pub(crate) archive: String,
    pub(crate) accounts: usize,
    pub(crate) entries: usize,
}

/// Move the entries before `before` to the table `archive`, in this transaction.
///
/// Errors: 42P01, 42809 and 42P16 for a table that cannot take
/// entries, 42501 for one that the caller does not own, 27000 where a trigger, rule or policy on it
/// keeps entries out, 40001 to be retried.
pub(crate) fn archive_ledger(before: TimestampTz, archive: pg_sys::Oid) -> Result<Archived> {
    archive_entries(before, archive, None)
}

/// The same of these accounts alone.
pub(crate) fn archive_accounts(
    before: TimestampTz,
    archive: pg_sys::Oid,
    accounts: &[Account],
) -> Result<Archived> {
    archive_entries(before, archive, Some(&Accounts::of(accounts)))
}

/// The table, if it can hold entries and the caller owns it.
pub(crate) fn archive_table(archive: pg_sys::Oid) -> Result<ArchiveTable> {
    let columns = COLUMNS.iter();
    let columns = columns.map(|column| (column.name, column.type_oid()));
    ArchiveTable::locked(archive, LEDGER, columns)
}

fn archive_entries(
    before: TimestampTz,
    archive: pg_sys::Oid,
    of: Option<&Accounts>,
) -> Result<Archived> {
    let owner = own::extension_owner()?;
    own::refuse_older_catalog()?;
    let archive = archive_table(archive)?;
    take_turns();
    let mut archived = Archived {
        archive: archive.table.sql.clone(),
        accounts: 0,
        entries: 0,
    };
    let note = format!("earlier entries are in {}", archive.table.sql);
    let actor = catalog::role_name(security::current_user());
    let mut args = vec![Arg::OptionalTimestamp(Some(before))];
    args.extend(of.into_iter().flat_map(Accounts::args));
    let leaving = Cursor::open(
        owner,
        &[],
        &leaving_sql(of.is_some()),
        &args,
        Snapshot::Statement,
        Life::Transaction,
    )?;
    loop {
        let rows = leaving.fetch(BATCH)?;
        if rows.is_empty() {
            break;
        }
        let batch = Batch {
            entries: rows.len(),
            openings: rows.iter().filter(|row| row.is_true(1)).count(),
            json: format!("[{}]", texts(&rows, 0).join(",")),
        };
        batch.write_to(&archive)?;
        let _owner = RunAs::owner(owner);
        batch.remember()?;
        batch.leave(&note, &actor)?;
        archived.accounts += batch.openings;
        archived.entries += batch.entries;
    }
    leaving.close()?;
    let _owner = RunAs::owner(owner);
    drop_earlier_openings(of)?;
    Ok(archived)
}

/// An account, and how many of its entries leave.
pub(crate) struct Account {
    accounts: i64,
    id: String,
    pub(crate) entries: usize,
}

impl Account {
    /// Of a row of [`leaving_accounts_sql`].
    pub(crate) fn of(row: &Row) -> Result<Self> {
        Ok(Account {
            accounts: row.amount(0)?,
            id: row.text(1).to_owned(),
            entries: row.amount(2)?,
        })
    }
}

/// Accounts, as parameters.
struct Accounts {
    accounts: Vec<i64>,
    ids: Vec<String>,
}

impl Accounts {
    fn of(all: &[Account]) -> Self {
        Accounts {
            accounts: all.iter().map(|account| account.accounts).collect(),
            ids: all.iter().map(|account| account.id.clone()).collect(),
        }
    }

    fn args(&self) -> [Arg<'_>; 2] {
        [
            Arg::Int8Array(self.accounts.clone()),
            Arg::TextArray(&self.ids),
        ]
    }
}

/// SQL for the accounts with entries before $1 that leave, and how many.
pub(crate) fn leaving_accounts_sql() -> String {
    format!(
        "SELECT e.accounts_id, e.user_id, pg_catalog.count(*) FROM {} WHERE {} \
         GROUP BY 1, 2 ORDER BY 1, e.user_id COLLATE pg_catalog.\"C\"",
        from_sql(false),
        leaves_sql()
    )
}

/// The entries that leave, each as JSON, and whether it is its account's last one that does. The
/// entries of an account leave up to its first one that is not older than $1, by their ids: the
/// clock may have gone back.
///
/// In the order of workflows and accounts in which settlements lock their rows.
fn leaving_sql(is_of_accounts: bool) -> String {
    let columns: Vec<_> = COLUMNS
        .iter()
        .map(|column| format!("e.{}", column.name))
        .collect();
    format!(
        "SELECT pg_catalog.row_to_json(m), m.is_last FROM (SELECT {columns}, \
         e.entry_id OPERATOR(pg_catalog.=) pg_catalog.max(e.entry_id) OVER (PARTITION BY e.accounts_id, e.user_id) \
         AS is_last FROM {from} WHERE {leaves}) AS m \
         ORDER BY m.workflow_id COLLATE pg_catalog.\"C\", m.user_id COLLATE pg_catalog.\"C\", \
         m.entry_id",
        columns = columns.join(", "),
        from = from_sql(is_of_accounts),
        leaves = leaves_sql(),
    )
}

/// Entries `e`, each with the first one of its account that `stays`; of the accounts $2 and $3 each is looked up.
fn from_sql(is_of_accounts: bool) -> &'static str {
    match is_of_accounts {
        true => {
            "ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3)) AS a (accounts_id, user_id) \
             CROSS JOIN LATERAL (SELECT pg_catalog.min(k.entry_id) AS entry_id \
             FROM token_balance.ledger AS k WHERE k.user_id OPERATOR(pg_catalog.=) a.user_id \
             AND k.accounts_id OPERATOR(pg_catalog.=) a.accounts_id \
             AND k.created_at OPERATOR(pg_catalog.>=) $1) AS stays \
             JOIN token_balance.ledger AS e ON e.user_id OPERATOR(pg_catalog.=) a.user_id \
             AND e.accounts_id OPERATOR(pg_catalog.=) a.accounts_id"
        }
        false => {
            "token_balance.ledger AS e \
             LEFT JOIN (SELECT k.accounts_id, k.user_id, pg_catalog.min(k.entry_id) AS entry_id \
             FROM token_balance.ledger AS k WHERE k.created_at OPERATOR(pg_catalog.>=) $1 GROUP BY 1, 2) \
             AS stays ON stays.user_id OPERATOR(pg_catalog.=) e.user_id \
             AND stays.accounts_id OPERATOR(pg_catalog.=) e.accounts_id"
        }
    }
}

/// SQL for "the entry `e` leaves".
fn leaves_sql() -> String {
    format!(
        "e.created_at OPERATOR(pg_catalog.<) $1 AND e.kind OPERATOR(pg_catalog.<>) {} \
         AND (stays.entry_id IS NULL OR e.entry_id OPERATOR(pg_catalog.<) stays.entry_id)",
        Kind::Opening.sql()
    )
}

/// Entries on their way.
struct Batch {
    entries: usize,
    /// How many of them stay as opening entries.
    openings: usize,
    json: String,
}

impl Batch {
    fn run(&self, sql: &str, more: &[&str]) -> Result<usize> {
        let mut args = vec![Arg::Text(&self.json)];
        args.extend(more.iter().map(|text| Arg::Text(text)));
        Ok(spi::query(sql, &args)?.processed as usize)
    }

    /// As the archive's owner.
    fn write_to(&self, archive: &ArchiveTable) -> Result<()> {
        let columns: Vec<_> = COLUMNS.iter().map(|column| column.name).collect();
        let _owner = archive.run_as_owner();
        let written = self.run(
            &format!(
                "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}",
                archive.table.sql,
                columns.join(", "),
                columns.join(", "),
                entries_sql(),
            ),
            &[],
        )?;
        archive.all(written, self.entries)
    }

    /// What the entries are still asked for when they are gone.
    fn remember(&self) -> Result<()> {
        let entries = entries_sql();
        let (is_charge, refund) = (Kind::is_charge_sql("e.kind"), Kind::Refund.sql());
        // A settlement whose account has another id by now is found by its workflow.
        self.run(
            &format!(
                "INSERT INTO token_balance.settlement AS s \
                 (workflow_id, user_id, binding_id, usage_tokens, archived_charged_tokens, \
                 archived_refunded_tokens) \
                 SELECT e.workflow_id, e.user_id, e.binding_id, 0, \
                 COALESCE(OPERATOR(pg_catalog.-) pg_catalog.sum(e.amount) \
                 FILTER (WHERE {is_charge}), 0), \
                 COALESCE(pg_catalog.sum(e.amount) \
                 FILTER (WHERE e.kind OPERATOR(pg_catalog.=) {refund}), 0) \
                 FROM {entries} WHERE e.workflow_id IS NOT NULL GROUP BY 1, 2, 3 \
                 ORDER BY e.workflow_id COLLATE pg_catalog.\"C\", e.user_id COLLATE pg_catalog.\"C\" \
                 ON CONFLICT (binding_id, workflow_id, user_id) DO UPDATE SET \
                 archived_charged_tokens = s.archived_charged_tokens \
                 OPERATOR(pg_catalog.+) EXCLUDED.archived_charged_tokens, \
                 archived_refunded_tokens = s.archived_refunded_tokens \
                 OPERATOR(pg_catalog.+) EXCLUDED.archived_refunded_tokens"
            ),
            &[],
        )?;
        Ok(())
    }

    /// Take them out of the ledger; the last one of an account stays as its opening entry.
    fn leave(&self, note: &str, actor: &str) -> Result<()> {
        let entries = entries_sql();
        let opening = Kind::Opening.sql();
        let _permission = Permission::give();
        let same = "l.accounts_id OPERATOR(pg_catalog.=) e.accounts_id \
                    AND l.user_id OPERATOR(pg_catalog.=) e.user_id \
                    AND l.entry_id OPERATOR(pg_catalog.=) e.entry_id";
        let opened = self.run(
            &format!(
                "UPDATE token_balance.ledger AS l SET kind = {opening}, amount = 0, \
                 previous_balance = l.new_balance, workflow_id = NULL, reference = NULL, \
                 note = $2, actor = $3 FROM {entries} WHERE e.is_last AND {same}"
            ),
            &[note, actor],
        )?;
        let deleted = self.run(
            &format!(
                "DELETE FROM token_balance.ledger AS l USING {entries} \
                 WHERE NOT e.is_last AND {same}"
            ),
            &[],
        )?;
        all(LEDGER, opened, self.openings, LEDGER)?;
        all(LEDGER, deleted, self.entries - self.openings, LEDGER)
    }
}

/// The entries of a batch ($1) as rows.
fn entries_sql() -> String {
    let columns: Vec<_> = COLUMNS
        .iter()
        .map(|column| format!("{} {}", column.name, column.type_sql()))
        .collect();
    format!(
        "pg_catalog.json_to_recordset($1::pg_catalog.json) AS e ({}, is_last boolean)",
        columns.join(", ")
    )
}

/// An account that was archived before has a later opening entry now.
fn drop_earlier_openings(of: Option<&Accounts>) -> Result<()> {
    let _permission = Permission::give();
    let opening = Kind::Opening.sql();
    let of_accounts = match of {
        Some(_) => {
            "USING ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS a (accounts_id, user_id) \
             WHERE o.user_id OPERATOR(pg_catalog.=) a.user_id \
             AND o.accounts_id OPERATOR(pg_catalog.=) a.accounts_id AND"
        }
        None => "WHERE",
    };
    let args: Vec<_> = of.into_iter().flat_map(Accounts::args).collect();
    spi::query(
        &format!(
            "DELETE FROM token_balance.ledger AS o {of_accounts} \
             o.kind OPERATOR(pg_catalog.=) {opening} \
             AND EXISTS (SELECT 1 FROM token_balance.ledger AS n \
             WHERE n.accounts_id OPERATOR(pg_catalog.=) o.accounts_id \
             AND n.user_id OPERATOR(pg_catalog.=) o.user_id \
             AND n.kind OPERATOR(pg_catalog.=) {opening} \
             AND n.entry_id OPERATOR(pg_catalog.>) o.entry_id)"
        ),
        &args,
    )?;
    Ok(())
}

thread_local! {
    static IS_PERMITTED: Cell<bool> = const { Cell::new(false) };
}

/// While this value lives, the ledger's guard lets this backend change entries. It lives during single
/// statements of this module and of `forget`, which touch nothing but the ledger.
pub(super) struct Permission;

impl Permission {
    pub(super) fn give() -> Self {
        IS_PERMITTED.set(true);
        Permission
    }
}

impl Drop for Permission {
    fn drop(&mut self) {
        IS_PERMITTED.set(false);
    }
}

/// Whether a change of the ledger is the archiver's, or a reset's.
pub(crate) fn may_change_ledger() -> bool {
    IS_PERMITTED.get()
}
