//! The C functions of an aggregate of ours: its state is a value of Rust's, which lives as long as the rows that are
//! added up in it.

use pgrx::{PgMemoryContexts, pg_sys};

use super::datum::plain_bytes;
use crate::error::{Error, Result};

/// A call of one of them.
pub(crate) struct AggregateCall(pg_sys::FunctionCallInfo);

impl AggregateCall {
    /// # Safety
    /// `fcinfo` is what the server called the function with.
    pub(crate) unsafe fn new(fcinfo: pg_sys::FunctionCallInfo) -> Self {
        AggregateCall(fcinfo)
    }

    pub(crate) fn arguments(&self) -> usize {
        // SAFETY: the server's own, as `new` was promised.
        unsafe { (*self.0).nargs as usize }
    }

    /// The value of an argument; None for a null.
    pub(crate) fn value(&self, at: usize) -> Option<pg_sys::Datum> {
        debug_assert!(at < self.arguments());
        // SAFETY: there are as many as the server says.
        unsafe {
            let argument = (*self.0).args.as_ptr().add(at);
            (!(*argument).isnull).then(|| (*argument).value)
        }
    }

    /// What is in an argument of text or bytea; None for a null. What had to be unpacked lives as long as the row.
    ///
    /// # Safety
    /// It is declared as one of these.
    pub(crate) unsafe fn bytes(&self, at: usize) -> Option<&[u8]> {
        let value = self.value(at)?.cast_mut_ptr();
        // SAFETY: as the caller promises; the server keeps the arguments during the call.
        unsafe {
            match plain_bytes(value) {
                Some(bytes) => Some(bytes),
                None => plain_bytes(pg_sys::pg_detoast_datum_packed(value)),
            }
        }
    }

    /// The type of an argument that is declared as "any".
    pub(crate) fn type_of(&self, at: usize) -> pg_sys::Oid {
        // SAFETY: the server's own call; of a call without an expression it answers InvalidOid.
        unsafe { pg_sys::get_fn_expr_argtype((*self.0).flinfo, at as i32) }
    }

    /// Where the state is that an argument of type internal is; null for a null. It was made by
    /// [`AggregateCall::state`] or [`AggregateCall::passing_state`]: nobody can call a function by hand that takes an
    /// internal.
    pub(crate) fn state_at<T>(&self, at: usize) -> *mut T {
        let state = self.value(at);
        state.map_or(std::ptr::null_mut(), |state| state.cast_mut_ptr())
    }

    /// A new state, for as long as rows are added up in it. Error 58000 outside an aggregate.
    pub(crate) fn state<T>(&self, value: T) -> Result<*mut T> {
        let mut context = std::ptr::null_mut();
        // SAFETY: the server's own call.
        match unsafe { pg_sys::AggCheckCallContext(self.0, &mut context) } {
            0 => Err(Error::Spi {
                code: "an aggregate's function was called outside one".into(),
            }),
            _ => Ok(PgMemoryContexts::For(context).leak_and_drop_on_delete(value)),
        }
    }

    /// A new state for the caller, who takes out of it what is to be kept.
    pub(crate) fn passing_state<T>(&self, value: T) -> *mut T {
        PgMemoryContexts::CurrentMemoryContext.leak_and_drop_on_delete(value)
    }

    fn null(&self) -> pg_sys::Datum {
        // SAFETY: the server's own call.
        unsafe { (*self.0).isnull = true };
        pg_sys::Datum::from(0)
    }

    /// What the function answers.
    pub(crate) fn answer(&self, value: Option<pg_sys::Datum>) -> pg_sys::Datum {
        value.unwrap_or_else(|| self.null())
    }
}

/// Define the C entry point `$symbol` of a function of an aggregate, which calls `$body` with the [`AggregateCall`] and
/// raises its error. It is called for each row: hence none of what pgrx does around a call.
macro_rules! aggregate_function {
    ($symbol:ident, $finfo:ident, $body:path) => {
        $crate::postgres::call::entry_point!($symbol, $finfo, |fcinfo| {
            // SAFETY: the server calls with its own fcinfo.
            let call = unsafe { $crate::postgres::aggregate::AggregateCall::new(fcinfo) };
            match $body(&call) {
                Ok(value) => call.answer(value),
                Err(error) => error.raise(),
            }
        });
    };
}

pub(crate) use aggregate_function;
