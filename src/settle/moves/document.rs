//! The document with which an account moves: jsonb, and a digest of it, since a program on the way may read its numbers
//! as others.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::postgres::spi;
use crate::postgres::value::Arg;

/// What documents of this version look like.
pub(super) const FORMAT: i64 = 1;

/// A document that is whole. Its rows become those of tables by SQL.
pub(super) struct Document {
    pub(super) head: Head,
    pub(super) settlements: Rows,
    pub(super) aliases: Rows,
    pub(super) ledger: Rows,
    pub(super) references: Rows,
    pub(super) queue: Rows,
}

/// A list of rows.
pub(super) struct Rows(Value);

impl Rows {
    fn of(document: &Value, name: &str) -> Result<Self> {
        match &document[name] {
            rows @ Value::Array(_) => Ok(Rows(rows.clone())),
            _ => {
                let detail = format!("\"{name}\" is no list.");
                Err(invalid("document is none of export_account()", detail))
            }
        }
    }

    /// As JSON.
    pub(super) fn text(&self) -> String {
        self.0.to_string()
    }

    /// The texts that they have in a column, each once, in order.
    pub(super) fn texts(&self, column: &str) -> BTreeSet<&str> {
        let rows = self.0.as_array().into_iter().flatten();
        rows.filter_map(|row| row[column].as_str()).collect()
    }
}

#[derive(Deserialize)]
pub(super) struct Head {
    format: i64,
    /// The move's own id, a UUID.
    pub(super) token: String,
    /// The tokens of all moves before it.
    pub(super) lineage: Vec<String>,
    /// From where it comes, and for which database it is.
    pub(super) source: String,
    pub(super) destination: String,
    pub(super) user_id: String,
    /// How the users' key spells ids.
    pub(super) account_ids: String,
    /// Tokens.
    pub(super) balance: i64,
    pub(super) bindings: Vec<NamedBinding>,
    digest: String,
}

#[derive(Deserialize)]
pub(super) struct NamedBinding {
    pub(super) name: String,
    /// How its usage spells workflow ids.
    pub(super) workflow_ids: String,
}

/// SQL for the digest of a document, without the one that it has.
pub(super) fn digest_sql(document: &str) -> String {
    format!(
        "pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(({document} \
         OPERATOR(pg_catalog.-) 'digest'::pg_catalog.text)::pg_catalog.text, 'UTF8')), 'hex')"
    )
}

impl Document {
    /// Error 22023 for what is no document, or not as it was made.
    pub(super) fn read(value: &Value) -> Result<Self> {
        let head: Head = read(value, "document is none of export_account()")?;
        if head.format != FORMAT {
            return Err(Error::InvalidArgument {
                message: "document is of another version".into(),
                detail: Some(format!(
                    "Its format is {}, and {FORMAT} is known.",
                    head.format
                )),
                hint: Some(
                    "Bring both databases to one version: ALTER EXTENSION token_balance UPDATE."
                        .into(),
                ),
            });
        }
        let outcome = spi::query(
            &format!("SELECT {}", digest_sql("$1::pg_catalog.jsonb")),
            &[Arg::Text(&value.to_string())],
        )?;
        if outcome.rows.first().map(|row| row.text(0)) != Some(&head.digest) {
            let detail = "Its digest is another one: it was changed on the way, by a program that reads large numbers as \
                          floats, say."
                .to_owned();
            return Err(invalid("document is not as it was made", detail));
        }
        Ok(Document {
            head,
            settlements: Rows::of(value, "settlements")?,
            aliases: Rows::of(value, "aliases")?,
            ledger: Rows::of(value, "ledger")?,
            references: Rows::of(value, "references")?,
            queue: Rows::of(value, "queue")?,
        })
    }
}

/// What a document says. Error 22023 with that message for one that does not.
pub(super) fn read<'a, T: Deserialize<'a>>(value: &'a Value, message: &str) -> Result<T> {
    if !value.is_object() {
        return Err(invalid(message, "It is no JSON object.".into()));
    }
    T::deserialize(value).map_err(|error| invalid(message, error.to_string()))
}

pub(super) fn invalid(message: &str, detail: String) -> Error {
    Error::InvalidArgument {
        message: message.to_owned(),
        detail: Some(detail),
        hint: Some(
            "Pass on what the function of the other database has answered, as it is.".into(),
        ),
    }
}
