//! A sum of tokens that stays exact while it grows, and is rounded when it is shown.

use std::str::FromStr;

use pgrx::AnyNumeric;
use serde::{Serialize, Serializer};

use crate::error::{Error, Result};

/// Tokens, with fractions. NaN, as numeric knows it, if a row had what is no number of tokens.
#[derive(Default)]
pub(super) struct ExactSum(AnyNumeric);

impl ExactSum {
    /// What SQL says of a sum. Error 55000 for what is no numeric.
    pub(super) fn of(found: Option<&str>) -> Result<Self> {
        let sum = found.and_then(|text| AnyNumeric::from_str(text).ok());
        sum.map(ExactSum).ok_or_else(|| Error::NotAnAmount {
            found: found.map(str::to_owned),
        })
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.0 += other.0.clone();
    }

    /// Rounded half away from zero; None for what cannot be counted.
    pub(super) fn rounded(&self) -> Option<i128> {
        round(&self.0.to_string())
    }
}

impl From<i128> for ExactSum {
    fn from(sum: i128) -> Self {
        ExactSum(AnyNumeric::from(sum))
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
