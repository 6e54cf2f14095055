//! The options of a binding: how it settles, not what it settles. attach changes them in place.

use crate::error::{Error, Result};
use crate::postgres::spi;
use crate::postgres::value::Arg;

/// What a settlement does where another transaction holds the account's row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum BusyAccount {
    /// Wait for it: the column is always up to date.
    #[default]
    Wait,
    /// Leave the charge in the queue, to be applied by who holds the row next.
    Queue,
}

/// What becomes of usage that is written after its workflow was settled.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum LateUsage {
    /// It is pending until something settles its workflow again.
    #[default]
    Pending,
    /// A trigger on the usage table settles it at once.
    Settle,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Options {
    pub(crate) busy_account: BusyAccount,
    pub(crate) late_usage: LateUsage,
}

impl Options {
    /// As attach takes them. Error 22023 for anything else.
    pub(crate) fn parse(busy_account: &str, late_usage: &str) -> Result<Self> {
        let invalid = |argument: &str, value: &str, hint: &str| Error::InvalidArgument {
            message: format!("{argument} is \"{value}\""),
            detail: None,
            hint: Some(hint.into()),
        };
        Ok(Options {
            busy_account: match busy_account {
                "wait" => BusyAccount::Wait,
                "queue" => BusyAccount::Queue,
                other => return Err(invalid("busy_account", other, "Use 'wait' or 'queue'.")),
            },
            late_usage: match late_usage {
                "pending" => LateUsage::Pending,
                "settle" => LateUsage::Settle,
                other => return Err(invalid("late_usage", other, "Use 'pending' or 'settle'.")),
            },
        })
    }

    /// The options that are not as usual, as arguments of attach.
    pub(super) fn arguments(self) -> Vec<(&'static str, String)> {
        let mut arguments = Vec::new();
        if self.busy_account != BusyAccount::default() {
            arguments.push(("busy_account", "'queue'".to_owned()));
        }
        if self.late_usage != LateUsage::default() {
            arguments.push(("late_usage", "'settle'".to_owned()));
        }
        arguments
    }

    /// Keep them beside the binding that is there.
    pub(super) fn store(self) -> Result<()> {
        let busy_account = match self.busy_account {
            BusyAccount::Wait => "wait",
            BusyAccount::Queue => "queue",
        };
        let late_usage = match self.late_usage {
            LateUsage::Pending => "pending",
            LateUsage::Settle => "settle",
        };
        spi::query(
            "UPDATE token_balance.binding SET busy_account = $1, late_usage = $2",
            &[Arg::Text(busy_account), Arg::Text(late_usage)],
        )
        .map(|_| ())
    }
}
