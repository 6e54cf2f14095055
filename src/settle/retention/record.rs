//! What is written down of what leaves.

use pgrx::pg_sys::{TEXTARRAYOID, TEXTOID, TimestampTz};

use crate::binding::{Bound, Kept, Payer};
use crate::error::{Error, Result};
use crate::postgres::exact_sum::ExactSum;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi::{self, Statement};
use crate::postgres::value::Arg;
use crate::settle::claim::Accounted;

/// Usage of a workflow that is not there any more. Tokens, before they are rounded.
pub(crate) struct TakenAway {
    pub(crate) workflow: String,
    /// None where the workflow's own account pays.
    pub(crate) account: Option<String>,
    pub(crate) tokens: ExactSum,
}

struct Statements {
    add: Statement,
    insert: Statement,
}

impl Kept<Bound> for Statements {
    fn of(bound: &Bound) -> Self {
        Statements {
            add: Statement::new(
                &format!(
                    "UPDATE token_balance.settlement AS s SET archived_usage_tokens = \
                     s.archived_usage_tokens OPERATOR(pg_catalog.+) $3::pg_catalog.numeric \
                     WHERE {} s.workflow_id OPERATOR(pg_catalog.=) $1 AND s.user_id OPERATOR(pg_catalog.=) $2",
                    bound.binding.own("s")
                ),
                &[TEXTOID, TEXTOID, TEXTOID],
            ),
            // Where nothing was to be charged there is no settlement, and tokens below zero count all the same.
            insert: Statement::new(
                &format!(
                    "INSERT INTO token_balance.settlement AS s \
                     (workflow_id, user_id, usage_tokens, archived_usage_tokens, binding_id) \
                     SELECT t.workflow_id, t.user_id, 0, t.tokens::pg_catalog.numeric, {} \
                     FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) \
                     AS t (workflow_id, user_id, tokens) \
                     ON CONFLICT (workflow_id, binding_id, user_id) DO UPDATE SET archived_usage_tokens = \
                     s.archived_usage_tokens OPERATOR(pg_catalog.+) EXCLUDED.archived_usage_tokens",
                    bound.binding.spec.number()
                ),
                &[TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID],
            ),
        }
    }
}

/// Add to the settlements what was taken away of locked workflows; `settled` is what is settled of each of them, in the
/// order of `taken`. Where the workflow's own account pays, its settlements stand for one usage: the first one has it.
///
/// In the order in which settlements are locked: it sorts.
///
/// Error 40001 if a settlement that was found is not there any more: its account got another id.
pub(crate) fn add_to_settlements<'a>(
    bound: &Bound,
    taken: impl Iterator<Item = (&'a TakenAway, &'a Accounted)>,
) -> Result<()> {
    let mut rows: Vec<(&str, &str, String, bool)> = Vec::new();
    for (taken, settled) in taken.filter(|(taken, _)| !taken.tokens.is_zero()) {
        let account = match (&taken.account, &bound.binding.payer) {
            (Some(account), _) => account,
            (None, Payer::Workflow(_)) => settled.keys().min().map_or("", |it| it),
            // A row that names no account is nobody's.
            (None, Payer::Usage(_)) => continue,
        };
        let is_there = settled.contains_key(account);
        rows.push((&taken.workflow, account, taken.tokens.to_string(), is_there));
    }
    rows.sort_unstable();
    let _owner = bound.run_as_extension();
    let statements = bound.kept::<Statements>();
    // Those that are not there yet by one statement, as far as they follow one another.
    for rows in rows.chunk_by(|one, other| !one.3 && !other.3) {
        if let [(workflow, account, tokens, true)] = rows {
            let args = [Arg::Text(workflow), Arg::Text(account), Arg::Text(tokens)];
            let outcome = statements.add.run(&args, Snapshot::Statement)?;
            if outcome.processed != 1 {
                return Err(Error::ConcurrentSettlement {
                    workflow: (*workflow).to_owned(),
                });
            }
            continue;
        }
        let column =
            |of: fn(&(&str, &str, String, bool)) -> String| rows.iter().map(of).collect::<Vec<_>>();
        let columns = [
            column(|row| row.0.to_owned()),
            column(|row| row.1.to_owned()),
            column(|row| row.2.clone()),
        ];
        let args = columns.each_ref().map(|texts| Arg::TextArray(texts));
        let outcome = statements.insert.run(&args, Snapshot::Statement)?;
        let written = outcome.processed as usize;
        if written != rows.len() {
            return Err(Error::ArchiveSuppressed {
                relation: "token_balance.settlement".into(),
                of: bound.binding.usage.sql.clone(),
                missing: rows.len() - written,
            });
        }
    }
    Ok(())
}

/// What left, and how.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Usage,
    Deletion,
    Settlement,
    Ledger,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Usage => "usage",
            Kind::Deletion => "deletion",
            Kind::Settlement => "settlement",
            Kind::Ledger => "ledger",
        }
    }
}

/// What left, to be found later.
pub(crate) struct Left<'a> {
    /// The number of the binding; 0 for the ledger.
    pub(crate) binding: i16,
    pub(crate) kind: Kind,
    /// Empty if it is gone for good.
    pub(crate) archive: &'a str,
    pub(crate) before: Option<TimestampTz>,
    pub(crate) rows: usize,
    pub(crate) tokens: &'a ExactSum,
}

impl Left<'_> {
    /// As the owner of the extension's tables, whom the caller acts as.
    pub(crate) fn remember(&self, actor: &str) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        spi::query(
            "INSERT INTO token_balance.archived AS a \
             (binding_id, kind, archive, before, actor, row_count, tokens) \
             VALUES ($1, $2, $3, $4, $5, $6, $7::pg_catalog.numeric) \
             ON CONFLICT (binding_id, kind, archive) DO UPDATE SET last_at = EXCLUDED.last_at, \
             before = GREATEST(a.before, EXCLUDED.before), actor = EXCLUDED.actor, \
             row_count = a.row_count OPERATOR(pg_catalog.+) EXCLUDED.row_count, \
             tokens = a.tokens OPERATOR(pg_catalog.+) EXCLUDED.tokens",
            &[
                Arg::OptionalInt2(Some(self.binding)),
                Arg::Text(self.kind.name()),
                Arg::Text(self.archive),
                Arg::OptionalTimestamp(self.before),
                Arg::Text(actor),
                Arg::Int8(i64::try_from(self.rows).unwrap_or(i64::MAX)),
                Arg::Text(&self.tokens.to_string()),
            ],
        )
        .map(drop)
    }
}
