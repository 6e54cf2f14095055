//! Names and literals, quoted for SQL. A name is quoted only where it has to be, whatever the session's
//! `quote_all_identifiers` says: names are stored, shown, and compared with those that were stored.

use pgrx::pg_sys;
pub(crate) use pgrx::spi::quote_literal;

/// While this value lives, the server quotes names only where it has to, in definitions too. An error that unwinds ends
/// it as well.
pub(crate) struct QuotedWhereNeeded {
    before: bool,
}

impl QuotedWhereNeeded {
    pub(crate) fn start() -> Self {
        let setting = &raw mut pg_sys::quote_all_identifiers;
        // SAFETY: a variable of the backend, which has one thread.
        let before = unsafe { setting.replace(false) };
        QuotedWhereNeeded { before }
    }
}

impl Drop for QuotedWhereNeeded {
    fn drop(&mut self) {
        // SAFETY: as at the start.
        unsafe { (&raw mut pg_sys::quote_all_identifiers).write(self.before) };
    }
}

pub(crate) fn quote_identifier(name: impl AsRef<str>) -> String {
    let _setting = QuotedWhereNeeded::start();
    pgrx::spi::quote_identifier(name)
}

pub(crate) fn quote_qualified_identifier(schema: impl AsRef<str>, name: impl AsRef<str>) -> String {
    let _setting = QuotedWhereNeeded::start();
    pgrx::spi::quote_qualified_identifier(schema.as_ref(), name.as_ref())
}
