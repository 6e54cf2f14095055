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
use std::ffi::CStr;
use std::rc::Rc;

use pgrx::pg_sys::{self, TimestampTz};

use super::change::Kind;
use super::entries::COLUMNS;
use crate::binding::{own, path_of};
use crate::error::{Error, Result};
use crate::postgres::catalog::{self, Column, Table};
use crate::postgres::cursor::{Cursor, Life};
use crate::postgres::lock::{EXCLUSIVE, Object, lock};
use crate::postgres::security::{self, RunAs};
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi;
use crate::postgres::value::{Arg, texts};

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
    let owner = own::extension_owner()?;
    own::refuse_older_catalog()?;
    let archive = locked(archive)?;
    take_turns();
    let path = path_of(&archive)?;
    let mut archived = Archived {
        archive: archive.sql.clone(),
        accounts: 0,
        entries: 0,
    };
    let note = format!("earlier entries are in {}", archive.sql);
    let actor = catalog::role_name(security::current_user());
    let args = [Arg::OptionalTimestamp(Some(before))];
    let leaving = Cursor::open(
        owner,
        &[],
        &leaving_sql(),
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
        batch.write_to(&archive, &path)?;
        let _owner = RunAs::owner(owner);
        batch.remember()?;
        batch.leave(&note, &actor)?;
        archived.accounts += batch.openings;
        archived.entries += batch.entries;
    }
    leaving.close()?;
    let _owner = RunAs::owner(owner);
    drop_earlier_openings()?;
    Ok(archived)
}

/// The table to archive to, locked as an INSERT locks it, so that it stays what was checked.
fn locked(archive: pg_sys::Oid) -> Result<Table> {
    // SAFETY: locks an OID; whether it is there is looked at afterwards.
    unsafe { pg_sys::LockRelationOid(archive, pg_sys::RowExclusiveLock as i32) };
    let table = catalog::table(archive)?.ok_or_else(|| Error::RelationMissing {
        what: "archive",
        name: archive.to_u32().to_string(),
    })?;
    let unsuitable = |kind: &str| {
        Err(Error::UnsuitableArchive {
            relation: table.sql.clone(),
            kind: kind.into(),
            of: LEDGER.into(),
        })
    };
    if let Some(kind) = table.unsupported_kind() {
        return unsuitable(kind);
    }
    if !table.is_logged() {
        return unsuitable("unlogged table");
    }
    if is_of_ledger(archive)? {
        return unsuitable("the ledger's own table");
    }
    if !catalog::acts_for(security::current_user(), table.owner) {
        return Err(Error::NotArchiveOwner {
            relation: table.sql.clone(),
        });
    }
    let columns = catalog::columns(archive)?;
    match COLUMNS
        .iter()
        .find_map(|column| flaw(&columns, column.name, column.type_oid()))
    {
        Some(detail) => Err(Error::UnfitArchive {
            relation: table.sql,
            detail,
            of: LEDGER.into(),
        }),
        None => Ok(table),
    }
}

/// Whether it is the ledger, or a child of it, whose rows the ledger would still show.
fn is_of_ledger(archive: pg_sys::Oid) -> Result<bool> {
    catalog::exists(
        "SELECT 1 FROM pg_catalog.pg_class AS l \
         LEFT JOIN pg_catalog.pg_inherits AS i ON i.inhparent OPERATOR(pg_catalog.=) l.oid \
         AND i.inhrelid OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) \
         WHERE l.oid OPERATOR(pg_catalog.=) 'token_balance.ledger'::pg_catalog.regclass::pg_catalog.oid \
         AND (l.oid OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) OR i.inhrelid IS NOT NULL)",
        &[Arg::Int8(archive.to_u32().into())],
    )
}

/// What keeps a column of the archive from holding the entries' column `name`.
fn flaw(columns: &[Column], name: &str, type_oid: pg_sys::Oid) -> Option<String> {
    let Some(column) = columns.iter().find(|column| column.name == name) else {
        return Some(format!("It has no column \"{name}\"."));
    };
    if column.is_generated {
        return Some(format!("Its column \"{name}\" is a generated column."));
    }
    if column.base_type != type_oid {
        return Some(format!(
            "Its column \"{name}\" is of type {}.",
            column.type_name
        ));
    }
    None
}

/// Two archivers take turns, until the transaction ends.
fn take_turns() {
    let archivers = Object {
        space: 0x7465,
        key: 0,
    };
    lock(archivers, EXCLUSIVE);
}

/// The entries that leave, each as JSON, and whether it is its account's last one that does. The
/// entries of an account leave up to its first one that is not older than $1, by their ids: the
/// clock may have gone back.
///
/// In the order of workflows and accounts in which settlements lock their rows.
fn leaving_sql() -> String {
    let columns: Vec<_> = COLUMNS
        .iter()
        .map(|column| format!("e.{}", column.name))
        .collect();
    format!(
        "SELECT pg_catalog.row_to_json(m), m.is_last FROM (SELECT {columns}, \
         e.entry_id OPERATOR(pg_catalog.=) pg_catalog.max(e.entry_id) OVER (PARTITION BY e.accounts_id, e.user_id) \
         AS is_last \
         FROM token_balance.ledger AS e \
         LEFT JOIN (SELECT k.accounts_id, k.user_id, pg_catalog.min(k.entry_id) AS entry_id \
         FROM token_balance.ledger AS k WHERE k.created_at OPERATOR(pg_catalog.>=) $1 GROUP BY 1, 2) \
         AS stays ON stays.user_id OPERATOR(pg_catalog.=) e.user_id \
         AND stays.accounts_id OPERATOR(pg_catalog.=) e.accounts_id \
         WHERE e.created_at OPERATOR(pg_catalog.<) $1 \
         AND e.kind OPERATOR(pg_catalog.<>) {opening} \
         AND (stays.entry_id IS NULL OR e.entry_id OPERATOR(pg_catalog.<) stays.entry_id)) AS m \
         ORDER BY m.workflow_id COLLATE pg_catalog.\"C\", m.user_id COLLATE pg_catalog.\"C\", \
         m.entry_id",
        columns = columns.join(", "),
        opening = Kind::Opening.sql(),
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

    /// As the archive's owner, whose triggers must not get more rights than he has, nor leave work
    /// behind for the end of the transaction, when the caller's rights are back.
    fn write_to(&self, archive: &Table, path: &Rc<CStr>) -> Result<()> {
        let columns: Vec<_> = COLUMNS.iter().map(|column| column.name).collect();
        let _owner = RunAs::restricted(archive.owner, path);
        let written = self.run(
            &format!(
                "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}",
                archive.sql,
                columns.join(", "),
                columns.join(", "),
                entries_sql(),
            ),
            &[],
        )?;
        all(written, self.entries, &archive.sql)
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
        all(opened, self.openings, "token_balance.ledger")?;
        all(
            deleted,
            self.entries - self.openings,
            "token_balance.ledger",
        )
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

/// Error 27000 if a statement did not take all rows that it was given.
fn all(done: usize, given: usize, relation: &str) -> Result<()> {
    if done == given {
        return Ok(());
    }
    Err(Error::ArchiveSuppressed {
        relation: relation.to_owned(),
        of: LEDGER.into(),
        missing: given.abs_diff(done),
    })
}

/// An account that was archived before has a later opening entry now.
fn drop_earlier_openings() -> Result<()> {
    let _permission = Permission::give();
    let opening = Kind::Opening.sql();
    spi::command(&format!(
        "DELETE FROM token_balance.ledger AS o WHERE o.kind OPERATOR(pg_catalog.=) {opening} \
         AND EXISTS (SELECT 1 FROM token_balance.ledger AS n \
         WHERE n.accounts_id OPERATOR(pg_catalog.=) o.accounts_id \
         AND n.user_id OPERATOR(pg_catalog.=) o.user_id \
         AND n.kind OPERATOR(pg_catalog.=) {opening} \
         AND n.entry_id OPERATOR(pg_catalog.>) o.entry_id)"
    ))?;
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
