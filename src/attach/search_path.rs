//! Which search_path a binding is given where attach is told none, and whether it can be given the one that
//! attach is told.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

use crate::binding::search_path::{
    can_be_named, in_force, oids, paths, searched_names, trusted_only,
};
use crate::binding::{Binding, Spec};
use crate::error::{Error, Result};
use crate::postgres::catalog;
use crate::postgres::datum::c_string;
use crate::postgres::security::{self, RunAs, SearchPath};
use crate::postgres::spi;
use crate::postgres::value::{Arg, Row};

/// Whose search_path is meant where attach is told none.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Attacher {
    /// The caller of attach.
    Session,
    /// The role that runs CREATE EXTENSION: its script has a search_path of its own.
    CreateExtension,
    /// The role that updates the extension, which did not think of search paths: those of the owners count as well.
    Update,
}

impl Attacher {
    pub(super) fn of(is_in_script: bool) -> Self {
        if is_in_script {
            Attacher::CreateExtension
        } else {
            Attacher::Session
        }
    }
}

/// What attach was told.
///
/// Errors: 22023 for a schema that no search_path can name, or that is there twice; 3F000 for one
/// that does not exist.
pub(super) fn check(names: &[String]) -> Result<()> {
    for (at, name) in names.iter().enumerate() {
        let problem = if !can_be_named(name) {
            "Name schemas of your own: pg_catalog is first and pg_temp last in any case."
        } else if names[..at].contains(name) {
            "Name each schema once."
        } else if !catalog::exists(
            "SELECT 1 FROM pg_catalog.pg_namespace AS n \
             WHERE n.nspname OPERATOR(pg_catalog.=) $1::pg_catalog.name",
            &[Arg::Text(name)],
        )? {
            return Err(Error::SchemaMissing {
                schema: name.clone(),
            });
        } else {
            continue;
        };
        return Err(Error::InvalidArgument {
            message: format!("search_path names schema \"{name}\""),
            detail: None,
            hint: Some(problem.into()),
        });
    }
    Ok(())
}

impl Binding {
    /// Take what attach is to keep where it is told nothing: what is kept already, or else the bound
    /// tables' schemas, and of the attacher's path what the tables' owners may trust.
    pub(super) fn choose_search_path(
        &mut self,
        present: Option<&Spec>,
        attacher: Attacher,
    ) -> Result<()> {
        self.spec.is_of_older_catalog = !Spec::has_search_path()?;
        if self.spec.is_of_older_catalog {
            self.spec.search_path = None;
        } else if self.spec.search_path.is_none() {
            self.spec.search_path = match present.and_then(|present| present.search_path.clone()) {
                Some(kept) => Some(kept),
                None => Some(self.usual_search_path(attacher)?),
            };
        }
        self.accounts.paths = paths(
            &self.spec,
            &self.table_refs(),
            self.accounts.extension_owner,
        )?;
        Ok(())
    }

    fn usual_search_path(&self, attacher: Attacher) -> Result<Vec<String>> {
        let mut names = match attacher {
            Attacher::Session => searched_names()?,
            Attacher::CreateExtension | Attacher::Update => {
                searched_names_with(security::search_path_before().as_deref())?
            }
        };
        if attacher == Attacher::Update {
            for path in self.owners_settings()? {
                let _owner = RunAs::owner(path.0);
                names.extend(searched_names_with(Some(&path.1))?);
            }
        }
        let safe = trusted_only(names, &self.trusted()?)?;
        Ok(in_force(Some(&[]), &self.table_refs())
            .into_iter()
            .chain(safe)
            .fold(Vec::new(), |mut all, name| {
                if !all.contains(&name) && can_be_named(&name) {
                    all.push(name);
                }
                all
            }))
    }

    /// The search paths that ALTER ROLE has given to owners of bound tables, here or everywhere.
    fn owners_settings(&self) -> Result<Vec<(pg_sys::Oid, CString)>> {
        let outcome = spi::query(
            "SELECT s.setrole, pg_catalog.substr(c.setting, 13) \
             FROM pg_catalog.pg_db_role_setting AS s, \
             pg_catalog.unnest(s.setconfig) AS c (setting) \
             WHERE s.setrole OPERATOR(pg_catalog.=) ANY ($1::bigint[]::pg_catalog.oid[]) \
             AND s.setdatabase OPERATOR(pg_catalog.=) ANY (ARRAY[0::pg_catalog.oid, \
             (SELECT d.oid FROM pg_catalog.pg_database AS d \
             WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())]) \
             AND pg_catalog.starts_with(c.setting, 'search_path=') \
             ORDER BY s.setdatabase DESC, s.setrole",
            &[Arg::Int8Array(oids(&self.owners()))],
        )?;
        let setting = |row: &Row| (row.oid(0), c_string(row.text(1)));
        Ok(outcome.rows.iter().map(setting).collect())
    }
}

/// The names of the schemas that are searched for the role that acts, with another search_path.
fn searched_names_with(path: Option<&CStr>) -> Result<Vec<String>> {
    let _path = path.map(SearchPath::enter);
    searched_names()
}
