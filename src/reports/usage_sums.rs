//! Tokens of usage rows added up by stage and model, a row at a time: what the aggregate `token_balance.usage_sums` does.
//!
//! The server's GROUP BY of two texts with a sum for each column costs more than reading the rows does, where an index
//! has them. Here a row is one look into a table, and sums are exact without numeric.

use std::collections::HashMap;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The rows of a stage and a model.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Group {
    pub(crate) stage: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) rows: i64,
    /// Of each column that was added up.
    pub(crate) sums: Vec<i128>,
}

/// Sums of whole numbers. No number of rows makes a sum of bigints too large.
pub(crate) struct UsageSums {
    /// How many columns are added up.
    columns: usize,
    /// Where the group of a key is.
    places: HashMap<Rc<[u8]>, usize>,
    /// Where those were that came last, by [`slot_of`] their keys: few groups have nearly all rows, and the map's hash,
    /// which nobody can choose keys against, takes longer than the sums.
    recent: Vec<usize>,
    /// By place.
    keys: Vec<Rc<[u8]>>,
    /// By place.
    rows: Vec<i64>,
    /// By place, a number for each column.
    sums: Vec<i128>,
    /// The key of the row at hand.
    key: Vec<u8>,
}

const SLOTS: usize = 256;

/// Before the stage's length, which keeps stage and model apart; and where there is none.
const NONE: u32 = u32::MAX;

impl UsageSums {
    pub(crate) fn of(columns: usize) -> Self {
        UsageSums {
            columns,
            places: HashMap::new(),
            recent: vec![0; SLOTS],
            keys: Vec::new(),
            rows: Vec::new(),
            sums: Vec::new(),
            key: Vec::new(),
        }
    }

    /// Add a row; `tokens` says what it has in each column, None counts as 0.
    pub(crate) fn add(
        &mut self,
        stage: Option<&[u8]>,
        model: Option<&[u8]>,
        tokens: impl Fn(usize) -> Option<i64>,
    ) {
        let mut key = std::mem::take(&mut self.key);
        write_key(&mut key, stage, model);
        let place = self.place_of(&key);
        self.key = key;
        self.rows[place] += 1;
        let sums = &mut self.sums[place * self.columns..][..self.columns];
        for (column, sum) in sums.iter_mut().enumerate() {
            *sum += i128::from(tokens(column).unwrap_or(0));
        }
    }

    /// Add all that another has.
    pub(crate) fn merge(&mut self, other: &UsageSums) {
        for (place, key) in other.keys.iter().enumerate() {
            let sums = other.sums_at(place).iter().copied();
            self.add_group(key, other.rows[place], sums);
        }
    }

    fn add_group(&mut self, key: &[u8], rows: i64, tokens: impl Iterator<Item = i128>) {
        let place = self.place_of(key);
        self.rows[place] += rows;
        let sums = &mut self.sums[place * self.columns..][..self.columns];
        for (sum, tokens) in sums.iter_mut().zip(tokens) {
            *sum += tokens;
        }
    }

    fn sums_at(&self, place: usize) -> &[i128] {
        &self.sums[place * self.columns..][..self.columns]
    }

    fn place_of(&mut self, key: &[u8]) -> usize {
        let recent = &mut self.recent[slot_of(key)];
        if self.keys.get(*recent).is_some_and(|known| **known == *key) {
            return *recent;
        }
        let place = match self.places.get(key) {
            Some(place) => *place,
            None => {
                let key: Rc<[u8]> = key.into();
                self.places.insert(key.clone(), self.keys.len());
                self.keys.push(key);
                self.rows.push(0);
                self.sums.resize(self.sums.len() + self.columns, 0);
                self.keys.len() - 1
            }
        };
        *recent = place;
        place
    }

    /// As [`read`] takes it.
    pub(crate) fn shown(&self) -> Result<String> {
        let groups = self.keys.iter().enumerate().map(|(place, key)| {
            let (stage, model) = read_key(key);
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            Group {
                stage: stage.map(text),
                model: model.map(text),
                rows: self.rows[place],
                sums: self.sums_at(place).to_vec(),
            }
        });
        serde_json::to_string(&groups.collect::<Vec<_>>()).map_err(unexpected)
    }

    /// For another process of the same server.
    pub(crate) fn packed(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((self.columns as u32).to_ne_bytes());
        for (place, key) in self.keys.iter().enumerate() {
            bytes.extend((key.len() as u32).to_ne_bytes());
            bytes.extend(&**key);
            bytes.extend(self.rows[place].to_ne_bytes());
            for sum in self.sums_at(place) {
                bytes.extend(sum.to_ne_bytes());
            }
        }
        bytes
    }

    /// None for what [`UsageSums::packed`] did not write.
    pub(crate) fn unpacked(mut bytes: &[u8]) -> Option<Self> {
        let columns = u32::from_ne_bytes(take(&mut bytes)?);
        let mut found = UsageSums::of(columns as usize);
        while !bytes.is_empty() {
            let length = u32::from_ne_bytes(take(&mut bytes)?);
            let (key, rest) = bytes.split_at_checked(length as usize)?;
            bytes = rest;
            let rows = i64::from_ne_bytes(take(&mut bytes)?);
            let sums = (0..columns).map(|_| take(&mut bytes).map(i128::from_ne_bytes));
            let sums: Vec<_> = sums.collect::<Option<_>>()?;
            found.add_group(key, rows, sums.into_iter());
        }
        Some(found)
    }
}

/// The groups that the aggregate answers.
pub(super) fn read(shown: &str) -> Result<Vec<Group>> {
    serde_json::from_str(shown).map_err(unexpected)
}

fn unexpected(error: serde_json::Error) -> Error {
    Error::Spi {
        code: error.to_string(),
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

/// Below SLOTS.
fn slot_of(key: &[u8]) -> usize {
    let mix = |mixed: u64, word: [u8; 8]| {
        (mixed.rotate_left(5) ^ u64::from_ne_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    };
    let (words, rest) = key.as_chunks();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let mixed = words.iter().copied().chain([last]).fold(0, mix);
    (mixed >> 56) as usize % SLOTS
}

/// The stage's length, or NONE; the stage; whether there is a model; the model. A text has less than a gigabyte.
fn write_key(key: &mut Vec<u8>, stage: Option<&[u8]>, model: Option<&[u8]>) {
    key.clear();
    let length = stage.map_or(NONE, |stage| stage.len() as u32);
    key.extend_from_slice(&length.to_ne_bytes());
    key.extend_from_slice(stage.unwrap_or_default());
    key.push(model.is_some().into());
    key.extend_from_slice(model.unwrap_or_default());
}

fn read_key(mut key: &[u8]) -> (Option<&[u8]>, Option<&[u8]>) {
    let length = take(&mut key).map_or(NONE, u32::from_ne_bytes);
    let stage = match length {
        NONE => None,
        length => {
            let (stage, rest) = key.split_at(length as usize);
            key = rest;
            Some(stage)
        }
    };
    match key.split_first() {
        Some((1, model)) => (stage, Some(model)),
        _ => (stage, None),
    }
}
