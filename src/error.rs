//! Every error that the extension raises. What a client sees of one (SQLSTATE, message, DETAIL and
//! HINT) is in one place, in the match below.

use std::borrow::Cow;
use std::time::Duration;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::spi::quote_literal;
use pgrx::{PgLogLevel, PgSqlErrorCode};

/// In the way of [`Error::TableInUse`].
pub(crate) const PREPARED_TRANSACTION: &str = "a prepared transaction";

/// What [`Error::RelationDropped`] is about, of a view.
pub(crate) const USAGE_VIEW: &str = "usage view";

/// What can go wrong.
#[derive(Debug, Clone)]
pub(crate) enum Error {
    // Arguments.
    NullArgument {
        function: &'static str,
        argument: &'static str,
    },
    /// An array with a null in it.
    NullInside {
        function: &'static str,
        argument: &'static str,
    },
    /// What it says is written where the argument is checked.
    InvalidArgument {
        message: String,
        detail: Option<String>,
        hint: Option<String>,
    },
    TokensOutOfRange {
        argument: &'static str,
        amount: String,
    },

    /// More than one, of what attach is told.
    SeveralFaults(Vec<Error>),

    // Whether tables are bound.
    NotAttached,
    /// The library is newer than the catalog: ALTER EXTENSION was not called yet.
    OlderCatalog,
    /// From text to one that may spell ids otherwise than they are stored.
    KeyTypeChanged {
        relation: String,
        column: String,
        type_name: String,
    },
    /// Usage that is a view with what may give another answer to the same rows.
    UnsteadyView {
        relation: String,
        functions: Vec<String>,
    },
    /// The same, whose tables have policies.
    ViewHidesRows {
        relation: String,
        table: String,
        role: String,
    },
    /// The same, of an owner who has not the rights of the users table's.
    ViewOfOthers {
        relation: String,
        owner: String,
        users_owner: String,
    },
    /// The same, which says something else than when it was attached.
    ViewReplaced {
        relation: String,
    },
    TooManyBindings,
    /// None of those that are attached.
    UnknownBinding {
        name: String,
        names: Vec<String>,
    },
    /// Whose users table the role may not read; without a name, that is so for each that is attached.
    BindingOfOthers {
        name: Option<String>,
        role: String,
    },
    /// Where one is meant, and none was named.
    SeveralBindings {
        names: Vec<String>,
        argument: &'static str,
    },
    /// Where an amount is to be given back, and none was named.
    SeveralPaid {
        workflow: String,
        names: Vec<String>,
    },
    /// Of one that is to be attached beside another.
    CannotStandBeside {
        message: String,
        detail: String,
        hint: String,
    },
    /// Of one that is in another database.
    AccountMoved {
        account: String,
        database: String,
    },
    /// A document that did not leave from here.
    UnknownMove {
        account: String,
        token: String,
    },
    /// An account cannot leave, come, or be taken back as it is asked for.
    CannotMove {
        message: String,
        detail: Option<String>,
        hint: Option<String>,
    },
    /// A table that was bound was dropped, and another one has its name.
    MadeAnew {
        what: &'static str,
        relation: String,
        argument: &'static str,
        detail: String,
    },
    /// Of a table that is to be bound.
    InheritanceChildren {
        relation: String,
        child: String,
    },
    /// A warning: what is bound charges nothing.
    NothingMatches {
        usage: String,
        workflows: String,
        ids: usize,
    },
    /// A key's type was changed, and none of the ids that are known is there.
    OtherIds {
        column: String,
        known: usize,
        detach: String,
    },
    /// An account's row would move to another partition under another id.
    LeavesPartition {
        relation: String,
        account: String,
        new: String,
    },
    /// A warning of attach: no row has tokens.
    NothingCounted {
        usage: String,
        tokens: String,
        rows: usize,
        detach: String,
    },
    /// Of a binding that goes on.
    WouldForgive {
        relation: String,
        pairs: usize,
        tokens: i128,
    },
    /// To other tables, or with other options.
    AlreadyAttached {
        name: String,
        detail: String,
        is_same_usage: bool,
        /// Whether the other one could be attached as well.
        could_stand_beside: bool,
    },

    // What is bound, or is to be.
    /// Of a relation that was bound.
    RelationDropped {
        what: &'static str,
        name: String,
        is_name_taken: bool,
        hint: String,
    },
    /// The balance column was dropped, or renamed.
    BalanceColumnMissing {
        relation: String,
        column: String,
        attach: String,
    },
    RelationMissing {
        what: &'static str,
        name: String,
    },
    SchemaMissing {
        schema: String,
    },
    WrongRelationKind {
        name: String,
        kind: &'static str,
    },
    Distributed {
        relation: String,
    },
    ColumnMissing {
        relation: String,
        column: String,
        argument: &'static str,
    },
    /// Of a column that was bound.
    ColumnDropped {
        relation: String,
        column: String,
        argument: &'static str,
        is_name_taken: bool,
        hint: String,
    },
    WrongColumnType {
        relation: String,
        column: String,
        type_name: String,
        /// Empty for the balance, which none names.
        argument: &'static str,
        wanted: &'static str,
    },
    UnsupportedCollation {
        relation: String,
        column: String,
        collation: String,
    },
    GeneratedColumn {
        relation: String,
        column: String,
    },
    NoUniqueKey {
        relation: String,
        column: String,
    },
    NotOwner {
        relation: String,
    },
    /// By the role that settlements read it as.
    UnreadableRelation {
        relation: String,
        role: String,
        /// Whether it is not its policies.
        is_whole: bool,
    },

    /// A lock that others did not let us have.
    TableInUse {
        relation: String,
        limit: Duration,
        in_the_way: Vec<String>,
    },

    // Ids that a caller names.
    UnknownWorkflow {
        workflow: String,
    },
    UnknownAccount {
        account: String,
    },

    // Charges: see `is_bad_charge`.
    /// One of those below, where several bindings are attached.
    ChargeOf {
        binding: String,
        error: Box<Error>,
    },
    UsageOfUnknownAccount {
        workflow: String,
        account: String,
        tokens: i128,
    },
    UsageOfMovedAccount {
        workflow: String,
        account: String,
        tokens: i128,
        database: String,
    },
    /// Of which a view shows what cannot be computed.
    UnreadableUsageThere {
        relation: String,
        said: String,
    },
    /// The same of runs.
    UnreadableUsage {
        usage: String,
        relation: String,
        said: String,
    },
    NoPayer {
        workflow: String,
        tokens: i128,
    },
    SeveralPayers {
        workflow: String,
        tokens: i128,
    },
    BalanceOutOfRange {
        workflow: String,
        account: String,
        tokens: i128,
    },
    /// None where the usage names no account.
    UncountedUsage {
        workflow: String,
        account: Option<String>,
    },

    /// For an index of both.
    IdsTooLong {
        workflow: String,
        account: String,
        tokens: i128,
    },

    /// A warning of attach: the same of usage from before.
    CannotExempt {
        relation: String,
        pairs: usize,
        tokens: i128,
    },

    // Balances.
    /// By a CHECK constraint; of a charge, or of an adjustment.
    BalanceForbidden {
        workflow: Option<String>,
        account: String,
        tokens: i128,
    },
    /// A warning: the same of every charge that the balance does not cover.
    OverdraftForbidden {
        relation: String,
        column: String,
        constraints: Vec<String>,
    },
    /// Any change of a balance, not a charge alone.
    ChargeSuppressed {
        relation: String,
        account: String,
    },
    UnsupportedBalance {
        account: String,
        balance: String,
    },
    /// In a column that attach makes, for one that the ledger knows.
    NoRoomForBalance {
        account: String,
        balance: i64,
    },
    BalancesNotRestored {
        relation: String,
        missing: usize,
    },
    /// Than the ledger says.
    OtherBalances {
        relation: String,
        others: usize,
    },
    /// Where what is known of their rows is to be forgotten.
    NotEmpty {
        relations: Vec<String>,
    },
    /// A warning: of a bound table.
    Truncated {
        relation: String,
    },
    /// A warning: of rows that were deleted.
    UncountedDeletion {
        workflow: String,
        account: Option<String>,
    },
    /// A warning: what could not be charged before it was deleted.
    DeletedUncharged {
        workflow: String,
        account: Option<String>,
        tokens: String,
    },
    /// By a statement that is not the extension's, where `attach` was told to refuse it.
    OutsideChange {
        account: String,
    },

    // Credits and refunds.
    CreditOutOfRange {
        what: &'static str,
        account: String,
        amount: i128,
    },
    RefundTooLarge {
        workflow: String,
        amount: i128,
        left: i128,
        /// Where an earlier settlement of it may be.
        archives: Vec<String>,
    },
    ReferenceUsed {
        account: String,
        reference: String,
        kind: String,
        amount: i64,
    },
    RefundReferenceUsed {
        workflow: String,
        reference: String,
        amount: i128,
    },

    // Transactions.
    ConcurrentSettlement {
        workflow: String,
    },
    ConcurrentChange {
        account: String,
    },
    ConcurrentRename,
    /// A procedure that commits was called where it cannot.
    InTransaction {
        function: &'static str,
    },
    /// Events that the server has queued for triggers that `detach` would drop.
    PendingTriggers {
        relation: String,
    },

    // Calls of the trigger functions.
    TriggerProtocol {
        function: &'static str,
        wanted: &'static str,
    },
    /// On a table that is not bound.
    ForeignTrigger {
        function: &'static str,
        relation: String,
    },

    // The extension's own tables.
    /// By a role that is not their owner.
    ForeignWrite {
        relation: String,
        role: String,
    },
    LedgerAppendOnly {
        operation: &'static str,
    },

    // Archives.
    /// Not a table, or one that is not for archives.
    UnsuitableArchive {
        relation: String,
        kind: String,
        /// The table whose rows it is to take.
        of: String,
    },
    /// A table that lacks columns of what would move there.
    UnfitArchive {
        relation: String,
        detail: String,
        of: String,
    },
    /// The usage's rows are moved as their owner.
    ArchiveOfAnotherOwner {
        relation: String,
        owner: String,
        usage: String,
        usage_owner: String,
    },
    /// Which rows below a view are to leave, it does not say.
    ArchiveOfView {
        relation: String,
        detail: String,
    },
    ArchiveOfShared {
        relation: String,
        /// Of the bindings.
        names: Vec<String>,
    },
    NotAPartition {
        relation: String,
        usage: String,
    },
    PartitionUnsettled {
        relation: String,
        workflows: usize,
        /// The first of them.
        workflow: String,
    },
    NotArchiveOwner {
        relation: String,
    },
    ArchiveSuppressed {
        relation: String,
        of: String,
        missing: usize,
    },
    /// To take settlements back from.
    NotArchivedThere {
        relation: String,
        archives: Vec<String>,
    },
    /// There is none, and settlements of the binding are archived.
    SettlementArchived {
        workflow: String,
        /// Whether a workflow table or usage knows it.
        is_known: bool,
        /// The archive that was looked into.
        looked_into: Option<String>,
        /// Where else they are; an empty one is of those that are gone for good.
        archives: Vec<String>,
    },
    EntriesArchived {
        account: String,
        note: String,
    },

    // What a query answers.
    NotAnAmount {
        found: Option<String>,
    },
    AnswerTooLarge,
    Spi {
        code: String,
    },
}

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether a completion goes on with a warning when this happens (DESIGN section 4): the
    /// charge is bad, not the database.
    pub(crate) fn is_bad_charge(&self) -> bool {
        matches!(
            self,
            Error::ChargeOf { .. }
                | Error::UsageOfUnknownAccount { .. }
                | Error::UsageOfMovedAccount { .. }
                | Error::UnreadableUsage { .. }
                | Error::ViewReplaced { .. }
                | Error::NoPayer { .. }
                | Error::SeveralPayers { .. }
                | Error::BalanceOutOfRange { .. }
                | Error::BalanceForbidden { .. }
                | Error::UncountedUsage { .. }
                | Error::IdsTooLong { .. }
        )
    }

    /// Whether something has become of a bound table that keeps the binding from being used.
    pub(crate) fn is_broken_binding(&self) -> bool {
        matches!(
            self,
            Error::RelationDropped { .. }
                | Error::KeyTypeChanged { .. }
                | Error::UnsteadyView { .. }
                | Error::ViewHidesRows { .. }
                | Error::UnreadableRelation { .. }
                | Error::ViewOfOthers { .. }
                | Error::WrongRelationKind { .. }
                | Error::Distributed { .. }
                | Error::ColumnMissing { .. }
                | Error::ColumnDropped { .. }
                | Error::BalanceColumnMissing { .. }
                | Error::WrongColumnType { .. }
                | Error::UnsupportedCollation { .. }
        )
    }

    /// Whether runs complete all the same, with a warning, and wait for the sweep: what is wrong can be put right with
    /// nothing lost, and comes of changes to which no run is a party.
    pub(crate) fn lets_runs_complete(&self) -> bool {
        matches!(
            self,
            Error::KeyTypeChanged { .. }
                | Error::UnsteadyView { .. }
                | Error::ViewHidesRows { .. }
                | Error::UnreadableRelation { .. }
                | Error::ViewOfOthers { .. }
                // Where a column is to go, a migration makes the view anew.
                | Error::RelationDropped {
                    what: USAGE_VIEW,
                    ..
                }
        )
    }

    /// If it is a bad charge, one of this binding.
    pub(crate) fn of_binding(self, name: &str) -> Self {
        match self.is_bad_charge() {
            true => Error::ChargeOf {
                binding: name.to_owned(),
                error: Box::new(self),
            },
            false => self,
        }
    }

    /// Report at `level`; at ERROR this does not return.
    pub(crate) fn report(self, level: PgLogLevel) {
        ErrorReport::from(self).report(level);
    }

    /// Raise as an ERROR.
    pub(crate) fn raise(self) -> ! {
        self.report(PgLogLevel::ERROR);
        unreachable!("an ERROR does not return")
    }
}

// Hints of several errors.
const CORRECT_USAGE: &str =
    "Create the account or correct the usage, then settle the workflow again.";
const OWN_REFERENCE: &str = "Use a reference of its own for each credit and refund.";
const RETRY: &str = "The transaction might succeed if retried.";
const MAKE_ARCHIVE: &str =
    "Make one that can hold the rows: CREATE TABLE ... (LIKE ...), of the table whose rows leave.";

fn make_archive(of: &str) -> String {
    format!("Make one that can hold the rows: CREATE TABLE ... (LIKE {of}).")
}

/// The names of archives, but for the empty one of what is gone for good.
fn in_archives(archives: &[String]) -> String {
    let names = archives.iter().filter(|archive| !archive.is_empty());
    names.map(String::as_str).collect::<Vec<_>>().join(" or ")
}

/// How one of several bindings is named.
fn name_one(argument: &str, names: &[String]) -> String {
    let first = names.first().map_or("default", String::as_str);
    format!("Name one: {argument} => {}.", quote_literal(first))
}

/// An account of a workflow, or a workflow whose own account pays.
fn pair(workflow: &str, account: Option<&str>) -> String {
    match account {
        Some(account) => format!("account \"{account}\" in workflow \"{workflow}\""),
        None => format!("workflow \"{workflow}\""),
    }
}

/// The DETAIL of a bad charge.
/// The beginning of an id.
fn shortened(id: &str) -> Cow<'_, str> {
    match id.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &id[..end]).into(),
        None => id.into(),
    }
}

fn unsettled(tokens: i128) -> String {
    format!("Tokens that stay unsettled: {tokens}.")
}

/// What to do about a column of a type that cannot be bound.
fn cure_of_type(argument: &str) -> String {
    match argument {
        "" => "Change its type.".into(),
        "usage_prompt_tokens" | "usage_completion_tokens" | "usage_created_at" => {
            format!("Name another column, or none: {argument} => NULL.")
        }
        "usage_tokens" => {
            "Name another column, change its type, or have the number in a view or a \
                           generated column."
                .into()
        }
        _ => "Name another column, a generated one for instance, or change its type.".into(),
    }
}

/// What to do about a column that is not there. Some have told what it should be made of.
fn cure_of_missing(relation: &str, column: &str, argument: &str) -> String {
    let signs = ['(', ')', '=', '<', '>', ':', ',', '\'', '|', '+', '*', '/'];
    if argument == "usage_table" {
        return "Name a column that is there.".into();
    }
    if !column.contains(signs) {
        return format!("Name the column in token_balance.attach({argument} => ...).");
    }
    let column = format!(
        "Only a column can be named. Make one of what you mean: ALTER TABLE {relation} ADD COLUMN ... \
         GENERATED ALWAYS AS (...) STORED"
    );
    match argument.starts_with("usage_") {
        true => format!("{column}; or name a view as usage that has it."),
        false => format!("{column}."),
    }
}

/// One report of several faults: the code of the first, and a line for each.
fn several(faults: &[Report]) -> Report {
    let lines = |of: fn(&Report) -> Option<String>| {
        let lines = faults.iter().zip(1..);
        let lines = lines.filter_map(|(fault, n)| of(fault).map(|line| format!("{n}. {line}")));
        lines.collect::<Vec<_>>().join("\n")
    };
    let code = faults.first().map(|fault| fault.code);
    new_report(
        code.unwrap_or(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE),
        format!("token_balance cannot be attached: {} faults", faults.len()),
    )
    .set_detail(lines(|fault| {
        let detail = fault.shown.detail().unwrap_or_default();
        Some(
            format!("{}. {detail}", fault.shown.message())
                .trim_end()
                .to_owned(),
        )
    }))
    .set_hint(lines(|fault| fault.shown.hint().map(str::to_owned)))
}

impl From<Error> for ErrorReport {
    fn from(error: Error) -> Self {
        Report::from(error).shown
    }
}

/// What a client sees of an error. pgrx does not tell the code of its own.
struct Report {
    code: PgSqlErrorCode,
    shown: ErrorReport,
}

impl Report {
    fn set_detail(self, detail: impl Into<String>) -> Self {
        let shown = self.shown.set_detail(detail);
        Report { shown, ..self }
    }

    fn set_hint(self, hint: impl Into<String>) -> Self {
        let shown = self.shown.set_hint(hint);
        Report { shown, ..self }
    }
}

/// What a client sees of each error.
impl From<Error> for Report {
    fn from(error: Error) -> Self {
        use PgSqlErrorCode::*;
        match error {
            // Arguments.
            Error::NullArgument { function, argument } => new_report(
                ERRCODE_NULL_VALUE_NOT_ALLOWED,
                format!("{argument} of {function} must not be null"),
            ),
            Error::NullInside { function, argument } => new_report(
                ERRCODE_NULL_VALUE_NOT_ALLOWED,
                format!("{argument} of {function} must not contain nulls"),
            ),
            Error::InvalidArgument {
                message,
                detail,
                hint,
            } => {
                let report = new_report(ERRCODE_INVALID_PARAMETER_VALUE, message);
                let report = detail.into_iter().fold(report, Report::set_detail);
                hint.into_iter().fold(report, Report::set_hint)
            }
            Error::TokensOutOfRange { argument, amount } => new_report(
                ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
                format!("{argument} {amount} is out of range for type bigint"),
            ),

            Error::SeveralFaults(faults) => {
                let faults: Vec<_> = faults.into_iter().map(Self::from).collect();
                several(&faults)
            }

            // Whether tables are bound.
            Error::KeyTypeChanged {
                relation,
                column,
                type_name,
            } => new_report(
                ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("key type changed: column \"{column}\" of table {relation} is of type {type_name} now"),
            )
            .set_detail(
                "What was settled is known by ids that may be spelled otherwise. Nothing is settled until they \
                 are written anew, or it would be charged twice.",
            )
            .set_hint("Call token_balance.attach_again(), then token_balance.settle_pending()."),
            Error::UnsteadyView {
                relation,
                functions,
            } => new_report(
                ERRCODE_INVALID_OBJECT_DEFINITION,
                format!("view {relation} may show other tokens for the same rows"),
            )
            .set_detail(format!("It uses {}.", functions.join(", ")))
            .set_hint(
                "Use what depends on the rows alone: immutable functions and conversions (|| of texts in place of concat(), \
                 AT TIME ZONE 'UTC' in place of the session's).",
            ),
            Error::ViewHidesRows {
                relation,
                table,
                role,
            } => new_report(
                ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("policies would hide rows of {table} from view {relation}"),
            )
            .set_detail(format!(
                "The view reads the table with the rights of {role}. Usage that is hidden would count as none."
            ))
            .set_hint(format!(
                "Let the view's owner be the owner of {table}, or a role with BYPASSRLS."
            )),
            Error::ViewOfOthers {
                relation,
                owner,
                users_owner,
            } => new_report(
                ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("view {relation} belongs to {owner}, who has not the rights of {users_owner}"),
            )
            .set_detail(format!(
                "Its functions would run with the rights of {users_owner}, the owner of the users table."
            ))
            .set_hint(format!("ALTER VIEW {relation} OWNER TO {users_owner}.")),
            Error::ViewReplaced { relation } => new_report(
                ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("view {relation} was replaced since it was attached"),
            )
            .set_detail(
                "What it shows of runs that were settled may be other tokens: each difference would be charged, or \
                 count as taken away.",
            )
            .set_hint(
                "Call token_balance.attach_again(): it says what would be charged. Then call \
                 token_balance.settle_pending().",
            ),
            Error::OlderCatalog => new_report(
                ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "the extension token_balance is not updated yet",
            )
            .set_hint("Call ALTER EXTENSION token_balance UPDATE."),
            Error::UnknownBinding { name, names } => new_report(
                ERRCODE_UNDEFINED_OBJECT,
                format!("no binding is attached by the name \"{name}\""),
            )
            .set_detail(format!("Attached: {}.", names.join(", ")))
            .set_hint("SELECT name FROM token_balance.binding WHERE detached_at IS NULL has the names."),
            Error::BindingOfOthers { name, role } => new_report(
                ERRCODE_INSUFFICIENT_PRIVILEGE,
                match &name {
                    Some(name) => format!("permission denied for binding \"{name}\""),
                    None => "permission denied for all bindings".into(),
                },
            )
            .set_detail(format!(
                "Bindings of several owners are attached, and role \"{role}\" may not read the users table of {}.",
                if name.is_some() { "this one" } else { "any of them" }
            ))
            .set_hint("The owner of the users table may grant SELECT on it."),
            Error::SeveralBindings { names, argument } => new_report(
                ERRCODE_INVALID_PARAMETER_VALUE,
                "several bindings are attached, and none is named",
            )
            .set_detail(format!("Attached: {}.", names.join(", ")))
            .set_hint(name_one(argument, &names)),
            Error::SeveralPaid { workflow, names } => new_report(
                ERRCODE_INVALID_PARAMETER_VALUE,
                format!("several bindings have charged workflow \"{workflow}\", and none is named"),
            )
            .set_detail(format!(
                "Charged: {}. Leave the amount out to give back in each what is left.",
                names.join(", ")
            ))
            .set_hint(name_one("binding", &names)),
            Error::CannotStandBeside {
                message,
                detail,
                hint,
            } => new_report(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .set_detail(detail)
                .set_hint(hint),
            Error::TooManyBindings => new_report(
                ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                "there are too many bindings",
            )
            .set_detail("Their numbers end at 32767."),
            Error::MadeAnew {
                what,
                relation,
                argument,
                detail,
            } => new_report(
                ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("{what} {relation} was made anew, and may have other ids than before"),
            )
            .set_detail(detail)
            .set_hint(format!(
                "Call attach with {argument} => 'same' if the ids mean what they meant, and it goes on where \
                 it was; with {argument} => 'new' if they do not."
            )),
            Error::InheritanceChildren { relation, child } => new_report(
                ERRCODE_FEATURE_NOT_SUPPORTED,
                format!("table {relation} has inheritance children, which cannot be bound"),
            )
            .set_detail(format!(
                "Rows of {child} are read with it, and its triggers do not fire for them."
            ))
            .set_hint("Use partitions, or tables without children."),
            Error::NothingMatches {
                usage,
                workflows,
                ids,
            } => new_report(
                ERRCODE_WARNING,
                format!("none of the newest {ids} ids in {usage} is in {workflows}"),
            )
            .set_detail("If these are the wrong columns, no completion charges anything.")
            .set_hint("Compare the two. SELECT * FROM token_balance.usage_state() says what waits."),
            Error::OtherIds {
                column,
                known,
                detach,
            } => new_report(
                ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("none of the {known} ids of {column} that are known is there any more"),
            )
            .set_detail(
                "Its type was changed since, and the ids with it: what was exempt or paid would be charged again under the new \
                 ones.",
            )
            .set_hint(format!(
                "Take the change back. Ids are changed by an UPDATE while the binding is attached; so the type first, the ids \
                 then. Or call {detach}, and attach with usage_ids => 'new', which exempts all usage that is there; with \
                 usage_ids => 'same' all of it is due again."
            )),
            Error::LeavesPartition {
                relation,
                account,
                new,
            } => new_report(
                ERRCODE_FEATURE_NOT_SUPPORTED,
                format!(
                    "account \"{account}\" cannot get id \"{new}\", which takes its row from {relation} to another partition"
                ),
            )
            .set_detail(
                "Such a row is deleted and inserted: what was charged and paid would stay under the old id, and be charged \
                 again.",
            )
            .set_hint("Give it an id that is of the same partition."),
            Error::NothingCounted {
                usage,
                tokens,
                rows,
                detach,
            } => new_report(
                ERRCODE_WARNING,
                format!("none of the newest {rows} rows of {usage} has tokens in {tokens}"),
            )
            .set_detail("NULL counts as 0, and what is not above 0 charges nothing.")
            .set_hint(format!(
                "If they are in other columns, call {detach}, and attach with those as usage_tokens. Its NOTICE says what is \
                 due then: settle_pending() charges it, exempt_pending() forgives it."
            )),
            Error::WouldForgive {
                relation,
                pairs,
                tokens,
            } => new_report(
                ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("existing_usage => 'exempt' would forgive usage of {relation}"),
            )
            .set_detail(format!(
                "It was attached before. {tokens} tokens of {pairs} pairs of workflow and account wait to be charged."
            ))
            .set_hint(
                "Leave existing_usage out: it decides when usage is attached for the first time. \
                 To forgive what waits, call token_balance.exempt_pending() once it is attached.",
            ),
            Error::NotAttached => new_report(
                ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "token_balance is not attached to any tables",
            )
            .set_hint("SELECT token_balance.suggest(); proposes calls of token_balance.attach(users => ..., usage => ...)."),
            Error::AlreadyAttached {
                name,
                detail,
                is_same_usage,
                could_stand_beside,
            } => {
                let detach = match name.as_str() {
                    "default" => "Call token_balance.detach() first".to_owned(),
                    name => format!("Call token_balance.detach(name => {}) first", quote_literal(name)),
                };
                new_report(
                    ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                    match name.as_str() {
                        "default" => "token_balance is already attached".into(),
                        name => format!("token_balance is already attached by the name \"{name}\""),
                    },
                )
                .set_detail(detail)
                .set_hint(match (is_same_usage, could_stand_beside) {
                    (true, false) => format!("{detach}, then attach: it goes on where it was."),
                    (true, true) => format!(
                        "{detach}, then attach: it goes on where it was. Or attach it beside that one, with a \
                         name of its own: name => '...'."
                    ),
                    (false, true) => format!(
                        "{detach}; or attach it beside that one, with a name of its own: name => '...'."
                    ),
                    (false, false) => format!("{detach}."),
                })
            }

            // What is bound, or is to be.
            Error::RelationDropped {
                what,
                name,
                is_name_taken,
                hint,
            } => new_report(
                ERRCODE_UNDEFINED_TABLE,
                format!("{what} {name} does not exist"),
            )
            .set_detail(if is_name_taken {
                "It was dropped, and another table has its name now."
            } else {
                "It was dropped."
            })
            .set_hint(hint),
            Error::BalanceColumnMissing {
                relation,
                column,
                attach,
            } => new_report(
                ERRCODE_UNDEFINED_COLUMN,
                format!("the balance column of {relation} is gone"),
            )
            .set_detail(format!(
                "Column \"{column}\" was dropped or renamed. The ledger has the balances."
            ))
            .set_hint(format!(
                "Call {attach}: it makes the column and takes the balances from the ledger."
            )),
            Error::RelationMissing { what, name } => {
                let report = new_report(
                    ERRCODE_UNDEFINED_TABLE,
                    format!("{what} {name} does not exist"),
                );
                match what {
                    "archive" => report.set_hint(MAKE_ARCHIVE),
                    _ => report,
                }
            }
            Error::SchemaMissing { schema } => new_report(
                ERRCODE_INVALID_SCHEMA_NAME,
                format!("schema \"{schema}\" does not exist"),
            ),
            Error::WrongRelationKind { name, kind } => new_report(
                ERRCODE_WRONG_OBJECT_TYPE,
                format!("cannot attach token_balance to {kind} {name}"),
            )
            .set_hint("Name an ordinary or a partitioned table; as usage, also a view of such tables."),
            Error::Distributed { relation } => new_report(
                ERRCODE_FEATURE_NOT_SUPPORTED,
                format!("table {relation} is distributed by Citus"),
            )
            .set_detail(
                "Its rows are in shards, which are not seen where a settlement looks for them.",
            )
            .set_hint(
                "Undistribute the table, or bind the tables of a database that is not distributed.",
            ),
            Error::ColumnMissing {
                relation,
                column,
                argument,
            } => new_report(
                ERRCODE_UNDEFINED_COLUMN,
                format!("column \"{column}\" of table {relation} does not exist"),
            )
            .set_detail(format!("It was named by the argument {argument}."))
            .set_hint(cure_of_missing(&relation, &column, argument)),
            Error::ColumnDropped {
                relation,
                column,
                argument,
                is_name_taken,
                hint,
            } => new_report(
                ERRCODE_UNDEFINED_COLUMN,
                format!("column \"{column}\" of table {relation} does not exist"),
            )
            .set_detail(format!(
                "It was named by the argument {argument}. It was dropped{}.",
                match is_name_taken {
                    true => ", and another column has its name now",
                    false => "",
                }
            ))
            .set_hint(hint),
            Error::WrongColumnType {
                relation,
                column,
                type_name,
                argument,
                wanted,
            } => {
                let named = match argument {
                    "" => String::new(),
                    _ => format!("It was named by the argument {argument}. "),
                };
                new_report(
                    ERRCODE_DATATYPE_MISMATCH,
                    format!("column \"{column}\" of table {relation} is of type {type_name}"),
                )
                .set_detail(format!("{named}Supported are: {wanted}."))
                .set_hint(cure_of_type(argument))
            }
            Error::UnsupportedCollation {
                relation,
                column,
                collation,
            } => new_report(
                ERRCODE_FEATURE_NOT_SUPPORTED,
                format!("column \"{column}\" of table {relation} has a nondeterministic collation"),
            )
            .set_detail(format!("Its collation is {collation}."))
            .set_hint("Give the column a deterministic collation."),
            Error::GeneratedColumn { relation, column } => new_report(
                ERRCODE_INVALID_COLUMN_DEFINITION,
                format!("column \"{column}\" of table {relation} is a generated column"),
            )
            .set_hint("The balance must be a plain column: drop or rename it."),
            Error::NoUniqueKey { relation, column } => new_report(
                ERRCODE_INVALID_FOREIGN_KEY,
                format!("column \"{column}\" of table {relation} is not unique"),
            )
            .set_hint(
                "Add a primary key or a unique constraint on that column alone, not deferrable.",
            ),
            Error::NotOwner { relation } => new_report(
                ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("must be owner of table {relation}"),
            )
            .set_hint("Attach and detach as a superuser or as the owner of all bound tables."),
            Error::UnreadableRelation {
                relation,
                role,
                is_whole: false,
            } => new_report(
                ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("role \"{role}\" cannot read all rows of table {relation}"),
            )
            .set_detail("Its policies hide rows from a role that is not its owner.")
            .set_hint("Give all bound tables one owner, or that role BYPASSRLS."),
            Error::UnreadableRelation { relation, role, .. } => new_report(
                ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("role \"{role}\" cannot read table {relation}"),
            )
            .set_hint(
                "Give all bound tables one owner, or grant USAGE on the schema and SELECT on the \
                 table to that role.",
            ),

            Error::TableInUse {
                relation,
                limit,
                in_the_way,
            } => new_report(
                ERRCODE_LOCK_NOT_AVAILABLE,
                format!("could not lock table {relation} within {} ms", limit.as_millis()),
            )
            .set_detail(match in_the_way.is_empty() {
                true => "Others used it again and again.".into(),
                false => format!("In the way: {}.", in_the_way.join(", ")),
            })
            .set_hint(format!(
                "Nobody waited behind it, and nothing was changed. Call it again when these transactions \
                 have ended, or end them with pg_terminate_backend(){}.",
                match in_the_way.iter().any(|it| it == PREPARED_TRANSACTION) {
                    true => "; one that is prepared with COMMIT PREPARED or ROLLBACK PREPARED (pg_prepared_xacts has its gid)",
                    false => "",
                }
            )),

            // Ids that a caller names.
            Error::UnknownWorkflow { workflow } => new_report(
                ERRCODE_NO_DATA_FOUND,
                format!("workflow \"{workflow}\" does not exist"),
            )
            .set_hint("Neither the workflow table nor the usage has this id."),
            Error::UnknownAccount { account } => new_report(
                ERRCODE_NO_DATA_FOUND,
                format!("account \"{account}\" does not exist"),
            ),

            Error::AccountMoved { account, database } => new_report(
                ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("account \"{account}\" has moved to database \"{database}\""),
            )
            .set_detail("Its balance, its ledger and what was settled of its runs are there.")
            .set_hint("Do that there."),
            Error::UnknownMove { account, token } => new_report(
                ERRCODE_NO_DATA_FOUND,
                format!("account \"{account}\" has not left this database with token {token}"),
            ),
            Error::CannotMove {
                message,
                detail,
                hint,
            } => {
                let report = new_report(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message);
                let report = detail.into_iter().fold(report, Report::set_detail);
                hint.into_iter().fold(report, Report::set_hint)
            }

            // Charges: see `is_bad_charge`.
            Error::ChargeOf { binding, error } => {
                let report = Report::from(*error);
                let detail = report.shown.detail().unwrap_or_default().to_owned();
                report.set_detail(format!("{detail} Binding: \"{binding}\".").trim_start())
            }
            Error::UsageOfUnknownAccount {
                workflow,
                account,
                tokens,
            } => new_report(
                ERRCODE_FOREIGN_KEY_VIOLATION,
                format!(
                    "usage of workflow \"{workflow}\" names account \"{account}\", \
                     which does not exist"
                ),
            )
            .set_detail(unsettled(tokens))
            .set_hint(CORRECT_USAGE),
            Error::UsageOfMovedAccount {
                workflow,
                account,
                tokens,
                database,
            } => new_report(
                ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!(
                    "usage of workflow \"{workflow}\" is of account \"{account}\", which has moved to database \
                     \"{database}\""
                ),
            )
            .set_detail(unsettled(tokens))
            .set_hint(
                "Carry the usage over to that database, which knows what of it is settled, and delete it here. \
                 token_balance.unsettled lists what is still to be carried over.",
            ),
            Error::UnreadableUsage {
                usage,
                relation,
                said,
            } => new_report(
                ERRCODE_DATA_EXCEPTION,
                format!("{usage} cannot be read from {relation}"),
            )
            .set_detail(format!("The server says: {said}. All of it stays unsettled."))
            .set_hint(
                "Put the row or the expression right, then call token_balance.settle_pending(), which names each run \
                 that it cannot read.",
            ),
            Error::UnreadableUsageThere { relation, said } => new_report(
                ERRCODE_DATA_EXCEPTION,
                format!("usage that is there cannot be read from {relation}"),
            )
            .set_detail(format!("The server says: {said}. Nothing was changed."))
            .set_hint(
                "Put the row right, or have the expression give NULL for what it cannot read, and call this again.",
            ),
            Error::NoPayer { workflow, tokens } => new_report(
                ERRCODE_FOREIGN_KEY_VIOLATION,
                format!("workflow \"{workflow}\" has usage but no account that pays for it"),
            )
            .set_detail(unsettled(tokens))
            .set_hint(CORRECT_USAGE),
            Error::SeveralPayers { workflow, tokens } => new_report(
                ERRCODE_CARDINALITY_VIOLATION,
                format!(
                    "workflow \"{workflow}\" has usage and several accounts that could pay for it"
                ),
            )
            .set_detail(unsettled(tokens))
            .set_hint(
                "Only a completion says which of the accounts pays: complete one of the runs, or \
                 give the usage an account column.",
            ),
            Error::BalanceForbidden {
                workflow,
                account,
                tokens,
            } => {
                let what = match &workflow {
                    Some(workflow) => format!("charge of workflow \"{workflow}\""),
                    None => "an adjustment".into(),
                };
                let report = new_report(
                    ERRCODE_CHECK_VIOLATION,
                    format!("{what} is refused by a CHECK constraint on the balance of account \"{account}\""),
                );
                match workflow {
                    Some(_) => report.set_detail(unsettled(tokens)).set_hint(
                        "Allow an overdraft: drop the constraint. Then settle the workflow again.",
                    ),
                    None => report.set_detail(format!("Tokens: {tokens}.")),
                }
            }
            Error::OverdraftForbidden {
                relation,
                column,
                constraints,
            } => new_report(
                ERRCODE_CHECK_VIOLATION,
                format!(
                    "column \"{column}\" of {relation} cannot be below zero, by its CHECK constraints: {}",
                    constraints.join(", ")
                ),
            )
            .set_detail("A run that costs more than its account has completes, and its charge waits.")
            .set_hint("Drop the constraint, so that the run is charged and the account overdrawn."),
            Error::BalanceOutOfRange {
                workflow,
                account,
                tokens,
            } => new_report(
                ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
                format!(
                    "charge of workflow \"{workflow}\" is out of range for the balance of \
                     account \"{account}\""
                ),
            )
            .set_detail(unsettled(tokens))
            .set_hint(
                "Give the balance column the type bigint, if it has another one, then settle the workflow again.",
            ),
            Error::UncountedUsage { workflow, account } => new_report(
                ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
                match account {
                    Some(account) => format!(
                        "tokens of account \"{account}\" in workflow \"{workflow}\" cannot be counted"
                    ),
                    None => format!("tokens of workflow \"{workflow}\" cannot be counted"),
                },
            )
            .set_detail(
                "A usage row of it has NaN, an infinity or a number out of range for type bigint. Until it is \
                 corrected, nothing is charged.",
            )
            .set_hint("Correct the usage, then settle the workflow again."),
            Error::IdsTooLong {
                workflow,
                account,
                tokens,
            } => new_report(
                ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                format!(
                    "the ids of workflow \"{}\" and account \"{}\" are too long",
                    shortened(&workflow),
                    shortened(&account)
                ),
            )
            .set_detail(format!(
                "Together they have {} bytes; some 2,600 are recorded, or more that compress to as many. {}",
                workflow.len() + account.len(),
                unsettled(tokens)
            ))
            .set_hint("Give the workflow a shorter id, then settle it."),
            Error::CannotExempt {
                relation,
                pairs,
                tokens,
            } => new_report(
                ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                format!("usage of {relation} from before is not exempt where ids are too long to be recorded"),
            )
            .set_detail(format!(
                "{tokens} tokens of {pairs} pairs of workflow and account wait: they cannot be charged either."
            ))
            .set_hint("SELECT * FROM token_balance.unsettled lists them."),

            // Balances.
            Error::ChargeSuppressed { relation, account } => new_report(
                ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION,
                format!("the balance of account \"{account}\" in {relation} was not updated"),
            )
            .set_hint("A trigger, rule or policy on the table suppressed the update."),
            Error::UnsupportedBalance { account, balance } => new_report(
                ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
                format!(
                    "balance of account \"{account}\" is not a whole number of tokens within bigint"
                ),
            )
            .set_detail(format!("Its balance is {balance}."))
            .set_hint("Set a whole number of tokens."),
            Error::NoRoomForBalance { account, balance } => new_report(
                ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
                format!(
                    "the balance of account \"{account}\", which is {balance} by the ledger, is out of \
                     range for the balance column"
                ),
            )
            .set_hint(
                "Use balance_type => 'bigint', or give a column that is there a wider type. Nothing \
                 was changed.",
            ),
            Error::BalancesNotRestored { relation, missing } => new_report(
                ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION,
                format!("{missing} balances of {relation} were not taken from the ledger"),
            )
            .set_hint("A trigger, rule or policy on the table suppressed or changed the update."),
            Error::OtherBalances { relation, others } => new_report(
                ERRCODE_WARNING,
                format!("{others} balances of {relation} are not what the ledger says"),
            )
            .set_detail("The column may have been dropped and made anew. Nothing was changed.")
            .set_hint(format!(
                "token_balance.reconcile() lists them. To take all balances from the ledger, drop the \
                 column (ALTER TABLE {relation} DROP COLUMN token_balance CASCADE) and call \
                 token_balance.attach() again."
            )),
            Error::NotEmpty { relations } => new_report(
                ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "what is known cannot be forgotten while there are rows",
            )
            .set_detail(format!("Not empty: {}.", relations.join(", ")))
            .set_hint(
                "token_balance.reset() is for tables that are empty: TRUNCATE users and usage in the \
                 transaction that calls it.",
            ),
            Error::Truncated { relation } => new_report(
                ERRCODE_WARNING,
                format!("token_balance knows what was settled before the TRUNCATE of {relation}"),
            )
            .set_detail(
                "A workflow id that is used again counts as settled, an account id goes on with its \
                 ledger, and a reference with its credit.",
            )
            .set_hint("Where users and usage are empty, token_balance.reset() forgets it."),
            Error::UncountedDeletion { workflow, account } => new_report(
                ERRCODE_WARNING,
                format!(
                    "what was deleted of {} is not recorded",
                    pair(&workflow, account.as_deref())
                ),
            )
            .set_detail(
                "A row of it had NaN, an infinity or a number out of range for type bigint.",
            )
            .set_hint("If some of it was settled, token_balance.reconcile() tells what shrank."),
            Error::DeletedUncharged {
                workflow,
                account,
                tokens,
            } => new_report(
                ERRCODE_WARNING,
                format!(
                    "{tokens} tokens of {} were deleted and are not charged",
                    pair(&workflow, account.as_deref())
                ),
            )
            .set_detail("They could not be charged before, as another warning says.")
            .set_hint("Where they are to be charged, roll back, and put right what that one says."),
            // Not 42501: it is no matter of rights, a superuser's statement is refused as well.
            Error::OutsideChange { account } => new_report(
                ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("the balance of account \"{account}\" is changed by token_balance alone"),
            )
            .set_detail("The tables are attached with outside_changes => 'refuse'.")
            .set_hint(
                "Leave the column out of the UPDATE. To change a balance, call \
                 token_balance.adjust(user_id, amount, note) or token_balance.credit().",
            ),

            // Credits and refunds.
            Error::CreditOutOfRange {
                what,
                account,
                amount,
            } => new_report(
                ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
                format!(
                    "{what} of {amount} tokens is out of range for the balance of \
                     account \"{account}\""
                ),
            )
            .set_hint(
                "Give the balance column the type bigint, if it has another one.",
            ),
            Error::RefundTooLarge {
                workflow,
                amount,
                left,
                archives,
            } => {
                let report = new_report(
                    ERRCODE_INVALID_PARAMETER_VALUE,
                    format!(
                        "a refund of {amount} tokens is more than workflow \"{workflow}\" was charged"
                    ),
                );
                let detail = format!("Tokens that were charged and not refunded yet: {left}.");
                match &archives[..] {
                    [] => report.set_detail(detail).set_hint(
                        "Refund less, or leave the amount out to refund what is left.",
                    ),
                    [first, ..] => report
                        .set_detail(format!(
                            "{detail} What it was charged before may be in {}.",
                            archives.join(", ")
                        ))
                        .set_hint(format!(
                            "Refund less, or name the archive: archive => '{first}'."
                        )),
                }
            }
            Error::ReferenceUsed {
                account,
                reference,
                kind,
                amount,
            } => new_report(
                ERRCODE_UNIQUE_VIOLATION,
                format!("reference \"{reference}\" of account \"{account}\" is already used"),
            )
            .set_detail(format!("It belongs to a {kind} of {amount} tokens."))
            .set_hint(OWN_REFERENCE),
            Error::RefundReferenceUsed {
                workflow,
                reference,
                amount,
            } => new_report(
                ERRCODE_UNIQUE_VIOLATION,
                format!("reference \"{reference}\" of workflow \"{workflow}\" is already used"),
            )
            .set_detail(format!("It belongs to a refund of {amount} tokens."))
            .set_hint(OWN_REFERENCE),

            // Transactions.
            Error::ConcurrentSettlement { workflow } => new_report(
                ERRCODE_T_R_SERIALIZATION_FAILURE,
                format!(
                    "could not serialize access to workflow \"{workflow}\" due to concurrent \
                     settlement"
                ),
            )
            .set_hint(RETRY),
            Error::ConcurrentChange { account } => new_report(
                ERRCODE_T_R_SERIALIZATION_FAILURE,
                format!(
                    "could not serialize access to account \"{account}\" due to concurrent change"
                ),
            )
            .set_hint(RETRY),
            Error::ConcurrentRename => new_report(
                ERRCODE_T_R_SERIALIZATION_FAILURE,
                "could not serialize access due to concurrent rename of a bound table",
            )
            .set_hint(RETRY),
            Error::InTransaction { function } => new_report(
                ERRCODE_INVALID_TRANSACTION_TERMINATION,
                format!("{function} cannot be called inside a transaction"),
            ),
            Error::PendingTriggers { relation } => new_report(
                ERRCODE_OBJECT_IN_USE,
                format!("table {relation} has deferred triggers that have not fired yet"),
            )
            .set_hint("Commit, or SET CONSTRAINTS ALL IMMEDIATE, and call it again."),

            // Calls of the trigger functions.
            Error::TriggerProtocol { function, wanted } => new_report(
                ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                format!("function {function} was not called by the right kind of trigger"),
            )
            .set_detail(format!("It must be fired {wanted}.")),
            Error::ForeignTrigger { function, relation } => new_report(
                ERRCODE_WRONG_OBJECT_TYPE,
                format!("function {function} cannot be used on table {relation}"),
            )
            .set_detail("The table is not the one that token_balance is attached to.")
            .set_hint("Drop the trigger."),

            // The extension's own tables.
            Error::ForeignWrite { relation, role } => new_report(
                ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("role \"{role}\" cannot write table {relation}"),
            )
            .set_hint(
                "The extension writes it: call its functions, such as token_balance.credit().",
            ),
            Error::LedgerAppendOnly { operation } => new_report(
                ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("{operation} is not allowed on token_balance.ledger"),
            )
            .set_detail("The ledger is append-only.")
            .set_hint(
                "Correct a balance with a new change: the correction gets an entry of its own.",
            ),

            // Archives.
            Error::UnsuitableArchive { relation, kind, of } => new_report(
                ERRCODE_WRONG_OBJECT_TYPE,
                format!("cannot archive rows of {of} in {kind} {relation}"),
            )
            .set_hint(make_archive(&of)),
            Error::UnfitArchive {
                relation,
                detail,
                of,
            } => new_report(
                ERRCODE_INVALID_TABLE_DEFINITION,
                format!("table {relation} cannot hold rows of {of}"),
            )
            .set_detail(detail)
            .set_hint(make_archive(&of)),
            Error::ArchiveOfAnotherOwner {
                relation,
                owner,
                usage,
                usage_owner,
            } => new_report(
                ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("cannot archive rows of {usage} in a table of another owner"),
            )
            .set_detail(format!(
                "{relation} is owned by role \"{owner}\", {usage} by role \"{usage_owner}\"."
            ))
            .set_hint(format!(
                "ALTER TABLE {relation} OWNER TO {};",
                pgrx::spi::quote_identifier(&usage_owner)
            )),
            Error::ArchiveOfShared { relation, names } => new_report(
                ERRCODE_FEATURE_NOT_SUPPORTED,
                format!("cannot archive usage of {relation}, which is that of several bindings"),
            )
            .set_detail(format!("Attached are: {}.", names.join(", ")))
            .set_hint(
                "Delete old rows of workflows that are settled in all of them, then call \
                 token_balance.accept_deletions() for each; or attach with deleted_usage => 'record' \
                 and delete them.",
            ),
            Error::NotAPartition { relation, usage } => new_report(
                ERRCODE_WRONG_OBJECT_TYPE,
                format!("{relation} is not a partition of the usage in {usage}"),
            ),
            Error::PartitionUnsettled {
                relation,
                workflows,
                workflow,
            } => new_report(
                ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("usage in {relation} is not settled"),
            )
            .set_detail(format!(
                "It is of {workflows} workflows, the first of them is \"{workflow}\"."
            ))
            .set_hint(
                "token_balance.unsettled_usage() says why: settle_pending() charges completed runs, \
                 settle_workflow() an open one, exempt_pending() forgives what waits. What is missing of usage that \
                 was charged, accept_deletions() accepts and correct_workflow() gives back.",
            ),
            Error::ArchiveOfView { relation, detail } => new_report(
                ERRCODE_FEATURE_NOT_SUPPORTED,
                format!("cannot archive usage of the view {relation}"),
            )
            .set_detail(detail)
            .set_hint(
                "Name the table, with its column that the view shows: usage_table => 'app.messages(id AS message_id)'. \
                 Otherwise delete old rows of workflows that are settled, then call \
                 token_balance.accept_deletions().",
            ),
            Error::NotArchiveOwner { relation } => new_report(
                ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("must be owner of table {relation}"),
            )
            .set_hint("Archive as a superuser or as the owner of the archive's table."),
            Error::ArchiveSuppressed {
                relation,
                of,
                missing,
            } => new_report(
                ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION,
                format!("rows of {of} were not moved: {relation} kept them back"),
            )
            .set_detail(format!("Rows that were kept back: {missing}."))
            .set_hint("A trigger, rule or policy on the table suppressed the change."),
            Error::NotArchivedThere { relation, archives } => new_report(
                ERRCODE_INVALID_PARAMETER_VALUE,
                format!("no settlements of the binding were archived in table {relation}"),
            )
            .set_detail(match &in_archives(&archives)[..] {
                "" => "None of it are in an archive.".to_owned(),
                names => format!("They are in {names}."),
            })
            .set_hint("A superuser may name another table: one that was renamed, or brought back."),
            Error::SettlementArchived {
                workflow,
                is_known,
                looked_into,
                archives,
            } => {
                let code = match is_known {
                    true => ERRCODE_INVALID_PARAMETER_VALUE,
                    false => ERRCODE_NO_DATA_FOUND,
                };
                let report = new_report(
                    code,
                    format!("workflow \"{workflow}\" has no settlement that could be refunded"),
                );
                let mut detail: Vec<_> = looked_into
                    .map(|archive| format!("None is in {archive}."))
                    .into_iter()
                    .collect();
                let is_gone = archives.iter().any(String::is_empty);
                let may_be = match (&in_archives(&archives)[..], is_gone) {
                    ("", true) => "gone for good".to_owned(),
                    (names, true) => format!("in {names}, or gone for good"),
                    (names, false) => format!("in {names}"),
                };
                if !archives.is_empty() {
                    detail.push(format!("It may be {may_be}."));
                }
                let report = report.set_detail(detail.join(" "));
                match archives.iter().find(|archive| !archive.is_empty()) {
                    Some(first) => report.set_hint(format!(
                        "token_balance.refund_workflow(..., archive => {}) brings it back from there.",
                        quote_literal(first)
                    )),
                    None => report.set_hint(
                        "Give back what it has paid with token_balance.credit().",
                    ),
                }
            }
            Error::EntriesArchived { account, note } => new_report(
                ERRCODE_INVALID_PARAMETER_VALUE,
                format!("the ledger of account \"{account}\" does not reach back to that time"),
            )
            .set_detail(format!("Its opening entry says: {note}."))
            .set_hint("Ask for a later time, or read the archive."),

            // What a query answers.
            Error::NotAnAmount { found } => new_report(
                ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "a number of tokens could not be read",
            )
            .set_detail(match found {
                Some(found) => format!("Found was: {found}."),
                None => "Found was a null.".into(),
            })
            .set_hint(
                "SELECT * FROM token_balance.verify() says whether a bound column has another \
                 type now.",
            ),
            Error::AnswerTooLarge => new_report(
                ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                "the answer is too large for jsonb",
            ),
            Error::Spi { code } => new_report(
                ERRCODE_SYSTEM_ERROR,
                format!("unexpected result of an internal query: {code}"),
            ),
        }
    }
}

/// Its LOCATION is the line of the caller, which is where the error's text is.
#[track_caller]
fn new_report(code: PgSqlErrorCode, message: impl Into<Cow<'static, str>>) -> Report {
    let shown = ErrorReport::new(code, message, pgrx::function_name!());
    Report { code, shown }
}
