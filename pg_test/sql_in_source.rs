//! Held against the source: SQL that the extension runs looks no operator and no function up in the
//! caller's search path (DESIGN O12), and means the same whatever the session's settings.

use std::fs;
use std::path::{Path, PathBuf};

/// The Rust files below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("src can be read") {
        let path = entry.expect("src can be read").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The string literals of a Rust source, without comments, joined where a line ends in `\`.
fn string_literals(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = source.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '/' if rest.peek() == Some(&'/') => {
                rest.by_ref().find(|next| *next == '\n');
            }
            // A character or a lifetime: neither can open a string here.
            '\'' if rest.peek() == Some(&'"') => {
                rest.next();
            }
            '"' => {
                let mut literal = String::new();
                while let Some(inner) = rest.next() {
                    match inner {
                        '"' => break,
                        '\\' => match rest.next() {
                            Some('\n') => {
                                while rest.next_if(|next| next.is_whitespace()).is_some() {}
                            }
                            Some(escaped) => literal.push(escaped),
                            None => break,
                        },
                        other => literal.push(other),
                    }
                }
                found.push(literal);
            }
            _ => {}
        }
    }
    found
}

fn is_sql(literal: &str) -> bool {
    let starts = [
        "SELECT ",
        "INSERT ",
        "UPDATE ",
        "DELETE ",
        "CASE ",
        "COALESCE(",
        "LEAST(",
    ];
    let pieces = [" WHERE ", " FROM ", " JOIN ", "OPERATOR("];
    starts.iter().any(|start| literal.starts_with(start))
        || pieces.iter().any(|piece| literal.contains(piece))
}

/// The literal without its quoted SQL strings and qualified operators.
fn without_what_is_safe(sql: &str) -> String {
    let outside_quotes: String = sql.split('\'').step_by(2).collect::<Vec<_>>().join("''");
    let mut rest = outside_quotes.as_str();
    let mut left = String::new();
    while let Some((before, after)) = rest.split_once("OPERATOR(pg_catalog.") {
        left.push_str(before);
        rest = after.split_once(')').map_or("", |(_, after)| after);
    }
    left.push_str(rest);
    left
}

/// `=` of an assignment in UPDATE … SET: after SET or a comma, and a column.
fn is_assignment(before: &str) -> bool {
    let Some((_, set)) = before.rsplit_once("SET ") else {
        return false;
    };
    let words: Vec<_> = set.split_whitespace().collect();
    let is_first = words.len() == 1;
    !set.contains(" WHERE ")
        && (is_first
            || words
                .iter()
                .rev()
                .nth(1)
                .is_some_and(|word| word.ends_with(',')))
}

/// Syntax behind which the server looks an operator up in the caller's search_path.
const HIDDEN_OPERATORS: [&str; 7] = [
    " IN (",
    " NOT IN",
    "DISTINCT FROM",
    "NULLIF(",
    " BETWEEN ",
    " LIKE ",
    " USING (",
];

fn unqualified_operators(sql: &str) -> Vec<String> {
    let left = without_what_is_safe(sql);
    let mut found: Vec<_> = HIDDEN_OPERATORS
        .iter()
        .filter(|syntax| left.contains(*syntax))
        .map(|syntax| syntax.to_string())
        .collect();
    for (place, word) in left.split_whitespace().scan(0, |from, word| {
        let place = left[*from..].find(word).map_or(*from, |at| *from + at);
        *from = place + word.len();
        Some((place, word))
    }) {
        let is_operator =
            word.chars().all(|c| "=<>!+-*/~|&%#@^".contains(c)) && !["*", "=>"].contains(&word);
        if is_operator && !(word == "=" && is_assignment(&left[..place])) {
            found.push(word.to_owned());
        }
    }
    found
}

/// SQL's own syntax that looks like a call of a function.
const SYNTAX: [&str; 11] = [
    "ARRAY", "COALESCE", "EXTRACT", "LEAST", "GREATEST", "OPERATOR", "ANY", "FROM", "WHEN",
    "LATERAL", "DISTINCT",
];

fn unqualified_calls(sql: &str) -> Vec<String> {
    let left = without_what_is_safe(sql);
    let mut found: Vec<_> = HIDDEN_OPERATORS
        .iter()
        .filter(|syntax| left.contains(*syntax))
        .map(|syntax| syntax.to_string())
        .collect();
    for (place, _) in left.match_indices('(') {
        let name: String = left[..place]
            .chars()
            .rev()
            .take_while(|c| c.is_alphanumeric() || "_.{}".contains(*c))
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect();
        let is_alias = left[..place - name.len()].ends_with("AS ");
        let is_safe = name.is_empty()
            || name.contains('.')
            || name.contains('{')
            || is_alias
            || SYNTAX.contains(&name.as_str());
        if !is_safe {
            found.push(name);
        }
    }
    found
}

/// Quoted strings with a backslash, which say something else under `standard_conforming_strings = off`.
fn strings_with_backslashes(sql: &str) -> Vec<&str> {
    let quoted = sql.split('\'').skip(1).step_by(2);
    quoted.filter(|string| string.contains('\\')).collect()
}

fn sql_in_source() -> Vec<(String, String)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for file in files(&source) {
        let text = fs::read_to_string(&file).expect("src can be read");
        for literal in string_literals(&text) {
            if is_sql(&literal) {
                found.push((file.display().to_string(), literal));
            }
        }
    }
    assert!(found.len() > 30, "the SQL is found: {}", found.len());
    found
}

#[test]
fn sql_in_src_names_the_schema_of_each_operator() {
    for (file, sql) in sql_in_source() {
        let bad = unqualified_operators(&sql);
        assert!(bad.is_empty(), "{bad:?} in {file}: {sql}");
    }
}

#[test]
fn sql_in_src_names_the_schema_of_each_function() {
    for (file, sql) in sql_in_source() {
        let bad = unqualified_calls(&sql);
        assert!(bad.is_empty(), "{bad:?} in {file}: {sql}");
    }
}

#[test]
fn sql_in_src_has_no_string_that_a_setting_changes() {
    for (file, sql) in sql_in_source() {
        let bad = strings_with_backslashes(&sql);
        assert!(bad.is_empty(), "{bad:?} in {file}: {sql}");
    }
    let bad = r"SELECT a.b FROM t AS a WHERE a.x = '[0-9]' AND a.y = '\d'";
    assert_eq!(strings_with_backslashes(bad), [r"\d"]);
}

#[test]
fn an_operator_or_a_function_without_its_schema_would_be_found() {
    let bad = "SELECT sum(a.b) FROM t AS a WHERE a.x = $1 AND a.y OPERATOR(pg_catalog.=) '='";
    assert_eq!(unqualified_operators(bad), ["="]);
    assert_eq!(unqualified_calls(bad), ["sum"]);
    let good = "UPDATE t AS a SET x = a.x OPERATOR(pg_catalog.-) $2, y = pg_catalog.now() \
                WHERE a.k OPERATOR(pg_catalog.=) ANY ($1)";
    assert_eq!(unqualified_operators(good), [""; 0]);
    assert_eq!(unqualified_calls(good), [""; 0]);
    let second = "WITH c AS (SELECT 1 WHERE true) UPDATE t SET x = 1, y = 2";
    assert_eq!(unqualified_operators(second), [""; 0]);
    let late = "UPDATE t SET x = 1 WHERE k = $1";
    assert_eq!(unqualified_operators(late), ["="]);
}
