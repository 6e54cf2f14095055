//! Datums as text, and text as the server takes it.

use std::ffi::{CStr, CString};

use pgrx::{Uuid, pg_sys};

use super::descriptor::{Storage, column_type};
use super::exact::{text_of_double, text_of_real};

/// The text of a tuple's column by its type's output function; None for a null. Of a floating-point number it is exact,
/// whatever the session prints.
///
/// # Safety
/// `tuple` is of the descriptor `tupdesc`, which has a column `number`.
pub(crate) unsafe fn column_text(
    tuple: pg_sys::HeapTuple,
    tupdesc: pg_sys::TupleDesc,
    number: i32,
) -> Option<String> {
    // SAFETY: as the caller promises; what is palloc'd is copied and freed.
    unsafe {
        let mut is_null = false;
        let datum = pg_sys::SPI_getbinval(tuple, tupdesc, number, &mut is_null);
        if is_null {
            return None;
        }
        Some(datum_text(datum, column_type(tupdesc, number)))
    }
}

/// What the type's output function gives.
///
/// # Safety
/// `datum` is of the type.
pub(super) unsafe fn datum_text(datum: pg_sys::Datum, type_oid: pg_sys::Oid) -> String {
    // SAFETY: as the caller promises; what is palloc'd is copied and freed.
    unsafe {
        if let Some(text) = plain_text(datum, type_oid) {
            return text;
        }
        let base_type = pg_sys::getBaseType(type_oid);
        if base_type != type_oid
            && let Some(text) = plain_text(datum, base_type)
        {
            return text;
        }
        let (mut output, mut is_varlena) = (pg_sys::InvalidOid, false);
        pg_sys::getTypeOutputInfo(type_oid, &mut output, &mut is_varlena);
        let value = pg_sys::OidOutputFunctionCall(output, datum);
        let text = CStr::from_ptr(value).to_string_lossy().into_owned();
        pg_sys::pfree(value.cast());
        text
    }
}

/// What the output function of a common type gives; None for another type. Of a floating-point number, all of it.
///
/// # Safety
/// `datum` is of the type.
pub(crate) unsafe fn plain_text(datum: pg_sys::Datum, type_oid: pg_sys::Oid) -> Option<String> {
    match type_oid {
        // SAFETY: as the caller promises.
        pg_sys::TEXTOID | pg_sys::VARCHAROID => unsafe { Some(text_of(datum.cast_mut_ptr())) },
        pg_sys::INT2OID => Some((datum.value() as i16).to_string()),
        pg_sys::INT4OID => Some((datum.value() as i32).to_string()),
        pg_sys::INT8OID => Some((datum.value() as i64).to_string()),
        // SAFETY: as the caller promises: a pointer to the 16 bytes.
        pg_sys::UUIDOID => unsafe {
            let bytes = *datum.cast_mut_ptr::<[u8; 16]>();
            Some(Uuid::from_bytes(bytes).to_string())
        },
        pg_sys::FLOAT4OID => Some(text_of_real(f32::from_bits(datum.value() as u32))),
        pg_sys::FLOAT8OID => Some(text_of_double(f64::from_bits(datum.value() as u64))),
        _ => None,
    }
}

/// # Safety
/// `value` is text.
unsafe fn text_of(value: *mut pg_sys::varlena) -> String {
    // SAFETY: as the caller promises; a detoasted copy is freed.
    unsafe {
        if let Some(bytes) = plain_bytes(value) {
            return String::from_utf8_lossy(bytes).into_owned();
        }
        let detoasted = pg_sys::pg_detoast_datum_packed(value);
        let text = plain_bytes(detoasted).map(String::from_utf8_lossy);
        let text = text.unwrap_or_default().into_owned();
        if detoasted != value {
            pg_sys::pfree(detoasted.cast());
        }
        text
    }
}

/// Whether two values are the same byte by byte. Not where one of them is compressed or elsewhere, or a C string.
///
/// # Safety
/// Both are stored so.
pub(super) unsafe fn is_same_image(
    one: pg_sys::Datum,
    other: pg_sys::Datum,
    storage: Storage,
) -> bool {
    if storage.is_by_value {
        return one.value() == other.value();
    }
    // SAFETY: as the caller promises.
    unsafe {
        match usize::try_from(storage.length) {
            Ok(length) => {
                let bytes = |datum: pg_sys::Datum| {
                    std::slice::from_raw_parts(datum.cast_mut_ptr::<u8>(), length)
                };
                bytes(one) == bytes(other)
            }
            Err(_) if storage.length == -1 => {
                let bytes = |datum: pg_sys::Datum| plain_bytes(datum.cast_mut_ptr());
                bytes(one).is_some_and(|one| bytes(other) == Some(one))
            }
            Err(_) => false,
        }
    }
}

/// What is in a value that is stored plainly: not compressed and not elsewhere.
///
/// # Safety
/// `value` is a varlena that outlives the answer.
pub(crate) unsafe fn plain_bytes<'a>(value: *const pg_sys::varlena) -> Option<&'a [u8]> {
    // SAFETY: as the caller promises.
    unsafe {
        let is_short = pgrx::varatt_is_1b(value) && !pgrx::varatt_is_1b_e(value);
        (is_short || pgrx::varatt_is_4b_u(value)).then(|| {
            let bytes = pgrx::vardata_any(value).cast::<u8>();
            std::slice::from_raw_parts(bytes, pgrx::varsize_any_exhdr(value))
        })
    }
}

/// SQL text for the server. Text out of PostgreSQL has no NUL byte.
pub(crate) fn c_string(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

/// A numeric's text without a fraction that is zero; any other text as it is.
pub(crate) fn whole_part(text: &str) -> &str {
    match text.split_once('.') {
        Some((whole, fraction)) if fraction.bytes().all(|digit| digit == b'0') => whole,
        _ => text,
    }
}
