//! The setting `token_balance.direct`.

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

static IS_USED: GucSetting<bool> = GucSetting::<bool>::new(true);

/// Whether this room is to be used: with `token_balance.direct = off` each of its functions answers None, and
/// `pg_stat_statements`, `auto_explain` and hooks of the executor see the SQL statements.
pub(crate) fn is_used() -> bool {
    IS_USED.get()
}

/// Called once per backend.
pub(crate) fn init() {
    GucRegistry::define_bool_guc(
        c"token_balance.direct",
        c"Reads and writes rows without an executor where the result is the same.",
        c"With off, each row is read and written by an SQL statement, which extensions that look at statements see.",
        &IS_USED,
        GucContext::Userset,
        GucFlags::default(),
    );
}
