//! Tables that were made anew under the name of one that was bound: whether they are the same, or others with the
//! same ids.

use super::balance_column::initial_of;
use super::existing::{balances_sql, existing_usage_sql, next_batch, read_as_users_owner};
use crate::binding::{Binding, Ids};
use crate::error::{Error, Result};
use crate::ledger::entries::last_entry_sql;
use crate::postgres::cursor::Cursor;
use crate::postgres::security::RunAs;
use crate::postgres::spi;
use crate::postgres::value::{Arg, texts};
use crate::settle::settlement::archived_usage_sql;

/// What a table that was made anew has, of what is known of the one before.
pub(super) struct Comparison {
    what: &'static str,
    relation: String,
    argument: &'static str,
    /// What its rows are about, and what has to agree.
    about: (&'static str, &'static str),
    /// How many are known from before.
    known: usize,
    agree: usize,
    differ: usize,
}

impl Comparison {
    /// Whether there is nothing to compare with.
    pub(super) fn is_of_nothing(&self) -> bool {
        self.known == 0
    }

    /// Whether nothing that is known has a row there.
    pub(super) fn has_nothing_of_it(&self) -> bool {
        self.agree + self.differ == 0
    }

    /// How many that are known have less there.
    pub(super) fn with_less(&self) -> usize {
        self.differ
    }

    /// Whether it is the same one. A rebuild has all that there was, but for what was deleted; others with the same
    /// ids have something else under some of them.
    pub(super) fn decide(&self) -> Result<bool> {
        if self.differ == 0 && self.agree * 2 >= self.known {
            return Ok(true);
        }
        let (rows, figures) = self.about;
        Err(Error::MadeAnew {
            what: self.what,
            relation: self.relation.clone(),
            argument: self.argument,
            detail: format!(
                "Of {} {rows} that are known, {} have the {figures} there, and {} have other ones.",
                self.known, self.agree, self.differ
            ),
        })
    }
}

/// SQL for the tokens of settlement s that usage rows have to show.
pub(super) fn there_sql(ids: Option<Ids>) -> String {
    format!(
        "(s.usage_tokens OPERATOR(pg_catalog.-) pg_catalog.round({}))",
        archived_usage_sql(ids, "s")
    )
}

/// How much of what was settled the usage has, which was made anew.
pub(super) fn compare_usage(binding: &Binding, ids: Ids) -> Result<Comparison> {
    let own = Ids::of_binding(Some(ids), "s");
    let there = there_sql(Some(ids));
    let compare = format!(
        "SELECT pg_catalog.count(*) FILTER (WHERE e.tokens OPERATOR(pg_catalog.=) {there}), \
         pg_catalog.count(*) FILTER (WHERE e.tokens OPERATOR(pg_catalog.<) {there}) \
         FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), \
         pg_catalog.unnest($3::bigint[])) AS e (workflow_id, user_id, tokens) \
         JOIN token_balance.settlement AS s ON {own} \
         s.workflow_id OPERATOR(pg_catalog.=) e.workflow_id \
         AND s.user_id OPERATOR(pg_catalog.=) e.user_id \
         WHERE {there} OPERATOR(pg_catalog.>) 0"
    );
    let known = format!(
        "SELECT pg_catalog.count(*) FROM token_balance.settlement AS s \
         WHERE {own} {there} OPERATOR(pg_catalog.>) 0"
    );
    let mut comparison = Comparison {
        what: "usage table",
        relation: binding.usage.sql.clone(),
        argument: "usage_ids",
        about: ("pairs of workflow and account", "usage"),
        known: count(binding, &known)?,
        agree: 0,
        differ: 0,
    };
    if !comparison.is_of_nothing() {
        let cursor = read_as_users_owner(binding, &binding.usage, &existing_usage_sql(binding))?;
        comparison.read(binding, cursor, &compare, 3)?;
    }
    Ok(comparison)
}

/// How many of the users, who were made anew, have the balance that the ledger says.
pub(super) fn compare_balances(binding: &Binding, ids: Ids) -> Result<Comparison> {
    let own = ids.of_accounts("e");
    // Each new account has it: that says nothing.
    let initial = initial_of(binding)?;
    let compare = format!(
        "SELECT pg_catalog.count(*) FILTER (WHERE a.balance OPERATOR(pg_catalog.=) l.new_balance \
         AND a.balance OPERATOR(pg_catalog.<>) {initial}), \
         pg_catalog.count(*) FILTER (WHERE a.balance OPERATOR(pg_catalog.<>) l.new_balance) \
         FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2::bigint[])) \
         AS a (user_id, balance) {}",
        last_entry_sql(&own)
    );
    let known = format!(
        "SELECT pg_catalog.count(DISTINCT e.user_id) FROM token_balance.ledger AS e WHERE {own} true"
    );
    let mut comparison = Comparison {
        what: "users table",
        relation: binding.accounts.users.sql.clone(),
        argument: "accounts",
        about: ("accounts", "balance that the ledger says"),
        known: count(binding, &known)?,
        agree: 0,
        differ: 0,
    };
    if binding.accounts.balance.is_some() {
        let cursor = read_as_users_owner(binding, &binding.accounts.users, &balances_sql(binding))?;
        comparison.read(binding, cursor, &compare, 2)?;
    }
    Ok(comparison)
}

impl Comparison {
    fn read(&mut self, binding: &Binding, cursor: Cursor, sql: &str, columns: usize) -> Result<()> {
        while let Some(batch) = next_batch(&cursor)? {
            let _owner = RunAs::owner(binding.accounts.extension_owner);
            let columns: Vec<_> = (0..columns).map(|column| texts(&batch, column)).collect();
            let args: Vec<_> = columns
                .iter()
                .map(|column| Arg::TextArray(column))
                .collect();
            for row in &spi::query(sql, &args)?.rows {
                self.agree += row.amount::<usize>(0)?;
                self.differ += row.amount::<usize>(1)?;
            }
        }
        cursor.close()
    }
}

fn count(binding: &Binding, sql: &str) -> Result<usize> {
    let _owner = RunAs::owner(binding.accounts.extension_owner);
    let outcome = spi::query(sql, &[])?;
    outcome.rows.first().map_or(Ok(0), |row| row.amount(0))
}
