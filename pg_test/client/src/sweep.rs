//! Many runs at once, beside sessions that settle one run a transaction: the sweep, late usage,
//! bulk loads of usage. Each transaction is one statement in READ COMMITTED, so none of them may
//! meet another in a deadlock.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use postgres::Client;

use crate::database::{Result, attach_options, check_invariants, connect, describe};
use crate::race::{apply_queued, at_once};

/// Sessions that settle one run a transaction meanwhile.
const CLIENTS: usize = 4;
const ACCOUNTS: usize = 50;

/// Where everybody locks all that is settled together, and where each of many runs has its lock.
const LATE: &str = "late_usage => 'settle'";
const BINDINGS: [&str; 4] = [
    LATE,
    "usage_user => NULL, workflow_user => 'user_id'",
    "usage_user => NULL, workflow_user => 'user_id', late_usage => 'settle'",
    "late_usage => 'pending'",
];

/// One sweep over `runs` completed runs that nobody has settled, beside sessions that call the
/// function for random ones of them: by each binding.
pub fn sweep(seed: u64, runs: u64) -> Result<String> {
    let mut said = Vec::new();
    for options in BINDINGS {
        let by_clients = sweep_by(seed, runs as usize, options)
            .map_err(|error| format!("{options}: {error}"))?;
        said.push(by_clients.to_string());
    }
    Ok(format!(
        "{} sweeps of {runs} runs, of which {CLIENTS} sessions settled {} meanwhile: all charged \
         once, no deadlock",
        BINDINGS.len(),
        said.join(", ")
    ))
}

fn sweep_by(seed: u64, runs: usize, options: &str) -> Result<u64> {
    let mut client = prepare(options)?;
    write_unsettled(&mut client, "w", runs, "completed")?;
    let stop = AtomicBool::new(false);
    let by_clients = AtomicU64::new(0);
    let mut sessions = open(CLIENTS + 1)?;
    // All of them have read the binding and have their plans: the first runs are theirs.
    for (session, client) in sessions.iter_mut().enumerate() {
        client.execute("SELECT settle_workflow($1)", &[&format!("w{session}")])?;
    }
    at_once(&mut sessions, |session, client| {
        if session == CLIENTS {
            let swept = client.execute("SELECT token_balance.settle_pending()", &[]);
            stop.store(true, Ordering::SeqCst);
            return swept.map(|_| ());
        }
        let mut rng = Rng::with_seed(seed.wrapping_add(session as u64));
        while !stop.load(Ordering::SeqCst) {
            let workflow = format!("w{}", rng.usize(..runs));
            let settle = "SELECT (settle_workflow($1) ->> 'tokens_used')::bigint";
            let tokens: i64 = client.query_one(settle, &[&workflow])?.get(0);
            by_clients.fetch_add(u64::from(tokens > 0), Ordering::SeqCst);
        }
        Ok(())
    })?;
    check_charges(&mut client)?;
    let entries: i64 = client
        .query_one("SELECT count(*) FROM token_balance.ledger", &[])?
        .get(0);
    match entries == runs as i64 {
        true => Ok(by_clients.into_inner()),
        false => Err(format!("{entries} charges of {runs} runs").into()),
    }
}

/// Late usage of one run and of many, and usage of runs that complete meanwhile, `rounds` times.
pub fn late(seed: u64, rounds: u64) -> Result<String> {
    let mut client = prepare(LATE)?;
    let mut rng = Rng::with_seed(seed);
    let mut completed = 0;
    for round in 0..rounds {
        let name = |what: &str| format!("{what}{round}-");
        one_run(&mut client, &name("one"))?;
        completed += many_rows_of_one_run(&mut client, &mut rng, &name("many"))?;
        for shares_accounts in [false, true] {
            two_writers(
                &mut client,
                &name(&format!("two{shares_accounts}")),
                shares_accounts,
            )
            .map_err(|error| format!("two writers, {shares_accounts}: {error}"))?;
        }
        completed += any_order(&mut client, &mut rng, &name("any"))
            .map_err(|error| format!("any order: {error}"))?;
        completed += bulk_loads(&mut client, &mut rng, &name("bulk"))
            .map_err(|error| format!("bulk loads: {error}"))?;
        check_charges(&mut client)?;
    }
    Ok(format!(
        "{rounds} rounds of late usage of one run, of many in any order and of bulk loads, \
         beside {completed} completions: all charged exactly, no deadlock"
    ))
}

/// So many rows that a lock for each of them would be too many.
const ROWS: usize = 1_200;

/// Who has written usage of one run keeps nobody from settling another, however many rows it is.
fn one_run(client: &mut Client, name: &str) -> Result<()> {
    write_unsettled(client, name, 2, "running")?;
    client.execute(
        "UPDATE workflows SET status = 'completed' WHERE id = $1",
        &[&format!("{name}0")],
    )?;
    let mut sessions = open(2)?;
    let [writer, other] = &mut sessions[..] else {
        return Err("no two sessions".into());
    };
    let mut transaction = writer.transaction()?;
    transaction.execute(LATE_ROWS, &[&format!("{name}0"), &"a0", &(ROWS as i32)])?;
    other.batch_execute("SET lock_timeout = '3s'")?;
    let complete = "UPDATE workflows SET status = 'completed' WHERE id = $1";
    other
        .execute(complete, &[&format!("{name}1")])
        .map_err(|error| format!("{ROWS} late rows of another run: {}", describe(&error)))?;
    transaction.commit()?;
    Ok(())
}

const LATE_ROWS: &str = "INSERT INTO token_usage SELECT $1, $2, 1 FROM generate_series(1, $3)";

/// Late rows of one run in one statement, beside completions of other runs.
fn many_rows_of_one_run(client: &mut Client, rng: &mut Rng, name: &str) -> Result<u64> {
    const RUNS: usize = 200;
    write_unsettled(client, name, RUNS, "running")?;
    let late = format!("{name}late");
    client.execute(
        "INSERT INTO workflows VALUES ($1, 'a0', 'completed')",
        &[&late],
    )?;
    let mut sessions = open(CLIENTS + 1)?;
    let shuffled = shuffled(rng, RUNS);
    at_once(&mut sessions, |session, client| {
        if session == CLIENTS {
            return client
                .execute(LATE_ROWS, &[&late, &"a0", &(ROWS as i32)])
                .map(|_| ());
        }
        complete_each(client, name, shuffled.iter().skip(session).step_by(CLIENTS))
    })?;
    Ok(RUNS as u64)
}

fn complete_each<'a>(
    client: &mut Client,
    name: &str,
    runs: impl Iterator<Item = &'a usize>,
) -> std::result::Result<(), postgres::Error> {
    for run in runs {
        let complete = "UPDATE workflows SET status = 'completed' WHERE id = $1";
        client.execute(complete, &[&format!("{name}{run}")])?;
    }
    Ok(())
}

fn shuffled(rng: &mut Rng, count: usize) -> Vec<usize> {
    let mut all: Vec<_> = (0..count).collect();
    rng.shuffle(&mut all);
    all
}

/// Two sessions write late usage of more runs each than a transaction locks singly, one statement a
/// transaction. The runs are their own; so are the accounts, or they share them.
fn two_writers(client: &mut Client, name: &str, shares_accounts: bool) -> Result<()> {
    const RUNS: usize = 1_100;
    write_unsettled(client, name, 2 * RUNS, "completed")?;
    client.execute("SELECT token_balance.settle_pending()", &[])?;
    let mut sessions = open(2)?;
    let write = "INSERT INTO token_usage SELECT $1 || (2 * g + $2), \
                 'a' || CASE WHEN $3 THEN g * 50 / $4 ELSE 2 * (g % 25) + $2 END, 1 \
                 FROM generate_series(0, $4 - 1) AS g";
    at_once(&mut sessions, |session, client| {
        let session = session as i32;
        let runs = RUNS as i32;
        client.execute(write, &[&name, &session, &shares_accounts, &runs])
    })?;
    Ok(())
}

/// Sessions write usage of the same runs and accounts, each statement of many in an order of its own,
/// beside others that complete some of these runs one by one.
fn any_order(client: &mut Client, rng: &mut Rng, name: &str) -> Result<u64> {
    const RUNS: usize = 120;
    const WRITERS: usize = 4;
    const STATEMENTS: usize = 8;
    write_unsettled(client, name, RUNS, "running")?;
    // A third is completed before, a third meanwhile, a third stays open.
    for run in 0..RUNS / 3 {
        complete_each(client, name, [run].iter())?;
    }
    let mut statements = || -> Vec<(Vec<String>, Vec<String>)> {
        let mut rows = || -> (Vec<String>, Vec<String>) {
            let runs = shuffled(rng, RUNS);
            let runs = runs.iter().take(RUNS / 2).map(|run| format!("{name}{run}"));
            let accounts = runs.clone().map(|_| format!("a{}", rng.usize(..50)));
            (runs.clone().collect(), accounts.collect())
        };
        (0..STATEMENTS).map(|_| rows()).collect()
    };
    let written: Vec<_> = (0..WRITERS).map(|_| statements()).collect();
    let mut sessions = open(WRITERS + 2)?;
    let write =
        "INSERT INTO token_usage SELECT r, a, 1 FROM unnest($1::text[], $2::text[]) AS u (r, a)";
    at_once(&mut sessions, |session, client| {
        if let Some(statements) = written.get(session) {
            for (runs, accounts) in statements {
                client.execute(write, &[runs, accounts])?;
            }
            return Ok(());
        }
        let runs: Vec<_> = (RUNS / 3 + session - WRITERS..RUNS * 2 / 3)
            .step_by(2)
            .collect();
        complete_each(client, name, runs.iter())
    })?;
    Ok(RUNS as u64 * 2 / 3)
}

/// Usage of several thousand open runs in one statement, beside completions: of other runs all the
/// time, and of the first of these runs once the load has come past them, which wait for it.
fn bulk_loads(client: &mut Client, rng: &mut Rng, name: &str) -> Result<u64> {
    const LOADED: usize = 4_000;
    const FIRST: usize = 100;
    const OTHERS: usize = 2_000;
    let (loaded, others) = (format!("{name}loaded"), format!("{name}other"));
    write_unsettled(client, &loaded, LOADED, "running")?;
    write_unsettled(client, &others, OTHERS, "running")?;
    let shuffled = shuffled(rng, OTHERS);
    let is_loaded = AtomicBool::new(false);
    let completed = AtomicU64::new(0);
    let mut sessions = open(CLIENTS + 1)?;
    let pid: i32 = sessions[CLIENTS]
        .query_one("SELECT pg_backend_pid()", &[])?
        .get(0);
    let load = "INSERT INTO token_usage SELECT $1 || g, 'a' || g % 50, 1 \
                FROM generate_series(0, $2 - 1) AS g";
    at_once(&mut sessions, |session, client| {
        match session {
            CLIENTS => {
                let loaded = client.execute(load, &[&loaded, &(LOADED as i32)]);
                is_loaded.store(true, Ordering::SeqCst);
                loaded.map(|_| ())
            }
            0 | 1 => {
                // Those that it has come past are locked.
                while !is_loaded.load(Ordering::SeqCst) && locks_of(client, pid)? < 2 * FIRST as i64
                {
                    thread::sleep(Duration::from_millis(1));
                }
                let runs: Vec<_> = (session..FIRST).step_by(2).collect();
                complete_each(client, &loaded, runs.iter())
            }
            _ => {
                for run in shuffled.iter().skip(session - 2).step_by(CLIENTS - 2) {
                    if is_loaded.load(Ordering::SeqCst) {
                        break;
                    }
                    complete_each(client, &others, [run].into_iter())?;
                    completed.fetch_add(1, Ordering::SeqCst);
                    // Steadily: all the time that the load takes.
                    thread::sleep(Duration::from_millis(1));
                }
                Ok(())
            }
        }
    })?;
    Ok(completed.into_inner() + FIRST as u64)
}

fn locks_of(client: &mut Client, pid: i32) -> std::result::Result<i64, postgres::Error> {
    let count =
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = $1 AND granted";
    Ok(client.query_one(count, &[&pid])?.get(0))
}

/// The extension bound with these options, and with what ATTACH says of busy accounts.
fn prepare(options: &str) -> Result<Client> {
    let is_queued = attach_options().is_some_and(|options| options.contains("'queue'"));
    let busy = if is_queued {
        ", busy_account => 'queue'"
    } else {
        ""
    };
    let mut client = connect()?;
    client.batch_execute(&format!(
        "SET client_min_messages = error;
         DROP EXTENSION IF EXISTS token_balance CASCADE;
         DROP TABLE IF EXISTS token_usage, workflows, users CASCADE;
         CREATE EXTENSION token_balance;
         CREATE TABLE users (id text PRIMARY KEY, token_balance bigint NOT NULL DEFAULT 1000000);
         CREATE TABLE workflows (id text PRIMARY KEY, user_id text NOT NULL, status text NOT NULL);
         CREATE TABLE token_usage (workflow_id text NOT NULL, user_id text NOT NULL,
                                   total_tokens integer NOT NULL);
         CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
         INSERT INTO users (id) SELECT 'a' || g FROM generate_series(0, {}) AS g;
         SELECT token_balance.attach('users', 'token_usage', 'workflows', {options}{busy});",
        ACCOUNTS - 1
    ))?;
    Ok(client)
}

/// Runs with usage that nobody has settled, also of those that are completed.
fn write_unsettled(client: &mut Client, name: &str, runs: usize, status: &str) -> Result<()> {
    client.batch_execute(&format!(
        "BEGIN;
         SET LOCAL session_replication_role = replica;
         INSERT INTO workflows SELECT '{name}' || g, 'a' || g % {ACCOUNTS}, '{status}'
         FROM generate_series(0, {runs} - 1) AS g;
         INSERT INTO token_usage SELECT '{name}' || g, 'a' || g % {ACCOUNTS}, 10 + g % 90
         FROM generate_series(0, {runs} - 1) AS g;
         COMMIT;
         ANALYZE workflows, token_usage"
    ))?;
    Ok(())
}

fn open(count: usize) -> Result<Vec<Client>> {
    let mut sessions = Vec::new();
    for _ in 0..count {
        let mut client = connect()?;
        // A deadlock is found soon; there must be none to find.
        client.batch_execute("SET client_min_messages = error; SET deadlock_timeout = '100ms'")?;
        sessions.push(client);
    }
    Ok(sessions)
}

/// Each run that is completed was charged what it used, nothing else was, and the invariants hold.
fn check_charges(client: &mut Client) -> Result<()> {
    apply_queued(client)?;
    let wrong: Vec<String> = client
        .query(
            "SELECT format('%s used %s and was charged %s', coalesce(u.id, c.id), u.tokens, \
             c.tokens) FROM (SELECT w.id, sum(t.total_tokens) AS tokens FROM workflows AS w \
             JOIN token_usage AS t ON t.workflow_id = w.id WHERE w.status = 'completed' \
             GROUP BY 1) AS u FULL JOIN (SELECT workflow_id AS id, -sum(amount) AS tokens \
             FROM token_balance.ledger GROUP BY 1) AS c ON c.id = u.id \
             WHERE u.tokens IS DISTINCT FROM c.tokens LIMIT 5",
            &[],
        )?
        .iter()
        .map(|row| row.get(0))
        .collect();
    if !wrong.is_empty() {
        return Err(wrong.join(", ").into());
    }
    check_invariants(client, true)
}
