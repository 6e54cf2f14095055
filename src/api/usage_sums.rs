//! `token_balance.usage_sums(stage text, model text, VARIADIC tokens "any") → text`: usage rows added up by stage and
//! model, for the statement of `summary`. The answer is JSON; it is null of no rows.
//!
//! It reads its arguments alone, so PUBLIC may call it: usage is read as its owner, whoever that is. Without a right of
//! that role's to call it `summary` groups by SQL.

use pgrx::{IntoDatum, pg_sys};

use crate::error::{Error, Result};
use crate::postgres::aggregate::{AggregateCall, aggregate_function};
use crate::reports::usage_sums::UsageSums;

/// What is kept while rows are added up.
struct State {
    /// Of the columns of tokens. Where none is added, as in the process that joins what others added up, empty.
    types: Vec<pg_sys::Oid>,
    sums: UsageSums,
}

type Answer = Result<Option<pg_sys::Datum>>;

/// The state, the stage and the model come before the tokens.
const BEFORE_TOKENS: usize = 3;

aggregate_function!(
    add_to_usage_sums_wrapper,
    pg_finfo_add_to_usage_sums_wrapper,
    add
);
aggregate_function!(
    merge_usage_sums_wrapper,
    pg_finfo_merge_usage_sums_wrapper,
    merge
);
aggregate_function!(
    pack_usage_sums_wrapper,
    pg_finfo_pack_usage_sums_wrapper,
    pack
);
aggregate_function!(
    unpack_usage_sums_wrapper,
    pg_finfo_unpack_usage_sums_wrapper,
    unpack
);
aggregate_function!(
    shown_usage_sums_wrapper,
    pg_finfo_shown_usage_sums_wrapper,
    shown
);

/// `(internal, text, text, VARIADIC "any") → internal`: a row more. Error 22023 if its tokens are of no whole numbers' type.
fn add(call: &AggregateCall) -> Answer {
    let state = match call.state_at::<State>(0) {
        known if !known.is_null() => known,
        _ => call.state(new_state(call)?)?,
    };
    // SAFETY: the functions of this file alone make such a state, and nobody else has it now. Both arguments are declared
    // as text.
    let (State { types, sums }, stage, model) =
        unsafe { (&mut *state, call.bytes(1), call.bytes(2)) };
    sums.add(stage, model, |column| {
        let value = call.value(BEFORE_TOKENS + column)?.value();
        Some(match types[column] {
            pg_sys::INT2OID => i64::from(value as i16),
            pg_sys::INT4OID => i64::from(value as i32),
            _ => value as i64,
        })
    });
    Ok(Some(state.into()))
}

fn new_state(call: &AggregateCall) -> Result<State> {
    let types = (BEFORE_TOKENS..call.arguments()).map(|at| {
        // SAFETY: a syscache lookup. Of a domain its base, whose values it has.
        match unsafe { pg_sys::getBaseType(call.type_of(at)) } {
            known @ (pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID) => Ok(known),
            _ => Err(Error::InvalidArgument {
                message: "tokens of usage_sums must be whole numbers".into(),
                detail: Some("They are of type smallint, integer or bigint.".into()),
                hint: None,
            }),
        }
    });
    let types = types.collect::<Result<Vec<_>>>()?;
    let sums = UsageSums::of(types.len());
    Ok(State { types, sums })
}

/// `(internal, internal) → internal`: what two processes added up.
fn merge(call: &AggregateCall) -> Answer {
    let (into, other) = (call.state_at::<State>(0), call.state_at::<State>(1));
    // SAFETY: the functions of this file alone make such states; the two are not one, and nobody else has them now.
    let (into, other) = unsafe { (into.as_mut(), other.as_mut()) };
    match (into, other) {
        (Some(into), Some(other)) => {
            into.sums.merge(&other.sums);
            Ok(call.value(0))
        }
        (Some(_), None) => Ok(call.value(0)),
        (None, Some(other)) => {
            let other = State {
                types: Vec::new(),
                sums: std::mem::replace(&mut other.sums, UsageSums::of(0)),
            };
            Ok(Some(call.state(other)?.into()))
        }
        (None, None) => Ok(None),
    }
}

/// `(internal) → bytea`
fn pack(call: &AggregateCall) -> Answer {
    // SAFETY: the functions of this file alone make such a state.
    let state = unsafe { call.state_at::<State>(0).as_ref() };
    Ok(state.and_then(|state| state.sums.packed().into_datum()))
}

/// `(bytea, internal) → internal`
fn unpack(call: &AggregateCall) -> Answer {
    // SAFETY: it is declared as bytea.
    let bytes = unsafe { call.bytes(0) };
    let sums = bytes.and_then(UsageSums::unpacked);
    Ok(sums.map(|sums| {
        let types = Vec::new();
        call.passing_state(State { types, sums }).into()
    }))
}

/// `(internal) → text`: the groups, as JSON.
fn shown(call: &AggregateCall) -> Answer {
    // SAFETY: the functions of this file alone make such a state.
    let state = unsafe { call.state_at::<State>(0).as_ref() };
    let shown = state.map(|state| state.sums.shown()).transpose()?;
    Ok(shown.into_datum())
}
