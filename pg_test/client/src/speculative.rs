//! Settlements of more runs than a transaction locks, which meet another's in a settlement row that
//! neither has written yet: who comes second waits for the first to end, and for nobody who waits.

use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;

use crate::database::{Result, check_invariants, connect, describe, prepare};
use crate::race::apply_queued;

/// Runs of each bulk settlement of its own, more than the locks that a transaction takes.
const RUNS: usize = 1_200;

/// An index that the extension did not make: settlements are then written by SQL.
const BY_SQL: &str = "CREATE INDEX more ON token_balance.settlement USING brin (first_settled_at)";

pub fn run(rounds: u64) -> Result<String> {
    let mut settled = 0;
    for round in 0..rounds {
        for by_sql in [false, true] {
            for end in ["ROLLBACK", "COMMIT"] {
                for bulks in [2, 3] {
                    let outcome = meet(by_sql, end, bulks).map_err(|error| {
                        format!("round {round}, {bulks} sessions, {end}, SQL: {by_sql}: {error}")
                    })?;
                    settled += outcome;
                }
            }
        }
    }
    Ok(format!(
        "{} meetings in one run that a transaction has settled, of bulk settlements of {} runs: \
         {settled} charges, no deadlock",
        8 * rounds,
        RUNS + 1
    ))
}

/// T0 settles the run that all of them lock last, and ends as `end` says once all bulk settlements
/// that contain it wait.
fn meet(by_sql: bool, end: &str, bulks: usize) -> Result<i64> {
    let mut client = prepare(bulks + 1, 0)?;
    if by_sql {
        client.batch_execute(BY_SQL)?;
    }
    // Workflow locks are taken in the order of this hash, as an unsigned number.
    let victim: String = client
        .query_one(
            "SELECT id FROM (SELECT 'v' || g AS id FROM generate_series(1, 3000) AS g) AS q \
             CROSS JOIN LATERAL (SELECT hashtextextended(id COLLATE \"C\", 0) AS h) AS h \
             ORDER BY (h < 0) DESC, h DESC LIMIT 1",
            &[],
        )?
        .get(0);
    client.batch_execute(&format!(
        "BEGIN; SET LOCAL session_replication_role = replica;
         INSERT INTO workflows SELECT 's' || s || 'r' || g, 'completed'
         FROM generate_series(1, {bulks}) AS s, generate_series(1, {RUNS}) AS g;
         INSERT INTO workflows VALUES ('{victim}', 'completed');
         INSERT INTO token_usage SELECT 's' || s || 'r' || g, 'a' || s, g
         FROM generate_series(1, {bulks}) AS s, generate_series(1, {RUNS}) AS g;
         INSERT INTO token_usage VALUES ('{victim}', 'a0', 7);
         COMMIT;"
    ))?;
    let mut first = open()?;
    let mut transaction = first.transaction()?;
    transaction.execute("SELECT settle_workflow($1)", &[&victim])?;
    let bulk: Vec<_> = (1..=bulks)
        .map(|session| {
            let victim = victim.clone();
            thread::spawn(move || -> Result<i64> {
                let settle = "SELECT count(*) FROM token_balance.settle_workflows((\
                              SELECT array_agg(id) FROM (\
                              SELECT 's' || $1::text || 'r' || g FROM generate_series(1, $2) AS g \
                              UNION ALL SELECT $3) AS i (id)))";
                let arguments: [&(dyn postgres::types::ToSql + Sync); 3] =
                    [&session.to_string(), &(RUNS as i32), &victim];
                let row = open()?
                    .query_one(settle, &arguments)
                    .map_err(|error| describe(&error))?;
                Ok(row.get(0))
            })
        })
        .collect();
    wait_until_all_wait(&mut client, bulks as i64)?;
    match end {
        "COMMIT" => transaction.commit()?,
        _ => transaction.rollback()?,
    }
    let mut charges = i64::from(end == "COMMIT");
    let mut wrong = Vec::new();
    for session in bulk {
        match session.join().map_err(|_| "a session panicked")? {
            Ok(made) => charges += made,
            Err(error) => wrong.push(error.to_string()),
        }
    }
    if !wrong.is_empty() {
        return Err(wrong.join(", ").into());
    }
    let expected = (bulks * RUNS + 1) as i64;
    if charges != expected {
        return Err(format!("{charges} charges, not {expected}").into());
    }
    apply_queued(&mut client)?;
    check_invariants(&mut client, true)?;
    Ok(charges)
}

fn open() -> Result<Client> {
    let mut client = connect()?;
    client.batch_execute("SET client_min_messages = error; SET deadlock_timeout = '200ms'")?;
    Ok(client)
}

/// Bulk settlements that have come to the run wait for a lock.
fn wait_until_all_wait(client: &mut Client, count: i64) -> Result<()> {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                   AND state = 'active' AND wait_event_type = 'Lock'";
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(20) {
        let found: i64 = client.query_one(waiting, &[])?.get(0);
        if found >= count {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Err(format!("no {count} sessions came to wait for the run").into())
}
