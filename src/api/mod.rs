//! The functions that people call from SQL: their arguments are checked here, and their answers get
//! their shape.
//!
//! The SQL declarations, with names, defaults and grants, are in `sql/functions.sql`; COMMENTs are
//! in `sql/comments.sql`.

mod accounts;
mod archive;
mod binding;
mod by_key;
mod common;
mod correcting;
mod counting;
mod moving;
mod numbers;
mod retention;
mod settling;
mod usage_sums;
