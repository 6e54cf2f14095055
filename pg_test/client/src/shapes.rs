//! Users tables of all shapes, and the same life in two databases: in one rows are read and written without SQL
//! wherever the extension may (`token_balance.direct`), in the other by SQL alone. After each statement both have said
//! the same, an error word by word, and have the same rows.
//!
//! A shape's DDL comes between two charges, from another session: what a session keeps of a table is of the one before.

mod list;

use std::thread;

use postgres::fallible_iterator::FallibleIterator;

use crate::cases::{BOSS, Session, Stage};
use crate::database::Result;
use list::{SHAPES, Shape};

const OWNER: &str = "tb_shapes_owner";
const APP: &str = "tb_shapes_app";
const ROLES: [&str; 2] = [OWNER, APP];

/// The isolation levels that a shape is played in, what its workflows are called there, and the parts of a life. What
/// becomes of one statement alone is the same in both.
const LEVELS: [(&str, &str, &[&[&str]]); 2] = [
    (
        "read committed",
        "rc",
        &[RUNS, ERRORS, MONEY, TOGETHER, SWEEP],
    ),
    ("repeatable read", "rr", &[RUNS, TOGETHER]),
];

/// Shapes that have one extension: to create it takes longer than a life, and so do in the end the rows of many.
const SHAPES_OF_AN_EXTENSION: usize = 20;

const NEW_EXTENSION: &str = "
DROP EXTENSION IF EXISTS token_balance CASCADE;
DROP SCHEMA IF EXISTS app CASCADE;
DROP PUBLICATION IF EXISTS p;
CREATE EXTENSION token_balance SCHEMA public;
GRANT USAGE ON SCHEMA token_balance TO PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA token_balance, public TO PUBLIC;
GRANT EXECUTE ON ALL PROCEDURES IN SCHEMA token_balance TO PUBLIC;
";

/// Nothing is bound.
const NOTHING_BOUND: &str = "
SELECT token_balance.detach() WHERE EXISTS (SELECT FROM token_balance.binding WHERE detached_at IS NULL);
DROP SCHEMA IF EXISTS app CASCADE;
DROP PUBLICATION IF EXISTS p;
";

/// What every shape has: the columns of users may be others.
const TABLES: &str = "
CREATE SCHEMA app;
GRANT USAGE ON SCHEMA app TO PUBLIC;
SET search_path = app, public;
CREATE TABLE audit (number serial, what text, id text, was text, became text);
GRANT ALL ON ALL TABLES IN SCHEMA app TO PUBLIC;
GRANT ALL ON ALL SEQUENCES IN SCHEMA app TO PUBLIC;
CREATE FUNCTION audited() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO app.audit (what, id, was, became)
    VALUES (concat_ws(' ', TG_NAME, TG_WHEN, TG_LEVEL), OLD.id::text, OLD.token_balance::text, NEW.token_balance::text);
    RETURN NEW;
END $$;
CREATE TABLE token_usage (workflow_id text, user_id <key>, total_tokens bigint);
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
CREATE TABLE workflows (id text PRIMARY KEY, status text DEFAULT 'running', note text);
CREATE TABLE teams (id integer PRIMARY KEY);
INSERT INTO teams VALUES (1), (2);
";

/// Five accounts; the last two have one name.
const ACCOUNTS: &str = "
INSERT INTO users (id, name, token_balance)
VALUES (<1>, 'one', 1000), (<2>, 'two', 1000), (<3>, 'three', 1000), (<4>, 'twin', 1000), (<5>, 'twin', 900);
";

/// All rows of this shape as one text, whoever asks. Times differ.
const STATE: &str = "
CREATE FUNCTION app.state() RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = app AS $$ BEGIN RETURN (
    WITH binding AS (SELECT accounts_id, binding_id FROM token_balance.binding WHERE detached_at IS NULL)
    SELECT string_agg(row, E'\\n' ORDER BY place, row) FROM (
        SELECT 1, 'users ' || CASE WHEN length(u::text) > 1000 THEN left(u::text, 100) || md5(u::text) ELSE u::text END
        FROM users AS u
        UNION ALL SELECT 2, 'workflows ' || w::text FROM workflows AS w
        UNION ALL SELECT 3, 'ledger ' || (to_jsonb(l) - 'created_at')::text
        FROM token_balance.ledger AS l JOIN binding USING (accounts_id)
        UNION ALL SELECT 4, 'settlement ' || (to_jsonb(s) - 'first_settled_at' - 'last_settled_at')::text
        FROM token_balance.settlement AS s JOIN binding USING (binding_id)
        UNION ALL SELECT 5, 'reference ' || r::text FROM token_balance.reference AS r JOIN binding USING (accounts_id)
        UNION ALL SELECT 6, 'queue ' || (to_jsonb(q) - 'queued_at' - 'charge_id')::text
        FROM token_balance.queue AS q JOIN binding USING (accounts_id)
        UNION ALL SELECT 7, 'audit ' || row_number() OVER (ORDER BY number) || ' ' || (to_jsonb(a) - 'number')::text
        FROM audit AS a) AS r (place, row));
END $$;
GRANT EXECUTE ON FUNCTION app.state() TO PUBLIC;
";

const GRANTS: &str = "
GRANT SELECT, INSERT, UPDATE, DELETE ON app.users, app.workflows, app.token_usage TO PUBLIC;
";

/// Before the DDL: what a session keeps of the table is of this time.
const BEFORE: &[&str] = &[
    "INSERT INTO token_usage VALUES ('before', <1>, 1), ('before', <4>, 2); SELECT settle_workflow('before')",
    "SELECT token_balance.credit(<2>, 3)",
];

/// What begins with `other:` comes from another session. `<w>` is a prefix of the workflows' names, `<1>` an account.
const RUNS: &[&str] = &[
    // a first run, the same again, late usage
    "INSERT INTO token_usage VALUES ('<w>1', <1>, 10), ('<w>1', <2>, 20), ('<w>1', <1>, 5)",
    "SELECT settle_workflow('<w>1')",
    "SELECT settle_workflow('<w>1')",
    "INSERT INTO token_usage VALUES ('<w>1', <1>, 7); SELECT settle_workflow('<w>1')",
    // completed by UPDATE, many at once, by INSERT
    "INSERT INTO token_usage VALUES ('<w>2', <2>, 3), ('<w>3', <1>, 4), ('<w>4', <3>, 5), ('<w>4', <1>, 5), ('<w>5', <1>, 6);
     INSERT INTO workflows (id) VALUES ('<w>2'), ('<w>3'), ('<w>4')",
    "UPDATE workflows SET status = 'completed' WHERE id = '<w>2'",
    "UPDATE workflows SET status = 'completed' WHERE id IN ('<w>3', '<w>4')",
    "INSERT INTO workflows VALUES ('<w>5', 'completed')",
];

/// Statements that fail, with all that they wrote.
const ERRORS: &[&str] = &[
    "INSERT INTO token_usage VALUES ('<w>6', <9>, 8), ('<w>6', <1>, 8); SELECT settle_workflow('<w>6')",
    "INSERT INTO token_usage VALUES ('<w>7', <3>, 9000000000000000000); SELECT settle_workflow('<w>7')",
    "INSERT INTO token_usage VALUES ('<w>7', <3>, 40000); SELECT settle_workflow('<w>7')",
    // two accounts of one name come to one balance
    "INSERT INTO token_usage VALUES ('<w>9', <4>, 98); SELECT settle_workflow('<w>9')",
    "SELECT token_balance.credit(<1>, 9000000000000000000)",
    "SELECT token_balance.credit(<9>, 1)",
];

/// Given and taken, past zero too.
const MONEY: &[&str] = &[
    "INSERT INTO token_usage VALUES ('<w>8', <3>, 1100); SELECT settle_workflow('<w>8')",
    "SELECT token_balance.credit(<1>, 11, '<w>paid')",
    "SELECT token_balance.credit(<1>, 11, '<w>paid')",
    "SELECT token_balance.refund_workflow('<w>2', 2, '<w>ticket')",
    "SELECT token_balance.refund_workflow('<w>2', 60)",
    "SELECT token_balance.adjust(<2>, -1, 'counted')",
    "UPDATE users SET token_balance = token_balance + 1 WHERE id = <2>",
    "DELETE FROM token_usage WHERE workflow_id = '<w>3'; SELECT token_balance.correct_workflow('<w>3')",
];

const TOGETHER: &[&str] = &[
    // of one transaction: two charges of one row, one taken back, an account that is as new as its charge
    "INSERT INTO token_usage VALUES ('<w>10', <1>, 1), ('<w>11', <1>, 2), ('<w>12', <2>, 3)",
    "BEGIN; SELECT settle_workflow('<w>10')",
    "SAVEPOINT before; SELECT settle_workflow('<w>11')",
    "ROLLBACK TO before; INSERT INTO workflows VALUES ('<w>12', 'completed')",
    "UPDATE users SET name = 'once' WHERE id = <1>; SELECT settle_workflow('<w>11')",
    "INSERT INTO users (id, name, token_balance) VALUES (<6>, 'six', 60);
     INSERT INTO token_usage VALUES ('<w>13', <6>, 4), ('<w>13', <1>, 4); SELECT settle_workflow('<w>13')",
    "COMMIT",
    // others, after the first look and before the charge
    "INSERT INTO token_usage VALUES ('<w>14', <1>, 2), ('<w>15', <2>, 3), ('<w>16', <6>, 4)",
    "BEGIN; SELECT count(*) FROM workflows",
    "other: SELECT token_balance.credit(<1>, 2); UPDATE users SET name = 'other' WHERE id = <2>",
    "SELECT settle_workflow('<w>14')",
    "COMMIT",
    "BEGIN; SELECT count(*) FROM workflows",
    "other: DELETE FROM users WHERE id = <6>",
    "SELECT settle_workflow('<w>16')",
    "ROLLBACK",
    "DELETE FROM token_usage WHERE user_id = <6>; SELECT * FROM token_balance.settle_workflows('{<w>14,<w>15}')",
];

const SWEEP: &[&str] = &[
    "INSERT INTO token_usage VALUES ('<w>5', <1>, 12), ('<w>2', <2>, 13)",
    "SELECT token_balance.settle_pending()",
    "INSERT INTO token_usage VALUES ('<w>5', <1>, 14), ('<w>2', <2>, 15)",
    "CALL token_balance.settle_backlog(1)",
    "SELECT token_balance.balance(<1>), token_balance.summary(<1>) - 'details' - 'generated_at'",
    "SELECT to_jsonb(r) FROM token_balance.reconcile() AS r ORDER BY r::text",
];

/// What the accounts of the usual shape have at last, reckoned by hand from the statements above. Of the first one:
/// 1000 - 1 before; read committed 15 + 7 + 4 + 5 + 6 less, 11 given, 4 back, 1 + 2 + 4 less, 2 given, 2 + 12 + 14 less;
/// repeatable read 15 + 7 + 4 + 5 + 6 less, 1 + 2 + 4 less, 2 given, and 2 less at the second try.
const BALANCES: &str = "900 919 -40110 900 900";

/// Plays all shapes, or with `--shape WORD` those that have the word in their name.
pub fn run() -> Result<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--shape");
    let word = arguments.nth(1).unwrap_or_default();
    // Dropped in this order: the roles are the second one's.
    let sql = Stage::new("tb_shapes_sql", &[])?;
    let direct = Stage::new("tb_shapes_direct", &ROLES)?;
    let version = direct.version()?;
    let has_icu =
        direct.value("SELECT count(*) > 0 FROM pg_collation WHERE collname = 'und-x-icu'")? == "t";
    let mut pair = Pair {
        sides: [Side::new(&direct, "on")?, Side::new(&sql, "off")?],
        statements: 0,
    };
    let (mut played, mut different) = (0, 0);
    for shape in SHAPES {
        if shape.since > version || !shape.name.contains(&word) {
            continue;
        }
        if shape.ddl.contains("icu") && !has_icu {
            println!("skipped: {}: this server has no ICU", shape.name);
            continue;
        }
        let with_new_extension = played % SHAPES_OF_AN_EXTENSION == 0;
        match pair
            .make(shape, with_new_extension)
            .and_then(|()| pair.play(shape))
        {
            Ok(true) => println!("ok: {}", shape.name),
            Ok(false) => different += 1,
            Err(error) => {
                println!("FAILED: {}: {error}", shape.name);
                different += 1;
            }
        }
        played += 1;
    }
    let statements = pair.statements;
    match different {
        0 => Ok(format!(
            "{played} shapes, {statements} statements: no difference"
        )),
        _ => Err(format!("{different} of {played} shapes, {statements} statements").into()),
    }
}

/// Two databases.
struct Pair {
    /// With rows read and written without SQL, and without.
    sides: [Side; 2],
    statements: usize,
}

struct Side {
    session: Session,
    other: Session,
    direct: &'static str,
}

impl Pair {
    /// In both at once, as a server has more than one core.
    fn both<T: Send>(&mut self, act: impl Fn(&mut Side) -> T + Sync) -> (T, T) {
        let [direct, by_sql] = &mut self.sides;
        thread::scope(|scope| {
            let by_sql = scope.spawn(|| act(by_sql));
            let direct = act(direct);
            (direct, by_sql.join().expect("no side panics"))
        })
    }

    fn both_do(&mut self, act: impl Fn(&mut Side) -> Result<()> + Sync) -> Result<()> {
        let (direct, by_sql) = self.both(act);
        direct.and(by_sql)
    }

    /// The shape's tables, bound.
    fn make(&mut self, shape: &Shape, with_new_extension: bool) -> Result<()> {
        self.both_do(|side| {
            if with_new_extension {
                side.other.run(NEW_EXTENSION)?;
            }
            side.make(shape)
        })
    }

    /// Whether there is no difference; a shape ends at its first one.
    fn play(&mut self, shape: &Shape) -> Result<bool> {
        for statement in BEFORE {
            if !self.step(shape, "before", "", statement) {
                return Ok(false);
            }
        }
        self.both_do(|side| {
            side.other.run(&shape.fill(shape.ddl, ""))?;
            side.session.run(shape.session)
        })?;
        for (level, workflows, life) in LEVELS {
            let set_level = format!("SET default_transaction_isolation = '{level}'");
            self.both_do(|side| {
                side.session.run(&set_level)?;
                side.other.run(&set_level)
            })?;
            for statement in life.iter().copied().flatten() {
                if !self.step(shape, level, workflows, statement) {
                    return Ok(false);
                }
            }
            let heard = self.both(Side::heard);
            if !is_same(shape, level, "what was notified", heard) {
                return Ok(false);
            }
        }
        if shape.name == list::THE_USUAL {
            return self.has_balances();
        }
        Ok(true)
    }

    /// One statement in both: whether both have said the same of it.
    fn step(&mut self, shape: &Shape, level: &str, workflows: &str, statement: &str) -> bool {
        let sql = shape.fill(statement, workflows);
        let told = self.both(|side| side.told(&sql));
        self.statements += 1;
        is_same(shape, level, &sql, told)
    }

    /// Whether it is no wreck that both sides have.
    fn has_balances(&mut self) -> Result<bool> {
        let balances = "SELECT string_agg(token_balance::text, ' ' ORDER BY id) FROM app.users";
        let (direct, by_sql) = self.both(|side| side.other.value(balances));
        let (direct, by_sql) = (direct?, by_sql?);
        if direct == BALANCES && by_sql == BALANCES {
            return Ok(true);
        }
        println!("FAILED: balances {direct}, by SQL {by_sql}, expected {BALANCES}");
        Ok(false)
    }
}

fn is_same(shape: &Shape, level: &str, what: &str, told: (String, String)) -> bool {
    let (direct, by_sql) = told;
    if direct == by_sql {
        return true;
    }
    println!("FAILED: {}, {level}: {what}", shape.name);
    differing("direct", &direct, &by_sql);
    differing("by SQL", &by_sql, &direct);
    false
}

/// The lines that only one side has.
fn differing(side: &str, lines: &str, others: &str) {
    for line in lines
        .lines()
        .filter(|line| others.lines().all(|other| other != *line))
    {
        println!("    {side}: {line}");
    }
}

/// settle_backlog tells how quick it is.
fn without_speed(notice: &str) -> String {
    match notice
        .strip_suffix(" a second")
        .and_then(|told| told.rsplit_once(','))
    {
        Some((told, _)) => told.to_owned(),
        None => notice.to_owned(),
    }
}

impl Side {
    fn new(stage: &Stage, direct: &'static str) -> Result<Side> {
        Ok(Side {
            session: stage.session(BOSS)?,
            other: stage.session(BOSS)?,
            direct,
        })
    }

    fn make(&mut self, shape: &Shape) -> Result<()> {
        let other = &mut self.other;
        for session in [&mut *other, &mut self.session] {
            session.run("ROLLBACK; RESET ROLE; RESET ALL")?;
        }
        other.run("SET client_min_messages = error")?;
        other.run(NOTHING_BOUND)?;
        for sql in [TABLES, &shape.users(), ACCOUNTS, shape.before] {
            other.run(&shape.fill(sql, ""))?;
        }
        other.run(&format!(
            "SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_ids => 'new', accounts => 'new',
                 initial_balance => 1000{})",
            shape.attach
        ))?;
        other.run(STATE)?;
        other.run(GRANTS)?;
        for session in [&mut self.session, other] {
            session.run(&format!(
                "SET search_path = app, public; SET token_balance.direct = {}",
                self.direct
            ))?;
        }
        self.other.run("LISTEN token_balance")?;
        for session in [&mut self.session, &mut self.other] {
            session.take_warnings();
            session.take_notices();
        }
        Ok(())
    }

    /// All that can be told of a statement: its rows or its error, notices and warnings, and the rows that there are then.
    fn told(&mut self, sql: &str) -> String {
        let (session, sql) = match sql.strip_prefix("other: ") {
            Some(sql) => (&mut self.other, sql),
            None => (&mut self.session, sql),
        };
        let answer = session.answer(&[sql]);
        let mut told = vec![answer.text];
        told.extend(answer.error);
        told.extend(session.take_warnings());
        told.extend(
            session
                .take_notices()
                .iter()
                .map(|notice| without_speed(notice)),
        );
        // In a transaction that has failed there is no asking.
        told.push(self.session.answer(&["SELECT app.state()"]).text);
        told.join("\n")
    }

    /// The notifications since this was asked last.
    fn heard(&mut self) -> String {
        self.other.answer(&["SELECT"]); // with the answer comes all that was sent
        let mut heard = Vec::new();
        let mut notifications = self.other.client.notifications();
        let mut arrived = notifications.iter();
        while let Ok(Some(notification)) = arrived.next() {
            heard.push(notification.payload().to_owned());
        }
        heard.join("\n")
    }
}
