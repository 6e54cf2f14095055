//! `token_balance.usage_state` and the view `token_balance.unsettled`: what has become of each token of the usage.
//!
//! The law: **charged**, **exempt**, **waiting** and **unowned**, less what is **archived** and what **shrank**, are the
//! tokens of the usage rows. Nothing is in no state.

use std::collections::BTreeMap;

use pgrx::pg_sys::TimestampTz;

use super::pairs::{Pair, Pairs, Used};
use crate::binding::Bound;
use crate::error::Result;

/// What has become of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// Taken from a balance, also where it was given back.
    Charged,
    /// From before the first attach, or forgiven by `exempt_pending`.
    Exempt,
    Waiting(Reason),
    /// The row names no workflow or no account.
    Unowned,
    /// The same, and its tokens cannot be counted.
    UnownedUncounted,
    /// Accounted for, and no longer there, as was recorded.
    Archived,
    /// The same, and nobody has recorded it.
    Shrunk,
}

/// Why usage waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    Open,
    NotSettled,
    NoWorkflow,
    NeverSettled,
    NoAccount,
    NobodyPays,
    OutOfRange,
    /// Of the account, to another database.
    Moved,
    Uncounted,
    /// The ids, to be recorded.
    TooLong,
}

/// What is NaN, infinite or past bigint.
const UNCOUNTED: &str = "cannot be counted";

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            State::Charged => "charged",
            State::Exempt => "exempt",
            State::Waiting(_) => "waiting",
            State::Unowned | State::UnownedUncounted => "unowned",
            State::Archived => "archived",
            State::Shrunk => "shrunk",
        }
    }

    /// Whether its tokens are known.
    pub(crate) fn is_counted(self) -> bool {
        !matches!(
            self,
            State::UnownedUncounted | State::Waiting(Reason::Uncounted)
        )
    }

    pub(crate) fn reason(self) -> Option<&'static str> {
        let reason = match self {
            State::Waiting(reason) => reason,
            State::UnownedUncounted => return Some(UNCOUNTED),
            _ => return None,
        };
        Some(match reason {
            Reason::Open => "the run is open",
            Reason::NotSettled => "completed and not settled",
            Reason::NoWorkflow => "no such workflow",
            Reason::NeverSettled => "nobody ever settled it",
            Reason::NoAccount => "no such account",
            Reason::NobodyPays => "no account pays",
            Reason::OutOfRange => "out of range",
            Reason::Moved => "account moved",
            Reason::Uncounted => UNCOUNTED,
            Reason::TooLong => "ids too long",
        })
    }
}

/// Tokens in a state, with the rows that they are of.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sum {
    pub(crate) workflows: i64,
    pub(crate) rows: i64,
    /// 0 where they are not known ([`State::is_counted`]).
    pub(crate) tokens: i128,
    /// Of the rows, by their own time; in the server's count.
    pub(crate) oldest: Option<TimestampTz>,
    pub(crate) newest: Option<TimestampTz>,
}

/// What waits, of one account in one workflow.
pub(crate) struct Unsettled {
    pub(crate) workflow: Option<String>,
    pub(crate) account: Option<String>,
    pub(crate) state: State,
    pub(crate) sum: Sum,
}

/// All of the usage, by state.
pub(crate) fn usage_state(bound: &Bound) -> Result<BTreeMap<State, Sum>> {
    let mut sums: BTreeMap<State, (Sum, Option<String>)> = BTreeMap::new();
    for pair in Pairs::open(bound)? {
        let pair = pair?;
        for (state, part) in parts(bound, &pair) {
            let (sum, last) = sums.entry(state).or_default();
            let workflow = workflow_of(&pair);
            // They come in order of workflows.
            sum.workflows += i64::from(workflow.is_some() && *last != workflow);
            *last = workflow;
            sum.rows += part.rows;
            sum.tokens += part.tokens;
            sum.oldest = sum.oldest.into_iter().chain(part.oldest).min();
            sum.newest = sum.newest.into_iter().chain(part.newest).max();
        }
    }
    Ok(sums
        .into_iter()
        .map(|(state, (sum, _))| (state, sum))
        .collect())
}

/// What waits and what nobody owns, one at a time, in order of workflows and accounts.
pub(crate) fn unsettled(
    bound: std::rc::Rc<Bound>,
) -> Result<impl Iterator<Item = Result<Unsettled>>> {
    let pairs = Pairs::open(&bound)?;
    Ok(pairs.flat_map(move |pair| {
        let found: Vec<_> = match pair {
            Ok(pair) => {
                let parts = parts(&bound, &pair).into_iter();
                let waits = |state: &State| {
                    matches!(
                        state,
                        State::Waiting(_) | State::Unowned | State::UnownedUncounted
                    )
                };
                let unsettled = |(state, sum)| Unsettled {
                    workflow: workflow_of(&pair),
                    account: account_of(&pair),
                    state,
                    sum,
                };
                let parts = parts.filter(|(state, _)| waits(state));
                parts.map(|part| Ok(unsettled(part))).collect()
            }
            Err(error) => vec![Err(error)],
        };
        found
    }))
}

fn workflow_of(pair: &Pair) -> Option<String> {
    key_of(pair).0
}

fn account_of(pair: &Pair) -> Option<String> {
    key_of(pair).1
}

/// None for what a row does not name.
fn key_of(pair: &Pair) -> (Option<String>, Option<String>) {
    let key = match (&pair.used, &pair.accounted) {
        (Some(used), _) => &used.key,
        (None, Some(accounted)) => &accounted.key,
        (None, None) => return (None, None),
    };
    let named = |id: &String| Some(id.clone()).filter(|id| !id.is_empty());
    (named(&key.0), named(&key.1))
}

/// The states of a pair's tokens. Its rows count for the last one: which of them were charged, nobody knows.
fn parts(bound: &Bound, pair: &Pair) -> Vec<(State, Sum)> {
    let used = pair.used.as_ref();
    let (tokens, rows) = (pair.used_in_rows(), used.map_or(0, |used| used.rows));
    let whole = |tokens, rows| Sum {
        workflows: 0,
        rows,
        tokens,
        oldest: used.and_then(|used| used.oldest),
        newest: used.and_then(|used| used.newest),
    };
    if let Some(used) = used
        && !used.is_owned
    {
        return vec![match tokens {
            Some(tokens) => (State::Unowned, whole(tokens, rows)),
            None => (State::UnownedUncounted, whole(0, rows)),
        }];
    }
    let accounted = pair.accounted.as_ref();
    let (accounted_for, charged) = accounted.map_or((0, 0), |it| (it.tokens, it.charged));
    let exempt = accounted_for - charged;
    let mut parts = Vec::new();
    for (state, tokens) in [(State::Charged, charged), (State::Exempt, exempt)] {
        if tokens != 0 {
            parts.push((state, whole(tokens, 0)));
        }
    }
    let (Some(tokens), Some(in_all)) = (tokens, pair.used_in_all()) else {
        parts.push((State::Waiting(Reason::Uncounted), whole(0, rows)));
        return parts;
    };
    let rest = in_all - accounted_for;
    if let (1.., Some(used)) = (rest, used) {
        let state = State::Waiting(reason(bound, pair, used, rest));
        parts.push((state, whole(rest, rows)));
    } else if let Some((_, last)) = parts.last_mut() {
        last.rows = rows;
    } else if rows > 0 {
        parts.push((State::Charged, whole(0, rows)));
    }
    let archived = in_all - tokens;
    if archived != 0 {
        parts.push((State::Archived, whole(archived, 0)));
    }
    if rest < 0 {
        parts.push((State::Shrunk, whole(-rest, 0)));
    }
    parts
}

fn reason(bound: &Bound, pair: &Pair, used: &Used, tokens: i128) -> Reason {
    // Whatever has become of the run: it is not charged here.
    if used.has_moved {
        return Reason::Moved;
    }
    let is_bound = bound.binding.workflows.is_some();
    if is_bound && !used.workflow_exists {
        return Reason::NoWorkflow;
    }
    if is_bound && !used.is_completed {
        return Reason::Open;
    }
    if !is_bound && !pair.was_settled {
        return Reason::NeverSettled;
    }
    let smallest = i128::from(bound.binding.accounts.smallest_balance());
    match used.balance {
        _ if used.payers != 1 => Reason::NobodyPays,
        None => Reason::NoAccount,
        Some(balance) if i128::from(balance) - tokens < smallest => Reason::OutOfRange,
        Some(_) if !used.can_be_recorded => Reason::TooLong,
        Some(_) => Reason::NotSettled,
    }
}
