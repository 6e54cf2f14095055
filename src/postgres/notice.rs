//! What a caller is told that is no error.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};

pub(crate) fn notice(message: String, detail: Option<String>, hint: Option<String>) {
    let report = ErrorReport::new(
        PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
        message,
        pgrx::function_name!(),
    );
    let report = detail.into_iter().fold(report, ErrorReport::set_detail);
    let report = hint.into_iter().fold(report, ErrorReport::set_hint);
    report.report(PgLogLevel::NOTICE);
}
