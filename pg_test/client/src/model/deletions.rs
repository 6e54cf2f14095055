//! Usage that is deleted: some rows, or all of a table. Where deletions are recorded, what was settled of it stays
//! settled.

use std::collections::{BTreeMap, BTreeSet};

use super::oracle::{Key, NEVER_CHARGED, State, Time, Usage, of};
use super::{Model, same};
use crate::database::Result;

impl Model {
    /// Some rows go. Of what was charged for them the rest is shrunk, but where deletions are recorded.
    pub(super) fn delete_usage(&mut self, session: usize) -> Result<()> {
        let rows = self.seen(session).rows_with_ids();
        let count = self.rng.usize(1..5);
        let rows = self.rng.choose_multiple(rows, count);
        let ids: Vec<_> = rows.iter().map(|(id, _)| *id).collect();
        let delete = format!("DELETE FROM {} WHERE id = ANY ($1)", self.schema.usage);
        let client = &mut self.sessions[session].client;
        let deleted = client.execute(&delete, &[&ids])?;
        same("rows deleted", Some(deleted), Some(ids.len() as u64))?;
        self.record_deletion(session, rows);
        Ok(())
    }

    /// All rows go, or all of a partition, in the middle of a transaction. No other session has one open.
    pub(super) fn truncate_usage(&mut self) -> Result<()> {
        let session = self.rng.usize(..self.sessions.len());
        self.begin(session)?;
        self.work_before_or_after(session)?;
        if self.rng.u32(..3) == 0 {
            self.savepoint(session)?;
        }
        let partition = match self.rng.u32(..4) {
            0 => None,
            _ => self.rng.choice(self.schema.partitions.clone()),
        };
        let partitions = self.schema.partitions.clone();
        let mut rows = self.seen(session).rows_with_ids();
        rows.retain(|(_, row)| partition.as_ref().is_none_or(|it| it.has(row.time)));
        let table = partition.map_or(self.schema.usage.now().to_owned(), |it| it.name);
        let truncate = format!("TRUNCATE {table}");
        self.sessions[session].client.batch_execute(&truncate)?;
        // What was in a partition that no attach has seen goes without record.
        let (unseen, seen): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(_, row)| {
            let mut unseen = partitions.iter().filter(|partition| !partition.is_known);
            unseen.any(|partition| partition.has(row.time))
        });
        self.forget(session, &unseen);
        self.record_deletion(session, seen);
        self.work_before_or_after(session)?;
        if self.sessions[session].savepoint.is_some() && self.rng.bool() {
            self.rollback_to_savepoint(session)?;
        }
        let commits = self.rng.u32(..4) > 0;
        self.end_without_comparison(session, commits)
    }

    fn work_before_or_after(&mut self, session: usize) -> Result<()> {
        for _ in 0..self.rng.usize(..4) {
            match self.rng.u32(..8) {
                0 | 1 => self.use_tokens(session)?,
                2 => self.delete_usage(session)?,
                3 => self.complete(session)?,
                4 => self.settle(session)?,
                5 => self.insert_or_delete_run(session)?,
                6 => self.rename_workflow(session)?,
                _ => self.change_usage(session)?,
            }
        }
        Ok(())
    }

    fn forget(&mut self, session: usize, rows: &[(i64, Usage)]) {
        let deleted = rows.iter().map(|(id, _)| (*id, None));
        self.overlay(session).usage.extend(deleted);
    }

    /// What a statement that has deleted these rows must do.
    fn record_deletion(&mut self, session: usize, rows: Vec<(i64, Usage)>) {
        let mut deleted = Vec::new();
        for (binding, accounts) in self.schema.accounts.iter().enumerate() {
            let mut sums: BTreeMap<Key, i64> = BTreeMap::new();
            for (_, row) in &rows {
                if let (Some(workflow), Some(account)) = (row.workflow, row.accounts[binding]) {
                    *sums.entry((workflow, account)).or_default() += row.tokens;
                }
            }
            sums.retain(|_, tokens| *tokens != 0);
            if accounts.records_deletions && self.is_settling && !sums.is_empty() {
                deleted.push((binding, sums));
            }
        }
        for (binding, _) in &deleted {
            // Whether usage has followed its workflow is asked with what was deleted.
            self.follow_in(session, *binding..binding + 1);
        }
        self.forget(session, &rows);
        for (binding, sums) in deleted {
            let seen = self.seen(session);
            let workflows: BTreeSet<_> = sums.keys().map(|key| key.0).collect();
            let is_over = |workflow: &usize| self.is_over(&seen, binding, *workflow);
            let over = workflows.into_iter().filter(is_over).collect();
            let now = self.now();
            let added = seen.record_deletion(binding, &sums, &over, now);
            let tokens = added.books[binding].archived.values().sum::<i64>();
            *self.counts.entry("deleted tokens recorded").or_default() += tokens as u64;
            let charged = added.books[binding].charged.values().sum::<i64>();
            *self.counts.entry("deleted tokens charged").or_default() += charged as u64;
            self.overlay(session).add(&added);
        }
    }

    /// A run is over if its row says so, or said so when this transaction took it away; without a row, if it was ever
    /// charged.
    fn is_over(&self, seen: &State, binding: usize, workflow: usize) -> bool {
        let run_in = |state: &State| state.runs.get(&workflow).copied().flatten();
        let is_completed = run_in(seen).or_else(|| run_in(&self.committed));
        is_completed.unwrap_or_else(|| {
            let mut settled = seen.books[binding].settled_of(workflow);
            settled.any(|(_, at)| at != NEVER_CHARGED)
        })
    }
}

impl State {
    /// What was deleted counts as if it were there, as an addition: of runs that are over all of it, once what was due is
    /// charged; of open ones, and where it cannot be charged, no more than was accounted for.
    fn record_deletion(
        &self,
        binding: usize,
        deleted: &BTreeMap<Key, i64>,
        over: &BTreeSet<usize>,
        at: Time,
    ) -> State {
        let used = self.used(binding);
        let books = &self.books[binding];
        let due_of = |key: &Key| books.due(key, of(&used, key) + deleted[key]);
        let is_due = |key: &Key| over.contains(&key.0) && due_of(key) > 0;
        let due: Vec<_> = deleted.iter().filter(|(key, _)| is_due(key)).collect();
        let mut counted = self.clone();
        for (key, tokens) in &due {
            let archived = &mut counted.books[binding].archived;
            *archived.entry(**key).or_default() += **tokens;
        }
        let workflows: BTreeSet<_> = due.iter().map(|(key, _)| key.0).collect();
        let mut added = State::new(self.books.len());
        for workflow in workflows {
            let (charged, _) = counted.charge_in(binding..binding + 1, workflow, at);
            added.add(&charged);
        }
        for (key, tokens) in deleted {
            let accounted = of(&books.accounted, key) + of(&added.books[binding].accounted, key);
            let archived = of(&books.archived, key);
            let due = of(&used, key) + tokens + archived - accounted;
            let counts = match due {
                ..=0 => *tokens,
                _ => {
                    let settled = (accounted - archived).max(0);
                    settled.min(*tokens).max(tokens - due)
                }
            };
            if counts != 0 {
                let books = &mut added.books[binding];
                books.archived.insert(*key, counts);
            }
        }
        added
    }
}
