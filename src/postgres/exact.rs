//! Floating-point numbers as numeric, exactly as the server prints them: its own cast rounds to 6 or 15 digits.

use std::ffi::{CStr, c_char, c_int};
use std::str::FromStr;

use pgrx::AnyNumeric;

// In a header that pgrx does not bind: common/shortest_dec.h, the same from 14 to 18. They write the shortest text that
// reads back, with NaN, Infinity and -Infinity, and raise nothing.
unsafe extern "C" {
    fn float_to_shortest_decimal_buf(value: f32, result: *mut c_char) -> c_int;
    fn double_to_shortest_decimal_buf(value: f64, result: *mut c_char) -> c_int;
}

/// The longest text that they write has 25 bytes.
const ENOUGH: usize = 32;

pub(crate) fn of_real(value: f32) -> Option<AnyNumeric> {
    // SAFETY: the buffer has room for the text.
    read(|text| unsafe { float_to_shortest_decimal_buf(value, text) })
}

pub(crate) fn of_double(value: f64) -> Option<AnyNumeric> {
    // SAFETY: the same.
    read(|text| unsafe { double_to_shortest_decimal_buf(value, text) })
}

/// What numeric reads in the text; None does not happen.
fn read(write: impl FnOnce(*mut c_char) -> c_int) -> Option<AnyNumeric> {
    let mut text = [0; ENOUGH];
    write(text.as_mut_ptr().cast());
    let text = CStr::from_bytes_until_nul(&text).ok()?;
    AnyNumeric::from_str(text.to_str().ok()?).ok()
}
