//! The database under test: connecting, a schema to work on, the invariants I1 to I5.

use postgres::{Client, Config, NoTls};

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

pub const OPENING: i64 = 1_000_000;

pub fn connect() -> Result<Client> {
    Ok(config()?.connect(NoTls)?)
}

/// Where the environment leads.
pub fn config() -> Result<Config> {
    let mut config = Config::new();
    config
        .host(&variable("PGHOST", "/tmp"))
        .port(variable("PGPORT", "5432").parse()?)
        .user(&variable("PGUSER", "postgres"))
        .dbname(&variable("PGDATABASE", "postgres"));
    Ok(config)
}

/// One of the environment.
pub fn variable(name: &str, usual: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| usual.into())
}

/// More arguments for `attach`, from the environment: `busy_account => 'queue'`, say.
pub fn attach_options() -> Option<String> {
    std::env::var("ATTACH")
        .ok()
        .filter(|options| !options.is_empty())
}

/// Whether usage that comes late is charged at once, so that all usage of completed runs always is.
pub fn settles_late_usage() -> bool {
    attach_options().is_some_and(|options| options.contains("late_usage"))
}

/// SQL that binds the tables by these options.
pub fn attach_sql() -> String {
    let options = attach_options().map_or(String::new(), |options| format!(", {options}"));
    format!("SELECT token_balance.attach('users', 'token_usage', 'workflows'{options});")
}

/// Accounts `a0`…, workflows `w0`… (running), no usage; the extension freshly installed.
pub fn prepare(accounts: usize, workflows: usize) -> Result<Client> {
    let mut client = connect()?;
    client.batch_execute(&format!(
        "SET client_min_messages = error;
         DROP EXTENSION IF EXISTS token_balance CASCADE;
         DROP TABLE IF EXISTS token_usage, workflows, users CASCADE;
         CREATE TABLE users (id text PRIMARY KEY, seen integer NOT NULL DEFAULT 0);
         CREATE TABLE workflows (id text PRIMARY KEY, status text NOT NULL DEFAULT 'running');
         CREATE TABLE token_usage (workflow_id text NOT NULL, user_id text NOT NULL REFERENCES users,
                                   total_tokens integer NOT NULL);
         CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
         INSERT INTO users (id) SELECT 'a' || g FROM generate_series(0, {}) AS g;
         INSERT INTO workflows (id) SELECT 'w' || g FROM generate_series(0, {}) AS g;
         CREATE EXTENSION token_balance;
         ALTER TABLE users ALTER token_balance TYPE bigint;
         {}",
        accounts.saturating_sub(1),
        workflows.saturating_sub(1),
        attach_sql()
    ))?;
    Ok(client)
}

/// I1 to I5, each by a query that returns what breaks it. All in one statement, so that they hold of
/// one state.
const INVARIANTS: &str = "
WITH entries AS (
    SELECT user_id, entry_id, previous_balance, new_balance, amount,
           lag(new_balance) OVER (PARTITION BY user_id ORDER BY entry_id) AS before,
           first_value(previous_balance) OVER (PARTITION BY user_id ORDER BY entry_id) AS opening
    FROM token_balance.ledger),
chains AS (
    SELECT user_id, max(opening) AS opening, sum(amount) AS amount,
           bool_or(before <> previous_balance OR new_balance <> previous_balance + amount)
               AS has_gap
    FROM entries GROUP BY user_id),
charges AS (
    SELECT workflow_id, user_id, sum(tokens) AS charged FROM (
        SELECT workflow_id, user_id, -amount AS tokens FROM token_balance.ledger WHERE kind IN ('settlement', 'correction')
        UNION ALL SELECT workflow_id, user_id, tokens FROM token_balance.queue) AS c GROUP BY 1, 2),
used AS (
    SELECT workflow_id, user_id, sum(total_tokens) AS tokens FROM token_usage GROUP BY 1, 2)
SELECT 'I1 ' || u.id FROM users AS u LEFT JOIN chains AS c ON c.user_id = u.id
WHERE u.token_balance <> coalesce(c.opening + c.amount, $1::bigint) OR c.has_gap
UNION ALL
SELECT 'I2 ' || coalesce(s.workflow_id, c.workflow_id) FROM token_balance.settlement AS s
FULL JOIN charges AS c ON c.workflow_id = s.workflow_id AND c.user_id = s.user_id
WHERE coalesce(s.charged_tokens, 0) <> coalesce(c.charged, 0)
UNION ALL
SELECT 'I3 ' || g.workflow_id FROM used AS g JOIN workflows AS w ON w.id = g.workflow_id
LEFT JOIN token_balance.settlement AS s ON s.workflow_id = g.workflow_id AND s.user_id = g.user_id
WHERE w.status = 'completed' AND $2::boolean
    AND g.tokens <> coalesce(s.usage_tokens - s.archived_usage_tokens, 0)
UNION ALL
SELECT 'I4 entry ' || gone.entry_id FROM (TABLE seen_ledger EXCEPT TABLE token_balance.ledger) AS gone
UNION ALL
SELECT 'I5 ' || r.problem || coalesce(' ' || r.workflow_id, '') FROM token_balance.reconcile() AS r
WHERE $2::boolean OR r.problem <> 'unsettled usage'";

/// I4: what the ledger had at the last check by this connection is there unchanged.
const KEEP_LEDGER: &str =
    "CREATE TEMPORARY TABLE IF NOT EXISTS seen_ledger (LIKE token_balance.ledger)";
const SEE_LEDGER: &str = "
INSERT INTO seen_ledger SELECT l.* FROM token_balance.ledger AS l
WHERE NOT EXISTS (SELECT FROM seen_ledger AS s WHERE s.accounts_id = l.accounts_id AND s.user_id = l.user_id
                  AND s.entry_id = l.entry_id)";

/// Err with what is broken. `all_settled` is whether late usage would be a fault.
pub fn check_invariants(client: &mut Client, all_settled: bool) -> Result<()> {
    let broken = what_breaks(client, all_settled)?;
    match broken.is_empty() {
        true => Ok(()),
        false => Err(format!("broken: {}", broken.join(", ")).into()),
    }
}

/// What breaks an invariant; the ledger was seen then.
pub fn what_breaks(client: &mut Client, all_settled: bool) -> Result<Vec<String>> {
    let all_settled = all_settled || settles_late_usage();
    client.batch_execute(KEEP_LEDGER)?;
    let broken = client
        .query(INVARIANTS, &[&OPENING, &all_settled])?
        .iter()
        .map(|row| row.get(0))
        .collect();
    see_ledger(client)?;
    Ok(broken)
}

/// Keeps what the ledger has, for the checks to come by this connection.
pub fn see_ledger(client: &mut Client) -> Result<()> {
    client.batch_execute(KEEP_LEDGER)?;
    Ok(client.batch_execute(SEE_LEDGER)?)
}

/// The SQLSTATE of a database error.
pub fn sqlstate(error: &postgres::Error) -> String {
    error
        .code()
        .map_or_else(|| error.to_string(), |code| code.code().to_owned())
}

/// The SQLSTATE and all that the server says.
pub fn describe(error: &postgres::Error) -> String {
    let sqlstate = sqlstate(error);
    match error.as_db_error() {
        None => sqlstate,
        Some(said) => {
            let detail = said.detail().map(|detail| format!(" ({detail})"));
            let hint = said.hint().map(|hint| format!(" HINT: {hint}"));
            format!(
                "{sqlstate} {}{}{}",
                said.message(),
                detail.unwrap_or_default(),
                hint.unwrap_or_default()
            )
        }
    }
}

/// Errors that a client retries: serialization failure, deadlock, lock timeout.
pub fn is_retried(error: &postgres::Error) -> bool {
    ["40001", "40P01", "55P03"].contains(&sqlstate(error).as_str()) || is_multixact_race(error)
}

/// A race of the server's own between an UPDATE and another one's abort, which is marked in the commit log
/// before the transaction leaves the list of those in progress. In between, `DoesMultiXactIdConflict` takes
/// the other for aborted and does not wait, and `MultiXactIdExpand` for in progress and keeps it beside the
/// new one: `MultiXactIdCreateFromMembers` then finds two. The statement fails; nothing was written.
pub fn is_multixact_race(error: &postgres::Error) -> bool {
    let said = error.as_db_error().map_or("", |said| said.message());
    sqlstate(error) == "XX000"
        && said.starts_with("new multixact has more than one updating member")
}
