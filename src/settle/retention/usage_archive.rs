//! Tables of the DBA's that take usage rows.

use pgrx::pg_sys;

use crate::binding::{Which, bindings_unlocked};
use crate::error::{Error, Result};
use crate::ledger::archive_table::{OWN, suitable};
use crate::postgres::catalog::{self, Table};

/// A table that takes what leaves another one.
pub(super) struct UsageArchive {
    pub(super) table: Table,
    /// The columns that are written, quoted.
    pub(super) columns: Vec<String>,
}

impl UsageArchive {
    /// For rows of the usage, locked as an INSERT locks it, so that it stays what was checked. The rows go over in the
    /// statement that takes them, as one role: the archive is that role's.
    ///
    /// Errors: 42P01, 42809 and 42P16 for a table that cannot take the rows, 42501 for one that is not the caller's, or not
    /// that of the usage's owner.
    pub(super) fn of(archive: pg_sys::Oid, usage: &Table) -> Result<Self> {
        let of = &usage.sql;
        let table = suitable(archive, of, || {
            if catalog::are_kin(archive, usage.oid)? {
                return Ok(Some(OWN));
            }
            let of_bindings = bindings_unlocked(Which::OfUsageRows(archive))?;
            Ok((!of_bindings.is_empty()).then_some("bound usage table"))
        })?;
        if table.owner != usage.owner {
            return Err(Error::ArchiveOfAnotherOwner {
                relation: table.sql,
                owner: catalog::role_name(table.owner),
                usage: of.clone(),
                usage_owner: catalog::role_name(usage.owner),
            });
        }
        let there = catalog::columns(archive)?;
        let mut columns = Vec::new();
        for column in catalog::columns(usage.oid)? {
            let fits = there.iter().find(|one| one.name == column.name);
            let detail = match fits {
                None => format!("It has no column {}.", column.sql()),
                // It computes it by itself.
                Some(one) if one.is_generated && column.is_generated => continue,
                Some(one) if one.is_generated => {
                    format!("Its column {} is a generated column.", column.sql())
                }
                Some(one)
                    if one.type_name != column.type_name
                        || one.type_modifier != column.type_modifier =>
                {
                    format!(
                        "Its column {} is of type {}, and not {}.",
                        column.sql(),
                        one.type_name,
                        column.type_name
                    )
                }
                Some(_) => {
                    columns.push(column.sql());
                    continue;
                }
            };
            return Err(Error::UnfitArchive {
                relation: table.sql,
                detail,
                of: of.clone(),
            });
        }
        Ok(UsageArchive { table, columns })
    }

    /// SQL for the rows `gone` to be kept, to stand after them in WITH; and for how many there are.
    pub(super) fn keep_sql(archive: Option<&Self>) -> (String, &'static str) {
        let Some(archive) = archive else {
            return (String::new(), "0");
        };
        let columns = archive.columns.join(", ");
        let kept = format!(
            ", kept AS (INSERT INTO {} ({columns}) OVERRIDING SYSTEM VALUE \
             SELECT {columns} FROM gone RETURNING 1)",
            archive.table.sql
        );
        (kept, "(SELECT pg_catalog.count(*) FROM kept)")
    }

    /// Error 27000 where an archive has not kept all rows that are gone from the table.
    pub(super) fn refuse_suppressed(
        archive: Option<&Self>,
        of: &Table,
        gone: usize,
        kept: usize,
    ) -> Result<()> {
        match archive {
            Some(archive) if gone != kept => Err(Error::ArchiveSuppressed {
                relation: archive.table.sql.clone(),
                of: of.sql.clone(),
                missing: gone.abs_diff(kept),
            }),
            _ => Ok(()),
        }
    }
}
