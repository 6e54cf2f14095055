//! Every error that the extension raises, with its SQLSTATE, DETAIL and HINT in one place.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};

/// What can go wrong. The SQLSTATE of each variant is in [`Error::code`].
#[derive(Debug, Clone)]
pub(crate) enum Error {
    NullArgument {
        function: &'static str,
        argument: &'static str,
    },
    NullInside {
        function: &'static str,
        argument: &'static str,
    },
    InvalidArgument {
        message: String,
        detail: Option<String>,
        hint: Option<String>,
    },
    NotAttached,
    AlreadyAttached {
        detail: String,
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
    ColumnMissing {
        relation: String,
        column: String,
        argument: &'static str,
    },
    WrongColumnType {
        relation: String,
        column: String,
        type_name: String,
        wanted: &'static str,
    },
    UnsupportedCollation {
        relation: String,
        column: String,
        collation: String,
    },
    Distributed {
        relation: String,
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
    ForeignWrite {
        relation: String,
        role: String,
    },
    UnreadableRelation {
        relation: String,
        role: String,
    },
    UnknownWorkflow {
        workflow: String,
    },
    UnknownAccount {
        account: String,
    },
    UsageOfUnknownAccount {
        workflow: String,
        account: String,
        tokens: i128,
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
    ChargeSuppressed {
        relation: String,
        account: String,
    },
    UnsupportedBalance {
        account: String,
        balance: String,
    },
    NotAnAmount {
        found: Option<String>,
    },
    TokensOutOfRange {
        argument: &'static str,
        amount: String,
    },
    InTransaction {
        function: &'static str,
    },
    PendingTriggers {
        relation: String,
    },
    CreditOutOfRange {
        account: String,
        amount: i64,
    },
    RefundTooLarge {
        workflow: String,
        amount: i128,
        left: i128,
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
    ConcurrentSettlement {
        workflow: String,
    },
    ConcurrentChange {
        account: String,
    },
    ConcurrentRename,
    TriggerProtocol {
        function: &'static str,
        wanted: &'static str,
    },
    ForeignTrigger {
        function: &'static str,
        relation: String,
    },
    LedgerAppendOnly {
        operation: &'static str,
    },
    UnsuitableArchive {
        relation: String,
        kind: String,
    },
    UnfitArchive {
        relation: String,
        detail: String,
    },
    NotArchiveOwner {
        relation: String,
    },
    ArchiveSuppressed {
        relation: String,
        missing: usize,
    },
    EntriesArchived {
        account: String,
        note: String,
    },
    Spi {
        code: String,
    },
}

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The SQLSTATE that a client sees.
    fn code(&self) -> PgSqlErrorCode {
        use PgSqlErrorCode::*;
        match self {
            Error::NullArgument { .. } | Error::NullInside { .. } => ERRCODE_NULL_VALUE_NOT_ALLOWED,
            Error::InvalidArgument { .. } | Error::EntriesArchived { .. } => {
                ERRCODE_INVALID_PARAMETER_VALUE
            }
            Error::NotAttached
            | Error::AlreadyAttached { .. }
            | Error::LedgerAppendOnly { .. }
            | Error::NotAnAmount { .. } => ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Error::RelationMissing { .. } => ERRCODE_UNDEFINED_TABLE,
            Error::SchemaMissing { .. } => ERRCODE_INVALID_SCHEMA_NAME,
            Error::WrongRelationKind { .. }
            | Error::ForeignTrigger { .. }
            | Error::UnsuitableArchive { .. } => ERRCODE_WRONG_OBJECT_TYPE,
            Error::UnfitArchive { .. } => ERRCODE_INVALID_TABLE_DEFINITION,
            Error::ColumnMissing { .. } => ERRCODE_UNDEFINED_COLUMN,
            Error::WrongColumnType { .. } => ERRCODE_DATATYPE_MISMATCH,
            Error::UnsupportedCollation { .. } | Error::Distributed { .. } => {
                ERRCODE_FEATURE_NOT_SUPPORTED
            }
            Error::GeneratedColumn { .. } => ERRCODE_INVALID_COLUMN_DEFINITION,
            Error::NoUniqueKey { .. } => ERRCODE_INVALID_FOREIGN_KEY,
            Error::NotOwner { .. }
            | Error::NotArchiveOwner { .. }
            | Error::ForeignWrite { .. }
            | Error::UnreadableRelation { .. } => ERRCODE_INSUFFICIENT_PRIVILEGE,
            Error::UnknownWorkflow { .. } | Error::UnknownAccount { .. } => ERRCODE_NO_DATA_FOUND,
            Error::UsageOfUnknownAccount { .. } | Error::NoPayer { .. } => {
                ERRCODE_FOREIGN_KEY_VIOLATION
            }
            Error::SeveralPayers { .. } => ERRCODE_CARDINALITY_VIOLATION,
            Error::BalanceOutOfRange { .. } | Error::UnsupportedBalance { .. } => {
                ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE
            }
            Error::TokensOutOfRange { .. } | Error::CreditOutOfRange { .. } => {
                ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE
            }
            Error::InTransaction { .. } => ERRCODE_INVALID_TRANSACTION_TERMINATION,
            Error::PendingTriggers { .. } => ERRCODE_OBJECT_IN_USE,
            Error::RefundTooLarge { .. } => ERRCODE_INVALID_PARAMETER_VALUE,
            Error::ReferenceUsed { .. } | Error::RefundReferenceUsed { .. } => {
                ERRCODE_UNIQUE_VIOLATION
            }
            Error::ChargeSuppressed { .. } | Error::ArchiveSuppressed { .. } => {
                ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION
            }
            Error::ConcurrentSettlement { .. }
            | Error::ConcurrentChange { .. }
            | Error::ConcurrentRename => ERRCODE_T_R_SERIALIZATION_FAILURE,
            Error::TriggerProtocol { .. } => ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
            Error::Spi { .. } => ERRCODE_SYSTEM_ERROR,
        }
    }

    fn message(&self) -> String {
        match self {
            Error::NullArgument { function, argument } => {
                format!("{argument} of {function} must not be null")
            }
            Error::NullInside { function, argument } => {
                format!("{argument} of {function} must not contain nulls")
            }
            Error::InvalidArgument { message, .. } => message.clone(),
            Error::NotAttached => "token_balance is not attached to any tables".into(),
            Error::AlreadyAttached { .. } => "token_balance is already attached".into(),
            Error::RelationMissing { what, name } => format!("{what} {name} does not exist"),
            Error::SchemaMissing { schema } => format!("schema \"{schema}\" does not exist"),
            Error::WrongRelationKind { name, kind } => {
                format!("cannot attach token_balance to {kind} {name}")
            }
            Error::ColumnMissing {
                relation, column, ..
            } => {
                format!("column \"{column}\" of table {relation} does not exist")
            }
            Error::WrongColumnType {
                relation,
                column,
                type_name,
                ..
            } => {
                format!("column \"{column}\" of table {relation} is of type {type_name}")
            }
            Error::UnsupportedCollation {
                relation, column, ..
            } => {
                format!("column \"{column}\" of table {relation} has a nondeterministic collation")
            }
            Error::Distributed { relation } => format!("table {relation} is distributed by Citus"),
            Error::GeneratedColumn { relation, column } => {
                format!("column \"{column}\" of table {relation} is a generated column")
            }
            Error::NoUniqueKey { relation, column } => {
                format!("column \"{column}\" of table {relation} is not unique")
            }
            Error::ForeignWrite { relation, role } => {
                format!("role \"{role}\" cannot write table {relation}")
            }
            Error::NotOwner { relation } | Error::NotArchiveOwner { relation } => {
                format!("must be owner of table {relation}")
            }
            Error::UnreadableRelation { relation, role } => {
                format!("role \"{role}\" cannot read table {relation}")
            }
            Error::UnknownWorkflow { workflow } => {
                format!("workflow \"{workflow}\" does not exist")
            }
            Error::UnknownAccount { account } => format!("account \"{account}\" does not exist"),
            Error::UsageOfUnknownAccount {
                workflow, account, ..
            } => {
                format!(
                    "usage of workflow \"{workflow}\" names account \"{account}\", which does not exist"
                )
            }
            Error::NoPayer { workflow, .. } => {
                format!("workflow \"{workflow}\" has usage but no account that pays for it")
            }
            Error::SeveralPayers { workflow, .. } => {
                format!(
                    "workflow \"{workflow}\" has usage and several accounts that could pay for it"
                )
            }
            Error::BalanceOutOfRange {
                workflow, account, ..
            } => {
                format!(
                    "charge of workflow \"{workflow}\" is out of range for the balance of account \"{account}\""
                )
            }
            Error::ChargeSuppressed { relation, account } => {
                format!("the balance of account \"{account}\" in {relation} was not updated")
            }
            Error::UnsupportedBalance { account, .. } => {
                format!(
                    "balance of account \"{account}\" is not a whole number of tokens within bigint"
                )
            }
            Error::PendingTriggers { relation } => {
                format!("table {relation} has deferred triggers that have not fired yet")
            }
            Error::NotAnAmount { .. } => "a number of tokens could not be read".into(),
            Error::InTransaction { function } => {
                format!("{function} cannot be called inside a transaction")
            }
            Error::TokensOutOfRange { argument, amount } => {
                format!("{argument} {amount} is out of range for type bigint")
            }
            Error::CreditOutOfRange { account, amount } => format!(
                "a credit of {amount} tokens is out of range for the balance of account \"{account}\""
            ),
            Error::RefundTooLarge {
                workflow, amount, ..
            } => format!(
                "a refund of {amount} tokens is more than workflow \"{workflow}\" was charged"
            ),
            Error::ReferenceUsed {
                account, reference, ..
            } => format!("reference \"{reference}\" of account \"{account}\" is already used"),
            Error::RefundReferenceUsed {
                workflow,
                reference,
                ..
            } => format!("reference \"{reference}\" of workflow \"{workflow}\" is already used"),
            Error::ConcurrentRename => {
                "could not serialize access due to concurrent rename of a bound table".into()
            }
            Error::ConcurrentChange { account } => format!(
                "could not serialize access to account \"{account}\" due to concurrent change"
            ),
            Error::ConcurrentSettlement { workflow } => format!(
                "could not serialize access to workflow \"{workflow}\" due to concurrent settlement"
            ),
            Error::TriggerProtocol { function, .. } => {
                format!("function {function} was not called by the right kind of trigger")
            }
            Error::ForeignTrigger { function, relation } => {
                format!("function {function} cannot be used on table {relation}")
            }
            Error::LedgerAppendOnly { operation } => {
                format!("{operation} is not allowed on token_balance.ledger")
            }
            Error::UnsuitableArchive { relation, kind } => {
                format!("cannot archive the ledger in {kind} {relation}")
            }
            Error::UnfitArchive { relation, .. } => {
                format!("table {relation} cannot hold entries of the ledger")
            }
            Error::ArchiveSuppressed { relation, .. } => {
                format!("entries of the ledger were not moved: {relation} kept them back")
            }
            Error::EntriesArchived { account, .. } => {
                format!("the ledger of account \"{account}\" does not reach back to that time")
            }
            Error::Spi { code } => format!("unexpected result of an internal query: {code}"),
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            Error::InvalidArgument { detail, .. } => detail.clone(),
            Error::AlreadyAttached { detail } => Some(detail.clone()),
            Error::ColumnMissing { argument, .. } => {
                Some(format!("It was named by the argument {argument}."))
            }
            Error::WrongColumnType { wanted, .. } => Some(format!("Supported are: {wanted}.")),
            Error::UnsupportedCollation { collation, .. } => {
                Some(format!("Its collation is {collation}."))
            }
            Error::Distributed { .. } => Some(
                "Its rows are in shards, which are not seen where a settlement looks for them."
                    .into(),
            ),
            Error::NotAnAmount { found } => Some(match found {
                Some(found) => format!("Found was: {found}."),
                None => "Found was a null.".into(),
            }),
            Error::UsageOfUnknownAccount { tokens, .. }
            | Error::NoPayer { tokens, .. }
            | Error::SeveralPayers { tokens, .. }
            | Error::BalanceOutOfRange { tokens, .. } => {
                Some(format!("Tokens that stay unsettled: {tokens}."))
            }
            Error::RefundTooLarge { left, .. } => Some(format!(
                "Tokens that were charged and not refunded yet: {left}."
            )),
            Error::ReferenceUsed { kind, amount, .. } => {
                Some(format!("It belongs to a {kind} of {amount} tokens."))
            }
            Error::RefundReferenceUsed { amount, .. } => {
                Some(format!("It belongs to a refund of {amount} tokens."))
            }
            Error::UnsupportedBalance { balance, .. } => Some(format!("Its balance is {balance}.")),
            Error::TriggerProtocol { wanted, .. } => Some(format!("It must be fired {wanted}.")),
            Error::ForeignTrigger { .. } => {
                Some("The table is not the one that token_balance is attached to.".into())
            }
            Error::LedgerAppendOnly { .. } => Some("The ledger is append-only.".into()),
            Error::UnfitArchive { detail, .. } => Some(detail.clone()),
            Error::ArchiveSuppressed { missing, .. } => {
                Some(format!("Entries that it did not take: {missing}."))
            }
            Error::EntriesArchived { note, .. } => Some(format!("Its opening entry says: {note}.")),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::InvalidArgument { hint, .. } => return hint.clone(),
            Error::NotAttached => "Call token_balance.attach(users => ..., usage => ...).",
            Error::AlreadyAttached { .. } => "Call token_balance.detach() first.",
            Error::UnsuitableArchive { .. }
            | Error::UnfitArchive { .. }
            | Error::RelationMissing {
                what: "archive", ..
            } => {
                "Make one that can hold the entries: CREATE TABLE ... (LIKE token_balance.ledger)."
            }
            Error::RelationMissing { .. } => {
                "Call token_balance.detach(), then token_balance.attach() with the tables that exist."
            }
            Error::WrongRelationKind { .. } => "Name an ordinary or a partitioned table.",
            Error::ColumnMissing { argument, .. } => {
                return Some(format!(
                    "Name the column in token_balance.attach({argument} => ...)."
                ));
            }
            Error::WrongColumnType { .. } => "Name another column or change its type.",
            Error::UnsupportedCollation { .. } => "Give the column a deterministic collation.",
            Error::Distributed { .. } => {
                "Undistribute the table, or bind the tables of a database that is not distributed."
            }
            Error::NotAnAmount { .. } => {
                "SELECT * FROM token_balance.verify() says whether a bound column has another type now."
            }
            Error::GeneratedColumn { .. } => {
                "The balance must be a plain column: drop or rename it."
            }
            Error::NoUniqueKey { .. } => {
                "Add a primary key or a unique constraint on that column alone, not deferrable."
            }
            Error::ForeignWrite { .. } => {
                "The extension writes it: call its functions, such as token_balance.credit()."
            }
            Error::NotOwner { .. } => {
                "Attach and detach as a superuser or as the owner of all bound tables."
            }
            Error::UnreadableRelation { .. } => {
                "Give all bound tables one owner, or grant USAGE on the schema and SELECT on the table to that role."
            }
            Error::UnknownWorkflow { .. } => {
                "Neither the workflow table nor the usage has this id."
            }
            Error::UsageOfUnknownAccount { .. } | Error::NoPayer { .. } => {
                "Create the account or correct the usage, then settle the workflow again."
            }
            Error::SeveralPayers { .. } => {
                "Only a completion says which of the accounts pays: complete one of the runs, or give the usage an account column."
            }
            Error::BalanceOutOfRange { .. } => {
                "Give the balance column a wider type (ALTER TABLE ... ALTER token_balance TYPE bigint), then settle the workflow again."
            }
            Error::CreditOutOfRange { .. } => {
                "Give the balance column a wider type (ALTER TABLE ... ALTER token_balance TYPE bigint)."
            }
            Error::RefundTooLarge { .. } => {
                "Refund less, or leave the amount out to refund what is left."
            }
            Error::ReferenceUsed { .. } | Error::RefundReferenceUsed { .. } => {
                "Use a reference of its own for each credit and refund."
            }
            Error::ChargeSuppressed { .. } => {
                "A trigger, rule or policy on the table suppressed the update."
            }
            Error::NotArchiveOwner { .. } => {
                "Archive as a superuser or as the owner of the archive's table."
            }
            Error::ArchiveSuppressed { .. } => {
                "A trigger, rule or policy on the table suppressed the change."
            }
            Error::EntriesArchived { .. } => "Ask for a later time, or read the archive.",
            Error::UnsupportedBalance { .. } => "Set a whole number of tokens.",
            Error::ConcurrentSettlement { .. }
            | Error::ConcurrentChange { .. }
            | Error::ConcurrentRename => "The transaction might succeed if retried.",
            Error::ForeignTrigger { .. } => "Drop the trigger.",
            Error::PendingTriggers { .. } => {
                "Commit, or SET CONSTRAINTS ALL IMMEDIATE, and call it again."
            }
            Error::LedgerAppendOnly { .. } => {
                "Correct a balance with a new change: the correction gets an entry of its own."
            }
            _ => return None,
        };
        Some(hint.into())
    }

    /// Whether a completion goes on with a warning when this happens (DESIGN section 4): the
    /// charge is bad, not the database.
    pub(crate) fn is_bad_charge(&self) -> bool {
        matches!(
            self,
            Error::UsageOfUnknownAccount { .. }
                | Error::NoPayer { .. }
                | Error::SeveralPayers { .. }
                | Error::BalanceOutOfRange { .. }
        )
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

impl From<Error> for ErrorReport {
    fn from(error: Error) -> Self {
        let mut report = ErrorReport::new(error.code(), error.message(), pgrx::function_name!());
        if let Some(detail) = error.detail() {
            report = report.set_detail(detail);
        }
        if let Some(hint) = error.hint() {
            report = report.set_hint(hint);
        }
        report
    }
}

/// Tell the user something that is not an error.
pub(crate) fn notice(message: String, detail: Option<String>, hint: Option<String>) {
    let mut report = ErrorReport::new(
        PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
        message,
        pgrx::function_name!(),
    );
    if let Some(detail) = detail {
        report = report.set_detail(detail);
    }
    if let Some(hint) = hint {
        report = report.set_hint(hint);
    }
    report.report(PgLogLevel::NOTICE);
}
