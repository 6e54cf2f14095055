//! What goes into a statement and what comes out of it: parameters, and rows whose columns are text.

use pgrx::{AnyNumeric, IntoDatum, pg_sys};

use super::exact_sum::ExactSum;
use crate::error::{Error, Result};

/// A value for a parameter.
pub(crate) enum Arg<'a> {
    Text(&'a str),
    OptionalText(Option<&'a str>),
    OptionalInt2(Option<i16>),
    Int4(i32),
    Int8(i64),
    /// A timestamp with time zone, in microseconds since 2000 (UTC) as the server counts.
    OptionalTimestamp(Option<pg_sys::TimestampTz>),
    TextArray(&'a [String]),
    Int8Array(Vec<i64>),
    /// numeric 0
    NumericZero,
}

impl Arg<'_> {
    pub(super) fn type_oid(&self) -> pg_sys::Oid {
        match self {
            Arg::Text(_) | Arg::OptionalText(_) => pg_sys::TEXTOID,
            Arg::OptionalInt2(_) => pg_sys::INT2OID,
            Arg::Int4(_) => pg_sys::INT4OID,
            Arg::Int8(_) => pg_sys::INT8OID,
            Arg::OptionalTimestamp(_) => pg_sys::TIMESTAMPTZOID,
            Arg::TextArray(_) => pg_sys::TEXTARRAYOID,
            Arg::Int8Array(_) => pg_sys::INT8ARRAYOID,
            Arg::NumericZero => pg_sys::NUMERICOID,
        }
    }

    pub(crate) fn datum(&self) -> Option<pg_sys::Datum> {
        match self {
            Arg::Text(text) => text.into_datum(),
            Arg::OptionalText(text) => text.into_datum(),
            Arg::OptionalInt2(number) => number.into_datum(),
            Arg::Int4(number) => number.into_datum(),
            Arg::Int8(number) => number.into_datum(),
            Arg::OptionalTimestamp(moment) => moment.map(pg_sys::Datum::from),
            Arg::TextArray(texts) => {
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                texts.into_datum()
            }
            Arg::Int8Array(numbers) => numbers.clone().into_datum(),
            Arg::NumericZero => AnyNumeric::from(0).into_datum(),
        }
    }
}

/// One row, every column as text.
pub(crate) struct Row(pub(super) Vec<Option<String>>);

impl Row {
    pub(crate) fn get(&self, column: usize) -> Option<&str> {
        self.0.get(column).and_then(|value| value.as_deref())
    }

    pub(crate) fn owned(&self, column: usize) -> Option<String> {
        self.get(column).map(str::to_owned)
    }

    /// The text of a column that is known not to be null; empty if it is.
    pub(crate) fn text(&self, column: usize) -> &str {
        self.get(column).unwrap_or_default()
    }

    pub(crate) fn is_true(&self, column: usize) -> bool {
        self.get(column) == Some("t")
    }

    pub(crate) fn number<T: std::str::FromStr>(&self, column: usize) -> Option<T> {
        self.get(column).and_then(|text| text.parse().ok())
    }

    /// A number of tokens. Error 55000 for anything else, a null too: money is never guessed.
    pub(crate) fn amount<T: std::str::FromStr>(&self, column: usize) -> Result<T> {
        self.number(column).ok_or_else(|| Error::NotAnAmount {
            found: self.owned(column),
        })
    }

    /// A sum of tokens before it is rounded; None for the NaN of what cannot be counted. Error 55000 for anything else.
    pub(crate) fn counted(&self, column: usize) -> Result<Option<ExactSum>> {
        match self.get(column) {
            Some("NaN") => Ok(None),
            found => ExactSum::of(found).map(Some),
        }
    }

    pub(crate) fn oid(&self, column: usize) -> pg_sys::Oid {
        pg_sys::Oid::from(self.number::<u32>(column).unwrap_or_default())
    }
}

/// One column of many rows, to be handed to another query.
pub(crate) fn texts(rows: &[Row], column: usize) -> Vec<String> {
    rows.iter().map(|row| row.text(column).to_owned()).collect()
}

/// SQL for a timestamp with time zone in the server's own count, which [`Row::number`] reads whatever
/// the session's DateStyle.
pub(crate) fn moment_sql(timestamp: &str) -> String {
    let is = |infinity: &str| {
        format!("{timestamp} OPERATOR(pg_catalog.=) '{infinity}'::timestamp with time zone")
    };
    // As `DT_NOEND` and `DT_NOBEGIN` are in the server's count.
    format!(
        "CASE WHEN pg_catalog.isfinite({timestamp}) \
         THEN ((EXTRACT(epoch FROM {timestamp}) OPERATOR(pg_catalog.-) 946684800) \
         OPERATOR(pg_catalog.*) 1000000)::bigint \
         WHEN {} THEN {} WHEN {} THEN '{}'::bigint END",
        is("infinity"),
        i64::MAX,
        is("-infinity"),
        i64::MIN
    )
}
