//! A jsonb answer that is made in one go. pgrx's `JsonB` writes text, which the server parses again:
//! too much for a function that is called once a run.

use std::ffi::c_int;
use std::marker::PhantomData;

use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::pg_sys::JsonbIteratorToken::{self, *};
use pgrx::pg_sys::jbvType::{self, *};
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{AnyNumeric, IntoDatum, pg_sys};

/// A value that a function returns.
pub(crate) struct Jsonb(pg_sys::Datum);

// SAFETY: what functions of this type return is jsonb.
unsafe impl SqlTranslatable for Jsonb {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(Jsonb);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("jsonb"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
        Ok(ReturnsRef::One(SqlMappingRef::literal("jsonb")));
}

// SAFETY: the datum is a jsonb in the memory of the function's caller.
unsafe impl BoxRet for Jsonb {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        // SAFETY: as above.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}

/// An object that is being made. What it is given must live until it is done: `'a`.
pub(crate) struct Object<'a> {
    state: *mut pg_sys::JsonbParseState,
    texts: PhantomData<&'a str>,
}

impl<'a> Object<'a> {
    pub(crate) fn new() -> Self {
        let mut object = Object {
            state: std::ptr::null_mut(),
            texts: PhantomData,
        };
        object.mark(WJB_BEGIN_OBJECT);
        object
    }

    pub(crate) fn text(&mut self, key: &'static str, value: &'a str) {
        self.pair(key, text(value));
    }

    pub(crate) fn boolean(&mut self, key: &'static str, value: bool) {
        let boolean = pg_sys::JsonbValue__bindgen_ty_1 { boolean: value };
        self.pair(key, json(jbvBool, boolean));
    }

    pub(crate) fn number(&mut self, key: &'static str, value: impl Into<i128>) {
        self.pair(key, number(value.into()));
    }

    /// Null where there is no number.
    pub(crate) fn optional_number(&mut self, key: &'static str, value: Option<i64>) {
        match value {
            Some(value) => self.number(key, value),
            None => self.pair(
                key,
                json(jbvNull, pg_sys::JsonbValue__bindgen_ty_1 { boolean: false }),
            ),
        }
    }

    /// An array of objects, each of which `fill` makes of an item.
    pub(crate) fn objects<T>(
        &mut self,
        key: &'static str,
        items: &'a [T],
        fill: impl Fn(&mut Self, &'a T),
    ) {
        self.push(WJB_KEY, &mut text(key));
        self.mark(WJB_BEGIN_ARRAY);
        for item in items {
            self.mark(WJB_BEGIN_OBJECT);
            fill(self, item);
            self.mark(WJB_END_OBJECT);
        }
        self.mark(WJB_END_ARRAY);
    }

    pub(crate) fn done(mut self) -> Jsonb {
        let whole = self.mark(WJB_END_OBJECT);
        // SAFETY: the end of the outermost object gives the whole, whose texts are still there.
        Jsonb(pg_sys::Datum::from(unsafe {
            pg_sys::JsonbValueToJsonb(whole)
        }))
    }

    fn pair(&mut self, key: &'static str, mut value: pg_sys::JsonbValue) {
        self.push(WJB_KEY, &mut text(key));
        self.push(WJB_VALUE, &mut value);
    }

    fn mark(&mut self, token: JsonbIteratorToken::Type) -> *mut pg_sys::JsonbValue {
        self.push(token, std::ptr::null_mut())
    }

    fn push(
        &mut self,
        token: JsonbIteratorToken::Type,
        value: *mut pg_sys::JsonbValue,
    ) -> *mut pg_sys::JsonbValue {
        // SAFETY: the state is null or what the last call left; keys and values come in turns, and
        // what was begun is ended, by this type's functions. The value is copied, its text is not.
        unsafe { pg_sys::pushJsonbValue(&mut self.state, token, value) }
    }
}

fn json(kind: jbvType::Type, val: pg_sys::JsonbValue__bindgen_ty_1) -> pg_sys::JsonbValue {
    pg_sys::JsonbValue { type_: kind, val }
}

fn text(text: &str) -> pg_sys::JsonbValue {
    let string = pg_sys::JsonbValue__bindgen_ty_1__bindgen_ty_1 {
        len: text.len() as c_int,
        val: text.as_ptr() as *mut _,
    };
    json(jbvString, pg_sys::JsonbValue__bindgen_ty_1 { string })
}

fn number(number: i128) -> pg_sys::JsonbValue {
    // SAFETY: either makes a numeric; a datum of one is a pointer to it.
    let numeric = match i64::try_from(number) {
        Ok(number) => unsafe { pg_sys::int64_to_numeric(number) },
        Err(_) => AnyNumeric::from(number)
            .into_datum()
            .map_or(std::ptr::null_mut(), |datum| datum.cast_mut_ptr()),
    };
    json(jbvNumeric, pg_sys::JsonbValue__bindgen_ty_1 { numeric })
}
