//! Statements that complete many runs at once, in sessions whose runs are their own and whose
//! accounts are the same ones in opposite order.

use fastrand::Rng;
use postgres::Client;

use crate::database::{
    OPENING, Result, attach_sql, check_invariants, connect, prepare, settles_late_usage,
};
use crate::race::{apply_queued, at_once};

/// Runs a session completes in a round, and accounts that all of them share.
const RUNS: usize = 24;

/// How a session completes its runs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Update,
    /// Rows that are completed when they come.
    Insert,
    /// Rows written into the partitions and completed there, one statement each.
    Partitions,
    /// Several statements that settle at the commit.
    Deferred,
}

const WAYS: [Way; 4] = [Way::Update, Way::Insert, Way::Partitions, Way::Deferred];

/// The workflow table in two partitions.
const TABLES: &str = "
SET client_min_messages = error;
SELECT token_balance.detach();
DROP TABLE workflows;
CREATE TABLE workflows (id text, part integer, status text NOT NULL, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE workflows_0 PARTITION OF workflows FOR VALUES IN (0);
CREATE TABLE workflows_1 PARTITION OF workflows FOR VALUES IN (1);";

/// An application's trigger that writes more usage for every run while the statement is under way:
/// a first one, which fires before the extension's, and a last one, whose usage is late.
///
/// Where late usage is settled at once, it is settled row by row, and that may well deadlock.
const MORE_USAGE: &str = "
CREATE OR REPLACE FUNCTION more_usage() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN
         INSERT INTO token_usage SELECT NEW.id, min(user_id), 3 FROM token_usage WHERE workflow_id = NEW.id;
         RETURN NULL;
     END';
CREATE TRIGGER a_first AFTER INSERT OR UPDATE ON workflows FOR EACH ROW
    WHEN (NEW.status = 'completed') EXECUTE FUNCTION more_usage();";
const LATE_USAGE: &str = "
CREATE TRIGGER z_last AFTER INSERT OR UPDATE ON workflows FOR EACH ROW
    WHEN (NEW.status = 'completed') EXECUTE FUNCTION more_usage();";

/// `rounds` rounds in which two sessions, then as many in which eight complete runs: no deadlock, no
/// other error, and each token is charged.
pub fn run(seed: u64, rounds: u64) -> Result<String> {
    let mut rng = Rng::with_seed(seed);
    let mut client = prepare(RUNS, 1)?;
    client.batch_execute(TABLES)?;
    client.batch_execute(&attach_sql())?;
    if !settles_late_usage() {
        client.batch_execute(MORE_USAGE)?;
    }
    let mut statements = 0;
    for sessions in [2, 8] {
        for round in 0..rounds as usize {
            let way = WAYS[round % WAYS.len()];
            let name = format!("{sessions}r{round:05}");
            complete_at_once(&mut client, &mut rng, &name, sessions, way)
                .map_err(|error| format!("{way:?}, {sessions} sessions, round {round}: {error}"))?;
            statements += sessions * if way == Way::Update { 1 } else { 2 };
            check_sums(&mut client)?;
        }
        check_invariants(&mut client, true)?;
    }
    if !settles_late_usage() {
        client.batch_execute(LATE_USAGE)?;
        for way in WAYS {
            complete_at_once(&mut client, &mut rng, &format!("late{way:?}"), 2, way)?;
            check_invariants(&mut client, false)?;
        }
    }
    apply_queued(&mut client)?;
    check_sums(&mut client)?;
    check_invariants(&mut client, true)?;
    let count = "SELECT count(*), count(DISTINCT workflow_id) FROM token_balance.ledger";
    let row = client.query_one(count, &[])?;
    let (entries, runs): (i64, i64) = (row.get(0), row.get(1));
    Ok(format!(
        "{statements} statements of {} rounds completed {runs} runs over {RUNS} accounts, \
         {entries} charges, no deadlock",
        2 * rounds
    ))
}

/// New runs with usage, which the sessions then complete: the first in the order of accounts, the
/// second in the opposite order, the others in any.
fn complete_at_once(
    client: &mut Client,
    rng: &mut Rng,
    name: &str,
    sessions: usize,
    way: Way,
) -> Result<()> {
    let mut runs = Vec::new();
    for session in 0..sessions {
        let mut accounts: Vec<usize> = (0..RUNS).collect();
        match session {
            0 => {}
            1 => accounts.reverse(),
            _ => rng.shuffle(&mut accounts),
        }
        // Their ids rise as their rows do, so whatever plan reads them takes them in this order.
        let ids: Vec<String> = (0..RUNS)
            .map(|run| format!("{name}s{session}r{run:02}"))
            .collect();
        for (run, id) in ids.iter().enumerate() {
            for account in [accounts[run], accounts[(run + 1) % RUNS]] {
                client.execute(
                    "INSERT INTO token_usage VALUES ($1, $2, $3)",
                    &[id, &format!("a{account}"), &rng.i32(1..100)],
                )?;
            }
        }
        if matches!(way, Way::Update | Way::Deferred) {
            client.execute(
                "INSERT INTO workflows SELECT id, number % 2, 'running' \
                 FROM unnest($1::text[]) WITH ORDINALITY AS i (id, number)",
                &[&ids],
            )?;
        }
        runs.push(ids);
    }
    let mut clients = (0..sessions)
        .map(|_| connect())
        .collect::<Result<Vec<_>>>()?;
    at_once(&mut clients, |session, client| {
        complete(client, &runs[session], way)
    })?;
    Ok(())
}

fn complete(
    client: &mut Client,
    ids: &[String],
    way: Way,
) -> std::result::Result<(), postgres::Error> {
    let update = "UPDATE workflows SET status = 'completed' WHERE id = ANY ($1)";
    let (first, second) = ids.split_at(ids.len() / 2);
    match way {
        Way::Update => client.execute(update, &[&ids]).map(|_| ()),
        Way::Insert => {
            for ids in [first, second] {
                client.execute(
                    "INSERT INTO workflows SELECT id, number % 2, 'completed' \
                     FROM unnest($1::text[]) WITH ORDINALITY AS i (id, number)",
                    &[&ids],
                )?;
            }
            Ok(())
        }
        Way::Partitions => {
            client.execute(
                "INSERT INTO workflows_0 SELECT id, 0, 'completed' FROM unnest($1::text[]) AS i (id)",
                &[&first],
            )?;
            client.execute(
                "INSERT INTO workflows_1 SELECT id, 1, 'running' FROM unnest($1::text[]) AS i (id)",
                &[&second],
            )?;
            client
                .execute(
                    "UPDATE workflows_1 SET status = 'completed' WHERE id = ANY ($1)",
                    &[&second],
                )
                .map(|_| ())
        }
        Way::Deferred => {
            let mut transaction = client.transaction()?;
            transaction.batch_execute("SET CONSTRAINTS ALL DEFERRED")?;
            transaction.execute(update, &[&first])?;
            transaction.execute(update, &[&second])?;
            transaction.commit()
        }
    }
}

/// What all runs have used is what left the balances.
fn check_sums(client: &mut Client) -> Result<()> {
    let row = client.query_one(
        "SELECT (SELECT sum(total_tokens) FROM token_usage)::bigint, \
         ((SELECT sum($1 - token_balance) FROM users) \
          + (SELECT coalesce(sum(tokens), 0) FROM token_balance.queue))::bigint",
        &[&OPENING],
    )?;
    let (used, charged): (i64, i64) = (row.get(0), row.get(1));
    match used == charged {
        true => Ok(()),
        false => Err(format!("{used} tokens were used and {charged} charged").into()),
    }
}
