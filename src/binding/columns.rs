//! Bound columns by their numbers: what is renamed stays bound, and what takes its name is not read in its place.
//!
//! `token_balance.binding` has the names as attach was told them; `token_balance.bound_column` has the numbers, and no
//! dump has that table. A restore gives columns other numbers, as pg_dump leaves out those that were dropped, so there
//! the names count until the next attach. A copy that keeps the numbers (a physical one, a template, pg_upgrade) has the
//! table, too. Neither OIDs nor the database's own could tell the two apart: a new cluster gives the same ones again.
//!
//! A number counts for the table that it was read for, and for the name: rows of `binding` may have been loaded by
//! themselves.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use pgrx::pg_sys;
use serde_json::{Map, Value as Json};

use super::attach_arguments::{ARGUMENTS, Argument, Kind, Value};
use super::spec::{BoundColumn, LateKey, Relation, Spec};
use crate::error::{Error, Result};
use crate::postgres::catalog::{self, Column, Table};

/// The argument that names columns of tables below a view.
pub(super) const LATE_USAGE_ON: &str = "late_usage_on";

/// A column that the spec names, to be looked up.
#[derive(Clone, Copy)]
pub(super) struct Named<'a> {
    spec: &'a Spec,
    pub(super) argument: &'static str,
    position: usize,
    name: &'a str,
}

impl Argument {
    /// Whether it names columns. The table's name begins the argument's.
    pub(super) fn is_of_columns(&self) -> bool {
        let tables = ["user_", "balance_", "usage_", "workflow_"];
        matches!(self.kind, Kind::Name | Kind::Names)
            && tables.iter().any(|table| self.name.starts_with(table))
    }

    /// The table whose columns it names; None if it names none, or if there is no such table.
    fn table<'a>(&self, spec: &'a Spec) -> Option<&'a Relation> {
        if !self.is_of_columns() {
            return None;
        }
        match self.name.split_once('_') {
            Some(("usage", _)) => Some(&spec.usage),
            Some(("workflow", _)) => spec.workflows.as_ref(),
            _ => Some(&spec.users),
        }
    }

    /// The columns that it names now.
    fn columns(&self, spec: &Spec) -> Vec<String> {
        match (self.get)(spec) {
            Value::Text(name) => vec![name],
            Value::Texts(names) => names,
            _ => Vec::new(),
        }
    }

    fn set_columns(&self, spec: &mut Spec, mut names: Vec<String>) -> Result<()> {
        match (self.kind, names.len()) {
            (Kind::Name, 1) => (self.set)(spec, Value::Text(names.remove(0))),
            (Kind::Names, _) => (self.set)(spec, Value::Texts(names)),
            _ => Ok(()),
        }
    }
}

impl Spec {
    pub(super) fn named<'a>(&'a self, argument: &'static str, name: &'a str) -> Named<'a> {
        self.named_in_list(argument, 0, name)
    }

    pub(super) fn named_in_list<'a>(
        &'a self,
        argument: &'static str,
        position: usize,
        name: &'a str,
    ) -> Named<'a> {
        Named {
            spec: self,
            argument,
            position,
            name,
        }
    }

    fn known(&self, argument: &str, position: usize) -> Option<&BoundColumn> {
        self.columns
            .iter()
            .find(|column| column.argument == argument && column.position == position)
    }

    /// What is stored of an argument: the names that attach was told.
    pub(super) fn told(&self, argument: &Argument) -> Value {
        let told = |position, name: String| match self.known(argument.name, position) {
            Some(known) if argument.is_of_columns() => known.told.clone(),
            _ => name,
        };
        match (argument.get)(self) {
            Value::Text(name) => Value::Text(told(0, name)),
            Value::Texts(names) => {
                let names = names.into_iter().enumerate();
                Value::Texts(names.map(|(at, name)| told(at, name)).collect())
            }
            value => value,
        }
    }

    /// Give the arguments the present names of their columns. `numbers` are the rows of `bound_column`.
    pub(super) fn follow(&mut self, numbers: Option<&Json>) -> Result<()> {
        let numbers = numbers.and_then(Json::as_array);
        for number in numbers.into_iter().flatten() {
            self.follow_one(number)?;
        }
        Ok(())
    }

    fn follow_one(&mut self, number: &Json) -> Result<()> {
        let field = |name| number.get(name);
        let integer = |name| field(name).and_then(Json::as_i64);
        let argument = ARGUMENTS
            .iter()
            .find(|argument| field("argument").and_then(Json::as_str) == Some(argument.name));
        let (Some(argument), Some(position), Some(relation), Some(number), Some(told)) = (
            argument,
            integer("position").and_then(|at| usize::try_from(at).ok()),
            integer("relation").and_then(|oid| u32::try_from(oid).ok()),
            integer("number").and_then(|number| i16::try_from(number).ok()),
            field("told").and_then(Json::as_str),
        ) else {
            return Ok(());
        };
        let relation = pg_sys::Oid::from(relation);
        if argument.name == LATE_USAGE_ON {
            self.late_keys.push(LateKey {
                told: told.to_owned(),
                relation,
                number,
            });
            return Ok(());
        }
        let mut names = argument.columns(self);
        let is_for_table = argument
            .table(self)
            .is_some_and(|table| table.oid == relation);
        if !is_for_table || names.get(position).is_none_or(|name| name != told) {
            return Ok(());
        }
        let present = field("present").and_then(Json::as_str);
        self.columns.push(BoundColumn {
            argument: argument.name,
            position,
            relation,
            number,
            told: told.to_owned(),
            is_dropped: present.is_none(),
        });
        match present {
            Some(present) => {
                names[position] = present.to_owned();
                argument.set_columns(self, names)
            }
            None => Ok(()),
        }
    }

    /// What a caller says: a name that no column has, of a column that was bound under it and has another name by now,
    /// is that column's. So a script that attaches at each start goes on after a rename.
    pub(crate) fn known_again<'a>(
        mut self,
        stored: impl Iterator<Item = &'a Spec> + Clone,
    ) -> Result<Self> {
        for argument in ARGUMENTS {
            let Some(table) = argument.table(&self).cloned() else {
                continue;
            };
            let mut names = argument.columns(&self);
            for (position, name) in names.iter_mut().enumerate() {
                let mut known = stored
                    .clone()
                    .flat_map(|stored| &stored.columns)
                    .filter(|known| {
                        known.argument == argument.name
                            && known.relation == table.oid
                            && known.told == *name
                            && !known.is_dropped
                    });
                let Some(known) = known.next() else { continue };
                if self.known(argument.name, position).is_some() {
                    continue;
                }
                let columns = catalog::columns(table.oid)?;
                if columns.iter().any(|column| column.name == *name) {
                    continue;
                }
                if let Some(column) = columns.iter().find(|column| column.number == known.number) {
                    *name = column.name.clone();
                    self.columns.push(BoundColumn {
                        position,
                        ..known.clone()
                    });
                }
            }
            argument.set_columns(&mut self, names)?;
        }
        Ok(self)
    }

    /// Told anew, by the present names.
    pub(crate) fn told_present_names(mut self) -> Result<Self> {
        let workflows = self.workflows.iter_mut();
        for relation in workflows.chain([&mut self.usage, &mut self.users]) {
            if let Some(table) = catalog::table(relation.oid)? {
                relation.name = table.sql;
            }
        }
        let mut columns = std::mem::take(&mut self.columns);
        for argument in ARGUMENTS {
            let names = argument.columns(&self);
            for known in columns
                .iter_mut()
                .filter(|known| known.argument == argument.name)
            {
                if let Some(name) = names.get(known.position) {
                    known.told.clone_from(name);
                }
            }
        }
        self.columns = columns;
        Ok(self)
    }

    /// Read the numbers of the columns that it names.
    pub(crate) fn number_columns(&mut self) -> Result<()> {
        let mut of_table: HashMap<pg_sys::Oid, Vec<Column>> = HashMap::new();
        let mut numbered = Vec::new();
        for argument in ARGUMENTS {
            let Some(table) = argument.table(self) else {
                continue;
            };
            let columns = match of_table.entry(table.oid) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => place.insert(catalog::columns(table.oid)?),
            };
            for (position, name) in argument.columns(self).into_iter().enumerate() {
                let known = self.known(argument.name, position);
                let Some(column) = columns.iter().find(|column| column.name == name) else {
                    continue;
                };
                numbered.push(BoundColumn {
                    argument: argument.name,
                    position,
                    relation: table.oid,
                    number: column.number,
                    told: match known {
                        Some(known) if known.number == column.number => known.told.clone(),
                        _ => name,
                    },
                    is_dropped: false,
                });
            }
        }
        self.columns = numbered;
        Ok(())
    }

    /// Whether an argument that names columns names the same ones as that of `new`.
    pub(super) fn has_same_columns(&self, new: &Spec, argument: &Argument) -> bool {
        if self.is_left_out(argument) {
            return true;
        }
        let (ours, theirs) = (argument.columns(self), argument.columns(new));
        ours.len() == theirs.len()
            && ours
                .iter()
                .zip(&theirs)
                .enumerate()
                .all(|(at, (our, their))| {
                    match (self.known(argument.name, at), new.known(argument.name, at)) {
                        (Some(our), Some(their)) if our.relation == their.relation => {
                            our.number == their.number
                        }
                        // Of a table that was made anew the name says it; and where no number is known.
                        (Some(known), _) => our == their || known.told == *their,
                        (None, _) => our == their,
                    }
                })
    }

    /// An argument's columns, and which of them were dropped: another one may have the name.
    pub(super) fn columns_in_words(&self, argument: &Argument, value: Value) -> String {
        let in_words = |(position, name): (usize, String)| match self.known(argument.name, position)
        {
            Some(known) if known.is_dropped => format!("{name} (dropped)"),
            _ => name,
        };
        match value {
            Value::Null => value.in_words(),
            _ => {
                let names = argument.columns(self).into_iter().enumerate();
                names.map(in_words).collect::<Vec<_>>().join(", ")
            }
        }
    }

    /// Whether `attach` was told the usual name of a column that a summary shows, and the column was dropped. Another
    /// one may take its place.
    fn is_left_out(&self, argument: &Argument) -> bool {
        argument.may_be_left_out()
            && self.known(argument.name, 0).is_some_and(|known| {
                known.is_dropped
                    && (argument.get)(&Spec::usual()) == Value::Text(known.told.clone())
            })
    }

    /// The number of the column that an argument names, in this table; None if it is not known.
    pub(crate) fn column_number(&self, argument: &str, relation: pg_sys::Oid) -> Option<i16> {
        let known = self.known(argument, 0)?;
        (known.relation == relation).then_some(known.number)
    }

    /// The columns whose names are not those that attach was told any more: in words, with the present name, or
    /// that they were dropped and others have their names.
    pub(crate) fn renamed_columns(&self) -> Result<Vec<String>> {
        let mut renamed = Vec::new();
        for argument in ARGUMENTS {
            for (position, name) in argument.columns(self).iter().enumerate() {
                match self.known(argument.name, position) {
                    // One that is left out is nothing to be told of.
                    Some(known) if known.is_dropped => {
                        let columns = catalog::columns(known.relation)?;
                        if columns.iter().any(|column| column.name == known.told) {
                            renamed.push(format!(
                                "{} was \"{}\", which was dropped",
                                argument.name, known.told
                            ));
                        }
                    }
                    Some(known) if known.told != *name => renamed.push(format!(
                        "{} is \"{name}\", which was \"{}\"",
                        argument.name, known.told
                    )),
                    _ => {}
                }
            }
        }
        Ok(renamed)
    }

    /// The columns of `token_balance.binding` that have names of columns.
    pub(super) fn column_names(&self) -> Map<String, Json> {
        let arguments = ARGUMENTS.iter().filter(|argument| argument.is_of_columns());
        arguments
            .map(|argument| {
                let told = match self.told(argument) {
                    Value::Text(name) => name.into(),
                    Value::Texts(names) => names.into(),
                    _ => Json::Null,
                };
                (argument.name.to_owned(), told)
            })
            .collect()
    }
}

impl<'a> Named<'a> {
    /// The column, by its number where that is known. Error 42703 if there is none, or not any more.
    pub(super) fn find<'c>(&self, table: &Table, columns: &'c [Column]) -> Result<&'c Column> {
        let by_name = || columns.iter().find(|column| column.name == self.name);
        match self.known(table) {
            Some(known) => columns
                .iter()
                .find(|column| column.number == known.number)
                .ok_or_else(|| self.dropped(table, &known.told, by_name().is_some())),
            None => by_name().ok_or_else(|| Error::ColumnMissing {
                relation: table.sql.clone(),
                column: self.name.to_owned(),
                argument: self.argument,
            }),
        }
    }

    /// Whether it has the usual name, and there is no such column, or not any more.
    pub(super) fn is_left_out(&self, usual: &str, table: &Table, columns: &[Column]) -> bool {
        match self.known(table) {
            Some(known) => {
                known.told == usual && !columns.iter().any(|column| column.number == known.number)
            }
            None => self.name == usual && !columns.iter().any(|column| column.name == usual),
        }
    }

    fn known(&self, table: &Table) -> Option<&'a BoundColumn> {
        let known = self.spec.known(self.argument, self.position)?;
        (known.relation == table.oid).then_some(known)
    }

    fn dropped(&self, table: &Table, told: &str, is_name_taken: bool) -> Error {
        let hint = match is_name_taken {
            true => format!(
                "If that is the right column, call {}, then {}: it goes on where it was.",
                self.spec.detach_call(),
                self.spec.attach_call()
            ),
            false => format!(
                "Call {}, then {} with the right column: it goes on where it was.",
                self.spec.detach_call(),
                self.spec.attach_with(&format!("{} => ...", self.argument))
            ),
        };
        Error::ColumnDropped {
            relation: table.sql.clone(),
            column: told.to_owned(),
            argument: self.argument,
            is_name_taken,
            hint,
        }
    }
}
