//! Tables of the DBA's to which rows of the extension's move: what they have to be, and how they are written.

use std::ffi::CStr;
use std::rc::Rc;

use pgrx::pg_sys;

use crate::binding::path_of;
use crate::error::{Error, Result};
use crate::postgres::catalog::{self, Table};
use crate::postgres::lock::{EXCLUSIVE, Object, SHARE, lock};
use crate::postgres::security::{self, RunAs};
use crate::postgres::value::Arg;

/// A table to archive to, locked as an INSERT locks it, so that it stays what was checked.
pub(crate) struct ArchiveTable {
    pub(crate) table: Table,
    /// The table whose rows move.
    of: &'static str,
    path: Rc<CStr>,
}

impl ArchiveTable {
    /// For rows of the table `of`, with each of its `columns`, by name and type.
    ///
    /// Errors: 42P01, 42809 and 42P16 for a table that cannot take the rows, 42501 for one that the caller does not own.
    pub(crate) fn locked(
        oid: pg_sys::Oid,
        of: &'static str,
        columns: impl Iterator<Item = (&'static str, pg_sys::Oid)>,
    ) -> Result<Self> {
        let is_own = || Ok(catalog::are_kin(oid, oid_of(of)?)?.then_some(OWN));
        let table = suitable(oid, of, is_own)?;
        let present = catalog::columns(oid)?;
        let mut flaws = columns.filter_map(|(name, type_oid)| flaw(&present, name, type_oid));
        if let Some(detail) = flaws.next() {
            return Err(Error::UnfitArchive {
                of: of.into(),
                relation: table.sql,
                detail,
            });
        }
        Ok(ArchiveTable {
            path: path_of(&table)?,
            of,
            table,
        })
    }

    /// Act as its owner, whose triggers must not get more rights than he has, nor leave work behind for the end of the
    /// transaction, when the caller's rights are back.
    pub(crate) fn run_as_owner(&self) -> RunAs {
        RunAs::restricted(self.table.owner, &self.path)
    }

    /// Error 27000 if it did not take, or give, all rows.
    pub(crate) fn all(&self, done: usize, given: usize) -> Result<()> {
        all(self.of, done, given, &self.table.sql)
    }
}

/// A table whose rows are to move, or a part of it.
pub(crate) const OWN: &str = "its own table";

/// A table that the caller may archive rows of the table `of` to, locked as an INSERT locks it. Which `kind` of table it is,
/// of those that would still show the rows, is asked when it is locked.
///
/// Errors: 42P01, 42809, 42501.
pub(crate) fn suitable(
    oid: pg_sys::Oid,
    of: &str,
    kind: impl FnOnce() -> Result<Option<&'static str>>,
) -> Result<Table> {
    // SAFETY: locks an OID; whether it is there is looked at afterwards.
    unsafe { pg_sys::LockRelationOid(oid, pg_sys::RowExclusiveLock as i32) };
    let table = catalog::table(oid)?.ok_or_else(|| Error::RelationMissing {
        what: "archive",
        name: oid.to_u32().to_string(),
    })?;
    let unsuitable = |kind: &str| {
        Err(Error::UnsuitableArchive {
            of: of.into(),
            relation: table.sql.clone(),
            kind: kind.into(),
        })
    };
    if let Some(kind) = table.unsupported_kind() {
        return unsuitable(kind);
    }
    if !table.is_logged() {
        return unsuitable("unlogged table");
    }
    if let Some(kind) = kind()? {
        return unsuitable(kind);
    }
    if !catalog::acts_for(security::current_user(), table.owner) {
        return Err(Error::NotArchiveOwner {
            relation: table.sql,
        });
    }
    Ok(table)
}

/// Error 27000 if a statement did not take all rows that it was given.
pub(crate) fn all(of: &'static str, done: usize, given: usize, relation: &str) -> Result<()> {
    if done == given {
        return Ok(());
    }
    Err(Error::ArchiveSuppressed {
        of: of.into(),
        relation: relation.to_owned(),
        missing: given.abs_diff(done),
    })
}

/// One of the extension's own tables.
fn oid_of(table: &str) -> Result<pg_sys::Oid> {
    let outcome = catalog::query(
        "SELECT $1::pg_catalog.regclass::pg_catalog.oid",
        &[Arg::Text(table)],
    )?;
    Ok(outcome
        .rows
        .first()
        .map_or(pg_sys::InvalidOid, |row| row.oid(0)))
}

/// What keeps a column of the archive from holding the rows' column `name`.
fn flaw(columns: &[catalog::Column], name: &str, type_oid: pg_sys::Oid) -> Option<String> {
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

const ARCHIVERS: Object = Object {
    space: 0x7465,
    key: 0,
};

/// Those who archive take turns, until the transaction ends.
pub(crate) fn take_turns() {
    lock(ARCHIVERS, EXCLUSIVE);
}

/// Wait for who archives, and keep others from it until the transaction ends: rows that they have found are going to leave,
/// or to come.
pub(crate) fn keep_archivers_out() {
    lock(ARCHIVERS, SHARE);
}
