//! The arguments of a function call, by the names that the function is declared with. So one C function
//! serves each declaration that a release has had of it, and one with [`Id`] each type that an id may have.

use std::collections::HashMap;
use std::ffi::CStr;

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::pg_catalog::pg_proc::PgProc;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{Array, FromDatum, Uuid, pg_sys};

/// An argument that is not null.
#[derive(Debug)]
pub(crate) enum Given {
    /// Of a regclass or regtype.
    Oid(pg_sys::Oid),
    /// Of a name or text.
    Text(String),
    /// Of an array of these.
    Texts(Vec<Option<String>>),
    Number(i64),
    Flag(bool),
}

/// What a function was called with, by name; None for a null. An argument without a name, or of a type
/// that is not one of those of [`Given`], is left out.
///
/// # Safety
/// `fcinfo` is what the server called the function with.
pub(crate) unsafe fn arguments(fcinfo: pg_sys::FunctionCallInfo) -> HashMap<String, Option<Given>> {
    // SAFETY: as the caller promises: the server tells which function it calls.
    let function = unsafe { (*(*fcinfo).flinfo).fn_oid };
    let Some(declared) = PgProc::new(function) else {
        return HashMap::new();
    };
    let names = declared.proargnames();
    let names = names.into_iter().zip(declared.proargtypes());
    let mut given = HashMap::new();
    for (at, (name, type_oid)) in names.enumerate() {
        // SAFETY: as the caller promises; the server gives as many arguments as are declared, of
        // those types.
        let value = unsafe {
            let argument = (*fcinfo).args.as_ptr().add(at);
            match (*argument).isnull {
                true => Some(None),
                false => given_as(type_oid, (*argument).value).map(Some),
            }
        };
        if let (Some(name), Some(value)) = (name, value) {
            given.insert(name, value);
        }
    }
    given
}

/// The argument of type name at a place, if the function is declared with it and it is not null: an older declaration
/// has fewer.
///
/// # Safety
/// `fcinfo` is what the server called the function with; a function that has an argument there has a name there.
pub(crate) unsafe fn name_at(fcinfo: pg_sys::FunctionCallInfo, place: usize) -> Option<String> {
    // SAFETY: as the caller promises.
    match unsafe { given_at(fcinfo, place, pg_sys::NAMEOID) } {
        Some(Given::Text(name)) => Some(name),
        _ => None,
    }
}

/// The same of an argument of type regclass.
///
/// # Safety
/// `fcinfo` is what the server called the function with; a function that has an argument there has a regclass there.
pub(crate) unsafe fn relation_at(
    fcinfo: pg_sys::FunctionCallInfo,
    place: usize,
) -> Option<pg_sys::Oid> {
    // SAFETY: as the caller promises.
    match unsafe { given_at(fcinfo, place, pg_sys::REGCLASSOID) } {
        Some(Given::Oid(oid)) => Some(oid),
        _ => None,
    }
}

/// # Safety
/// `fcinfo` is what the server called the function with; a function that has an argument there has one of the type.
unsafe fn given_at(
    fcinfo: pg_sys::FunctionCallInfo,
    place: usize,
    type_oid: pg_sys::Oid,
) -> Option<Given> {
    // SAFETY: as the caller promises.
    unsafe {
        if usize::try_from((*fcinfo).nargs).is_ok_and(|count| count <= place) {
            return None;
        }
        let argument = (*fcinfo).args.as_ptr().add(place);
        match (*argument).isnull {
            true => None,
            false => given_as(type_oid, (*argument).value),
        }
    }
}

/// # Safety
/// The datum is of the type and not null.
unsafe fn given_as(type_oid: pg_sys::Oid, datum: pg_sys::Datum) -> Option<Given> {
    let text = |value: &CStr| value.to_string_lossy().into_owned();
    // SAFETY: as the caller promises.
    unsafe {
        Some(match type_oid {
            pg_sys::REGCLASSOID | pg_sys::REGTYPEOID => {
                Given::Oid(pg_sys::Oid::from_datum(datum, false)?)
            }
            pg_sys::NAMEOID => Given::Text(text(<&CStr>::from_datum(datum, false)?)),
            pg_sys::TEXTOID => Given::Text(String::from_datum(datum, false)?),
            pg_sys::INT8OID => Given::Number(i64::from_datum(datum, false)?),
            pg_sys::BOOLOID => Given::Flag(bool::from_datum(datum, false)?),
            pg_sys::NAMEARRAYOID => {
                let names = Array::<&CStr>::from_datum(datum, false)?;
                Given::Texts(names.iter().map(|name| name.map(text)).collect())
            }
            pg_sys::TEXTARRAYOID => Given::Texts(Vec::from_datum(datum, false)?),
            _ => return None,
        })
    }
}

/// An id, of the type that the function is declared with: bigint or uuid. [`id`] reads it.
pub(crate) struct Id(pg_sys::Datum);

impl FromDatum for Id {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _: pg_sys::Oid,
    ) -> Option<Self> {
        (!is_null).then_some(Id(datum))
    }
}

// SAFETY: the datum is kept as it is.
unsafe impl<'fcx> ArgAbi<'fcx> for Id {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: as above.
        let id = unsafe { arg.unbox_arg_using_from_datum() };
        id.unwrap_or(Id(pg_sys::Datum::null()))
    }
}

// SAFETY: no declaration is made from it.
unsafe impl SqlTranslatable for Id {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(Id);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("bigint"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
        Ok(ReturnsRef::One(SqlMappingRef::literal("bigint")));
}

/// The text of the id that a function was called with at a place: by the type that it is declared with, as a call past
/// the parser has no expression that says one. None for another type.
///
/// # Safety
/// `fcinfo` is what the server called the function with, and the id its argument at the place.
pub(crate) unsafe fn id(fcinfo: pg_sys::FunctionCallInfo, place: usize, id: Id) -> Option<String> {
    // SAFETY: as the caller promises: the server tells which function it calls.
    let function = unsafe { (*(*fcinfo).flinfo).fn_oid };
    let declared = PgProc::new(function)?.proargtypes();
    // SAFETY: the server gives arguments of the types that are declared.
    unsafe {
        match *declared.get(place)? {
            pg_sys::INT8OID => Some(i64::from_datum(id.0, false)?.to_string()),
            pg_sys::UUIDOID => Some(Uuid::from_datum(id.0, false)?.to_string()),
            _ => None,
        }
    }
}

/// Define the C entry point `$symbol` of a function, which answers what `$answer` makes of the call.
macro_rules! entry_point {
    ($symbol:ident, $finfo:ident, $answer:expr) => {
        #[doc(hidden)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $finfo() -> &'static ::pgrx::pg_sys::Pg_finfo_record {
            static V1: ::pgrx::pg_sys::Pg_finfo_record =
                ::pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &V1
        }

        #[doc(hidden)]
        #[unsafe(no_mangle)]
        #[::pgrx::pg_guard]
        pub extern "C-unwind" fn $symbol(
            fcinfo: ::pgrx::pg_sys::FunctionCallInfo,
        ) -> ::pgrx::pg_sys::Datum {
            let answer: fn(::pgrx::pg_sys::FunctionCallInfo) -> ::pgrx::pg_sys::Datum = $answer;
            answer(fcinfo)
        }
    };
}

pub(crate) use entry_point;
