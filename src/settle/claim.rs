//! Claims: settlement rows say what of a workflow's usage is accounted for. A transaction that has claimed
//! tokens there must deduct them.

use std::collections::{HashMap, HashSet};

use pgrx::pg_sys::{INT8ARRAYOID, INT8OID, TEXTARRAYOID, TEXTOID};

use super::settlement::{self, FirstClaim};
use crate::binding::{Bound, Ids, Kept};
use crate::error::{Error, Result};
use crate::postgres::direct::{Conflict, Holds, Lookup, Wanted, is_used as is_direct};
use crate::postgres::key::KeyType;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi::Statement;
use crate::postgres::value::Arg;

/// The statements on settlement rows.
struct Statements {
    settled_lookup: Lookup,
    settled: Statement,
    settled_of_many: Statement,
    claim: Statement,
    claim_many: Statement,
    release: Statement,
    forget: Statement,
}

impl Kept<Bound> for Statements {
    fn of(bound: &Bound) -> Self {
        let own = |alias| bound.binding.own(alias);
        let ids = bound.binding.spec.ids;
        Statements {
            settled_lookup: Lookup::new(Some(Wanted {
                table: bound.book.own.settlement,
                owner: bound.binding.accounts.extension_owner,
                scope: ids.map(|ids| ("binding_id", ids.binding)),
                key: "workflow_id".into(),
                key_type: KeyType::Text,
                columns: vec![
                    ("user_id".into(), Holds::Key(KeyType::Text)),
                    ("usage_tokens".into(), Holds::Integer),
                ],
            })),
            settled: Statement::new(
                &format!(
                    "SELECT s.user_id, s.usage_tokens FROM token_balance.settlement AS s \
                     WHERE {} s.workflow_id OPERATOR(pg_catalog.=) $1",
                    own("s")
                ),
                &[TEXTOID],
            ),
            settled_of_many: Statement::new(
                // OFFSET 0: each id is looked up in the index, also with a plan that was made while the
                // table was empty.
                &format!(
                    "SELECT s.workflow_id, s.user_id, s.usage_tokens \
                     FROM pg_catalog.unnest($1) AS k (id) \
                     CROSS JOIN LATERAL (SELECT t.workflow_id, t.user_id, t.usage_tokens \
                     FROM token_balance.settlement AS t \
                     WHERE {} t.workflow_id OPERATOR(pg_catalog.=) k.id OFFSET 0) AS s",
                    own("t")
                ),
                &[TEXTARRAYOID],
            ),
            claim: Statement::new(
                &claim_sql(ids, "VALUES ($1, $2, $3, $4"),
                &[TEXTOID, TEXTOID, INT8OID, INT8OID],
            ),
            claim_many: Statement::new(
                &claim_sql(
                    ids,
                    "SELECT c.workflow_id, c.user_id, c.usage_tokens, c.charged_tokens",
                ),
                &[TEXTARRAYOID, TEXTARRAYOID, INT8ARRAYOID, INT8ARRAYOID],
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
                     charged_tokens = s.charged_tokens OPERATOR(pg_catalog.-) $3 \
                     WHERE {} s.workflow_id OPERATOR(pg_catalog.=) $1 \
                     AND s.user_id OPERATOR(pg_catalog.=) $2",
                    own("s")
                ),
                &[TEXTOID, TEXTOID, INT8OID],
            ),
        }
    }
}

/// Insert, or add to what is there if that is still as it was read: one statement either way, so
/// that rows are locked in the order in which they are given.
fn claim_sql(ids: Option<Ids>, values: &str) -> String {
    let from = if values.starts_with("SELECT") {
        " FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), \
         pg_catalog.unnest($3), pg_catalog.unnest($4)) \
         AS c (workflow_id, user_id, usage_tokens, charged_tokens)"
    } else {
        ")"
    };
    let (column, id) = match ids {
        Some(ids) => (", binding_id", format!(", {}", ids.binding)),
        None => ("", String::new()),
    };
    format!(
        "INSERT INTO token_balance.settlement AS s (workflow_id, user_id, usage_tokens, \
         charged_tokens, first_settled_at, last_settled_at{column}) \
         {values}, pg_catalog.clock_timestamp(), pg_catalog.clock_timestamp(){id}{from} \
         ON CONFLICT (workflow_id, user_id{column}) DO UPDATE \
         SET usage_tokens = EXCLUDED.usage_tokens, \
         charged_tokens = s.charged_tokens OPERATOR(pg_catalog.+) EXCLUDED.charged_tokens, \
         first_settled_at = COALESCE(s.first_settled_at, EXCLUDED.first_settled_at), \
         last_settled_at = EXCLUDED.last_settled_at \
         WHERE s.usage_tokens OPERATOR(pg_catalog.=) \
         (EXCLUDED.usage_tokens OPERATOR(pg_catalog.-) EXCLUDED.charged_tokens) \
         RETURNING s.workflow_id, s.user_id"
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
    /// What the settlement row accounted for before; None if there was no row.
    pub(crate) settled: Option<i64>,
}

impl Claim {
    fn usage_tokens(&self) -> i64 {
        self.settled.unwrap_or(0) + self.tokens
    }

    /// Whether the same settlement row was found as it was found for the other one.
    pub(super) fn is_as_settled(&self, other: &Claim) -> bool {
        self.settled == other.settled
            && self.workflow == other.workflow
            && self.account == other.account
    }
}

/// Tokens accounted for, by account.
pub(crate) type Accounted = HashMap<String, i64>;

/// What is accounted for of the account's usage of a workflow; without one, where the workflow's own
/// account pays, of all of its usage. Tokens.
pub(crate) fn accounted_for(settled: &Accounted, account: Option<&str>) -> i128 {
    match account {
        Some(account) => settled.get(account).copied().unwrap_or(0).into(),
        None => settled.values().copied().map(i128::from).sum(),
    }
}

/// What is accounted for of each of `workflows`.
pub(crate) fn read_settled(bound: &Bound, workflows: &[String]) -> Result<Vec<Accounted>> {
    let _owner = bound.run_as_extension();
    let statements = bound.kept::<Statements>();
    if let Some(mut reader) = statements.settled_lookup.reader() {
        let mut all = vec![Accounted::new(); workflows.len()];
        let mut is_whole = true;
        reader.read(workflows, |at, row| match (row.text(0), row.integer(1)) {
            (Some(account), Some(tokens)) => {
                all[at].insert(account, tokens);
            }
            _ => is_whole = false,
        });
        // Both columns are NOT NULL.
        return is_whole
            .then_some(all)
            .ok_or(Error::NotAnAmount { found: None });
    }
    if let [workflow] = workflows {
        let outcome = statements
            .settled
            .run(&[Arg::Text(workflow)], Snapshot::Latest)?;
        let settled = outcome.rows.iter();
        let settled = settled.map(|row| Ok((row.text(0).to_owned(), row.amount(1)?)));
        return Ok(vec![settled.collect::<Result<_>>()?]);
    }
    let outcome = statements
        .settled_of_many
        .run(&[Arg::TextArray(workflows)], Snapshot::Latest)?;
    let mut all: HashMap<&str, Accounted> = HashMap::new();
    for row in &outcome.rows {
        all.entry(row.text(0))
            .or_default()
            .insert(row.text(1).to_owned(), row.amount(2)?);
    }
    Ok(workflows
        .iter()
        .map(|workflow| all.remove(workflow.as_str()).unwrap_or_default())
        .collect())
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
            let count = if inserted > 0 {
                rest.len().min(1)
            } else {
                rest.len()
            };
            is_written.extend(upsert(bound, &rest[..count])?);
            rest = &rest[count..];
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
    table.insert(&rows, Conflict::Stop)
}

/// Write claims with SQL, in their order: whether each was.
fn upsert(bound: &Bound, claims: &[Claim]) -> Result<Vec<bool>> {
    let statements = bound.kept::<Statements>();
    match claims {
        [] => Ok(Vec::new()),
        [claim] => {
            let args = [
                Arg::Text(&claim.workflow),
                Arg::Text(&claim.account),
                Arg::Int8(claim.usage_tokens()),
                Arg::Int8(claim.tokens),
            ];
            let outcome = statements.claim.run(&args, Snapshot::Statement)?;
            Ok(vec![outcome.processed == 1])
        }
        _ => {
            let column = |value: fn(&Claim) -> &String| claims.iter().map(value).cloned();
            let outcome = statements.claim_many.run(
                &[
                    Arg::TextArray(&column(|claim| &claim.workflow).collect::<Vec<_>>()),
                    Arg::TextArray(&column(|claim| &claim.account).collect::<Vec<_>>()),
                    Arg::Int8Array(claims.iter().map(Claim::usage_tokens).collect()),
                    Arg::Int8Array(claims.iter().map(|claim| claim.tokens).collect()),
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

/// Give back a claim whose charge was bad, so that a later settlement takes it.
pub(crate) fn release(bound: &Bound, claim: &Claim) -> Result<()> {
    let statements = bound.kept::<Statements>();
    let statement = match claim.settled {
        None => &statements.forget,
        Some(_) => &statements.release,
    };
    let args = [
        Arg::Text(&claim.workflow),
        Arg::Text(&claim.account),
        Arg::Int8(claim.tokens),
    ];
    let _owner = bound.run_as_extension();
    statement.run(&args, Snapshot::Statement).map(|_| ())
}
