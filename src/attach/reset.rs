//! `token_balance.reset`: a test suite truncates its tables and uses ids again, and what is known of the old ones
//! must not count for the new.

use crate::binding::own::refuse_older_catalog;
use crate::binding::{Bound, bound_and_alone};
use crate::error::{Error, Result};
use crate::ledger::forget::{Forgotten, forget};
use crate::postgres::catalog::has_rows;
use crate::settle::settlement;

/// How many rows are gone.
pub(crate) struct Reset {
    pub(crate) settlements: u64,
    pub(crate) of_accounts: Forgotten,
}

/// Forget the settlements of the binding, and the ledger, the queue and the references of its accounts.
///
/// Error 55000 if users or usage has a row: of those it would be forgotten what they are settled for.
pub(crate) fn reset(name: Option<&str>) -> Result<Reset> {
    refuse_older_catalog()?;
    let bound = bound_and_alone(name)?;
    require_empty(&bound)?;
    Ok(Reset {
        settlements: settlement::forget(&bound)?,
        of_accounts: forget(&bound.book)?,
    })
}

fn require_empty(bound: &Bound) -> Result<()> {
    let mut relations = Vec::new();
    for table in [&bound.book.accounts.users, &bound.binding.usage] {
        if has_rows(table)? {
            relations.push(table.sql.clone());
        }
    }
    match relations.is_empty() {
        true => Ok(()),
        false => Err(Error::NotEmpty { relations }),
    }
}
