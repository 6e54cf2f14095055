//! What SQL calls to add up tokens of any number type.

use pgrx::prelude::*;

use crate::postgres::exact;

/// `token_balance.exact_numeric(real) → numeric`: the number that the shortest text says which reads back as this one,
/// as the server prints it with extra_float_digits = 1. The cast to numeric would round it to 6 digits. NaN and
/// infinities stay what they are.
///
/// It reads its argument alone, so PUBLIC may call it: usage is read as its owner, whoever that is.
#[pg_extern(sql = false)]
fn exact_numeric_of_real(value: f32) -> Option<AnyNumeric> {
    exact::numeric(&exact::text_of_real(value))
}

/// `token_balance.exact_numeric(double precision) → numeric`: the same; the cast would round it to 15 digits.
#[pg_extern(sql = false)]
fn exact_numeric_of_double(value: f64) -> Option<AnyNumeric> {
    exact::numeric(&exact::text_of_double(value))
}
