//! The plan of the house (docs/architecture.md): imports go down from floor to floor, and never in a circle.
//!
//! It needs nothing but the standard library and `CARGO_MANIFEST_DIR`, so that it can be compiled alone
//! against other sources, as the mutations do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The rooms of `src/`, from the top floor to the ground.
const FLOORS: [&[&str]; 8] = [
    &["api", "lib"],
    &["triggers", "reports"],
    &["settle", "attach"],
    &["ledger"],
    &["binding"],
    &["counters"],
    &["postgres"],
    &["error"],
];

/// The one arrow between rooms of one floor.
const ALONG_A_FLOOR: [(&str, &str); 1] = [("attach", "settle")];

/// Sources by path below `src/`, without `.rs`: `settle/mod`, `error`.
type Sources = BTreeMap<String, String>;

fn sources() -> Sources {
    fn read(folder: &Path, below: &str, found: &mut Sources) {
        for entry in fs::read_dir(folder).expect("src can be read") {
            let path = entry.expect("src can be read").path();
            let name = path.file_stem().expect("a name").to_string_lossy();
            let name = format!("{below}{name}");
            if path.is_dir() {
                read(&path, &format!("{name}/"), found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.insert(name, fs::read_to_string(&path).expect("src can be read"));
            }
        }
    }
    let mut found = Sources::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    read(&root, "", &mut found);
    found
}

/// Identifiers and marks of Rust code, without comments and strings; `::` is one mark.
fn tokens(code: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if first == '"' {
            end_of_string(rest)
        } else if rest.starts_with("'\"'") {
            3
        } else if rest.starts_with("::") {
            tokens.push("::".to_owned());
            2
        } else if first.is_alphabetic() || first == '_' {
            let is_part = |c: char| c.is_alphanumeric() || c == '_';
            let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            tokens.push(rest[..length].to_owned());
            length
        } else {
            if !first.is_whitespace() {
                tokens.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    tokens
}

fn end_of_string(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The paths that code names: each leaf of a `use`, and each that begins at a module.
fn paths(code: &str) -> Vec<Vec<String>> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at] == "use" {
            at += 1;
            use_tree(&tokens, &mut at, &[], &mut found);
        } else if ["crate", "super", "self"].contains(&tokens[at].as_str()) {
            // `pub(crate)` and the receiver `self` lead nowhere.
            found.extend(Some(path_at(&tokens, &mut at)).filter(|path| path.len() > 1));
        } else {
            at += 1;
        }
    }
    found
}

/// `a::b::c` from `at` on, which stands behind it afterwards.
fn path_at(tokens: &[String], at: &mut usize) -> Vec<String> {
    let mut path = vec![tokens[*at].clone()];
    *at += 1;
    let is_name = |token: &String| token.starts_with(|c: char| c.is_alphabetic() || c == '_');
    while tokens.get(*at).is_some_and(|token| token == "::")
        && tokens.get(*at + 1).is_some_and(is_name)
    {
        path.push(tokens[*at + 1].clone());
        *at += 2;
    }
    path
}

fn use_tree(tokens: &[String], at: &mut usize, above: &[String], found: &mut Vec<Vec<String>>) {
    let mut path = above.to_vec();
    while let Some(token) = tokens.get(*at) {
        match token.as_str() {
            "{" => {
                *at += 1;
                while tokens.get(*at).is_some_and(|token| token != "}") {
                    use_tree(tokens, at, &path, found);
                    if tokens.get(*at).is_some_and(|token| token == ",") {
                        *at += 1;
                    }
                }
                *at += 1;
                return;
            }
            ";" | "," | "}" => break,
            "::" | "*" => *at += 1,
            "as" => *at += 2,
            name => {
                path.push(name.to_owned());
                *at += 1;
            }
        }
    }
    if path.len() > above.len() {
        found.push(path);
    }
}

/// The module that a file is: `["settle"]` for `settle/mod`, `["settle", "claim"]` for `settle/claim`.
fn module_of(file: &str) -> Vec<String> {
    let mut module: Vec<_> = file.split('/').map(str::to_owned).collect();
    if ["mod", "lib"].contains(&module[module.len() - 1].as_str()) {
        module.pop();
    }
    module
}

fn file_of(sources: &Sources, module: &[String]) -> Option<String> {
    let file = module.join("/");
    [file.clone(), format!("{file}/mod")]
        .into_iter()
        .find(|file| sources.contains_key(file))
}

/// The file in which a path that `file` names ends; None outside of this crate.
fn target(sources: &Sources, file: &str, path: &[String]) -> Option<String> {
    let mut module = module_of(file);
    let mut rest = path;
    match path[0].as_str() {
        "crate" => {
            module.clear();
            rest = &rest[1..];
        }
        "self" => rest = &rest[1..],
        "super" => {
            while rest.first().is_some_and(|name| name == "super") {
                module.pop();
                rest = &rest[1..];
            }
        }
        // A child module, or another crate.
        name => {
            let child: Vec<_> = module.iter().cloned().chain([name.to_owned()]).collect();
            file_of(sources, &child)?;
        }
    }
    for name in rest {
        module.push(name.clone());
        if file_of(sources, &module).is_none() {
            module.pop();
            break;
        }
    }
    if module.is_empty() {
        return Some("lib".to_owned());
    }
    file_of(sources, &module)
}

/// Which file imports which.
fn arrows(sources: &Sources) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for (file, code) in sources {
        for path in paths(code) {
            if let Some(target) = target(sources, file, &path)
                && target != *file
            {
                found.insert((file.clone(), target));
            }
        }
    }
    found
}

fn room(file: &str) -> &str {
    file.split('/').next().unwrap_or(file)
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&room))
}

/// What breaks the plan, in words.
fn faults(sources: &Sources) -> Vec<String> {
    let mut faults = Vec::new();
    for file in sources.keys() {
        if floor(room(file)).is_none() {
            faults.push(format!("{file} is on no floor"));
        }
    }
    let arrows = arrows(sources);
    for (from, to) in &arrows {
        let rooms = (room(from), room(to));
        let goes_down = floor(rooms.0) < floor(rooms.1);
        // lib declares the rooms; it is none.
        if rooms.0 != rooms.1 && !goes_down && !ALONG_A_FLOOR.contains(&rooms) {
            faults.push(format!("{from} imports {to}, which is not below it"));
        }
    }
    faults.extend(circle(sources, &arrows));
    faults
}

/// A circle of files, if there is one: what is left when files that import none of the others are taken
/// away again and again.
fn circle(sources: &Sources, arrows: &BTreeSet<(String, String)>) -> Option<String> {
    let mut left: BTreeSet<_> = sources.keys().cloned().collect();
    loop {
        let is_in = |file: &String| {
            arrows
                .iter()
                .any(|(from, to)| from == file && left.contains(to))
        };
        let next: BTreeSet<_> = left.iter().filter(|file| is_in(file)).cloned().collect();
        if next.is_empty() {
            return None;
        }
        if next == left {
            let files: Vec<_> = left.into_iter().collect();
            return Some(format!("a circle is among {}", files.join(", ")));
        }
        left = next;
    }
}

#[test]
fn imports_go_down_and_in_no_circle() {
    let sources = sources();
    let count = arrows(&sources).len();
    assert!(count > 200, "the imports are found: {count}");
    let faults = faults(&sources);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A version that comes next must find one place to look at.
#[test]
fn one_file_knows_the_version_of_the_server() {
    let asks = |code: &str| code.contains("feature = \"pg1");
    let sources = sources();
    let files: Vec<_> = sources.iter().filter(|(_, code)| asks(code)).collect();
    let files: Vec<_> = files.iter().map(|(file, _)| file.as_str()).collect();
    assert_eq!(files, ["postgres/versions"]);
}

#[test]
fn each_room_is_in_the_map() {
    let map = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
    let map = fs::read_to_string(map).expect("docs/architecture.md can be read");
    for room in FLOORS.concat() {
        let name = format!("`{room}");
        assert!(map.contains(&name), "{room} is not in docs/architecture.md");
    }
}

fn house(files: &[(&str, &str)]) -> Sources {
    let files = files.iter();
    files
        .map(|(name, code)| ((*name).to_owned(), (*code).to_owned()))
        .collect()
}

#[test]
fn an_import_that_goes_up_would_be_found() {
    let rooms = [
        ("error", ""),
        ("binding/mod", ""),
        ("settle/mod", ""),
        ("settle/claim", ""),
    ];
    let with = |file, code| {
        let mut sources = house(&rooms);
        sources.insert(String::from(file), String::from(code));
        faults(&sources).join("; ")
    };
    let up = "binding/spec imports settle/claim, which is not below it";
    assert_eq!(with("binding/spec", "use crate::settle::claim::Claim;"), up);
    let nested = "use std::rc::Rc;\nuse crate::{error, settle::{claim::{self, Claim}}};";
    assert_eq!(with("binding/spec", nested), up);
    let inline = "fn f() { let _ = crate::settle::claim::write(); }";
    assert_eq!(with("binding/spec", inline), up);
    assert_eq!(
        with("binding/spec", "use super::super::settle::claim::Claim;"),
        up
    );
    assert_eq!(
        with(
            "settle/charge",
            "use crate::binding::Spec; use super::claim;"
        ),
        ""
    );
    let comment = "// use crate::settle::claim;\nconst S: &str = \"crate::settle::claim\";";
    assert_eq!(with("binding/spec", comment), "");
}

#[test]
fn an_import_along_a_floor_would_be_found() {
    let sources = house(&[
        ("settle/mod", "use crate::attach::check;"),
        ("attach/mod", ""),
        ("attach/check", ""),
    ]);
    let fault = "settle/mod imports attach/check, which is not below it";
    assert_eq!(faults(&sources), [fault]);
    let sources = house(&[
        ("settle/mod", ""),
        ("attach/mod", "use crate::settle::settle;"),
    ]);
    assert!(faults(&sources).is_empty());
}

#[test]
fn a_circle_would_be_found() {
    let sources = house(&[
        ("ledger/mod", "mod account; mod queue;"),
        ("ledger/account", "use super::queue;"),
        ("ledger/queue", "use crate::ledger::account::change;"),
        ("ledger/entries", "use super::queue;"),
        ("error", ""),
    ]);
    let faults = faults(&sources);
    assert_eq!(
        faults,
        ["a circle is among ledger/account, ledger/entries, ledger/queue"]
    );
}

#[test]
fn a_file_on_no_floor_would_be_found() {
    let sources = house(&[("cellar/wine", ""), ("helpers", "")]);
    assert_eq!(
        faults(&sources),
        ["cellar/wine is on no floor", "helpers is on no floor"]
    );
}
