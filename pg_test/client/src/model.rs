//! A seeded generator of operations against an in-memory oracle, compared after every commit.
//!
//! Three sessions take turns, each in a transaction of its own, so that uncommitted work of one is
//! there while the others settle. Whatever would wait for another session's lock times out and the
//! transaction is rolled back, as an application would. Every effect is an addition (usage, charges,
//! balances), so a session's work is an overlay that a commit adds to the committed state.

use std::collections::BTreeMap;

use fastrand::Rng;
use postgres::Client;
use serde_json::Value;

use crate::database::{
    OPENING, Result, check_invariants, connect, describe, is_retried, prepare, settles_late_usage,
};

const ACCOUNTS: usize = 12;
const WORKFLOWS: usize = 30;
const SESSIONS: usize = 3;

/// What the accounts have left: the column less what waits in the queue.
const BALANCES: &str = "SELECT u.id, u.token_balance - coalesce((SELECT sum(q.tokens) \
     FROM token_balance.queue AS q WHERE q.user_id = u.id), 0)::bigint FROM users AS u";

type Key = (usize, usize);

/// What is true, or what a transaction adds to it.
#[derive(Clone, Default)]
struct State {
    usage: BTreeMap<Key, i64>,
    accounted: BTreeMap<Key, i64>,
    charged: BTreeMap<Key, i64>,
    refunded: BTreeMap<Key, i64>,
    balance: BTreeMap<usize, i64>,
    completed: BTreeMap<usize, bool>,
    references: BTreeMap<(usize, u64), i64>,
}

fn add<K: Ord + Copy>(to: &mut BTreeMap<K, i64>, from: &BTreeMap<K, i64>) {
    for (key, amount) in from {
        *to.entry(*key).or_default() += amount;
    }
}

impl State {
    fn add(&mut self, other: &State) {
        add(&mut self.usage, &other.usage);
        add(&mut self.accounted, &other.accounted);
        add(&mut self.charged, &other.charged);
        add(&mut self.refunded, &other.refunded);
        add(&mut self.balance, &other.balance);
        self.completed.extend(&other.completed);
        self.references.extend(&other.references);
    }

    fn is_completed(&self, workflow: usize) -> bool {
        self.completed.get(&workflow).copied().unwrap_or_default()
    }
}

struct Session {
    client: Client,
    /// What the open transaction has done; None if there is none.
    overlay: Option<State>,
    savepoint: Option<State>,
}

struct Model {
    rng: Rng,
    committed: State,
    sessions: Vec<Session>,
    checker: Client,
    counts: BTreeMap<&'static str, u64>,
}

/// `operations` random operations; Err with the first difference.
pub fn run(seed: u64, operations: u64) -> Result<String> {
    prepare(ACCOUNTS, WORKFLOWS)?;
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        let mut client = connect()?;
        client.batch_execute("SET lock_timeout = '20ms'; SET client_min_messages = error")?;
        sessions.push(Session {
            client,
            overlay: None,
            savepoint: None,
        });
    }
    let mut model = Model {
        rng: Rng::with_seed(seed),
        committed: State::default(),
        sessions,
        checker: connect()?,
        counts: BTreeMap::new(),
    };
    for operation in 0..operations {
        model
            .step()
            .map_err(|error| format!("operation {operation}: {error}"))?;
    }
    for session in 0..SESSIONS {
        model.end(session, true)?;
    }
    check_invariants(&mut model.checker, false)?;
    Ok(model
        .counts
        .iter()
        .map(|(what, count)| format!("{what} {count}"))
        .collect::<Vec<_>>()
        .join(", "))
}

impl Model {
    fn step(&mut self) -> Result<()> {
        let session = self.rng.usize(..SESSIONS);
        if self.sessions[session].overlay.is_none() {
            self.sessions[session].client.batch_execute("BEGIN")?;
            self.sessions[session].overlay = Some(State::default());
        }
        let (name, outcome) = match self.rng.u32(..100) {
            0..30 => ("usage", self.use_tokens(session)),
            30..40 => ("completion", self.complete(session)),
            40..45 => ("bulk completion", self.complete_several(session)),
            45..55 => ("settle", self.settle(session)),
            55..60 => ("batch", self.settle_batch(session)),
            60..66 => ("credit", self.credit(session)),
            66..72 => ("refund", self.refund(session)),
            72..77 => ("adjustment", self.adjust(session)),
            77..82 => ("savepoint", self.savepoint(session)),
            82..87 => ("rollback to savepoint", self.rollback_to_savepoint(session)),
            87..97 => ("commit", self.end(session, true)),
            _ => ("rollback", self.end(session, false)),
        };
        *self.counts.entry(name).or_default() += 1;
        match outcome {
            Err(error) => match error.downcast_ref::<postgres::Error>() {
                Some(database) if is_retried(database) => {
                    *self.counts.entry("lock timeouts").or_default() += 1;
                    self.end(session, false)
                }
                Some(database) => Err(format!("{name}: {}", describe(database)).into()),
                None => Err(format!("{name}: {error}").into()),
            },
            Ok(()) => Ok(()),
        }
    }

    /// What the session sees: all that is committed and its own work.
    fn seen(&self, session: usize) -> State {
        let mut seen = self.committed.clone();
        if let Some(overlay) = &self.sessions[session].overlay {
            seen.add(overlay);
        }
        seen
    }

    fn overlay(&mut self, session: usize) -> &mut State {
        self.sessions[session].overlay.get_or_insert_default()
    }

    fn use_tokens(&mut self, session: usize) -> Result<()> {
        let key = (self.rng.usize(..WORKFLOWS), self.rng.usize(..ACCOUNTS));
        let tokens = self.rng.i64(0..5_000);
        let (workflow, account) = ids(key);
        self.sessions[session].client.execute(
            "INSERT INTO token_usage VALUES ($1, $2, $3)",
            &[&workflow, &account, &(tokens as i32)],
        )?;
        *self.overlay(session).usage.entry(key).or_default() += tokens;
        if settles_late_usage() && self.seen(session).is_completed(key.0) {
            self.charge(session, key.0);
        }
        Ok(())
    }

    fn complete(&mut self, session: usize) -> Result<()> {
        let workflow = self.rng.usize(..WORKFLOWS);
        let was_completed = self.seen(session).is_completed(workflow);
        // A completed run may be taken up again.
        let status = if was_completed && self.rng.bool() {
            "running"
        } else {
            "completed"
        };
        self.sessions[session].client.execute(
            "UPDATE workflows SET status = $2 WHERE id = $1",
            &[&format!("w{workflow}"), &status],
        )?;
        self.overlay(session)
            .completed
            .insert(workflow, status == "completed");
        if status == "completed" && !was_completed {
            self.charge(session, workflow);
        }
        Ok(())
    }

    /// Several runs in one statement; those that were completed before are not completed again.
    fn complete_several(&mut self, session: usize) -> Result<()> {
        let workflows = self.several_workflows();
        self.sessions[session].client.execute(
            "UPDATE workflows SET status = 'completed' WHERE id = ANY ($1)",
            &[&names(&workflows)],
        )?;
        for workflow in workflows {
            if !self.seen(session).is_completed(workflow) {
                self.overlay(session).completed.insert(workflow, true);
                self.charge(session, workflow);
            }
        }
        Ok(())
    }

    fn several_workflows(&mut self) -> Vec<usize> {
        let count = self.rng.usize(2..8);
        self.rng.choose_multiple(0..WORKFLOWS, count)
    }

    /// What a settlement must do.
    fn charge(&mut self, session: usize, workflow: usize) -> i64 {
        let seen = self.seen(session);
        let mut total = 0;
        let of_workflow = seen.usage.range((workflow, 0)..(workflow + 1, 0));
        for (key, used) in of_workflow {
            let tokens = used - seen.accounted.get(key).copied().unwrap_or_default();
            if tokens > 0 {
                let overlay = self.overlay(session);
                *overlay.accounted.entry(*key).or_default() += tokens;
                *overlay.charged.entry(*key).or_default() += tokens;
                *overlay.balance.entry(key.1).or_default() -= tokens;
                total += tokens;
            }
        }
        total
    }

    fn settle(&mut self, session: usize) -> Result<()> {
        let workflow = self.rng.usize(..WORKFLOWS);
        let answer = self.call(session, "settle_workflow($1)", &format!("w{workflow}"))?;
        let expected = self.charge(session, workflow);
        same(
            "tokens_used",
            answer["tokens_used"].as_i64(),
            Some(expected),
        )
    }

    fn settle_batch(&mut self, session: usize) -> Result<()> {
        let workflows = self.several_workflows();
        let row = self.sessions[session].client.query_one(
            "SELECT coalesce(sum(charged_tokens), 0)::bigint FROM token_balance.settle_workflows($1)",
            &[&names(&workflows)],
        )?;
        let mut expected = 0;
        for workflow in workflows {
            expected += self.charge(session, workflow);
        }
        same(
            "charged_tokens of a batch",
            Some(row.get(0)),
            Some(expected),
        )
    }

    fn credit(&mut self, session: usize) -> Result<()> {
        let account = self.rng.usize(..ACCOUNTS);
        let reference = self.rng.u64(..40);
        // A reference says its amount, so that a repeated one is a retry.
        let amount = 1 + (reference as i64 * 37) % 900;
        let call = format!("token_balance.credit($1, {amount}, 'ref{reference}')");
        let was_made = self
            .seen(session)
            .references
            .contains_key(&(account, reference));
        let answer = self.call(session, &call, &format!("a{account}"))?;
        same("replayed", answer["replayed"].as_bool(), Some(was_made))?;
        if !was_made {
            let overlay = self.overlay(session);
            overlay.references.insert((account, reference), amount);
            *overlay.balance.entry(account).or_default() += amount;
        }
        Ok(())
    }

    fn refund(&mut self, session: usize) -> Result<()> {
        let workflow = self.rng.usize(..WORKFLOWS);
        let seen = self.seen(session);
        let left = |key: &Key| {
            let of = |map: &BTreeMap<Key, i64>| map.get(key).copied().unwrap_or_default();
            of(&seen.charged) - of(&seen.refunded)
        };
        let all: i64 = (0..ACCOUNTS)
            .map(|account| left(&(workflow, account)))
            .sum();
        let amount = if all > 0 && self.rng.bool() {
            Some(self.rng.i64(1..=all))
        } else {
            None
        };
        let argument = amount.map_or("NULL".to_owned(), |amount| amount.to_string());
        let call = format!("token_balance.refund_workflow($1, {argument})");
        let answer = self.call(session, &call, &format!("w{workflow}"))?;
        let mut total = 0;
        for refund in answer["refunds"].as_array().into_iter().flatten() {
            let account: usize = refund["user_id"].as_str().unwrap_or("a?")[1..].parse()?;
            let given = refund["amount"].as_i64().unwrap_or_default();
            if given <= 0 || given > left(&(workflow, account)) {
                return Err(format!("refund of {given} to a{account}").into());
            }
            let overlay = self.overlay(session);
            *overlay.refunded.entry((workflow, account)).or_default() += given;
            *overlay.balance.entry(account).or_default() += given;
            total += given;
        }
        same("refunded", Some(total), Some(amount.unwrap_or(all)))
    }

    fn adjust(&mut self, session: usize) -> Result<()> {
        let account = self.rng.usize(..ACCOUNTS);
        let amount = self.rng.i64(-3_000..3_000);
        self.sessions[session].client.execute(
            "UPDATE users SET token_balance = token_balance + $2 WHERE id = $1",
            &[&format!("a{account}"), &amount],
        )?;
        *self.overlay(session).balance.entry(account).or_default() += amount;
        Ok(())
    }

    fn savepoint(&mut self, session: usize) -> Result<()> {
        let session = &mut self.sessions[session];
        session.client.batch_execute("SAVEPOINT s")?;
        session.savepoint = session.overlay.clone();
        Ok(())
    }

    fn rollback_to_savepoint(&mut self, session: usize) -> Result<()> {
        let session = &mut self.sessions[session];
        if let Some(savepoint) = &session.savepoint {
            session.client.batch_execute("ROLLBACK TO SAVEPOINT s")?;
            session.overlay = Some(savepoint.clone());
        }
        Ok(())
    }

    fn end(&mut self, session: usize, commit: bool) -> Result<()> {
        let session = &mut self.sessions[session];
        session.savepoint = None;
        let Some(overlay) = session.overlay.take() else {
            return Ok(());
        };
        session
            .client
            .batch_execute(if commit { "COMMIT" } else { "ROLLBACK" })?;
        if commit {
            self.committed.add(&overlay);
            self.compare()?;
        }
        Ok(())
    }

    fn call(&mut self, session: usize, call: &str, id: &str) -> Result<Value> {
        let row = self.sessions[session]
            .client
            .query_one(&format!("SELECT {call}"), &[&id])?;
        Ok(row.get(0))
    }

    /// The database against the oracle, all of it.
    fn compare(&mut self) -> Result<()> {
        let comparisons = self.counts.entry("comparisons").or_default();
        *comparisons += 1;
        if comparisons.is_multiple_of(20) {
            check_invariants(&mut self.checker, false)?;
        }
        for row in self.checker.query(BALANCES, &[])? {
            let id: String = row.get(0);
            let account: usize = id[1..].parse()?;
            let change = self
                .committed
                .balance
                .get(&account)
                .copied()
                .unwrap_or_default();
            same(
                &format!("balance of {id}"),
                Some(row.get(1)),
                Some(OPENING + change),
            )?;
        }
        let rows = self.checker.query(
            "SELECT workflow_id, user_id, usage_tokens, charged_tokens, refunded_tokens \
             FROM token_balance.settlement",
            &[],
        )?;
        let mut charged = 0;
        for row in rows {
            let (workflow, account): (String, String) = (row.get(0), row.get(1));
            let key = (workflow[1..].parse()?, account[1..].parse()?);
            let of = |map: &BTreeMap<Key, i64>| map.get(&key).copied().unwrap_or_default();
            let what = |column| format!("{column} of {workflow} and {account}");
            same(
                &what("usage_tokens"),
                row.get(2),
                Some(of(&self.committed.accounted)),
            )?;
            same(
                &what("charged_tokens"),
                row.get(3),
                Some(of(&self.committed.charged)),
            )?;
            same(
                &what("refunded_tokens"),
                row.get(4),
                Some(of(&self.committed.refunded)),
            )?;
            charged += row.get::<_, i64>(3);
        }
        same(
            "all charges",
            Some(charged),
            Some(self.committed.charged.values().sum()),
        )
    }
}

fn names(workflows: &[usize]) -> Vec<String> {
    workflows
        .iter()
        .map(|workflow| format!("w{workflow}"))
        .collect()
}

fn ids((workflow, account): Key) -> (String, String) {
    (format!("w{workflow}"), format!("a{account}"))
}

fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    got: Option<T>,
    expected: Option<T>,
) -> Result<()> {
    match got == expected {
        true => Ok(()),
        false => Err(format!("{what}: got {got:?}, expected {expected:?}").into()),
    }
}
