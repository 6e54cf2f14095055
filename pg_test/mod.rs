//! Unit tests that run inside the server, each in a transaction that rolls back.
//!
//! One file for each topic of the contract (docs/DESIGN.md), whose rules the comments name. What a
//! test does is in its name; what it needs is in [`fixture`].

mod archive;
mod attach;
mod binding;
mod completed;
mod completion;
mod convention;
mod counters;
mod direct;
mod fixture;
mod history;
mod ids;
mod jsonb;
mod kept;
mod keys;
mod ledger;
mod payer;
mod settle;
mod summary;
mod tokens;
mod triggers_on_users;
mod verify;

#[cfg(test)]
mod arrows;
#[cfg(test)]
mod rules_cited;
#[cfg(test)]
mod sql_in_source;

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    #[pg_test]
    fn the_extension_is_installed() {
        let version = Spi::get_one::<String>(
            "SELECT extversion FROM pg_extension WHERE extname = 'token_balance'",
        );
        assert_eq!(version, Ok(Some(env!("CARGO_PKG_VERSION").to_owned())));
    }
}
