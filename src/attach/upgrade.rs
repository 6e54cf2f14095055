//! What `ALTER EXTENSION token_balance UPDATE` does to the bound tables.

use pgrx::pg_sys;
use pgrx::prelude::PgLogLevel;

use super::attach::attach_for;
use super::check::check;
use super::convention::NotCreatingExtension;
use super::remembered::Said;
use super::search_path::Attacher;
use super::wanted_triggers::triggers;
use crate::binding::{Binding, Spec, Stored};
use crate::error::Result;
use crate::postgres::patience::StrongLocks;
use crate::postgres::security::RunAs;
use crate::postgres::spi;
use crate::postgres::value::Arg;

/// Give the bound tables the completion triggers and grants of this version, and the binding the
/// search_path that it has not chosen yet. Bound tables that are
/// gone or changed need not keep the rest from being updated: a WARNING says so.
pub(crate) fn upgrade() -> Result<()> {
    for spec in Stored::attached()? {
        match check(spec) {
            Ok(binding) => renew(binding)?,
            Err(error) => error.report(PgLogLevel::WARNING),
        }
    }
    Ok(())
}

fn renew(binding: Binding) -> Result<()> {
    // Triggers and grants are the application's, not the extension's.
    let _not_creating = NotCreatingExtension::start();
    {
        let _owner = RunAs::owner(binding.accounts.extension_owner);
        let mut locks = StrongLocks::default();
        // No older version has more than one binding.
        let triggers = triggers(&binding, &[]);
        for trigger in &triggers {
            if trigger.has_condition() {
                locks.add(trigger.table.oid, pg_sys::AccessExclusiveLock)?;
            }
        }
        locks.take()?;
        for trigger in &triggers {
            if trigger.has_condition() {
                trigger.renew()?;
            }
        }
    }
    let spec = Spec {
        initial_balance: None,
        ..binding.spec
    };
    attach_for(Attacher::Update, spec, false, Said::default()).map(|_| ())
}

/// Grant the function `after`, which takes the place of `before`, to those who were granted that one.
pub(crate) fn upgrade_grants(before: pg_sys::Oid, after: pg_sys::Oid) -> Result<()> {
    let _not_creating = NotCreatingExtension::start();
    let grants = spi::query(
        "SELECT pg_catalog.format('GRANT EXECUTE ON ROUTINE %s TO %s%s', \
         $2::pg_catalog.oid::pg_catalog.regprocedure, \
         CASE acl.grantee OPERATOR(pg_catalog.<>) 0 \
         WHEN true THEN pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(acl.grantee)) \
         ELSE 'PUBLIC' END, \
         CASE WHEN acl.is_grantable THEN ' WITH GRANT OPTION' END) \
         FROM pg_catalog.pg_proc AS p, pg_catalog.aclexplode(p.proacl) AS acl \
         WHERE p.oid OPERATOR(pg_catalog.=) ($1::pg_catalog.oid) \
         AND acl.grantee OPERATOR(pg_catalog.<>) p.proowner",
        &[
            Arg::Int8(before.to_u32().into()),
            Arg::Int8(after.to_u32().into()),
        ],
    )?;
    for grant in &grants.rows {
        spi::command(grant.text(0))?;
    }
    Ok(())
}
