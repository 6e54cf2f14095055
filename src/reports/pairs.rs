//! Usage and what is accounted for, by workflow and account, walked side by side.
//!
//! Both are read once, through cursors, as of the calling statement: memory does not grow with them. The usage is
//! read as its owner, the settlements as the extension's.

use std::cmp::Ordering;
use std::collections::{HashSet, VecDeque};

use pgrx::pg_sys::{self, TimestampTz};

use crate::binding::{Binding, Book, Bound, Payer, completed};
use crate::error::{Error, Result};
use crate::ledger::moved;
use crate::postgres::cursor::{Cursor, Life};
use crate::postgres::exact_sum::ExactSum;
use crate::postgres::index_entry;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::subtransaction::unless_data_exception;
use crate::postgres::value::{Row, moment_sql};
use crate::settle::settlement::archived_usage_sql;

const BATCH: usize = 1_000;

/// Rows of a cursor, one at a time.
pub(super) struct Rows {
    cursor: Cursor,
    read: VecDeque<Row>,
    /// The usage that it is of, if expressions of somebody's are computed for its rows.
    computed: Option<String>,
}

impl Rows {
    pub(super) fn open(owner: pg_sys::Oid, relations: &[pg_sys::Oid], sql: &str) -> Result<Self> {
        Ok(Rows {
            cursor: Cursor::open(
                owner,
                relations,
                sql,
                &[],
                Snapshot::Caller,
                Life::Transaction,
            )?,
            read: VecDeque::new(),
            computed: None,
        })
    }

    /// The same of the usage. Error 22000 where an expression of a view cannot be computed for a row.
    fn of_usage(binding: &Binding) -> Result<Self> {
        binding.require_readable()?;
        let usage = &binding.usage;
        let owner = binding.accounts.users.owner;
        let rows = Self::open(owner, &[usage.oid], &usage_sql(binding))?;
        let computed = binding.computes_usage().then(|| usage.sql.clone());
        Ok(Rows { computed, ..rows })
    }

    /// The next ones; none at the end, where the cursor is closed: it would keep DDL from the tables that it has read.
    pub(super) fn fetch(&self, count: usize) -> Result<Vec<Row>> {
        let rows = match &self.computed {
            None => self.cursor.fetch(count)?,
            Some(usage) => unless_data_exception(|| self.cursor.fetch(count))?.map_err(|said| {
                Error::UnreadableUsage {
                    usage: "usage".into(),
                    relation: usage.clone(),
                    said,
                }
            })?,
        };
        if rows.is_empty() {
            self.cursor.clone().close()?;
        }
        Ok(rows)
    }

    pub(super) fn next_row(&mut self) -> Result<Option<Row>> {
        if self.read.is_empty() {
            self.read = self.fetch(BATCH)?.into();
        }
        Ok(self.read.pop_front())
    }
}

impl Iterator for Rows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_row().transpose()
    }
}

/// What was used by one account in one workflow.
pub(super) struct Used {
    pub(super) key: (String, String),
    /// Before they are rounded; None if they cannot be counted: NaN, an infinity, or past bigint.
    pub(super) tokens: Option<ExactSum>,
    pub(super) rows: i64,
    /// In the server's count; None where the usage has no time.
    pub(super) oldest: Option<TimestampTz>,
    pub(super) newest: Option<TimestampTz>,
    /// Whether each row names a workflow, and an account where the usage names them.
    pub(super) is_owned: bool,
    pub(super) workflow_exists: bool,
    pub(super) is_completed: bool,
    /// How many accounts could pay; 1 where the usage names it.
    pub(super) payers: i64,
    /// Of the account that pays; None if there is no such account.
    pub(super) balance: Option<i64>,
    /// Whether what is charged to that account can be recorded.
    pub(super) can_be_recorded: bool,
    /// Whether that account is in another database, or one that has paid for the run before.
    pub(super) has_moved: bool,
}

/// What is accounted for. Tokens.
pub(super) struct Accounted {
    pub(super) key: (String, String),
    pub(super) tokens: i128,
    pub(super) charged: i128,
    pub(super) refunded: i128,
    /// The usage that is not there any more and counts as if it were.
    pub(super) archived: ExactSum,
    /// Whether the workflow was settled once, for any account.
    pub(super) was_settled: bool,
    /// Whether an account that has paid for the run is in another database, where the workflow's account pays.
    has_left: bool,
}

/// What there is of one account in one workflow; either may be missing.
pub(super) struct Pair {
    pub(super) used: Option<Used>,
    pub(super) accounted: Option<Accounted>,
    /// Whether the workflow was settled once, for any account.
    pub(super) was_settled: bool,
}

impl Pair {
    /// What was used in all, rounded once; None if it cannot be counted.
    pub(super) fn used_in_all(&self) -> Option<i128> {
        let mut tokens = match &self.used {
            Some(used) => used.tokens.clone()?,
            None => ExactSum::default(),
        };
        if let Some(accounted) = &self.accounted {
            tokens.add(&accounted.archived);
        }
        tokens.rounded()
    }

    /// Of that, what usage rows say.
    pub(super) fn used_in_rows(&self) -> Option<i128> {
        match &self.used {
            Some(used) => used.tokens.as_ref()?.rounded(),
            None => Some(0),
        }
    }
}

pub(super) struct Pairs {
    usage: Rows,
    settlements: Rows,
    used: Option<Used>,
    accounted: Option<Accounted>,
    /// The last two workflows that were read from the settlements, if they were settled once: the
    /// settlements may be a workflow ahead of the usage.
    settled_once: [Option<String>; 2],
    /// The accounts that are in another database.
    moved: HashSet<String>,
}

impl Pairs {
    pub(super) fn open(bound: &Bound) -> Result<Self> {
        let binding = &bound.binding;
        bound.follow();
        let mut pairs = Pairs {
            usage: Rows::of_usage(binding)?,
            settlements: Rows::open(
                binding.accounts.extension_owner,
                &[],
                &settlements_sql(binding, &bound.book),
            )?,
            used: None,
            accounted: None,
            settled_once: [None, None],
            moved: moved::all(&bound.book)?,
        };
        pairs.read_usage()?;
        pairs.read_settlement()?;
        Ok(pairs)
    }

    fn read_usage(&mut self) -> Result<()> {
        let Some(row) = self.usage.next_row()? else {
            self.used = None;
            return Ok(());
        };
        self.used = Some(Used {
            key: (row.text(0).into(), row.text(1).into()),
            tokens: row.counted(2)?,
            rows: row.amount(3)?,
            oldest: row.number(4),
            newest: row.number(5),
            is_owned: row.is_true(6),
            workflow_exists: row.is_true(7),
            is_completed: row.is_true(8),
            payers: row.amount(9)?,
            balance: row.number(10),
            can_be_recorded: index_entry::fit(&[row.text(0), row.get(11).unwrap_or_default()]),
            has_moved: row.get(11).is_some_and(|payer| self.moved.contains(payer)),
        });
        Ok(())
    }

    fn read_settlement(&mut self) -> Result<()> {
        self.accounted = match self.settlements.next_row()? {
            Some(row) => Some(Accounted {
                key: (row.text(0).into(), row.text(1).into()),
                tokens: row.amount(2)?,
                charged: row.amount(3)?,
                refunded: row.amount(4)?,
                was_settled: row.is_true(5),
                archived: ExactSum::of(row.get(6))?,
                has_left: row.is_true(7),
            }),
            None => None,
        };
        if let Some(accounted) = &self.accounted
            && accounted.was_settled
            && self.settled_once[1].as_ref() != Some(&accounted.key.0)
        {
            self.settled_once.swap(0, 1);
            self.settled_once[1] = Some(accounted.key.0.clone());
        }
        Ok(())
    }

    fn next_pair(&mut self) -> Result<Option<Pair>> {
        let order = match (&self.used, &self.accounted) {
            (None, None) => return Ok(None),
            // Rows that nobody owns are of no settlement.
            (Some(used), _) if !used.is_owned => Ordering::Less,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(used), Some(accounted)) => used.key.cmp(&accounted.key),
        };
        let mut used = self.used.take_if(|_| order.is_le());
        let accounted = self.accounted.take_if(|_| order.is_ge());
        if let (Some(used), Some(accounted)) = (&mut used, &accounted) {
            used.has_moved |= accounted.has_left;
        }
        if used.is_some() {
            self.read_usage()?;
        }
        if accounted.is_some() {
            self.read_settlement()?;
        }
        let keys = [
            used.as_ref().map(|it| &it.key),
            accounted.as_ref().map(|it| &it.key),
        ];
        let workflow = keys.into_iter().flatten().next().map(|key| &key.0);
        let was_settled = self
            .settled_once
            .iter()
            .any(|id| id.as_ref() == workflow && id.is_some());
        Ok(Some(Pair {
            used,
            accounted,
            was_settled,
        }))
    }
}

impl Iterator for Pairs {
    type Item = Result<Pair>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_pair().transpose()
    }
}

/// Where the workflow's account pays, usage names none: whole workflows are compared, and an account that has left has
/// marked those for which it had paid.
fn settlements_sql(binding: &Binding, book: &Book) -> String {
    let (user_id, has_left) = match &binding.payer {
        Payer::Workflow(_) if moved::is_used(book) => (
            "''::pg_catalog.text",
            format!(
                "pg_catalog.bool_or(s.user_id OPERATOR(pg_catalog.=) ANY (ARRAY({})))",
                moved::all_sql(book)
            ),
        ),
        Payer::Workflow(_) => ("''::pg_catalog.text", "false".into()),
        Payer::Usage(_) => ("s.user_id", "false".into()),
    };
    format!(
        "SELECT s.workflow_id, {user_id}, pg_catalog.sum(s.usage_tokens), \
         pg_catalog.sum(s.charged_tokens), pg_catalog.sum(s.refunded_tokens), \
         pg_catalog.bool_or(pg_catalog.count(s.first_settled_at) OPERATOR(pg_catalog.>) 0) \
         OVER (PARTITION BY s.workflow_id), pg_catalog.sum({}), {has_left} \
         FROM token_balance.settlement AS s WHERE {} true GROUP BY 1, 2 \
         ORDER BY s.workflow_id COLLATE pg_catalog.\"C\", {user_id} COLLATE pg_catalog.\"C\"",
        archived_usage_sql(binding.spec.ids, "s"),
        binding.own("s")
    )
}

/// The columns are those that `read_usage` reads. It is summed up before it is joined: there are fewer pairs than
/// rows.
fn usage_sql(binding: &Binding) -> String {
    let workflow = format!("u.{}", binding.usage_workflow.sql());
    let (account, is_owned) = match &binding.payer {
        Payer::Usage(_) => (
            binding.account_sql("u"),
            "g.workflow_id IS NOT NULL AND g.user_id IS NOT NULL",
        ),
        Payer::Workflow(_) => ("NULL::pg_catalog.text".into(), "g.workflow_id IS NOT NULL"),
    };
    let moment = |function: &str| match &binding.details.created_at {
        Some(column) => moment_sql(&format!(
            "pg_catalog.{function}(u.{})::timestamp with time zone",
            column.sql()
        )),
        None => "NULL::bigint".into(),
    };
    let (workflows, workflow_exists, is_completed) = match &binding.workflows {
        Some(workflows) => (
            format!(
                "LEFT JOIN (SELECT {id} AS id, COALESCE(pg_catalog.bool_or({completed}), false) \
                 AS is_completed, {payer} AS payer, {payers} AS payers FROM {table} AS w GROUP BY 1) AS c \
                 ON c.id OPERATOR(pg_catalog.=) g.workflow_id",
                id = binding.workflow_key_sql(workflows, "w"),
                table = workflows.table.sql,
                completed = completed::sql(binding, "w"),
                payer = match &binding.payer {
                    Payer::Workflow(_) => format!("pg_catalog.min({})", binding.account_sql("w")),
                    Payer::Usage(_) => "NULL::pg_catalog.text".into(),
                },
                payers = match &binding.payer {
                    Payer::Workflow(_) =>
                        format!("pg_catalog.count(DISTINCT {})", binding.account_sql("w")),
                    Payer::Usage(_) => "1::bigint".into(),
                },
            ),
            "c.id IS NOT NULL",
            "COALESCE(c.is_completed, false)",
        ),
        None => (String::new(), "true", "false"),
    };
    let (payer, payers) = match &binding.payer {
        Payer::Usage(_) => ("g.user_id", "1"),
        Payer::Workflow(_) => ("c.payer", "COALESCE(c.payers, 0)"),
    };
    let user_key = &binding.accounts.user_key;
    format!(
        "SELECT g.workflow_id, COALESCE(g.user_id, ''), g.tokens, g.row_count, g.oldest, g.newest, \
         {is_owned}, {workflow_exists}, {is_completed}, {payers}, k.balance, {payer} \
         FROM (SELECT {workflow}::pg_catalog.text AS workflow_id, {account} AS user_id, {tokens} AS tokens, \
         pg_catalog.count(*) AS row_count, {oldest} AS oldest, {newest} AS newest \
         FROM {usage} AS u GROUP BY 1, 2) AS g {workflows} \
         LEFT JOIN (SELECT {key} AS id, a.{balance}::bigint AS balance FROM {users} AS a) AS k \
         ON k.id OPERATOR(pg_catalog.=) {payer} \
         ORDER BY g.workflow_id COLLATE pg_catalog.\"C\", \
         COALESCE(g.user_id, '') COLLATE pg_catalog.\"C\"",
        tokens = binding.tokens_sql("u"),
        oldest = moment("min"),
        newest = moment("max"),
        usage = binding.usage.sql,
        key = user_key
            .key_type
            .canonical_sql(&format!("a.{}", user_key.sql()), user_key.key_type),
        users = binding.accounts.users.sql,
        balance = binding.accounts.balance_sql(),
    )
}
