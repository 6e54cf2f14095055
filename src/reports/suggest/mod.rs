//! What this database could bind: complete calls of `attach`, best first, each with what speaks for it.
//!
//! Names, types and foreign keys make candidates; values decide among them (`sample.rs`); and `attach`'s own checks
//! have the last word, so that no call is proposed that it would refuse.

mod candidates;
mod sample;
mod tables;
mod views;
mod words;

use std::collections::HashSet;

use candidates::{End, Link, Run, Usage};
use sample::Sample;
use tables::{Schema, Seen};

use crate::attach::could_attach;
use crate::binding::{LateUsage, OutsideChanges, Relation, Spec, Stored};
use crate::error::Result;
use crate::postgres::catalog;
use crate::postgres::notice::notice;
use crate::postgres::security::current_user;
use crate::postgres::view;

/// A binding that is proposed, or a table that only a view makes one of.
pub(crate) struct Proposal {
    /// The statement, with a view before it where one is needed; None: there is none for what is there, and the remarks
    /// say what is missing.
    pub(crate) call: Option<String>,
    title: String,
    pub(crate) reasons: Vec<String>,
    pub(crate) remarks: Vec<String>,

    /// The columns that name who pays and which run: what makes it another proposal for the same usage.
    payer: String,
    run: String,
    points: i32,
}

/// How many are told.
const MOST: usize = 8;
/// Of one usage table.
const MOST_OF_ONE: usize = 3;
/// Tables that are looked at closely.
const TABLES: usize = 15;
/// What it costs a proposal to be of the same usage as one before it, and as much again for the same payer, and run.
const LIKENESS: i32 = 4;
const PAYERS: usize = 3;
const RUNS: usize = 4;

/// The proposals, best first. It reads as the caller may, and changes nothing.
pub(crate) fn suggest() -> Result<Vec<Proposal>> {
    let schema = tables::schema()?;
    let sample = Sample::start();
    let stored = Stored::all()?;
    let mut bound = HashSet::new();
    for Stored { spec, .. } in stored.iter().filter(|stored| stored.is_attached) {
        bound.insert(spec.usage.oid);
        // By what a view of it shows, its usage is charged.
        bound.extend(view::relations_below(spec.usage.oid)?);
    }
    let is_bound = |seen: &Seen| bound.contains(&seen.table.oid);
    let free: Vec<_> = schema
        .tables
        .iter()
        .filter(|seen| !is_bound(seen))
        .collect();
    let mut usages: Vec<_> = free
        .iter()
        .filter_map(|seen| candidates::usage(seen, &sample))
        .collect();
    usages.sort_by(|one, other| {
        (-one.points, &one.seen.table.sql).cmp(&(-other.points, &other.seen.table.sql))
    });
    usages.truncate(TABLES);
    let mut proposals = Vec::new();
    for usage in &usages {
        proposals.extend(of_usage(usage, &schema, &sample, &stored)?);
    }
    proposals.extend(views::of_documents(&free, (&schema, &stored), &sample)?);
    proposals.sort_by(|one, other| {
        (-one.points, &one.call, &one.title).cmp(&(-other.points, &other.call, &other.title))
    });
    proposals.truncate(MOST);
    if schema.has_others {
        notice(
            "tables of other roles were not looked at".into(),
            Some("Only their owner, or a superuser, can bind them.".into()),
            None,
        );
    }
    Ok(proposals)
}

/// What `suggest()` prints: what is bound already, and the proposals.
pub(crate) fn lines() -> Result<Vec<String>> {
    let proposals = suggest()?;
    let mut lines = attached()?;
    if proposals.is_empty() {
        let other = if lines.is_empty() { "no" } else { "no other" };
        lines.push(format!(
            "-- {other} table here looks like usage of tokens that can be charged to anybody"
        ));
    } else if !lines.is_empty() {
        lines.push(String::new());
    }
    for (rank, proposal) in (1..).zip(&proposals) {
        lines.extend(proposal.lines(rank));
    }
    Ok(lines)
}

/// The bindings of those whose rights the caller has, a line each.
fn attached() -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for Stored { spec, is_attached } in Stored::all()? {
        let is_own = catalog::table(spec.usage.oid)?
            .is_some_and(|usage| catalog::acts_for(current_user(), usage.owner));
        if is_attached && is_own {
            lines.push(comment(&format!(
                "{} is attached as \"{}\": it is charged to {}",
                spec.usage.name, spec.name, spec.users.name
            )));
        }
    }
    lines.sort();
    Ok(lines)
}

/// A line that is pasted without an effect, whatever the names in it are.
fn comment(said: &str) -> String {
    format!("-- {}", said.replace(['\n', '\r'], " "))
}

/// What can be made of a usage table.
fn of_usage(
    usage: &Usage,
    schema: &Schema,
    sample: &Sample,
    stored: &[Stored],
) -> Result<Vec<Proposal>> {
    let links = candidates::links(usage.seen, schema, sample);
    let payers = candidates::payers(&links, sample);
    let runs = candidates::runs(usage.seen, schema, sample);
    let mut found = Vec::new();
    let mut refused = None;
    let mut told = HashSet::new();
    for payer in payers.iter().take(PAYERS) {
        for run in runs
            .iter()
            .filter(|run| run.column.name != payer.column.name)
            .take(RUNS)
        {
            found.extend(proposal(
                usage,
                Payer::Usage(payer),
                run,
                (schema, stored),
                &mut refused,
            ));
        }
    }
    for run in runs.iter().take(RUNS) {
        let Some((table, ..)) = &run.table else {
            continue;
        };
        if table.table.oid == usage.seen.table.oid {
            continue;
        }
        let of_run = candidates::payers(&candidates::links(table, schema, sample), sample);
        if let Some(payer) = of_run.first() {
            found.extend(proposal(
                usage,
                Payer::Run(payer),
                run,
                (schema, stored),
                &mut refused,
            ));
        }
    }
    found.sort_by_key(|proposal| -proposal.points);
    found.retain(|proposal| told.insert(proposal.call.clone()));
    let mut found = unlike(found);
    if payers.is_empty() {
        found.extend(views::of_joins(usage, &links, (schema, stored), sample)?);
    }
    if found.is_empty() {
        found.extend(refused);
    }
    Ok(found)
}

/// The best, and those that are least like it: another one who pays, other runs.
fn unlike(mut rest: Vec<Proposal>) -> Vec<Proposal> {
    let mut chosen: Vec<Proposal> = Vec::new();
    while chosen.len() < MOST_OF_ONE && !rest.is_empty() {
        let points = |it: &Proposal| {
            let likeness = |other: &Proposal| {
                i32::from(it.payer == other.payer) + i32::from(it.run == other.run) + 1
            };
            it.points - LIKENESS * chosen.iter().map(likeness).sum::<i32>()
        };
        let best = (0..rest.len()).max_by_key(|at| (points(&rest[*at]), std::cmp::Reverse(*at)));
        let Some(best) = best else { break };
        let points = points(&rest[best]);
        let mut next = rest.remove(best);
        next.points = points;
        chosen.push(next);
    }
    chosen
}

/// Who pays.
enum Payer<'p, 'a> {
    /// The account that the usage names.
    Usage(&'p Link<'a>),
    /// The one that the run's row names.
    Run(&'p Link<'a>),
}

fn relation(seen: &Seen) -> Relation {
    Relation {
        oid: seen.table.oid,
        name: seen.table.sql.clone(),
    }
}

/// One, if attach would take it. If not, and it would be the first one, `refused` gets it, with why.
fn proposal(
    usage: &Usage,
    payer: Payer,
    run: &Run,
    (schema, stored): (&Schema, &[Stored]),
    refused: &mut Option<Proposal>,
) -> Option<Proposal> {
    let (Payer::Usage(link) | Payer::Run(link)) = payer;
    let mut spec = Spec::usual();
    spec.users = relation(link.to);
    spec.user_key = link.key.name.clone();
    spec.usage = relation(usage.seen);
    spec.usage_workflow = run.column.name.clone();
    spec.usage_tokens = usage.tokens.iter().map(|name| (*name).to_owned()).collect();
    let mut points = usage.points + link.points + run.points;
    let mut remarks = usage.remarks.clone();
    match payer {
        Payer::Usage(link) => spec.usage_user = Some(link.column.name.clone()),
        Payer::Run(link) => {
            spec.usage_user = None;
            spec.workflow_user = Some(link.column.name.clone());
            points -= 4;
        }
    }
    name_run(&mut spec, run);
    name_details(&mut spec, usage);
    remarks.extend(stand_beside(&mut spec, schema, stored));
    if let Some(balance) = link.to.column(&spec.balance_column) {
        remarks.push(format!(
            "{} has a column {} already: it is kept",
            link.to.name, balance.name
        ));
    }
    let key_type = |type_name: &str| type_name.split('(').next().unwrap_or_default().to_owned();
    for (one, other) in [
        (link.column, link.key),
        (
            run.column,
            run.table.as_ref().map_or(run.column, |(_, key, _)| *key),
        ),
    ] {
        if key_type(&one.type_name) != key_type(&other.type_name) {
            remarks.push(format!(
                "{} is {}, and {} is {}: ids are compared by the key's type",
                one.name, one.type_name, other.name, other.type_name
            ));
        }
    }
    remarks.extend(run.remarks.iter().cloned());
    let mut more = Vec::new();
    if !usage.seen.indexed.contains(&run.column.name) {
        more.push("create_index => true".to_owned());
        remarks.push(format!(
            "no index begins with {}: create_index makes one, and locks writes to {} meanwhile; on a large table make \
             it before, CONCURRENTLY",
            run.column.name, usage.seen.name
        ));
    }
    let reasons = usage
        .reasons
        .iter()
        .chain([&link.reason])
        .chain(&run.reasons);
    let mut proposal = Proposal {
        call: None,
        title: title(usage, link, run),
        reasons: reasons.cloned().collect(),
        remarks,

        payer: format!("{} {}", link.to.table.sql, link.column.name),
        run: run.column.name.clone(),
        points,
    };
    match could_attach(&spec, stored).or_else(|error| {
        // Columns that only `summary` shows are no reason to refuse all.
        spec.usage_prompt_tokens = None;
        spec.usage_completion_tokens = None;
        could_attach(&spec, stored).map_err(|_| error)
    }) {
        Ok(()) => {
            proposal.call = Some(spec.shortest_statement(&more));
            Some(proposal)
        }
        Err(error) => {
            if refused.as_ref().is_none_or(|other| other.points < points) {
                let report = pgrx::pg_sys::panic::ErrorReport::from(error);
                proposal.remarks = vec![format!("attach refuses it: {}", report.message())];
                proposal.remarks.extend(report.detail().map(str::to_owned));
                proposal
                    .remarks
                    .push("a view, or a generated column, can show it otherwise".into());
                proposal.points -= 10;
                *refused = Some(proposal);
            }
            None
        }
    }
}

fn title(usage: &Usage, link: &Link, run: &Run) -> String {
    let end = match &run.table {
        Some((table, _, _)) if table.table.oid == usage.seen.table.oid => "each row a run".into(),
        Some((table, _, _)) => format!("runs in {}", table.table.sql),
        None => format!("runs by {}", run.column.name),
    };
    format!(
        "usage in {}, charged to {}, {end}",
        usage.seen.table.sql, link.to.table.sql
    )
}

/// The columns that `summary` shows. Their usual names are no names of others.
fn name_details(spec: &mut Spec, usage: &Usage) {
    let named = |name: Option<&str>| name.map(str::to_owned);
    let has = |name: &str| usage.seen.column(name).is_some();
    if usage.prompt.is_some() && !has("prompt_tokens") {
        spec.usage_prompt_tokens = named(usage.prompt);
    }
    if usage.completion.is_some() && !has("completion_tokens") {
        spec.usage_completion_tokens = named(usage.completion);
    }
    if usage.model.is_some() && !has("model") {
        spec.usage_model = named(usage.model);
    }
    if usage.time.is_some() || has("created_at") {
        spec.usage_created_at = named(usage.time);
    }
}

/// The table with the runs, and what ends one.
fn name_run(spec: &mut Spec, run: &Run) {
    if let Some((table, key, end)) = &run.table {
        spec.workflows = Some(relation(table));
        spec.workflow_key = key.name.clone();
        match end {
            End::Status { column, completed } => {
                spec.workflow_status = Some((*column).to_owned());
                let usual = Spec::usual().completed_statuses;
                if !completed.iter().all(|status| usual.contains(status)) {
                    spec.completed_statuses = completed.clone();
                }
            }
            End::Time(column) => spec.workflow_completed_at = Some((*column).to_owned()),
            End::Row => spec.workflow_status = None,
        }
    }
    if run.comes_first {
        spec.options.late_usage = LateUsage::Settle;
    }
}

/// A name of its own where the usual one is taken; what bindings of the same accounts have in common, or what their ORM
/// needs, which is to be remarked.
fn stand_beside(spec: &mut Spec, schema: &Schema, stored: &[Stored]) -> Option<String> {
    let attached = || {
        stored
            .iter()
            .filter(|stored| stored.is_attached)
            .map(|stored| &stored.spec)
    };
    let is_taken = |name: &str| attached().any(|other| other.name == name);
    if is_taken(&spec.name) {
        let table = spec
            .usage
            .name
            .rsplit('.')
            .next()
            .unwrap_or_default()
            .replace('"', "");
        let mut names =
            std::iter::once(table.clone()).chain((2..).map(|at| format!("{table}_{at}")));
        spec.name = names.find(|name| !is_taken(name)).unwrap_or(table);
    }
    if let Some(other) = attached().find(|other| {
        other.users.oid == spec.users.oid && other.balance_column == spec.balance_column
    }) {
        spec.options.busy_account = other.options.busy_account;
        spec.options.outside_changes = other.options.outside_changes;
        return None;
    }
    let orm = schema
        .names
        .iter()
        .find_map(|name| words::saves_whole_rows(name))?;
    spec.options.outside_changes = OutsideChanges::Keep;
    Some(format!(
        "outside_changes => 'keep': {orm} saves whole rows, with the balance that it has read"
    ))
}

impl Proposal {
    /// The proposal as lines that can be read, and pasted as a whole: all but the statement are comments.
    fn lines(&self, rank: usize) -> Vec<String> {
        let indented = |line: &String| comment(&format!("   {line}"));
        let mut lines = vec![comment(&format!("{rank}. {}", self.title))];
        lines.extend(self.reasons.iter().map(indented));
        if !self.remarks.is_empty() {
            lines.push(comment(" to watch:"));
            lines.extend(self.remarks.iter().map(indented));
        }

        let call = self.call.iter().flat_map(|call| call.lines());
        lines.extend(call.map(str::to_owned));
        lines.push(String::new());
        lines
    }
}
