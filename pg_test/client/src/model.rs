//! A seeded generator of operations against an in-memory oracle, compared after every commit, with the law that no
//! token is in no state.
//!
//! Three sessions take turns, each in a transaction of its own, so that uncommitted work of one is
//! there while the others settle. Whatever would wait for another session's lock times out and the
//! transaction is rolled back, as an application would. Every effect on an amount is an addition (charges,
//! balances), and rows are as the last one has written them, so a session's work is an overlay that a commit adds to
//! the committed state. Now and then all transactions end, and an administrator changes tables, ids and the binding.
//!
//! Usage leaves, too: it is deleted or truncated, with record or without, archived, or lost with a partition, and what was
//! deleted is accepted. So do entries of the ledger, and settlements of which nothing is left. A row of the usage has a
//! time: that of a day that is long past, or the time when it was written. The model's clock counts what
//! was done, and moments of the server's clock are read at some of its counts.
//!
//! `--bindings 2` attaches a second binding, `teams`, which is charged for the same usage. `--rename-columns` renames
//! bound columns, too. `--stale-names` makes usage anew after it was renamed without an attach.

mod compare;
mod ddl;
mod deletions;
mod ended;
mod operations;
mod oracle;
mod retention;
mod schema;

use std::collections::BTreeMap;

use fastrand::Rng;
use postgres::Client;

use crate::database::{Result, connect, describe, is_retried, see_ledger};
use oracle::{MAX_BINDINGS, State, Time};
use schema::Schema;

const WORKFLOWS: usize = 30;
const SESSIONS: usize = 3;
/// Rows of usage from before the first attach.
const ROWS_BEFORE: i64 = 20;

/// What the command line says of the model.
struct Flags {
    bindings: usize,
    renames_columns: bool,
    keeps_stale_names: bool,
}

impl Flags {
    fn of_command_line() -> Result<Self> {
        let arguments: Vec<String> = std::env::args().collect();
        let at = arguments
            .iter()
            .position(|argument| argument == "--bindings");
        let bindings = match at.and_then(|at| arguments.get(at + 1)) {
            Some(bindings) => bindings.parse()?,
            None => 1,
        };
        if !(1..=MAX_BINDINGS).contains(&bindings) {
            return Err(format!("--bindings {bindings}: 1 or {MAX_BINDINGS}").into());
        }
        let is_given = |flag: &str| arguments.iter().any(|argument| argument == flag);
        Ok(Flags {
            bindings,
            renames_columns: is_given("--rename-columns"),
            keeps_stale_names: is_given("--stale-names"),
        })
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
    flags: Flags,
    schema: Schema,
    committed: State,
    sessions: Vec<Session>,
    /// Compares, and changes tables.
    admin: Client,
    /// False while nothing can be settled, since nothing is attached or a table is gone.
    is_settling: bool,
    /// The id of the next usage row.
    next_row: i64,
    /// The model's clock: what it says next.
    next_time: Time,
    /// When the model's clock said this, the server's said that.
    moments: Vec<(Time, String)>,
    counts: BTreeMap<&'static str, u64>,
}

/// `operations` random operations; Err with the first difference.
pub fn run(seed: u64, operations: u64) -> Result<String> {
    let mut model = Model::prepare(seed)?;
    for operation in 0..operations {
        model
            .step()
            .map_err(|error| format!("operation {operation}: {error}"))?;
    }
    for session in 0..SESSIONS {
        model.end(session, true)?;
    }
    model.compare_thoroughly()?;
    Ok(model
        .counts
        .iter()
        .map(|(what, count)| format!("{what} {count}"))
        .collect::<Vec<_>>()
        .join(", "))
}

impl Model {
    /// Accounts, runs and some usage, which the first attach exempts.
    fn prepare(seed: u64) -> Result<Self> {
        let flags = Flags::of_command_line()?;
        let mut rng = Rng::with_seed(seed);
        let mut schema = Schema::new(flags.bindings, rng.bool(), rng.bool(), rng.bool());
        for accounts in &mut schema.accounts {
            accounts.records_deletions = rng.bool();
        }
        let mut admin = connect()?;
        admin.batch_execute(&schema.create_sql())?;
        let mut sessions = Vec::new();
        for _ in 0..SESSIONS {
            let mut client = connect()?;
            client.batch_execute("SET lock_timeout = '20ms'; SET client_min_messages = error")?;
            client.batch_execute(&Schema::search_path())?;
            sessions.push(Session {
                client,
                overlay: None,
                savepoint: None,
            });
        }
        let mut model = Model {
            rng,
            committed: State::new(flags.bindings),
            flags,
            schema,
            sessions,
            admin,
            is_settling: false,
            next_row: 0,
            next_time: 0,
            moments: Vec::new(),
            counts: BTreeMap::new(),
        };
        model.fill()?;
        model.committed.exempt();
        model.attach_anew()?;
        model.is_settling = true;
        see_ledger(&mut model.admin)?;
        model.compare()?;
        Ok(model)
    }

    fn fill(&mut self) -> Result<()> {
        let insert = format!("INSERT INTO {} VALUES ($1)", self.schema.workflows);
        for workflow in 0..WORKFLOWS {
            self.admin.execute(&insert, &[&workflow_id(workflow)])?;
            self.committed.runs.insert(workflow, Some(false));
        }
        for (binding, accounts) in self.schema.accounts.iter().enumerate() {
            let insert = format!("INSERT INTO {} VALUES ($1)", accounts.table);
            for account in 0..accounts.count {
                self.admin.execute(&insert, &[&accounts.id(account)])?;
                self.committed.books[binding].accounts.insert(account, true);
            }
        }
        for _ in 0..ROWS_BEFORE {
            self.begin(0)?;
            self.use_tokens(0)?;
            self.end_without_comparison(0, true)?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        let session = self.rng.usize(..SESSIONS);
        let choice = self.rng.u32(..1_000);
        if choice < 10 {
            return self.change_schema();
        }
        self.begin(session)?;
        let (name, outcome) = match choice {
            10..175 => ("usage", self.use_tokens(session)),
            175..205 => ("usage deleted", self.delete_usage(session)),
            205..231 => ("usage archived", self.archive_usage(session)),
            231..235 => ("ledger archived", self.archive_ledger(session)),
            235..250 => ("deletions accepted", self.accept_deletions(session)),
            250..300 => ("usage changed", self.change_usage(session)),
            300..400 => ("completion", self.complete(session)),
            400..450 => ("bulk completion", self.complete_several(session)),
            450..530 => ("settle", self.settle(session)),
            530..540 => ("settlements archived", self.archive_settlements(session)),
            540..590 => ("batch", self.settle_batch(session)),
            590..605 => ("sweep", self.sweep(session)),
            605..655 => ("credit", self.credit(session)),
            655..710 => ("refund", self.refund(session)),
            710..740 => ("adjustment", self.adjust(session)),
            740..760 => ("correction", self.correct(session)),
            760..775 => (
                "run inserted or deleted",
                self.insert_or_delete_run(session),
            ),
            775..781 => (
                "account inserted or deleted",
                self.insert_or_delete_account(session),
            ),
            781..785 => ("account renamed", self.rename_account(session)),
            785..793 => ("workflow renamed", self.rename_workflow(session)),
            793..825 => ("savepoint", self.savepoint(session)),
            825..870 => ("rollback to savepoint", self.rollback_to_savepoint(session)),
            870..970 => ("commit", self.end(session, true)),
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

    /// What the model's clock says. It never says the same twice.
    fn now(&mut self) -> Time {
        self.next_time += 1;
        self.next_time - 1
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
        let bindings = self.schema.accounts.len();
        self.sessions[session]
            .overlay
            .get_or_insert_with(|| State::new(bindings))
    }

    /// A transaction, if none is open.
    fn begin(&mut self, session: usize) -> Result<()> {
        if self.sessions[session].overlay.is_none() {
            self.sessions[session].client.batch_execute("BEGIN")?;
            self.overlay(session);
        }
        Ok(())
    }

    fn end(&mut self, session: usize, commit: bool) -> Result<()> {
        let is_open = self.sessions[session].overlay.is_some();
        self.end_without_comparison(session, commit)?;
        match commit && is_open {
            true => self.compare(),
            false => Ok(()),
        }
    }

    fn end_without_comparison(&mut self, session: usize, commit: bool) -> Result<()> {
        self.sessions[session].savepoint = None;
        if self.sessions[session].overlay.is_none() {
            return Ok(());
        }
        let end = if commit { "COMMIT" } else { "ROLLBACK" };
        // What is left to do for workflows that were renamed may fail a commit, which is then a rollback.
        let ended = self.sessions[session].client.batch_execute(end);
        if commit && ended.is_ok() {
            self.follow(session);
        }
        let overlay = self.sessions[session].overlay.take();
        ended?;
        if let Some(mut overlay) = overlay.filter(|_| commit) {
            overlay.renamed.clear();
            self.committed.add(&overlay);
            self.committed.forget_deleted();
        }
        Ok(())
    }
}

fn workflow_id(workflow: usize) -> String {
    format!("w{workflow}")
}

fn workflow_ids(workflows: &[usize]) -> Vec<String> {
    workflows.iter().copied().map(workflow_id).collect()
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
