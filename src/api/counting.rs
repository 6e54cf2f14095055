//! What the extension has done, counted.

use pgrx::iter::TableIterator;
use pgrx::pg_sys::TimestampTz;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::counters::{Counter, Reading};

/// `token_balance.counters() → one row`: the counters of the database since the server started, or of this session where
/// sessions share none.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn counters() -> Result<
    TableIterator<
        'static,
        (
            name!(since, Option<TimestampWithTimeZone>),
            name!(scope, &'static str),
            name!(settled_by_trigger, i64),
            name!(settled_by_function, i64),
            name!(settled_by_batch, i64),
            name!(settled_by_sweep, i64),
            name!(settled_late, i64),
            name!(settled_on_deletion, i64),
            name!(charges, i64),
            name!(tokens_charged, i64),
            name!(bad_charges, i64),
            name!(overdrafts, i64),
            name!(charges_queued, i64),
            name!(charges_applied, i64),
            name!(balances_direct, i64),
            name!(balances_by_sql, i64),
            name!(settlements_direct, i64),
            name!(settlements_by_sql, i64),
            name!(binding_reads, i64),
            name!(sweeps, i64),
            name!(last_sweep, Option<TimestampWithTimeZone>),
        ),
    >,
    ErrorReport,
> {
    use Counter::*;
    let reading = Reading::now();
    let scope = match reading.is_shared {
        true => "server",
        false => "session",
    };
    Ok(TableIterator::once((
        timestamp(reading.since),
        scope,
        reading.of(ByTrigger),
        reading.of(ByFunction),
        reading.of(ByBatch),
        reading.of(BySweep),
        reading.of(ByLateUsage),
        reading.of(ByDeletion),
        reading.of(Charges),
        reading.of(Tokens),
        reading.of(BadCharges),
        reading.of(Overdrafts),
        reading.of(Queued),
        reading.of(Applied),
        reading.of(BalancesDirect),
        reading.of(BalancesBySql),
        reading.of(SettlementsDirect),
        reading.of(SettlementsBySql),
        reading.of(BindingReads),
        reading.of(Sweeps),
        reading.last_sweep().and_then(timestamp),
    )))
}

fn timestamp(moment: TimestampTz) -> Option<TimestampWithTimeZone> {
    TimestampWithTimeZone::try_from(moment).ok()
}
