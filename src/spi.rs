//! The one room that talks to SPI: statements prepared once, run with the snapshot that the caller
//! asks for, rows copied out as text.
//!
//! pgrx's own `Spi` neither takes a snapshot nor tells whether a kept plan is still valid, and a
//! settlement needs both.

use std::cell::OnceCell;
use std::ffi::{CStr, CString};

use pgrx::IntoDatum;
use pgrx::pg_sys;

use crate::error::{Error, Result};

/// A value for a parameter.
pub(crate) enum Arg<'a> {
    Text(&'a str),
    OptionalText(Option<&'a str>),
    Int8(i64),
    TextArray(&'a [String]),
}

impl Arg<'_> {
    fn type_oid(&self) -> pg_sys::Oid {
        match self {
            Arg::Text(_) | Arg::OptionalText(_) => pg_sys::TEXTOID,
            Arg::Int8(_) => pg_sys::INT8OID,
            Arg::TextArray(_) => pg_sys::TEXTARRAYOID,
        }
    }

    fn datum(&self) -> Option<pg_sys::Datum> {
        match self {
            Arg::Text(text) => text.into_datum(),
            Arg::OptionalText(text) => text.into_datum(),
            Arg::Int8(number) => number.into_datum(),
            Arg::TextArray(texts) => texts.to_vec().into_datum(),
        }
    }
}

/// What a statement sees.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Snapshot {
    /// What any statement of this transaction's isolation level sees.
    Statement,
    /// All that is committed now, whatever the isolation level: in REPEATABLE READ and SERIALIZABLE
    /// the transaction's own snapshot is older than the lock that was waited for. From
    /// `ri_PerformCheck`.
    Latest,
}

/// One row, every column as text.
pub(crate) struct Row(Vec<Option<String>>);

impl Row {
    pub(crate) fn get(&self, column: usize) -> Option<&str> {
        self.0.get(column).and_then(|value| value.as_deref())
    }

    /// The text of a column that is known not to be null; empty if it is.
    pub(crate) fn text(&self, column: usize) -> &str {
        self.get(column).unwrap_or_default()
    }

    pub(crate) fn is_true(&self, column: usize) -> bool {
        self.get(column) == Some("t")
    }

    pub(crate) fn number<T: std::str::FromStr>(&self, column: usize) -> Option<T> {
        self.get(column).and_then(|text| text.parse().ok())
    }

    pub(crate) fn oid(&self, column: usize) -> pg_sys::Oid {
        pg_sys::Oid::from(self.number::<u32>(column).unwrap_or_default())
    }
}

/// What a statement did.
pub(crate) struct Outcome {
    pub(crate) rows: Vec<Row>,
    /// Rows processed, also by a statement that returns none.
    pub(crate) processed: u64,
}

/// An SPI connection. Nested ones are fine, as a trigger inside a statement makes them.
struct Connection;

impl Connection {
    fn open() -> Result<Self> {
        // SAFETY: matched by SPI_finish in Drop; an abort cleans up by itself.
        check(unsafe { pg_sys::SPI_connect() })?;
        Ok(Connection)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // While an error unwinds, the abort that follows frees the connection.
        if !std::thread::panicking() {
            // SAFETY: this value was made by a successful SPI_connect.
            unsafe { pg_sys::SPI_finish() };
        }
    }
}

/// A statement that is planned once a backend, with a generic plan: its parameters are ids and
/// amounts, for which a plan of their own is never better. PostgreSQL plans it again by itself
/// after DDL or ANALYZE.
pub(crate) struct Statement {
    sql: CString,
    types: Vec<pg_sys::Oid>,
    plan: OnceCell<Plan>,
}

struct Plan(pg_sys::SPIPlanPtr);

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: the plan was kept by SPI_keepplan and this value is its only owner.
        unsafe { pg_sys::SPI_freeplan(self.0) };
    }
}

impl Statement {
    /// `types` are the types of $1, $2, …
    pub(crate) fn new(sql: &str, types: &[pg_sys::Oid]) -> Self {
        Statement {
            sql: c_string(sql),
            types: types.to_vec(),
            plan: OnceCell::new(),
        }
    }

    /// Run it as the current role.
    pub(crate) fn run(&self, args: &[Arg], snapshot: Snapshot) -> Result<Outcome> {
        let _connection = Connection::open()?;
        let plan = self.plan()?;
        execute(plan, args, snapshot)
    }

    fn plan(&self) -> Result<pg_sys::SPIPlanPtr> {
        if let Some(plan) = self.plan.get() {
            return Ok(plan.0);
        }
        let prepared = prepare(
            &self.sql,
            &self.types,
            pg_sys::CURSOR_OPT_GENERIC_PLAN as i32,
        )?;
        // SAFETY: prepared is a valid, unsaved plan.
        check(unsafe { pg_sys::SPI_keepplan(prepared) })?;
        // A trigger that runs while a statement is prepared could only have set the same plan.
        Ok(self.plan.get_or_init(|| Plan(prepared)).0)
    }
}

/// Run a query once.
pub(crate) fn query(sql: &str, args: &[Arg]) -> Result<Outcome> {
    let _connection = Connection::open()?;
    let types: Vec<_> = args.iter().map(Arg::type_oid).collect();
    let plan = prepare(&c_string(sql), &types, 0)?;
    execute(plan, args, Snapshot::Statement)
}

/// Run DDL, or any statement without parameters and rows.
pub(crate) fn command(sql: &str) -> Result<u64> {
    Ok(query(sql, &[])?.processed)
}

fn prepare(sql: &CStr, types: &[pg_sys::Oid], options: i32) -> Result<pg_sys::SPIPlanPtr> {
    // SAFETY: SPI is connected; the server copies the text and the types.
    let plan = unsafe {
        pg_sys::SPI_prepare_cursor(
            sql.as_ptr(),
            types.len() as i32,
            types.as_ptr() as *mut pg_sys::Oid,
            options,
        )
    };
    if plan.is_null() {
        // SAFETY: reads a backend variable.
        check(unsafe { pg_sys::SPI_result })?;
    }
    Ok(plan)
}

fn execute(plan: pg_sys::SPIPlanPtr, args: &[Arg], snapshot: Snapshot) -> Result<Outcome> {
    let datums: Vec<_> = args.iter().map(Arg::datum).collect();
    let mut values: Vec<_> = datums
        .iter()
        .map(|datum| datum.unwrap_or(pg_sys::Datum::from(0)))
        .collect();
    let nulls: Vec<_> = datums
        .iter()
        .map(|datum| if datum.is_some() { b' ' } else { b'n' } as i8)
        .collect();
    // SAFETY: SPI is connected, the plan is valid, and values and nulls hold one item a parameter
    // and outlive the call. SPI copies the snapshot before it changes it (read_only is false). The
    // tuple table is read before anything else can replace it.
    unsafe {
        let snapshot = match snapshot {
            Snapshot::Latest if uses_transaction_snapshot() => pg_sys::GetLatestSnapshot(),
            _ => std::ptr::null_mut(),
        };
        check(pg_sys::SPI_execute_snapshot(
            plan,
            values.as_mut_ptr(),
            nulls.as_ptr().cast(),
            snapshot,
            std::ptr::null_mut(),
            false,
            true,
            0,
        ))?;
        Ok(Outcome {
            rows: copy_rows(pg_sys::SPI_tuptable),
            processed: pg_sys::SPI_processed,
        })
    }
}

/// Whether the isolation level keeps one snapshot for the transaction.
pub(crate) fn uses_transaction_snapshot() -> bool {
    // SAFETY: reads a backend variable.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// # Safety
/// `table` is null or the tuple table of the statement that just ran.
unsafe fn copy_rows(table: *mut pg_sys::SPITupleTable) -> Vec<Row> {
    let Some(table) = (unsafe { table.as_ref() }) else {
        return Vec::new();
    };
    // SAFETY: `vals` holds `numvals` tuples of the descriptor `tupdesc`; SPI_getvalue returns null
    // or a string in memory that lives until SPI_finish.
    unsafe {
        let columns = (*table.tupdesc).natts;
        (0..table.numvals as usize)
            .map(|row| {
                let tuple = *table.vals.add(row);
                Row((1..=columns)
                    .map(|n| column_text(tuple, table.tupdesc, n))
                    .collect())
            })
            .collect()
    }
}

/// The text of a tuple's column by its type's output function; None for a null.
///
/// # Safety
/// `tuple` is of the descriptor `tupdesc`, which has a column `number`.
pub(crate) unsafe fn column_text(
    tuple: pg_sys::HeapTuple,
    tupdesc: pg_sys::TupleDesc,
    number: i32,
) -> Option<String> {
    // SAFETY: as the caller promises; the string is copied and freed.
    unsafe {
        let value = pg_sys::SPI_getvalue(tuple, tupdesc, number);
        if value.is_null() {
            return None;
        }
        let text = CStr::from_ptr(value).to_string_lossy().into_owned();
        pg_sys::pfree(value.cast());
        Some(text)
    }
}

/// SQL text for the server. Text out of PostgreSQL has no NUL byte.
pub(crate) fn c_string(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

fn check(code: i32) -> Result<()> {
    if code >= 0 {
        return Ok(());
    }
    // SAFETY: returns a static string for any code.
    let name = unsafe { CStr::from_ptr(pg_sys::SPI_result_code_string(code)) };
    Err(Error::Spi {
        code: name.to_string_lossy().into_owned(),
    })
}
