//! Views: which tables one reads, with whose rights, what it says, and what in it is not the same for everybody.

use std::collections::HashSet;

use pgrx::pg_sys;

use super::catalog::{self, Table, query};
use super::datum::c_string;
use super::quote::QuotedWhereNeeded;
use super::security::{NOTHING_ELSE, RunAs, current_user};
use super::value::{Arg, texts};
use crate::error::{Error, Result};

/// What a view is made of, with the views below it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct View {
    /// The tables that it reads, in the order of their OIDs.
    pub(crate) tables: Vec<Table>,
    pub(crate) definition: Definition,
    /// A table whose policies would hide rows from a role whose rights count there, and that role.
    hidden: Option<(String, String)>,
    /// A table that a role may not read whose rights count there, and that role.
    unreadable: Option<(String, String)>,
    /// What in it may give another answer to the same rows, in words.
    unsteady: Vec<String>,
}

/// What a view says. It is the same one as long as either is: a rename changes the text and not the rule, a restore
/// the rule, which has OIDs, and not the text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Definition {
    pub(crate) text: String,
    pub(crate) rule: String,
}

impl Definition {
    pub(crate) fn is_same(&self, other: &Definition) -> bool {
        self.text == other.text || self.rule == other.rule
    }
}

impl View {
    /// The view `table`, as it is for each of `readers`.
    ///
    /// Error 42809 if it reads what is no ordinary or partitioned table.
    pub(crate) fn of(table: &Table, readers: &[pg_sys::Oid]) -> Result<Self> {
        let mut looking = Looking::default();
        for reader in readers {
            looking.look(table, *reader)?;
        }
        let mut tables: Vec<_> = looking
            .read
            .iter()
            .map(|(table, _)| table.clone())
            .collect();
        tables.sort_by_key(|table| table.oid.to_u32());
        tables.dedup();
        let first = |is_so: fn(&Table, pg_sys::Oid) -> bool| {
            let mut found = looking
                .read
                .iter()
                .filter(|(table, role)| is_so(table, *role));
            found
                .next()
                .map(|(table, role)| (table.sql.clone(), catalog::role_name(*role)))
        };
        let (hidden, unreadable) = (first(hides), first(is_unreadable));
        let mut views = looking.views;
        let text = views.iter().map(|view| view.text.as_str());
        let text = text.collect::<Vec<_>>().join("\n");
        views.sort_by_key(|view| view.oid.to_u32());
        let rules: Vec<_> = views.iter().map(|view| view.rule.as_str()).collect();
        Ok(View {
            tables,
            definition: Definition {
                text,
                rule: rules.join(" "),
            },
            hidden,
            unreadable,
            unsteady: views.into_iter().flat_map(|view| view.unsteady).collect(),
        })
    }

    /// Errors: 42P17 if it may give another answer to the same rows, 42501 if a table below it may not be read, or
    /// policies would hide rows of it.
    pub(crate) fn check(&self, relation: &str) -> Result<()> {
        if !self.unsteady.is_empty() {
            let mut functions = self.unsteady.clone();
            functions.sort_unstable();
            functions.dedup();
            return Err(Error::UnsteadyView {
                relation: relation.to_owned(),
                functions,
            });
        }
        if let Some((table, role)) = &self.unreadable {
            return Err(Error::UnreadableRelation {
                is_whole: true,
                relation: table.clone(),
                role: role.clone(),
            });
        }
        match &self.hidden {
            Some((table, role)) => Err(Error::ViewHidesRows {
                relation: relation.to_owned(),
                table: table.clone(),
                role: role.clone(),
            }),
            None => Ok(()),
        }
    }
}

/// Whether policies of the table apply to the role. From `check_enable_rls`, in the context in which the owner reads
/// a table that forces its policies.
fn hides(table: &Table, role: pg_sys::Oid) -> bool {
    // SAFETY: a syscache lookup.
    let bypasses = unsafe { pg_sys::has_bypassrls_privilege(role) };
    table.has_policies && !bypasses && !catalog::acts_for(role, table.owner)
}

/// Whether the role may read no column of the table.
fn is_unreadable(table: &Table, role: pg_sys::Oid) -> bool {
    let select = pg_sys::ACL_SELECT as pg_sys::AclMode;
    // SAFETY: syscache lookups of a table that was found just now.
    let of_columns = unsafe {
        pg_sys::pg_attribute_aclcheck_all(table.oid, role, select, pg_sys::AclMaskHow::ACLMASK_ANY)
    };
    !catalog::may_select(role, table.oid) && of_columns != pg_sys::AclResult::ACLCHECK_OK
}

struct OneView {
    oid: pg_sys::Oid,
    text: String,
    rule: String,
    unsteady: Vec<String>,
}

#[derive(Default)]
struct Looking {
    seen: HashSet<(pg_sys::Oid, pg_sys::Oid)>,
    /// In the order in which they are met.
    views: Vec<OneView>,
    read: Vec<(Table, pg_sys::Oid)>,
}

impl Looking {
    fn look(&mut self, view: &Table, reader: pg_sys::Oid) -> Result<()> {
        if !self.seen.insert((view.oid, reader)) {
            return Ok(());
        }
        if self.views.iter().all(|known| known.oid != view.oid) {
            self.views.push(one(view)?);
        }
        let reader = match is_for_invoker(view.oid)? {
            true => reader,
            false => view.owner,
        };
        for table in read_by(view.oid)? {
            if table.is_view() {
                self.look(&table, reader)?;
                continue;
            }
            if let Some(kind) = table.unsupported_kind() {
                return Err(Error::WrongRelationKind {
                    name: table.sql,
                    kind,
                });
            }
            self.read.push((table, reader));
        }
        Ok(())
    }
}

/// All that a view reads, the views below it included; nothing if it is no view.
pub(crate) fn relations_below(relation: pg_sys::Oid) -> Result<Vec<pg_sys::Oid>> {
    let mut found = vec![relation];
    let mut at = 0;
    while let Some(view) = found.get(at) {
        for table in read_by(*view)? {
            if !found.contains(&table.oid) {
                found.push(table.oid);
            }
        }
        at += 1;
    }
    Ok(found.split_off(1))
}

/// The functions that any of these views calls itself. They are read from the rules as they are stored: the server keeps
/// no dependency on functions of its own.
pub(crate) fn functions_of(views: &[pg_sys::Oid]) -> Result<Vec<pg_sys::Oid>> {
    let oids = views.iter().map(|view| view.to_u32().into()).collect();
    let outcome = query(
        "SELECT DISTINCT m[1]::pg_catalog.oid FROM pg_catalog.pg_rewrite AS r, \
         pg_catalog.regexp_matches(r.ev_action::pg_catalog.text, \
         ':(?:funcid|opfuncid|aggfnoid|winfnoid) ([0-9]+)', 'g') AS m \
         WHERE r.ev_class OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.oid[]) \
         AND r.ev_type OPERATOR(pg_catalog.=) '1'::pg_catalog.\"char\"",
        &[Arg::Int8Array(oids)],
    )?;
    Ok(outcome.rows.iter().map(|row| row.oid(0)).collect())
}

/// The relations that a view names, by name; none if it is no view.
fn read_by(view: pg_sys::Oid) -> Result<Vec<Table>> {
    let outcome = query(
        "SELECT DISTINCT d.refobjid FROM pg_catalog.pg_rewrite AS r \
         JOIN pg_catalog.pg_depend AS d \
         ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass::pg_catalog.oid \
         AND d.objid OPERATOR(pg_catalog.=) r.oid \
         AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid \
         AND d.refobjid OPERATOR(pg_catalog.<>) r.ev_class \
         WHERE r.ev_class OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) \
         AND r.ev_type OPERATOR(pg_catalog.=) '1'::pg_catalog.\"char\"",
        &[Arg::Int8(view.to_u32().into())],
    )?;
    let mut tables = Vec::new();
    for row in &outcome.rows {
        tables.extend(catalog::table(row.oid(0))?.filter(|table| !table.is_type()));
    }
    tables.sort_by(|one, other| one.sql.cmp(&other.sql));
    Ok(tables)
}

/// Whether the rights that count below it are those of who reads it.
fn is_for_invoker(view: pg_sys::Oid) -> Result<bool> {
    catalog::exists(
        "SELECT 1 FROM pg_catalog.pg_class AS c, pg_catalog.pg_options_to_table(c.reloptions) AS o \
         WHERE c.oid OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) \
         AND o.option_name OPERATOR(pg_catalog.=) 'security_invoker' AND o.option_value::boolean",
        &[Arg::Int8(view.to_u32().into())],
    )
}

/// Names are qualified, whatever the search_path of who asks, and quoted as ever.
fn one(view: &Table) -> Result<OneView> {
    let _names = QuotedWhereNeeded::start();
    let _path = RunAs::as_before(current_user(), &Some(NOTHING_ELSE.into()));
    let oid = || Arg::Int8(view.oid.to_u32().into());
    let said = query(
        "SELECT pg_catalog.pg_get_viewdef(r.ev_class), pg_catalog.md5(r.ev_action::pg_catalog.text), \
         r.ev_action::pg_catalog.text \
         FROM pg_catalog.pg_rewrite AS r WHERE r.ev_class OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) \
         AND r.ev_type OPERATOR(pg_catalog.=) '1'::pg_catalog.\"char\"",
        &[oid()],
    )?;
    let (text, rule, tree) = match said.rows.first() {
        Some(row) => (row.text(0), row.text(1), row.text(2)),
        None => Default::default(),
    };
    let called = functions_of(&[view.oid])?;
    let called = || Arg::Int8Array(called.iter().map(|oid| oid.to_u32().into()).collect());
    let mut unsteady = texts(&query(UNSTEADY, &[oid(), called()])?.rows, 0);
    if unsteady.is_empty() && is_mutable(tree) {
        unsteady.push("a conversion of values whose text depends on settings".into());
    }
    let bodies = query(BODIES, &[called()])?;
    let bodies = bodies.rows.first().map_or("", |row| row.text(0));
    Ok(OneView {
        oid: view.oid,
        text: format!("{text}{bodies}"),
        rule: format!("{rule}{bodies}"),
        unsteady,
    })
}

/// Whether something in a stored rule is not immutable, by the server's own judgement: of conversions, too.
fn is_mutable(tree: &str) -> bool {
    let tree = c_string(tree);
    // SAFETY: the rule's text as the server itself has stored it; what is made of it lives as long as the query.
    unsafe {
        let rule = pg_sys::stringToNode(tree.as_ptr());
        pg_sys::contain_mutable_functions(rule.cast())
    }
}

/// What in the view $1, which calls the functions $2, may give another answer to the same rows: functions that are not
/// immutable, and what the order or the place of rows decides.
const UNSTEADY: &str = "
WITH rule AS (
    SELECT r.ev_action::pg_catalog.text AS tree FROM pg_catalog.pg_rewrite AS r
    WHERE r.ev_class OPERATOR(pg_catalog.=) ($1::pg_catalog.oid)
    AND r.ev_type OPERATOR(pg_catalog.=) '1'::pg_catalog.\"char\"
)
SELECT f.oid::pg_catalog.regprocedure::pg_catalog.text
FROM pg_catalog.pg_proc AS f
WHERE f.provolatile OPERATOR(pg_catalog.<>) 'i'::pg_catalog.\"char\"
AND f.oid OPERATOR(pg_catalog.=) ANY ($2::pg_catalog.oid[])
UNION ALL
SELECT w.said FROM rule, (VALUES
    ('[{]SQLVALUEFUNCTION ', 'CURRENT_USER, CURRENT_DATE or the like'),
    ('[{](?:RANGE)?TABLESAMPLE(?:CLAUSE)? ', 'TABLESAMPLE'),
    (':sortClause <> :limitOffset (?:[{]|<> :limitCount [{])', 'LIMIT or OFFSET without ORDER BY'),
    (':varattno -', 'a system column')
) AS w (pattern, said)
WHERE rule.tree OPERATOR(pg_catalog.~) w.pattern
ORDER BY 1";

/// What those of the functions $1 do that are not the server's own: a checksum of each.
const BODIES: &str = "
SELECT pg_catalog.string_agg(' ' OPERATOR(pg_catalog.||) b.body, '' ORDER BY b.body)
FROM pg_catalog.pg_proc AS f, LATERAL (SELECT pg_catalog.md5(
    f.prosrc OPERATOR(pg_catalog.||) COALESCE(f.probin, '')
    OPERATOR(pg_catalog.||) COALESCE(pg_catalog.pg_get_function_sqlbody(f.oid), ''))) AS b (body)
WHERE f.pronamespace OPERATOR(pg_catalog.<>) 'pg_catalog'::pg_catalog.regnamespace::pg_catalog.oid
AND f.oid OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.oid[])";
