//! Many sessions at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use postgres::Client;

use crate::database::{Result, check_invariants, connect, describe, is_retried, prepare};

/// 50 sessions settle one workflow at the same moment, by function and by trigger: one charge each
/// round.
pub fn one_workflow(rounds: u64) -> Result<String> {
    const SESSIONS: usize = 50;
    let mut client = prepare(1, rounds as usize)?;
    client.execute(
        "INSERT INTO token_usage SELECT id, 'a0', 7 FROM workflows",
        &[],
    )?;
    let mut sessions = (0..SESSIONS)
        .map(|_| connect())
        .collect::<Result<Vec<_>>>()?;
    let mut by_function = 0;
    for round in 0..rounds {
        let workflow = format!("w{round}");
        for used in at_once(&mut sessions, |session, client| {
            if session == 0 {
                let complete = "UPDATE workflows SET status = 'completed' WHERE id = $1";
                return client.execute(complete, &[&workflow]).map(|_| 0);
            }
            let settle = "SELECT (settle_workflow($1) ->> 'tokens_used')::bigint";
            Ok(client.query_one(settle, &[&workflow])?.get(0))
        })? {
            by_function += u64::from(used > 0_i64);
        }
    }
    apply_queued(&mut client)?;
    check_invariants(&mut client, true)?;
    let count = "SELECT count(*), sum(amount)::bigint FROM token_balance.ledger";
    let row = client.query_one(count, &[])?;
    let (entries, amount): (i64, i64) = (row.get(0), row.get(1));
    if entries != rounds as i64 || amount != -7 * rounds as i64 {
        return Err(format!("{entries} charges of {amount} tokens in {rounds} rounds").into());
    }
    Ok(format!(
        "{rounds} rounds of {SESSIONS} sessions, {entries} charges, {by_function} of them by the function"
    ))
}

/// Late usage is settled, and what waits for its account charged.
pub fn apply_queued(client: &mut Client) -> Result<()> {
    client.execute("SELECT token_balance.settle_pending()", &[])?;
    match client
        .query_one("SELECT count(*) FROM token_balance.queue", &[])?
        .get(0)
    {
        0_i64 => Ok(()),
        left => Err(format!("{left} charges are left in the queue").into()),
    }
}

/// All sessions do their work at the same moment; Err with the first that failed, once all ended.
pub fn at_once<T: Send>(
    sessions: &mut [Client],
    work: impl Fn(usize, &mut Client) -> std::result::Result<T, postgres::Error> + Sync,
) -> Result<Vec<T>> {
    let barrier = Barrier::new(sessions.len());
    let ends: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = sessions
            .iter_mut()
            .enumerate()
            .map(|(session, client)| {
                scope.spawn({
                    let (barrier, work) = (&barrier, &work);
                    move || {
                        barrier.wait();
                        work(session, client)
                    }
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    ends.into_iter()
        .map(|end| match end {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(describe(&error).into()),
            Err(_) => Err("a session panicked".into()),
        })
        .collect()
}

/// 16 sessions of mixed work for `seconds`; a checker sees the invariants hold every second, and no
/// error but those that are retried.
pub fn mixed(seed: u64, seconds: u64) -> Result<String> {
    const SESSIONS: u64 = 16;
    const ACCOUNTS: usize = 40;
    const WORKFLOWS: usize = 400;
    let mut checker = prepare(ACCOUNTS, WORKFLOWS)?;
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let retried = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..SESSIONS)
        .map(|session| {
            let (stop, done, retried) = (stop.clone(), done.clone(), retried.clone());
            thread::spawn(move || -> Result<()> {
                let mut rng = Rng::with_seed(seed.wrapping_add(session));
                let mut client = connect()?;
                let level = ["read committed", "repeatable read", "serializable"][rng.usize(..3)];
                client.batch_execute(&format!(
                    "SET default_transaction_isolation = '{level}'; SET client_min_messages = error"
                ))?;
                while !stop.load(Ordering::Relaxed) {
                    let work = rng.u64(..);
                    // The same work again until it is done.
                    loop {
                        match transaction(
                            &mut client,
                            &mut Rng::with_seed(work),
                            ACCOUNTS,
                            WORKFLOWS,
                        ) {
                            Ok(()) => break,
                            Err(error) if is_retried(&error) => {
                                retried.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => {
                                return Err(describe(&error).into());
                            }
                        }
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        })
        .collect();
    let disturbed = thread::spawn({
        let stop = stop.clone();
        move || disturb(&stop)
    });
    let started = Instant::now();
    let mut checks = 0;
    let checked = loop {
        thread::sleep(Duration::from_secs(1));
        let check = check_invariants(&mut checker, false);
        checks += 1;
        if check.is_err()
            || started.elapsed().as_secs() >= seconds
            || threads.iter().any(|thread| thread.is_finished())
        {
            break check;
        }
    };
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().map_err(|_| "a session panicked")??;
    }
    let disturbances = disturbed
        .join()
        .map_err(|_| "the administrator panicked")??;
    checked?;
    apply_queued(&mut checker)?;
    check_invariants(&mut checker, true)?;
    let count = "SELECT count(*) FROM token_balance.ledger";
    let entries: i64 = checker.query_one(count, &[])?.get(0);
    Ok(format!(
        "{} transactions, {} retried, {checks} checks, {entries} ledger entries, {disturbances} times \
         VACUUM and DDL",
        done.load(Ordering::Relaxed),
        retried.load(Ordering::Relaxed)
    ))
}

/// What an administrator does meanwhile: it changes the paths to the rows. How often it was done.
fn disturb(stop: &AtomicBool) -> Result<u64> {
    const DISTURBANCES: [&str; 8] = [
        "VACUUM (ANALYZE) token_usage, token_balance.settlement, token_balance.ledger",
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS more ON token_usage (workflow_id)",
        "DROP INDEX CONCURRENTLY IF EXISTS token_usage_workflow_id_user_id_total_tokens_idx",
        "VACUUM token_usage, users, workflows",
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS token_usage_workflow_id_user_id_total_tokens_idx \
         ON token_usage (workflow_id) INCLUDE (user_id, total_tokens)",
        "DROP INDEX CONCURRENTLY IF EXISTS more",
        "ALTER TABLE token_usage ADD COLUMN extra integer DEFAULT 1, ALTER total_tokens TYPE bigint",
        "ALTER TABLE token_usage DROP COLUMN extra, ALTER total_tokens TYPE integer",
    ];
    let mut client = connect()?;
    client.batch_execute("SET deadlock_timeout = '10s'")?;
    let mut done = 0;
    for disturbance in DISTURBANCES.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // Once more, until it is done: the sessions' work may be in its way.
        while let Err(error) = client.batch_execute(disturbance) {
            if !is_retried(&error) {
                return Err(format!("{disturbance}: {}", describe(&error)).into());
            }
        }
        done += 1;
        thread::sleep(Duration::from_millis(100));
    }
    Ok(done)
}

fn transaction(
    client: &mut Client,
    rng: &mut Rng,
    accounts: usize,
    workflows: usize,
) -> std::result::Result<(), postgres::Error> {
    let mut transaction = client.transaction()?;
    for _ in 0..rng.usize(1..4) {
        let workflow = format!("w{}", rng.usize(..workflows));
        let account = format!("a{}", rng.usize(..accounts));
        let tokens = rng.i32(1..100);
        match rng.u32(..10) {
            0..4 => transaction.execute(
                "INSERT INTO token_usage VALUES ($1, $2, $3::integer)",
                &[&workflow, &account, &tokens],
            )?,
            4..6 => transaction.execute(
                "UPDATE workflows SET status = 'completed' WHERE id = $1",
                &[&workflow],
            )?,
            6 => transaction.execute(
                "UPDATE workflows SET status = 'running' WHERE id = $1",
                &[&workflow],
            )?,
            7 => transaction.execute("SELECT settle_workflow($1)", &[&workflow])?,
            8 => transaction.execute(
                "SELECT token_balance.credit($1, $2::integer)",
                &[&account, &tokens],
            )?,
            _ => transaction.execute("SELECT token_balance.refund_workflow($1)", &[&workflow])?,
        };
    }
    transaction.commit()
}

/// 8 sessions settle one workflow a transaction, each with several accounts in random order: no
/// deadlock.
pub fn deadlock(seed: u64, settlements: u64) -> Result<String> {
    const SESSIONS: u64 = 8;
    const ACCOUNTS: usize = 6;
    let mut client = prepare(ACCOUNTS, settlements as usize)?;
    client.batch_execute(&format!(
        "SELECT setseed({}); INSERT INTO token_usage SELECT w.id, 'a' || (random() * {})::integer, 5 \
         FROM workflows AS w, generate_series(1, 4) ORDER BY random(); ANALYZE",
        (seed % 1_000) as f64 / 1_000.0,
        ACCOUNTS - 1
    ))?;
    let started = Instant::now();
    let threads: Vec<_> = (0..SESSIONS)
        .map(|session| {
            thread::spawn(move || -> Result<()> {
                let mut client = connect()?;
                for workflow in (session..settlements).step_by(SESSIONS as usize) {
                    client
                        .execute("SELECT settle_workflow($1)", &[&format!("w{workflow}")])
                        .map_err(|error| describe(&error))?;
                }
                Ok(())
            })
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| "a session panicked")??;
    }
    client.execute("UPDATE workflows SET status = 'completed'", &[])?;
    apply_queued(&mut client)?;
    check_invariants(&mut client, true)?;
    Ok(format!(
        "{settlements} settlements by {SESSIONS} sessions in {:.1} s, no deadlock",
        started.elapsed().as_secs_f64()
    ))
}
