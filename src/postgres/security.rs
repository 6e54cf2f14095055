//! As which role a statement runs, and with which search_path: the owner of the tables that it touches, and
//! the path that `attach` has stored (DESIGN, parts O and X).
//!
//! The pattern is PostgreSQL's own for foreign-key checks (`ri_PerformCheck` in `ri_triggers.c`):
//! code that an application put on its table (a trigger, a default, an index expression) runs as
//! that table's owner, never as the extension's owner. Unlike there, the names that this code does
//! not qualify are not looked up where the caller wants them to be: what he puts into his temporary
//! schema would run with the owner's rights.
//!
//! The path is a nest level of the server's settings, as around a function with `SET search_path`
//! (`fmgr_security_definer` in fmgr.c) and around index builds (`RestrictSearchPath` in guc.c). Any
//! error takes it back: AtEOXact_GUC of the (sub)transaction that aborts.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char};
use std::rc::Rc;

use pgrx::pg_sys;

use super::raw;
use super::unwind::unless_unwinding;
use super::versions;

/// What is in force before a binding is known: nothing but the server's own.
pub(crate) const NOTHING_ELSE: &CStr = c"pg_catalog, pg_temp";

/// The search paths of a binding, as values of the setting; None: the caller's, on the catalog of an
/// older version, whose triggers were found nothing else for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SearchPaths {
    pub(crate) extension_owner: pg_sys::Oid,
    /// For the bound tables, and what their triggers touch.
    pub(crate) of_tables: Option<Rc<CStr>>,
    /// For the extension's own tables: without the schemas in which a role may create that the
    /// extension's owner, a superuser, has no reason to trust.
    pub(crate) of_extension: Option<Rc<CStr>>,
}

impl SearchPaths {
    fn of(&self, role: pg_sys::Oid) -> Option<Rc<CStr>> {
        if role == self.extension_owner {
            self.of_extension.clone()
        } else {
            self.of_tables.clone()
        }
    }
}

thread_local! {
    /// Of the binding that was used last. Whoever reads the binding sets it anew at each use, so
    /// what makes the binding stale makes this so too.
    static PATHS: RefCell<Option<Rc<SearchPaths>>> = const { RefCell::new(None) };
    /// What statements are to be run with; None: the caller's, while nobody else acts.
    static WANTED: RefCell<Option<Rc<CStr>>> = const { RefCell::new(None) };
}

/// From here on, go by the paths of this binding.
pub(crate) fn follow(paths: &Rc<SearchPaths>) {
    PATHS.with_borrow_mut(|present| {
        if !present.as_ref().is_some_and(|it| Rc::ptr_eq(it, paths)) {
            *present = Some(paths.clone());
        }
    });
}

/// While this value lives, the paths are those of a binding that is being made.
pub(crate) struct Following(Option<Rc<SearchPaths>>);

impl Following {
    pub(crate) fn start(paths: &Rc<SearchPaths>) -> Self {
        Following(PATHS.replace(Some(paths.clone())))
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        PATHS.set(self.0.take());
    }
}

/// While this value lives, the backend acts as `owner`. Dropping it restores the caller, also when
/// an error unwinds; a transaction abort restores it as well.
///
/// The search_path is set where a statement is run ([`SearchPath::wanted`]): what the extension reads
/// and writes without one looks no name up and runs nobody's code.
pub(crate) struct RunAs {
    user: pg_sys::Oid,
    context: i32,
    wanted: Option<Rc<CStr>>,
}

impl RunAs {
    /// LOCAL_USERID_CHANGE forbids SET ROLE inside, and NOFORCE_RLS lets an owner reach a row of a
    /// table with FORCE ROW LEVEL SECURITY. Not RESTRICTED_OPERATION: deferred triggers on the
    /// users table would fail.
    pub(crate) fn owner(owner: pg_sys::Oid) -> Self {
        let path = PATHS.with_borrow(|paths| match paths {
            Some(paths) => paths.of(owner),
            None => Some(NOTHING_ELSE.into()),
        });
        Self::in_context(owner, 0, path)
    }

    /// The same, with the search_path of these.
    pub(crate) fn with(owner: pg_sys::Oid, paths: &SearchPaths) -> Self {
        Self::in_context(owner, 0, paths.of(owner))
    }

    /// With the search_path that another one had.
    pub(crate) fn as_before(owner: pg_sys::Oid, path: &Option<Rc<CStr>>) -> Self {
        Self::in_context(owner, 0, path.clone())
    }

    /// The search_path that statements are run with.
    pub(crate) fn path() -> Option<Rc<CStr>> {
        WANTED.with_borrow(Clone::clone)
    }

    /// As `owner`, and what runs may not leave anything behind for the end of the transaction: no
    /// deferred trigger, which would run with the caller's rights again.
    pub(crate) fn restricted(owner: pg_sys::Oid, path: &Rc<CStr>) -> Self {
        let path = Some(path.clone());
        Self::in_context(owner, pg_sys::SECURITY_RESTRICTED_OPERATION, path)
    }

    /// As a role whose rights the caller has: what runs has no more than that role's. Nothing but the server's own
    /// is found without a schema, and nothing is left behind.
    pub(crate) fn dropped_to(role: pg_sys::Oid) -> Self {
        Self::restricted(role, &NOTHING_ELSE.into())
    }

    fn in_context(owner: pg_sys::Oid, more: u32, path: Option<Rc<CStr>>) -> Self {
        let mut user = pg_sys::InvalidOid;
        let mut context = 0;
        // SAFETY: both calls only read and write the backend's user id and security context; the
        // pointers are to live locals.
        unsafe {
            raw::GetUserIdAndSecContext(&mut user, &mut context);
            raw::SetUserIdAndSecContext(
                owner,
                context
                    | (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_NOFORCE_RLS | more)
                        as i32,
            );
        }
        RunAs {
            user,
            context,
            wanted: WANTED.replace(path),
        }
    }
}

impl Drop for RunAs {
    fn drop(&mut self) {
        WANTED.set(self.wanted.take());
        // SAFETY: restores what GetUserIdAndSecContext returned.
        unsafe { raw::SetUserIdAndSecContext(self.user, self.context) }
    }
}

/// A search_path that is in force while this value lives.
pub(crate) struct SearchPath {
    nest_level: i32,
}

impl SearchPath {
    /// The one that statements are to be run with now; None where it is in force already.
    pub(crate) fn wanted() -> Option<Self> {
        let wanted = WANTED.with_borrow(Clone::clone)?;
        Self::enter(&wanted)
    }

    /// The one of the bound tables' owners.
    pub(crate) fn of_tables(paths: &SearchPaths) -> Option<Self> {
        Self::enter(paths.of_tables.as_deref()?)
    }

    /// None where it is in force already: a nest level costs more than to look.
    pub(crate) fn enter(path: &CStr) -> Option<Self> {
        // SAFETY: the setting's value, a string that is never null.
        let present = unsafe { CStr::from_ptr(pg_sys::namespace_search_path) };
        (present != path).then(|| Self::open(path))
    }

    fn open(path: &CStr) -> Self {
        // SAFETY: the strings outlive the call, which copies the value. Should it fail, the abort
        // takes the level back.
        unsafe {
            let nest_level = raw::NewGUCNestLevel();
            pg_sys::set_config_option(
                c"search_path".as_ptr(),
                path.as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
            SearchPath { nest_level }
        }
    }
}

impl Drop for SearchPath {
    /// What code inside has set with SET LOCAL stays to the end of the transaction, as ever; but not
    /// another search_path. A plain `SET search_path` would outlive the level and be the session's
    /// own afterwards, maybe a superuser's: then all that was set inside is taken back.
    fn drop(&mut self) {
        // SAFETY: opened by `open`, and what was opened after it was closed.
        unless_unwinding(|| unsafe { raw::AtEOXact_GUC(!is_set_for_session(), self.nest_level) });
    }
}

/// Whether, since the newest level was opened with a search_path of its own, somebody set another one
/// for the session.
fn is_set_for_session() -> bool {
    // SAFETY: the server's own record of the setting; its stack is null or whole.
    unsafe {
        let stack = (*setting()).stack.as_ref();
        stack.is_some_and(|newest| newest.state != pg_sys::GucStackState::GUC_SAVE)
    }
}

/// The server's record of search_path, which stays where it is while the backend lives.
fn setting() -> *mut pg_sys::config_generic {
    thread_local! {
        static SETTING: Cell<*mut pg_sys::config_generic> = const { Cell::new(std::ptr::null_mut()) };
    }
    if SETTING.get().is_null() {
        SETTING.set(versions::setting(c"search_path"));
    }
    SETTING.get()
}

/// The search_path from before the newest level that has one of its own: while an extension's script
/// runs, that of the role that runs CREATE EXTENSION. None where there is no such level.
pub(crate) fn search_path_before() -> Option<Box<CStr>> {
    // SAFETY: as in is_set_for_session; search_path is a string, and the value of a level that was
    // opened with GUC_ACTION_SAVE is whole.
    unsafe {
        let newest = (*setting()).stack.as_ref()?;
        let is_level = newest.state == pg_sys::GucStackState::GUC_SAVE;
        let before: *const c_char = newest.prior.val.stringval;
        (is_level && !before.is_null()).then(|| CStr::from_ptr(before).into())
    }
}

/// The schemas in which unqualified names are looked up now, for the role that acts, without its
/// temporary one.
pub(crate) fn searched_schemas() -> Vec<pg_sys::Oid> {
    let mut schemas = [pg_sys::InvalidOid; 256];
    // SAFETY: the server writes at most as many as there is room for.
    let count =
        unsafe { pg_sys::fetch_search_path_array(schemas.as_mut_ptr(), schemas.len() as i32) };
    schemas[..schemas.len().min(count as usize)].to_vec()
}

/// Whether the caller is inside of such a statement: ours, a foreign key's, or of an older library.
pub(crate) fn is_owner_run() -> bool {
    let mut user = pg_sys::InvalidOid;
    let mut context = 0;
    // SAFETY: reads backend variables into live locals.
    unsafe { raw::GetUserIdAndSecContext(&mut user, &mut context) };
    context & pg_sys::SECURITY_NOFORCE_RLS as i32 != 0
}

/// The role that the caller acts as.
pub(crate) fn current_user() -> pg_sys::Oid {
    // SAFETY: reads a backend variable.
    unsafe { raw::GetUserId() }
}
