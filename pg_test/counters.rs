//! Counters in memory that sessions share (DESIGN R8, R9). What is counted is in regress/sql/stat.sql.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use std::ffi::CString;
    use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

    use pgrx::prelude::*;

    use crate::postgres::shared::{Shared, shared};
    use crate::tests::fixture::*;

    struct Numbers<const COUNT: usize>([AtomicI64; COUNT]);

    // SAFETY: atomics of eight bytes, for which zero is a value.
    unsafe impl<const COUNT: usize> Shared for Numbers<COUNT> {
        fn begin(&self) {
            self.0[0].store(7, Relaxed);
        }
    }

    /// Of this process alone.
    fn name(of: &str) -> CString {
        CString::new(format!("token_balance test {of} {}", std::process::id())).expect("a name")
    }

    fn server_has_it() -> bool {
        is_true("current_setting('server_version_num')::int >= 170000")
    }

    #[pg_test]
    fn memory_is_found_by_its_name_and_begun_once() {
        let first = shared::<Numbers<2>>(&name("one"));
        assert_eq!(first.is_some(), server_has_it());
        let Some(first) = first else { return };
        assert_eq!((first.0[0].load(Relaxed), first.0[1].load(Relaxed)), (7, 0));
        first.0[0].store(8, Relaxed);
        let again = shared::<Numbers<2>>(&name("one")).expect("it is there");
        assert_eq!(again.0[0].load(Relaxed), 8);
        let other = shared::<Numbers<2>>(&name("other")).expect("there is room");
        assert_eq!(other.0[0].load(Relaxed), 7);
    }

    /// The server refuses a size that is not that of what is there: one of the errors that it may raise.
    #[pg_test]
    fn memory_that_cannot_be_had_refuses_nothing() {
        application();
        run("INSERT INTO users VALUES ('dot')");
        let small = shared::<Numbers<2>>(&name("one"));
        assert_eq!(small.is_some(), server_has_it());
        run("INSERT INTO users VALUES ('eva')");
        assert!(shared::<Numbers<3000>>(&name("one")).is_none() || !server_has_it());
        run("INSERT INTO users VALUES ('fay')");
        assert_eq!(
            number("SELECT count(*) FROM users WHERE id IN ('dot', 'eva', 'fay')"),
            3
        );
    }
}
