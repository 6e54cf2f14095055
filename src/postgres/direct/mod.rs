//! The room in which the extension reads and writes rows without SPI, straight through the table and
//! index access methods: what a settlement does most, and what costs an executor more to prepare
//! than to do. All unsafe code of that kind is here.
//!
//! Nothing here is needed: each caller has its SQL statement as well, and takes that one when a
//! function of this room answers None. It does so whenever a table is not exactly what is expected:
//! the executor knows triggers, rules, policies, constraints, partitions, expressions and foreign
//! access methods, and this room does not.
//!
//! # What holds here
//! - **New rows are written into the extension's own tables alone**: settlements, ledger entries and the queue. The role
//!   that acts is their owner ([`super::security::RunAs`]), as for the SQL statement.
//! - **Of a bound table one integer of one row is changed**, as the table's owner, and only where an UPDATE would do nothing
//!   more (`update.rs` lists what else there may be). In its place the caller does the work of one trigger.
//! - **A table is looked at under the lock that an INSERT or UPDATE takes**, which no ALTER TABLE, CREATE TRIGGER or CREATE
//!   INDEX goes along with (CREATE INDEX CONCURRENTLY waits for its holders). The relation cache is up to date once the lock
//!   is held. What was found is kept until the server says that something has changed ([`open::Kept`]); the types of the
//!   columns are compared each time.
//! - **Rows are read** of ordinary heap tables without children only, with a valid btree of all rows
//!   that begins with the key, in the key type's own `=` and the column's own collation; the reader is
//!   the owner, so no policy applies. The snapshot is that of the SQL statement, taken and registered
//!   when the locks are held.
//! - **The number of an account's last entry** is read with no snapshot, but as `HeapTupleSatisfiesSelf` sees rows: all
//!   that is committed, and what this transaction has written. Whoever writes entries of the account has its row locked.
//! - **A value is never taken for one of another type**: the type of each column that is read or
//!   written is compared with that of the open and locked relation, each time.
//! - **Every index of the table gets every row**, in the order of the server's own list, or the table
//!   is left to the executor.
//! - **A row that another one may forbid raises nothing** where the caller asks for that: it is inserted
//!   speculatively, as INSERT ... ON CONFLICT does it (`ExecInsert`). The btree is asked for a partial
//!   check; a row that it is not sure of is killed before anybody can have waited for this transaction,
//!   and the SQL statement decides, which waits for whoever wrote the other one.
//! - **Commands**: rows are written as the current command, which is then counted up, as SPI does after
//!   each statement: the next statement, and a trigger of the application's, sees them.
//! - **Serializable transactions, WAL, logical decoding, TOAST and the statistics** are the business of
//!   the access methods, which are called as the executor calls them.
//! - **Errors** leave as panics through pgrx's guards. Relations, buffers, slots and locks belong to the
//!   resource owner, and the abort of the (sub)transaction gives them back: while a panic unwinds,
//!   nothing here does.
//! - **One guard per row, not one per call**: what the server is asked for a row, one function after the
//!   other, goes through a single guard of pgrx's ([`super::raw`]). Inside it there is nothing to be dropped.
//! - **Memory** is that of a context of its own ([`scratch`]), emptied when the rows are written.
//! - **Nobody's code runs here**: an index with an expression, or with a comparison that is not the server's own, is left to
//!   the executor where a bound table is written. It would run with the caller's search_path.

mod index;
mod index_path;
mod insert;
mod key;
mod lookup;
mod open;
mod scan;
mod scratch;
mod setting;
mod update;
mod updater;

pub(crate) use index_path::{Holds, Wanted};
pub(crate) use insert::{Conflict, Inserter, OpenTable, Shape};
pub(crate) use lookup::Lookup;
pub(crate) use scan::FoundRow;
pub(crate) use setting::{init, is_used};
pub(crate) use update::{Added, Adder, Addition, Changeable};
