//! `token_balance.archive`: usage, the ledger and settlements leave by one policy, a batch a transaction.

use pgrx::PgLogLevel;
use pgrx::pg_sys::{self, TimestampTz};

use super::usage::{self, Request};
use super::{entries, settlements};
use crate::binding::{Which, bindings_unlocked, own};
use crate::error::{Error, Result};
use crate::ledger::archive;
use crate::postgres::commit::MayCommit;
use crate::postgres::notice::notice;

/// What leaves, and where it goes.
pub(crate) struct Policy {
    pub(crate) before: TimestampTz,
    /// Without one usage goes for good.
    pub(crate) usage: Option<pg_sys::Oid>,
    /// Without one entries stay: the ledger is never deleted.
    pub(crate) ledger: Option<pg_sys::Oid>,
    /// Without one settlements go for good.
    pub(crate) settlements: Option<pg_sys::Oid>,
    pub(crate) batch_size: usize,
}

/// Archive what the policy says, of the binding of this name or of all. In this order, since settlements stay while usage
/// or entries of theirs are there. It may be stopped and called again: what is committed has left, the rest is found again.
pub(crate) fn archive(name: Option<&str>, policy: &Policy, commits: MayCommit) -> Result<()> {
    own::refuse_older_catalog()?;
    let bounds = bindings_unlocked(Which::Named(name))?.or_warn()?;
    let names: Vec<_> = bounds.iter().map(|bound| bound.name().to_owned()).collect();
    drop(bounds);
    // A table that does not do is told before anything leaves.
    policy.ledger.map(archive::archive_table).transpose()?;
    policy
        .settlements
        .map(settlements::archive_table)
        .transpose()?;
    commits.commit()?;
    for name in &names {
        let request = Request {
            before: policy.before,
            archive: policy.usage,
            below: None,
        };
        match usage::archive_backlog(name, request, policy.batch_size, commits) {
            // It has no time, is that of several bindings, or of tables below a view: the rest leaves all the same.
            Err(
                error @ (Error::InvalidArgument { .. }
                | Error::ArchiveOfShared { .. }
                | Error::ArchiveOfView { .. }),
            ) => error.report(PgLogLevel::WARNING),
            done => done?,
        }
    }
    match policy.ledger {
        Some(ledger) => {
            entries::archive_backlog(policy.before, ledger, policy.batch_size, commits)?
        }
        None => notice(
            "the ledger stays, and so do settlements with entries there".into(),
            Some("No ledger_archive is named, and the ledger is never deleted.".into()),
            Some(
                "CREATE TABLE ... (LIKE token_balance.ledger), and name it as ledger_archive."
                    .into(),
            ),
        ),
    }
    for name in names {
        let (before, archive) = (policy.before, policy.settlements);
        settlements::archive_backlog(&name, before, archive, policy.batch_size, commits)?;
    }
    Ok(())
}
