//! Whether all that is known of an account can leave with it.

use super::{Here, settled_workflows};
use crate::binding::{Bound, Payer};
use crate::error::{Error, Result};
use crate::ledger::change::Kind;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi;
use crate::postgres::value::{Arg, texts};
use crate::settle::usage;

/// Error 55000 where some of what is known of the account would stay: entries of a binding that is detached, those of its
/// settlements under an id that it had before, or what others have paid of the same usage.
pub(super) fn refuse_parts(here: &Here, account: &str) -> Result<()> {
    refuse_shared_usage(here, account)?;
    let _owner = here.book.run_as_extension();
    let own = here.book.accounts.own("l");
    let is_attached = here.is_of_accounts("b");
    let outcome = spi::query_as_of(
        &format!(
            "SELECT pg_catalog.count(*) FROM token_balance.ledger AS l WHERE {own} \
             l.user_id OPERATOR(pg_catalog.=) $1 AND l.workflow_id IS NOT NULL \
             AND l.binding_id OPERATOR(pg_catalog.<>) ALL (SELECT b.binding_id \
             FROM token_balance.binding AS b WHERE {is_attached})"
        ),
        &[Arg::Text(account)],
        Snapshot::Latest,
    )?;
    let entries: i64 = match outcome.rows.first() {
        Some(row) => row.amount(0)?,
        None => 0,
    };
    if entries > 0 {
        return Err(Error::CannotMove {
            message: format!("account \"{account}\" has entries of a binding that is detached"),
            detail: Some(format!(
                "{entries} entries are of its runs, which another database would not know."
            )),
            hint: Some(
                "Attach that binding again, or archive the entries: token_balance.archive_ledger()."
                    .into(),
            ),
        });
    }
    let outcome = spi::query_as_of(
        &format!(
            "SELECT COALESCE(s.charged, 0), COALESCE(l.charged, 0), COALESCE(s.refunded, 0), COALESCE(l.refunded, 0) \
             FROM (SELECT pg_catalog.sum(s.charged_tokens OPERATOR(pg_catalog.-) s.archived_charged_tokens) AS charged, \
             pg_catalog.sum(s.refunded_tokens OPERATOR(pg_catalog.-) s.archived_refunded_tokens) AS refunded \
             FROM token_balance.settlement AS s \
             JOIN token_balance.binding AS b ON b.binding_id OPERATOR(pg_catalog.=) s.binding_id \
             WHERE {is_attached} AND s.user_id OPERATOR(pg_catalog.=) $1) AS s, \
             (SELECT OPERATOR(pg_catalog.-) pg_catalog.sum(e.amount) FILTER (WHERE {is_charge}) AS charged, \
             pg_catalog.sum(e.amount) FILTER (WHERE e.kind OPERATOR(pg_catalog.=) {refund}) AS refunded \
             FROM (SELECT l.kind, l.amount FROM token_balance.ledger AS l \
             WHERE {own} l.user_id OPERATOR(pg_catalog.=) $1 AND l.workflow_id IS NOT NULL \
             UNION ALL SELECT {settlement}, OPERATOR(pg_catalog.-) q.tokens FROM token_balance.queue AS q \
             WHERE {own_queue} q.user_id OPERATOR(pg_catalog.=) $1) AS e) AS l",
            is_charge = Kind::is_charge_sql("e.kind"),
            refund = Kind::Refund.sql(),
            settlement = Kind::Settlement.sql(),
            own_queue = here.book.accounts.own("q"),
        ),
        &[Arg::Text(account)],
        Snapshot::Latest,
    )?;
    match outcome.rows.first() {
        Some(row) if row.get(0) != row.get(1) || row.get(2) != row.get(3) => {
            Err(Error::CannotMove {
                message: format!(
                    "the ledger of account \"{account}\" has not all entries of its settlements"
                ),
                detail: Some(format!(
                    "They say that {} tokens were charged and {} given back, and its entries {} and {}. An account that was \
                     given another id has its earlier entries under the old one.",
                    row.text(0),
                    row.text(2),
                    row.text(1),
                    row.text(3)
                )),
                hint: Some(
                    "Let its earlier runs end first: token_balance.archive(), or archive_usage(), archive_ledger() and \
                     archive_settlements()."
                        .into(),
                ),
            })
        }
        _ => Ok(()),
    }
}

/// Where the workflow's account pays, the settlements of one workflow stand for its usage together: without those of one, what
/// that one has paid would be charged to another. Error 55000 for a run that others have paid for, too, or that has been
/// another's since.
fn refuse_shared_usage(here: &Here, account: &str) -> Result<()> {
    for bound in &here.bounds {
        let (Payer::Workflow(payer), Some(workflows)) =
            (&bound.binding.payer, &bound.binding.workflows)
        else {
            continue;
        };
        let runs = {
            let _owner = bound.run_as(workflows.table.owner);
            let outcome = spi::query_of(
                &[workflows.table.oid],
                &format!(
                    "SELECT DISTINCT {} FROM {} AS w WHERE w.{} OPERATOR(pg_catalog.=) $1::{}",
                    bound.binding.workflow_key_sql(workflows, "w"),
                    workflows.table.sql,
                    payer.sql(),
                    payer.key_type.sql()
                ),
                &[Arg::Text(account)],
                Snapshot::Latest,
            )?;
            texts(&outcome.rows, 0)
        };
        if let Some((workflow, other)) = paid_by_another(bound, account, &runs)? {
            return Err(shared(account, &workflow, &other));
        }
        for workflow in settled_workflows(bound, account)? {
            let payers = usage::payers(bound, &workflow)?;
            if let Some(other) = payers.iter().find(|payer| *payer != account) {
                return Err(shared(account, &workflow, other));
            }
        }
    }
    Ok(())
}

fn shared(account: &str, workflow: &str, other: &str) -> Error {
    Error::CannotMove {
        message: format!(
            "workflow \"{workflow}\" is of account \"{account}\" and of account \"{other}\""
        ),
        detail: Some(
            "Its usage names no account: what each has paid of it is known by the settlements of both."
                .into(),
        ),
        hint: Some(
            "Let the run end first: token_balance.archive(), or archive_usage(), archive_ledger() and archive_settlements()."
                .into(),
        ),
    }
}

/// A settlement of one of `runs`, or of one that the account has paid for, that is another account's: the workflow and the
/// account.
fn paid_by_another(
    bound: &Bound,
    account: &str,
    runs: &[String],
) -> Result<Option<(String, String)>> {
    let _owner = bound.run_as_extension();
    let own = |alias| bound.binding.own(alias);
    let outcome = spi::query_as_of(
        &format!(
            "SELECT o.workflow_id, o.user_id FROM token_balance.settlement AS o WHERE {} \
             o.user_id OPERATOR(pg_catalog.<>) $1 AND (o.workflow_id OPERATOR(pg_catalog.=) ANY ($2) \
             OR o.workflow_id OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT s.workflow_id \
             FROM token_balance.settlement AS s WHERE {} s.user_id OPERATOR(pg_catalog.=) $1))) \
             ORDER BY 1, 2 LIMIT 1",
            own("o"),
            own("s")
        ),
        &[Arg::Text(account), Arg::TextArray(runs)],
        Snapshot::Latest,
    )?;
    let row = outcome.rows.first();
    Ok(row.map(|row| (row.text(0).to_owned(), row.text(1).to_owned())))
}
