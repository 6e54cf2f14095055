//! Faults inside: the statements of a settlement, a completion, a sweep, a credit, a refund, a correction, an
//! attach and a detach are made to fail, one at a time. After each: the error is the one that was
//! made, nothing was changed, the same connection does it properly once the fault is gone, and
//! neither the client nor the server's log has an internal error. Locks are held by prepared
//! transactions, so one connection sees all of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use crate::cases::{BOSS, Session, Skipped, Stage};
use crate::database::{Result, sqlstate};

/// What is done, and what has to be before and after. The account `$a`, its run `$w` and 10 tokens
/// of usage are each case's own. Statements end with a semicolon, and have none inside.
#[derive(Clone, Copy)]
struct Action {
    name: &'static str,
    before: &'static [&'static str],
    act: &'static str,
    afterwards: &'static str,
}

/// What makes the action fail, what mends it, and the SQLSTATE meanwhile.
struct Fault {
    name: String,
    inject: String,
    mend: String,
    sqlstate: &'static str,
}

type Case = (Action, Fault);

const USERS: &str = "users";
const USAGE: &str = "token_usage";
const WORKFLOWS: &str = "workflows";
const SETTLEMENT: &str = "token_balance.settlement";
const LEDGER: &str = "token_balance.ledger";
const BINDING: &str = "token_balance.binding";

const ACCESS_EXCLUSIVE: &str = "ACCESS EXCLUSIVE";
const ROW_EXCLUSIVE: &str = "ROW EXCLUSIVE";
const SHARE: &str = "SHARE";

/// An action and each table that it waits for, with the mode of the lock that is in its way.
type Waiting = (Action, &'static [(&'static str, &'static str)]);

const SETTLE: &str = "SELECT settle_workflow('$w');";
const MORE: &str = "INSERT INTO token_usage VALUES ('$w', '$a', 4);";
const COMPLETE: &str = "UPDATE workflows SET status = 'completed' WHERE id = '$w';";
const CREDIT: &str = "SELECT token_balance.credit('$a', 5, 'c$w', 'note');";
const REFUND: &str = "SELECT token_balance.refund_workflow('$w', 5, 'r$w');";
const GONE: &str = "DELETE FROM token_usage WHERE workflow_id = '$w';";
const CORRECT: &str = "SELECT token_balance.correct_workflow('$w');";
const NONE_GONE: &str = "UPDATE users SET token_balance = 0 WHERE id = '$a'; \
                         SELECT token_balance.correct_workflow('$w');";
/// Completed while the trigger was off.
const MISSED: &str = "ALTER TABLE workflows DISABLE TRIGGER USER; \
                      UPDATE workflows SET status = 'completed' WHERE id = '$w'; \
                      ALTER TABLE workflows ENABLE TRIGGER USER;";

#[rustfmt::skip]
const WAITS_OF_SETTLING: &[(&str, &str)] = &[
    (USAGE, ACCESS_EXCLUSIVE), (SETTLEMENT, ACCESS_EXCLUSIVE), (SETTLEMENT, SHARE),
    (USERS, SHARE), (LEDGER, SHARE),
];
#[rustfmt::skip]
const WAITS_OF_SWEEPING: &[(&str, &str)] = &[
    (USAGE, ACCESS_EXCLUSIVE), (SETTLEMENT, ACCESS_EXCLUSIVE), (SETTLEMENT, SHARE),
    (USERS, SHARE), (LEDGER, SHARE),
    (WORKFLOWS, ACCESS_EXCLUSIVE),
];
#[rustfmt::skip]
const WAITS_OF_REFUND: &[(&str, &str)] = &[
    (SETTLEMENT, ACCESS_EXCLUSIVE), (SETTLEMENT, SHARE), (USERS, SHARE),
    (LEDGER, ACCESS_EXCLUSIVE), (LEDGER, SHARE),
];

#[rustfmt::skip]
const ACTIONS: &[Waiting] = &[
    (action("settle", &[], SETTLE), WAITS_OF_SETTLING),
    (action("complete", &[], COMPLETE), WAITS_OF_SETTLING),
    (action("deferred", &[], "BEGIN; SET CONSTRAINTS ALL DEFERRED; \
        UPDATE workflows SET status = 'completed' WHERE id = '$w'; COMMIT;"), WAITS_OF_SETTLING),
    (action("many", &[], "SELECT * FROM token_balance.settle_workflows(ARRAY['$w']);"),
        WAITS_OF_SETTLING),
    (action("sweep", &[MISSED], "SELECT token_balance.settle_pending();"), WAITS_OF_SWEEPING),
    (action("backlog", &[MISSED], "CALL token_balance.settle_backlog();"), WAITS_OF_SWEEPING),
    (action("credit", &[], CREDIT), &[(USERS, SHARE), (LEDGER, ACCESS_EXCLUSIVE), (LEDGER, SHARE)]),
    (action("refund", &[SETTLE], REFUND), WAITS_OF_REFUND),
    (action("correct", &[SETTLE, GONE], CORRECT), WAITS_OF_SETTLING),
    (action("late", &[SETTLE, MORE], SETTLE), WAITS_OF_SETTLING),
    (Action {
        name: "rename",
        before: &[SETTLE],
        act: "UPDATE users SET id = 'renamed ' || id WHERE id = '$a';",
        afterwards: "UPDATE token_usage SET user_id = 'renamed ' || user_id WHERE user_id = '$a';",
    }, &[(LEDGER, SHARE), (SETTLEMENT, SHARE)]),
];

/// Kinds of errors, by the function `fault`, and their SQLSTATEs.
const KINDS: &[(&str, &str)] = &[
    ("raise", "PT402"),
    ("divide", "22012"),
    ("overflow", "22003"),
];

const DETACHED: &str = "SELECT token_balance.detach(drop_column => true); \
                        ALTER TABLE users DROP COLUMN IF EXISTS token_balance; \
                        DROP INDEX IF EXISTS token_usage_workflow_id_user_id_total_tokens_idx;";
/// As what was not attached before.
const ATTACH_NEW: &str = "SELECT token_balance.attach('users', 'token_usage', 'workflows', \
                          create_index => true, usage_ids => 'new');";
const ATTACH: &str =
    "SELECT token_balance.attach('users', 'token_usage', 'workflows', create_index => true);";
const DETACH: &str = "SELECT token_balance.detach(drop_column => true);";

const LOW: &str = "UPDATE users SET token_balance = -2147483645 WHERE id = '$a';";
const HIGH: &str = "UPDATE users SET token_balance = 2147483645 WHERE id = '$a';";
const FIXED: &str =
    "UPDATE users SET token_balance = 0 WHERE id = '$a'; SELECT settle_workflow('$w');";

const RECONCILE: &str = "SELECT count(*) FROM token_balance.reconcile();";

/// What reads each table.
#[rustfmt::skip]
const READS: &[(&str, &str, &[&str])] = &[
    ("reading users", USERS, &[
        "SELECT token_balance.balance('$a');", "SELECT token_balance.summary('$a');",
        "SELECT count(*) FROM token_balance.overdrawn_accounts();",
        RECONCILE,
    ]),
    ("reading token_usage", USAGE, &["SELECT token_balance.summary('$a');", RECONCILE]),
    ("reading token_balance.settlement", SETTLEMENT, &[RECONCILE]),
    ("reading token_balance.ledger", LEDGER, &[
        "SELECT count(*) FROM token_balance.statement('$a');",
        "SELECT token_balance.balance_at('$a', now());",
        RECONCILE,
    ]),
];

const fn action(name: &'static str, before: &'static [&'static str], act: &'static str) -> Action {
    Action {
        name,
        before,
        act,
        afterwards: "",
    }
}

fn fault(name: &str, inject: &str, mend: &str, sqlstate: &'static str) -> Fault {
    Fault {
        name: name.to_owned(),
        inject: inject.to_owned(),
        mend: mend.to_owned(),
        sqlstate,
    }
}

/// A constraint that no row fulfils.
fn refused(name: &str, table: &str) -> Fault {
    fault(
        name,
        &format!("ALTER TABLE {table} ADD CONSTRAINT fault CHECK (false) NOT VALID;"),
        &format!("ALTER TABLE {table} DROP CONSTRAINT fault;"),
        "23514",
    )
}

/// A trigger that does this: a kind of the function `fault`.
fn triggered(name: &str, table: &str, event: &str, kind: &str, sqlstate: &'static str) -> Fault {
    fault(
        name,
        &format!(
            "CREATE TRIGGER a_fault BEFORE {event} ON {table} \
             FOR EACH ROW EXECUTE FUNCTION fault('{kind}');"
        ),
        &format!("DROP TRIGGER a_fault ON {table};"),
        sqlstate,
    )
}

/// A prepared transaction has done this, and its locks are waited for, for so long: by
/// `lock_timeout` or `statement_timeout`.
fn held(name: &str, statement: &str, limit: &str) -> Fault {
    let sqlstate = match limit {
        "lock_timeout" => "55P03",
        _ => "57014",
    };
    fault(
        name,
        &format!("BEGIN; {statement}; PREPARE TRANSACTION 'tb_fault'; SET {limit} = '40ms';"),
        "ROLLBACK PREPARED 'tb_fault';",
        sqlstate,
    )
}

fn locked(name: &str, table: &str, mode: &str, limit: &str) -> Fault {
    held(name, &format!("LOCK TABLE {table} IN {mode} MODE"), limit)
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for &(action, waits) in ACTIONS {
        cases.extend(faults_of_writes(action).map(|fault| (action, fault)));
        cases.extend(faults_of_waits(action, waits).map(|fault| (action, fault)));
    }
    cases.extend(waits_of_its_own());
    cases.extend(faults_without_executor());
    cases.extend(out_of_range());
    cases.extend(faults_of_reads());
    cases.extend(faults_of_attach());
    cases.extend(faults_of_detach());
    cases
}

fn named(name: &str) -> Action {
    let found = ACTIONS.iter().find(|action| action.0.name == name);
    found.expect("an action of the table").0
}

/// Each write fails.
fn faults_of_writes(action: Action) -> impl Iterator<Item = Fault> {
    let mut tables = vec![(USERS, "UPDATE"), (LEDGER, "INSERT")];
    if action.name != "credit" {
        tables.push((SETTLEMENT, "INSERT OR UPDATE"));
    }
    let mut faults = Vec::new();
    for (table, event) in tables {
        faults.push(refused(&format!("{table} refuses"), table));
        let cancelled = format!("{table}, cancelled");
        faults.push(triggered(&cancelled, table, event, "cancel", "57014"));
    }
    if ["settle", "complete", "credit"].contains(&action.name) {
        for &(kind, sqlstate) in KINDS {
            let name = format!("users, a trigger: {kind}");
            faults.push(triggered(&name, USERS, "UPDATE", kind, sqlstate));
        }
        let suppressed = "users, a trigger that suppresses the change";
        faults.push(triggered(suppressed, USERS, "UPDATE", "suppress", "27000"));
        let timeout = "ledger, statement_timeout";
        let mut slow = triggered(timeout, LEDGER, "INSERT", "sleep", "57014");
        slow.inject.push_str(" SET statement_timeout = '60ms';");
        faults.push(slow);
    }
    faults.into_iter()
}

/// Each table and row that it waits for.
fn faults_of_waits(action: Action, waits: &'static [(&str, &str)]) -> impl Iterator<Item = Fault> {
    // The server stops the clock of statement_timeout before a commit.
    let limit = match action.name {
        "deferred" => "lock_timeout",
        _ => "statement_timeout",
    };
    let account = held(
        &format!("waits for the account, {limit}"),
        "SELECT 1 FROM users WHERE id = '$a' FOR UPDATE",
        limit,
    );
    let tables = waits.iter().map(|&(table, mode)| {
        let name = format!("waits for {table} ({mode}), lock_timeout");
        locked(&name, table, mode, "lock_timeout")
    });
    tables.chain([account])
}

/// What only one action waits for.
#[rustfmt::skip]
fn waits_of_its_own() -> Vec<Case> {
    let same = "waits for the same workflow";
    let unknown = &["DELETE FROM token_usage WHERE workflow_id = '$w';"];
    vec![
        (named("settle"), held(same, "SELECT settle_workflow('$w')", "lock_timeout")),
        (named("complete"), held(same, "SELECT settle_workflow('$w')", "statement_timeout")),
        (named("credit"),
            held("waits for the same reference", "SELECT token_balance.credit('$a', 1, 'c$w')",
                "lock_timeout")),
        (action("settle", unknown, SETTLE),
            locked("an id that the workflow table must know", WORKFLOWS, ACCESS_EXCLUSIVE,
                "lock_timeout")),
    ]
}

/// In the middle of what is written without an executor: an index's own code, a row that somebody
/// else has not committed.
fn faults_without_executor() -> Vec<Case> {
    let mut cases = Vec::new();
    for name in ["settle", "complete", "many", "credit", "late"] {
        for (table, column) in [(SETTLEMENT, "usage_tokens"), (LEDGER, "amount")] {
            if table == SETTLEMENT && ["credit", "late"].contains(&name) {
                continue;
            }
            for &(kind, sqlstate) in &KINDS[..2] {
                let in_index = fault(
                    &format!("{table}, an index: {kind}"),
                    &format!(
                        "CREATE INDEX fault ON {table} ({column} fault_ops); \
                         SET tb.in_index = '{kind}';"
                    ),
                    "RESET tb.in_index; DROP INDEX token_balance.fault;",
                    sqlstate,
                );
                cases.push((named(name), in_index));
            }
        }
    }
    for name in ["settle", "complete", "many"] {
        let claim = "INSERT INTO token_balance.settlement (workflow_id, user_id, usage_tokens) \
                     VALUES ('$w', '$a', 0)";
        let unlocked = "waits for a settlement without its lock";
        cases.push((named(name), held(unlocked, claim, "lock_timeout")));
    }
    cases
}

/// Out of range, by what is called directly; and a bad charge gives its claim back, and that fails.
#[rustfmt::skip]
fn out_of_range() -> Vec<Case> {
    let past = || fault("out of range", "", "", "22003");
    let fixed = |name, before: &'static [&str], act| Action {
        name, before, act, afterwards: FIXED,
    };
    let exempted = &[
        "SELECT token_balance.detach();",
        ATTACH_NEW,
        MISSED,
    ];
    let releasing = fault(
        "releasing a later claim",
        "CREATE TRIGGER a_fault BEFORE UPDATE ON token_balance.settlement FOR EACH ROW \
         WHEN (NEW.usage_tokens < OLD.usage_tokens) EXECUTE FUNCTION fault('raise');",
        "DROP TRIGGER a_fault ON token_balance.settlement;",
        "PT402",
    );
    vec![
        (fixed("settle", &[LOW], SETTLE), past()),
        (action("credit", &[HIGH], CREDIT), past()),
        (action("refund", &[SETTLE, HIGH], REFUND), past()),
        (Action { name: "correct", before: &[SETTLE, GONE, HIGH], act: CORRECT, afterwards: NONE_GONE }, past()),
        (fixed("complete", &[LOW], COMPLETE),
            triggered("forgetting a first claim", SETTLEMENT, "DELETE", "raise", "PT402")),
        (fixed("complete", &[SETTLE, MORE, LOW], COMPLETE), releasing),
        (action("backlog", exempted, "CALL token_balance.settle_backlog(existing => true);"),
            triggered("taking back an exemption", SETTLEMENT, "UPDATE", "raise", "PT402")),
    ]
}

fn faults_of_reads() -> Vec<Case> {
    let mut cases = Vec::new();
    for &(name, table, reads) in READS {
        for read in reads {
            let fault = locked(read, table, ACCESS_EXCLUSIVE, "lock_timeout");
            cases.push((action(name, &[], read), fault));
        }
    }
    cases
}

/// Each DDL statement, each write, each lock.
#[rustfmt::skip]
fn faults_of_attach() -> Vec<Case> {
    let attach = action("attach", &[DETACHED], ATTACH);
    let first = action("attach", &[DETACHED], ATTACH_NEW);
    let changed = &[
        "SELECT token_balance.credit('$a', 5);",
        "SELECT token_balance.detach();",
        "UPDATE users SET token_balance = token_balance + 1 WHERE id = '$a';",
    ];
    let nulls = &[DETACHED, "ALTER TABLE users ADD token_balance integer;"];
    vec![
        (attach, forbidden("ALTER TABLE")),
        (attach, forbidden("COMMENT")),
        (attach, forbidden("CREATE TRIGGER")),
        (attach, forbidden("CREATE INDEX")),
        (attach, forbidden("GRANT")),
        (attach, refused("the binding", BINDING)),
        (first, refused("exempting", SETTLEMENT)),
        (action("attach", changed, ATTACH), refused("changes meanwhile", LEDGER)),
        (action("attach", nulls, ATTACH),
            triggered("balances that are missing", USERS, "UPDATE", "cancel", "57014")),
        (attach, locked("waits for users", USERS, ROW_EXCLUSIVE, "lock_timeout")),
        (attach, locked("waits for token_usage", USAGE, ACCESS_EXCLUSIVE, "lock_timeout")),
        (attach, locked("waits for workflows", WORKFLOWS, ROW_EXCLUSIVE, "lock_timeout")),
        (first, locked("waits for the settlements", SETTLEMENT, SHARE, "lock_timeout")),
    ]
}

#[rustfmt::skip]
fn faults_of_detach() -> Vec<Case> {
    let detach = |act| Action { name: "detach", before: &[], act, afterwards: ATTACH };
    vec![
        (detach(DETACH), forbidden("DROP TRIGGER")),
        (detach(DETACH), forbidden("ALTER TABLE")),
        (detach("SELECT token_balance.detach();"),
            triggered("the binding", BINDING, "UPDATE", "raise", "PT402")),
        (detach(DETACH), locked("waits for users", USERS, ROW_EXCLUSIVE, "statement_timeout")),
    ]
}

/// An event trigger lets no such statement pass.
fn forbidden(tag: &str) -> Fault {
    fault(tag, &format!("SET tb.fault = '{tag}';"), "", "PT402")
}

pub fn run() -> Result<String> {
    let log = ServerLog::open()?;
    let mut faults = Faults::new()?;
    let cases = cases();
    let mut counts = BTreeMap::new();
    for (number, (action, fault)) in cases.iter().enumerate() {
        let what = format!("{}: {}", action.name, fault.name);
        faults
            .case(number + 1, &what, action, fault)
            .map_err(|error| format!("{what}: {error}"))?;
        *counts.entry(fault.sqlstate).or_insert(0) += 1;
    }
    faults.end(&log)?;
    let counts: Vec<_> = counts
        .iter()
        .map(|(sqlstate, count)| format!("{sqlstate} {count}"))
        .collect();
    println!("{} faults: {}", cases.len(), counts.join(", "));
    faults.stage.end()
}

const LIMITS: &str = "SET lock_timeout = '5s'; SET statement_timeout = '5s'; RESET tb.fault;";
/// The words of what must not happen, to a client or to the server.
const INTERNAL: &[&str] = &["xx000", "panic", "internal error", UNANSWERED, "by signal"];
const UNANSWERED: &str = "no answer";

struct Faults {
    session: Session,
    process: String,
    /// All that the server has said to the client.
    said: Vec<String>,
    stage: Stage,
}

impl Faults {
    fn new() -> Result<Faults> {
        let stage = Stage::new("tb_faults", &[])?;
        stage.run(BOSS, include_str!("sql/faults.sql"))?;
        let mut session = stage.session(BOSS)?;
        session.run("SET client_min_messages = warning; SET log_error_verbosity = verbose")?;
        let process = session.value("SELECT pg_backend_pid()")?;
        Ok(Faults {
            session,
            process,
            said: Vec::new(),
            stage,
        })
    }

    fn case(&mut self, number: usize, what: &str, action: &Action, fault: &Fault) -> Result<()> {
        let own = |statements: &str| {
            statements
                .replace("$w", &format!("w{number}"))
                .replace("$a", &format!("a{number}"))
        };
        let act = own(action.act);
        self.all_succeed(LIMITS)?;
        self.all_succeed(&own("INSERT INTO users VALUES ('$a'); \
             INSERT INTO workflows VALUES ('$w', '$a', 'running'); \
             INSERT INTO token_usage VALUES ('$w', '$a', 10);"))?;
        self.all_succeed(&own(&action.before.concat()))?;
        let before = self.session.value("SELECT note.state()")?;
        self.all_succeed(&own(&fault.inject))?;
        let got = self.last_sqlstate(&act);
        self.all_succeed("ROLLBACK;")?;
        self.all_succeed(LIMITS)?;
        self.all_succeed(&own(&fault.mend))?;
        let after = self.session.value("SELECT note.state()")?;
        let again = self.last_sqlstate(&act);
        self.all_succeed("COMMIT;")?;
        self.all_succeed(&own(action.afterwards))?;
        let problems = self.session.value(
            "SELECT string_agg(DISTINCT r.problem, ',') FROM token_balance.reconcile() AS r",
        )?;
        // What nothing mends fails again.
        let properly = match fault.mend.is_empty() && fault.inject.is_empty() {
            true => fault.sqlstate,
            false => "00000",
        };
        let check = |facet: &str| format!("{what}: {facet}");
        let stage = &mut self.stage;
        stage.is(&check("the error is the fault"), got, fault.sqlstate);
        stage.is(&check("nothing was changed"), after, &before);
        stage.is(&check("the same connection then does it"), again, properly);
        stage.is(&check("reconcile() is empty"), problems, "");
        Ok(())
    }

    fn end(&mut self, log: &ServerLog) -> Result<()> {
        let process = self.session.value("SELECT pg_backend_pid()")?;
        self.stage
            .is("all of it on one connection", process, &self.process);
        self.said.extend(self.session.take_warnings());
        let said = internal(self.said.iter().map(String::as_str));
        self.stage.is("no internal error at the client", said, "");
        let logged = log.read()?;
        let logged = internal(logged.lines().filter(|line| !line.contains("LOCATION:")));
        self.stage.is("none in the server's log", logged, "");
        Ok(())
    }

    fn all_succeed(&mut self, statements: &str) -> Result<()> {
        for statement in split(statements) {
            self.session.run(statement)?;
        }
        Ok(())
    }

    /// Of the last of them: the ones before may fail.
    fn last_sqlstate(&mut self, statements: &str) -> String {
        let mut last = String::new();
        for statement in split(statements) {
            last = match self.session.client.simple_query(statement) {
                Ok(_) => "00000".to_owned(),
                Err(error) => {
                    self.said.push(all_said(&error));
                    sqlstate(&error)
                }
            };
        }
        last
    }
}

fn split(statements: &str) -> impl Iterator<Item = &str> {
    statements
        .split(';')
        .map(str::trim)
        .filter(|statement| !statement.is_empty())
}

fn all_said(error: &postgres::Error) -> String {
    let Some(said) = error.as_db_error() else {
        return format!("{UNANSWERED}: {error}");
    };
    let parts = [
        Some(said.code().code()),
        Some(said.message()),
        said.detail(),
        said.hint(),
        said.where_(),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn internal<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let is_internal = |line: &&str| {
        let line = line.to_lowercase();
        INTERNAL.iter().any(|word| line.contains(word))
    };
    lines.filter(is_internal).collect::<Vec<_>>().join("\n")
}

/// The server's log from here on, where this machine can read it.
struct ServerLog {
    path: PathBuf,
    begin: u64,
}

impl ServerLog {
    fn open() -> Result<ServerLog> {
        let mut session = Session::open(BOSS, None)?;
        if session.value("SHOW max_prepared_transactions")? == "0" {
            return Err(Skipped("max_prepared_transactions is 0").into());
        }
        let data = PathBuf::from(session.value("SHOW data_directory")?);
        let found = || -> Result<ServerLog> {
            let process = std::fs::read_to_string(data.join("postmaster.pid"))?;
            let process = process.lines().next().unwrap_or_default();
            let path = std::fs::read_link(format!("/proc/{process}/fd/2"))?;
            let begin = File::open(&path)?.metadata()?.len();
            Ok(ServerLog { path, begin })
        };
        found().map_err(|_| Skipped("the server's log cannot be read").into())
    }

    fn read(&self) -> Result<String> {
        let mut log = File::open(&self.path)?;
        log.seek(SeekFrom::Start(self.begin))?;
        let mut bytes = Vec::new();
        log.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
