//! The receipt of a document: what has become of it in the database that it is for.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::document;
use crate::error::Result;

#[derive(Serialize, Deserialize)]
pub(crate) struct Receipt {
    pub(crate) token: String,
    pub(crate) user_id: String,
    /// Who says so.
    pub(crate) database: String,
    pub(crate) state: Answered,
    /// Whether an earlier call did it.
    pub(crate) replayed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Answered {
    /// The account is open there.
    Imported,
    /// It is not, and the document will never open it.
    Refused,
}

impl Answered {
    pub(super) fn name(self) -> &'static str {
        match self {
            Answered::Imported => "imported",
            Answered::Refused => "refused",
        }
    }
}

impl Receipt {
    /// Error 22023 for what is no receipt.
    pub(super) fn read(value: &Value) -> Result<Self> {
        document::read(
            value,
            "receipt is none of import_account() or refuse_account()",
        )
    }
}
