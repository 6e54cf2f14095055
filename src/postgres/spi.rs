//! Statements through SPI: prepared once, run with the snapshot that the caller asks for, rows copied
//! out as text.
//!
//! pgrx's own `Spi` neither takes a snapshot nor tells whether a kept plan is still valid, and a
//! settlement needs both.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::rc::Rc;

use pgrx::pg_sys;

use super::datum::{c_string, column_text};
use super::descriptor::elements;
use super::error_fields::with_error_fields_kept;
use super::security::SearchPath;
use super::snapshot::{Snapshot, uses_transaction_snapshot};
use super::unwind::unless_unwinding;
use super::value::{Arg, Row, texts};
use super::versions::is_search_path;
use crate::error::{Error, Result};

/// What a statement did.
pub(crate) struct Outcome {
    pub(crate) rows: Vec<Row>,
    /// Rows processed, also by a statement that returns none.
    pub(crate) processed: u64,
}

/// An SPI connection. Nested ones are fine, as a trigger inside a statement makes them.
///
/// All statements go through one, so here the search_path of the acting role is set, for as long as the
/// connection is open.
pub(super) struct Connection {
    _path: Option<SearchPath>,
}

impl Connection {
    pub(super) fn open() -> Result<Self> {
        let _path = SearchPath::wanted();
        // SAFETY: matched by SPI_finish in Drop; an abort cleans up by itself.
        check(unsafe { pg_sys::SPI_connect() })?;
        Ok(Connection { _path })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        unless_unwinding(|| {
            // SAFETY: this value was made by a successful SPI_connect.
            unsafe { pg_sys::SPI_finish() };
        });
    }
}

/// A statement that is prepared once per backend.
///
/// Most have one generic plan: their parameters are ids and amounts, for which a plan of their own is
/// never better. PostgreSQL plans it again by itself after DDL or ANALYZE. It is planned without
/// sequential scans where an index will do. A table that is empty or small when the plan is made may
/// have millions of rows before the next ANALYZE.
///
/// It names tables, and a name may come to mean another table: a schema is renamed under everybody's
/// locks. So a statement that is of bound tables says which they are, by OID, and what it did with
/// others is an error.
pub(crate) struct Statement {
    sql: CString,
    types: Vec<pg_sys::Oid>,
    relations: Vec<pg_sys::Oid>,
    planning: Planning,
    plan: RefCell<Option<Rc<Plan>>>,
}

/// When a statement is planned.
#[derive(Clone, Copy, PartialEq)]
enum Planning {
    Once,
    EachTime,
}

struct Plan(pg_sys::SPIPlanPtr);

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: the plan was kept by SPI_keepplan and this value is its only owner.
        unless_unwinding(|| unsafe {
            pg_sys::SPI_freeplan(self.0);
        });
    }
}

impl Statement {
    /// `types` are the types of $1, $2, …
    pub(crate) fn new(sql: &str, types: &[pg_sys::Oid]) -> Self {
        Statement {
            sql: c_string(sql),
            types: types.to_vec(),
            relations: Vec::new(),
            planning: Planning::Once,
            plan: RefCell::default(),
        }
    }

    /// The same, of these tables and no others of their names.
    pub(crate) fn of(self, relations: &[pg_sys::Oid]) -> Self {
        Statement {
            relations: relations.to_vec(),
            ..self
        }
    }

    /// One that reads few rows or very many, as its parameters say: a plan for each run, by parallel
    /// workers where the planner finds that worth it.
    pub(crate) fn planned_each_time(sql: &str, types: &[pg_sys::Oid]) -> Self {
        Statement {
            planning: Planning::EachTime,
            ..Statement::new(sql, types)
        }
    }

    /// Run it as the current role.
    pub(crate) fn run(&self, args: &[Arg], snapshot: Snapshot) -> Result<Outcome> {
        let _connection = Connection::open()?;
        let kept = self.plan()?;
        let plan = kept.0;
        let _setup_cost = match self.planning {
            Planning::Once => {
                plan_without_sequential_scans(plan);
                None
            }
            Planning::EachTime => Some(with_dearer_workers()),
        };
        let outcome = execute(plan, args, snapshot)?;
        // SAFETY: the plan was kept and is of one statement.
        check_relations(unsafe { relations_of_plan(plan) }, &self.relations)?;
        Ok(outcome)
    }

    fn plan(&self) -> Result<Rc<Plan>> {
        let known = self.plan.borrow().clone();
        // One that was made while a rule replaced the statement, or the table had another name, is of no such table, so the
        // server does not make it anew when that is over.
        // SAFETY: the plan was kept and is of one statement.
        if let Some(known) = known
            && are_relations(unsafe { relations_of_plan(known.0) }, &self.relations)
        {
            return Ok(known);
        }
        let options = match self.planning {
            Planning::Once => pg_sys::CURSOR_OPT_GENERIC_PLAN,
            Planning::EachTime => pg_sys::CURSOR_OPT_CUSTOM_PLAN | pg_sys::CURSOR_OPT_PARALLEL_OK,
        };
        let prepared = prepare(&self.sql, &self.types, options as i32)?;
        // SAFETY: prepared is a valid, unsaved plan.
        check(unsafe { pg_sys::SPI_keepplan(prepared) })?;
        let plan = Rc::new(Plan(prepared));
        self.plan.replace(Some(plan.clone()));
        Ok(plan)
    }
}

/// Make the generic plan now, if there is none that is valid: triggers that the statement fires must
/// not be planned with the same settings.
fn plan_without_sequential_scans(plan: pg_sys::SPIPlanPtr) {
    // SAFETY: the plan was kept and is of one statement.
    if unsafe { has_valid_plan(plan) } {
        return;
    }
    let _settings = by_indexes();
    // SAFETY: the plan was kept and is of one statement; the reference to the cached plan is given
    // back to the resource owner that got it.
    unsafe {
        let cached = pg_sys::SPI_plan_get_cached_plan(plan);
        if !cached.is_null() {
            pg_sys::ReleaseCachedPlan(cached, pg_sys::CurrentResourceOwner);
        }
    }
}

/// The relations that a statement was last analyzed to be of.
///
/// # Safety
/// The plan is of one statement; the slice is used before the plan is.
unsafe fn relations_of_plan<'a>(plan: pg_sys::SPIPlanPtr) -> &'a [pg_sys::ListCell] {
    // SAFETY: as the caller promises.
    unsafe { elements((*cached_source(plan)).relationOids) }
}

/// # Safety
/// The plan is of one statement; the source is used before the plan is.
unsafe fn cached_source(plan: pg_sys::SPIPlanPtr) -> *const pg_sys::CachedPlanSource {
    // SAFETY: as the caller promises: such a plan has one source, which lives as long as it does.
    unsafe {
        let sources = pg_sys::SPI_plan_get_plan_sources(plan);
        (*(*sources).elements).ptr_value as *const pg_sys::CachedPlanSource
    }
}

/// Error 40001 if a statement that is of `wanted` was not.
///
/// It is looked at when the statement has run: it may have been analyzed anew at the last moment. What
/// it did is rolled back with the error.
pub(super) fn check_relations(found: &[pg_sys::ListCell], wanted: &[pg_sys::Oid]) -> Result<()> {
    match are_relations(found, wanted) || is_suppressed(found, wanted)? {
        true => Ok(()),
        false => Err(Error::ConcurrentRename),
    }
}

fn are_relations(found: &[pg_sys::ListCell], wanted: &[pg_sys::Oid]) -> bool {
    let is_found = |relation: &pg_sys::Oid| {
        // SAFETY: a list of OIDs.
        found
            .iter()
            .any(|cell| unsafe { cell.oid_value } == *relation)
    };
    wanted.iter().all(is_found)
}

/// Whether a rule has made nothing of the statement: the caller is told that it has done nothing.
fn is_suppressed(found: &[pg_sys::ListCell], wanted: &[pg_sys::Oid]) -> Result<bool> {
    let oids = wanted.iter().map(|oid| oid.to_u32().into()).collect();
    let has_rules = "SELECT 1 FROM pg_catalog.pg_class AS c \
                     WHERE c.oid::bigint OPERATOR(pg_catalog.=) ANY ($1) AND c.relhasrules";
    let args = [Arg::Int8Array(oids)];
    Ok(found.is_empty() && query_as_of(has_rules, &args, Snapshot::Latest)?.processed > 0)
}

/// Whether the server would take the generic plan as it is. From `CheckCachedPlan` and
/// `RevalidateCachedQuery` in plancache.c; what is rare counts as invalid here.
///
/// # Safety
/// `plan` was kept and is of one statement.
unsafe fn has_valid_plan(plan: pg_sys::SPIPlanPtr) -> bool {
    // SAFETY: such a plan has one source, which lives as long as it does.
    unsafe {
        let source = cached_source(plan);
        let Some(generic) = (*source).gplan.as_ref() else {
            return false;
        };
        let is_valid = (*source).is_valid && generic.is_valid;
        let is_for_everybody = !(*source).dependsOnRLS && !generic.dependsOnRole;
        let is_for_good = generic.saved_xmin == pg_sys::InvalidTransactionId;
        is_valid && is_for_everybody && is_for_good && is_search_path((*source).search_path)
    }
}

/// A backend variable that goes back to what it was when this value is dropped, also while an error unwinds.
struct Changed<T: Copy> {
    variable: *mut T,
    before: T,
}

impl<T: Copy> Changed<T> {
    /// # Safety
    /// The variable is one of the backend's, and takes what `change` makes of its value.
    unsafe fn to(variable: *mut T, change: impl FnOnce(T) -> T) -> Self {
        // SAFETY: as the caller promises.
        unsafe {
            let before = *variable;
            *variable = change(before);
            Changed { variable, before }
        }
    }
}

impl<T: Copy> Drop for Changed<T> {
    fn drop(&mut self) {
        // SAFETY: as `to` was promised.
        unsafe { *self.variable = self.before }
    }
}

/// No sequential scans. What still needs one looks so dear then that 14 to 17 would compile the statement at each run.
fn by_indexes() -> [Changed<bool>; 2] {
    let settings = [
        &raw mut pg_sys::enable_seqscan,
        &raw mut pg_sys::jit_enabled,
    ];
    // SAFETY: settings of the planner.
    settings.map(|setting| unsafe { Changed::to(setting, |_| false) })
}

/// Ten times what a worker costs to start: one that starts loads our library besides.
fn with_dearer_workers() -> Changed<f64> {
    // SAFETY: a setting of the planner.
    unsafe { Changed::to(&raw mut pg_sys::parallel_setup_cost, |cost| cost * 10.0) }
}

/// Run a query once.
pub(crate) fn query(sql: &str, args: &[Arg]) -> Result<Outcome> {
    query_as_of(sql, args, Snapshot::Statement)
}

/// Run a query once, with the snapshot that is asked for.
pub(crate) fn query_as_of(sql: &str, args: &[Arg], snapshot: Snapshot) -> Result<Outcome> {
    query_of(&[], sql, args, snapshot)
}

thread_local! {
    static KEPT: RefCell<HashMap<String, Rc<Statement>>> = RefCell::default();
}

/// Run a query on the server's own catalogs, whose plan is kept for good. For those that are run many times with other
/// parameters: to analyze and plan one takes far longer than to run it.
pub(crate) fn query_kept(sql: &str, args: &[Arg], snapshot: Snapshot) -> Result<Outcome> {
    let known = KEPT.with_borrow(|kept| kept.get(sql).cloned());
    let statement = known.unwrap_or_else(|| {
        let types: Vec<_> = args.iter().map(Arg::type_oid).collect();
        let made = Rc::new(Statement::new(sql, &types));
        KEPT.with_borrow_mut(|kept| kept.insert(sql.to_owned(), made.clone()));
        made
    });
    statement.run(args, snapshot)
}

/// Run a query once that is of bound tables and no others of their names ([`Statement::of`]).
pub(crate) fn query_of(
    relations: &[pg_sys::Oid],
    sql: &str,
    args: &[Arg],
    snapshot: Snapshot,
) -> Result<Outcome> {
    let _connection = Connection::open()?;
    let types: Vec<_> = args.iter().map(Arg::type_oid).collect();
    let plan = prepare(&c_string(sql), &types, 0)?;
    let outcome = execute(plan, args, snapshot)?;
    // SAFETY: the plan was just made, of one statement.
    check_relations(unsafe { relations_of_plan(plan) }, relations)?;
    Ok(outcome)
}

/// Run a query once in a trigger, of the rows that its statement has changed. `relations` as with [`query_of`].
pub(super) fn query_in_trigger(
    data: &pg_sys::TriggerData,
    relations: &[pg_sys::Oid],
    sql: &str,
) -> Result<Outcome> {
    let _connection = Connection::open()?;
    // SAFETY: SPI is connected; the trigger's data outlives the connection, and the server reads it alone.
    check(unsafe { pg_sys::SPI_register_trigger_data(std::ptr::from_ref(data).cast_mut()) })?;
    let plan = prepare(&c_string(sql), &[], 0)?;
    let outcome = execute(plan, &[], Snapshot::Statement)?;
    // SAFETY: the plan was just made, of one statement.
    check_relations(unsafe { relations_of_plan(plan) }, relations)?;
    Ok(outcome)
}

/// How the server would run a query if it could do without sequential scans: a line per step.
pub(crate) fn plan_without_scans(sql: &str) -> Result<Vec<String>> {
    explain_without_scans("COSTS OFF", sql)
}

/// The same, as JSON.
pub(crate) fn json_plan_without_scans(sql: &str) -> Result<String> {
    explain_without_scans("COSTS OFF, VERBOSE, FORMAT JSON", sql).map(|lines| lines.join("\n"))
}

fn explain_without_scans(options: &str, sql: &str) -> Result<Vec<String>> {
    let _settings = by_indexes();
    let outcome = query(&format!("EXPLAIN ({options}) {sql}"), &[])?;
    Ok(texts(&outcome.rows, 0))
}

/// Whether the planner can prove, by the constraints of its tables, that a query has no rows. It runs none of their
/// functions.
pub(crate) fn is_refuted(sql: &str) -> Result<bool> {
    let on = pg_sys::ConstraintExclusionType::CONSTRAINT_EXCLUSION_ON as i32;
    // SAFETY: a setting of the planner.
    let _setting = unsafe { Changed::to(&raw mut pg_sys::constraint_exclusion, |_| on) };
    let outcome = query(&format!("EXPLAIN (COSTS OFF) {sql}"), &[])?;
    let lines = texts(&outcome.rows, 0);
    Ok(lines
        .iter()
        .any(|line| line.trim() == "One-Time Filter: false"))
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

/// Arguments in the form that SPI takes.
pub(super) struct Values {
    pub(super) datums: Vec<pg_sys::Datum>,
    pub(super) nulls: Vec<std::ffi::c_char>,
}

impl Values {
    pub(super) fn of(args: &[Arg]) -> Self {
        let (datums, nulls) = args
            .iter()
            .map(|arg| match arg.datum() {
                Some(datum) => (datum, b' ' as std::ffi::c_char),
                None => (pg_sys::Datum::from(0), b'n' as std::ffi::c_char),
            })
            .unzip();
        Values { datums, nulls }
    }
}

fn execute(plan: pg_sys::SPIPlanPtr, args: &[Arg], snapshot: Snapshot) -> Result<Outcome> {
    let mut values = Values::of(args);
    // SAFETY: SPI is connected, the plan is valid, and values and nulls hold one item per parameter
    // and outlive the call. SPI copies the snapshot before it changes it (unless read_only). The
    // tuple table is read before anything else can replace it.
    unsafe {
        let latest = match snapshot {
            Snapshot::Latest if uses_transaction_snapshot() => {
                lock_relations_of(plan);
                pg_sys::GetLatestSnapshot()
            }
            _ => std::ptr::null_mut(),
        };
        check(with_error_fields_kept(|| {
            pg_sys::SPI_execute_snapshot(
                plan,
                values.datums.as_mut_ptr(),
                values.nulls.as_ptr(),
                latest,
                std::ptr::null_mut(),
                snapshot == Snapshot::Caller,
                true,
                0,
            )
        }))?;
        Ok(Outcome {
            rows: copy_rows(pg_sys::SPI_tuptable),
            processed: pg_sys::SPI_processed,
        })
    }
}

/// Lock what the statement reads, as running it does. A snapshot that is older than the lock sees
/// nothing of a table that was rewritten before the lock was granted. Where the server takes the
/// snapshot itself it has locked before (`_SPI_execute_plan`).
///
/// # Safety
/// SPI is connected and the plan is of one statement.
unsafe fn lock_relations_of(plan: pg_sys::SPIPlanPtr) {
    // SAFETY: as the caller promises. A kept plan is counted by the resource owner, another by nobody.
    unsafe {
        let cached = pg_sys::SPI_plan_get_cached_plan(plan);
        if !cached.is_null() {
            let owner = if (*cached_source(plan)).is_saved {
                pg_sys::CurrentResourceOwner
            } else {
                std::ptr::null_mut()
            };
            pg_sys::ReleaseCachedPlan(cached, owner);
        }
    }
}

pub(super) fn check(code: i32) -> Result<()> {
    if code >= 0 {
        return Ok(());
    }
    // SAFETY: returns a static string for any code.
    let name = unsafe { CStr::from_ptr(pg_sys::SPI_result_code_string(code)) };
    Err(Error::Spi {
        code: name.to_string_lossy().into_owned(),
    })
}

/// # Safety
/// `table` is null or the tuple table of the statement that just ran.
pub(super) unsafe fn copy_rows(table: *mut pg_sys::SPITupleTable) -> Vec<Row> {
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
