//! The binding: which tables and columns of this database the extension works on.
//!
//! A [`Spec`] is what `attach` was told and what the table `token_balance.binding` keeps. A
//! [`Binding`] is a spec held against the catalogs. A [`Bound`] is the binding as a backend keeps it, with
//! what the rooms above have made of it; this room knows none of them. Its [`Book`] is the part of it that is of
//! accounts alone: whatever becomes of the other tables, balances go on. Several bindings may be attached, and
//! those of one users table and balance column share a book.

pub(crate) mod attach_arguments;
mod bound;
mod columns;
pub(crate) mod completed;
mod faults;
mod late_sources;
mod model;
mod options;
pub(crate) mod own;
mod parts;
mod resolve;
pub(crate) mod search_path;
mod spec;
mod stored;
mod tokens;

pub(crate) use bound::{
    Book, Bound, Kept, Which, bindings, bindings_and_usage_alone, bindings_and_users_locked,
    bindings_and_workflows_locked, bindings_locked, bindings_unlocked, book, book_and_users_locked,
    books, books_of, bound, bound_and_alone, is_one_of_several, lock_out_settlements, usable_names,
    whole_books,
};
pub(crate) use faults::Parts;
pub(crate) use late_sources::LateSource;
pub(crate) use model::{Accounts, Binding, Completion, Key, Payer, Workflows, numeric_scale};
pub(crate) use options::{BusyAccount, DeletedUsage, LateUsage, OutsideChanges};
pub(crate) use parts::is_part_of;
pub(crate) use resolve::{check_late_sources, relation_of, source_told, wrong_type};
pub(crate) use search_path::path_of;
pub(crate) use spec::{Ids, Relation, Spec};
pub(crate) use stored::{Stored, new_ids, take_turns};
pub(crate) use tokens::BALANCE_TYPES;
