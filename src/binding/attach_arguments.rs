//! The arguments of `attach`, each in one place: its name and type, where the spec has it, whether another
//! value is another binding, and when a hint names it. How a call is read, how the row of
//! `token_balance.binding` is read and written, and how two specs are compared is made from the list. The
//! declaration in `sql/functions.sql` and the table in `docs/binding.md` are held to it by tests.

use pgrx::pg_sys;
use serde_json::{Map, Value as Json};

use super::options::{BusyAccount, DeletedUsage, LateUsage, OutsideChanges};
use super::spec::{Relation, Spec};
use crate::error::{Error, Result};
use crate::postgres::catalog;
use crate::postgres::quote::quote_literal;

/// An argument.
pub(crate) struct Argument {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) get: fn(&Spec) -> Value,
    /// Errors: 22004 for a null that it does not take, 22023 for a word that it does not know.
    pub(crate) set: fn(&mut Spec, Value) -> Result<()>,
    again: Again,
    shown: Shown,
}

/// The type of an argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Relation,
    Type,
    /// Of a column.
    Name,
    /// Of columns, or of schemas.
    Names,
    /// Of the binding.
    Label,
    Text,
    Texts,
    Bigint,
}

/// What becomes of another value when `attach` is called again.
#[derive(Clone, Copy, PartialEq)]
enum Again {
    /// It is another binding: error 55000.
    Refused,
    /// The binding that is there gets it.
    Changed,
    /// It counts for a binding that is new.
    Ignored,
}

/// Whether the call that repairs the binding has it.
#[derive(Clone, Copy, PartialEq)]
enum Shown {
    Always,
    WithWorkflows,
    /// If it is not what it is when it is not named.
    IfUnusual,
    /// If it is not null.
    IfNamed,
    /// `attach` leaves what there is.
    Never,
}

/// The value of an argument.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Relation(Relation),
    Type(pg_sys::Oid),
    Text(String),
    Texts(Vec<String>),
    Number(i64),
}

/// A field of the spec that an argument sets.
trait Field: Sized {
    fn value(&self) -> Value;
    fn of(argument: &'static str, value: Value) -> Result<Self>;
}

macro_rules! argument {
    ($name:literal, $kind:ident, $($field:ident).+, $again:ident, $shown:ident) => {
        Argument {
            name: $name,
            kind: Kind::$kind,
            get: |spec| spec.$($field).+.value(),
            set: |spec, value| {
                spec.$($field).+ = Field::of($name, value)?;
                Ok(())
            },
            again: Again::$again,
            shown: Shown::$shown,
        }
    };
}

/// All of them but `create_index`, which is for the call alone. In the order in which hints name them.
#[rustfmt::skip]
pub(crate) static ARGUMENTS: &[Argument] = &[
    argument!("users", Relation, users, Refused, Always),
    argument!("usage", Relation, usage, Refused, Always),
    argument!("user_key", Name, user_key, Refused, Always),
    argument!("usage_user", Name, usage_user, Refused, Always),
    argument!("usage_workflow", Name, usage_workflow, Refused, Always),
    argument!("usage_tokens", Names, usage_tokens, Refused, Always),
    argument!("workflows", Relation, workflows, Refused, WithWorkflows),
    argument!("workflow_key", Name, workflow_key, Refused, WithWorkflows),
    argument!("workflow_status", Name, workflow_status, Refused, WithWorkflows),
    argument!("completed_statuses", Texts, completed_statuses, Refused, WithWorkflows),
    argument!("workflow_user", Name, workflow_user, Refused, IfNamed),
    argument!("workflow_completed_at", Name, workflow_completed_at, Refused, IfNamed),
    argument!("initial_balance", Bigint, initial_balance, Changed, IfNamed),
    argument!("balance_type", Type, balance_type, Ignored, IfUnusual),
    argument!("existing_usage", Text, existing_usage, Ignored, Never),
    argument!("usage_prompt_tokens", Name, usage_prompt_tokens, Refused, IfUnusual),
    argument!("usage_completion_tokens", Name, usage_completion_tokens, Refused, IfUnusual),
    argument!("usage_model", Name, usage_model, Refused, IfUnusual),
    argument!("usage_stage", Name, usage_stage, Refused, IfUnusual),
    argument!("usage_created_at", Name, usage_created_at, Refused, IfUnusual),
    argument!("busy_account", Text, options.busy_account, Changed, IfUnusual),
    argument!("late_usage", Text, options.late_usage, Changed, IfUnusual),
    argument!("search_path", Names, search_path, Changed, Never),
    argument!("outside_changes", Text, options.outside_changes, Changed, IfUnusual),
    argument!("name", Label, name, Ignored, IfUnusual),
    argument!("balance_column", Name, balance_column, Refused, IfUnusual),
    argument!("late_usage_on", Texts, late_usage_on, Changed, IfUnusual),
    argument!("usage_id", Name, usage_id, Refused, IfUnusual),
    argument!("deleted_usage", Text, options.deleted_usage, Changed, IfUnusual),
];

impl Spec {
    /// Each argument is what `value` gives for it. What that gives none for is null, or what is usual
    /// where there is no null: an older declaration or catalog does not have it.
    pub(crate) fn of_arguments(
        mut value: impl FnMut(&Argument) -> Result<Option<Value>>,
    ) -> Result<Self> {
        let mut spec = Spec::usual();
        for argument in ARGUMENTS {
            match value(argument)? {
                Some(value) => (argument.set)(&mut spec, value)?,
                None => {
                    let _is_usual = (argument.set)(&mut spec, Value::Null);
                }
            }
        }
        Ok(spec)
    }

    /// The words for the options that bindings of the same accounts have in common: busy_account, outside_changes.
    pub(crate) fn options_of_accounts(&self) -> [String; 2] {
        let word = |value: Value| match value {
            Value::Text(word) => word,
            _ => String::new(),
        };
        [
            word(self.options.busy_account.value()),
            word(self.options.outside_changes.value()),
        ]
    }

    /// The call that binds this again; it repairs what is missing. Without the search_path: attach
    /// leaves what is kept.
    pub(crate) fn attach_call(&self) -> String {
        self.attach_call_with("")
    }

    /// The call that detaches it. Where others are attached, a binding is named.
    pub(crate) fn detach_call(&self) -> String {
        match self.is_default() {
            true => "token_balance.detach()".into(),
            false => format!("token_balance.detach({})", self.name_argument()),
        }
    }

    /// The beginning of a call of attach that gives other arguments.
    pub(crate) fn attach_with(&self, arguments: &str) -> String {
        match self.is_default() {
            true => format!("token_balance.attach({arguments})"),
            false => format!(
                "token_balance.attach({arguments}, {})",
                self.name_argument()
            ),
        }
    }

    fn is_default(&self) -> bool {
        self.name == "default"
    }

    fn name_argument(&self) -> String {
        format!("name => {}", quote_literal(&self.name))
    }

    /// The same with one more argument, unless that is empty.
    pub(crate) fn attach_call_with(&self, more: &str) -> String {
        let usual = Spec::usual();
        let arguments = ARGUMENTS.iter().filter(|argument| {
            let value = (argument.get)(self);
            match argument.shown {
                Shown::Always => true,
                Shown::WithWorkflows => self.workflows.is_some(),
                Shown::IfUnusual => value != (argument.get)(&usual),
                Shown::IfNamed => value != Value::Null,
                Shown::Never => false,
            }
        });
        let arguments: Vec<_> = arguments
            .map(|argument| format!("{} => {}", argument.name, argument.sql(self)))
            .chain((!more.is_empty()).then(|| more.to_owned()))
            .collect();
        format!("token_balance.attach({})", arguments.join(", "))
    }

    /// The statement that binds this, over several lines, with no argument that is usual; `more` has others.
    pub(crate) fn shortest_statement(&self, more: &[String]) -> String {
        let usual = Spec::usual();
        let told = ARGUMENTS
            .iter()
            .filter(|argument| (argument.get)(self) != (argument.get)(&usual));
        let told: Vec<_> = told
            .map(|argument| format!("    {} => {}", argument.name, argument.short_sql(self)))
            .chain(more.iter().map(|more| format!("    {more}")))
            .collect();
        format!("SELECT token_balance.attach(\n{});", told.join(",\n"))
    }

    /// The arguments in which another spec is another binding, each with both values in words; the
    /// relations' present names do not count.
    pub(crate) fn differences(&self, other: &Spec) -> Vec<(&'static str, String)> {
        let refused = ARGUMENTS
            .iter()
            .filter(|argument| argument.again == Again::Refused);
        refused
            .map(|argument| (argument, (argument.get)(self), (argument.get)(other)))
            .filter(|(argument, old, new)| match argument.is_of_columns() {
                true => !self.has_same_columns(other, argument),
                false => !old.is_same(new),
            })
            .map(|(argument, old, new)| {
                let old = match argument.is_of_columns() {
                    true => self.columns_in_words(argument, old),
                    false => old.in_words(),
                };
                let new = new.in_words();
                (
                    argument.name,
                    format!("{} is {old}, not {new}", argument.name),
                )
            })
            .collect()
    }

    /// The columns of `token_balance.binding`, as jsonb_populate_record takes them.
    pub(super) fn to_row(&self) -> Map<String, Json> {
        let mut row = Map::new();
        for argument in ARGUMENTS {
            let value = match self.told(argument) {
                Value::Null => Json::Null,
                Value::Relation(relation) => {
                    let name = format!("{}_name", argument.name);
                    row.insert(name, relation.name.into());
                    relation.oid.to_u32().to_string().into()
                }
                Value::Type(oid) => oid.to_u32().to_string().into(),
                Value::Text(text) => text.into(),
                Value::Texts(texts) => texts.into(),
                Value::Number(number) => number.into(),
            };
            row.insert(argument.name.to_owned(), value);
        }
        row
    }

    /// The same back, with OIDs for relations and types.
    pub(super) fn of_row(row: &Map<String, Json>) -> Result<Self> {
        Spec::of_arguments(|argument| {
            let oid = |value: &Json| value.as_u64().map(|oid| pg_sys::Oid::from(oid as u32));
            let text = |value: &Json| value.as_str().map(str::to_owned);
            Ok(row
                .get(argument.name)
                .and_then(|value| match argument.kind {
                    Kind::Relation => oid(value).map(|oid| {
                        let name = row.get(&format!("{}_name", argument.name)).and_then(text);
                        let name = name.unwrap_or_else(|| oid.to_u32().to_string());
                        Value::Relation(Relation { oid, name })
                    }),
                    Kind::Type => oid(value).map(Value::Type),
                    Kind::Name | Kind::Label | Kind::Text => text(value).map(Value::Text),
                    Kind::Names | Kind::Texts => {
                        let texts = value.as_array()?.iter().map(text);
                        texts.collect::<Option<_>>().map(Value::Texts)
                    }
                    Kind::Bigint => value.as_i64().map(Value::Number),
                }))
        })
    }
}

/// The arguments that a binding which is there can be given anew.
pub(super) fn changeable() -> impl Iterator<Item = &'static str> {
    let changed = ARGUMENTS
        .iter()
        .filter(|argument| argument.again == Again::Changed);
    changed.map(|argument| argument.name)
}

impl Argument {
    /// Whether it names a column that need not be there under its usual name.
    pub(super) fn may_be_left_out(&self) -> bool {
        self.kind == Kind::Name && self.shown == Shown::IfUnusual
    }

    /// The same as `sql`, where a list of plain words is written as people write it.
    fn short_sql(&self, spec: &Spec) -> String {
        let is_plain = |word: &String| {
            let mut letters = word.bytes();
            letters.all(|it| it.is_ascii_alphanumeric() || it == b'_' || it == b'-')
                && !word.is_empty()
                && !word.eq_ignore_ascii_case("null")
        };
        match (self.get)(spec) {
            Value::Texts(texts) if texts.iter().all(is_plain) => {
                format!("'{{{}}}'", texts.join(","))
            }
            _ => self.sql(spec),
        }
    }

    /// The value in SQL, for the named argument.
    fn sql(&self, spec: &Spec) -> String {
        match (self.get)(spec) {
            Value::Null => "NULL".into(),
            // Tables keep their place when they are renamed.
            Value::Relation(relation) => match catalog::table(relation.oid) {
                Ok(Some(table)) => quote_literal(table.sql),
                _ => quote_literal(relation.name),
            },
            Value::Type(pg_sys::INT8OID) => "'bigint'".into(),
            Value::Type(_) => "'integer'".into(),
            Value::Text(text) => quote_literal(text),
            Value::Texts(texts) => {
                let texts: Vec<_> = texts.iter().map(quote_literal).collect();
                let element = if self.kind == Kind::Names {
                    "name"
                } else {
                    "text"
                };
                format!("ARRAY[{}]::{element}[]", texts.join(", "))
            }
            Value::Number(number) => number.to_string(),
        }
    }
}

impl Value {
    fn is_same(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Relation(one), Value::Relation(other)) => one.oid == other.oid,
            _ => self == other,
        }
    }

    pub(super) fn in_words(&self) -> String {
        match self {
            Value::Null => "null".into(),
            // A dropped relation has no name but the one that was stored.
            Value::Relation(relation) => match catalog::table(relation.oid) {
                Ok(Some(table)) => table.sql,
                _ => format!("{} (dropped)", relation.name),
            },
            Value::Type(oid) => oid.to_u32().to_string(),
            Value::Text(text) => text.clone(),
            Value::Texts(texts) => texts.join(", "),
            Value::Number(number) => number.to_string(),
        }
    }
}

fn null(argument: &'static str) -> Error {
    Error::NullArgument {
        function: "token_balance.attach",
        argument,
    }
}

macro_rules! field {
    ($type:ty, $variant:ident) => {
        impl Field for $type {
            fn value(&self) -> Value {
                Value::$variant(self.clone())
            }

            fn of(argument: &'static str, value: Value) -> Result<Self> {
                match value {
                    Value::$variant(value) => Ok(value),
                    _ => Err(null(argument)),
                }
            }
        }
    };
}

field!(Relation, Relation);
field!(pg_sys::Oid, Type);
field!(String, Text);
field!(Vec<String>, Texts);
field!(i64, Number);

impl<T: Field> Field for Option<T> {
    fn value(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::value)
    }

    fn of(argument: &'static str, value: Value) -> Result<Self> {
        match value {
            Value::Null => Ok(None),
            value => T::of(argument, value).map(Some),
        }
    }
}

/// A choice between words.
macro_rules! choice {
    ($type:ident, $($variant:ident = $word:literal),+) => {
        impl Field for $type {
            fn value(&self) -> Value {
                Value::Text(match self {
                    $($type::$variant => $word.into(),)+
                })
            }

            fn of(argument: &'static str, value: Value) -> Result<Self> {
                match String::of(argument, value)?.as_str() {
                    $($word => Ok($type::$variant),)+
                    other => Err(Error::InvalidArgument {
                        message: format!("{argument} is \"{other}\""),
                        detail: None,
                        hint: Some(format!("Use {}.", one_of(&[$($word),+]))),
                    }),
                }
            }
        }
    };
}

/// `'a', 'b' or 'c'`
fn one_of(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

choice!(BusyAccount, Wait = "wait", Queue = "queue");
choice!(LateUsage, Pending = "pending", Settle = "settle");
choice!(DeletedUsage, Report = "report", Record = "record");
choice!(
    OutsideChanges,
    Record = "record",
    Keep = "keep",
    Refuse = "refuse"
);
