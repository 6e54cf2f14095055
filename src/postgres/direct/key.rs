//! Keys as a btree has them: what is looked for.

use std::ffi::c_char;

use pgrx::memcxt::PgMemoryContexts;
use pgrx::{IntoDatum, Uuid, pg_sys};

use crate::postgres::key::KeyType;
use crate::postgres::unwind::unless_unwinding;

impl KeyType {
    /// The type whose operators compare such keys.
    pub(super) fn operand(self) -> pg_sys::Oid {
        match self {
            KeyType::Text | KeyType::Varchar => pg_sys::TEXTOID,
            KeyType::Uuid => pg_sys::UUIDOID,
            KeyType::Int2 => pg_sys::INT2OID,
            KeyType::Int4 => pg_sys::INT4OID,
            KeyType::Int8 => pg_sys::INT8OID,
        }
    }

    /// The function behind `=`.
    pub(super) fn equals(self) -> pg_sys::Oid {
        pg_sys::Oid::from(match self {
            KeyType::Text | KeyType::Varchar => pg_sys::F_TEXTEQ,
            KeyType::Uuid => pg_sys::F_UUID_EQ,
            KeyType::Int2 => pg_sys::F_INT2EQ,
            KeyType::Int4 => pg_sys::F_INT4EQ,
            KeyType::Int8 => pg_sys::F_INT8EQ,
        })
    }

    /// How the type is stored: its length, whether by value, its alignment.
    fn storage(self) -> (i32, bool, u8) {
        match self {
            KeyType::Text | KeyType::Varchar => (-1, false, pg_sys::TYPALIGN_INT),
            KeyType::Uuid => (16, false, pg_sys::TYPALIGN_CHAR),
            KeyType::Int2 => (2, true, pg_sys::TYPALIGN_SHORT),
            KeyType::Int4 => (4, true, pg_sys::TYPALIGN_INT),
            KeyType::Int8 => (8, true, pg_sys::TYPALIGN_DOUBLE),
        }
    }

    /// A key, given by canonical text, in the current memory context.
    fn datum(self, text: &str) -> Option<pg_sys::Datum> {
        match self {
            KeyType::Text | KeyType::Varchar => text.into_datum(),
            KeyType::Int2 => text.parse::<i16>().ok()?.into_datum(),
            KeyType::Int4 => text.parse::<i32>().ok()?.into_datum(),
            KeyType::Int8 => text.parse::<i64>().ok()?.into_datum(),
            KeyType::Uuid => {
                let number = u128::from_str_radix(&text.replace('-', ""), 16).ok()?;
                Uuid::from_bytes(number.to_be_bytes()).into_datum()
            }
        }
    }
}

/// What is looked for, as the index has it: a key or an array of them.
pub(super) struct Argument {
    datum: pg_sys::Datum,
    flags: u32,
    /// Whether the datum is a pointer to memory that is to be given back.
    is_owned: bool,
}

impl Argument {
    /// Text that the key type cannot hold is no row's key.
    pub(super) fn of<T: AsRef<str>>(key_type: KeyType, keys: &[T]) -> Self {
        let (length, is_by_value, alignment) = key_type.storage();
        if let [key] = keys
            && let Some(datum) = key_type.datum(key.as_ref())
        {
            return Argument {
                datum,
                flags: 0,
                is_owned: !is_by_value,
            };
        }
        let mut memory = PgMemoryContexts::new("token_balance keys");
        // SAFETY: the keys live in that context until they are copied into the array.
        let array = unsafe {
            let mut datums: Vec<_> = memory.switch_to(|_| {
                let keys = keys.iter();
                keys.filter_map(|key| key_type.datum(key.as_ref()))
                    .collect()
            });
            pg_sys::construct_array(
                datums.as_mut_ptr(),
                datums.len() as i32,
                key_type.operand(),
                length,
                is_by_value,
                alignment as c_char,
            )
        };
        Argument {
            datum: pg_sys::Datum::from(array),
            flags: pg_sys::SK_SEARCHARRAY,
            is_owned: true,
        }
    }

    /// For the first column of the index. Valid as long as the argument lives.
    pub(super) fn scan_key(
        &self,
        key_type: KeyType,
        collation: pg_sys::Oid,
    ) -> pg_sys::ScanKeyData {
        scan_key(self.flags, 1, key_type, collation, self.datum)
    }
}

/// What the index's second column, a smallint, is to be.
pub(super) fn scope_key(scope: i16) -> pg_sys::ScanKeyData {
    scan_key(
        0,
        2,
        KeyType::Int2,
        pg_sys::InvalidOid,
        pg_sys::Datum::from(scope),
    )
}

fn scan_key(
    flags: u32,
    column: pg_sys::AttrNumber,
    key_type: KeyType,
    collation: pg_sys::Oid,
    datum: pg_sys::Datum,
) -> pg_sys::ScanKeyData {
    let mut key = pg_sys::ScanKeyData::default();
    // SAFETY: the function is that of the key type, which the index's column has.
    unsafe {
        pg_sys::ScanKeyEntryInitialize(
            &mut key,
            flags as i32,
            column,
            pg_sys::BTEqualStrategyNumber as u16,
            pg_sys::InvalidOid,
            collation,
            key_type.equals(),
            datum,
        );
    }
    key
}

impl Drop for Argument {
    fn drop(&mut self) {
        if self.is_owned {
            // SAFETY: palloc'd by `of`.
            unless_unwinding(|| unsafe { pg_sys::pfree(self.datum.cast_mut_ptr()) });
        }
    }
}
