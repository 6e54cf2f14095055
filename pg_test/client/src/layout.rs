//! Tables of all the layouts that attach takes: types of keys, indexes, partitions, dropped columns,
//! rows that were updated, deleted and vacuumed. However the extension reads them, it charges what
//! SQL sums up, neither more nor less.

use fastrand::Rng;
use postgres::Client;

use crate::database::{Result, attach_options, connect, settles_late_usage};

const WORKFLOWS: u32 = 7;
const ACCOUNTS: u32 = 5;
const STEPS: usize = 6;

const KEYS: [&str; 7] = [
    "text",
    "varchar(40)",
    "text COLLATE \"C\"",
    "uuid",
    "smallint",
    "integer",
    "bigint",
];
const TOKENS: [&str; 3] = ["smallint", "integer", "bigint"];

/// Indexes on usage: none, some that serve, some that look as if they did.
const INDEXES: [&str; 9] = [
    "",
    "CREATE INDEX ON token_usage (workflow_id);",
    "CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens, extra);",
    "CREATE INDEX ON token_usage (workflow_id, user_id, total_tokens);",
    "CREATE INDEX ON token_usage (workflow_id DESC NULLS LAST, extra, total_tokens, user_id);",
    "CREATE INDEX ON token_usage (user_id); CREATE INDEX ON token_usage (workflow_id, user_id);",
    "CREATE INDEX ON token_usage (workflow_id) WHERE total_tokens > 5;",
    "CREATE INDEX ON token_usage USING hash (workflow_id);",
    "CREATE INDEX ON token_usage ((workflow_id::text));",
];

struct Layout {
    workflow_key: &'static str,
    account_key: &'static str,
    /// The workflow's account pays.
    by_workflow: bool,
    sql: String,
}

/// `layouts` random layouts, each settled some times after random writes; Err with the first
/// difference.
pub fn run(seed: u64, layouts: u64) -> Result<String> {
    let mut rng = Rng::with_seed(seed);
    let mut client = connect()?;
    client.batch_execute("SET client_min_messages = error")?;
    for number in 0..layouts {
        let layout = Layout::choose(&mut rng);
        let what = |error| format!("layout {number}, {}: {error}", layout.sql);
        client.batch_execute(&layout.sql)?;
        for _ in 0..STEPS {
            step(&mut client, &mut rng, &layout).map_err(what)?;
        }
    }
    Ok(format!(
        "{layouts} layouts, each settled {STEPS} times: no difference"
    ))
}

impl Layout {
    fn choose(rng: &mut Rng) -> Self {
        let pick = |rng: &mut Rng, of: &[&'static str]| of[rng.usize(..of.len())];
        let workflow_key = pick(rng, &KEYS);
        let account_key = pick(rng, &["text", "uuid", "integer", "bigint"]);
        let by_workflow = rng.u32(..5) == 0;
        // The usage may spell an account in its own way.
        let usage_key = if rng.bool() { account_key } else { "text" };
        let tokens = pick(rng, &TOKENS);
        let is_partitioned = rng.u32(..8) == 0;
        let (account, payer) = match by_workflow {
            true => (String::new(), ", usage_user => NULL"),
            false => (format!("user_id {usage_key}, "), ""),
        };
        let index = match by_workflow {
            true => INDEXES[rng.usize(..2)],
            false => pick(rng, &INDEXES),
        };
        let (partition, partitions) = match is_partitioned {
            true => (
                "PARTITION BY HASH (total_tokens)",
                "CREATE TABLE token_usage_0 PARTITION OF token_usage FOR VALUES WITH (MODULUS 2, REMAINDER 0);
                 CREATE TABLE token_usage_1 PARTITION OF token_usage FOR VALUES WITH (MODULUS 2, REMAINDER 1);",
            ),
            false => ("", ""),
        };
        let drop_column = ["", "ALTER TABLE token_usage DROP COLUMN first;"][rng.usize(..2)];
        let options = attach_options().map_or(String::new(), |options| format!(", {options}"));
        let users: Vec<_> = (1..=ACCOUNTS)
            .map(|account| format!("({})", literal(account_key, account)))
            .collect();
        let sql = format!(
            "DROP EXTENSION IF EXISTS token_balance CASCADE;
             DROP TABLE IF EXISTS token_usage, workflows, users CASCADE;
             CREATE TABLE users (id {account_key} PRIMARY KEY);
             CREATE TABLE token_usage (first text, workflow_id {workflow_key}, {account}total_tokens {tokens},
                 mark text, extra {tokens}) {partition};
             {partitions}{index}{drop_column}
             CREATE TABLE workflows (id {workflow_key}, user_id {account_key}, status text);
             INSERT INTO users VALUES {};
             CREATE EXTENSION token_balance;
             SELECT token_balance.detach() WHERE EXISTS (SELECT FROM token_balance.binding);
             SELECT token_balance.attach('users', 'token_usage', 'workflows',
                 usage_tokens => '{{total_tokens,extra}}', balance_type => 'bigint'{payer}{options});",
            users.join(", ")
        );
        Layout {
            workflow_key,
            account_key,
            by_workflow,
            sql,
        }
    }

    fn workflow(&self, rng: &mut Rng) -> String {
        literal(self.workflow_key, rng.u32(1..=WORKFLOWS))
    }

    fn account(&self, rng: &mut Rng) -> String {
        literal(self.account_key, rng.u32(1..=ACCOUNTS))
    }

    /// An INSERT of usage rows, which are marked.
    fn usage(&self, rng: &mut Rng, rows: u32, mark: &str) -> String {
        let (column, value) = match (self.by_workflow, rng.u32(..20)) {
            (true, _) => ("", String::new()),
            (false, 0) => ("user_id, ", "NULL, ".into()),
            (false, _) => ("user_id, ", format!("{}, ", self.account(rng))),
        };
        format!(
            "INSERT INTO token_usage (workflow_id, {column}total_tokens, mark, extra)
             SELECT {}, {value}g * 13 % 97, '{mark}', CASE WHEN g % 3 > 0 THEN g % 50 END
             FROM generate_series(1, {rows}) AS g",
            self.workflow(rng)
        )
    }
}

/// The SQL of one of some keys.
fn literal(key: &str, number: u32) -> String {
    match key {
        "uuid" => format!("'{:032X}'", u128::from(number) * 7919),
        "smallint" | "integer" | "bigint" => number.to_string(),
        _ => format!("'Run {number}'"),
    }
}

fn step(client: &mut Client, rng: &mut Rng, layout: &Layout) -> Result<()> {
    for _ in 0..rng.u32(1..12) {
        let rows = [1, 2, 30, 400][rng.usize(..4)];
        let write = match rng.u32(..100) {
            0..50 => layout.usage(rng, rows, "kept"),
            50..60 => "UPDATE token_usage SET mark = 'seen'".into(),
            60..70 => format!(
                "UPDATE token_usage SET total_tokens = total_tokens + 1 WHERE workflow_id = {}",
                layout.workflow(rng)
            ),
            // Usage that was charged and is then deleted would rightly be a difference.
            70..85 if settles_late_usage() => layout.usage(rng, rows, "kept"),
            70..85 => format!(
                "BEGIN; {}; SAVEPOINT s; {}; ROLLBACK TO s; {}; DELETE FROM token_usage WHERE mark = 'gone'; COMMIT",
                layout.usage(rng, rows, "kept"),
                layout.usage(rng, 3, "undone"),
                layout.usage(rng, rows, "gone")
            ),
            _ => "VACUUM token_usage".into(),
        };
        client.batch_execute(&write)?;
    }
    settle(client, rng, layout)?;
    compare(client)
}

/// All that has usage is completed, by one statement.
fn settle(client: &mut Client, rng: &mut Rng, layout: &Layout) -> Result<()> {
    let level = ["read committed", "repeatable read", "serializable"][rng.usize(..3)];
    // One account for all of a workflow's rows, so that nobody has to be asked who pays.
    let payer = format!("{}::{}", literal(layout.account_key, 1), layout.account_key);
    let runs = format!("SELECT DISTINCT workflow_id, {payer}");
    let complete = match rng.u32(..4) {
        0 => format!("INSERT INTO workflows {runs}, 'completed' FROM token_usage"),
        1 => format!(
            "INSERT INTO workflows {runs}, 'running' FROM token_usage; UPDATE workflows SET status = 'completed'"
        ),
        2 => format!(
            "INSERT INTO workflows {runs}, 'running' FROM token_usage;
             SELECT settle_workflow(w.id::text) FROM workflows AS w"
        ),
        // Usage that the completing statement writes itself.
        _ => format!(
            "WITH usage AS ({} RETURNING workflow_id)
             INSERT INTO workflows {runs}, 'completed'
             FROM (SELECT workflow_id FROM token_usage UNION SELECT workflow_id FROM usage) AS u",
            layout.usage(rng, 3, "kept")
        ),
    };
    client.batch_execute(&format!(
        "BEGIN ISOLATION LEVEL {level}; DELETE FROM workflows; {complete}; COMMIT"
    ))?;
    Ok(())
}

fn compare(client: &mut Client) -> Result<()> {
    let has_account = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'token_usage'::regclass \
                       AND attname = 'user_id' AND NOT attisdropped";
    let is_somebodys = match client.query_one(has_account, &[])?.get(0) {
        0_i64 => "true",
        _ => "user_id IS NOT NULL",
    };
    let differences = format!(
        "WITH used AS (
             SELECT workflow_id::text AS id, sum(coalesce(total_tokens, 0) + coalesce(extra, 0)) AS tokens
             FROM token_usage WHERE {is_somebodys} GROUP BY 1),
         settled AS (
             SELECT workflow_id AS id, sum(charged_tokens) AS tokens FROM token_balance.settlement GROUP BY 1)
         SELECT format('%s used %s, charged %s', id, u.tokens, s.tokens)
         FROM used AS u FULL JOIN settled AS s USING (id)
         WHERE coalesce(u.tokens, 0) <> coalesce(s.tokens, 0)
         UNION ALL SELECT format('%s: %s', r.problem, r.workflow_id) FROM token_balance.reconcile() AS r"
    );
    let found: Vec<String> = client
        .query(&differences, &[])?
        .iter()
        .map(|row| row.get(0))
        .collect();
    match found.is_empty() {
        true => Ok(()),
        false => Err(found.join(", ").into()),
    }
}
