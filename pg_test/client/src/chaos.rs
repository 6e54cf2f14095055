//! Random DDL on the bound tables and on the extension's own, beside sessions that settle at all
//! isolation levels. Every charge is compared with what the session knows of the usage.
//!
//! The seed replays the choices of each session and administrator, not what meets what: when a DDL
//! takes effect is the server's matter.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use postgres::{Client, NoTls, SimpleQueryMessage, Transaction};

use crate::books::{self, Books, Run};
use crate::database::{
    Result, attach_options, attach_sql, check_invariants, config, connect, describe,
    is_multixact_race, sqlstate,
};
use crate::ddl::{self, ADMINISTRATORS, Now, State};
use crate::race::apply_queued;

const SESSIONS: u64 = 6;
const ACCOUNTS: usize = 16;

/// Errors with which a session's work may end while tables change under it. Each means that nothing
/// was charged, and the session tries again. Everything else fails the program, and so does XX000,
/// but for a race of the server's own.
const EXPECTED: [&str; 10] = [
    "40001", "40P01", "55P03", "57014", "42P01", "42703", "42804", "55000", "55006", "0A000",
];

const READ_COMMITTED: &str = "READ COMMITTED";

/// A foreign key's own check, which finds no accounts in a table that was rewritten after the
/// snapshot: the server says of ALTER TABLE that it is not MVCC-safe.
fn is_foreign_key(error: &postgres::Error) -> bool {
    sqlstate(error) == "23503"
        && error
            .as_db_error()
            .is_some_and(|said| said.constraint() == Some("token_usage_user_id_fkey"))
}

/// A refund's own check, which finds no charge in a table of settlements that was rewritten after
/// the snapshot (a column with a volatile default is).
fn is_unseen_charge(error: &postgres::Error) -> bool {
    sqlstate(error) == "22023"
        && error
            .as_db_error()
            .is_some_and(|said| said.message().starts_with("a refund of "))
}

/// The tables in a schema of their own, which has another name now and then. The tokens that count
/// stand between others that would show in a charge.
const TABLES: &str = "
SET client_min_messages = error;
DROP EXTENSION IF EXISTS token_balance CASCADE;
DROP SCHEMA IF EXISTS chaos CASCADE;
DROP SCHEMA IF EXISTS chaos_away CASCADE;
DROP TABLE IF EXISTS public.token_usage, public.workflows, public.users CASCADE;
CREATE SCHEMA chaos;
SET search_path = chaos, public;
CREATE TABLE users (id text PRIMARY KEY, seen integer NOT NULL DEFAULT 0);
CREATE TABLE workflows (id text PRIMARY KEY, status text NOT NULL);
CREATE TABLE token_usage (workflow_id text NOT NULL, before bigint NOT NULL DEFAULT 777777,
                          user_id text NOT NULL REFERENCES users, total_tokens integer NOT NULL,
                          after integer NOT NULL DEFAULT 888888);
CREATE INDEX usage_of_workflow ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
CREATE EXTENSION token_balance SCHEMA public;
";

pub fn run(seed: u64, seconds: u64) -> Result<String> {
    let mut client = connect()?;
    client.batch_execute(TABLES)?;
    client.batch_execute(&format!(
        "INSERT INTO users (id) SELECT 'a' || g FROM generate_series(0, {}) AS g; {}
         ALTER TABLE users ALTER token_balance TYPE bigint;",
        ACCOUNTS - 1,
        attach_sql()
    ))?;
    // A detach of what has nothing to be remembered forgets it, and the next attach would exempt usage that came
    // meanwhile.
    client.batch_execute("SELECT token_balance.credit('a0', 1)")?;
    let settles_late = attach_options().is_some_and(|options| options.contains("late_usage"));
    let shared = Arc::new(Shared::new(State::new(settles_late)));
    let tables = Arc::new(ddl::bound_tables(&mut client)?);
    let sessions: Vec<_> = (0..SESSIONS)
        .map(|number| {
            let shared = shared.clone();
            thread::spawn(move || {
                let done = Session::work(seed, number, &shared);
                // What is wrong ends the others as well.
                shared.stop.store(true, Ordering::SeqCst);
                done
            })
        })
        .collect();
    let administrators: Vec<_> = (0..ADMINISTRATORS)
        .map(|number| {
            let (shared, tables) = (shared.clone(), tables.clone());
            thread::spawn(move || {
                let done = ddl::administrate(seed, number, &tables, &shared.state, &shared.stop);
                shared.stop.store(true, Ordering::SeqCst);
                done
            })
        })
        .collect();
    let started = Instant::now();
    while started.elapsed().as_secs() < seconds && !shared.stop.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(50));
    }
    shared.stop.store(true, Ordering::SeqCst);
    let mut books = Books::default();
    books.credits.insert("a0".into(), 1);
    let mut wrong = Vec::new();
    for session in sessions {
        match session.join().map_err(|_| "a session panicked")? {
            Ok(done) => books.add(done),
            Err(error) => wrong.push(error.to_string()),
        }
    }
    let mut changes = ddl::Done::default();
    for administrator in administrators {
        match administrator
            .join()
            .map_err(|_| "an administrator panicked")?
        {
            Ok(done) => changes.add(done),
            Err(error) => wrong.push(format!("administrator: {error}")),
        }
    }
    let said = format!(
        "{} runs, {} settling transactions, {} charges compared at once, usage left {} times, errors: {}; \
         {changes}",
        books.runs.len(),
        books.settled,
        shared.compared.load(Ordering::SeqCst),
        books.left,
        books.said_errors()
    );
    if !wrong.is_empty() {
        return Err(format!("{}\n({said})", wrong.join("\n")).into());
    }
    // The administrators have left the tables as they were, and bound.
    client.batch_execute(&attach_sql())?;
    apply_queued(&mut client)?;
    if books.left > 0 {
        client.batch_execute("SELECT token_balance.settle_pending()")?;
    }
    let compared = books::check(&mut client, &books)?;
    check_invariants(&mut client, true)?;
    Ok(format!(
        "{said}; in the end {compared} accounts of runs compared"
    ))
}

/// What the sessions share.
struct Shared {
    stop: AtomicBool,
    state: State,
    compared: AtomicU64,
}

impl Shared {
    fn new(state: State) -> Self {
        Shared {
            stop: AtomicBool::new(false),
            state,
            compared: AtomicU64::new(0),
        }
    }
}

/// What the tables of the extension say of one account of a run.
#[derive(Debug)]
struct Seen {
    account: String,
    ledger: i64,
    queue: i64,
    /// Accounted for and charged, as the settlement row has it.
    usage: i64,
    charged: i64,
}

/// What a transaction that settled a run was told.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// By the function: so many were charged.
    Tokens(i64),
    /// By a completion: nothing.
    Nothing,
}

/// How runs are settled in a transaction.
#[derive(Clone, Copy, Debug)]
enum Way {
    Update,
    Deferred,
    Function,
    /// By the function; then they complete, and there is nothing left to charge.
    Both,
    Batch,
}

struct Session<'a> {
    shared: &'a Shared,
    rng: Rng,
    number: u64,
    /// Settles; a new one now and then, which has not read the binding yet.
    client: Client,
    /// Writes usage and looks at the outcome, beside the other's transaction.
    helper: Client,
    /// Usage was written without being settled, since the binding was broken: a warning said so.
    was_left: Arc<AtomicBool>,
    books: Books,
    serial: u64,
}

impl<'a> Session<'a> {
    fn work(seed: u64, number: u64, shared: &'a Shared) -> Result<Books> {
        let was_left = Arc::new(AtomicBool::new(false));
        let mut session = Session {
            shared,
            rng: Rng::with_seed(seed.wrapping_add(number)),
            number,
            client: open(&was_left)?,
            helper: open(&was_left)?,
            was_left,
            books: Books::default(),
            serial: 0,
        };
        while !session.is_over() {
            match session.rng.u32(..20) {
                0 => session.client = open(&session.was_left)?,
                1..3 => session.late_usage()?,
                3 => session.credit()?,
                4 => session.refund()?,
                5 => session.sweep()?,
                6..9 => session.complete_at_once()?,
                9..12 => {
                    let runs = session.rng.usize(2..6);
                    session.settle_new(runs)?;
                }
                _ => session.settle_new(1)?,
            }
        }
        Ok(session.books)
    }

    fn is_over(&self) -> bool {
        self.shared.stop.load(Ordering::SeqCst)
    }

    /// Count an error that may be; None is the answer to the work that ended with it.
    fn excuse<T>(
        &mut self,
        result: std::result::Result<T, postgres::Error>,
        what: &str,
    ) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                let code = sqlstate(&error);
                let is_expected = EXPECTED.contains(&code.as_str())
                    || is_multixact_race(&error)
                    || what != READ_COMMITTED
                        && (is_foreign_key(&error) || is_unseen_charge(&error));
                if !is_expected {
                    return Err(format!("{what}: {}", describe(&error)).into());
                }
                *self.books.errors.entry(code).or_default() += 1;
                Ok(None)
            }
        }
    }

    /// A run and SQL that writes its usage. Each row has an odd number of tokens of its own.
    fn new_run(&mut self) -> (Run, String) {
        self.serial += 1;
        let id = format!("s{}r{}", self.number, self.serial);
        let (usage, sql) = self.new_usage(&id);
        let usage = usage
            .into_iter()
            .map(|(account, tokens)| (account, vec![tokens]))
            .collect();
        let run = Run {
            id,
            usage,
            is_completed: false,
            refunded: 0,
        };
        (run, sql)
    }

    fn new_usage(&mut self, id: &str) -> (BTreeMap<String, i64>, String) {
        let mut usage: BTreeMap<String, i64> = BTreeMap::new();
        let mut rows = Vec::new();
        for _ in 0..self.rng.usize(1..4) {
            let account = format!("a{}", self.rng.usize(..ACCOUNTS));
            let tokens = 2 * self.rng.i64(0..5_000) + 1;
            rows.push(format!("('{id}', '{account}', {tokens})"));
            *usage.entry(account).or_default() += tokens;
        }
        let sql = format!(
            "INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES {};",
            rows.join(", ")
        );
        (usage, sql)
    }

    /// Usage and a run that is completed as it comes, in one transaction.
    fn complete_at_once(&mut self) -> Result<()> {
        let (mut run, usage) = self.new_run();
        let sql = format!(
            "{usage} INSERT INTO workflows VALUES ('{}', 'completed');",
            run.id
        );
        let before = self.shared.state.now();
        let done = self.transaction(|transaction, _| transaction.batch_execute(&sql).map(Some))?;
        run.is_completed = done.is_some();
        if done.is_some() {
            self.check_own(&run, before, Some(Answer::Nothing))?;
            self.books.settled += 1;
            self.books.runs.push(run);
        }
        Ok(())
    }

    /// Runs with usage, committed by the helper, and settled by the session until that succeeds.
    fn settle_new(&mut self, count: usize) -> Result<()> {
        let mut runs = Vec::new();
        let mut sql = String::new();
        for _ in 0..count {
            let (run, usage) = self.new_run();
            sql += &format!(
                "{usage} INSERT INTO workflows VALUES ('{}', 'running');",
                run.id
            );
            runs.push(run);
        }
        // Sometimes the runs come after the snapshot of the transaction that settles them.
        let mut to_write = Some(sql);
        let is_written_before = self.rng.bool();
        if is_written_before {
            let written = self
                .helper
                .batch_execute(&to_write.take().unwrap_or_default());
            if self.excuse(written, READ_COMMITTED)?.is_none() {
                return Ok(());
            }
        }
        let mut is_settled = false;
        while !is_settled && !self.is_over() {
            let way = match (self.rng.u32(..5), to_write.is_some()) {
                // An UPDATE could not see what is written after its snapshot.
                (0 | 1, false) => Way::Update,
                (2, false) => Way::Deferred,
                (3, false) => Way::Both,
                (4, _) => Way::Batch,
                _ => Way::Function,
            };
            let before = self.shared.state.now();
            let mut is_written = to_write.is_none();
            let settled = self.transaction(|transaction, helper| {
                if let Some(sql) = &to_write {
                    helper.batch_execute(sql)?;
                    is_written = true;
                }
                settle(transaction, &runs, way)
            })?;
            if !is_written {
                return Ok(());
            }
            to_write = None;
            is_settled = settled.is_some();
            let is_completed = matches!(way, Way::Update | Way::Deferred | Way::Both);
            for (at, run) in runs.iter_mut().enumerate() {
                run.is_completed = is_settled && is_completed;
                let answer = settled
                    .as_ref()
                    .and_then(|answers| answers.get(at).copied());
                self.check_own(run, before, answer)
                    .map_err(|error| format!("{way:?}: {error}"))?;
            }
        }
        if to_write.is_none() {
            self.books.settled += u64::from(is_settled);
            self.books.runs.extend(runs);
        }
        Ok(())
    }

    /// More usage for a run that is settled; then, sometimes, the function for what is new.
    fn late_usage(&mut self) -> Result<()> {
        let Some(at) = self.some_run(|run| run.is_completed && run.refunded == 0) else {
            return Ok(());
        };
        let id = self.books.runs[at].id.clone();
        let (usage, sql) = self.new_usage(&id);
        let before = self.shared.state.now();
        self.was_left.store(false, Ordering::SeqCst);
        let written =
            self.transaction(|transaction, _| transaction.batch_execute(&sql).map(Some))?;
        if written.is_none() {
            return Ok(());
        }
        let is_left = self.was_left.load(Ordering::SeqCst);
        self.books.left += u64::from(is_left);
        let mut run = self.books.runs.swap_remove(at);
        for (account, tokens) in usage {
            run.usage.entry(account).or_default().push(tokens);
        }
        self.check(&run, before, before.settles_late && !is_left)?;
        if self.rng.bool() {
            let before = self.shared.state.now();
            let settled = self.transaction(|transaction, _| {
                settle(transaction, std::slice::from_ref(&run), Way::Function)
            })?;
            self.check(&run, before, settled.is_some())?;
        }
        self.books.settled += 1;
        self.books.runs.push(run);
        Ok(())
    }

    fn credit(&mut self) -> Result<()> {
        let account = format!("a{}", self.rng.usize(..ACCOUNTS));
        let tokens = 2 * self.rng.i64(0..500) + 1;
        self.serial += 1;
        let sql = format!(
            "SELECT token_balance.credit('{account}', {tokens}, 's{}c{}')",
            self.number, self.serial
        );
        let credited =
            self.transaction(|transaction, _| transaction.batch_execute(&sql).map(Some))?;
        if credited.is_some() {
            *self.books.credits.entry(account).or_default() += tokens;
        }
        Ok(())
    }

    /// A part of what a run was charged is given back.
    fn refund(&mut self) -> Result<()> {
        let Some(at) = self.some_run(|run| run.is_completed && run.refunded == 0) else {
            return Ok(());
        };
        let id = self.books.runs[at].id.clone();
        let seen = look(&mut self.helper, &self.books.runs[at]);
        let Some(seen) = self.excuse(seen, READ_COMMITTED)? else {
            return Ok(());
        };
        let charged: i64 = seen.iter().map(|seen| seen.charged).sum();
        let tokens = charged / 2;
        if tokens == 0 {
            return Ok(());
        }
        let sql = format!("SELECT token_balance.refund_workflow('{id}', {tokens}, 'r{id}')");
        let refunded =
            self.transaction(|transaction, _| transaction.batch_execute(&sql).map(Some))?;
        if refunded.is_some() {
            self.books.runs[at].refunded = tokens;
        }
        Ok(())
    }

    fn sweep(&mut self) -> Result<()> {
        let sql = "SELECT token_balance.settle_pending()";
        self.transaction(|transaction, _| transaction.batch_execute(sql).map(Some))?;
        Ok(())
    }

    fn some_run(&mut self, is_right: impl Fn(&Run) -> bool) -> Option<usize> {
        let count = self.books.runs.len();
        if count == 0 {
            return None;
        }
        let at = self.rng.usize(..count);
        is_right(&self.books.runs[at]).then_some(at)
    }

    /// Work in a transaction of a random isolation level, often with a snapshot that is some
    /// milliseconds old. None if it ended with an error that may be, or if the work answers None:
    /// its snapshot is older than the rows.
    fn transaction<T>(
        &mut self,
        mut work: impl FnMut(
            &mut Transaction,
            &mut Client,
        ) -> std::result::Result<Option<T>, postgres::Error>,
    ) -> Result<Option<T>> {
        let level = [READ_COMMITTED, "REPEATABLE READ", "SERIALIZABLE"][self.rng.usize(..3)];
        let pause = match self.rng.bool() {
            true => Some(Duration::from_millis(self.rng.u64(..30))),
            false => None,
        };
        // A few are cancelled, wherever they are by then.
        let timeout = match self.rng.u32(..40) {
            0 => format!("SET LOCAL statement_timeout = {};", self.rng.u32(1..15)),
            _ => String::new(),
        };
        let (client, helper) = (&mut self.client, &mut self.helper);
        let result = (|| {
            let mut transaction = client.transaction()?;
            transaction.batch_execute(&format!("SET TRANSACTION ISOLATION LEVEL {level};"))?;
            if let Some(pause) = pause {
                transaction.batch_execute("SELECT count(*) FROM pg_am")?;
                thread::sleep(pause);
            }
            transaction.batch_execute(&timeout)?;
            let value = work(&mut transaction, helper)?;
            match value {
                Some(_) => transaction.commit()?,
                None => transaction.rollback()?,
            }
            Ok(value)
        })();
        if result.is_err() && !client.is_closed() {
            // A COMMIT that is cancelled leaves the transaction open.
            client.batch_execute("ROLLBACK")?;
        }
        match self.excuse(result, level)? {
            Some(None) if level == READ_COMMITTED => Err("a run is not there".into()),
            Some(None) => {
                *self.books.errors.entry("no row".into()).or_default() += 1;
                Ok(None)
            }
            done => Ok(done.flatten()),
        }
    }

    /// Compare what the tables have of a run with its usage. A transaction that should have settled
    /// it began at `before` and has committed, if it is `settled`.
    fn check(&mut self, run: &Run, before: Now, settled: bool) -> Result<i64> {
        // Asked before the look: what changes after it is no matter.
        let is_same = before.is_stable && self.shared.state.now() == before;
        let seen = self.look(run)?;
        for seen in &seen {
            // Nothing is exempted when the binding is attached again.
            let is_right = seen.charged == seen.ledger + seen.queue
                && seen.usage == seen.charged
                && run.had_used(&seen.account, seen.usage);
            if !is_right {
                return Err(format!("{run:?} was charged {seen:?}, {before:?}").into());
            }
            let must_be_settled = settled && is_same && before.is_attached;
            if must_be_settled && seen.usage != run.used(&seen.account) {
                return Err(format!("{run:?} was settled and has {seen:?}, {before:?}").into());
            }
            let compared = u64::from(must_be_settled);
            self.shared.compared.fetch_add(compared, Ordering::SeqCst);
        }
        Ok(seen.iter().map(|seen| seen.charged).sum())
    }

    /// Of a run that nobody else could have settled: its charges are those of `settled`, and what
    /// the function answered is what it took.
    fn check_own(&mut self, run: &Run, before: Now, settled: Option<Answer>) -> Result<()> {
        let charged = self.check(run, before, settled.is_some())?;
        let is_detached =
            before.is_stable && !before.is_attached && self.shared.state.now() == before;
        let is_right = match settled {
            None => charged == 0,
            Some(Answer::Tokens(tokens)) => tokens == charged && !is_detached,
            // A sweep may have come after it.
            Some(Answer::Nothing) => true,
        };
        match is_right {
            true => Ok(()),
            false => Err(format!(
                "{run:?} was charged {charged} tokens by a transaction that said {settled:?}, \
                 {before:?}, detached all the time: {is_detached}"
            )
            .into()),
        }
    }

    fn look(&mut self, run: &Run) -> Result<Vec<Seen>> {
        loop {
            let seen = look(&mut self.helper, run);
            if let Some(seen) = self.excuse(seen, READ_COMMITTED)? {
                return Ok(seen);
            }
        }
    }
}

/// A connection that finds the tables under either name of their schema. It notes the warnings of a broken
/// binding: a table, or a column, that is gone or of another type.
fn open(was_left: &Arc<AtomicBool>) -> Result<Client> {
    let was_left = was_left.clone();
    let mut client = config()?
        .notice_callback(move |notice| {
            if ["42P01", "42703", "42804", "42809"].contains(&notice.code().code()) {
                was_left.store(true, Ordering::SeqCst);
            }
        })
        .connect(NoTls)?;
    client.batch_execute(
        "SET client_min_messages = warning; SET search_path = chaos_away, chaos, public; \
         SET lock_timeout = '1s'; SET deadlock_timeout = '50ms'",
    )?;
    Ok(client)
}

/// What each of the runs was answered. None if a run's row is not seen: the table was rewritten
/// after the snapshot.
fn settle(
    transaction: &mut Transaction,
    runs: &[Run],
    way: Way,
) -> std::result::Result<Option<Vec<Answer>>, postgres::Error> {
    let ids: Vec<_> = runs.iter().map(|run| format!("'{}'", run.id)).collect();
    let ids = ids.join(", ");
    let count = runs.len() as u64;
    let complete = |transaction: &mut Transaction| {
        let sql = format!("UPDATE workflows SET status = 'completed' WHERE id IN ({ids})");
        let messages = transaction.simple_query(&sql)?;
        Ok(messages.iter().any(|message| {
            matches!(message, SimpleQueryMessage::CommandComplete(rows) if *rows == count)
        }))
    };
    let (answers, is_complete) = match way {
        Way::Update => (Vec::new(), complete(transaction)?),
        Way::Deferred => {
            transaction.batch_execute("SET CONSTRAINTS ALL DEFERRED")?;
            (Vec::new(), complete(transaction)?)
        }
        Way::Function => (by_function(transaction, runs)?, true),
        Way::Both => (by_function(transaction, runs)?, complete(transaction)?),
        Way::Batch => {
            let sql = format!(
                "SELECT sum(s.charged_tokens) \
                 FROM unnest(ARRAY[{ids}]) WITH ORDINALITY AS i (id, n) \
                 LEFT JOIN token_balance.settle_workflows(ARRAY[{ids}]) AS s \
                 ON s.workflow_id = i.id GROUP BY i.n ORDER BY i.n"
            );
            let tokens = numbers(transaction.simple_query(&sql)?, 0);
            (tokens.into_iter().map(Answer::Tokens).collect(), true)
        }
    };
    let answers = match answers.is_empty() {
        true => runs.iter().map(|_| Answer::Nothing).collect(),
        false => answers,
    };
    Ok(is_complete.then_some(answers))
}

fn by_function(
    transaction: &mut Transaction,
    runs: &[Run],
) -> std::result::Result<Vec<Answer>, postgres::Error> {
    let mut answers = Vec::new();
    for run in runs {
        let sql = format!("SELECT settle_workflow('{}') ->> 'tokens_used'", run.id);
        let tokens = numbers(transaction.simple_query(&sql)?, 0).iter().sum();
        answers.push(Answer::Tokens(tokens));
    }
    Ok(answers)
}

/// A column of an answer; null is 0.
fn numbers(messages: Vec<SimpleQueryMessage>, column: usize) -> Vec<i64> {
    messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(column).unwrap_or("0")),
            _ => None,
        })
        .map(|text| text.parse().expect("a number"))
        .collect()
}

/// In text, since this is no place for a prepared statement: the tables change.
fn look(client: &mut Client, run: &Run) -> std::result::Result<Vec<Seen>, postgres::Error> {
    let accounts: Vec<_> = run
        .usage
        .keys()
        .map(|account| format!("'{account}'"))
        .collect();
    let sql = format!(
        "SELECT a.id, (SELECT -sum(l.amount) FROM token_balance.ledger AS l WHERE l.user_id = a.id \
         AND l.workflow_id = '{id}' AND l.kind = 'settlement'), \
         (SELECT sum(q.tokens) FROM token_balance.queue AS q WHERE q.user_id = a.id \
         AND q.workflow_id = '{id}'), s.usage_tokens, s.charged_tokens \
         FROM unnest(ARRAY[{}]) AS a (id) LEFT JOIN token_balance.settlement AS s \
         ON s.workflow_id = '{id}' AND s.user_id = a.id",
        accounts.join(", "),
        id = run.id
    );
    let messages = client.simple_query(&sql)?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let number = |text: Option<&str>| text.unwrap_or("0").parse().expect("a number");
    Ok(rows
        .map(|row| Seen {
            account: row.get(0).unwrap_or_default().to_owned(),
            ledger: number(row.get(1)),
            queue: number(row.get(2)),
            usage: number(row.get(3)),
            charged: number(row.get(4)),
        })
        .collect())
}
