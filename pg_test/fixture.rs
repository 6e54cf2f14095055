//! A small application for the tests, and words to talk about it.

use std::cell::RefCell;
use std::ffi::{CStr, c_char};

use pgrx::pg_sys;
use pgrx::prelude::*;
use serde::Deserialize;
use serde_json::Value;

/// What a new account of the application starts with.
pub(super) const INITIAL: i64 = 1_000_000;

/// The usual three tables, attached, with the accounts ann and bob.
pub(super) fn application() {
    tables();
    run("SELECT token_balance.attach('users', 'token_usage', 'workflows')");
}

/// The usual three tables, not attached.
pub(super) fn tables() {
    schema();
    run("CREATE TABLE users (id text PRIMARY KEY);
         CREATE TABLE token_usage (
             id bigint GENERATED ALWAYS AS IDENTITY,
             workflow_id text, user_id text, total_tokens integer);
         CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
         INSERT INTO users VALUES ('ann'), ('bob')");
}

/// There is one binding in a database: tests wait here for each other, before they hold any lock on
/// which another could wait.
pub(super) fn wait_for_turn() {
    run("SELECT pg_advisory_xact_lock(7462)");
}

/// An empty schema, first in the search path.
pub(super) fn schema() {
    wait_for_turn();
    run("CREATE SCHEMA app; SET LOCAL search_path = app, public");
    run(
        "CREATE FUNCTION failure_of(statement text) RETURNS jsonb LANGUAGE plpgsql AS $$
         DECLARE state text; message text; detail text; hint text;
         BEGIN
             EXECUTE statement;
             RETURN NULL;
         EXCEPTION WHEN OTHERS THEN
             GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
                 detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
             RETURN jsonb_build_object(
                 'code', state, 'message', message, 'detail', detail, 'hint', hint);
         END $$",
    );
}

pub(super) fn run(sql: &str) {
    if let Err(error) = Spi::run(sql) {
        panic!("{error} in {sql}");
    }
}

/// The only value of a query, as text; empty for NULL and for no row.
pub(super) fn text(query: &str) -> String {
    let sql = format!("SELECT (SELECT q::text FROM ({query}) AS r(q))");
    match Spi::get_one::<String>(&sql) {
        Ok(value) => value.unwrap_or_default(),
        Err(error) => panic!("{error} in {sql}"),
    }
}

pub(super) fn number(query: &str) -> i64 {
    let text = text(query);
    match text.parse() {
        Ok(number) => number,
        Err(_) => panic!("{query} gives {text:?}, not a number"),
    }
}

pub(super) fn is_true(condition: &str) -> bool {
    text(&format!("SELECT {condition}")) == "true"
}

pub(super) fn json(query: &str) -> Value {
    serde_json::from_str(&text(query)).unwrap_or(Value::Null)
}

/// The only column of a query, in the order of its rows.
pub(super) fn list(query: &str) -> Vec<String> {
    let all = format!("SELECT json_agg(q::text) FROM ({query}) AS r(q)");
    match json(&all) {
        Value::Array(rows) => rows
            .iter()
            .map(|row| row.as_str().unwrap_or_default().to_owned())
            .collect(),
        _ => Vec::new(),
    }
}

pub(super) fn quoted(text: &str) -> String {
    pgrx::spi::quote_literal(text)
}

/// An error as a client sees it.
#[derive(Debug, Deserialize)]
pub(super) struct Failure {
    pub(super) code: String,
    pub(super) message: String,
    pub(super) detail: String,
    pub(super) hint: String,
}

/// The error of a statement, which runs in a subtransaction; None if it succeeds.
pub(super) fn failure_of(sql: &str) -> Option<Failure> {
    let report = json(&format!("SELECT failure_of({})", quoted(sql)));
    serde_json::from_value(report).ok()
}

/// Runs a statement that must fail with this SQLSTATE.
#[track_caller]
pub(super) fn assert_fails(sql: &str, code: &str) -> Failure {
    match failure_of(sql) {
        Some(failure) => {
            assert_eq!(failure.code, code, "{sql} raises {failure:?}");
            failure
        }
        None => panic!("{sql} does not fail"),
    }
}

pub(super) fn add_usage(workflow: &str, account: &str, tokens: i64) {
    run(&format!(
        "INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ({}, {}, {tokens})",
        quoted(workflow),
        quoted(account)
    ));
}

pub(super) fn add_workflow(workflow: &str, account: &str, status: &str) {
    run(&format!(
        "INSERT INTO workflows (id, user_id, status) VALUES ({}, {}, {})",
        quoted(workflow),
        quoted(account),
        quoted(status)
    ));
}

pub(super) fn set_status(workflow: &str, status: &str) {
    run(&format!(
        "UPDATE workflows SET status = {} WHERE id = {}",
        quoted(status),
        quoted(workflow)
    ));
}

pub(super) fn complete(workflow: &str) {
    set_status(workflow, "completed");
}

pub(super) fn settle_sql(workflow: &str) -> String {
    format!("SELECT settle_workflow({}::text)", quoted(workflow))
}

pub(super) fn settle(workflow: &str) -> Value {
    json(&settle_sql(workflow))
}

/// What a settlement that is called now charges.
pub(super) fn charge_of(workflow: &str) -> i64 {
    settle(workflow)["tokens_used"]
        .as_i64()
        .unwrap_or_else(|| panic!("no tokens_used in the answer for {workflow}"))
}

pub(super) fn balance(account: &str) -> i64 {
    number(&format!(
        "SELECT token_balance FROM users WHERE id::text = {}",
        quoted(account)
    ))
}

/// What an account has paid, if all that changed its balance were charges.
pub(super) fn paid(account: &str) -> i64 {
    INITIAL - balance(account)
}

/// Tokens of a workflow that the extension holds for charged.
pub(super) fn charged(workflow: &str) -> i64 {
    number(&format!(
        "SELECT COALESCE(sum(charged_tokens), 0) FROM token_balance.settlement \
         WHERE workflow_id = {}",
        quoted(workflow)
    ))
}

/// An account's entries: `kind previous -> new workflow`.
pub(super) fn entries(account: &str) -> Vec<String> {
    list(&format!(
        "SELECT concat_ws(' ', kind, previous_balance, '->', new_balance, workflow_id) \
         FROM token_balance.ledger WHERE user_id = {} ORDER BY entry_id",
        quoted(account)
    ))
}

/// The rule of the ledger: entries form a chain that ends at the account's balance.
#[track_caller]
pub(super) fn assert_ledger_is_whole() {
    let broken = list(
        "SELECT format('%s: %s -> %s', user_id, previous_balance, new_balance) FROM (
             SELECT l.*, lag(new_balance) OVER w AS before, lead(new_balance) OVER w AS after,
                 lead(true) OVER w IS NULL AS is_last, u.token_balance
             FROM token_balance.ledger AS l LEFT JOIN users AS u ON u.id::text = l.user_id
             AND l.accounts_id = (
                     SELECT accounts_id FROM token_balance.binding ORDER BY binding_id DESC LIMIT 1)
             WINDOW w AS (PARTITION BY l.accounts_id, user_id ORDER BY entry_id)) AS l
         WHERE before <> previous_balance OR (is_last AND new_balance <> token_balance)
             OR new_balance - previous_balance <> amount OR (amount = 0) <> (kind = 'opening')",
    );
    assert_eq!(broken, [""; 0], "links that do not fit");
}

/// Something that the server told the client without an error.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) level: i32,
    pub(super) code: String,
    pub(super) message: String,
    pub(super) detail: String,
    pub(super) hint: String,
}

thread_local! {
    static TOLD: RefCell<Vec<Told>> = const { RefCell::new(Vec::new()) };
}

/// The warnings that `work` causes.
pub(super) fn warnings_of(work: impl FnOnce()) -> Vec<Told> {
    told_by(pg_sys::WARNING, work)
}

/// The notices of this extension that `work` causes.
pub(super) fn notices_of(work: impl FnOnce()) -> Vec<Told> {
    told_by(pg_sys::NOTICE, work)
        .into_iter()
        .filter(|told| told.message.starts_with("token_balance"))
        .collect()
}

fn told_by(level: u32, work: impl FnOnce()) -> Vec<Told> {
    TOLD.take();
    // SAFETY: the hook is a function of this library; the backend is this test's own.
    unsafe { pg_sys::emit_log_hook = Some(hear) };
    work();
    // SAFETY: as above. A test that fails ends its backend with the hook.
    unsafe { pg_sys::emit_log_hook = None };
    TOLD.take()
        .into_iter()
        .filter(|told| told.level == level as i32)
        .collect()
}

unsafe extern "C-unwind" fn hear(report: *mut pg_sys::ErrorData) {
    // SAFETY: the server passes a report that is complete; its strings are null or end in NUL.
    let told = unsafe {
        let report = &*report;
        Told {
            level: report.elevel,
            code: owned(pg_sys::unpack_sql_state(report.sqlerrcode)),
            message: owned(report.message),
            detail: owned(report.detail),
            hint: owned(report.hint),
        }
    };
    TOLD.with_borrow_mut(|all| all.push(told));
}

/// # Safety
/// `text` is null or a C string.
unsafe fn owned(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_string_lossy().into_owned()
}

/// Numbers that look random and are the same in every run.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Dice(seed)
    }

    /// A number from 0 up to, not including, `sides`.
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        // Knuth's multiplier for 64 bits; the high bits are the good ones.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    pub(super) fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.roll(from.len() as u64) as usize]
    }
}
