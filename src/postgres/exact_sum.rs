//! A sum of tokens that stays exact while it grows, and is rounded when it is asked for.

use std::fmt;
use std::str::FromStr;

use pgrx::AnyNumeric;
use serde::{Serialize, Serializer};

use crate::error::{Error, Result};

/// Tokens, with fractions. NaN, as numeric knows it, if a row had what is no number of tokens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ExactSum {
    /// Nearly always there is no fraction, and no need of numeric.
    Whole(i128),
    Numeric(AnyNumeric),
}

impl ExactSum {
    /// What SQL says of a sum. Error 55000 for what is no numeric.
    pub(crate) fn of(found: Option<&str>) -> Result<Self> {
        let sum = found.and_then(|text| match text.parse() {
            Ok(whole) => Some(ExactSum::Whole(whole)),
            Err(_) => AnyNumeric::from_str(text).ok().map(ExactSum::Numeric),
        });
        sum.ok_or_else(|| Error::NotAnAmount {
            found: found.map(str::to_owned),
        })
    }

    pub(crate) fn add(&mut self, other: &Self) {
        *self = self.plus(other);
    }

    pub(crate) fn plus(&self, other: &Self) -> Self {
        match (self, other) {
            (ExactSum::Whole(one), ExactSum::Whole(other)) => ExactSum::Whole(one + other),
            (one, other) => ExactSum::Numeric(one.numeric() + other.numeric()),
        }
    }

    pub(crate) fn minus(&self, other: &Self) -> Self {
        match (self, other) {
            (ExactSum::Whole(one), ExactSum::Whole(other)) => ExactSum::Whole(one - other),
            (one, other) => ExactSum::Numeric(one.numeric() - other.numeric()),
        }
    }

    pub(crate) fn is_below(&self, other: &Self) -> bool {
        match (self, other) {
            (ExactSum::Whole(one), ExactSum::Whole(other)) => one < other,
            (one, other) => one.numeric() < other.numeric(),
        }
    }

    pub(crate) fn smaller(self, other: Self) -> Self {
        if other.is_below(&self) { other } else { self }
    }

    pub(crate) fn larger(self, other: Self) -> Self {
        if self.is_below(&other) { other } else { self }
    }

    pub(crate) fn is_zero(&self) -> bool {
        match self {
            ExactSum::Whole(sum) => *sum == 0,
            ExactSum::Numeric(sum) => *sum == AnyNumeric::from(0),
        }
    }

    fn numeric(&self) -> AnyNumeric {
        match self {
            ExactSum::Whole(sum) => AnyNumeric::from(*sum),
            ExactSum::Numeric(sum) => sum.clone(),
        }
    }

    /// Rounded half away from zero; None for what cannot be counted.
    pub(crate) fn rounded(&self) -> Option<i128> {
        match self {
            ExactSum::Whole(sum) => Some(*sum),
            ExactSum::Numeric(sum) => round(&sum.to_string()),
        }
    }
}

impl Default for ExactSum {
    fn default() -> Self {
        ExactSum::Whole(0)
    }
}

impl From<i128> for ExactSum {
    fn from(sum: i128) -> Self {
        ExactSum::Whole(sum)
    }
}

/// As numeric reads it.
impl fmt::Display for ExactSum {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        match self {
            ExactSum::Whole(sum) => sum.fmt(to),
            ExactSum::Numeric(sum) => sum.fmt(to),
        }
    }
}

/// Whole tokens; null for what cannot be counted.
impl Serialize for ExactSum {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.rounded().serialize(serializer)
    }
}

/// As numeric's round(): the text of a numeric has no exponent.
fn round(text: &str) -> Option<i128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let rounded: i128 = whole.parse().ok()?;
    let away = if text.starts_with('-') { -1 } else { 1 };
    Some(match fraction.bytes().next() {
        Some(b'5'..) => rounded + away,
        _ => rounded,
    })
}
