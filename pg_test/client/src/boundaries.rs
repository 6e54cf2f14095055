//! Boundaries: nothing, null, zero and negative usage; sums and balances at the very edge of their
//! types and past it; a million usage rows, 10,000 accounts, ids of 1,000 and 10,000 characters; a
//! statement that completes more workflows than the lock table would hold.

use std::time::Instant;

use postgres::fallible_iterator::FallibleIterator;

use crate::cases::{BOSS, Session, Stage};
use crate::database::{Result, see_ledger, what_breaks};

use Step::*;

/// A line of the tables. Each has a session of its own. What is expected of a statement is its
/// rows, or the SQLSTATE of its error.
enum Step {
    /// New tables: the types of tokens and of the balance.
    Tables(&'static str, &'static str),
    /// Usage: workflow, account, tokens.
    Use(&'static str, &'static str, &'static str),
    Do(&'static str),
    /// (what, workflow, the balance of ann once it is completed)
    Completed(&'static str, &'static str, &'static str),
    /// (what, workflow, tokens that settling takes, and status when it is settled again)
    Settled(&'static str, &'static str, &'static str),
    /// (what, statement, expected)
    Is(&'static str, &'static str, &'static str),
    /// The same, with the time that it takes.
    Timed(&'static str, &'static str, &'static str),
    /// (what, statement, the warnings)
    Warned(&'static str, &'static str, &'static str),
    /// No invariant is broken by what was done.
    Holds(&'static str),
}

const PROBLEM: &str = "SELECT problem, workflow_id, expected, found FROM token_balance.reconcile()";
const SPENT: &str = "SELECT sum(1000000 - token_balance) FROM users";
const OUT_OF_RANGE: &str =
    "charge of workflow \"many\" is out of range for the balance of account \"ann\"";
const COMPLETE_ALL: &str = "UPDATE workflows SET status = 'completed'";

#[rustfmt::skip]
const NOTHING: &[Step] = &[
    Tables("integer", "integer"),
    Completed("a workflow without usage completes and costs nothing", "empty", "1000000"),
    Settled("it has no usage", "empty", "0 no_usage"),
    Is("the null id is an error", "SELECT settle_workflow(NULL::text)", "22004"),
    Is("the empty id is one like any other: unknown here", "SELECT settle_workflow('')", "P0002"),
    Use("", "ann", "7"),
    Settled("and known with usage", "", "7 already_settled"),
    Use("void", "ann", "NULL"),
    Use("void", "ann", "0"),
    Settled("null and zero tokens cost nothing", "void", "0 already_settled"),
    Completed("nor does the completion", "void", "999993"),
    Do("INSERT INTO token_usage VALUES ('nobody', NULL, 50)"),
    Settled("usage without an account is nobody's", "nobody", "0 already_settled"),
    Use("minus", "ann", "-50"),
    Completed("a negative sum charges and gives nothing", "minus", "999993"),
    Use("minus", "ann", "50"),
    Settled("nor does one of zero", "minus", "0 already_settled"),
    Use("minus", "ann", "3"),
    Settled("what takes it above zero is charged", "minus", "3 already_settled"),
    Use("minus", "ann", "-2"),
    Settled("a sum that shrank gives nothing back", "minus", "0 already_settled"),
    Is("and is reported", PROBLEM, "usage shrank||3|1"),
    Use("minus", "ann", "4"),
    Settled("later usage is charged as far as it takes the sum above", "minus",
        "2 already_settled"),
    Holds("nothing, null, zero, negative"),
];

#[rustfmt::skip]
const INTEGER: &[Step] = &[
    Do("UPDATE users SET token_balance = -2147483600"),
    Use("deep", "ann", "48"),
    Completed("a charge to the smallest integer", "deep", "-2147483648"),
    Use("deeper", "ann", "1"),
    Is("one more: 22003 in the function", "SELECT settle_workflow('deeper')", "22003"),
    Warned("a warning in the trigger",
        "INSERT INTO workflows VALUES ('deeper', 'ann', 'completed')",
        "charge of workflow \"deeper\" is out of range for the balance of account \"ann\""),
    Is("where the row is completed", "SELECT status FROM workflows WHERE id = 'deeper'",
        "completed"),
    Is("and the usage left", PROBLEM, "unsettled usage|deeper|1|0"),
    Is("that a refund of another", "SELECT token_balance.refund_workflow('deep', 1) ->> 'success'",
        "true"),
    Settled("makes room for", "deeper", "1 already_settled"),
    Do("UPDATE users SET token_balance = 2147483600"),
    Is("a credit to the largest integer",
        "SELECT token_balance.credit('ann', 47) ->> 'new_balance'", "2147483647"),
    Is("one more is 22003", "SELECT token_balance.credit('ann', 1)", "22003"),
    Is("so is a refund", "SELECT token_balance.refund_workflow('deep', 1)", "22003"),
    Is("from one end to the other by hand",
        "UPDATE users SET token_balance = -2147483648;
         SELECT amount FROM token_balance.ledger WHERE user_id = 'ann'
         ORDER BY entry_id DESC LIMIT 1",
        "-4294967295"),
    Holds("integer"),
];

#[rustfmt::skip]
const BIGINT: &[Step] = &[
    Tables("bigint", "bigint"),
    Do("UPDATE users SET token_balance = 0"),
    Use("most", "ann", "9223372036854775807"),
    Completed("a charge of the largest bigint", "most", "-9223372036854775807"),
    Use("one", "ann", "1"),
    Settled("to the smallest bigint", "one", "1 already_settled"),
    Is("read by balance()", "SELECT token_balance.balance('ann')",
        r#"{"is_overdraft": true, "token_balance": -9223372036854775808}"#),
    Use("most", "ann", "1"),
    Is("a sum past bigint: 22003 in the function", "SELECT settle_workflow('most')", "22003"),
    Is("a refund of all of it", "SELECT token_balance.refund_workflow('most') ->> 'amount'",
        "9223372036854775807"),
    Is("the sum past bigint still is", "SELECT settle_workflow('most')", "22003"),
    Do("DELETE FROM token_usage WHERE workflow_id = 'most' AND total_tokens = 1"),
    Use("many", "ann", "9223372036854775807"),
    Use("many", "ann", "9223372036854775807"),
    Use("many", "ann", "9223372036854775807"),
    Use("many", "bob", "5"),
    Is("three times the largest: 22003 in the function", "SELECT settle_workflow('many')", "22003"),
    Is("and nobody is charged", "SELECT token_balance FROM users WHERE id = 'bob'", "0"),
    Warned("a warning in the trigger", "INSERT INTO workflows VALUES ('many', 'ann', 'completed')",
        OUT_OF_RANGE),
    Is("and the other account pays",
        "SELECT status, token_balance FROM workflows AS w, users AS u
         WHERE w.id = 'many' AND u.id = 'bob'",
        "completed|-5"),
    Is("the rest is reported exactly", PROBLEM, "unsettled usage|many|27670116110564327421|0"),
    Warned("a sweep warns and goes on", "SELECT token_balance.settle_pending()", OUT_OF_RANGE),
    Do("DELETE FROM token_usage WHERE workflow_id = 'many' AND user_id = 'ann'"),
    Do("UPDATE users SET token_balance = 9223372036854775800 WHERE id = 'bob'"),
    Is("a credit to the largest bigint", "SELECT token_balance.credit('bob', 7) ->> 'new_balance'",
        "9223372036854775807"),
    Is("one more is 22003", "SELECT token_balance.credit('bob', 1)", "22003"),
    Is("a credit past bigint is 22003", "SELECT token_balance.credit('bob', 9223372036854775808)",
        "22003"),
    Is("so is a refund past it",
        "SELECT token_balance.refund_workflow('most', 9223372036854775808)", "22003"),
    Is("from one end to the other by hand is past the ledger's bigint: 22003",
        "UPDATE users SET token_balance = -9223372036854775808 WHERE id = 'bob'", "22003"),
    Is("an amount of the smallest bigint is none",
        "SELECT token_balance.credit('bob', -9223372036854775808)", "22023"),
    Holds("bigint"),
];

#[rustfmt::skip]
const ACCOUNTS: &[Step] = &[
    Tables("integer", "integer"),
    Do("INSERT INTO users SELECT 'u' || g FROM generate_series(1, 10000) AS g;
        INSERT INTO token_usage SELECT 'wide', 'u' || g, g % 100
        FROM generate_series(1, 10000) AS g, generate_series(1, 2)"),
    Timed("the completion charges each",
        "INSERT INTO workflows VALUES ('wide', NULL, 'completed');
         SELECT count(*), sum(1000000 - token_balance) FROM users",
        "10002|990000"),
    Use("wide", "u1", "1"),
    Use("wide", "u10000", "1"),
    Is("a late one is charged to those whom it names",
        "SELECT jsonb_agg(c -> 'user_id')
         FROM jsonb_array_elements(settle_workflow('wide') -> 'charges') AS c",
        r#"["u1", "u10000"]"#),
    Is("a refund gives each its share back",
        "SELECT jsonb_array_length(token_balance.refund_workflow('wide') -> 'refunds'),
            (SELECT sum(1000000 - token_balance) FROM users)",
        "9901|990002"),
    Is("all of it", SPENT, "0"),
    Holds("10,000 accounts"),
];

#[rustfmt::skip]
const USAGE_ROWS: &[Step] = &[
    Do("INSERT INTO token_usage SELECT 'long', CASE g % 4 WHEN 0 THEN 'ann' ELSE 'bob' END, g % 7
        FROM generate_series(1, 1000000) AS g"),
    Timed("it completes", "INSERT INTO workflows VALUES ('long', 'ann', 'completed') RETURNING 1",
        "1"),
    Is("each account pays its part",
        "SELECT sum(total_tokens) FILTER (WHERE user_id = 'ann')
                - (SELECT 1000000 - token_balance FROM users WHERE id = 'ann'),
            sum(total_tokens) FILTER (WHERE user_id = 'bob')
                - (SELECT 1000000 - token_balance FROM users WHERE id = 'bob')
         FROM token_usage WHERE workflow_id = 'long'",
        "0|0"),
    Settled("and pays once", "long", "0 already_settled"),
    Holds("1,000,000 usage rows"),
];

#[rustfmt::skip]
const LONG_IDS: &[Step] = &[
    Tables("integer", "integer"),
    Do("ALTER TABLE workflows DROP CONSTRAINT workflows_pkey;
        DROP INDEX token_usage_workflow_id_user_id_total_tokens_idx;
        CREATE INDEX ON token_usage USING hash (workflow_id)"),
];

/// What such an id is, and whether a notification has room for it: its payload is limited to 8,000
/// bytes, and an id that does not fit is left out. Most are ids that no compression makes short:
/// hexadecimal digits without a pattern.
#[rustfmt::skip]
const IDS: &[(&str, &str, bool)] = &[
    ("1,000 characters",
        "(SELECT substr(string_agg(md5(g::text), ''), 1, 1000) FROM generate_series(1, 40) AS g)",
        true),
    ("1,000 characters of two bytes",
        "(SELECT translate(substr(string_agg(md5(g::text), ''), 1, 1000),
              '0123456789abcdef', 'абвгдежзийклмноп')
          FROM generate_series(41, 80) AS g)",
        true),
    ("10,000 characters", "(SELECT repeat('0123456789', 1000))", false),
];

/// What is so with each of them, where it stands for `$id`.
#[rustfmt::skip]
const WITH_ID: &[(&str, &str, &str)] = &[
    ("a completion", "INSERT INTO workflows SELECT 'w' || $id, NULL, 'completed'", ""),
    ("the balance", "SELECT token_balance.balance('u' || $id) ->> 'token_balance'", "-30"),
    ("the answer names the id", "SELECT settle_workflow('w' || $id) ->> 'workflow_id' = 'w' || $id",
        "t"),
    ("a refund, a credit",
        "SELECT token_balance.refund_workflow('w' || $id, 20, repeat('r', 255)) ->> 'amount',
            token_balance.credit('u' || $id, 20, 'c') ->> 'new_balance'",
        "20|10"),
    ("the statement",
        "SELECT string_agg(amount::text, ' ') FROM token_balance.statement('u' || $id)",
        "-1000030 20 20"),
];

#[rustfmt::skip]
const AFTER_LONG_IDS: &[Step] = &[
    Is("an unknown id of 10,000 characters", "SELECT settle_workflow(repeat('x', 10000))", "P0002"),
    Is("overdrawn lists them", "SELECT count(*) FROM token_balance.overdrawn", "3"),
    Holds("long ids"),
];

#[rustfmt::skip]
const WORKFLOWS: &[Step] = &[
    Tables("integer", "integer"),
    Do("INSERT INTO users SELECT 'u' || g FROM generate_series(0, 99) AS g;
        INSERT INTO workflows SELECT 'w' || g, 'u' || g % 100, 'running'
        FROM generate_series(1, 20000) AS g;
        INSERT INTO token_usage SELECT id, user_id, 5 FROM workflows"),
    Timed("no error", COMPLETE_ALL, ""),
    Is("each is charged once", "SELECT count(*), sum(amount) FROM token_balance.ledger",
        "20000|-100000"),
    Holds("20,000 workflows"),
];

#[rustfmt::skip]
const PAYING_WORKFLOWS: &[Step] = &[
    Do("SELECT token_balance.detach();
        TRUNCATE workflows, token_usage;
        ALTER TABLE token_usage DROP user_id;
        CREATE INDEX ON token_usage (workflow_id) INCLUDE (total_tokens);
        SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_user => NULL);
        INSERT INTO workflows SELECT 'x' || g, 'u' || g % 100, 'running'
        FROM generate_series(1, 20000) AS g;
        INSERT INTO token_usage SELECT id, 5 FROM workflows"),
    Is("no error", COMPLETE_ALL, ""),
    Is("each is charged once",
        "SELECT count(*), sum(amount) FROM token_balance.ledger WHERE workflow_id LIKE 'x%'",
        "20000|-100000"),
];

pub fn run() -> Result<String> {
    let mut boundaries = Boundaries::new()?;
    boundaries.section("nothing, null, zero, negative", NOTHING)?;
    boundaries.section("the very edge of integer", INTEGER)?;
    boundaries.section("the very edge of bigint", BIGINT)?;
    boundaries.section("10,000 accounts in one workflow", ACCOUNTS)?;
    boundaries.section("a workflow with 1,000,000 usage rows", USAGE_ROWS)?;
    boundaries.section("long ids", LONG_IDS)?;
    for &(what, id, is_notified) in IDS {
        boundaries.long_id(what, id, is_notified)?;
    }
    boundaries.play(AFTER_LONG_IDS)?;
    boundaries.say_locks()?;
    boundaries.section("20,000 workflows completed by one statement", WORKFLOWS)?;
    boundaries.section(
        "and where the workflow's row says who pays",
        PAYING_WORKFLOWS,
    )?;
    boundaries.stage.end()
}

struct Boundaries {
    /// The connection that has seen the ledger of these tables.
    checker: Session,
    stage: Stage,
}

impl Boundaries {
    fn new() -> Result<Boundaries> {
        let stage = Stage::new("tb_boundaries", &[])?;
        let checker = stage.session(BOSS)?;
        Ok(Boundaries { checker, stage })
    }

    fn section(&mut self, title: &str, steps: &[Step]) -> Result<()> {
        println!("-- {title}");
        self.play(steps)
    }

    fn play(&mut self, steps: &[Step]) -> Result<()> {
        steps.iter().try_for_each(|step| self.step(step))
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        match *step {
            Tables(tokens, balance) => self.make_tables(tokens, balance),
            Use(workflow, account, tokens) => self.stage.run(
                BOSS,
                &format!("INSERT INTO token_usage VALUES ('{workflow}', '{account}', {tokens})"),
            ),
            Do(sql) => self.stage.run(BOSS, sql),
            Completed(what, workflow, balance) => {
                let complete =
                    format!("INSERT INTO workflows VALUES ('{workflow}', 'ann', 'completed')");
                let read = "SELECT token_balance FROM users WHERE id = 'ann'";
                self.stage.check(what, BOSS, &[&complete, read], balance)
            }
            Settled(what, workflow, expected) => {
                let settle = format!(
                    "SELECT (settle_workflow('{workflow}') ->> 'tokens_used') || ' ' \
                     || (settle_workflow('{workflow}') ->> 'status')"
                );
                self.stage.check(what, BOSS, &[&settle], expected)
            }
            Is(what, statement, expected) => self.stage.check(what, BOSS, &[statement], expected),
            Timed(what, statement, expected) => {
                let begun = Instant::now();
                self.stage.check(what, BOSS, &[statement], expected)?;
                println!("took {} ms", begun.elapsed().as_millis());
                Ok(())
            }
            Warned(what, statement, expected) => {
                let mut session = self.stage.session(BOSS)?;
                session.run(statement)?;
                let warnings = session.take_warnings().join("\n");
                self.stage.is(what, warnings, expected);
                Ok(())
            }
            Holds(what) => {
                let broken = what_breaks(&mut self.checker.client, true)?.join(", ");
                let what = format!("{what}: what breaks an invariant");
                self.stage.is(&what, broken, "");
                Ok(())
            }
        }
    }

    fn make_tables(&mut self, tokens: &str, balance: &str) -> Result<()> {
        self.stage.run(
            BOSS,
            &format!(
                "DROP EXTENSION IF EXISTS token_balance CASCADE;
                 DROP TABLE IF EXISTS token_usage, workflows, users;
                 CREATE TABLE users (id text PRIMARY KEY);
                 CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens {tokens});
                 CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
                 CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
                 INSERT INTO users VALUES ('ann'), ('bob');
                 CREATE EXTENSION token_balance SCHEMA public;
                 ALTER TABLE users ALTER token_balance TYPE {balance}"
            ),
        )?;
        self.checker = self.stage.session(BOSS)?;
        see_ledger(&mut self.checker.client)
    }

    fn long_id(&mut self, what: &str, id: &str, is_notified: bool) -> Result<()> {
        let with_id = |statement: &str| statement.replace("$id", id);
        self.stage.run(
            BOSS,
            &with_id(
                "INSERT INTO users SELECT 'u' || $id;
                 INSERT INTO token_usage SELECT 'w' || $id, 'u' || $id, 1000030",
            ),
        )?;
        for &(check, statement, expected) in WITH_ID {
            let what = format!("{what}: {check}");
            let statement = with_id(statement);
            self.stage.check(&what, BOSS, &[&statement], expected)?;
        }
        let user = match is_notified {
            true => format!("\"u{}\"", self.stage.value(&with_id("SELECT $id"))?),
            false => "null".to_owned(),
        };
        let payload = format!("\"user_id\":{user},\"previous_balance\":10,\"token_balance\":-8");
        let overdraw = with_id("UPDATE users SET token_balance = -8 WHERE id = 'u' || $id");
        let heard = self.notified(&overdraw)?;
        let count = heard.iter().filter(|said| said.contains(&payload)).count();
        let what = format!("{what}: the notification");
        self.stage.is(&what, count.to_string(), "1");
        Ok(())
    }

    /// The payloads of what a session hears that does this.
    fn notified(&self, sql: &str) -> Result<Vec<String>> {
        let mut session = self.stage.session(BOSS)?;
        session.run("LISTEN token_balance")?;
        session.run(sql)?;
        session.run("SELECT")?; // the server has sent them by then
        let mut notifications = session.client.notifications();
        let mut heard = Vec::new();
        let mut pending = notifications.iter();
        while let Some(notification) = pending.next()? {
            heard.push(notification.payload().to_owned());
        }
        Ok(heard)
    }

    fn say_locks(&self) -> Result<()> {
        let locks = self.stage.value(
            "SELECT current_setting('max_locks_per_transaction')::bigint * \
             (current_setting('max_connections')::bigint \
              + current_setting('max_prepared_transactions')::bigint)",
        )?;
        println!("the lock table holds {locks}");
        Ok(())
    }
}
