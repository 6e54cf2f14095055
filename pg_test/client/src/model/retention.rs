//! Usage that leaves: archived, with a partition; and deletions that are accepted.

use serde_json::Value;

use super::oracle::{Accepted, Time};
use super::schema::{ARCHIVE, FIRST_DAY, Partition, day_sql};
use super::{Model, same};
use crate::database::Result;

/// Nothing of usage that several bindings have is archived.
const SHARED: &str = "0A000";
const UNSETTLED: &str = "55000";

/// What `archive_usage` answers.
#[derive(Debug, PartialEq)]
struct Archived {
    workflows: i64,
    rows: i64,
    tokens: i64,
    unowned: i64,
    unsettled: i64,
}

impl Archived {
    fn of(answer: &Value) -> Self {
        let figure = |name: &str| answer[name].as_i64().unwrap_or(-1);
        Archived {
            workflows: figure("workflows"),
            rows: figure("usage_rows"),
            tokens: figure("tokens"),
            unowned: figure("unowned_rows"),
            unsettled: figure("unsettled"),
        }
    }
}

impl Model {
    /// The server's clock at this moment of the model's, as SQL.
    pub(super) fn read_clock(&mut self) -> Result<(Time, String)> {
        let now = self.now();
        let row = self
            .admin
            .query_one("SELECT clock_timestamp()::text", &[])?;
        self.moments.push((now, row.get(0)));
        Ok((now, row.get(0)))
    }

    /// A moment that usage may be older than: one of the long past days, one in the middle of the history, or now.
    pub(super) fn any_moment(&mut self, days: u32) -> Result<(Time, String)> {
        if self.rng.u32(..100) < days {
            let day = self.rng.i64(FIRST_DAY + 1..=0);
            return Ok((day, day_sql(day)));
        }
        let earlier = self.rng.choice(self.moments.clone());
        match earlier.filter(|_| self.rng.bool()) {
            Some(moment) => Ok(moment),
            None => self.read_clock(),
        }
    }

    /// Old rows of workflows that are settled to the last token leave, for the archive or for good.
    pub(super) fn archive_usage(&mut self, session: usize) -> Result<()> {
        let binding = self.any_binding();
        let (before, moment) = self.any_moment(80)?;
        let is_kept = self.rng.bool();
        // What waits for a lock is rolled back: few workflows have more often none that another session holds.
        let most = match self.rng.u32(..4) {
            0 => None,
            _ => Some(self.rng.usize(1..5)),
        };
        let sql = format!(
            "SELECT token_balance.archive_usage('{moment}'{}{}{})",
            if is_kept {
                format!(", '{ARCHIVE}'")
            } else {
                String::new()
            },
            most.map_or(String::new(), |most| format!(", max_workflows => {most}")),
            self.schema.binding_argument(binding)
        );
        let refusal = (self.schema.accounts.len() > 1).then_some(SHARED);
        let Some(rows) = self.ask(session, &sql, &[], refusal)? else {
            return Ok(());
        };
        let answer: Value = rows[0].get(0);
        self.follow(session);
        let seen = self.seen(session);
        let there = format!("SELECT id FROM {}", self.schema.usage);
        let there = self.sessions[session].client.query(&there, &[])?;
        let there: Vec<i64> = there.iter().map(|row| row.get(0)).collect();
        let mut rows = seen.rows_with_ids();
        rows.retain(|(id, _)| !there.contains(id));
        // Which of the workflows are taken first is open; of those that are, all old rows leave.
        let old = seen.old_rows(binding, before);
        let (settled, unsettled): (Vec<_>, Vec<_>) = old
            .into_iter()
            .partition(|(workflow, _)| seen.is_settled(binding, *workflow));
        let left: Vec<_> = settled
            .iter()
            .filter(|(_, old)| old.iter().any(|row| rows.contains(row)))
            .collect();
        let mut expected: Vec<_> = left.iter().flat_map(|(_, old)| old.clone()).collect();
        expected.sort_unstable_by_key(|(id, _)| *id);
        same("rows that left", Some(&rows), Some(&expected))?;
        let most = most.unwrap_or(usize::MAX).min(settled.len());
        same("workflows that left", Some(left.len()), Some(most))?;
        let is_any_left = settled.len() > left.len();
        let is_limited = sql.contains("max_workflows") && left.len() == most;
        let got = Archived::of(&answer);
        same(
            "archived",
            Some(&got),
            Some(&Archived {
                workflows: left.len() as i64,
                rows: rows.len() as i64,
                tokens: rows.iter().map(|(_, row)| row.tokens).sum(),
                unowned: 0,
                // It stops looking where it has as many as it may have.
                unsettled: match is_limited && got.unsettled <= unsettled.len() as i64 {
                    true => got.unsettled,
                    false => unsettled.len() as i64,
                },
            }),
        )?;
        let says_more = answer["more"].as_bool().unwrap_or_default();
        if is_any_left != says_more && (is_any_left || !is_limited || unsettled.is_empty()) {
            return Err(format!("more: got {says_more}, expected {is_any_left}").into());
        }
        let added = seen.archive(binding, &rows, is_kept);
        self.overlay(session).add(&added);
        if !rows.is_empty() {
            *self.counts.entry("rows archived").or_default() += rows.len() as u64;
        }
        Ok(())
    }

    pub(super) fn accept_deletions(&mut self, session: usize) -> Result<()> {
        let binding = self.any_binding();
        let moment = self.any_moment(5)?;
        let is_dry_run = self.rng.u32(..5) == 0;
        self.accept_before(session, binding, moment, is_dry_run)
    }

    fn accept_before(
        &mut self,
        session: usize,
        binding: usize,
        (before, moment): (Time, String),
        is_dry_run: bool,
    ) -> Result<()> {
        let sql = format!(
            "SELECT token_balance.accept_deletions('{moment}', {is_dry_run}{})",
            self.schema.binding_argument(binding)
        );
        let row = self.sessions[session].client.query_one(&sql, &[])?;
        let answer: Value = row.get(0);
        let kept = self.overlay(session).clone();
        self.follow_in(session, binding..binding + 1);
        let (added, expected) = self.seen(session).accept_deletions(binding, before);
        let figure = |name: &str| answer[name].as_i64().unwrap_or(-1);
        let got = Accepted {
            workflows: figure("workflows"),
            pairs: figure("pairs"),
            tokens: figure("tokens"),
            settled_since: figure("settled_since"),
        };
        same("deletions accepted", Some(got), Some(expected))?;
        if is_dry_run {
            *self.overlay(session) = kept;
            return Ok(());
        }
        self.overlay(session).add(&added);
        *self.counts.entry("pairs accepted").or_default() += expected.pairs as u64;
        Ok(())
    }

    /// A partition leaves, and is dropped or goes over to the archive; another one takes its place. If some of it is not
    /// settled it stays. No session has a transaction open.
    pub(super) fn archive_partition(&mut self) -> Result<()> {
        let at = self.rng.usize(..self.schema.partitions.len() - 1);
        let partition = self.schema.partitions[at].clone();
        let archive = format!(
            "SELECT token_balance.archive_usage(partition => '{}'{})",
            partition.name,
            self.schema.binding_argument(0)
        );
        if self.schema.accounts.len() > 1 {
            return self.fails(&archive, &[SHARED]);
        }
        if self.rng.bool() {
            self.settle_all()?;
        }
        let state = &self.committed;
        let mut rows = state.rows_with_ids();
        rows.retain(|(_, row)| partition.has(row.time));
        let is_owned = |row: &super::oracle::Usage| row.workflow.zip(row.accounts[0]).is_some();
        let owned = rows.iter().filter(|(_, row)| is_owned(row));
        let mut workflows: Vec<_> = owned.clone().filter_map(|(_, row)| row.workflow).collect();
        workflows.sort_unstable();
        workflows.dedup();
        if !workflows.iter().all(|one| state.is_settled(0, *one)) {
            return self.fails(&archive, &[UNSETTLED]);
        }
        let expected = Archived {
            workflows: workflows.len() as i64,
            rows: rows.len() as i64,
            tokens: owned.clone().map(|(_, row)| row.tokens).sum(),
            unowned: (rows.len() - owned.count()) as i64,
            unsettled: 0,
        };
        let is_kept = self.rng.bool();
        let added = self.committed.archive(0, &rows, is_kept);
        let mut transaction = self.admin.transaction()?;
        let answer: Value = transaction.query_one(&archive, &[])?.get(0);
        let got = Archived::of(&answer);
        same("a partition archived", Some(got), Some(expected))?;
        if self.rng.u32(..4) == 0 {
            transaction.rollback()?;
            return Ok(());
        }
        transaction.commit()?;
        *self.counts.entry("partitions archived").or_default() += 1;
        self.committed.add(&added);
        self.committed.forget_deleted();
        let (usage, columns) = (self.schema.usage, self.schema.all_usage_columns());
        let name = &partition.name;
        let keep = match is_kept {
            true => format!("INSERT INTO {ARCHIVE} ({columns}) SELECT {columns} FROM {name};"),
            false => String::new(),
        };
        let next = Partition {
            name: self.schema.next_partition(),
            is_known: false,
            ..partition.clone()
        };
        let create = next.create_sql(usage.now());
        self.execute(&format!("{keep} DROP TABLE {name}; {create}"))?;
        self.schema.partitions[at] = next;
        Ok(())
    }

    /// As before the books of a month are closed: there are all accounts, all runs are over, all usage is charged, and what
    /// is missing was rightly deleted.
    pub(super) fn settle_all(&mut self) -> Result<()> {
        let session = 0;
        self.begin(session)?;
        for binding in 0..self.schema.accounts.len() {
            for row in self.committed.clone().rows() {
                if let Some(account) = row.accounts[binding]
                    && !self.seen(session).books[binding].has_account(account)
                {
                    self.insert_account(session, binding, account)?;
                }
            }
        }
        let runs = self.committed.runs.keys().copied().collect();
        self.complete_these(session, runs)?;
        for workflow in 0..super::operations::WORKFLOW_IDS {
            self.settle_this(session, workflow)?;
        }
        for binding in 0..self.schema.accounts.len() {
            let now = self.read_clock()?;
            self.accept_before(session, binding, now, false)?;
        }
        self.end_without_comparison(session, true)
    }
}
