//! Usage that leaves while sessions write and settle it: no token is charged twice, and none is lost.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use postgres::Client;

use crate::database::{Result, attach_sql, check_invariants, connect, describe, is_retried};
use crate::race::apply_queued;

const SESSIONS: u64 = 10;
const ACCOUNTS: usize = 5;
const WORKFLOWS: usize = 20;
/// Of the first ones usage is deleted, and nobody says so at once.
const PRUNED: usize = 5;

const TABLES: &str = "
SET client_min_messages = error;
DROP EXTENSION IF EXISTS token_balance CASCADE;
DROP TABLE IF EXISTS token_usage, workflows, users, old_usage, deleted_usage CASCADE;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE workflows (id text PRIMARY KEY, status text NOT NULL DEFAULT 'completed');
CREATE TABLE token_usage (id bigint GENERATED ALWAYS AS IDENTITY, workflow_id text NOT NULL, user_id text NOT NULL,
                          total_tokens integer NOT NULL, created_at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
CREATE TABLE old_usage (LIKE token_usage, PRIMARY KEY (id));
CREATE TABLE deleted_usage (LIKE token_usage, PRIMARY KEY (id));
CREATE EXTENSION token_balance;
ALTER TABLE users ALTER token_balance TYPE bigint;";

/// Pairs that have paid for more than was ever written, or, where all is settled ($1), for less than there is; rows that
/// are in two tables; and whether the law does not hold.
const WRONG: &str = "
WITH written AS (
    SELECT workflow_id, user_id, sum(total_tokens) AS tokens, sum(total_tokens) FILTER (WHERE is_there) AS there
    FROM (SELECT id, workflow_id, user_id, total_tokens, true AS is_there FROM token_usage
          UNION ALL SELECT id, workflow_id, user_id, total_tokens, true FROM old_usage
          UNION ALL SELECT id, workflow_id, user_id, total_tokens, false FROM deleted_usage) AS u GROUP BY 1, 2)
SELECT format('%s and %s paid for %s and got back %s, written was %s, there is %s',
              s.workflow_id, s.user_id, s.charged_tokens, s.corrected_tokens, w.tokens, w.there)
FROM token_balance.settlement AS s LEFT JOIN written AS w USING (workflow_id, user_id)
WHERE s.charged_tokens + s.corrected_tokens > coalesce(w.tokens, 0)
   OR $1::boolean AND s.charged_tokens < coalesce(w.there, 0)
UNION ALL
SELECT format('row %s is there twice', id) FROM (
    SELECT id FROM token_usage UNION ALL SELECT id FROM old_usage UNION ALL SELECT id FROM deleted_usage) AS u
GROUP BY id HAVING count(*) > 1
UNION ALL
SELECT 'the law: ' || string_agg(state || ' ' || tokens, ', ') FROM token_balance.usage_state()
HAVING sum(CASE WHEN state IN ('archived', 'shrunk') THEN -tokens ELSE tokens END)
    <> (SELECT coalesce(sum(total_tokens), 0) FROM token_usage)";

/// Sessions in each isolation level write usage of runs that are over, settle, prune, archive, accept and correct for
/// `seconds`. No error but those that are retried.
pub fn run(seed: u64, seconds: u64) -> Result<String> {
    let mut checker = connect()?;
    checker.batch_execute(TABLES)?;
    checker.batch_execute(&format!(
        "INSERT INTO users (id) SELECT 'a' || g FROM generate_series(1, {ACCOUNTS}) AS g;
         INSERT INTO workflows SELECT 'w' || g FROM generate_series(1, {WORKFLOWS}) AS g; {}",
        attach_sql()
    ))?;
    let stop = AtomicBool::new(false);
    let (done, retried) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut checks = 0;
    thread::scope(|scope| -> Result<()> {
        let sessions: Vec<_> = (0..SESSIONS)
            .map(|session| {
                let (stop, done, retried) = (&stop, &done, &retried);
                scope.spawn(move || -> Result<()> {
                    let mut client = connect()?;
                    // Most are as applications are.
                    let level = ["repeatable read", "serializable"].get(session as usize);
                    client.batch_execute(&format!(
                        "SET default_transaction_isolation = '{}'; SET client_min_messages = error; SET deadlock_timeout = '20ms'",
                        level.unwrap_or(&"read committed")
                    ))?;
                    let mut rng = Rng::with_seed(seed.wrapping_add(session));
                    while !stop.load(Ordering::Relaxed) {
                        match transaction(&mut client, &mut rng) {
                            Ok(()) => done.fetch_add(1, Ordering::Relaxed),
                            Err(error) if is_retried(&error) => {
                                retried.fetch_add(1, Ordering::Relaxed)
                            }
                            Err(error) => return Err(describe(&error).into()),
                        };
                    }
                    Ok(())
                })
            })
            .collect();
        let started = Instant::now();
        let checked = loop {
            thread::sleep(Duration::from_millis(500));
            let check = refuse_wrong(&mut checker, false);
            checks += 1;
            if check.is_err()
                || started.elapsed().as_secs() >= seconds
                || sessions.iter().any(|session| session.is_finished())
            {
                break check;
            }
        };
        stop.store(true, Ordering::Relaxed);
        for session in sessions {
            session.join().map_err(|_| "a session panicked")??;
        }
        checked
    })?;
    apply_queued(&mut checker)?;
    refuse_wrong(&mut checker, true)?;
    checker.batch_execute("SELECT token_balance.accept_deletions(clock_timestamp())")?;
    check_invariants(&mut checker, true)?;
    checker.batch_execute("SELECT token_balance.archive_usage(clock_timestamp(), 'old_usage')")?;
    apply_queued(&mut checker)?;
    refuse_wrong(&mut checker, true)?;
    let count = "SELECT (SELECT count(*) FROM token_usage), (SELECT count(*) FROM old_usage), \
                 (SELECT count(*) FROM deleted_usage)";
    let row = checker.query_one(count, &[])?;
    let [left, archived, deleted]: [i64; 3] = std::array::from_fn(|at| row.get(at));
    if left > 0 {
        return Err(format!("{left} rows of settled runs were not archived").into());
    }
    Ok(format!(
        "{} transactions, {} retried, {checks} checks, {archived} rows archived, {deleted} deleted",
        done.load(Ordering::Relaxed),
        retried.load(Ordering::Relaxed)
    ))
}

fn refuse_wrong(client: &mut Client, all_settled: bool) -> Result<()> {
    let wrong = client.query(WRONG, &[&all_settled])?;
    match wrong.first() {
        None => Ok(()),
        Some(row) => Err(row.get::<_, String>(0).into()),
    }
}

fn transaction(client: &mut Client, rng: &mut Rng) -> std::result::Result<(), postgres::Error> {
    let mut transaction = client.transaction()?;
    for _ in 0..1 + rng.usize(..4) / 3 {
        let workflow = format!("w{}", 1 + rng.usize(..WORKFLOWS));
        let account = format!("a{}", 1 + rng.usize(..ACCOUNTS));
        match rng.u32(..20) {
            0..8 => transaction.execute(
                "INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ($1, $2, $3::integer)",
                &[&workflow, &account, &rng.i32(1..100)],
            )?,
            8..11 => transaction.execute("SELECT settle_workflow($1)", &[&workflow])?,
            11 => transaction.execute("SELECT token_balance.settle_pending()", &[])?,
            12 => transaction.execute(
                "WITH gone AS (DELETE FROM token_usage WHERE id = (SELECT min(id) FROM token_usage \
                 WHERE workflow_id = $1) RETURNING *) INSERT INTO deleted_usage TABLE gone",
                &[&format!("w{}", 1 + rng.usize(..PRUNED))],
            )?,
            13..16 => transaction.execute(
                "SELECT token_balance.archive_usage(clock_timestamp() - interval '50 ms', 'old_usage', \
                 max_workflows => 2)",
                &[],
            )?,
            16 => transaction.execute("SELECT token_balance.correct_workflow($1)", &[&workflow])?,
            17 => transaction.execute("SELECT token_balance.accept_deletions(clock_timestamp())", &[])?,
            18 => transaction.execute(
                "SELECT token_balance.accept_deletions(clock_timestamp() - interval '20 ms')",
                &[],
            )?,
            _ => transaction.execute("SELECT settle_workflow($1)", &[&workflow])?,
        };
    }
    transaction.commit()
}
