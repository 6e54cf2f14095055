//! jsonb as it is stored, made in one go. pgrx's `JsonB` writes text, which the server parses again:
//! a tenth of what a settlement costs. The format is that of PostgreSQL's `jsonb.h`; it is on disk, so
//! it is the same in every version.

use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::pg_sys;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};

use crate::error::Error;

/// A value that a function returns.
pub(crate) struct Jsonb(pub(crate) pg_sys::Datum);

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
        let mut bytes = Vec::with_capacity(512);
        bytes.extend_from_slice(&varlena_head(0));
        self.append_to(&mut bytes);
        let head = varlena_head(bytes.len());
        bytes[..head.len()].copy_from_slice(&head);
        // SAFETY: the memory is of that size.
        unsafe {
            let varlena = pg_sys::palloc(bytes.len()).cast::<u8>();
            varlena.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
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
                // The order in which a key is looked for.
                if pairs.is_sorted_by_key(|(key, _)| (key.len(), *key)) {
                    append_object(bytes, pairs.iter());
                } else {
                    let mut pairs: Vec<_> = pairs.iter().collect();
                    pairs.sort_unstable_by_key(|(key, _)| (key.len(), *key));
                    append_object(bytes, pairs.into_iter());
                }
                CONTAINER
            }
            Value::Array(values) => {
                let mut container = Container::begin(bytes, ARRAY, values.len(), values.len());
                for value in values {
                    container.append(bytes, |bytes| value.append_to(bytes));
                }
                CONTAINER
            }
        };
        kind | checked_length(bytes.len() - begin)
    }
}

/// The keys, then the values.
fn append_object<'a, 'b: 'a>(
    bytes: &mut Vec<u8>,
    pairs: impl ExactSizeIterator<Item = &'a (&'static str, Value<'b>)> + Clone,
) {
    let count = pairs.len();
    let mut container = Container::begin(bytes, OBJECT, count, 2 * count);
    for (key, _) in pairs.clone() {
        container.append(bytes, |bytes| Value::Text(key).append_to(bytes));
    }
    for (_, value) in pairs {
        container.append(bytes, |bytes| value.append_to(bytes));
    }
}

/// The head, an entry for each of what is in it, and that.
struct Container {
    /// Where the entries are, and where what they stand for begins.
    entries: usize,
    begin: usize,
    /// How many are there already.
    at: usize,
}

impl Container {
    fn begin(bytes: &mut Vec<u8>, kind: u32, count: usize, entries: usize) -> Self {
        align(bytes);
        bytes.extend_from_slice(&(kind | checked_length(count)).to_ne_bytes());
        let first = bytes.len();
        bytes.resize(first + entries * size_of::<u32>(), 0);
        Container {
            entries: first,
            begin: bytes.len(),
            at: 0,
        }
    }

    fn append(&mut self, bytes: &mut Vec<u8>, append: impl FnOnce(&mut Vec<u8>) -> u32) {
        let mut entry = append(bytes);
        if self.at.is_multiple_of(STRIDE) {
            let end = checked_length(bytes.len() - self.begin);
            entry = (entry & !LENGTH) | HAS_END | end;
        }
        let place = self.entries + self.at * size_of::<u32>();
        bytes[place..place + size_of::<u32>()].copy_from_slice(&entry.to_ne_bytes());
        self.at += 1;
    }
}

fn align(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(size_of::<u32>()), 0);
}

fn checked_length(length: usize) -> u32 {
    match u32::try_from(length) {
        Ok(length) if length <= LENGTH => length,
        _ => Error::AnswerTooLarge.raise(),
    }
}

/// A whole number as a numeric is stored, in the short form, which `make_result` in numeric.c gives
/// each number that fits: digits to the base of 10,000, without zeros at the end.
fn append_numeric(bytes: &mut Vec<u8>, number: i128) {
    const SHORT: u16 = 0x8000;
    const NEGATIVE: u16 = 0x2000;
    let mut digits = [0_u16; 10]; // of 39 decimal ones
    let mut first = digits.len();
    let mut rest = number.unsigned_abs();
    // Nearly all fit, and are divided much faster.
    if let Ok(mut small) = u64::try_from(rest) {
        while small > 0 {
            first -= 1;
            digits[first] = (small % 10_000) as u16;
            small /= 10_000;
        }
        rest = 0;
    }
    while rest > 0 {
        first -= 1;
        digits[first] = (rest % 10_000) as u16;
        rest /= 10_000;
    }
    let whole = &digits[first..];
    let weight = whole.len().saturating_sub(1) as u16;
    let zeros = whole.iter().rev().take_while(|digit| **digit == 0).count();
    let sign = if number < 0 { NEGATIVE } else { 0 };
    let size = size_of::<u32>() + (1 + whole.len() - zeros) * size_of::<u16>();
    bytes.extend_from_slice(&varlena_head(size));
    bytes.extend_from_slice(&(SHORT | sign | weight).to_ne_bytes());
    for digit in &whole[..whole.len() - zeros] {
        bytes.extend_from_slice(&digit.to_ne_bytes());
    }
}

/// The length of a varlena with a head of four bytes, as it is stored.
fn varlena_head(size: usize) -> [u8; 4] {
    let size = checked_length(size);
    if cfg!(target_endian = "big") {
        size.to_ne_bytes()
    } else {
        (size << 2).to_ne_bytes()
    }
}
