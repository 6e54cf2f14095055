//! The search_path of a binding: in which schemas the application's triggers, defaults and checks
//! find the names that they do not qualify while they run as their tables' owner.
//!
//! The binding keeps names, not OIDs, as a dump does. In force are `pg_catalog`, the bound tables'
//! schemas (whatever they are called by now), what is kept, and `pg_temp` last: what a caller puts
//! there is found by no name that anything else has. In none of the kept schemas a role could create
//! anything that the owners have no reason to trust, unless attach was told so.

use std::ffi::{CStr, CString};
use std::rc::Rc;

use pgrx::pg_sys;

use super::model::Binding;
use super::spec::Spec;
use crate::error::Result;
use crate::postgres::catalog::Table;
use crate::postgres::datum::c_string;
use crate::postgres::quote::quote_identifier;
use crate::postgres::security::{self, SearchPaths};
use crate::postgres::spi;
use crate::postgres::value::Arg;

/// A role that may create in a schema and is not to be trusted.
#[derive(Debug, PartialEq)]
pub(crate) struct Untrusted {
    pub(crate) schema: String,
    pub(crate) who: Who,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Who {
    /// There is no such schema: whoever makes it may create in it.
    Anybody,
    Owner(String),
    /// As GRANT takes it.
    Grantee(String),
}

/// The paths of a binding of these tables.
pub(crate) fn paths(
    spec: &Spec,
    tables: &[&Table],
    extension_owner: pg_sys::Oid,
) -> Result<Rc<SearchPaths>> {
    let (of_tables, of_extension) = if spec.is_of_older_catalog {
        // Runs are not refused between the new library and ALTER EXTENSION UPDATE.
        (None, None)
    } else {
        let names = in_force(spec.search_path.as_deref(), tables);
        let of_tables = value(&names);
        let of_extension = if tables.iter().any(|table| table.owner == extension_owner) {
            of_tables.clone()
        } else {
            value(&trusted_only(names, &[extension_owner])?)
        };
        (Some(of_tables), Some(of_extension))
    };
    Ok(Rc::new(SearchPaths {
        extension_owner,
        of_tables,
        of_extension,
    }))
}

/// The path for a table that is not bound, as one that entries are archived to, when its owner calls:
/// its schema, and of the caller's path what the owner may trust.
pub(crate) fn path_of(table: &Table) -> Result<Rc<CStr>> {
    let names = trusted_only(searched_names()?, &[table.owner])?;
    Ok(value(&in_force(Some(&names), &[table])))
}

/// The schemas in which names are looked up, but for the first and the last one.
pub(crate) fn in_force(kept: Option<&[String]>, tables: &[&Table]) -> Vec<String> {
    let kept = kept.unwrap_or_default();
    let mut names: Vec<String> = Vec::new();
    let schemas = tables.iter().map(|table| &table.schema);
    for name in schemas.filter(|name| !kept.contains(name)).chain(kept) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// As the setting takes it. Where pg_temp is not named, it is searched first for tables and types.
fn value(names: &[String]) -> Rc<CStr> {
    let names = names.iter().filter(|name| can_be_named(name));
    let mut parts = vec!["pg_catalog".to_owned()];
    parts.extend(names.map(quote_identifier));
    parts.push("pg_temp".to_owned());
    let value: CString = c_string(&parts.join(", "));
    value.as_c_str().into()
}

/// Whether the name means that schema in a search_path, and no other place than here.
pub(crate) fn can_be_named(name: &str) -> bool {
    name != "$user" && name != "pg_catalog" && !is_temporary(name)
}

fn is_temporary(name: &str) -> bool {
    name == "pg_temp" || name.starts_with("pg_temp_") || name.starts_with("pg_toast_temp_")
}

impl Binding {
    pub(crate) fn owners(&self) -> Vec<pg_sys::Oid> {
        self.table_refs().iter().map(|table| table.owner).collect()
    }

    /// Whom the owners of the bound tables trust, by role: whoever is one of these, or may act as
    /// one.
    pub(crate) fn trusted(&self) -> Result<Vec<pg_sys::Oid>> {
        let outcome = spi::query(
            "SELECT d.datdba FROM pg_catalog.pg_database AS d \
             WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()",
            &[],
        )?;
        let mut trusted = self.owners();
        trusted.push(self.accounts.extension_owner);
        trusted.extend(outcome.rows.iter().map(|row| row.oid(0)));
        Ok(trusted)
    }

    /// The roles that could put something under the names that the tables' triggers look up.
    pub(crate) fn untrusted_on_path(&self) -> Result<Vec<Untrusted>> {
        let names = in_force(self.spec.search_path.as_deref(), &self.table_refs());
        untrusted(&names, &self.trusted()?)
    }
}

/// The names of the schemas that are searched for the role that acts.
pub(crate) fn searched_names() -> Result<Vec<String>> {
    let outcome = spi::query(
        "SELECT n.nspname FROM pg_catalog.unnest($1::bigint[]) WITH ORDINALITY AS s (id, position) \
         JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) s.id::pg_catalog.oid \
         ORDER BY s.position",
        &[Arg::Int8Array(oids(&security::searched_schemas()))],
    )?;
    Ok(outcome
        .rows
        .iter()
        .map(|row| row.text(0).to_owned())
        .filter(|name| can_be_named(name))
        .collect())
}

pub(crate) fn oids(oids: &[pg_sys::Oid]) -> Vec<i64> {
    oids.iter().map(|oid| oid.to_u32().into()).collect()
}

/// Of schemas, those in which only the `trusted` may create.
pub(crate) fn trusted_only(mut names: Vec<String>, trusted: &[pg_sys::Oid]) -> Result<Vec<String>> {
    let untrusted = untrusted(&names, trusted)?;
    names.retain(|name| !untrusted.iter().any(|found| found.schema == *name));
    Ok(names)
}

/// The roles that may create in one of the schemas and are none of the `trusted`, nor may act as one. A superuser
/// may; PUBLIC may not. A schema's owner may always create: what is revoked he can grant again.
fn untrusted(names: &[String], trusted: &[pg_sys::Oid]) -> Result<Vec<Untrusted>> {
    let outcome = spi::query(
        "SELECT p.name, n.oid IS NULL, c.is_owner, \
         CASE WHEN c.role OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN 'PUBLIC' \
         ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(c.role)) END \
         FROM pg_catalog.unnest($1) WITH ORDINALITY AS p (name, position) \
         LEFT JOIN pg_catalog.pg_namespace AS n \
         ON n.nspname OPERATOR(pg_catalog.=) p.name::pg_catalog.name \
         LEFT JOIN LATERAL (SELECT true AS is_owner, n.nspowner AS role \
         UNION ALL SELECT false, a.grantee FROM pg_catalog.aclexplode(n.nspacl) AS a \
         WHERE a.privilege_type OPERATOR(pg_catalog.=) 'CREATE' \
         AND a.grantee OPERATOR(pg_catalog.<>) n.nspowner) AS c ON true \
         WHERE n.oid IS NULL OR NOT EXISTS (SELECT 1 \
         FROM pg_catalog.unnest($2::bigint[]) AS t (role) \
         WHERE pg_catalog.pg_has_role(CASE WHEN c.role OPERATOR(pg_catalog.=) \
         (SELECT r.oid FROM pg_catalog.pg_roles AS r \
         WHERE r.rolname OPERATOR(pg_catalog.=) 'pg_database_owner'::pg_catalog.name) \
         THEN (SELECT d.datdba FROM pg_catalog.pg_database AS d \
         WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()) \
         ELSE c.role END, t.role::pg_catalog.oid, 'MEMBER')) \
         ORDER BY p.position, c.is_owner DESC, 4",
        &[Arg::TextArray(names), Arg::Int8Array(oids(trusted))],
    )?;
    Ok(outcome
        .rows
        .iter()
        .map(|row| Untrusted {
            schema: row.text(0).to_owned(),
            who: match (row.is_true(1), row.is_true(2)) {
                (true, _) => Who::Anybody,
                (false, true) => Who::Owner(row.text(3).to_owned()),
                (false, false) => Who::Grantee(row.text(3).to_owned()),
            },
        })
        .collect())
}
