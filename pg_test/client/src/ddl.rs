//! What the administrators of `chaos` do: each change is taken back, so that the tables end as they
//! began, and the binding ends attached.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use postgres::Client;

use crate::books::said_counts;
use crate::database::{Result, connect, describe, sqlstate};

/// One for the bound tables, one for the extension's own and the binding.
pub const ADMINISTRATORS: u64 = 2;

/// What is attached, as of the last change of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Now {
    /// Another one after each change.
    version: u64,
    /// False while a change of it is under way.
    pub is_stable: bool,
    pub is_attached: bool,
    pub settles_late: bool,
}

pub struct State(Mutex<Now>);

impl State {
    pub fn new(settles_late: bool) -> Self {
        State(Mutex::new(Now {
            version: 0,
            is_stable: true,
            is_attached: true,
            settles_late,
        }))
    }

    pub fn now(&self) -> Now {
        *self.0.lock().expect("nobody panics with the lock")
    }

    fn change(&self, change: impl FnOnce(&mut Now)) {
        let mut now = self.0.lock().expect("nobody panics with the lock");
        now.version += 1;
        change(&mut now);
    }
}

/// A change and how it is taken back.
struct Change {
    kind: &'static str,
    /// Statements that are one transaction.
    there: String,
    back: String,
    /// `back` is for what a failed `there` leaves as well: an index that is not valid.
    is_always_taken_back: bool,
}

impl Change {
    fn once(kind: &'static str, there: String) -> Self {
        Change::pair(kind, there, String::new())
    }

    fn pair(kind: &'static str, there: String, back: String) -> Self {
        Change {
            kind,
            there,
            back,
            is_always_taken_back: false,
        }
    }

    fn index(kind: &'static str, there: String, back: String) -> Self {
        Change {
            is_always_taken_back: true,
            ..Change::pair(kind, there, back)
        }
    }

    /// There and back in one transaction: nobody may see any of it, and all are told of it.
    fn unseen(self) -> Self {
        Change::once(self.kind, format!("{}; {}", self.there, self.back))
    }
}

/// How often what was done, and the errors on the way.
#[derive(Default)]
pub struct Done {
    kinds: BTreeMap<&'static str, u64>,
    errors: BTreeMap<String, u64>,
}

impl Done {
    pub fn add(&mut self, other: Done) {
        for (kind, count) in other.kinds {
            *self.kinds.entry(kind).or_default() += count;
        }
        for (code, count) in other.errors {
            *self.errors.entry(code).or_default() += count;
        }
    }
}

impl fmt::Display for Done {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(
            formatter,
            "{} changes of {} kinds: {}; errors of the administrators: {}",
            self.kinds.values().sum::<u64>(),
            self.kinds.len(),
            said_counts(&self.kinds),
            said_counts(&self.errors)
        )
    }
}

/// Changes until `stop`. CHAOS_ONLY may name kinds, separated by commas, to find the one that a
/// fault comes from.
pub fn administrate(
    seed: u64,
    number: u64,
    tables: &str,
    state: &State,
    stop: &AtomicBool,
) -> Result<Done> {
    let mut client = connect()?;
    // The sessions' deadlock checks come first, so it is they who see 40P01.
    client.batch_execute(
        "SET client_min_messages = error; SET search_path = chaos_away, chaos, public; \
         SET lock_timeout = '400ms'; SET deadlock_timeout = '10s'",
    )?;
    let mut administrator = Administrator {
        client,
        rng: Rng::with_seed(seed.wrapping_add(1_000 + number)),
        state,
        stop,
        tables,
        only: std::env::var("CHAOS_ONLY").ok(),
        columns_added: 0,
        done: Done::default(),
    };
    while !stop.load(Ordering::SeqCst) {
        match number {
            0 => {
                let change = administrator.change_of_bound_tables();
                administrator.make(change)?;
            }
            _ if administrator.rng.u32(..5) == 0 => administrator.change_binding()?,
            _ => {
                let change = administrator.change_of_own_tables();
                administrator.make(change)?;
            }
        }
        let pause = administrator.rng.u64(..60);
        thread::sleep(Duration::from_millis(pause));
    }
    Ok(administrator.done)
}

/// The bound tables by OID, as arguments of attach: their names change.
pub fn bound_tables(client: &mut Client) -> Result<String> {
    let sql = "SELECT 'chaos.users'::regclass::oid, 'chaos.token_usage'::regclass::oid, \
               'chaos.workflows'::regclass::oid";
    let row = client.query_one(sql, &[])?;
    let oids: [u32; 3] = [row.get(0), row.get(1), row.get(2)];
    Ok(oids.map(|oid| format!("{oid}::oid::regclass")).join(", "))
}

struct Administrator<'a> {
    client: Client,
    rng: Rng,
    state: &'a State,
    stop: &'a AtomicBool,
    /// See [`bound_tables`].
    tables: &'a str,
    only: Option<String>,
    columns_added: u32,
    done: Done,
}

impl Administrator<'_> {
    /// False if the statements failed with an error that DDL beside other work may end with.
    fn execute(&mut self, sql: &str) -> Result<bool> {
        let Err(error) = self.client.batch_execute(sql) else {
            return Ok(true);
        };
        let code = sqlstate(&error);
        let said = describe(&error);
        let may_be = match code.as_str() {
            "40001" | "40P01" | "55P03" | "55000" | "55006" | "0A000" => true,
            // What the other administrator has renamed, dropped or made meanwhile.
            "42P01" | "42703" | "42804" | "42704" | "42P07" | "3F000" => true,
            // The same, to an attach that has no lock yet: the key had another name for a moment.
            "42830" => true,
            // The server's own answer to two who change one row of a catalog.
            "XX000" => said.contains("tuple concurrently"),
            _ => false,
        };
        *self.done.errors.entry(code).or_default() += 1;
        match may_be {
            true => Ok(false),
            false => Err(format!("{sql}: {said}").into()),
        }
    }

    /// Until it succeeds: what was changed must be taken back.
    fn insist(&mut self, sql: &str) -> Result<()> {
        for _ in 0..1_000 {
            if self.execute(sql)? {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err(format!("could not be done in 1,000 times: {sql}").into())
    }

    fn is_wanted(&self, kind: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|only| only.split(',').any(|wanted| kind.contains(wanted.trim())))
    }

    fn pause(&mut self) {
        if self.rng.bool() {
            let pause = self.rng.u64(..25);
            thread::sleep(Duration::from_millis(pause));
        }
    }

    fn make(&mut self, change: Change) -> Result<()> {
        if !self.is_wanted(change.kind) {
            return Ok(());
        }
        let is_done = self.execute(&change.there)?;
        if is_done {
            *self.done.kinds.entry(change.kind).or_default() += 1;
            self.pause();
        }
        if (is_done || change.is_always_taken_back) && !change.back.is_empty() {
            self.insist(&change.back)?;
        }
        Ok(())
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.rng.usize(..all.len())]
    }

    fn change_of_bound_tables(&mut self) -> Change {
        let table = self.one_of(&["users", "token_usage", "workflows"]);
        match self.rng.u32(..20) {
            0..4 => self.type_of_tokens(),
            4 => {
                let key = self.one_of(&[
                    "users ALTER id",
                    "workflows ALTER id",
                    "token_usage ALTER workflow_id",
                    "token_usage ALTER user_id",
                ]);
                let to = self.one_of(&["text", "varchar(60)", "varchar(90)", "varchar"]);
                Change::once(
                    "type of a key",
                    format!("ALTER TABLE chaos.{key} TYPE {to}"),
                )
            }
            5 => {
                let to = self.one_of(&["integer", "bigint", "numeric"]);
                Change::once(
                    "type of the balance",
                    format!("ALTER TABLE chaos.users ALTER token_balance TYPE {to}"),
                )
            }
            6..8 => self.rename_of_a_column(),
            8 => {
                let renamed = Change::pair(
                    "rename of a table",
                    format!("ALTER TABLE chaos.{table} RENAME TO away"),
                    format!("ALTER TABLE chaos.away RENAME TO {table}"),
                );
                self.seen_or_not(renamed)
            }
            9..11 => self.rename_of_the_schema(),
            11 => self.column_more(&format!("chaos.{table}")),
            12 => self.usage_index(),
            13 => {
                let on = self.one_of(&[
                    "users (seen)",
                    "workflows (status)",
                    "token_usage (user_id)",
                ]);
                self.index_more(on)
            }
            _ => self.upkeep(&format!("chaos.{table}")),
        }
    }

    fn change_of_own_tables(&mut self) -> Change {
        let table = self.one_of(&[
            "settlement",
            "settlement",
            "ledger",
            "ledger",
            "queue",
            "binding",
        ]);
        let table = format!("token_balance.{table}");
        match self.rng.u32(..8) {
            0 => {
                let on = self.one_of(&[
                    "token_balance.settlement USING brin (first_settled_at)",
                    "token_balance.settlement (user_id)",
                    "token_balance.ledger USING brin (created_at)",
                    "token_balance.ledger (workflow_id)",
                    "token_balance.queue (workflow_id)",
                ]);
                self.index_more(on)
            }
            1 => self.column_more(&table),
            _ => self.upkeep(&table),
        }
    }

    /// A change that is committed and taken back, or both at once.
    fn seen_or_not(&mut self, change: Change) -> Change {
        match self.rng.u32(..3) {
            0 => change.unseen(),
            _ => change,
        }
    }

    fn type_of_tokens(&mut self) -> Change {
        let alter = |to| format!("ALTER TABLE chaos.token_usage ALTER total_tokens TYPE {to}");
        let there = self.one_of(&[
            "bigint",
            "numeric",
            "double precision",
            "numeric(20, 0)",
            "smallint",
        ]);
        let back = self.one_of(&["integer", "integer", "bigint", "smallint"]);
        let change = Change::pair("type of the tokens", alter(there), alter(back));
        self.seen_or_not(change)
    }

    fn rename_of_a_column(&mut self) -> Change {
        let (table, column) = self.one_of(&[
            ("token_usage", "total_tokens"),
            ("token_usage", "workflow_id"),
            ("token_usage", "user_id"),
            ("users", "id"),
            ("users", "token_balance"),
            ("workflows", "id"),
            ("workflows", "status"),
        ]);
        let rename =
            |from: &str, to: &str| format!("ALTER TABLE chaos.{table} RENAME {from} TO {to}");
        // A neighbour has its name for a moment, which nobody sees.
        if column == "total_tokens" && self.rng.u32(..3) == 0 {
            return Change::once(
                "rename of a column",
                [
                    rename("total_tokens", "away"),
                    rename("after", "total_tokens"),
                    rename("total_tokens", "after"),
                    rename("away", "total_tokens"),
                ]
                .join("; "),
            );
        }
        let change = Change::pair(
            "rename of a column",
            rename(column, "away"),
            rename("away", column),
        );
        match column {
            // Where the binding has no such column attach adds one, as it should.
            "token_balance" => change.unseen(),
            _ => self.seen_or_not(change),
        }
    }

    /// With other tables under the names that were theirs, now and then. Nobody but a statement
    /// that goes by those names could reach them: the sessions look into the renamed schema first,
    /// and if one should not, it is told to try again.
    fn rename_of_the_schema(&mut self) -> Change {
        let there = "ALTER SCHEMA chaos RENAME TO chaos_away";
        let back = "ALTER SCHEMA chaos_away RENAME TO chaos";
        let renamed = Change::pair("rename of the schema", there.into(), back.into());
        if self.rng.u32(..3) > 0 {
            return self.seen_or_not(renamed);
        }
        Change::pair(
            "other tables of the same names",
            format!(
                "{there}; {DECOYS}; \
                 INSERT INTO chaos.users SELECT u.id, 5 FROM chaos_away.users AS u; \
                 INSERT INTO chaos.workflows SELECT w.id, 'completed' \
                 FROM chaos_away.workflows AS w WHERE w.status = 'running'; \
                 INSERT INTO chaos.token_usage SELECT w.id, u.id, 999998 \
                 FROM chaos.workflows AS w, chaos.users AS u; {GUARDS}"
            ),
            format!("DROP SCHEMA chaos CASCADE; {back}"),
        )
    }

    fn column_more(&mut self, table: &str) -> Change {
        // A table has room for 1,600, also of dropped ones.
        self.columns_added += 1;
        if self.columns_added > 500 {
            return self.upkeep(table);
        }
        let default = self.one_of(&["", " DEFAULT 3", " DEFAULT (random() * 9)::integer"]);
        Change::pair(
            "column more",
            format!("ALTER TABLE {table} ADD COLUMN more integer{default}"),
            format!("ALTER TABLE {table} DROP COLUMN more"),
        )
    }

    fn usage_index(&mut self) -> Change {
        let concurrently = self.one_of(&["", "CONCURRENTLY"]);
        let columns = self.one_of(&[
            "(workflow_id) INCLUDE (user_id, total_tokens)",
            "(workflow_id)",
            "(workflow_id, user_id, total_tokens)",
        ]);
        // CONCURRENTLY can be in no transaction with others. What it leaves when it fails has the
        // name: the next time drops it first.
        Change::index(
            "usage index",
            format!("DROP INDEX {concurrently} IF EXISTS chaos.usage_of_workflow"),
            match concurrently {
                "" => format!(
                    "DROP INDEX IF EXISTS chaos.usage_of_workflow; \
                     CREATE INDEX usage_of_workflow ON chaos.token_usage {columns}"
                ),
                _ => format!(
                    "CREATE INDEX CONCURRENTLY IF NOT EXISTS usage_of_workflow \
                     ON chaos.token_usage {columns}"
                ),
            },
        )
    }

    fn index_more(&mut self, on: &str) -> Change {
        let concurrently = self.one_of(&["", "CONCURRENTLY"]);
        let schema = match on.split_once('.') {
            Some((schema, _)) => schema,
            None => "chaos",
        };
        let on = match on.contains('.') {
            true => on.to_owned(),
            false => format!("chaos.{on}"),
        };
        Change::index(
            "index more",
            format!("CREATE INDEX {concurrently} more ON {on}"),
            format!("DROP INDEX {concurrently} IF EXISTS {schema}.more"),
        )
    }

    /// What changes where the rows are and how they are found, and none of them.
    fn upkeep(&mut self, table: &str) -> Change {
        let key = match table {
            "chaos.token_usage" => "usage_of_workflow".into(),
            _ => format!("{}_pkey", table.rsplit('.').next().unwrap_or_default()),
        };
        match self.rng.u32(..8) {
            0 => Change::once("REINDEX", format!("REINDEX TABLE {table}")),
            1 => Change::once(
                "REINDEX CONCURRENTLY",
                format!("REINDEX TABLE CONCURRENTLY {table}"),
            ),
            2 => Change::once("VACUUM FULL", format!("VACUUM FULL {table}")),
            3 => Change::once("CLUSTER", format!("CLUSTER {table} USING {key}")),
            4 => Change::once("VACUUM", format!("VACUUM (FREEZE, ANALYZE) {table}")),
            5 => Change::once("ANALYZE", format!("ANALYZE {table}")),
            6 => Change::pair(
                "fillfactor",
                format!("ALTER TABLE {table} SET (fillfactor = 70)"),
                format!("ALTER TABLE {table} RESET (fillfactor)"),
            ),
            _ => Change::once("VACUUM", format!("VACUUM {table}")),
        }
    }

    /// Other options; detach and attach, in one transaction or in two.
    fn change_binding(&mut self) -> Result<()> {
        let settles_late = self.rng.bool();
        let late = if settles_late { "settle" } else { "pending" };
        let busy = self.one_of(&["wait", "queue"]);
        let attach = format!(
            "SELECT token_balance.attach({}, busy_account => '{busy}', late_usage => '{late}')",
            self.tables
        );
        let way = self.rng.u32(..3);
        let kind = [
            "options of attach",
            "detach and attach",
            "detach, then attach",
        ][way as usize];
        if !self.is_wanted(kind) {
            return Ok(());
        }
        self.state.change(|now| now.is_stable = false);
        let is_done = match way {
            0 => self.execute(&attach)?,
            1 => self.execute(&format!("SELECT token_balance.detach(); {attach}"))?,
            _ => self.detach_then(&attach)?,
        };
        self.state.change(|now| {
            now.is_stable = true;
            now.is_attached = true;
            if is_done {
                now.settles_late = settles_late;
            }
        });
        if is_done {
            *self.done.kinds.entry(kind).or_default() += 1;
        }
        Ok(())
    }

    fn detach_then(&mut self, attach: &str) -> Result<bool> {
        if !self.execute("SELECT token_balance.detach()")? {
            return Ok(false);
        }
        self.state.change(|now| {
            now.is_stable = true;
            now.is_attached = false;
        });
        let pause = self.rng.u64(..80);
        if !self.stop.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(pause));
        }
        self.state.change(|now| now.is_stable = false);
        self.insist(attach)?;
        Ok(true)
    }
}

/// Tables of the bound ones' names, with usage and accounts that would show.
const DECOYS: &str = "
CREATE SCHEMA chaos;
CREATE TABLE chaos.users (id text PRIMARY KEY, token_balance bigint NOT NULL);
CREATE TABLE chaos.workflows (id text PRIMARY KEY, status text NOT NULL);
CREATE TABLE chaos.token_usage (workflow_id text NOT NULL, user_id text NOT NULL,
                                total_tokens integer NOT NULL);
CREATE INDEX usage_of_workflow ON chaos.token_usage (workflow_id)
    INCLUDE (user_id, total_tokens)";

const GUARDS: &str = "
CREATE FUNCTION chaos.refuse() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN RAISE EXCEPTION ''not this one'' USING ERRCODE = ''55P03''; END';
CREATE TRIGGER refuse BEFORE INSERT ON chaos.token_usage EXECUTE FUNCTION chaos.refuse();
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON chaos.workflows EXECUTE FUNCTION chaos.refuse()";
