//! jsonb as it is stored, made in one go. pgrx's `JsonB` writes text, which the server parses again:
//! a tenth of what a settlement costs. The format is that of PostgreSQL's `jsonb.h`; it is on disk, so
//! it is the same in every version.

use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{AnyNumeric, IntoDatum, PgSqlErrorCode, ereport, pg_sys};

/// A value that a function returns.
pub(crate) struct Jsonb(pg_sys::Datum);

// SAFETY: what functions of this type return is jsonb.
unsafe impl SqlTranslatable for Jsonb {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(Jsonb);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("jsonb"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
        Ok(ReturnsRef::One(SqlMappingRef::literal("jsonb")));
}

// SAFETY: the datum is a jsonb in the memory of the function's caller.
unsafe impl BoxRet for Jsonb {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        // SAFETY: as above.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}

/// What an answer is made of.
pub(crate) enum Value<'a> {
    Null,
    Boolean(bool),
    Number(i128),
    Text(&'a str),
    Object(Vec<(&'static str, Value<'a>)>),
    Array(Vec<Value<'a>>),
}

impl From<Option<i64>> for Value<'_> {
    fn from(number: Option<i64>) -> Self {
        number.map_or(Value::Null, |number| Value::Number(number.into()))
    }
}

// The head of a container: how many there are in it, and
const OBJECT: u32 = 0x2000_0000;
const ARRAY: u32 = 0x4000_0000;

// An entry: the length of what it stands for, and what that is.
const STRING: u32 = 0;
const NUMERIC: u32 = 0x1000_0000;
const FALSE: u32 = 0x2000_0000;
const TRUE: u32 = 0x3000_0000;
const NULL: u32 = 0x4000_0000;
const CONTAINER: u32 = 0x5000_0000;
const LENGTH: u32 = 0x0fff_ffff;
/// Every 32nd entry has the end of it instead, counted from the first one's beginning.
const HAS_END: u32 = 0x8000_0000;
const STRIDE: usize = 32;

impl Value<'_> {
    /// Error 54000 if it is past 256 MB.
    pub(crate) fn to_jsonb(&self) -> Jsonb {
        let mut bytes = vec![0; size_of::<u32>()]; // the varlena's own length
        self.append_to(&mut bytes);
        // SAFETY: the memory is of that size; a varlena begins with its length.
        unsafe {
            let varlena = pg_sys::palloc(bytes.len()).cast::<u8>();
            varlena.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            pgrx::set_varsize_4b(varlena.cast(), bytes.len() as i32);
            Jsonb(pg_sys::Datum::from(varlena))
        }
    }

    /// Append it, and answer its entry. Numbers and containers begin at a multiple of four.
    fn append_to(&self, bytes: &mut Vec<u8>) -> u32 {
        let begin = bytes.len();
        let kind = match self {
            Value::Null => NULL,
            Value::Boolean(false) => FALSE,
            Value::Boolean(true) => TRUE,
            Value::Text(text) => {
                bytes.extend_from_slice(text.as_bytes());
                STRING
            }
            Value::Number(number) => {
                align(bytes);
                append_numeric(bytes, *number);
                NUMERIC
            }
            Value::Object(pairs) => {
                let mut pairs: Vec<_> = pairs.iter().collect();
                // The order in which a key is looked for.
                pairs.sort_unstable_by_key(|(key, _)| (key.len(), *key));
                let keys: Vec<_> = pairs.iter().map(|(key, _)| Value::Text(key)).collect();
                let values = pairs.iter().map(|(_, value)| value);
                append_container(bytes, OBJECT, pairs.len(), keys.iter().chain(values));
                CONTAINER
            }
            Value::Array(values) => {
                append_container(bytes, ARRAY, values.len(), values.iter());
                CONTAINER
            }
        };
        kind | checked_length(bytes.len() - begin)
    }
}

/// The head, an entry for each value, the values.
fn append_container<'a, 'b: 'a>(
    bytes: &mut Vec<u8>,
    kind: u32,
    count: usize,
    values: impl Iterator<Item = &'a Value<'b>> + Clone,
) {
    align(bytes);
    bytes.extend_from_slice(&(kind | checked_length(count)).to_ne_bytes());
    let entries = bytes.len();
    bytes.resize(entries + values.clone().count() * size_of::<u32>(), 0);
    let begin = bytes.len();
    for (at, value) in values.enumerate() {
        let mut entry = value.append_to(bytes);
        if at % STRIDE == 0 {
            entry = (entry & !LENGTH) | HAS_END | checked_length(bytes.len() - begin);
        }
        let place = entries + at * size_of::<u32>();
        bytes[place..place + size_of::<u32>()].copy_from_slice(&entry.to_ne_bytes());
    }
}

fn align(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(size_of::<u32>()), 0);
}

fn checked_length(length: usize) -> u32 {
    match u32::try_from(length) {
        Ok(length) if length <= LENGTH => length,
        _ => {
            ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                "the answer is too large for jsonb"
            );
        }
    }
}

fn append_numeric(bytes: &mut Vec<u8>, number: i128) {
    // SAFETY: either makes a numeric, which is a varlena that nobody has toasted.
    unsafe {
        let numeric: *mut pg_sys::varlena = match i64::try_from(number) {
            Ok(number) => pg_sys::int64_to_numeric(number).cast(),
            Err(_) => AnyNumeric::from(number)
                .into_datum()
                .map_or(std::ptr::null_mut(), |datum| datum.cast_mut_ptr()),
        };
        let size = pgrx::varsize_any(numeric);
        bytes.extend_from_slice(std::slice::from_raw_parts(numeric.cast::<u8>(), size));
        pg_sys::pfree(numeric.cast());
    }
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::Value;

    /// What the server prints of it, and of the same text as it reads it itself: bytes alike.
    fn is_as_parsed(value: &Value, text: &str) -> bool {
        let datum = value.to_jsonb().0;
        let made =
            unsafe { pgrx::AnyElement::from_polymorphic_datum(datum, false, pg_sys::JSONBOID) };
        let same = Spi::get_one_with_args::<bool>(
            "SELECT jsonb_send($1) = jsonb_send($2::jsonb) AND $1 = $2::jsonb AND pg_column_size($1) = pg_column_size($2::jsonb)",
            &[made.into(), text.into()],
        );
        same == Ok(Some(true))
    }

    #[pg_test]
    fn jsonb_is_what_the_server_makes_of_the_text() {
        let object = Value::Object(vec![
            ("workflow_id", Value::Text("a \"quoted\" ü")),
            ("empty", Value::Text("")),
            ("b", Value::Boolean(true)),
            ("a", Value::Boolean(false)),
            ("nothing", Value::Null),
            ("zero", Value::Number(0)),
            ("low", Value::Number(i64::MIN.into())),
            ("high", Value::Number(i128::from(i64::MAX) * 1000)),
            (
                "array",
                Value::Array(vec![Value::Object(vec![("x", Value::Number(-10_000))])]),
            ),
            ("none", Value::Array(Vec::new())),
        ]);
        let text = r#"{"workflow_id": "a \"quoted\" ü", "empty": "", "b": true, "a": false, "nothing": null, "zero": 0,
            "low": -9223372036854775808, "high": 9223372036854775807000, "array": [{"x": -10000}], "none": []}"#;
        assert!(is_as_parsed(&object, text));
    }

    #[pg_test]
    fn jsonb_of_more_values_than_a_stride() {
        let numbers: Vec<i64> = (0..100).map(|n| n * n * 1_000_003).collect();
        let text = format!("{{\"n\": {numbers:?}}}");
        let numbers = numbers.iter().map(|n| Value::Number((*n).into()));
        let object = Value::Object(vec![("n", Value::Array(numbers.collect()))]);
        assert!(is_as_parsed(&object, &text));
    }
}
