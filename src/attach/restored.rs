//! The balance column is gone, or has NULLs, and the ledger knows what was in it: a migration may drop the
//! column, or make it anew. The accounts get their balances back, and no entry is written: the chain goes
//! on where it ends.

use pgrx::{PgLogLevel, pg_sys};

use super::check::range_of;
use super::existing::next_batch;
use crate::binding::{Binding, Ids};
use crate::error::{Error, Result};
use crate::ledger::change::Restoring;
use crate::ledger::entries::last_entry_sql;
use crate::postgres::catalog;
use crate::postgres::cursor::{Cursor, Life};
use crate::postgres::notice::notice;
use crate::postgres::security::RunAs;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi;
use crate::postgres::value::{Arg, Row, texts};

/// Balances that the ledger knows and the column does not have.
pub(super) struct Lost<'a> {
    binding: &'a Binding,
    ids: Ids,
    /// Whether the column is there, and has NULLs.
    is_there: bool,
}

/// None if there are none. Error 22003 if one of them has no room in the column. Nothing is changed.
pub(super) fn lost(binding: &Binding) -> Result<Option<Lost<'_>>> {
    let Some(ids) = binding.spec.ids else {
        return Ok(None); // in the catalog of an older version it is not known whose ledger it is
    };
    let column = binding.accounts.balance.as_ref();
    if column.is_some_and(|column| column.is_not_null) {
        return Ok(None);
    }
    let lost = Lost {
        binding,
        ids,
        is_there: column.is_some(),
    };
    let (smallest, largest) = match column {
        Some(_) => (
            binding.accounts.smallest_balance(),
            binding.accounts.largest_balance(),
        ),
        None => range_of(binding.spec.balance_type).unwrap_or((0, 0)),
    };
    let mut is_any = false;
    lost.for_each_batch(|accounts| {
        is_any = true;
        let outside =
            |row: &&Row| Ok(!(smallest..=largest).contains(&row.amount::<i64>(1)?)) as Result<bool>;
        for row in accounts {
            if outside(&row)? {
                return Err(Error::NoRoomForBalance {
                    account: row.text(0).into(),
                    balance: row.amount(1)?,
                });
            }
        }
        Ok(())
    })?;
    Ok(is_any.then_some(lost))
}

impl Lost<'_> {
    /// Give them back. The column is there.
    pub(super) fn give_back(&self) -> Result<()> {
        let accounts = &self.binding.accounts;
        let is_missing = match self.is_there {
            true => format!("AND a.{} IS NULL", accounts.balance_sql()),
            false => String::new(),
        };
        let rows = format!(
            "ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2::bigint[])) AS l (id, balance) \
             WHERE a.{} OPERATOR(pg_catalog.=) l.id::{}",
            accounts.user_key.sql(),
            accounts.user_key.key_type.sql(),
        );
        let users = &accounts.users.sql;
        let column = accounts.balance_sql();
        // No RETURNING: the table may have rules.
        let update =
            format!("UPDATE {users} AS a SET {column} = l.balance FROM {rows} {is_missing}");
        let right = format!(
            "SELECT pg_catalog.count(*) FROM {users} AS a, {rows} \
             AND a.{column} OPERATOR(pg_catalog.=) l.balance"
        );
        let mut restored = 0;
        self.for_each_batch(|batch| {
            let _owner = RunAs::owner(accounts.users.owner);
            let ids = texts(batch, 0);
            let balances = texts(batch, 1);
            let args = || [Arg::TextArray(&ids), Arg::TextArray(&balances)];
            {
                let _restoring = Restoring::begin();
                spi::query(&update, &args())?;
            }
            let outcome = spi::query(&right, &args())?;
            let right = outcome.rows.first().map_or(Ok(0), |row| row.amount(0))?;
            restored += batch.len();
            match right == batch.len() {
                true => Ok(()),
                // A trigger, rule or policy of the application's.
                false => Err(Error::BalancesNotRestored {
                    relation: users.clone(),
                    missing: batch.len() - right,
                }),
            }
        })?;
        notice(
            format!(
                "{restored} balances of {} are taken from the ledger",
                accounts.users.sql
            ),
            Some(
                "The column had none. Accounts without ledger entries have the initial balance."
                    .into(),
            ),
            None,
        );
        Ok(())
    }

    /// Accounts without a balance that have a ledger, and the balance at the end of it.
    fn for_each_batch(&self, mut work: impl FnMut(&[Row]) -> Result<()>) -> Result<()> {
        let accounts = &self.binding.accounts;
        let is_missing = match self.is_there {
            true => format!("WHERE a.{} IS NULL", accounts.balance_sql()),
            false => String::new(),
        };
        let cursor = Cursor::open(
            accounts.users.owner,
            &[accounts.users.oid],
            &format!(
                "SELECT a.{}::pg_catalog.text FROM {} AS a {is_missing}",
                accounts.user_key.sql(),
                accounts.users.sql
            ),
            &[],
            Snapshot::Latest,
            Life::Transaction,
        )?;
        while let Some(batch) = next_batch(&cursor)? {
            let known = {
                let _owner = RunAs::owner(accounts.extension_owner);
                let sql = format!(
                    "SELECT a.user_id, l.new_balance FROM pg_catalog.unnest($1) AS a (user_id) \
                     {}",
                    last_entry_sql(&self.ids.of_accounts("e"))
                );
                spi::query(&sql, &[Arg::TextArray(&texts(&batch, 0))])?.rows
            };
            if !known.is_empty() {
                work(&known)?;
            }
        }
        cursor.close()
    }
}

/// A column that was dropped and made anew by somebody else has a balance for everybody, and the ledger knows
/// better. Nothing is changed: it may have been meant.
///
/// It is looked at only where the table had a column dropped at some time.
pub(super) fn warn_of_other_balances(binding: &Binding) -> Result<()> {
    let accounts = &binding.accounts;
    let Some(ids) = binding.spec.ids else {
        return Ok(());
    };
    if !had_a_column_dropped(accounts.users.oid)? {
        return Ok(());
    }
    // Both of one snapshot, or a charge that is just made would be a difference.
    let cursor = Cursor::open(
        accounts.users.owner,
        &[accounts.users.oid],
        &super::existing::balances_sql(binding),
        &[],
        Snapshot::Caller,
        Life::Transaction,
    )?;
    let sql = format!(
        "SELECT pg_catalog.count(*) FILTER (WHERE l.new_balance OPERATOR(pg_catalog.<>) a.balance) \
         FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2::bigint[])) \
         AS a (user_id, balance) {}",
        last_entry_sql(&ids.of_accounts("e"))
    );
    let mut others = 0;
    while let Some(batch) = next_batch(&cursor)? {
        let _owner = RunAs::owner(accounts.extension_owner);
        let args = [
            Arg::TextArray(&texts(&batch, 0)),
            Arg::TextArray(&texts(&batch, 1)),
        ];
        let outcome = spi::query_as_of(&sql, &args, Snapshot::Caller)?;
        others += outcome
            .rows
            .first()
            .map_or(Ok(0_usize), |row| row.amount(0))?;
    }
    cursor.close()?;
    if others > 0 {
        Error::OtherBalances {
            relation: accounts.users.sql.clone(),
            others,
        }
        .report(PgLogLevel::WARNING);
    }
    Ok(())
}

fn had_a_column_dropped(table: pg_sys::Oid) -> Result<bool> {
    catalog::exists(
        "SELECT 1 FROM pg_catalog.pg_attribute AS a \
         WHERE a.attrelid OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) \
         AND a.attnum OPERATOR(pg_catalog.>) 0 AND a.attisdropped",
        &[Arg::Int8(table.to_u32().into())],
    )
}
