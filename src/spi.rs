//! The one room that talks to SPI: statements prepared once, run with the snapshot that the caller
//! asks for, rows copied out as text.
//!
//! pgrx's own `Spi` neither takes a snapshot nor tells whether a kept plan is still valid, and a
//! settlement needs both.

use std::cell::OnceCell;
use std::ffi::{CStr, CString};

use pgrx::{IntoDatum, Uuid, pg_sys};

use crate::direct;
use crate::error::{Error, Result};
use crate::security::{RunAs, SearchPath};
use crate::sqlstate::with_sqlstate_kept;

/// A value for a parameter.
pub(crate) enum Arg<'a> {
    Text(&'a str),
    OptionalText(Option<&'a str>),
    Int4(i32),
    Int8(i64),
    /// A timestamp with time zone, in microseconds since 2000 (UTC) as the server counts.
    OptionalTimestamp(Option<pg_sys::TimestampTz>),
    TextArray(&'a [String]),
    OptionalTextArray(Vec<Option<&'a str>>),
    Int8Array(Vec<i64>),
}

impl Arg<'_> {
    fn type_oid(&self) -> pg_sys::Oid {
        match self {
            Arg::Text(_) | Arg::OptionalText(_) => pg_sys::TEXTOID,
            Arg::Int4(_) => pg_sys::INT4OID,
            Arg::Int8(_) => pg_sys::INT8OID,
            Arg::OptionalTimestamp(_) => pg_sys::TIMESTAMPTZOID,
            Arg::TextArray(_) | Arg::OptionalTextArray(_) => pg_sys::TEXTARRAYOID,
            Arg::Int8Array(_) => pg_sys::INT8ARRAYOID,
        }
    }

    pub(crate) fn datum(&self) -> Option<pg_sys::Datum> {
        match self {
            Arg::Text(text) => text.into_datum(),
            Arg::OptionalText(text) => text.into_datum(),
            Arg::Int4(number) => number.into_datum(),
            Arg::Int8(number) => number.into_datum(),
            Arg::OptionalTimestamp(moment) => moment.map(pg_sys::Datum::from),
            Arg::TextArray(texts) => {
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                texts.into_datum()
            }
            Arg::OptionalTextArray(texts) => texts.clone().into_datum(),
            Arg::Int8Array(numbers) => numbers.clone().into_datum(),
        }
    }
}

/// What a statement sees.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Snapshot {
    /// What any statement of this transaction's isolation level sees.
    Statement,
    /// What the calling statement sees, so that several queries see one state. Only for reading.
    Caller,
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

    pub(crate) fn owned(&self, column: usize) -> Option<String> {
        self.get(column).map(str::to_owned)
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

    /// A number of tokens. Error 55000 for anything else, a null too: money is never guessed.
    pub(crate) fn amount<T: std::str::FromStr>(&self, column: usize) -> Result<T> {
        self.number(column).ok_or_else(|| Error::NotAnAmount {
            found: self.owned(column),
        })
    }

    pub(crate) fn oid(&self, column: usize) -> pg_sys::Oid {
        pg_sys::Oid::from(self.number::<u32>(column).unwrap_or_default())
    }
}

/// One column of many rows, to be handed to another query.
pub(crate) fn texts(rows: &[Row], column: usize) -> Vec<String> {
    rows.iter().map(|row| row.text(column).to_owned()).collect()
}

/// SQL for a timestamp with time zone in the server's own count, which [`Row::number`] reads whatever
/// the session's DateStyle.
pub(crate) fn moment_sql(timestamp: &str) -> String {
    format!(
        "((EXTRACT(epoch FROM {timestamp}) OPERATOR(pg_catalog.-) 946684800) \
         OPERATOR(pg_catalog.*) 1000000)::bigint"
    )
}

/// What a statement did.
pub(crate) struct Outcome {
    pub(crate) rows: Vec<Row>,
    /// Rows processed, also by a statement that returns none.
    pub(crate) processed: u64,
}

/// An SPI connection. Nested ones are fine, as a trigger inside a statement makes them.
///
/// All statements go through one, so here the search_path is set of who acts, for as long as the
/// connection is open.
struct Connection {
    _path: Option<SearchPath>,
}

impl Connection {
    fn open() -> Result<Self> {
        let _path = SearchPath::wanted();
        // SAFETY: matched by SPI_finish in Drop; an abort cleans up by itself.
        check(unsafe { pg_sys::SPI_connect() })?;
        Ok(Connection { _path })
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

/// A statement that is prepared once a backend.
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
    plan: OnceCell<Plan>,
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
        unsafe { pg_sys::SPI_freeplan(self.0) };
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
            plan: OnceCell::new(),
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
        let plan = self.plan()?;
        if self.planning == Planning::Once {
            plan_without_sequential_scans(plan);
        }
        let outcome = execute(plan, args, snapshot)?;
        // SAFETY: the plan was kept and is of one statement.
        check_relations(unsafe { relations_of_plan(plan) }, &self.relations)?;
        Ok(outcome)
    }

    fn plan(&self) -> Result<pg_sys::SPIPlanPtr> {
        if let Some(plan) = self.plan.get() {
            return Ok(plan.0);
        }
        let options = match self.planning {
            Planning::Once => pg_sys::CURSOR_OPT_GENERIC_PLAN,
            Planning::EachTime => pg_sys::CURSOR_OPT_CUSTOM_PLAN | pg_sys::CURSOR_OPT_PARALLEL_OK,
        };
        let prepared = prepare(&self.sql, &self.types, options as i32)?;
        // SAFETY: prepared is a valid, unsaved plan.
        check(unsafe { pg_sys::SPI_keepplan(prepared) })?;
        // A trigger that runs while a statement is prepared could only have set the same plan.
        Ok(self.plan.get_or_init(|| Plan(prepared)).0)
    }
}

/// Make the generic plan now, if there is none that is valid: triggers that the statement fires must
/// not be planned with the same settings.
fn plan_without_sequential_scans(plan: pg_sys::SPIPlanPtr) {
    // SAFETY: the plan was kept and is of one statement.
    if unsafe { has_valid_plan(plan) } {
        return;
    }
    let _settings = PlannerSettings::of_indexes();
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
    unsafe { direct::elements((*cached_source(plan)).relationOids) }
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
fn check_relations(found: &[pg_sys::ListCell], wanted: &[pg_sys::Oid]) -> Result<()> {
    let is_found = |relation: &pg_sys::Oid| {
        // SAFETY: a list of OIDs.
        found
            .iter()
            .any(|cell| unsafe { cell.oid_value } == *relation)
    };
    match wanted.iter().all(is_found) {
        true => Ok(()),
        false => Err(Error::ConcurrentRename),
    }
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

#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
unsafe fn is_search_path(path: *mut pg_sys::OverrideSearchPath) -> bool {
    // SAFETY: the path is null or a plan's own.
    path.is_null() || unsafe { pg_sys::OverrideSearchPathMatchesCurrent(path) }
}

#[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16")))]
unsafe fn is_search_path(path: *mut pg_sys::SearchPathMatcher) -> bool {
    // SAFETY: as above.
    path.is_null() || unsafe { pg_sys::SearchPathMatchesCurrentEnvironment(path) }
}

/// Settings of the planner, which go back to what they were when this value is dropped.
struct PlannerSettings {
    enable_seqscan: bool,
    jit_enabled: bool,
}

impl PlannerSettings {
    /// No sequential scans. What still needs one looks so dear then that 14 to 17 would compile the
    /// statement at each run.
    fn of_indexes() -> Self {
        // SAFETY: backend variables; restored by Drop, also while an error unwinds.
        unsafe {
            let before = PlannerSettings {
                enable_seqscan: pg_sys::enable_seqscan,
                jit_enabled: pg_sys::jit_enabled,
            };
            pg_sys::enable_seqscan = false;
            pg_sys::jit_enabled = false;
            before
        }
    }
}

impl Drop for PlannerSettings {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe {
            pg_sys::enable_seqscan = self.enable_seqscan;
            pg_sys::jit_enabled = self.jit_enabled;
        }
    }
}

/// Run a query once.
pub(crate) fn query(sql: &str, args: &[Arg]) -> Result<Outcome> {
    query_as_of(sql, args, Snapshot::Statement)
}

/// Run a query once, with the snapshot that is asked for.
pub(crate) fn query_as_of(sql: &str, args: &[Arg], snapshot: Snapshot) -> Result<Outcome> {
    query_of(&[], sql, args, snapshot)
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
struct Values {
    datums: Vec<pg_sys::Datum>,
    nulls: Vec<std::ffi::c_char>,
}

impl Values {
    fn of(args: &[Arg]) -> Self {
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
    // SAFETY: SPI is connected, the plan is valid, and values and nulls hold one item a parameter
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
        check(with_sqlstate_kept(|| {
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

/// How long a cursor lives if it is not closed.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Life {
    Transaction,
    /// Like a cursor WITH HOLD: at the first commit the server stores its result.
    Session,
}

/// A query that is read in pieces, as one role, so that memory does not grow with its result.
#[derive(Clone)]
pub(crate) struct Cursor {
    owner: pg_sys::Oid,
    name: CString,
}

impl Cursor {
    /// Of these `relations` and no others of their names, as [`Statement::of`].
    pub(crate) fn open(
        owner: pg_sys::Oid,
        relations: &[pg_sys::Oid],
        sql: &str,
        args: &[Arg],
        snapshot: Snapshot,
        life: Life,
    ) -> Result<Self> {
        let _owner = RunAs::owner(owner);
        let _connection = Connection::open()?;
        let mut values = Values::of(args);
        let mut types: Vec<_> = args.iter().map(Arg::type_oid).collect();
        let options = match life {
            Life::Transaction => pg_sys::CURSOR_OPT_NO_SCROLL,
            Life::Session => pg_sys::CURSOR_OPT_SCROLL | pg_sys::CURSOR_OPT_HOLD,
        };
        // SAFETY: SPI is connected; the server copies the text, types and values into the portal.
        // The portal's name is copied while the portal is there.
        unsafe {
            let portal = pg_sys::SPI_cursor_open_with_args(
                std::ptr::null(),
                c_string(sql).as_ptr(),
                types.len() as i32,
                types.as_mut_ptr(),
                values.datums.as_mut_ptr(),
                values.nulls.as_ptr(),
                snapshot == Snapshot::Caller,
                options as i32,
            );
            let name = CStr::from_ptr((*portal).name).to_owned();
            for statement in direct::elements((*portal).stmts) {
                let statement = statement.ptr_value as *const pg_sys::PlannedStmt;
                let found = direct::elements((*statement).relationOids);
                if let Err(error) = check_relations(found, relations) {
                    pg_sys::SPI_cursor_close(portal);
                    return Err(error);
                }
            }
            Ok(Cursor { owner, name })
        }
    }

    /// The next rows, at most `count`; none at the end.
    pub(crate) fn fetch(&self, count: usize) -> Result<Vec<Row>> {
        let _owner = RunAs::owner(self.owner);
        let _connection = Connection::open()?;
        // SAFETY: SPI is connected; the portal is looked up by name since the application may have
        // closed it.
        unsafe {
            let portal = pg_sys::SPI_cursor_find(self.name.as_ptr());
            if portal.is_null() {
                return Ok(Vec::new());
            }
            pg_sys::SPI_cursor_fetch(portal, true, count as std::ffi::c_long);
            Ok(copy_rows(pg_sys::SPI_tuptable))
        }
    }

    /// How many rows it has; it stands before the first one afterwards. Only with Life::Session.
    pub(crate) fn count(&self) -> Result<usize> {
        let _owner = RunAs::owner(self.owner);
        let _connection = Connection::open()?;
        // SAFETY: as in fetch; a scrollable cursor can go back.
        unsafe {
            let portal = pg_sys::SPI_cursor_find(self.name.as_ptr());
            if portal.is_null() {
                return Ok(0);
            }
            use pg_sys::FetchDirection::{FETCH_ABSOLUTE, FETCH_FORWARD};
            pg_sys::SPI_scroll_cursor_move(portal, FETCH_FORWARD, std::ffi::c_long::MAX);
            let count = pg_sys::SPI_processed as usize;
            pg_sys::SPI_scroll_cursor_move(portal, FETCH_ABSOLUTE, 0);
            Ok(count)
        }
    }

    pub(crate) fn close(self) -> Result<()> {
        let _connection = Connection::open()?;
        // SAFETY: as in fetch.
        unsafe {
            let portal = pg_sys::SPI_cursor_find(self.name.as_ptr());
            if !portal.is_null() {
                pg_sys::SPI_cursor_close(portal);
            }
        }
        Ok(())
    }
}

/// The right to commit, which only a procedure has that was called outside a transaction block.
#[derive(Clone, Copy)]
pub(crate) struct MayCommit(());

impl MayCommit {
    /// None in a function, in a transaction block, or inside another function.
    ///
    /// # Safety
    /// `fcinfo` is what the server called the procedure with.
    pub(crate) unsafe fn of(fcinfo: pg_sys::FunctionCallInfo) -> Option<Self> {
        // SAFETY: as the caller promises; CALL gives a CallContext.
        unsafe {
            let context = (*fcinfo).context;
            let is_call = !context.is_null() && (*context).type_ == pg_sys::NodeTag::T_CallContext;
            (is_call && !(*(context as *mut pg_sys::CallContext)).atomic).then_some(MayCommit(()))
        }
    }

    /// Commit and begin the next transaction, with a snapshot as a procedure has when it is called: the
    /// commit took that one away, and reading a row without SPI wants one.
    pub(crate) fn commit(self) -> Result<()> {
        // SAFETY: a connection that may commit is opened and closed around the call; nothing of
        // this library holds memory of the transaction that ends. The snapshot is the portal's, and
        // goes with the next commit, as in `_SPI_execute_plan`.
        unsafe {
            check(pg_sys::SPI_connect_ext(pg_sys::SPI_OPT_NONATOMIC as i32))?;
            pg_sys::SPI_commit();
            check(pg_sys::SPI_finish())?;
            pg_sys::EnsurePortalSnapshotExists();
        }
        Ok(())
    }
}

/// While this value lives, [`Snapshot::Caller`] is a snapshot of now, whatever the isolation level, in
/// which the transaction sees its own changes.
pub(crate) struct FreshSnapshot(());

impl FreshSnapshot {
    pub(crate) fn push() -> Self {
        // SAFETY: popped by Drop; an abort drops it by itself.
        unsafe {
            pg_sys::CommandCounterIncrement();
            pg_sys::PushActiveSnapshot(if uses_transaction_snapshot() {
                pg_sys::GetLatestSnapshot()
            } else {
                pg_sys::GetTransactionSnapshot()
            });
        }
        FreshSnapshot(())
    }
}

impl Drop for FreshSnapshot {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: pushed by `push`, and what was pushed after it was popped.
            unsafe { pg_sys::PopActiveSnapshot() };
        }
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
    // SAFETY: as the caller promises; what is palloc'd is copied and freed.
    unsafe {
        let mut is_null = false;
        let datum = pg_sys::SPI_getbinval(tuple, tupdesc, number, &mut is_null);
        if is_null {
            return None;
        }
        if let Some(text) = plain_text(datum, direct::column_type(tupdesc, number)) {
            return Some(text);
        }
        let value = pg_sys::SPI_getvalue(tuple, tupdesc, number);
        let text = CStr::from_ptr(value).to_string_lossy().into_owned();
        pg_sys::pfree(value.cast());
        Some(text)
    }
}

/// What the output function of a common type gives; None for another type.
///
/// # Safety
/// `datum` is of the type.
pub(crate) unsafe fn plain_text(datum: pg_sys::Datum, type_oid: pg_sys::Oid) -> Option<String> {
    match type_oid {
        // SAFETY: as the caller promises.
        pg_sys::TEXTOID | pg_sys::VARCHAROID => unsafe { Some(text_of(datum.cast_mut_ptr())) },
        pg_sys::INT2OID => Some((datum.value() as i16).to_string()),
        pg_sys::INT4OID => Some((datum.value() as i32).to_string()),
        pg_sys::INT8OID => Some((datum.value() as i64).to_string()),
        // SAFETY: as the caller promises: a pointer to the 16 bytes.
        pg_sys::UUIDOID => unsafe {
            let bytes = *datum.cast_mut_ptr::<[u8; 16]>();
            Some(Uuid::from_bytes(bytes).to_string())
        },
        _ => None,
    }
}

/// # Safety
/// `value` is text.
unsafe fn text_of(value: *mut pg_sys::varlena) -> String {
    // SAFETY: as the caller promises; a detoasted copy is freed.
    unsafe {
        if let Some(bytes) = plain_bytes(value) {
            return String::from_utf8_lossy(bytes).into_owned();
        }
        let detoasted = pg_sys::pg_detoast_datum_packed(value);
        let text = plain_bytes(detoasted).map(String::from_utf8_lossy);
        let text = text.unwrap_or_default().into_owned();
        if detoasted != value {
            pg_sys::pfree(detoasted.cast());
        }
        text
    }
}

/// What is in a value that is stored plainly: not compressed and not elsewhere.
///
/// # Safety
/// `value` is a varlena that outlives the answer.
pub(crate) unsafe fn plain_bytes<'a>(value: *const pg_sys::varlena) -> Option<&'a [u8]> {
    // SAFETY: as the caller promises.
    unsafe {
        let is_short = pgrx::varatt_is_1b(value) && !pgrx::varatt_is_1b_e(value);
        (is_short || pgrx::varatt_is_4b_u(value)).then(|| {
            let bytes = pgrx::vardata_any(value).cast::<u8>();
            std::slice::from_raw_parts(bytes, pgrx::varsize_any_exhdr(value))
        })
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
