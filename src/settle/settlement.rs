//! The table `token_balance.settlement`: what of each workflow's usage is accounted for, by account.

use pgrx::pg_sys::{INT2OID, INT8OID, NUMERICOID, Oid, TEXTOID, TIMESTAMPTZOID, TimestampTz};

use crate::binding::{Binding, Book, Bound, Ids, Kept};
use crate::error::{Error, Result};
use crate::postgres::clock::now;
use crate::postgres::direct::{Inserter, OpenTable, Shape};
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi::{self, Statement};
use crate::postgres::value::Arg;

/// A column of the table.
struct Column {
    name: &'static str,
    /// What a first claim has in it.
    first: First,
    /// What becomes of the values of two accounts that are one from now on.
    merged: Merged,
}

enum First {
    Text(for<'a> fn(&FirstClaim<'a>) -> &'a str),
    Tokens(fn(&FirstClaim) -> i64),
    NoTokens,
    Moment(fn(&FirstClaim) -> TimestampTz),
    Binding,
}

#[derive(Clone, Copy, PartialEq)]
enum Merged {
    /// Part of the primary key.
    Key,
    Sum,
    Earlier,
    Later,
}

/// The sum of usage rows that were taken away after they were settled, as [`archived_usage_sql`] reads it.
pub(super) const ARCHIVED_USAGE: &str = "archived_usage_tokens";

/// The columns, in order. What writes a first claim without SQL, and what gives an account another id, is
/// made from this list.
static COLUMNS: &[Column] = {
    use First::{Binding, Moment, NoTokens, Text, Tokens};
    use Merged::{Earlier, Key, Later, Sum};
    &[
        column("workflow_id", Text(|claim| claim.workflow), Key),
        column("user_id", Text(|claim| claim.account), Key),
        column("usage_tokens", Tokens(|claim| claim.tokens), Sum),
        column("charged_tokens", Tokens(|claim| claim.tokens), Sum),
        column("refunded_tokens", Tokens(|_| 0), Sum),
        column("first_settled_at", Moment(|claim| claim.at), Earlier),
        column("last_settled_at", Moment(|claim| claim.at), Later),
        column("archived_charged_tokens", Tokens(|_| 0), Sum),
        column("archived_refunded_tokens", Tokens(|_| 0), Sum),
        column("binding_id", Binding, Key),
        column("corrected_tokens", Tokens(|_| 0), Sum),
        column(ARCHIVED_USAGE, NoTokens, Sum),
    ]
};

const COUNT: usize = COLUMNS.len();

/// The columns by name and type, as an archive of settlements has to have them.
pub(super) fn archived_columns() -> impl Iterator<Item = (&'static str, Oid)> {
    COLUMNS
        .iter()
        .map(|column| (column.name, column.first.column().0))
}

const fn column(name: &'static str, first: First, merged: Merged) -> Column {
    Column {
        name,
        first,
        merged,
    }
}

static SHAPE: Shape = Shape {
    columns: &{
        let mut shape = [(TEXTOID, false); COUNT];
        let mut at = 0;
        while at < COUNT {
            shape[at] = COLUMNS[at].first.column();
            at += 1;
        }
        shape
    },
    checks: &[],
};

impl First {
    /// Its type in SQL.
    fn type_sql(&self) -> &'static str {
        match self {
            First::Text(_) => "pg_catalog.text",
            First::Tokens(_) => "bigint",
            First::NoTokens => "pg_catalog.numeric",
            First::Moment(_) => "timestamp with time zone",
            First::Binding => "smallint",
        }
    }

    /// The type of such a column, and whether it may be null.
    const fn column(&self) -> (Oid, bool) {
        match self {
            First::Text(_) => (TEXTOID, false),
            First::Tokens(_) => (INT8OID, false),
            First::NoTokens => (NUMERICOID, false),
            First::Moment(_) => (TIMESTAMPTZOID, true),
            First::Binding => (INT2OID, false),
        }
    }
}

/// The row of an account that is charged for a workflow for the first time.
pub(super) struct FirstClaim<'a> {
    binding: i16,
    workflow: &'a str,
    account: &'a str,
    tokens: i64,
    at: TimestampTz,
}

impl<'a> FirstClaim<'a> {
    pub(super) fn new(ids: Ids, workflow: &'a str, account: &'a str, tokens: i64) -> Self {
        FirstClaim {
            binding: ids.binding,
            workflow,
            account,
            tokens,
            at: now(),
        }
    }

    pub(super) fn values(&self) -> [Arg<'a>; COUNT] {
        std::array::from_fn(|at| match COLUMNS[at].first {
            First::Text(value) => Arg::Text(value(self)),
            First::Tokens(value) => Arg::Int8(value(self)),
            First::NoTokens => Arg::NumericZero,
            First::Moment(value) => Arg::OptionalTimestamp(Some(value(self))),
            First::Binding => Arg::OptionalInt2(Some(self.binding)),
        })
    }
}

/// How first claims are written without SQL.
struct Claims(Inserter);

impl Kept<Book> for Claims {
    fn of(book: &Book) -> Self {
        Claims(Inserter::new(book.own.settlement, &SHAPE))
    }
}

/// The table open for first claims; None if SQL must write it.
pub(crate) fn open(book: &Book) -> Option<OpenTable> {
    book.kept::<Claims>().0.open()
}

/// SQL for the tokens of a settlement's usage that is not there any more and counts as if it were, before they are
/// rounded: numeric. The catalog of an older version, until it is updated, has none.
pub(crate) fn archived_usage_sql(ids: Option<Ids>, alias: &str) -> String {
    match ids {
        Some(_) => format!("{alias}.{ARCHIVED_USAGE}"),
        None => "0::pg_catalog.numeric".into(),
    }
}

/// SQL for "the workflow was settled once", of its canonical id: where no workflow table says that a run is
/// completed, this does.
pub(crate) fn was_settled_sql(binding: &Binding, workflow: &str) -> String {
    format!(
        "EXISTS (SELECT 1 FROM token_balance.settlement AS s \
         WHERE {} s.workflow_id OPERATOR(pg_catalog.=) {workflow} AND s.first_settled_at IS NOT NULL)",
        binding.own("s")
    )
}

struct Statements {
    rename: Statement,
    of_account: Statement,
}

impl Kept<Book> for Statements {
    fn of(book: &Book) -> Self {
        Statements {
            rename: Statement::new(&rename_sql(book.accounts.id), &[TEXTOID, TEXTOID]),
            of_account: Statement::new(
                &format!(
                    "SELECT 1 FROM token_balance.settlement AS d WHERE d.user_id OPERATOR(pg_catalog.=) $1 {} LIMIT 1",
                    of_accounts_sql(book.accounts.id)
                ),
                &[TEXTOID],
            ),
        }
    }
}

/// A condition on the settlement `d`, after others. Bindings of one users table charge the same accounts.
fn of_accounts_sql(accounts: Option<i16>) -> String {
    match accounts {
        Some(accounts) => format!(
            "AND d.binding_id OPERATOR(pg_catalog.=) ANY (SELECT b.binding_id \
             FROM token_balance.binding AS b WHERE b.accounts_id OPERATOR(pg_catalog.=) {accounts})"
        ),
        None => String::new(),
    }
}

/// ```sql
/// WITH moved AS (DELETE FROM token_balance.settlement AS d WHERE d.user_id = $1 AND … RETURNING *)
/// INSERT INTO token_balance.settlement AS s (workflow_id, user_id, usage_tokens, …)
/// SELECT m.workflow_id, $2, m.usage_tokens, … FROM moved AS m
/// ON CONFLICT (binding_id, workflow_id, user_id) DO UPDATE
/// SET usage_tokens = s.usage_tokens + EXCLUDED.usage_tokens, …
/// ```
fn rename_sql(accounts: Option<i16>) -> String {
    let of_accounts = of_accounts_sql(accounts);
    let is_older = accounts.is_none();
    let names: Vec<_> = columns(is_older).map(|column| column.name).collect();
    let moved: Vec<_> = names
        .iter()
        .map(|name| match *name {
            "user_id" => "$2".to_owned(),
            name => format!("m.{name}"),
        })
        .collect();
    format!(
        "WITH moved AS (DELETE FROM token_balance.settlement AS d \
         WHERE d.user_id OPERATOR(pg_catalog.=) $1 {of_accounts} RETURNING *) \
         INSERT INTO token_balance.settlement AS s ({}) SELECT {} FROM moved AS m {}",
        names.join(", "),
        moved.join(", "),
        or_add_sql(is_older)
    )
}

/// The columns that the catalog has: that of an older version has no bindings, and nothing that came after them.
fn columns(is_older: bool) -> impl Iterator<Item = &'static Column> {
    COLUMNS
        .iter()
        .take_while(move |column| !(is_older && matches!(column.first, First::Binding)))
}

/// What an INSERT that moves settlements does where the other workflow or account has one.
fn or_add_sql(is_older: bool) -> String {
    let key = columns(is_older).filter(|column| column.merged == Merged::Key);
    let key: Vec<_> = key.map(|column| column.name).collect();
    let merged = columns(is_older).filter_map(|Column { name, merged, .. }| {
        let both = match merged {
            Merged::Key => return None,
            Merged::Sum => format!("s.{name} OPERATOR(pg_catalog.+) EXCLUDED.{name}"),
            Merged::Earlier => format!("LEAST(s.{name}, EXCLUDED.{name})"),
            Merged::Later => format!("GREATEST(s.{name}, EXCLUDED.{name})"),
        };
        Some(format!("{name} = {both}"))
    });
    format!(
        "ON CONFLICT ({}) DO UPDATE SET {}",
        key.join(", "),
        merged.collect::<Vec<_>>().join(", ")
    )
}

/// Settlements of the workflows $1 become those of $2, all at once: ids may take one another's place. The grouping has
/// read all that is deleted before the first row is inserted.
///
/// ```sql
/// WITH moved AS (DELETE FROM token_balance.settlement AS d USING … AS r (old_id, new_id)
/// WHERE d.workflow_id = r.old_id AND … RETURNING r.new_id, d.*)
/// INSERT INTO token_balance.settlement AS s (workflow_id, user_id, usage_tokens, …)
/// SELECT m.new_id, m.user_id, sum(m.usage_tokens)::bigint, … FROM moved AS m
/// GROUP BY m.new_id, m.user_id, m.binding_id ON CONFLICT … DO UPDATE SET …
/// ```
pub(super) fn move_workflows_sql(ids: Option<Ids>) -> String {
    let is_older = ids.is_none();
    let moved = format!(
        "WITH moved AS (DELETE FROM token_balance.settlement AS d \
         USING ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS r (old_id, new_id) \
         WHERE {} d.workflow_id OPERATOR(pg_catalog.=) r.old_id RETURNING r.new_id, d.*)",
        Ids::of_binding(ids, "d"),
    );
    format!(
        "{moved} {}",
        add_all_sql(is_older, "moved AS m", "m.new_id", "")
    )
}

/// INSERT of the settlements `m`, those of one key added up, and to what is there.
fn add_all_sql(is_older: bool, from: &str, workflow: &str, order: &str) -> String {
    let names: Vec<_> = columns(is_older).map(|column| column.name).collect();
    let of_key = |name: &str| match name {
        "workflow_id" => workflow.to_owned(),
        name => format!("m.{name}"),
    };
    let key = columns(is_older).filter(|column| column.merged == Merged::Key);
    let key: Vec<_> = key.map(|column| of_key(column.name)).collect();
    let added = columns(is_older).map(|column| (column, column.name));
    let added = added.map(|(Column { first, merged, .. }, name)| match merged {
        Merged::Key => of_key(name),
        Merged::Sum if matches!(first, First::NoTokens) => format!("pg_catalog.sum(m.{name})"),
        Merged::Sum => format!("pg_catalog.sum(m.{name})::bigint"),
        Merged::Earlier => format!("pg_catalog.min(m.{name})"),
        Merged::Later => format!("pg_catalog.max(m.{name})"),
    });
    format!(
        "INSERT INTO token_balance.settlement AS s ({}) SELECT {} FROM {from} GROUP BY {} {order} {}",
        names.join(", "),
        added.collect::<Vec<_>>().join(", "),
        key.join(", "),
        or_add_sql(is_older)
    )
}

/// SQL for the columns of the row `alias` as JSON.
pub(super) fn json_sql(alias: &str) -> String {
    let fields = COLUMNS.iter();
    let fields = fields.map(|Column { name, .. }| format!("'{name}', {alias}.{name}"));
    format!(
        "pg_catalog.json_build_object({})",
        fields.collect::<Vec<_>>().join(", ")
    )
}

/// The settlements of a JSON list ($1) as rows `m`.
fn recordset_sql() -> String {
    let columns = COLUMNS.iter();
    let columns = columns.map(|Column { name, first, .. }| format!("{name} {}", first.type_sql()));
    format!(
        "pg_catalog.json_to_recordset($1::pg_catalog.json) AS m ({})",
        columns.collect::<Vec<_>>().join(", ")
    )
}

/// Settlements of a JSON list ($1) go into the table `archive`.
pub(super) fn archive_sql(archive: &str) -> String {
    let names: Vec<_> = COLUMNS.iter().map(|column| column.name).collect();
    let of_row: Vec<_> = names.iter().map(|name| format!("m.{name}")).collect();
    format!(
        "INSERT INTO {archive} ({}) SELECT {} FROM {}",
        names.join(", "),
        of_row.join(", "),
        recordset_sql()
    )
}

/// Settlements of a JSON list ($1) come back. One that has ended twice comes as one, and is added to what was settled
/// since. In the order in which settlements are locked.
pub(super) fn bring_back_sql() -> String {
    add_all_sql(
        false,
        &recordset_sql(),
        "m.workflow_id",
        "ORDER BY m.workflow_id COLLATE pg_catalog.\"C\", m.user_id COLLATE pg_catalog.\"C\"",
    )
}

/// How often settlements are looked for that have come in the place of others. Nobody gives a workflow other ids without end,
/// but a trigger may keep a row from being moved.
const MAX_RENAMES: usize = 100;

/// An account has another id. What an earlier account of that id has paid for is added up.
pub(crate) fn rename_account(book: &Book, old_account: &str, account: &str) -> Result<()> {
    let _owner = book.run_as_extension();
    let ids = [Arg::Text(old_account), Arg::Text(account)];
    let statements = book.kept::<Statements>();
    for _ in 0..MAX_RENAMES {
        // Also of those who have left their charge in the queue, however old the transaction's snapshot is.
        statements.rename.run(&ids, Snapshot::Latest)?;
        // What was waited for may have left others in its place: a workflow that got another id.
        let left = statements.of_account.run(&ids[..1], Snapshot::Latest)?;
        if left.rows.is_empty() {
            return Ok(());
        }
    }
    Err(Error::ChargeSuppressed {
        relation: "token_balance.settlement".into(),
        account: old_account.to_owned(),
    })
}

/// Forget what is settled of the binding. Other bindings of these accounts, which are remembered, keep what they have
/// settled; the entries of it leave the ledger, as with an archive. How many are gone.
pub(crate) fn forget(bound: &Bound) -> Result<u64> {
    let accounts = &bound.book.accounts;
    let _owner = bound.run_as_extension();
    let own = bound.binding.own("s");
    let gone = spi::query_as_of(
        &format!("DELETE FROM token_balance.settlement AS s WHERE {own} true"),
        &[],
        Snapshot::Latest,
    )?;
    let own = bound.binding.own("a");
    spi::query_as_of(
        &format!("DELETE FROM token_balance.archived AS a WHERE {own} true"),
        &[],
        Snapshot::Latest,
    )?;
    spi::query_as_of(
        &format!(
            "UPDATE token_balance.settlement AS s SET archived_charged_tokens = s.charged_tokens, \
             archived_refunded_tokens = s.refunded_tokens FROM token_balance.binding AS b \
             WHERE {} b.binding_id OPERATOR(pg_catalog.=) s.binding_id",
            accounts.own("b")
        ),
        &[],
        Snapshot::Latest,
    )?;
    Ok(gone.processed)
}
