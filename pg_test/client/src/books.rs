//! What the sessions of `chaos` know of usage, charges, credits and refunds, and the comparison of
//! all of it with what the tables have in the end.

use std::collections::BTreeMap;

use postgres::Client;

use crate::database::Result;

/// A run that is committed with its usage.
#[derive(Debug)]
pub struct Run {
    pub id: String,
    /// An account's usage, one number for each transaction that wrote some, in their order.
    pub usage: BTreeMap<String, Vec<i64>>,
    pub is_completed: bool,
    pub refunded: i64,
}

impl Run {
    pub fn used(&self, account: &str) -> i64 {
        self.usage.get(account).into_iter().flatten().sum()
    }

    /// Whether that was all that the account had used at some moment.
    pub fn had_used(&self, account: &str, tokens: i64) -> bool {
        let usage = self.usage.get(account).map_or(&[][..], Vec::as_slice);
        (0..=usage.len()).any(|count| usage[..count].iter().sum::<i64>() == tokens)
    }
}

/// What a session has done.
#[derive(Default)]
pub struct Books {
    pub runs: Vec<Run>,
    pub credits: BTreeMap<String, i64>,
    pub settled: u64,
    /// How often usage was written while the binding was broken: it waits for a sweep.
    pub left: u64,
    pub errors: BTreeMap<String, u64>,
}

impl Books {
    pub fn add(&mut self, other: Books) {
        self.runs.extend(other.runs);
        for (account, tokens) in other.credits {
            *self.credits.entry(account).or_default() += tokens;
        }
        self.settled += other.settled;
        self.left += other.left;
        for (code, count) in other.errors {
            *self.errors.entry(code).or_default() += count;
        }
    }

    pub fn said_errors(&self) -> String {
        said_counts(&self.errors)
    }
}

/// Counts by name, as a report says them.
pub fn said_counts<K: std::fmt::Display>(counts: &BTreeMap<K, u64>) -> String {
    let said: Vec<_> = counts
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    match said.is_empty() {
        true => "none".into(),
        false => said.join(", "),
    }
}

/// Once nothing runs: all that the ledger, the settlements and the usage table have, against what
/// the sessions know.
pub fn check(client: &mut Client, books: &Books) -> Result<usize> {
    let adjustments: i64 = client
        .query_one(
            "SELECT count(*) FROM token_balance.ledger \
             WHERE kind NOT IN ('settlement', 'credit', 'refund')",
            &[],
        )?
        .get(0);
    if adjustments > 0 {
        return Err(format!("{adjustments} changes of balances that nobody made").into());
    }
    let mut wrong = Vec::new();
    let mut compared = 0;
    compare(client, "usage", &mut wrong, used(books), USED)?;
    compare(
        client,
        "credits",
        &mut wrong,
        books.credits.clone(),
        CREDITED,
    )?;
    compare(client, "refunds", &mut wrong, refunded(books), REFUNDED)?;
    let settled = sums(client, SETTLED)?;
    let mut entries: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for row in client.query(ENTRIES, &[])? {
        let tokens = entries.entry(row.get(0)).or_default();
        tokens.push(row.get(1));
    }
    for run in &books.runs {
        for (account, usage) in &run.usage {
            let pair = format!("{} {account}", run.id);
            compared += 1;
            let entries = entries.remove(&pair).unwrap_or_default();
            let settled = settled.get(&pair).copied().unwrap_or_default();
            let is_right = is_made_of(&entries, usage)
                && (!run.is_completed || settled == run.used(account))
                && run.had_used(account, settled);
            if !is_right {
                wrong.push(format!(
                    "{run:?}: {account} has entries {entries:?}, {settled} settled"
                ));
            }
        }
    }
    wrong.extend(
        entries
            .keys()
            .map(|pair| format!("{pair} was charged without usage")),
    );
    match wrong.is_empty() {
        true => Ok(compared),
        false => Err(wrong.join("\n").into()),
    }
}

const USED: &str =
    "SELECT workflow_id || ' ' || user_id, sum(total_tokens)::bigint FROM token_usage GROUP BY 1";
const CREDITED: &str = "SELECT user_id, sum(amount)::bigint \
                        FROM token_balance.ledger WHERE kind = 'credit' GROUP BY 1";
const REFUNDED: &str = "SELECT workflow_id, sum(amount)::bigint \
                        FROM token_balance.ledger WHERE kind = 'refund' GROUP BY 1";
const SETTLED: &str =
    "SELECT workflow_id || ' ' || user_id, usage_tokens FROM token_balance.settlement";
const ENTRIES: &str = "SELECT workflow_id || ' ' || user_id, -amount FROM token_balance.ledger \
                       WHERE kind = 'settlement' ORDER BY user_id, entry_id";

fn used(books: &Books) -> BTreeMap<String, i64> {
    let mut used = BTreeMap::new();
    for run in &books.runs {
        for account in run.usage.keys() {
            used.insert(format!("{} {account}", run.id), run.used(account));
        }
    }
    used
}

fn refunded(books: &Books) -> BTreeMap<String, i64> {
    let refunded = books.runs.iter().filter(|run| run.refunded > 0);
    refunded.map(|run| (run.id.clone(), run.refunded)).collect()
}

fn sums(client: &mut Client, sql: &str) -> Result<BTreeMap<String, i64>> {
    let rows = client.query(sql, &[])?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

fn compare(
    client: &mut Client,
    what: &str,
    wrong: &mut Vec<String>,
    expected: BTreeMap<String, i64>,
    sql: &str,
) -> Result<()> {
    let found = sums(client, sql)?;
    for key in expected.keys().chain(found.keys()) {
        let (expected, found) = (expected.get(key), found.get(key));
        if expected != found {
            wrong.push(format!("{what} of {key}: {found:?}, expected {expected:?}"));
        }
    }
    Ok(())
}

/// Whether each entry is the sum of usage of one transaction or of several in a row, and none is in
/// two of them. What is in none is exempt or not settled.
fn is_made_of(entries: &[i64], usage: &[i64]) -> bool {
    let Some((first, rest)) = entries.split_first() else {
        return true;
    };
    (0..usage.len()).any(|start| {
        (start + 1..=usage.len()).any(|end| {
            usage[start..end].iter().sum::<i64>() == *first && is_made_of(rest, &usage[end..])
        })
    })
}
