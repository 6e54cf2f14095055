//! The server's side: what the extension needs of PostgreSQL, whatever it is used for. Nothing here
//! knows a table of the extension's or a rule of its contract.

pub(crate) mod aggregate;
pub(crate) mod call;
pub(crate) mod catalog;
pub(crate) mod clock;
pub(crate) mod commit;
pub(crate) mod cursor;
pub(crate) mod datum;
pub(crate) mod descriptor;
pub(crate) mod direct;
pub(crate) mod error_fields;
pub(crate) mod exact;
pub(crate) mod exact_sum;
pub(crate) mod index_entry;
pub(crate) mod invalidation;
pub(crate) mod jsonb;
pub(crate) mod key;
pub(crate) mod lock;
pub(crate) mod notice;
pub(crate) mod patience;
pub(crate) mod quote;
mod raw;
pub(crate) mod security;
pub(crate) mod shared;
pub(crate) mod snapshot;
pub(crate) mod spi;
pub(crate) mod stored_row;
pub(crate) mod subtransaction;
pub(crate) mod transaction;
pub(crate) mod trigger;
mod unwind;
pub(crate) mod value;
mod versions;
pub(crate) mod view;
