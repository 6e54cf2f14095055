//! correct_workflow.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{JsonB, Uuid, pg_sys};
use serde::Serialize;

use super::common::{binding_at, in_bindings, refuse_read_only, refuse_unknown, required, to_json};
use crate::binding::{Which, bindings_locked, is_one_of_several};
use crate::error::Result;
use crate::settle::correct;

/// The answer of `correct_workflow`. Amounts are tokens.
#[derive(Serialize)]
struct Correction {
    success: bool,
    workflow_id: String,
    /// What was given back.
    amount: i128,
    /// What was taken out of the exempt usage, without money.
    tokens_exempt: i128,
    corrections: Vec<AccountCorrection>,
    gone: Vec<GoneAccount>,
}

#[derive(Serialize)]
struct AccountCorrection {
    user_id: String,
    amount: i64,
    previous_balance: i64,
    new_balance: i64,
    is_overdraft: bool,
    /// Left out where one binding alone is attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    binding: Option<String>,
}

/// An account that was deleted: what it would get stays as it is.
#[derive(Serialize)]
struct GoneAccount {
    user_id: String,
    amount: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    binding: Option<String>,
}

/// `token_balance.correct_workflow(text, name) → jsonb`: give back, once, what was charged for usage that was deleted,
/// lowered or moved away since; in all bindings, unless one is named.
///
/// Errors: 22004 for a null id, P0002 for an id that nobody knows, 22003 for an amount that the balance's range has no
/// room for, 40001 and 40P01 to be retried, 25006 in a read-only transaction, 55000 if nothing is attached or the usage is a view that was replaced, 42704 if
/// none is attached by the name.
#[pg_extern(sql = false)]
fn correct_workflow_text(
    workflow_id: Option<&str>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<JsonB, ErrorReport> {
    Ok(correct_one(workflow_id, fcinfo)?)
}

/// `token_balance.correct_workflow(bigint, name) → jsonb`, as the one for text.
#[pg_extern(sql = false)]
fn correct_workflow_bigint(
    workflow_id: Option<i64>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<JsonB, ErrorReport> {
    let id = workflow_id.map(|id| id.to_string());
    Ok(correct_one(id.as_deref(), fcinfo)?)
}

/// `token_balance.correct_workflow(uuid, name) → jsonb`, as the one for text.
#[pg_extern(sql = false)]
fn correct_workflow_uuid(
    workflow_id: Option<Uuid>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<JsonB, ErrorReport> {
    let id = workflow_id.map(|id| id.to_string());
    Ok(correct_one(id.as_deref(), fcinfo)?)
}

fn correct_one(id: Option<&str>, fcinfo: pg_sys::FunctionCallInfo) -> Result<JsonB> {
    let function = "token_balance.correct_workflow";
    let id = required(function, "workflow_id", id)?;
    refuse_read_only(c"token_balance.correct_workflow()");
    let name = binding_at(fcinfo, 1);
    let bounds = bindings_locked(Which::Named(name.as_deref()))?.or_warn()?;
    let of = in_bindings(bounds, id)?;
    let corrected = match correct::correct(&of)? {
        Some(corrected) => corrected,
        None => {
            refuse_unknown(&of)?;
            correct::Corrected::default()
        }
    };
    let is_one_of_several = is_one_of_several()?;
    let given = corrected.given.iter();
    let amount = given.map(|given| i128::from(given.amount)).sum();
    let given = corrected.given.into_iter();
    let gone = corrected.gone.into_iter();
    to_json(&Correction {
        success: true,
        workflow_id: of[0].workflow.clone(),
        amount,
        tokens_exempt: corrected.exempt,
        corrections: given
            .map(|given| AccountCorrection {
                user_id: given.account,
                amount: given.amount,
                previous_balance: given.previous_balance,
                new_balance: given.new_balance,
                is_overdraft: given.new_balance < 0,
                binding: given.binding.filter(|_| is_one_of_several),
            })
            .collect(),
        gone: gone
            .map(|gone| GoneAccount {
                user_id: gone.account,
                amount: gone.tokens,
                binding: is_one_of_several.then_some(gone.binding),
            })
            .collect(),
    })
}
