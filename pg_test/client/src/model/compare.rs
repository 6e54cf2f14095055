//! The database against the oracle, all of it, with the law: no token is in no state.

use std::collections::{BTreeMap, BTreeSet};

use super::oracle::{ARCHIVED, Figures, Key, Part, SHRUNK, Usage};
use super::schema::{ARCHIVE, SETTLEMENT_ARCHIVE};
use super::{Model, same, workflow_id};
use crate::database::{OPENING, Result, see_ledger};

/// How often what takes longer is compared, too.
const THOROUGHLY_EVERY: u64 = 20;

/// Chains of the ledger that have a gap, in it or with what has left it, and entries that are not what they were at the last
/// look. An opening entry stands for those that have left.
const LEDGER: &str = "
WITH all_entries AS (
    SELECT * FROM token_balance.ledger WHERE kind <> 'opening' UNION ALL TABLE old_entries),
chains AS (
    SELECT 'the ledger' AS name, * FROM token_balance.ledger
    UNION ALL SELECT 'ledger and archive', * FROM all_entries)
SELECT 'gap before entry ' || e.entry_id || ' of ' || e.user_id || ' in ' || e.name FROM (
    SELECT c.*, lag(c.new_balance) OVER (PARTITION BY c.name, c.accounts_id, c.user_id ORDER BY c.entry_id) AS before
    FROM chains AS c) AS e
WHERE e.before <> e.previous_balance OR e.new_balance <> e.previous_balance + e.amount
UNION ALL
SELECT 'changed entry ' || gone.entry_id || ' of ' || gone.user_id
FROM (SELECT * FROM seen_ledger WHERE kind <> 'opening' EXCEPT TABLE all_entries) AS gone";

/// What left the balances and came back, by ledger and queue, and by the settlements, which know what has left the ledger.
const TOTALS: &str = "
SELECT (SELECT coalesce(-sum(l.amount), 0) FROM token_balance.ledger AS l WHERE l.kind IN ('settlement', 'correction'))
       + (SELECT coalesce(sum(q.tokens), 0) FROM token_balance.queue AS q) = coalesce(sum(s.charged_tokens - s.archived_charged_tokens), 0)
   AND (SELECT coalesce(sum(l.amount), 0) FROM token_balance.ledger AS l WHERE l.kind = 'refund')
       = coalesce(sum(s.refunded_tokens - s.archived_refunded_tokens), 0)
FROM token_balance.settlement AS s";

/// The same in both, or the first difference.
fn same_maps<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    what: &str,
    got: &BTreeMap<K, V>,
    expected: &BTreeMap<K, V>,
) -> Result<()> {
    for key in got.keys().chain(expected.keys()) {
        if got.get(key) != expected.get(key) {
            return Err(format!(
                "{what} of {key:?}: got {:?}, expected {:?}",
                got.get(key),
                expected.get(key)
            )
            .into());
        }
    }
    Ok(())
}

/// Binding, workflow and account.
type Pair = (Option<String>, Option<String>, Option<String>);

impl Model {
    pub(super) fn compare(&mut self) -> Result<()> {
        let comparisons = self.counts.entry("comparisons").or_default();
        *comparisons += 1;
        let is_thorough = comparisons.is_multiple_of(THOROUGHLY_EVERY);
        for binding in 0..self.schema.accounts.len() {
            self.compare_balances(binding)?;
            self.compare_settlements(binding)?;
            self.compare_states(binding)?;
        }
        self.compare_archived()?;
        if is_thorough {
            self.compare_thoroughly()?;
        }
        Ok(())
    }

    /// Each row of the usage and of the archive, the ledger, and `reconcile()`, which scan all that there is.
    pub(super) fn compare_thoroughly(&mut self) -> Result<()> {
        if let Some(row) = self.admin.query(LEDGER, &[])?.first() {
            return Err(row.get::<_, String>(0).into());
        }
        see_ledger(&mut self.admin)?;
        let is_whole: bool = self.admin.query_one(TOTALS, &[])?.get(0);
        same(
            "ledger and queue are the settlements",
            Some(is_whole),
            Some(true),
        )?;
        let usage = self.schema.usage.now();
        let expected = self.committed.rows_with_ids();
        self.compare_rows(usage, expected)?;
        let expected = self.committed.archive.iter();
        let expected = expected.map(|(id, row)| (*id, *row)).collect();
        self.compare_rows(ARCHIVE, expected)?;
        self.compare_problems()
    }

    /// What the rows of the usage or of the archive are.
    fn compare_rows(&mut self, table: &str, expected: Vec<(i64, Usage)>) -> Result<()> {
        let columns = self.schema.usage_columns();
        let rows = self
            .admin
            .query(&format!("SELECT {columns} FROM {table}"), &[])?;
        let count = self.schema.accounts.len();
        let row = |row: &postgres::Row| {
            let accounts = (0..count).map(|at| row.get(3 + at));
            let accounts: Vec<Option<String>> = accounts.collect();
            let values: (Option<String>, i32, _) = (row.get(1), row.get(2), accounts);
            (row.get::<_, i64>(0), values)
        };
        let got = rows.iter().map(row).collect();
        let expected = expected.iter().map(|(id, row)| (*id, self.values_of(row)));
        same_maps(table, &got, &expected.collect())
    }

    /// What the table `archived` says.
    fn compare_archived(&mut self) -> Result<()> {
        let rows = self.admin.query(
            "SELECT b.name::text, a.kind, sum(a.row_count)::bigint, sum(a.tokens)::bigint \
             FROM token_balance.archived AS a JOIN token_balance.binding AS b USING (binding_id) GROUP BY 1, 2",
            &[],
        )?;
        let row = |row: &postgres::Row| -> ((String, String), (i64, i64)) {
            ((row.get(0), row.get(1)), (row.get(2), row.get(3)))
        };
        let got = rows.iter().map(row).collect();
        let books = self.schema.accounts.iter().zip(&self.committed.books);
        let left = books.flat_map(|(accounts, books)| {
            let left = books.left.iter().filter(|(_, (rows, _))| *rows > 0);
            left.map(|(kind, left)| ((accounts.binding.to_owned(), kind.name().to_owned()), *left))
        });
        same_maps("rows and tokens that left", &got, &left.collect())?;
        let entries: i64 = self
            .admin
            .query_one(
                "SELECT coalesce(sum(a.row_count), 0)::bigint FROM token_balance.archived AS a WHERE a.kind = 'ledger'",
                &[],
            )?
            .get(0);
        same(
            "entries that left",
            Some(entries),
            Some(self.committed.entries_left),
        )
    }

    /// What the accounts have left: the column less what waits in the queue.
    fn compare_balances(&mut self, binding: usize) -> Result<()> {
        let accounts = self.schema.accounts[binding];
        let sql = format!(
            "SELECT u.{key}, u.token_balance - coalesce((SELECT sum(q.tokens) FROM token_balance.queue AS q \
             WHERE q.user_id = u.{key}), 0)::bigint FROM {} AS u",
            accounts.table,
            key = accounts.key,
        );
        let rows = self.admin.query(&sql, &[])?;
        let got = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let books = &self.committed.books[binding];
        let balance = |account: &usize| books.balance.get(account).copied().unwrap_or_default();
        let expected = books.accounts_there();
        let expected = expected.map(|it| (accounts.id(it), OPENING + balance(&it)));
        same_maps::<String, i64>("balance", &got, &expected.collect())
    }

    /// The settlements that there are, and what they say; and those in the archive, added up.
    fn compare_settlements(&mut self, binding: usize) -> Result<()> {
        let accounts = self.schema.accounts[binding];
        let books = &self.committed.books[binding];
        let id = |key: &Key| (workflow_id(key.0), accounts.id(key.1));
        let there = books.settled.iter().filter(|(_, at)| at.is_some());
        let there = there.map(|(key, _)| (id(key), books.figures(key)));
        let ended = books.ended_at.iter().filter(|(_, at)| at.is_some());
        let ended = ended.map(|(key, _)| (id(key), books.ended[key]));
        let expected = [
            ("token_balance.settlement", there.collect()),
            (SETTLEMENT_ARCHIVE, ended.collect()),
        ];
        for (table, expected) in expected {
            let rows = self.admin.query(
                &format!(
                    "SELECT s.workflow_id, s.user_id, sum(s.usage_tokens)::bigint, sum(s.charged_tokens)::bigint, \
                     sum(s.refunded_tokens)::bigint, sum(s.corrected_tokens)::bigint, \
                     sum(s.archived_usage_tokens)::bigint, sum(s.archived_charged_tokens)::bigint, \
                     sum(s.archived_refunded_tokens)::bigint \
                     FROM {table} AS s JOIN token_balance.binding AS b USING (binding_id) \
                     WHERE b.name = $1 GROUP BY 1, 2"
                ),
                &[&accounts.binding],
            )?;
            let row = |row: &postgres::Row| -> ((String, String), Figures) {
                let figures = std::array::from_fn(|at| row.get(2 + at));
                ((row.get(0), row.get(1)), figures)
            };
            let got = rows.iter().map(row).collect();
            let what = format!("usage, charged, refunded, corrected, archived tokens in {table}");
            same_maps(&what, &got, &expected)?;
        }
        Ok(())
    }

    /// The sums by state, and what waits by pair; and that they are the tokens of the usage rows.
    fn compare_states(&mut self, binding: usize) -> Result<()> {
        let name = self.schema.accounts[binding].binding;
        let parts = self.committed.parts(binding);
        let mut expected: BTreeMap<(String, Option<String>), (i64, i64, i64)> = BTreeMap::new();
        let mut last = BTreeMap::new();
        for part in &parts {
            let state = (part.fate.0.to_owned(), part.fate.1.map(str::to_owned));
            // They are in order of workflows.
            let is_another = part.workflow.is_some()
                && last.insert(part.fate, part.workflow) != Some(part.workflow);
            let (workflows, rows, tokens) = expected.entry(state).or_default();
            *workflows += i64::from(is_another);
            *rows += part.rows;
            *tokens += part.tokens;
        }
        let rows = self.admin.query(
            "SELECT state, reason, workflows, usage_rows, tokens::bigint FROM token_balance.usage_state() \
             WHERE binding = $1",
            &[&name],
        )?;
        let row = |row: &postgres::Row| {
            let state = (row.get(0), row.get(1));
            (state, (row.get(2), row.get(3), row.get(4)))
        };
        let got: BTreeMap<_, _> = rows.iter().map(row).collect();
        same_maps("workflows, rows and tokens", &got, &expected)?;
        let signed = |((state, _), (_, _, tokens)): (&(String, _), &(_, _, i64))| {
            let is_gone = [SHRUNK.0, ARCHIVED.0].contains(&state.as_str());
            if is_gone { -tokens } else { *tokens }
        };
        let sums = got.iter().map(signed).sum();
        let used: i64 = self
            .admin
            .query_one(
                &format!(
                    "SELECT coalesce(sum({}), 0)::bigint FROM {}",
                    self.schema.tokens, self.schema.usage
                ),
                &[],
            )?
            .get(0);
        same("the tokens that are in a state", Some(sums), Some(used))?;
        self.compare_unsettled(binding, &parts)
    }

    fn compare_unsettled(&mut self, binding: usize, parts: &[Part]) -> Result<()> {
        let accounts = self.schema.accounts[binding];
        let rows = self.admin.query(
            "SELECT workflow_id, user_id, state, reason, usage_rows, tokens::bigint FROM token_balance.unsettled \
             WHERE binding = $1",
            &[&accounts.binding],
        )?;
        type Pair = (Option<String>, Option<String>);
        type Waiting = (String, Option<String>, i64, i64);
        let row = |row: &postgres::Row| -> (Pair, Waiting) {
            let waiting = (row.get(2), row.get(3), row.get(4), row.get(5));
            ((row.get(0), row.get(1)), waiting)
        };
        let got = rows.iter().map(row).collect();
        let expected = parts
            .iter()
            .filter(|part| part.fate.0 == "waiting" || part.fate.0 == "unowned");
        let expected = expected.map(|part| {
            let account = part.account.map(|account| accounts.id(account));
            let (state, reason) = (part.fate.0.to_owned(), part.fate.1.map(str::to_owned));
            (
                (part.workflow.map(workflow_id), account),
                (state, reason, part.rows, part.tokens),
            )
        });
        same_maps("what is unsettled", &got, &expected.collect())
    }

    /// `reconcile()` tells of what the oracle knows to wait or to have shrunk, and of nothing else. What has shrunk is one
    /// row, if its account is there.
    fn compare_problems(&mut self) -> Result<()> {
        let mut expected: BTreeMap<Pair, (String, Option<i64>)> = BTreeMap::new();
        for (binding, accounts) in self.schema.accounts.iter().enumerate() {
            for part in self.committed.parts(binding) {
                let (Some(problem), Some(workflow), Some(account)) = (
                    self.committed.problem(binding, &part),
                    part.workflow,
                    part.account,
                ) else {
                    continue;
                };
                let binding_name = Some(accounts.binding.to_owned());
                if problem != "usage shrank" {
                    let (workflow, account) = (workflow_id(workflow), accounts.id(account));
                    let key = (binding_name, Some(workflow), Some(account));
                    expected.insert(key, (problem.to_owned(), Some(part.tokens)));
                    continue;
                }
                let key = (workflow, account);
                let missing = self.committed.missing(binding, &key, part.tokens);
                if missing > 0 {
                    let sum = expected.entry((binding_name, None, None));
                    let (_, sum) = sum.or_insert_with(|| (problem.to_owned(), Some(0)));
                    *sum = sum.map(|sum| sum + missing);
                }
            }
        }
        let rows = self.admin.query(
            "SELECT binding, workflow_id, user_id, problem, abs(expected - found)::bigint \
             FROM token_balance.reconcile()",
            &[],
        )?;
        let row = |row: &postgres::Row| -> (Pair, (String, Option<i64>)) {
            (
                (row.get(0), row.get(1), row.get(2)),
                (row.get(3), row.get(4)),
            )
        };
        let is_of_trigger =
            |(_, (problem, _)): &(Pair, (String, _))| problem.starts_with("trigger ");
        let (triggers, others): (Vec<_>, Vec<_>) = rows.iter().map(row).partition(is_of_trigger);
        same_maps("problem", &others.into_iter().collect(), &expected)?;
        // Where deletions are recorded, a partition that no attach has seen lacks a trigger.
        let is_any_unknown = self.schema.partitions.iter().any(|it| !it.is_known);
        let recording = self.schema.accounts.iter();
        let recording = recording.filter(|it| it.records_deletions && is_any_unknown);
        let recording: BTreeSet<_> = recording.map(|it| Some(it.binding.to_owned())).collect();
        let told = triggers.into_iter().map(|((binding, ..), _)| binding);
        same(
            "bindings that lack a trigger",
            Some(told.collect()),
            Some(recording),
        )
    }
}
