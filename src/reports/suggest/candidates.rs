//! What a binding could be made of: usage, who pays for it, and what says that a run is over; each with what speaks for
//! it, in points.

use std::cmp::Reverse;

use pgrx::pg_sys;

use super::sample::{Sample, Share};
use super::tables::{Schema, Seen};
use super::words::{self, Counts};
use crate::postgres::catalog::{self, Column};
use crate::postgres::key::KeyType;

/// So many ids, none of which is found, are proof that a column refers to something else.
const PROOF: usize = 10;

/// A table that looks like usage.
pub(super) struct Usage<'a> {
    pub(super) seen: &'a Seen,
    pub(super) tokens: Vec<&'a str>,
    pub(super) prompt: Option<&'a str>,
    pub(super) completion: Option<&'a str>,
    pub(super) model: Option<&'a str>,
    pub(super) time: Option<&'a str>,
    pub(super) points: i32,
    pub(super) reasons: Vec<String>,
    pub(super) remarks: Vec<String>,
}

/// A column that refers to another table's key.
#[derive(Clone)]
pub(super) struct Link<'a> {
    pub(super) from: &'a Seen,
    pub(super) column: &'a Column,
    pub(super) to: &'a Seen,
    pub(super) key: &'a Column,
    pub(super) points: i32,
    pub(super) reason: String,
}

/// What says that a run is over.
#[derive(Clone)]
pub(super) enum End<'a> {
    Status {
        column: &'a str,
        /// Those that complete a run; none: those that attach is usually told.
        completed: Vec<String>,
    },
    Time(&'a str),
    /// That the row is there.
    Row,
}

/// A way in which runs end.
pub(super) struct Run<'a> {
    /// The usage's column.
    pub(super) column: &'a Column,
    /// The table with the end, and its key; None: nothing in the database says it.
    pub(super) table: Option<(&'a Seen, &'a Column, End<'a>)>,
    /// The row is there before its usage, so that usage is charged as it comes.
    pub(super) comes_first: bool,
    pub(super) points: i32,
    pub(super) reasons: Vec<String>,
    pub(super) remarks: Vec<String>,
}

fn is_number(column: &Column) -> bool {
    matches!(
        column.base_type,
        pg_sys::INT2OID
            | pg_sys::INT4OID
            | pg_sys::INT8OID
            | pg_sys::NUMERICOID
            | pg_sys::FLOAT4OID
            | pg_sys::FLOAT8OID
    )
}

pub(super) fn is_text(column: &Column) -> bool {
    matches!(
        column.base_type,
        pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID
    )
}

pub(super) fn is_time(column: &Column) -> bool {
    matches!(
        column.base_type,
        pg_sys::TIMESTAMPTZOID | pg_sys::TIMESTAMPOID | pg_sys::DATEOID
    )
}

/// The usage that a table may be, if it has numbers of tokens or amounts.
pub(super) fn usage<'a>(seen: &'a Seen, sample: &Sample) -> Option<Usage<'a>> {
    let counted = |wanted: Counts| {
        let columns = seen.columns.iter();
        let mut found = columns
            .filter(move |column| is_number(column) && words::counts(&column.name) == Some(wanted))
            .map(|column| column.name.as_str());
        move || found.next()
    };
    let (prompt, completion) = (counted(Counts::Prompt)(), counted(Counts::Completion)());
    let mut total = counted(Counts::Total)();
    let mut remarks = Vec::new();
    // The values speak, not the name: many tables have a total that nobody writes.
    let share_of = |names: &[&str]| {
        let columns = names.iter().filter_map(|name| seen.column(name));
        let columns: Vec<_> = columns.collect();
        sample.counted(seen, &columns).filter(|share| share.of > 0)
    };
    if let (Some(name), Some(prompt), Some(completion)) = (total, prompt, completion)
        && let (Some(whole), Some(parts)) = (share_of(&[name]), share_of(&[prompt, completion]))
        && whole.found < parts.found
    {
        if whole.found == 0 {
            total = None;
        } else {
            remarks.push(format!(
                "{name} has tokens in {} of {} sampled rows, {prompt} and {completion} in {}: usage without it charges nothing",
                whole.found, whole.of, parts.found
            ));
        }
    }
    let amount = counted(Counts::Amount)();
    let (tokens, mut points, reason) = match (total, prompt, completion, amount) {
        (Some(total), _, _, _) => (vec![total], 30, format!("{total} is a number of tokens")),
        (None, Some(prompt), Some(completion), _) => (
            vec![prompt, completion],
            29,
            format!("{prompt} and {completion} are numbers of tokens"),
        ),
        (None, Some(one), None, _) | (None, None, Some(one), _) => {
            (vec![one], 18, format!("{one} is a number of tokens"))
        }
        // Those who pay have sums of their own, and so have statistics.
        (None, None, None, Some(_))
            if words::pays(&seen.name) > 0 || words::is_of_sums(&seen.name) =>
        {
            return None;
        }
        (None, None, None, Some(amount)) => (
            vec![amount],
            6,
            format!("{amount} may be an amount to charge"),
        ),
        (None, None, None, None) => return None,
    };
    let mut reasons = vec![reason];
    let charged = tokens.join(" + ");
    let first = |is_it: fn(&str) -> bool| seen.columns.iter().find(|it| is_it(&it.name));
    if let Some(Share { found: 0, of }) = share_of(&tokens) {
        points -= 20;
        remarks.push(format!(
            "none of {of} sampled rows has anything above 0 in {charged}: such usage charges nothing"
        ));
    }
    if total.is_none() && prompt.or(completion).is_some() {
        let apart = seen
            .columns
            .iter()
            .filter(|column| is_number(column) && words::is_counted_apart(&column.name));
        let apart: Vec<_> = apart.map(|column| column.name.as_str()).collect();
        if !apart.is_empty() {
            remarks.push(format!(
                "{} is left out: where it is not in {charged}, as with some providers, name it in usage_tokens, too",
                apart.join(", ")
            ));
        }
    }
    if let Some(sum) = first(words::is_running_sum) {
        remarks.push(format!(
            "{} adds up earlier rows: {charged} must not, or a run is charged for its first calls again and again",
            sum.name
        ));
    }
    let has_fractions = |column: &&Column| {
        matches!(
            column.base_type,
            pg_sys::NUMERICOID | pg_sys::FLOAT4OID | pg_sys::FLOAT8OID
        )
    };
    if total.is_none()
        && let Some(amount) = amount
        && seen.column(amount).filter(has_fractions).is_some()
    {
        remarks.push(format!(
            "what a run has used is rounded to whole tokens: if {amount} is money, charge it times a factor, by a view"
        ));
    }
    let counts_tokens = total.or(prompt).or(completion).is_some();
    let model = model_of_row(seen, counts_tokens).map(|column| column.name.as_str());
    if let Some(model) = model {
        points += 6;
        reasons.push(format!("{model} names a model"));
    }
    if words::is_of_use(&seen.name) {
        points += 4;
    }
    if words::is_of_sums(&seen.name) || words::pays(&seen.name) >= 4 {
        points -= 20;
        remarks.push("its rows look like sums that change in place, not like single calls".into());
    }
    match sample.is_empty(seen) {
        Some(true) => remarks.push(format!(
            "{} is empty: names, types and foreign keys alone speak here",
            seen.name
        )),
        Some(false) => points += 2,
        None => remarks.push(format!(
            "values of {} were not read: names alone speak here",
            seen.name
        )),
    }
    let time = time_of_row(seen);
    if time.is_none() {
        remarks.push(has_no_time(seen));
    }
    if let Some(deleted) = first(words::is_deleted) {
        remarks.push(format!(
            "rows with {} are charged as well: a view without them leaves them out",
            deleted.name
        ));
    }
    Some(Usage {
        seen,
        tokens,
        prompt,
        completion,
        model,
        time: time.map(|column| column.name.as_str()),
        points,
        reasons,
        remarks,
    })
}

/// The column that names the model of a row. An engine is one where tokens are counted, and may be anything where they are
/// not.
pub(super) fn model_of_row(seen: &Seen, counts_tokens: bool) -> Option<&Column> {
    let least = if counts_tokens { 1 } else { 2 };
    let rank = |column: &Column| (words::names_model(&column.name), Reverse(column.name.len()));
    seen.columns
        .iter()
        .filter(|column| is_text(column) && words::names_model(&column.name) >= least)
        .max_by_key(|column| rank(column))
}

/// The time at which a row was written: by its name, or the only one that may be it.
pub(super) fn time_of_row(seen: &Seen) -> Option<&Column> {
    let times = || seen.columns.iter().filter(|column| is_time(column));
    // Of two that are as good the first.
    let by_name = times()
        .filter(|column| words::is_time_of_row(&column.name) > 0)
        .max_by_key(|column| (words::is_time_of_row(&column.name), Reverse(column.number)));
    let rest = times().filter(|column| !words::is_time_of_later(&column.name));
    let rest: Vec<_> = rest.collect();
    // A row that has its end from the beginning is written then.
    let ends = times().filter(|column| column.is_not_null && words::is_time_of_end(&column.name));
    let ends: Vec<_> = ends.collect();
    match (by_name, &rest[..], &ends[..]) {
        (Some(named), ..) => Some(named),
        (None, [only], _) | (None, [], [only]) => Some(only),
        _ => None,
    }
}

/// The remark where there is no such column.
pub(super) fn has_no_time(seen: &Seen) -> String {
    format!(
        "no column of {} is known to say when usage was: name it as usage_created_at, for the last days of summary, for runs that \
         are idle, and for archives",
        seen.name
    )
}

/// The points and words for a reference, if anything speaks for it.
fn evidence(
    (seen, column, key_type): (&Seen, &Column, KeyType),
    (other, key): (&Seen, &Column),
    sample: &Sample,
) -> Option<(i32, String)> {
    let other_type = KeyType::of(key.base_type)?;
    if !key_type.matches(other_type) {
        return None;
    }
    let place = format!("{}.{}", other.table.sql, key.sql());
    let is_declared = seen.references.iter().any(|reference| {
        reference.column == column.name
            && reference.table == other.table.oid
            && reference.key == key.name
    });
    if is_declared {
        return Some((14, format!("{} is a foreign key to {place}", column.name)));
    }
    let is_named =
        words::refers(&column.name, &other.name) || column.name == key.name && key.name.len() > 4;
    // Small numbers are found in every key: without a name they say nothing.
    let proves = key_type.is_text() || key_type == KeyType::Uuid;
    if !is_named && !proves {
        return None;
    }
    let by_name = if is_named { 5 } else { 0 };
    match sample.share((seen, column), (other, key)) {
        Some(Share { found: 0, of }) if of >= PROOF || !is_named => None,
        Some(share) => {
            let points = (share.ratio() * if proves { 10.0 } else { 6.0 }) as i32;
            (is_named || share.ratio() >= 0.5).then(|| {
                let said = format!(
                    "{} of {} sampled values of {} are in {place}",
                    share.found, share.of, column.name
                );
                (points + by_name, said)
            })
        }
        None => is_named.then(|| (by_name, format!("{} is named like {place}", column.name))),
    }
}

/// The tables that a table's columns refer to by a unique key.
pub(super) fn links<'a>(seen: &'a Seen, schema: &'a Schema, sample: &Sample) -> Vec<Link<'a>> {
    let mut found = Vec::new();
    for (column, key_type) in seen.ids() {
        // What is a row's own key refers to nothing, unless a foreign key says so.
        let is_own_key = seen.keys.contains(&column.name);
        // Another column says of which table such an id is: a user's and an organization's may be the same number.
        let mut columns = seen.columns.iter();
        let is_of_any_table = columns.any(|other| words::says_table_of(&other.name, &column.name));
        let mut best: Option<Link> = None;
        for other in &schema.tables {
            if other.table.oid == seen.table.oid || other.keys.is_empty() {
                continue;
            }
            let is_declared = seen
                .references
                .iter()
                .any(|it| it.column == column.name && it.table == other.table.oid);
            // Values alone lead to those who pay, not to everything.
            let is_likely =
                words::pays(&other.name) > 0 || words::refers(&column.name, &other.name);
            if !is_declared && (is_of_any_table || !is_likely) {
                continue;
            }
            for (at, key) in other.keys.iter().enumerate() {
                let Some(key) = other.column(key) else {
                    continue;
                };
                if is_own_key && !is_declared {
                    continue;
                }
                let Some((points, reason)) =
                    evidence((seen, column, key_type), (other, key), sample)
                else {
                    continue;
                };
                // A primary key is first: it does not change as a name does.
                let points = points + if at == 0 { 5 } else { 0 };
                if best.as_ref().is_none_or(|best| points > best.points) {
                    best = Some(Link {
                        from: seen,
                        column,
                        to: other,
                        key,
                        points,
                        reason,
                    });
                }
            }
        }
        found.extend(best);
    }
    found
}

/// Those of a table's links that lead to one who pays, best first.
pub(super) fn payers<'a>(links: &[Link<'a>], sample: &Sample) -> Vec<Link<'a>> {
    let mut payers: Vec<_> = links
        .iter()
        .filter(|link| words::pays(&link.to.name) > 0)
        .cloned()
        .map(|link| Link {
            points: link.points + words::pays(&link.to.name),
            ..link
        })
        .collect();
    for payer in &mut payers {
        // One who reviews a call now and then does not pay for all.
        if let Some(Share { found, of }) = sample.filled(payer.from, payer.column)
            && found * 2 < of
        {
            payer.points -= 15;
            payer.reason = format!(
                "{}; {} of {of} sampled rows have none there, and are charged to nobody",
                payer.reason,
                of - found
            );
        }
    }
    payers.sort_by_key(|link| -link.points);
    payers
}

/// Whether a table has a column that may say that its row is over.
fn may_end(seen: &Seen) -> bool {
    seen.columns.iter().any(|column| {
        words::is_status(&column.name)
            || words::is_flag_of_end(&column.name)
            || words::is_time_of_end(&column.name)
    })
}

/// What in a table says that its row is over, best first; with points, reasons and remarks.
fn ends<'a>(seen: &'a Seen, sample: &Sample) -> Vec<(End<'a>, i32, Option<String>, Vec<String>)> {
    let mut found = Vec::new();
    for column in &seen.columns {
        let is_flag = column.base_type == pg_sys::BOOLOID && words::is_flag_of_end(&column.name);
        if is_flag {
            let completed = vec!["true".to_owned()];
            let end = End::Status {
                column: &column.name,
                completed,
            };
            found.push((
                end,
                7,
                Some(format!("{} says that it is over", column.name)),
                vec![],
            ));
        } else if words::is_status(&column.name) && (is_text(column) || column.is_enum) {
            found.extend(status(seen, column, sample));
        // One that each row has from its beginning is no end.
        } else if is_time(column) && words::is_time_of_end(&column.name) && !column.is_not_null {
            let end = End::Time(&column.name);
            found.push((
                end,
                5,
                Some(format!("{} has when it was over", column.name)),
                vec![],
            ));
        }
    }
    found.sort_by_key(|(_, points, _, _)| -points);
    found
}

fn status<'a>(
    seen: &'a Seen,
    column: &'a Column,
    sample: &Sample,
) -> Option<(End<'a>, i32, Option<String>, Vec<String>)> {
    let seen_now = sample.statuses(seen, column).unwrap_or_default();
    let labels = match column.is_enum {
        true => catalog::enum_labels(column.base_type).unwrap_or_default(),
        false => seen_now.keys().cloned().collect(),
    };
    let (completed, others): (Vec<_>, Vec<_>) = labels
        .iter()
        .cloned()
        .partition(|status| words::is_success(status));
    let is_unknown = seen_now.is_empty() && sample.is_empty(seen) != Some(false);
    let is_of_runs =
        is_unknown || !completed.is_empty() || others.iter().any(|it| words::is_open(it));
    if !is_of_runs {
        return None;
    }
    let others: Vec<_> = others
        .into_iter()
        .filter(|status| !words::is_open(status))
        .collect();
    let mut remarks = Vec::new();
    if !others.is_empty() {
        remarks.push(format!(
            "{}.{} has also {}: name those in completed_statuses whose usage is to be charged",
            seen.name,
            column.name,
            others.join(", ")
        ));
    }
    if completed.is_empty() {
        if column.is_enum {
            return None;
        }
        remarks.push(format!(
            "no status in {} reads like a completed one: look at completed_statuses",
            seen.name
        ));
        let reason = format!("{}.{} has the state of a run", seen.name, column.name);
        return Some((
            End::Status {
                column: &column.name,
                completed,
            },
            3,
            Some(reason),
            remarks,
        ));
    }
    let sampled: i64 = seen_now.values().sum();
    let told: Vec<_> = completed
        .iter()
        .map(|status| match seen_now.get(status) {
            Some(rows) => format!("{status} ({rows} of {sampled} sampled rows)"),
            None => status.clone(),
        })
        .collect();
    let reason = format!(
        "{}.{} completes a run: {}",
        seen.name,
        column.name,
        told.join(", ")
    );
    Some((
        End::Status {
            column: &column.name,
            completed,
        },
        8,
        Some(reason),
        remarks,
    ))
}

/// The ways in which runs of a usage may end, best first.
pub(super) fn runs<'a>(seen: &'a Seen, schema: &'a Schema, sample: &Sample) -> Vec<Run<'a>> {
    let mut runs = Vec::new();
    for (column, key_type) in seen.ids() {
        if words::names_model(&column.name) > 0 || words::counts(&column.name).is_some() {
            continue;
        }
        if seen.keys.contains(&column.name) {
            if seen.keys.first() == Some(&column.name) {
                runs.extend(of_own_row(seen, column, sample));
            }
            continue;
        }
        let mut is_found = false;
        for other in &schema.tables {
            if other.table.oid == seen.table.oid || words::pays(&other.name) > 0 {
                continue;
            }
            if !may_end(other) && !words::refers(&column.name, &other.name) {
                continue;
            }
            let same_name = other
                .column(&column.name)
                .filter(|_| words::is_run(&column.name));
            let same_name = same_name.map(|column| column.name.as_str());
            let keys = other.keys.iter().map(String::as_str).chain(same_name);
            let best = keys
                .filter_map(|name| other.column(name))
                .filter_map(|key| {
                    Some((
                        key,
                        evidence((seen, column, key_type), (other, key), sample)?,
                    ))
                })
                .max_by_key(|(_, (points, _))| *points);
            let Some((key, (points, reason))) = best else {
                continue;
            };
            let ends = ends(other, sample);
            let is_of_runs = words::is_run(&column.name) || words::is_of_use(&other.name);
            if ends.is_empty() && is_of_runs && words::refers(&column.name, &other.name) {
                runs.push(Run {
                    column,
                    table: Some((other, key, End::Row)),
                    comes_first: true,
                    points: points / 2 + 1,
                    reasons: vec![reason.clone()],
                    remarks: vec![format!(
                        "{} does not say when a run is over: its usage is charged as it comes",
                        other.name
                    )],
                });
            }
            let is_unique = other.keys.contains(&key.name);
            let points = if is_unique { points } else { points - 6 };
            for (end, more, why, mut remarks) in ends.into_iter().take(2) {
                is_found = true;
                if !is_unique {
                    remarks.push(format!(
                        "{}.{} is not unique: the first row that is over ends them all",
                        other.name, key.name
                    ));
                }
                runs.push(Run {
                    column,
                    table: Some((other, key, end)),
                    comes_first: false,
                    points: points + more + if words::is_run(&column.name) { 2 } else { 0 },
                    reasons: [reason.clone()].into_iter().chain(why).collect(),
                    remarks,
                });
            }
        }
        // A column that nobody fills names no run.
        let has_values = sample.ids(seen, column).is_none_or(|ids| !ids.is_empty());
        let is_filled = has_values || sample.is_empty(seen) == Some(true);
        if words::is_run(&column.name) && is_filled {
            runs.push(Run {
                column,
                table: None,
                comes_first: false,
                points: if is_found { 0 } else { 6 }
                    + i32::from(seen.indexed.contains(&column.name)),
                reasons: vec![format!("{} names a run", column.name)],
                remarks: vec![format!(
                    "no table says when a run is over: call settle_workflow({}) at its end, or have \
                     token_balance.settle_pending(idle => '30 minutes') called by a schedule",
                    column.name
                )],
            });
        }
    }
    runs.sort_by_key(|run| -run.points);
    runs
}

/// A row that is a run of its own: it says when it is over, or is over when it is there.
fn of_own_row<'a>(seen: &'a Seen, column: &'a Column, sample: &Sample) -> Vec<Run<'a>> {
    let mut runs = Vec::new();
    for (end, more, why, remarks) in ends(seen, sample).into_iter().take(2) {
        runs.push(Run {
            column,
            table: Some((seen, column, end)),
            comes_first: false,
            points: 2 + more,
            reasons: [format!(
                "{} is a run of its own by {}",
                seen.name, column.name
            )]
            .into_iter()
            .chain(why)
            .collect(),
            remarks,
        });
    }
    runs.push(Run {
        column,
        table: Some((seen, column, End::Row)),
        comes_first: false,
        points: 5,
        reasons: vec![format!("each row of {} has a key of its own: {}", seen.name, column.name)],
        remarks: vec![
            "each row is charged when it is inserted; late_usage => 'settle' also charges what is added to it".into(),
        ],
    });
    runs
}

/// JSON columns of a table in which there are numbers of tokens, each with the paths to them.
pub(super) fn documents<'a>(
    seen: &'a Seen,
    sample: &Sample,
) -> Vec<(&'a Column, Vec<Vec<String>>)> {
    let mut found = Vec::new();
    for column in &seen.columns {
        if !matches!(column.base_type, pg_sys::JSONOID | pg_sys::JSONBOID) {
            continue;
        }
        let paths = sample.numbers_in(seen, column).unwrap_or_default();
        let is_known = sample.is_empty(seen) == Some(false);
        let of_tokens = |path: &Vec<String>| {
            let is_counted = |name: &String| {
                matches!(
                    words::counts(name),
                    Some(Counts::Total | Counts::Prompt | Counts::Completion)
                )
            };
            path.last().is_some_and(is_counted)
        };
        let paths: Vec<_> = paths.into_iter().filter(of_tokens).collect();
        if !paths.is_empty() || !is_known && words::is_of_figures(&column.name) {
            found.push((column, paths));
        }
    }
    found
}
