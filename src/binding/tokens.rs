//! How the tokens of usage rows are added up: exactly, and rounded once, when all is added up (DESIGN A9 to A11).

use pgrx::pg_sys;

use super::model::Binding;
use crate::postgres::catalog::Column;

/// The types that a column of tokens may have, in words.
pub(super) const SUPPORTED_TOKEN_TYPES: &str =
    "smallint, integer, bigint, numeric, real and double precision";

/// The types that a balance column may have, in words.
pub(crate) const BALANCE_TYPES: &str = "smallint, integer, bigint and numeric without a fraction";

/// What a row has that is no number of tokens: NaN is, and is that of each sum that it is in.
const NOT_A_NUMBER: &str = "'NaN'::pg_catalog.numeric";

impl Column {
    /// Whether it can hold tokens.
    pub(super) fn holds_tokens(&self) -> bool {
        self.holds_whole_tokens() || self.fractional_type().is_some()
    }

    /// Whether it can hold balances; a numeric may have a scale.
    pub(crate) fn holds_balances(&self) -> bool {
        self.holds_whole_tokens() || self.base_type == pg_sys::NUMERICOID
    }

    /// Whether what it holds is added up without a thought: no fractions, and nothing past bigint.
    pub(crate) fn holds_whole_tokens(&self) -> bool {
        matches!(
            self.base_type,
            pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID
        )
    }

    /// Whether the server's own cast to numeric would round what it holds.
    pub(crate) fn holds_floating_tokens(&self) -> bool {
        matches!(self.base_type, pg_sys::FLOAT4OID | pg_sys::FLOAT8OID)
    }

    fn fractional_type(&self) -> Option<&'static str> {
        match self.base_type {
            pg_sys::NUMERICOID => Some("pg_catalog.numeric"),
            pg_sys::FLOAT4OID => Some("real"),
            pg_sys::FLOAT8OID => Some("double precision"),
            _ => None,
        }
    }

    /// SQL for the tokens of a row; `otherwise` is for what is no number of them.
    fn row_tokens_sql(&self, alias: &str, otherwise: &str) -> String {
        let column = format!("{alias}.{}", self.sql());
        let Some(type_name) = self.fractional_type() else {
            return column;
        };
        // Of a domain the base type's value.
        let value = format!("{column}::{type_name}");
        let exact = match self.holds_floating_tokens() {
            true => format!("token_balance.exact_numeric({value})"),
            false => value.clone(),
        };
        // Nobody could be charged for more than a bigint. What is NaN or infinite is outside, too.
        format!(
            "CASE WHEN {value} OPERATOR(pg_catalog.>=) '-9223372036854775808'::{type_name} \
             AND {value} OPERATOR(pg_catalog.<) '9223372036854775808'::{type_name} THEN {exact} \
             WHEN {column} IS NOT NULL THEN {otherwise} END"
        )
    }

    /// SQL for the tokens of a row, exact: numeric, NaN for what is no number of them. NULL counts as 0.
    pub(crate) fn exact_row_sql(&self, alias: &str) -> String {
        format!(
            "COALESCE({}, 0)::pg_catalog.numeric",
            self.row_tokens_sql(alias, NOT_A_NUMBER)
        )
    }

    /// SQL for those of a group of rows, in the same way.
    pub(crate) fn exact_sum_sql(&self, alias: &str) -> String {
        format!("{}::pg_catalog.numeric", self.sum_sql(alias, NOT_A_NUMBER))
    }

    fn sum_sql(&self, alias: &str, otherwise: &str) -> String {
        format!(
            "COALESCE(pg_catalog.sum({}), 0)",
            self.row_tokens_sql(alias, otherwise)
        )
    }
}

impl Binding {
    /// SQL for the tokens of a group of usage rows, before they are rounded; the result is bigint, or numeric where a sum
    /// of bigint columns could be larger, or there are fractions. NULL tokens count as 0. NaN if a row has what is no number
    /// of tokens: [`Row::counted`](crate::postgres::value::Row::counted) reads it.
    pub(crate) fn tokens_sql(&self, alias: &str) -> String {
        self.sum_sql(alias, NOT_A_NUMBER)
    }

    /// The same, rounded, and what is no number of tokens is left out.
    pub(crate) fn countable_tokens_sql(&self, alias: &str) -> String {
        let sum = self.sum_sql(alias, "NULL");
        // Half away from zero, and once: what is charged in parts is what is charged at once.
        match self.usage_tokens.iter().all(Column::holds_whole_tokens) {
            true => sum,
            false => format!("pg_catalog.round({sum})"),
        }
    }

    /// SQL for the same before it is rounded: numeric.
    pub(crate) fn exact_tokens_sql(&self, alias: &str) -> String {
        added(self.usage_tokens.iter().map(|it| it.exact_sum_sql(alias)))
    }

    /// SQL for the tokens of one row, as [`Binding::exact_tokens_sql`] is for many.
    pub(crate) fn exact_row_tokens_sql(&self, alias: &str) -> String {
        added(self.usage_tokens.iter().map(|it| it.exact_row_sql(alias)))
    }

    /// Whether its statements call `token_balance.exact_numeric`.
    pub(crate) fn reads_floating_tokens(&self) -> bool {
        let details = [&self.details.prompt_tokens, &self.details.completion_tokens];
        let shown = details.into_iter().flatten();
        let mut columns = self.usage_tokens.iter().chain(shown);
        columns.any(Column::holds_floating_tokens)
    }

    fn sum_sql(&self, alias: &str, otherwise: &str) -> String {
        let columns = self.usage_tokens.iter();
        added(columns.map(|it| it.sum_sql(alias, otherwise)))
    }
}

fn added(sums: impl Iterator<Item = String>) -> String {
    sums.collect::<Vec<_>>().join(" OPERATOR(pg_catalog.+) ")
}
