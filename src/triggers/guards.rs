//! The triggers on the extension's own tables, which keep others from writing them.

use crate::error::{Error, Result};
use crate::ledger::archive;
use crate::postgres::trigger::{TriggerCall, trigger_function};
use crate::postgres::{catalog, security};

trigger_function!(
    refuse_ledger_change_wrapper,
    pg_finfo_refuse_ledger_change_wrapper,
    "token_balance.refuse_ledger_change",
    refuse_ledger_change
);

/// Trigger on the ledger: it is append-only but for archive_ledger and reset. Errors: 55000; 42809 on any other
/// table.
fn refuse_ledger_change(call: &TriggerCall) -> Result<()> {
    if call.relation_schema() != "token_balance" || call.relation_own_name() != "ledger" {
        return Err(call.foreign());
    }
    if archive::may_change_ledger() {
        return Ok(());
    }
    Err(Error::LedgerAppendOnly {
        operation: call.operation(),
    })
}

trigger_function!(
    refuse_foreign_write_wrapper,
    pg_finfo_refuse_foreign_write_wrapper,
    "token_balance.refuse_foreign_write",
    refuse_foreign_write
);

/// Trigger on the extension's tables, before each statement: only roles that act for their owner
/// write them, as the extension itself and a restore do. `pg_write_all_data` alone is not enough: with it
/// a settlement could be undone and its workflow charged again. Error 42501.
fn refuse_foreign_write(call: &TriggerCall) -> Result<()> {
    if call.relation_schema() != "token_balance" {
        return Err(call.foreign());
    }
    let role = security::current_user();
    if catalog::acts_for(role, call.relation_owner()) {
        return Ok(());
    }
    Err(Error::ForeignWrite {
        relation: call.relation_name(),
        role: catalog::role_name(role),
    })
}
