//! The ledger and what it is about: balances, credits, and the charges that wait for a busy account. This
//! room knows no workflow table and no usage: a charge is a change of a balance like others.

pub(crate) mod account;
pub(crate) mod archive;
pub(crate) mod archive_table;
pub(crate) mod busy;
pub(crate) mod change;
pub(crate) mod credit;
pub(crate) mod crossing;
pub(crate) mod entries;
pub(crate) mod forget;
pub(crate) mod moved;
pub(crate) mod moving;
pub(crate) mod queue;
pub(crate) mod reference;
