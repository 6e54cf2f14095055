//! What a session does in its transaction, and what that must do.

use std::collections::BTreeMap;
use std::ops::Range;

use postgres::types::ToSql;
use serde_json::Value;

use super::oracle::{Charged, MAX_BINDINGS, SHRUNK, State, Time, Usage, of};
use super::schema::{FIRST_DAY, Name, SETTLEMENT_ARCHIVE, day_sql};
use super::{Model, same, workflow_id, workflow_ids};
use crate::database::{Result, attach_options, settles_late_usage, sqlstate};

/// How many workflows there may be: those that are there at first, and ids that are not in use.
pub(super) const WORKFLOW_IDS: usize = super::WORKFLOWS + 5;
/// Ids of accounts that are not in use at first.
const MORE_ACCOUNTS: usize = 3;

const UNKNOWN_WORKFLOW: &str = "P0002";
/// Of an archive that is named and has nothing of the workflow.
const NOTHING_THERE: &str = "22023";
const UNKNOWN_ACCOUNT: &str = "23503";

/// Whether a charge may wait in the queue for its account.
fn queues_charges() -> bool {
    attach_options().is_some_and(|options| options.contains("queue"))
}

impl Model {
    pub(super) fn any_workflow(&mut self) -> usize {
        self.rng.usize(..WORKFLOW_IDS)
    }

    pub(super) fn any_account(&mut self, binding: usize) -> usize {
        let count = self.schema.accounts[binding].count;
        self.rng.usize(..count + MORE_ACCOUNTS)
    }

    /// Of those that the session sees; an id that is not in use, if there is none.
    fn account_that_is_there(&mut self, session: usize, binding: usize) -> usize {
        let seen = self.seen(session);
        let there = seen.books[binding].accounts_there();
        self.rng
            .choice(there.collect::<Vec<_>>())
            .unwrap_or_default()
    }

    pub(super) fn any_binding(&mut self) -> usize {
        self.rng.usize(..self.schema.accounts.len())
    }

    /// What usage may name: mostly a workflow that is there, and where no foreign key forbids it, now and then none.
    fn workflow_of_usage(&mut self, seen: &State) -> Option<usize> {
        let workflow = self.any_workflow();
        // Not one that has just got another id: whether the rest has followed is told by sums then (DESIGN I2, I3).
        let new = seen.renamed.iter().find(|(_, pair)| pair.0 == workflow);
        let workflow = new.map_or(workflow, |(_, pair)| pair.1);
        match self.rng.u32(..30) {
            0 => None,
            _ if !self.schema.workflows_are_referenced || seen.has_run(workflow) => Some(workflow),
            _ => self
                .rng
                .choice(seen.runs.keys().copied())
                .filter(|workflow| seen.has_run(*workflow)),
        }
    }

    fn account_of_usage(&mut self, seen: &State, binding: usize) -> Option<usize> {
        let account = self.any_account(binding);
        match self.rng.u32(..30) {
            0 => None,
            // Strangers are rare, or no settlement would succeed.
            1 if !self.schema.accounts_are_referenced => Some(account),
            _ => {
                let there: Vec<_> = seen.books[binding].accounts_there().collect();
                self.rng.choice(there)
            }
        }
    }

    fn accounts_of_usage(&mut self, seen: &State) -> [Option<usize>; MAX_BINDINGS] {
        let mut accounts = [None; MAX_BINDINGS];
        for (binding, account) in accounts.iter_mut().enumerate().take(seen.books.len()) {
            *account = self.account_of_usage(seen, binding);
        }
        accounts
    }

    pub(super) fn use_tokens(&mut self, session: usize) -> Result<()> {
        let seen = self.seen(session);
        let row = Usage {
            workflow: self.workflow_of_usage(&seen),
            accounts: self.accounts_of_usage(&seen),
            tokens: self.rng.i64(0..5_000),
            time: self.time_of_usage(),
        };
        let id = self.next_row;
        self.next_row += 1;
        let values = self.values_of(&row);
        let insert = format!(
            "INSERT INTO {} ({}, {}) VALUES ($1, $2, $3{}, {})",
            self.schema.usage,
            self.schema.usage_columns(),
            self.schema.time,
            (0..seen.books.len())
                .map(|at| format!(", ${}", at + 4))
                .collect::<String>(),
            match row.time {
                ..0 => format!("'{}'", day_sql(row.time)),
                0.. => "clock_timestamp()".to_owned(),
            }
        );
        self.write_usage(session, &insert, id, &row, &values)?;
        self.overlay(session).usage.insert(id, Some(row));
        if let Some(workflow) = row.workflow
            && settles_late_usage()
            && self.is_settling
            && seen.is_completed(workflow)
        {
            self.charge(session, workflow);
        }
        Ok(())
    }

    /// Of a row: mostly a day that is long past.
    fn time_of_usage(&mut self) -> Time {
        match self.rng.u32(..3) {
            0 => self.now(),
            _ => self.rng.i64(FIRST_DAY..0),
        }
    }

    /// A row as the database has it, but for its id and its time.
    pub(super) fn values_of(&self, row: &Usage) -> (Option<String>, i32, Vec<Option<String>>) {
        let accounts = self.schema.accounts.iter().zip(row.accounts);
        let accounts = accounts.map(|(accounts, account)| account.map(|id| accounts.id(id)));
        (
            row.workflow.map(workflow_id),
            row.tokens as i32,
            accounts.collect(),
        )
    }

    fn write_usage(
        &mut self,
        session: usize,
        sql: &str,
        id: i64,
        row: &Usage,
        (workflow, tokens, accounts): &(Option<String>, i32, Vec<Option<String>>),
    ) -> Result<()> {
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&id, workflow, tokens];
        parameters.extend(
            accounts
                .iter()
                .map(|account| account as &(dyn ToSql + Sync)),
        );
        let written = self.sessions[session].client.execute(sql, &parameters)?;
        same(&format!("rows of {row:?} written"), Some(written), Some(1))
    }

    /// What an UPDATE of these rows, from this to that, must do: the runs that they are of, and were, are settled at once
    /// where they are over. Not that of a row that is taken to the id which its run has got, while others are not yet.
    fn charge_updated(&mut self, session: usize, rows: &[(Usage, Usage)]) {
        if !settles_late_usage() || !self.is_settling || rows.is_empty() {
            return;
        }
        self.follow(session);
        let awaited = self.overlay(session).renamed.clone();
        for binding in 0..self.schema.accounts.len() {
            for (before, now) in rows {
                let ids = before.workflow.zip(now.workflow);
                let is_the_same = before.accounts[binding] == now.accounts[binding]
                    && before.workflow == now.workflow
                    && before.tokens == now.tokens;
                if is_the_same || ids.is_some_and(|ids| awaited.contains(&(binding, ids))) {
                    continue;
                }
                for workflow in before.workflow.into_iter().chain(now.workflow) {
                    let seen = self.seen(session);
                    if seen.is_completed(workflow) {
                        let now = self.now();
                        let (added, _) = seen.charge_in(binding..binding + 1, workflow, now);
                        self.overlay(session).add(&added);
                    }
                }
            }
        }
    }

    /// Usage that is there grows, shrinks or moves: it is late, if it is more, and reported, if it is less.
    pub(super) fn change_usage(&mut self, session: usize) -> Result<()> {
        let seen = self.seen(session);
        let Some((id, mut row)) = self.rng.choice(seen.rows_with_ids()) else {
            return Ok(());
        };
        match self.rng.u32(..5) {
            0 | 1 => row.tokens += self.rng.i64(1..2_000),
            2 => row.tokens = self.rng.i64(0..=row.tokens),
            3 => row.workflow = self.workflow_of_usage(&seen),
            _ => row.accounts = self.accounts_of_usage(&seen),
        }
        let update = format!(
            "UPDATE {} SET ({}) = ROW ($1, $2, $3{}) WHERE id = $1",
            self.schema.usage,
            self.schema.usage_columns(),
            (0..seen.books.len())
                .map(|at| format!(", ${}", at + 4))
                .collect::<String>()
        );
        let values = self.values_of(&row);
        self.write_usage(session, &update, id, &row, &values)?;
        let updated = seen.rows_updated(&BTreeMap::from([(id, Some(row))]));
        self.overlay(session).usage.insert(id, Some(row));
        self.charge_updated(session, &updated);
        Ok(())
    }

    pub(super) fn complete(&mut self, session: usize) -> Result<()> {
        let workflow = self.any_workflow();
        let seen = self.seen(session);
        let was_completed = seen.is_completed(workflow);
        // A completed run may be taken up again.
        let status = if was_completed && self.rng.bool() {
            "running"
        } else {
            "completed"
        };
        let is_there = seen.has_run(workflow);
        let written = self.sessions[session].client.execute(
            &format!(
                "UPDATE {} SET {} = $2 WHERE {} = $1",
                self.schema.workflows, self.schema.status, self.schema.workflow_key
            ),
            &[&workflow_id(workflow), &status],
        )?;
        same("runs written", Some(written), Some(u64::from(is_there)))?;
        if !is_there {
            return Ok(());
        }
        self.overlay(session)
            .runs
            .insert(workflow, Some(status == "completed"));
        if status == "completed" && !was_completed {
            self.charge(session, workflow);
        }
        Ok(())
    }

    /// Several runs in one statement; those that were completed before are not completed again.
    pub(super) fn complete_several(&mut self, session: usize) -> Result<()> {
        let workflows = self.several_workflows(WORKFLOW_IDS);
        self.complete_these(session, workflows)
    }

    pub(super) fn complete_these(&mut self, session: usize, workflows: Vec<usize>) -> Result<()> {
        self.sessions[session].client.execute(
            &format!(
                "UPDATE {} SET {} = 'completed' WHERE {} = ANY ($1)",
                self.schema.workflows, self.schema.status, self.schema.workflow_key
            ),
            &[&workflow_ids(&workflows)],
        )?;
        for workflow in workflows {
            let seen = self.seen(session);
            if seen.has_run(workflow) && !seen.is_completed(workflow) {
                self.overlay(session).runs.insert(workflow, Some(true));
                self.charge(session, workflow);
            }
        }
        Ok(())
    }

    /// A run is inserted, completed or not; or its row is deleted, and what it has used waits for one.
    pub(super) fn insert_or_delete_run(&mut self, session: usize) -> Result<()> {
        let (workflow, is_completed) = (self.any_workflow(), self.rng.bool());
        let (table, key, status) = (
            self.schema.workflows,
            self.schema.workflow_key,
            self.schema.status,
        );
        let id = workflow_id(workflow);
        if !self.seen(session).has_run(workflow) {
            let insert = format!("INSERT INTO {table} ({key}, {status}) VALUES ($1, $2)");
            let written = if is_completed { "completed" } else { "running" };
            self.sessions[session]
                .client
                .execute(&insert, &[&id, &written])?;
            self.overlay(session)
                .runs
                .insert(workflow, Some(is_completed));
            if is_completed {
                self.charge(session, workflow);
            }
        } else if !self.schema.workflows_are_referenced && workflow.is_multiple_of(4) {
            let delete = format!("DELETE FROM {table} WHERE {key} = $1");
            self.sessions[session].client.execute(&delete, &[&id])?;
            self.overlay(session).runs.insert(workflow, None);
        }
        Ok(())
    }

    /// An account comes: what it has used by then waits for the next settlement. Or it goes, and its usage stays.
    pub(super) fn insert_or_delete_account(&mut self, session: usize) -> Result<()> {
        let binding = self.any_binding();
        let account = self.any_account(binding);
        let accounts = self.schema.accounts[binding];
        let (table, key, id) = (accounts.table, accounts.key, accounts.id(account));
        let seen = self.seen(session);
        let known = &seen.books[binding];
        if !known.has_account(account) {
            self.insert_account(session, binding, account)?;
        } else if self.may_delete_accounts() && account.is_multiple_of(4) {
            let delete = format!("DELETE FROM {table} WHERE {key} = $1");
            self.sessions[session].client.execute(&delete, &[&id])?;
            let books = &mut self.overlay(session).books[binding];
            books.accounts.insert(account, false);
            // Who comes with this id begins anew.
            *books.balance.entry(account).or_default() -= of(&known.balance, &account);
        }
        Ok(())
    }

    pub(super) fn insert_account(
        &mut self,
        session: usize,
        binding: usize,
        account: usize,
    ) -> Result<()> {
        let accounts = self.schema.accounts[binding];
        let insert = format!(
            "INSERT INTO {} ({}) VALUES ($1)",
            accounts.table, accounts.key
        );
        let id = accounts.id(account);
        self.sessions[session].client.execute(&insert, &[&id])?;
        let books = &mut self.overlay(session).books[binding];
        books.accounts.insert(account, true);
        Ok(())
    }

    /// Not where usage must have one; nor where charges may wait for it in the queue, which nobody can apply then.
    fn may_delete_accounts(&self) -> bool {
        !self.schema.accounts_are_referenced && !queues_charges()
    }

    /// A workflow gets an id of which there is no row; there may be usage of it, which is the workflow's then. The usage
    /// follows: by the foreign key, or as the application has it.
    pub(super) fn rename_workflow(&mut self, session: usize) -> Result<()> {
        let seen = self.seen(session);
        let there: Vec<_> = seen
            .runs
            .keys()
            .copied()
            .filter(|it| seen.has_run(*it))
            .collect();
        let (old, new) = (self.rng.choice(there), self.any_workflow());
        let Some(old) = old.filter(|_| !seen.has_run(new)) else {
            return Ok(());
        };
        // Not twice with one id in a transaction: ids that take one another's place are guessed about (DESIGN I3), and
        // there is a fault. Where a run gets the id that another one has just left, and is renamed as well, neither's
        // settlements follow, and the first one is charged again.
        let is_in_use = |id: usize| {
            let mut pairs = seen.renamed.iter();
            pairs.any(|(_, (from, to))| *from == id || *to == id)
        };
        if is_in_use(old) || is_in_use(new) {
            return Ok(());
        }
        let key = self.schema.workflow_key;
        let mut renames = vec![(self.schema.workflows, key)];
        if !self.schema.workflows_are_referenced {
            renames.push((self.schema.usage, self.schema.run));
        }
        self.rename(session, &renames, &workflow_id(old), &workflow_id(new))?;
        let added = seen.rename_workflow(old, new);
        let overlay = self.overlay(session);
        overlay.add(&added);
        let bindings = 0..seen.books.len();
        overlay
            .renamed
            .extend(bindings.map(|binding| (binding, (old, new))));
        self.charge_updated(session, &seen.rows_updated(&added.usage));
        Ok(())
    }

    /// An account gets an id that nobody has, and its usage with it.
    pub(super) fn rename_account(&mut self, session: usize) -> Result<()> {
        let binding = self.any_binding();
        let seen = self.seen(session);
        let (old, new) = (
            self.account_that_is_there(session, binding),
            self.any_account(binding),
        );
        let books = &seen.books[binding];
        if !books.has_account(old) || books.has_account(new) {
            return Ok(());
        }
        let accounts = self.schema.accounts[binding];
        let mut renames = vec![(accounts.table, accounts.key)];
        if !self.schema.accounts_are_referenced {
            renames.push((self.schema.usage, accounts.payer));
        }
        self.rename(session, &renames, &accounts.id(old), &accounts.id(new))?;
        let added = seen.rename_account(binding, old, new);
        self.overlay(session).add(&added);
        self.charge_updated(session, &seen.rows_updated(&added.usage));
        Ok(())
    }

    fn rename(
        &mut self,
        session: usize,
        columns: &[(Name, Name)],
        old: &str,
        new: &str,
    ) -> Result<()> {
        for (table, column) in columns {
            let update = format!("UPDATE {table} SET {column} = $2 WHERE {column} = $1");
            self.sessions[session]
                .client
                .execute(&update, &[&old, &new])?;
        }
        Ok(())
    }

    /// What is known of workflows whose id was changed goes with them, before anything is settled and at the commit: of
    /// those whose usage has followed, so that none is under the old id.
    pub(super) fn follow(&mut self, session: usize) {
        self.follow_in(session, 0..self.schema.accounts.len());
    }

    /// The same of some bindings alone. Those that a call does not look at follow later.
    pub(super) fn follow_in(&mut self, session: usize, bindings: Range<usize>) {
        let renamed = std::mem::take(&mut self.overlay(session).renamed);
        for (binding, pair) in renamed {
            let seen = self.seen(session);
            let is_left = seen.is_used(pair.0) && !self.schema.workflows_are_referenced;
            if is_left || !bindings.contains(&binding) {
                self.overlay(session).renamed.push((binding, pair));
            } else {
                let added = seen.follow(binding, pair);
                self.overlay(session).add(&added);
            }
        }
    }

    fn several_workflows(&mut self, of: usize) -> Vec<usize> {
        let count = self.rng.usize(2..8);
        self.rng.choose_multiple(0..of, count)
    }

    /// What a settlement must do.
    fn charge(&mut self, session: usize, workflow: usize) -> Charged {
        if !self.is_settling {
            return Charged::default();
        }
        self.follow(session);
        let now = self.now();
        let (added, charged) = self.seen(session).charge(workflow, now);
        self.overlay(session).add(&added);
        charged
    }

    /// With which error a function that settles these fails, all of them with the first bad one.
    fn refusal(&mut self, session: usize, workflows: &[usize]) -> Option<&'static str> {
        let before = self.overlay(session).clone();
        self.follow(session);
        let seen = self.seen(session);
        *self.overlay(session) = before;
        let is_bad = |workflow: &&usize| seen.has_bad_charge(**workflow);
        let is_unknown = |workflow: &&usize| !seen.has_run(**workflow) && !seen.is_used(**workflow);
        if workflows.iter().any(|workflow| is_bad(&workflow)) {
            Some(UNKNOWN_ACCOUNT)
        } else if workflows.iter().any(|workflow| is_unknown(&workflow)) {
            Some(UNKNOWN_WORKFLOW)
        } else {
            None
        }
    }

    pub(super) fn settle(&mut self, session: usize) -> Result<()> {
        let workflow = self.any_workflow();
        self.settle_this(session, workflow)
    }

    pub(super) fn settle_this(&mut self, session: usize, workflow: usize) -> Result<()> {
        let refusal = self.refusal(session, &[workflow]);
        let call = "settle_workflow($1)";
        let Some(answer) = self.call(session, call, &workflow_id(workflow), refusal)? else {
            return Ok(());
        };
        self.follow(session);
        let is_used = self.seen(session).is_used(workflow);
        let expected = self.charge(session, workflow);
        same(
            "tokens_used",
            answer["tokens_used"].as_i64(),
            Some(expected.tokens),
        )?;
        let charges = answer["charges"]
            .as_array()
            .map(|charges| charges.len() as i64);
        same("charges", charges, Some(expected.charges))?;
        let status = match (expected.charges > 0, is_used) {
            (true, _) => "settled",
            (false, true) => "already_settled",
            (false, false) => "no_usage",
        };
        same("status", answer["status"].as_str(), Some(status))
    }

    pub(super) fn settle_batch(&mut self, session: usize) -> Result<()> {
        // An id that nobody knows would fail nearly each of them.
        let ids = if self.rng.u32(..4) == 0 {
            WORKFLOW_IDS
        } else {
            super::WORKFLOWS
        };
        let workflows = self.several_workflows(ids);
        let refusal = self.refusal(session, &workflows);
        let rows = self.ask(
            session,
            "SELECT coalesce(sum(charged_tokens), 0)::bigint, count(*) FROM token_balance.settle_workflows($1)",
            &[&workflow_ids(&workflows)],
            refusal,
        )?;
        let Some(rows) = rows else {
            return Ok(());
        };
        self.follow(session);
        let mut expected = Charged::default();
        for workflow in workflows {
            expected.add(self.charge(session, workflow));
        }
        let got = (rows[0].get(0), rows[0].get(1));
        same(
            "charged_tokens and charges of a batch",
            Some(got),
            Some((expected.tokens, expected.charges)),
        )
    }

    /// All that is completed and not settled.
    pub(super) fn sweep(&mut self, session: usize) -> Result<()> {
        let rows = self.sessions[session]
            .client
            .query_one("SELECT token_balance.settle_pending()", &[])?;
        let answer: Value = rows.get(0);
        self.follow(session);
        let mut expected = Charged::default();
        for workflow in self.seen(session).completed() {
            expected.add(self.charge(session, workflow));
        }
        if self.schema.accounts.len() > 1 {
            // A run is counted once for each binding that has charged it, which docs/DESIGN.md does not say: its tokens
            // and charges are compared, the runs are not.
            expected.workflows = answer["workflows"].as_i64().unwrap_or(-1);
        }
        let figure = |name: &str| answer[name].as_i64().unwrap_or(-1);
        let got = Charged {
            workflows: figure("workflows"),
            charges: figure("charges"),
            tokens: figure("tokens_used"),
        };
        same("a sweep", Some(got), Some(expected))
    }

    pub(super) fn credit(&mut self, session: usize) -> Result<()> {
        let binding = self.any_binding();
        let account = self.account_that_is_there(session, binding);
        let reference = self.rng.u64(..40);
        // A reference says its amount, so that a repeated one is a retry.
        let amount = 1 + (reference as i64 * 37) % 900;
        let call = format!(
            "token_balance.credit($1, {amount}, 'ref{reference}'{})",
            self.schema.binding_argument(binding)
        );
        let was_made = self.seen(session).books[binding]
            .references
            .get(&(account, reference))
            .is_some_and(|amount| amount.is_some());
        let id = self.schema.accounts[binding].id(account);
        let answer = self.call(session, &call, &id, None)?.unwrap_or_default();
        same("replayed", answer["replayed"].as_bool(), Some(was_made))?;
        if !was_made {
            let books = &mut self.overlay(session).books[binding];
            books.references.insert((account, reference), Some(amount));
            *books.balance.entry(account).or_default() += amount;
        }
        Ok(())
    }

    pub(super) fn refund(&mut self, session: usize) -> Result<()> {
        let binding = self.any_binding();
        let asked = self.any_workflow();
        let before = self.overlay(session).clone();
        self.follow_in(session, binding..binding + 1);
        // What has ended comes back, if the archive is named.
        let names_archive = self.rng.bool();
        if names_archive {
            let back = self.seen(session).bring_back(binding, asked);
            let back_count = back.books[binding].settled.len() as u64;
            *self.counts.entry("settlements back").or_default() += back_count;
            self.overlay(session).add(&back);
        }
        let seen = self.seen(session);
        let books = &seen.books[binding];
        // By an id that it has had before, too.
        let workflow = books.refundable(asked);
        let of_workflow = |workflow| books.charged.range((workflow, 0)..(workflow + 1, 0));
        let payers = workflow.into_iter().flat_map(of_workflow);
        let left: Vec<_> = payers.map(|(key, _)| (key.1, books.left(key))).collect();
        let all: i64 = left.iter().map(|(_, left)| left).sum();
        let is_gone = |(account, left): &(usize, i64)| *left > 0 && !books.has_account(*account);
        let has_payers = !left.iter().any(is_gone);
        let amount = if all > 0 && has_payers && self.rng.bool() {
            Some(self.rng.i64(1..=all))
        } else {
            None
        };
        let is_known = workflow.is_some() || seen.has_run(asked) || seen.is_used(asked);
        let argument = amount.map_or("NULL".to_owned(), |amount| amount.to_string());
        let call = format!(
            "token_balance.refund_workflow($1, {argument}{}{})",
            match names_archive {
                true => format!(", archive => '{SETTLEMENT_ARCHIVE}'"),
                false => String::new(),
            },
            self.schema.binding_argument(binding)
        );
        // A payer that is gone is unknown, with the same code.
        let refusal = match (is_known, workflow.is_some()) {
            (true, true) if has_payers => None,
            (true, false) if names_archive => Some(NOTHING_THERE),
            (true, false) => None,
            _ => Some(UNKNOWN_WORKFLOW),
        };
        let Some(answer) = self.call(session, &call, &workflow_id(asked), refusal)? else {
            *self.overlay(session) = before;
            return Ok(());
        };
        let mut total = 0;
        for refund in answer["refunds"].as_array().into_iter().flatten() {
            let account: usize = refund["user_id"].as_str().unwrap_or("a?")[1..].parse()?;
            let given = refund["amount"].as_i64().unwrap_or_default();
            let key = (workflow.unwrap_or(asked), account);
            if given <= 0 || given > books.left(&key) {
                return Err(format!("refund of {given} to account {account}").into());
            }
            let books = &mut self.overlay(session).books[binding];
            *books.refunded.entry(key).or_default() += given;
            *books.balance.entry(account).or_default() += given;
            total += given;
        }
        same("refunded", Some(total), Some(amount.unwrap_or(all)))
    }

    /// What is no longer used is given back, once.
    pub(super) fn correct(&mut self, session: usize) -> Result<()> {
        let binding = self.any_binding();
        // Mostly one that has something to give back.
        let parts = self.seen(session).parts(binding).into_iter();
        let shrunk = parts.filter(|part| part.fate == SHRUNK);
        let shrunk: Vec<_> = shrunk.filter_map(|part| part.workflow).collect();
        let asked = match self.rng.choice(shrunk) {
            Some(workflow) if self.rng.u32(..4) > 0 => workflow,
            _ => self.any_workflow(),
        };
        let before = self.overlay(session).clone();
        self.follow_in(session, binding..binding + 1);
        let seen = self.seen(session);
        let workflow = seen.books[binding].correctable(asked);
        let is_known = workflow.is_some() || seen.has_run(asked) || seen.is_used(asked);
        let call = format!(
            "token_balance.correct_workflow($1{})",
            self.schema.binding_argument(binding)
        );
        let refusal = (!is_known).then_some(UNKNOWN_WORKFLOW);
        let Some(answer) = self.call(session, &call, &workflow_id(asked), refusal)? else {
            *self.overlay(session) = before;
            return Ok(());
        };
        let (added, expected) = seen.correct(binding, workflow.unwrap_or(asked));
        let accounts = self.schema.accounts[binding];
        let mut given = BTreeMap::new();
        for correction in answer["corrections"].as_array().into_iter().flatten() {
            let account = correction["user_id"].as_str().unwrap_or_default();
            given.insert(account.to_owned(), correction["amount"].as_i64());
        }
        let expected = expected.into_iter();
        let expected = expected.map(|(account, tokens)| (accounts.id(account), Some(tokens)));
        same("corrections", Some(given), Some(expected.collect()))?;
        let out: i64 = added.books[binding].corrected.values().sum();
        let figure = |name: &str| answer[name].as_i64().unwrap_or(-1);
        same(
            "corrected, exempt or not",
            Some(figure("amount") + figure("tokens_exempt")),
            Some(out),
        )?;
        if out > 0 {
            *self.counts.entry("corrections of some").or_default() += 1;
        }
        self.overlay(session).add(&added);
        Ok(())
    }

    pub(super) fn adjust(&mut self, session: usize) -> Result<()> {
        let binding = self.any_binding();
        let account = self.account_that_is_there(session, binding);
        let accounts = self.schema.accounts[binding];
        let mut amount = self.rng.i64(-3_000..3_000);
        // Not by chance back to what the balance once was: that would be a stale save, which reconcile() tells of.
        while self.was_balance(session, binding, account, amount)? {
            amount += 1;
        }
        self.sessions[session].client.execute(
            &format!(
                "UPDATE {} SET token_balance = token_balance + $2 WHERE {} = $1",
                accounts.table, accounts.key
            ),
            &[&accounts.id(account), &amount],
        )?;
        let balance = &mut self.overlay(session).books[binding].balance;
        *balance.entry(account).or_default() += amount;
        Ok(())
    }

    /// Whether the account's balance, and this more, is what it was before an entry of its ledger.
    fn was_balance(
        &mut self,
        session: usize,
        binding: usize,
        account: usize,
        more: i64,
    ) -> Result<bool> {
        let accounts = self.schema.accounts[binding];
        let sql = format!(
            "SELECT 1 FROM {} AS u JOIN token_balance.ledger AS l ON l.user_id = u.{key} \
             WHERE u.{key} = $1 AND u.token_balance + $2 = l.previous_balance",
            accounts.table,
            key = accounts.key
        );
        let client = &mut self.sessions[session].client;
        let rows = client.query(&sql, &[&accounts.id(account), &more])?;
        Ok(!rows.is_empty())
    }

    pub(super) fn savepoint(&mut self, session: usize) -> Result<()> {
        let session = &mut self.sessions[session];
        session.client.batch_execute("SAVEPOINT s")?;
        session.savepoint = session.overlay.clone();
        Ok(())
    }

    pub(super) fn rollback_to_savepoint(&mut self, session: usize) -> Result<()> {
        let session = &mut self.sessions[session];
        if let Some(savepoint) = &session.savepoint {
            session.client.batch_execute("ROLLBACK TO SAVEPOINT s")?;
            session.overlay = Some(savepoint.clone());
        }
        Ok(())
    }

    /// The answer of a function; None if it is refused as it should be.
    fn call(
        &mut self,
        session: usize,
        call: &str,
        id: &str,
        refusal: Option<&str>,
    ) -> Result<Option<Value>> {
        let rows = self.ask(session, &format!("SELECT {call}"), &[&id], refusal)?;
        Ok(rows.and_then(|rows| rows.first().map(|row| row.get(0))))
    }

    /// The rows; None if it fails with `refusal` as it should. Then the transaction goes on.
    pub(super) fn ask(
        &mut self,
        session: usize,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
        refusal: Option<&str>,
    ) -> Result<Option<Vec<postgres::Row>>> {
        let client = &mut self.sessions[session].client;
        let Some(code) = refusal else {
            return Ok(Some(client.query(sql, parameters)?));
        };
        client.batch_execute("SAVEPOINT asked")?;
        match client.query(sql, parameters) {
            Ok(_) => Err(format!("{sql}: succeeds, expected {code}").into()),
            Err(error) if sqlstate(&error) == code => {
                client.batch_execute("ROLLBACK TO SAVEPOINT asked; RELEASE SAVEPOINT asked")?;
                *self.counts.entry("refusals").or_default() += 1;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}
