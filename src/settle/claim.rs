//! Claims: settlement rows say what of a workflow's usage is accounted for. A transaction that has claimed
//! tokens there must deduct them.

use std::collections::{HashMap, HashSet};

use pgrx::pg_sys::{INT8ARRAYOID, INT8OID, TEXTARRAYOID, TEXTOID, TIMESTAMPTZOID, TimestampTz};

use super::settlement::{self, ARCHIVED_USAGE, FirstClaim, archived_usage_sql};
use crate::binding::{Bound, Ids, Kept};
use crate::counters::{Counter, count};
use crate::error::{Error, Result};
use crate::postgres::direct::{Conflict, Holds, Lookup, Wanted, is_used as is_direct};
use crate::postgres::exact_sum::ExactSum;
use crate::postgres::key::KeyType;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi::Statement;
use crate::postgres::value::{Arg, Row, moment_sql};

/// The statements on settlement rows.
struct Statements {
    settled_lookup: Lookup,
    settled: Statement,
    settled_of_many: Statement,
    claim: Statement,
    claim_many: Statement,
    claim_more: Statement,
    release: Statement,
    forget: Statement,
}

impl Kept<Bound> for Statements {
    fn of(bound: &Bound) -> Self {
        let own = |alias| bound.binding.own(alias);
        let ids = bound.binding.spec.ids;
        Statements {
            settled_lookup: Lookup::new(ids.map(|ids| Wanted {
                table: bound.book.own.settlement,
                owner: bound.binding.accounts.extension_owner,
                scope: Some(("binding_id", ids.binding)),
                key: "workflow_id".into(),
                key_type: KeyType::Text,
                columns: vec![
                    ("user_id".into(), Holds::Key(KeyType::Text)),
                    ("usage_tokens".into(), Holds::Integer),
                    (settlement::ARCHIVED_USAGE.into(), Holds::Numeric),
                    ("first_settled_at".into(), Holds::Moment),
                    ("last_settled_at".into(), Holds::Moment),
                ],
            })),
            settled: Statement::new(
                &format!(
                    "SELECT s.user_id, s.usage_tokens, {}, {}, {} FROM token_balance.settlement AS s \
                     WHERE {} s.workflow_id OPERATOR(pg_catalog.=) $1",
                    archived_usage_sql(ids, "s"),
                    moment_sql("s.first_settled_at"),
                    moment_sql("s.last_settled_at"),
                    own("s")
                ),
                &[TEXTOID],
            ),
            settled_of_many: Statement::new(
                // OFFSET 0: each id is looked up in the index, also with a plan that was made while the
                // table was empty.
                &format!(
                    "SELECT s.workflow_id, s.user_id, s.usage_tokens, s.archived, {}, {} \
                     FROM pg_catalog.unnest($1) AS k (id) \
                     CROSS JOIN LATERAL (SELECT t.workflow_id, t.user_id, t.usage_tokens, {} AS archived, \
                     t.first_settled_at, t.last_settled_at FROM token_balance.settlement AS t \
                     WHERE {} t.workflow_id OPERATOR(pg_catalog.=) k.id OFFSET 0) AS s",
                    moment_sql("s.first_settled_at"),
                    moment_sql("s.last_settled_at"),
                    archived_usage_sql(ids, "t"),
                    own("t")
                ),
                &[TEXTARRAYOID],
            ),
            claim: Statement::new(
                &claim_sql(ids, "VALUES ($1, $2, $3, $4"),
                &[TEXTOID, TEXTOID, INT8OID, INT8OID, TEXTOID],
            ),
            claim_many: Statement::new(
                &claim_sql(
                    ids,
                    "SELECT c.workflow_id, c.user_id, c.usage_tokens, c.charged_tokens",
                ),
                &[
                    TEXTARRAYOID,
                    TEXTARRAYOID,
                    INT8ARRAYOID,
                    INT8ARRAYOID,
                    TEXTARRAYOID,
                ],
            ),
            claim_more: Statement::new(
                &claim_more_sql(bound),
                &[TEXTOID, TEXTOID, INT8OID, INT8OID, TEXTOID],
            ),
            forget: Statement::new(
                &format!(
                    "DELETE FROM token_balance.settlement AS s \
                     WHERE {} s.workflow_id OPERATOR(pg_catalog.=) $1 \
                     AND s.user_id OPERATOR(pg_catalog.=) $2 \
                     AND s.usage_tokens OPERATOR(pg_catalog.=) $3",
                    own("s")
                ),
                &[TEXTOID, TEXTOID, INT8OID],
            ),
            release: Statement::new(
                &format!(
                    "UPDATE token_balance.settlement AS s \
                     SET usage_tokens = s.usage_tokens OPERATOR(pg_catalog.-) $3, \
                     charged_tokens = s.charged_tokens OPERATOR(pg_catalog.-) $3, \
                     first_settled_at = $4, last_settled_at = $5 \
                     WHERE {} s.workflow_id OPERATOR(pg_catalog.=) $1 \
                     AND s.user_id OPERATOR(pg_catalog.=) $2",
                    own("s")
                ),
                &[TEXTOID, TEXTOID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID],
            ),
        }
    }
}

/// Insert, or add to one of which nothing is accounted for: one statement either way, so
/// that rows are locked in the order in which they are given.
fn claim_sql(ids: Option<Ids>, values: &str) -> String {
    let (from, archived) = if values.starts_with("SELECT") {
        let from = " FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), \
                    pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5)) \
                    AS c (workflow_id, user_id, usage_tokens, charged_tokens, archived)";
        (from, "c.archived")
    } else {
        (")", "$5")
    };
    let (key, columns, more, is_same) = match ids {
        Some(ids) => (
            ", binding_id",
            format!(", binding_id, {ARCHIVED_USAGE}"),
            format!(", {}, {archived}::pg_catalog.numeric", ids.binding),
            format!("AND s.{ARCHIVED_USAGE} OPERATOR(pg_catalog.=) EXCLUDED.{ARCHIVED_USAGE} "),
        ),
        None => ("", String::new(), String::new(), String::new()),
    };
    format!(
        "INSERT INTO token_balance.settlement AS s (workflow_id, user_id, usage_tokens, \
         charged_tokens, first_settled_at, last_settled_at{columns}) \
         {values}, pg_catalog.clock_timestamp(), pg_catalog.clock_timestamp(){more}{from} \
         ON CONFLICT (workflow_id, user_id{key}) DO UPDATE \
         SET usage_tokens = EXCLUDED.usage_tokens, \
         charged_tokens = s.charged_tokens OPERATOR(pg_catalog.+) EXCLUDED.charged_tokens, \
         first_settled_at = COALESCE(s.first_settled_at, EXCLUDED.first_settled_at), \
         last_settled_at = EXCLUDED.last_settled_at \
         WHERE s.usage_tokens OPERATOR(pg_catalog.=) \
         (EXCLUDED.usage_tokens OPERATOR(pg_catalog.-) EXCLUDED.charged_tokens) {is_same}\
         RETURNING s.workflow_id, s.user_id"
    )
}

/// Add to a settlement that was found, if it is still as it was read. If it is not there any more nothing is inserted: its
/// workflow or its account may have got another id.
fn claim_more_sql(bound: &Bound) -> String {
    let is_same = match bound.binding.spec.ids {
        Some(_) => format!("AND s.{ARCHIVED_USAGE} OPERATOR(pg_catalog.=) $5::pg_catalog.numeric"),
        None => "AND $5 IS NOT NULL".into(),
    };
    format!(
        "UPDATE token_balance.settlement AS s SET usage_tokens = $3, \
         charged_tokens = s.charged_tokens OPERATOR(pg_catalog.+) $4, \
         first_settled_at = COALESCE(s.first_settled_at, pg_catalog.clock_timestamp()), \
         last_settled_at = pg_catalog.clock_timestamp() \
         WHERE {} s.workflow_id OPERATOR(pg_catalog.=) $1 AND s.user_id OPERATOR(pg_catalog.=) $2 \
         AND s.usage_tokens OPERATOR(pg_catalog.=) ($3 OPERATOR(pg_catalog.-) $4) {is_same}",
        bound.binding.own("s")
    )
}

/// Tokens of one workflow that this transaction has taken to charge to one account.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    /// Of which work it is, of those that are settled together.
    pub(crate) place: usize,
    pub(crate) account: String,
    pub(crate) workflow: String,
    /// Above 0.
    pub(crate) tokens: i64,
    /// What the settlement row said before; None if there was no row.
    pub(crate) settled: Option<Settled>,
}

impl Claim {
    fn usage_tokens(&self) -> i64 {
        self.settled.as_ref().map_or(0, |it| it.usage) + self.tokens
    }

    fn archived(&self) -> String {
        self.settled
            .as_ref()
            .map_or_else(|| "0".to_owned(), |it| it.archived.to_string())
    }

    /// Whether the same settlement row was found as it was found for the other one.
    pub(super) fn is_as_settled(&self, other: &Claim) -> bool {
        self.settled == other.settled
            && self.workflow == other.workflow
            && self.account == other.account
    }
}

/// What a settlement row says of an account's usage of a workflow. Tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settled {
    /// Accounted for.
    pub(crate) usage: i64,
    /// The usage that is not there any more and counts as if it were.
    pub(crate) archived: ExactSum,
    /// When it was charged first, and last.
    first: Option<TimestampTz>,
    last: Option<TimestampTz>,
}

impl Settled {
    /// What two accounts or workflows have that are one from now on. Tokens past bigint are cut off.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.usage = self.usage.saturating_add(other.usage);
        self.archived.add(&other.archived);
        // None is the smallest.
        self.first = self.first.into_iter().chain(other.first).min();
        self.last = self.last.max(other.last);
    }
}

/// What is settled of a workflow, by account.
pub(crate) type Accounted = HashMap<String, Settled>;

/// What an account has used of a workflow and is not accounted for; without an account, where the workflow's own pays, of all
/// of its usage. `used` is what usage rows say. Tokens; below 0 where usage was taken away after it was accounted for.
pub(crate) fn unaccounted(
    used: &ExactSum,
    settled: &Accounted,
    account: Option<&str>,
) -> Result<i128> {
    let whole = |used: ExactSum, usage: i128| match used.rounded() {
        Some(used) => Ok(used - usage),
        None => Err(Error::NotAnAmount {
            found: Some(used.to_string()),
        }),
    };
    match account {
        Some(account) => match settled.get(account) {
            Some(one) => whole(used.plus(&one.archived), one.usage.into()),
            None => whole(used.clone(), 0),
        },
        None => {
            let mut used = used.clone();
            settled.values().for_each(|one| used.add(&one.archived));
            let usage = settled.values().map(|one| i128::from(one.usage));
            whole(used, usage.sum())
        }
    }
}

/// What is accounted for of each of `workflows`.
pub(crate) fn read_settled(bound: &Bound, workflows: &[String]) -> Result<Vec<Accounted>> {
    let _owner = bound.run_as_extension();
    let statements = bound.kept::<Statements>();
    if let Some(mut reader) = statements.settled_lookup.reader() {
        let mut all = vec![Accounted::new(); workflows.len()];
        let mut is_whole = true;
        reader.read(workflows, |at, row| {
            let archived = ExactSum::of(row.numeric(2).as_deref());
            match (row.text(0), row.integer(1), archived) {
                (Some(account), Some(usage), Ok(archived)) => {
                    let (first, last) = (row.moment(3), row.moment(4));
                    let settled = Settled {
                        usage,
                        archived,
                        first,
                        last,
                    };
                    all[at].insert(account, settled);
                }
                _ => is_whole = false,
            }
        });
        // All of the columns but the times are NOT NULL.
        return is_whole
            .then_some(all)
            .ok_or(Error::NotAnAmount { found: None });
    }
    if let [workflow] = workflows {
        let outcome = statements
            .settled
            .run(&[Arg::Text(workflow)], Snapshot::Latest)?;
        let settled = outcome.rows.iter();
        let settled = settled.map(|row| Ok((row.text(0).to_owned(), settled_of(row, 1)?)));
        return Ok(vec![settled.collect::<Result<_>>()?]);
    }
    let outcome = statements
        .settled_of_many
        .run(&[Arg::TextArray(workflows)], Snapshot::Latest)?;
    let mut all: HashMap<&str, Accounted> = HashMap::new();
    for row in &outcome.rows {
        all.entry(row.text(0))
            .or_default()
            .insert(row.text(1).to_owned(), settled_of(row, 2)?);
    }
    Ok(workflows
        .iter()
        .map(|workflow| all.remove(workflow.as_str()).unwrap_or_default())
        .collect())
}

/// What four columns say, from this one on.
fn settled_of(row: &Row, column: usize) -> Result<Settled> {
    Ok(Settled {
        usage: row.amount(column)?,
        archived: ExactSum::of(row.get(column + 1))?,
        first: row.number(column + 2),
        last: row.number(column + 3),
    })
}

/// Whether first claims are inserted without SPI.
pub(crate) fn inserts(bound: &Bound) -> bool {
    bound.binding.spec.ids.is_some() && is_direct()
}

/// Write claims, in their order. Those come back whose settlement row was not as it was read: who
/// comes second must look again.
pub(crate) fn write(bound: &Bound, claims: Vec<Claim>) -> Result<(Vec<Claim>, Vec<Claim>)> {
    let _owner = bound.run_as_extension();
    let mut is_written = Vec::with_capacity(claims.len());
    for claims in claims.chunk_by(|a, b| a.settled.is_none() == b.settled.is_none()) {
        let mut rest = claims;
        while !rest.is_empty() {
            let inserted = insert(bound, rest);
            is_written.extend(rest[..inserted].iter().map(|_| true));
            rest = &rest[inserted..];
            // After rows that were inserted comes one that somebody else has, it seems.
            let some = if inserted > 0 {
                rest.len().min(1)
            } else {
                rest.len()
            };
            let by_sql = write_by_sql(bound, &rest[..some])?;
            count(
                Counter::SettlementsBySql,
                by_sql.iter().filter(|is_written| **is_written).count(),
            );
            is_written.extend(by_sql);
            rest = &rest[some..];
        }
    }
    let mut is_written = is_written.into_iter();
    Ok(claims
        .into_iter()
        .partition(|_| is_written.next() == Some(true)))
}

/// Insert the rows of first claims without SPI, as the owner of the extension's tables: how many, until one is in doubt.
pub(crate) fn insert(bound: &Bound, claims: &[Claim]) -> usize {
    let Some(ids) = bound.binding.spec.ids else {
        return 0;
    };
    if claims.is_empty() || claims.iter().any(|claim| claim.settled.is_some()) {
        return 0;
    }
    let _owner = bound.run_as_extension();
    let Some(table) = settlement::open(&bound.book) else {
        return 0;
    };
    let rows: Vec<_> = claims
        .iter()
        .map(|claim| FirstClaim::new(ids, &claim.workflow, &claim.account, claim.tokens).values())
        .collect();
    let written = table.insert(&rows, Conflict::Stop);
    count(Counter::SettlementsDirect, written);
    written
}

/// Write claims with SQL, in their order: whether each was. All of them are of settlements that were found, or none.
fn write_by_sql(bound: &Bound, claims: &[Claim]) -> Result<Vec<bool>> {
    let statements = bound.kept::<Statements>();
    match claims {
        [] => Ok(Vec::new()),
        [
            Claim {
                settled: Some(_), ..
            },
            ..,
        ] => {
            let add = |claim: &Claim| write_one(&statements.claim_more, claim);
            claims.iter().map(add).collect()
        }
        [claim] => Ok(vec![write_one(&statements.claim, claim)?]),
        _ => {
            let column = |value: fn(&Claim) -> &String| claims.iter().map(value).cloned();
            let outcome = statements.claim_many.run(
                &[
                    Arg::TextArray(&column(|claim| &claim.workflow).collect::<Vec<_>>()),
                    Arg::TextArray(&column(|claim| &claim.account).collect::<Vec<_>>()),
                    Arg::Int8Array(claims.iter().map(Claim::usage_tokens).collect()),
                    Arg::Int8Array(claims.iter().map(|claim| claim.tokens).collect()),
                    Arg::TextArray(&claims.iter().map(Claim::archived).collect::<Vec<_>>()),
                ],
                Snapshot::Statement,
            )?;
            if outcome.processed == claims.len() as u64 {
                return Ok(vec![true; claims.len()]);
            }
            let written: HashSet<_> = outcome
                .rows
                .iter()
                .map(|row| (row.text(0), row.text(1)))
                .collect();
            Ok(claims
                .iter()
                .map(|claim| written.contains(&(claim.workflow.as_str(), claim.account.as_str())))
                .collect())
        }
    }
}

/// Write one claim with its statement: whether it was written.
fn write_one(statement: &Statement, claim: &Claim) -> Result<bool> {
    let archived = claim.archived();
    let args = [
        Arg::Text(&claim.workflow),
        Arg::Text(&claim.account),
        Arg::Int8(claim.usage_tokens()),
        Arg::Int8(claim.tokens),
        Arg::Text(&archived),
    ];
    let outcome = statement.run(&args, Snapshot::Statement)?;
    Ok(outcome.processed == 1)
}

/// Give back a claim whose charge was bad, so that a later settlement takes it: the settlement row is as it was found.
pub(crate) fn release(bound: &Bound, claim: &Claim) -> Result<()> {
    let statements = bound.kept::<Statements>();
    let args = [
        Arg::Text(&claim.workflow),
        Arg::Text(&claim.account),
        Arg::Int8(claim.tokens),
    ];
    let _owner = bound.run_as_extension();
    match &claim.settled {
        None => statements.forget.run(&args, Snapshot::Statement),
        Some(settled) => {
            let times = [settled.first, settled.last].map(Arg::OptionalTimestamp);
            let args: Vec<_> = args.into_iter().chain(times).collect();
            statements.release.run(&args, Snapshot::Statement)
        }
    }
    .map(drop)
}
