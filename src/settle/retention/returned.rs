//! Settlements that come back from an archive, for a refund.

use pgrx::pg_sys::{Oid, TEXTARRAYOID};

use super::settlements::archive_table;
use crate::binding::{Bound, Kept};
use crate::error::{Error, Result};
use crate::ledger::archive_table::ArchiveTable;
use crate::postgres::catalog;
use crate::postgres::security::current_user;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi::{self, Statement};
use crate::postgres::value::{Arg, texts};
use crate::settle::settlement::{bring_back_sql, json_sql};
use crate::settle::shares::OfBinding;

struct Statements {
    family: Statement,
}

impl Kept<Bound> for Statements {
    fn of(bound: &Bound) -> Self {
        Statements {
            family: Statement::new(
                &format!(
                    "SELECT k.id FROM pg_catalog.unnest($1) AS k (id) UNION SELECT i.workflow_id \
                     FROM token_balance.workflow_alias AS a JOIN token_balance.workflow_alias AS i \
                     ON i.binding_id OPERATOR(pg_catalog.=) a.binding_id \
                     AND i.family OPERATOR(pg_catalog.=) a.family \
                     WHERE {} a.workflow_id OPERATOR(pg_catalog.=) ANY ($1) ORDER BY 1",
                    bound.binding.own("a")
                ),
                &[TEXTARRAYOID],
            ),
        }
    }
}

/// The table, for settlements of these bindings to come back from: the caller owns it, and they were archived there. What
/// a table says is given back as money, so only a superuser may name another one.
///
/// Errors: as `archive_settlements`; 22023 for another table.
pub(crate) fn archive_of(of: &[OfBinding], archive: Oid) -> Result<ArchiveTable> {
    let archive = archive_table(archive)?;
    let archives = archives(of)?;
    match archives.contains(&archive.table.sql) || catalog::is_superuser(current_user()) {
        true => Ok(archive),
        false => Err(Error::NotArchivedThere {
            relation: archive.table.sql,
            archives,
        }),
    }
}

/// Where settlements of these bindings went; an empty name is of those that are gone for good.
pub(crate) fn archives(of: &[OfBinding]) -> Result<Vec<String>> {
    let numbers = of.iter().filter_map(|one| one.bound.binding.spec.ids);
    let numbers: Vec<_> = numbers.map(|ids| i64::from(ids.binding)).collect();
    let (Some(one), false) = (of.first(), numbers.is_empty()) else {
        return Ok(Vec::new());
    };
    let _owner = one.bound.run_as_extension();
    let outcome = spi::query_as_of(
        "SELECT DISTINCT a.archive FROM token_balance.archived AS a \
         WHERE a.kind OPERATOR(pg_catalog.=) 'settlement' \
         AND a.binding_id OPERATOR(pg_catalog.=) ANY ($1) ORDER BY 1",
        &[Arg::Int8Array(numbers)],
        Snapshot::Latest,
    )?;
    Ok(texts(&outcome.rows, 0))
}

/// These ids of a workflow, and all others that it has had: their settlements leave together, and come back so.
pub(crate) fn family(bound: &Bound, ids: &[String]) -> Result<Vec<String>> {
    let _owner = bound.run_as_extension();
    let outcome = bound
        .kept::<Statements>()
        .family
        .run(&[Arg::TextArray(ids)], Snapshot::Latest)?;
    Ok(texts(&outcome.rows, 0))
}

/// Settlements of the locked workflows come back from the archive, in which none of them stays.
pub(crate) fn bring_back(bound: &Bound, archive: &ArchiveTable, ids: &[String]) -> Result<()> {
    let args = [Arg::TextArray(ids)];
    let of_these = format!(
        "FROM {} AS s WHERE s.binding_id OPERATOR(pg_catalog.=) {} \
         AND s.workflow_id OPERATOR(pg_catalog.=) ANY ($1)",
        archive.table.sql,
        bound.binding.spec.number()
    );
    let (found, kept) = {
        let _owner = archive.run_as_owner();
        let delete = format!("DELETE {of_these} RETURNING {}", json_sql("s"));
        let found = spi::query_as_of(&delete, &args, Snapshot::Latest)?;
        let kept = spi::query_as_of(&format!("SELECT 1 {of_these}"), &args, Snapshot::Latest)?;
        (found.rows, kept.rows.len())
    };
    // What it gave and kept would come back again.
    archive.all(found.len(), found.len() + kept)?;
    if found.is_empty() {
        return Ok(());
    }
    let json = format!("[{}]", texts(&found, 0).join(","));
    let _owner = bound.run_as_extension();
    spi::query_as_of(&bring_back_sql(), &[Arg::Text(&json)], Snapshot::Latest).map(drop)
}
