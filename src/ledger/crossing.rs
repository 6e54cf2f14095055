//! The notification when an account crosses zero.

use pgrx::pg_sys::TEXTOID;
use serde::Serialize;

use crate::binding::{Book, Kept, is_one_of_several};
use crate::counters::{Counter, count};
use crate::error::Result;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::spi::Statement;
use crate::postgres::value::Arg;

/// NOTIFY refuses longer payloads.
const LONGEST_PAYLOAD: usize = 7_900;

pub(crate) struct Statements {
    notify: Statement,
}

impl Kept<Book> for Statements {
    fn of(_book: &Book) -> Self {
        Statements {
            notify: Statement::new(
                "SELECT pg_catalog.pg_notify('token_balance', $1)",
                &[TEXTOID],
            ),
        }
    }
}

/// The payload of `NOTIFY token_balance`. Amounts are tokens.
#[derive(Serialize)]
struct Crossing<'a> {
    event: &'static str,
    user_id: Option<&'a str>,
    previous_balance: i64,
    token_balance: i64,
    is_overdraft: bool,
    /// A binding that charges the account; left out where one alone is attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    binding: Option<&'a str>,
}

/// Notify the listeners if a change takes the account below zero or back; delivered at commit.
pub(crate) fn notify_crossing(book: &Book, account: &str, previous: i64, new: i64) -> Result<()> {
    if (previous < 0) == (new < 0) {
        return Ok(());
    }
    let is_overdraft = new < 0;
    if is_overdraft {
        count(Counter::Overdrafts, 1);
    }
    let binding = is_one_of_several()?.then_some(book.accounts.binding.as_str());
    let payload = |user_id| {
        serde_json::to_string(&Crossing {
            event: if is_overdraft {
                "overdrawn"
            } else {
                "recovered"
            },
            user_id,
            previous_balance: previous,
            token_balance: new,
            is_overdraft,
            binding,
        })
        .unwrap_or_default()
    };
    // An id that does not fit is left out: a balance is never refused for its notification.
    let text = Some(payload(Some(account)))
        .filter(|text| text.len() < LONGEST_PAYLOAD)
        .unwrap_or_else(|| payload(None));
    book.kept::<Statements>()
        .notify
        .run(&[Arg::Text(&text)], Snapshot::Statement)
        .map(|_| ())
}
