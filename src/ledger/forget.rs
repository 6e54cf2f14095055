//! What is known of accounts that are gone, all of them: `token_balance.reset`.

use super::archive::Permission;
use crate::binding::Book;
use crate::error::Result;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi;

/// How many rows are gone.
pub(crate) struct Forgotten {
    pub(crate) entries: u64,
    pub(crate) queued: u64,
    pub(crate) references: u64,
}

/// Forget the ledger, the queue and the references of the accounts. The caller has seen, under a lock, that
/// there is no account.
pub(crate) fn forget(book: &Book) -> Result<Forgotten> {
    let _owner = book.run_as_extension();
    let delete = |table: &str| {
        let own = book.accounts.own("d");
        // What is there now, also where the transaction keeps an older snapshot.
        spi::query_as_of(
            &format!("DELETE FROM token_balance.{table} AS d WHERE {own} true"),
            &[],
            Snapshot::Latest,
        )
        .map(|outcome| outcome.processed)
    };
    let entries = {
        let _permission = Permission::give();
        delete("ledger")?
    };
    Ok(Forgotten {
        entries,
        queued: delete("queue")?,
        references: delete("reference")?,
    })
}
