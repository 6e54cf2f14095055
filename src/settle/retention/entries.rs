//! Entries of the ledger that leave are remembered with what else has left. How they leave is the ledger's
//! (`ledger::archive`).

use std::collections::VecDeque;

use pgrx::pg_sys::{self, TimestampTz};

use super::record::{Kind, Left};
use super::steps::Steps;
use crate::binding::own;
use crate::error::Result;
use crate::ledger::archive::{self, Account, Archived, leaving_accounts_sql};
use crate::ledger::change::actor;
use crate::postgres::commit::MayCommit;
use crate::postgres::exact_sum::ExactSum;
use crate::postgres::security::RunAs;
use crate::postgres::value::Arg;
use crate::settle::sweep::in_memory_of_its_own;

/// [`archive::archive_ledger`], remembered.
pub(crate) fn archive_ledger(before: TimestampTz, archive: pg_sys::Oid) -> Result<Archived> {
    let archived = archive::archive_ledger(before, archive)?;
    remember(before, &archived)?;
    Ok(archived)
}

fn remember(before: TimestampTz, archived: &Archived) -> Result<()> {
    let actor = actor();
    let _owner = RunAs::owner(own::extension_owner()?);
    Left {
        binding: 0,
        kind: Kind::Ledger,
        archive: &archived.archive,
        before: Some(before),
        rows: archived.entries,
        tokens: &ExactSum::default(),
    }
    .remember(&actor)
}

/// The same with a commit after about `batch_size` entries. An account's leave in one transaction, so that each of them
/// has a whole chain in between.
pub(super) fn archive_backlog(
    before: TimestampTz,
    archive: pg_sys::Oid,
    batch_size: usize,
    commits: MayCommit,
) -> Result<()> {
    let mut steps = Steps::begin(
        "accounts of the ledger".into(),
        (own::extension_owner()?, &[]),
        &leaving_accounts_sql(),
        &[Arg::OptionalTimestamp(Some(before))],
    )?;
    commits.commit()?;
    let mut entries = 0;
    let mut read = VecDeque::new();
    loop {
        if read.is_empty() {
            for row in steps.next(batch_size)? {
                read.push_back(Account::of(&row)?);
            }
        }
        let batch = take(&mut read, batch_size);
        if batch.is_empty() {
            break;
        }
        entries += in_memory_of_its_own(|| {
            let archived = archive::archive_accounts(before, archive, &batch)?;
            remember(before, &archived)?;
            Ok(archived.entries)
        })?;
        commits.commit()?;
        steps.tell(batch.len(), format!("{entries} entries so far."));
    }
    steps.end()
}

/// The next accounts, until they have `enough` entries.
fn take(accounts: &mut VecDeque<Account>, enough: usize) -> Vec<Account> {
    let mut batch = Vec::new();
    let mut entries = 0;
    while entries < enough
        && let Some(account) = accounts.pop_front()
    {
        entries += account.entries;
        batch.push(account);
    }
    batch
}
