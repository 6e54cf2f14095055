//! Floating-point numbers as they are, whatever the session prints of them: the shortest text that reads back, and
//! numeric of that. The server's own cast to numeric rounds to 6 or 15 digits.

use std::ffi::{CStr, c_char, c_int};
use std::str::FromStr;

use pgrx::AnyNumeric;

// In a header that pgrx does not bind: common/shortest_dec.h, the same from 14 to 18. They write what the server prints
// with extra_float_digits = 1, with NaN, Infinity and -Infinity, and raise nothing.
unsafe extern "C" {
    fn float_to_shortest_decimal_buf(value: f32, result: *mut c_char) -> c_int;
    fn double_to_shortest_decimal_buf(value: f64, result: *mut c_char) -> c_int;
}

/// The longest text that they write has 25 bytes.
const ENOUGH: usize = 32;

pub(crate) fn text_of_real(value: f32) -> String {
    // SAFETY: the buffer has room for the text.
    written(|text| unsafe { float_to_shortest_decimal_buf(value, text) })
}

pub(crate) fn text_of_double(value: f64) -> String {
    // SAFETY: the same.
    written(|text| unsafe { double_to_shortest_decimal_buf(value, text) })
}

fn written(write: impl FnOnce(*mut c_char) -> c_int) -> String {
    let mut text = [0; ENOUGH];
    write(text.as_mut_ptr().cast());
    let text = CStr::from_bytes_until_nul(&text).unwrap_or_default();
    text.to_string_lossy().into_owned()
}

/// What numeric reads in such a text: it takes each of them.
pub(crate) fn numeric(text: &str) -> Option<AnyNumeric> {
    AnyNumeric::from_str(text).ok()
}
