//! Usage that only a view can show: tokens in JSON, and accounts that are reached by a join.

use pgrx::pg_sys::InvalidOid;

use super::candidates::{self, End, Link, Run, Usage};
use super::sample::Sample;
use super::tables::{Schema, Seen};
use super::words::{self, Counts};
use super::{Proposal, name_details, name_run, relation, stand_beside};
use crate::binding::{Relation, Spec, Stored};
use crate::error::Result;
use crate::postgres::catalog::{self, Column};
use crate::postgres::quote::{quote_identifier, quote_literal, quote_qualified_identifier};
use crate::postgres::security::current_user;

/// Tables with JSON that are looked into.
const DOCUMENTS: usize = 20;

/// Tables whose tokens are in JSON documents.
pub(super) fn of_documents(
    free: &[&Seen],
    (schema, stored): (&Schema, &[Stored]),
    sample: &Sample,
) -> Result<Vec<Proposal>> {
    let with_documents = free.iter().filter(|seen| {
        words::is_of_use(&seen.name)
            && candidates::usage(seen, sample).is_none_or(|usage| usage.points < 20)
    });
    let mut found = Vec::new();
    for seen in with_documents.take(DOCUMENTS) {
        for (column, paths) in candidates::documents(seen, sample).into_iter().take(1) {
            found.extend(of_document(seen, column, &paths, (schema, stored), sample)?);
        }
    }
    Ok(found)
}

fn of_document(
    seen: &Seen,
    column: &Column,
    paths: &[Vec<String>],
    (schema, stored): (&Schema, &[Stored]),
    sample: &Sample,
) -> Result<Option<Proposal>> {
    let links = candidates::links(seen, schema, sample);
    let Some(way) = way_to_payer(&links, schema, sample) else {
        return Ok(None);
    };
    let title = format!(
        "usage in {}, in JSON, charged to {}",
        seen.table.sql,
        way.payer()
    );
    let points = 22 + way.points();
    let Some(tokens) = tokens_in(column, paths) else {
        return Ok(Some(Proposal {
            call: None,
            title,
            reasons: way.reasons().collect(),
            remarks: vec![format!(
                "{} may have numbers of tokens: {} is empty, so there is no saying which; they need a view",
                column.name, seen.name
            )],
            payer: String::new(),
            run: String::new(),
            points,
        }));
    };
    let names: Vec<_> = paths.iter().map(|path| path.join(".")).collect();
    let reason = format!(
        "{} has numbers of tokens: {}",
        column.name,
        names.join(", ")
    );
    let Some(run) = run_of(seen, &way, schema, sample) else {
        return Ok(None);
    };
    let mut spec = Spec::usual();
    let mut shown = vec![
        format!("u.{} AS workflow_id", run.column.sql()),
        format!("{tokens} AS total_tokens"),
        way.account(),
    ];
    // Others of these names would be shown twice.
    const OURS: &[&str] = &[
        "workflow_id",
        "total_tokens",
        "account_id",
        "model",
        "created_at",
    ];
    if let Some(key) = own_key(seen).filter(|key| !OURS.contains(&key.name.as_str())) {
        shown.insert(0, format!("u.{}", key.sql()));
        spec.usage_id = Some(key.name.clone());
    }
    let model = candidates::model_of_row(seen, true);
    shown.extend(model.map(|model| format!("u.{} AS model", model.sql())));
    let time = candidates::time_of_row(seen);
    shown.extend(time.map(|time| format!("u.{} AS created_at", time.sql())));
    let mut remarks = Vec::new();
    if time.is_none() {
        remarks.push(candidates::has_no_time(seen));
    }
    let call = way.statements(
        seen,
        &run,
        &shown,
        &mut spec,
        (schema, stored),
        &mut remarks,
    )?;
    Ok(Some(Proposal {
        call: Some(call),
        title,
        reasons: [reason]
            .into_iter()
            .chain(way.reasons())
            .chain(run.reasons.clone())
            .collect(),
        remarks,
        payer: String::new(),
        run: String::new(),
        points: points + 12,
    }))
}

/// SQL for the tokens of a row of u.
fn tokens_in(column: &Column, paths: &[Vec<String>]) -> Option<String> {
    let of = |wanted: Counts| {
        let is_it = move |path: &&Vec<String>| {
            path.last().and_then(|name| words::counts(name)) == Some(wanted)
        };
        let mut numbers: Vec<_> = paths
            .iter()
            .filter(is_it)
            .map(|path| number(column, path))
            .collect();
        match numbers.len() {
            0 | 1 => numbers.pop(),
            // Each provider has a name of its own for it.
            _ => Some(format!("COALESCE({})", numbers.join(", "))),
        }
    };
    // A row may have one of them alone.
    let parts = match (of(Counts::Prompt), of(Counts::Completion)) {
        (Some(prompt), Some(completion)) => {
            let [prompt, completion] =
                [prompt, completion].map(|tokens| format!("COALESCE({tokens}, 0)"));
            Some(format!("{prompt} + {completion}"))
        }
        (one, other) => one.or(other),
    };
    match (of(Counts::Total), parts) {
        // And another row has no total: documents differ from provider to provider.
        (Some(total), Some(parts)) => Some(format!("COALESCE({total}, {parts})")),
        (total, parts) => total.or(parts),
    }
}

fn number(column: &Column, path: &[String]) -> String {
    let Some((last, before)) = path.split_last() else {
        return column.sql();
    };
    let mut value = format!("u.{}", column.sql());
    for key in before {
        value += &format!(" -> {}", quote_literal(key));
    }
    // As JSON has them: 12.0, too.
    format!("({value} ->> {})::numeric", quote_literal(last))
}

/// Usage that names no account, but a row that does, or that names a row that does.
pub(super) fn of_joins(
    usage: &Usage,
    links: &[Link],
    (schema, stored): (&Schema, &[Stored]),
    sample: &Sample,
) -> Result<Option<Proposal>> {
    let seen = usage.seen;
    let Some(way) = way_to_payer(links, schema, sample).filter(|way| way.0.len() > 1) else {
        return Ok(None);
    };
    let Some(run) = run_of(seen, &way, schema, sample) else {
        return Ok(None);
    };
    let mut spec = Spec::usual();
    spec.usage_workflow = run.column.name.clone();
    spec.usage_tokens = usage.tokens.iter().map(|name| (*name).to_owned()).collect();
    name_details(&mut spec, usage);
    if let Some(key) = own_key(seen) {
        spec.usage_id = Some(key.name.clone());
    }
    let mut shown = shown_of(&spec, seen);
    shown.push(way.account());
    let mut remarks = usage.remarks.clone();
    if let Some(last) = way.0.get(way.0.len() - 2) {
        remarks.push(format!(
            "where {} refers to another account, all of that usage is charged to the other one, also what was exempt or paid before",
            last.to.table.sql
        ));
    }
    let call = way.statements(
        seen,
        &run,
        &shown,
        &mut spec,
        (schema, stored),
        &mut remarks,
    )?;
    let reasons = usage.reasons.iter().cloned().chain(way.reasons());
    Ok(Some(Proposal {
        call: Some(call),
        title: format!(
            "usage in {}, charged to {} by a join",
            seen.table.sql,
            way.payer()
        ),
        reasons: reasons.chain(run.reasons.clone()).collect(),
        remarks,
        payer: String::new(),
        run: String::new(),
        points: usage.points + way.points() - 4,
    }))
}

/// Of the columns of u those that are bound, and the key: a migration cannot change one that a view shows.
fn shown_of(spec: &Spec, seen: &Seen) -> Vec<String> {
    let details = [
        &spec.usage_id,
        &spec.usage_prompt_tokens,
        &spec.usage_completion_tokens,
        &spec.usage_model,
        &spec.usage_stage,
        &spec.usage_created_at,
    ];
    let is_bound = |column: &&Column| {
        column.name == spec.usage_workflow
            || spec.usage_tokens.contains(&column.name)
            || details
                .iter()
                .any(|detail| detail.as_ref() == Some(&column.name))
    };
    let shown = seen.columns.iter().filter(is_bound);
    shown.map(|column| format!("u.{}", column.sql())).collect()
}

/// The best run that a view can be bound with: of statuses and times that attach takes whatever is in the view.
fn run_of<'a>(seen: &'a Seen, way: &Way, schema: &'a Schema, sample: &Sample) -> Option<Run<'a>> {
    let pays = |column: &Column| way.0.len() == 1 && way.0[0].column.name == column.name;
    let is_taken = |end: &End, table: &Seen| match end {
        End::Status { column, .. } => {
            let column = table.column(column);
            column.is_some_and(|column| column.is_enum || candidates::is_text(column))
        }
        _ => true,
    };
    candidates::runs(seen, schema, sample)
        .into_iter()
        .find(|run| {
            let has_end = run
                .table
                .as_ref()
                .is_none_or(|(table, _, end)| is_taken(end, table));
            !run.comes_first && !pays(run.column) && has_end
        })
}

/// References from a table to one who pays.
struct Way<'a>(Vec<Link<'a>>);

/// The shortest one; of those the one that most speaks for.
fn way_to_payer<'a>(links: &[Link<'a>], schema: &'a Schema, sample: &Sample) -> Option<Way<'a>> {
    if let Some(payer) = candidates::payers(links, sample).into_iter().next() {
        return Some(Way(vec![payer]));
    }
    let mut ways: Vec<Vec<Link>> = links.iter().map(|link| vec![link.clone()]).collect();
    for _ in 0..2 {
        let mut longer = Vec::new();
        let mut best: Option<Vec<Link>> = None;
        for way in &ways {
            let Some(last) = way.last() else { continue };
            let next = candidates::links(last.to, schema, sample);
            if let Some(payer) = candidates::payers(&next, sample).into_iter().next() {
                let way: Vec<_> = way.iter().cloned().chain([payer]).collect();
                let points = |way: &[Link]| way.iter().map(|link| link.points).sum::<i32>();
                if best.as_ref().is_none_or(|best| points(best) < points(&way)) {
                    best = Some(way);
                }
                continue;
            }
            let is_new = |link: &&Link| {
                way.iter()
                    .all(|step| step.to.table.oid != link.to.table.oid)
            };
            longer.extend(next.iter().filter(is_new).map(|link| {
                way.iter()
                    .cloned()
                    .chain([link.clone()])
                    .collect::<Vec<_>>()
            }));
        }
        if let Some(best) = best {
            return Some(Way(best));
        }
        longer.truncate(20);
        ways = longer;
    }
    None
}

impl Way<'_> {
    fn payer(&self) -> String {
        self.0
            .last()
            .map_or_else(String::new, |link| link.to.table.sql.clone())
    }

    fn reasons(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|link| link.reason.clone())
    }

    fn points(&self) -> i32 {
        let least = self.0.iter().map(|link| link.points).min().unwrap_or(0);
        least - 2 * (self.0.len() as i32 - 1)
    }

    /// The account of a row, as the view shows it.
    fn account(&self) -> String {
        let column = self
            .0
            .last()
            .map_or_else(String::new, |link| link.column.sql());
        format!("{}.{column} AS account_id", alias(self.0.len() - 1))
    }

    /// A view that shows these, and the call that binds it. `spec` has what is special of it; it gets the rest.
    fn statements(
        &self,
        seen: &Seen,
        run: &Run,
        shown: &[String],
        spec: &mut Spec,
        (schema, stored): (&Schema, &[Stored]),
        remarks: &mut Vec<String>,
    ) -> Result<String> {
        let Some(payer) = self.0.last() else {
            return Ok(String::new());
        };
        let mut names = (1..).map(|at| match at {
            1 => format!("{}_tokens", seen.name),
            at => format!("{}_tokens_{at}", seen.name),
        });
        let view = loop {
            let name =
                quote_qualified_identifier(&seen.table.schema, names.next().unwrap_or_default());
            if !catalog::is_taken(&name)? {
                break name;
            }
        };
        let mut statements = format!(
            "CREATE VIEW {view} AS SELECT {}\n    FROM {} AS u",
            shown.join(",\n    "),
            seen.table.sql
        );
        for (at, link) in self.0.iter().enumerate().take(self.0.len() - 1) {
            let key = format!("{}.{}", alias(at + 1), link.key.sql());
            let reference = format!("{}.{}", alias(at), link.column.sql());
            statements += &format!(
                "\n    JOIN {} AS {} ON {}",
                link.to.table.sql,
                alias(at + 1),
                [key, reference].join(" = ")
            );
        }
        statements += ";\n";
        let owner = payer.to.table.owner;
        if owner != current_user() {
            let role = quote_identifier(catalog::role_name(owner));
            statements += &format!("GRANT SELECT ON {view} TO {role};\n");
        }
        spec.users = relation(payer.to);
        spec.user_key = payer.key.name.clone();
        spec.usage = Relation {
            oid: InvalidOid,
            name: view,
        };
        spec.usage_user = Some("account_id".into());
        name_run(spec, run);
        remarks.extend(stand_beside(spec, schema, stored));
        remarks.extend(run.remarks.iter().map(|remark| of_view(remark, seen)));
        if !seen.indexed.contains(&run.column.name) {
            remarks.push(format!(
                "no index begins with {}: each settlement would read all of {}",
                run.column.name, seen.name
            ));
        }
        Ok(statements + &spec.shortest_statement(&[]))
    }
}

/// The key of a table's rows.
fn own_key(seen: &Seen) -> Option<&Column> {
    seen.keys.first().and_then(|name| seen.column(name))
}

/// A remark, where the usage is a view of a table: late usage wants to know where it is written.
fn of_view(remark: &str, seen: &Seen) -> String {
    const LATE_USAGE: &str = "late_usage => 'settle'";
    let Some(key) = own_key(seen) else {
        return remark.to_owned();
    };
    let place = format!("{}({})", seen.table.sql, key.sql());
    let places = match place.contains('"') {
        // In the text of an array these would be its own.
        true => format!("ARRAY[{}]", quote_literal(&place)),
        false => format!("'{{{place}}}'"),
    };
    remark.replace(
        LATE_USAGE,
        &format!("{LATE_USAGE}, late_usage_on => {places}"),
    )
}

fn alias(at: usize) -> String {
    match at {
        0 => "u".into(),
        at => format!("j{at}"),
    }
}
