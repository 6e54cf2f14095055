//! Ids of accounts and workflows: which column types may hold them, and one canonical text for each
//! id, so that `settlement` and `ledger` name an account the same way whatever table it came from.

use std::ffi::CStr;
use std::str::FromStr;

use pgrx::pg_sys;

use super::datum::c_string;

/// A type that a key column may have (a domain counts as its base type).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyType {
    Text,
    Varchar,
    Uuid,
    Int2,
    Int4,
    Int8,
}

pub(crate) const SUPPORTED_KEY_TYPES: &str = "text, varchar, uuid, smallint, integer and bigint";

impl KeyType {
    /// The key type of a base type, if it is supported.
    pub(crate) fn of(type_oid: pg_sys::Oid) -> Option<Self> {
        match type_oid {
            pg_sys::TEXTOID => Some(KeyType::Text),
            pg_sys::VARCHAROID => Some(KeyType::Varchar),
            pg_sys::UUIDOID => Some(KeyType::Uuid),
            pg_sys::INT2OID => Some(KeyType::Int2),
            pg_sys::INT4OID => Some(KeyType::Int4),
            pg_sys::INT8OID => Some(KeyType::Int8),
            _ => None,
        }
    }

    fn oid(self) -> pg_sys::Oid {
        match self {
            KeyType::Text => pg_sys::TEXTOID,
            KeyType::Varchar => pg_sys::VARCHAROID,
            KeyType::Uuid => pg_sys::UUIDOID,
            KeyType::Int2 => pg_sys::INT2OID,
            KeyType::Int4 => pg_sys::INT4OID,
            KeyType::Int8 => pg_sys::INT8OID,
        }
    }

    /// Its name in SQL, safe under any search_path.
    pub(crate) fn sql(self) -> &'static str {
        match self {
            KeyType::Text => "pg_catalog.text",
            KeyType::Varchar => "pg_catalog.varchar",
            KeyType::Uuid => "pg_catalog.uuid",
            KeyType::Int2 => "pg_catalog.int2",
            KeyType::Int4 => "pg_catalog.int4",
            KeyType::Int8 => "pg_catalog.int8",
        }
    }

    /// What types have in common that spell an id in the same way.
    pub(crate) fn spelling(self) -> &'static str {
        match self {
            KeyType::Text | KeyType::Varchar => "text",
            KeyType::Uuid => "uuid",
            KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => "integer",
        }
    }

    pub(crate) fn is_text(self) -> bool {
        matches!(self, KeyType::Text | KeyType::Varchar)
    }

    pub(crate) fn is_integer(self) -> bool {
        matches!(self, KeyType::Int2 | KeyType::Int4 | KeyType::Int8)
    }

    /// Whether ids of the two types can name the same thing.
    pub(crate) fn matches(self, other: KeyType) -> bool {
        self == other
            || self.is_text()
            || other.is_text()
            || (self.is_integer() && other.is_integer())
    }

    /// Whether the text of each id of this type is the canonical one where ids are keyed by `key`.
    pub(crate) fn spells_as(self, key: KeyType) -> bool {
        !self.is_text() || key.is_text()
    }

    /// SQL for the canonical text of `column`, a column of this type whose values name things that
    /// are keyed by `key`: what [`KeyType::canonical`] makes of it. Text that cannot be such a key
    /// stays as it is.
    pub(crate) fn canonical_sql(self, column: &str, key: KeyType) -> String {
        let text = format!("{column}::pg_catalog.text");
        if self.spells_as(key) {
            return text;
        }
        // What the types' input functions take on every version; numeric has no range to leave.
        let (pattern, type_name) = if key.is_integer() {
            (
                "^[ \\t\\n\\v\\f\\r]*[+-]?[0-9]+[ \\t\\n\\v\\f\\r]*$",
                "pg_catalog.numeric",
            )
        } else {
            (
                "^([0-9A-Fa-f]{4}-?){7}[0-9A-Fa-f]{4}$|^\\{([0-9A-Fa-f]{4}-?){7}[0-9A-Fa-f]{4}\\}$",
                "pg_catalog.uuid",
            )
        };
        // CASE guards the cast: a malformed id is an unknown account, not an error.
        format!(
            "CASE WHEN {text} OPERATOR(pg_catalog.~) E'{}' \
             THEN {text}::{type_name}::pg_catalog.text ELSE {text} END",
            pattern.replace('\\', "\\\\")
        )
    }

    /// SQL for "`column`, of this type, names what `parameter` (the canonical text of a `key`)
    /// names". Of one type, an index on the column serves it.
    pub(crate) fn equals_sql(self, column: &str, key: KeyType, parameter: &str) -> String {
        if self == key || (self.is_text() && key.is_text()) {
            return format!(
                "{column} OPERATOR(pg_catalog.=) {parameter}::{}",
                self.sql()
            );
        }
        format!(
            "{} OPERATOR(pg_catalog.=) {parameter}",
            self.canonical_sql(column, key)
        )
    }

    /// The canonical text of an id that stands in a row; None if this type has no such value.
    pub(crate) fn canonical(self, id: &str) -> Option<String> {
        match self {
            KeyType::Text | KeyType::Varchar => Some(id.to_owned()),
            KeyType::Uuid => canonical_uuid(id),
            KeyType::Int2 => canonical_integer::<i16>(id),
            KeyType::Int4 => canonical_integer::<i32>(id),
            KeyType::Int8 => canonical_integer::<i64>(id),
        }
    }

    /// The canonical text of an id that a caller gave. A malformed one raises the type's own error.
    pub(crate) fn canonical_or_raise(self, id: &str) -> String {
        self.canonical(id)
            .unwrap_or_else(|| through_type(self.oid(), id))
    }
}

fn canonical_integer<T: FromStr + ToString>(id: &str) -> Option<String> {
    let digits = id.trim_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    digits.parse::<T>().ok().map(|number| number.to_string())
}

/// As `string_to_uuid` in PostgreSQL's uuid.c: braces around it or none, a hyphen after any group of
/// four digits but the last.
fn canonical_uuid(id: &str) -> Option<String> {
    let mut rest = match id.strip_prefix('{') {
        Some(inside) => inside.strip_suffix('}')?,
        None => id,
    };
    let mut digits = String::with_capacity(32);
    for group in 0..8 {
        let four = rest.get(..4)?;
        if !four.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        digits.push_str(four);
        rest = &rest[4..];
        if group < 7 {
            rest = rest.strip_prefix('-').unwrap_or(rest);
        }
    }
    if !rest.is_empty() {
        return None;
    }
    let digits = digits.to_ascii_lowercase();
    let groups = [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    ];
    Some(groups.join("-"))
}

/// `text` through the type's input and output functions.
fn through_type(type_oid: pg_sys::Oid, text: &str) -> String {
    let input_text = c_string(text);
    // SAFETY: the functions of a built-in type are called with the parameters that the catalog
    // gives for them; the results are palloc'd and copied.
    unsafe {
        let mut function = pg_sys::InvalidOid;
        let mut io_param = pg_sys::InvalidOid;
        let mut is_varlena = false;
        pg_sys::getTypeInputInfo(type_oid, &mut function, &mut io_param);
        let value =
            pg_sys::OidInputFunctionCall(function, input_text.as_ptr() as *mut _, io_param, -1);
        pg_sys::getTypeOutputInfo(type_oid, &mut function, &mut is_varlena);
        let output = pg_sys::OidOutputFunctionCall(function, value);
        CStr::from_ptr(output).to_string_lossy().into_owned()
    }
}
