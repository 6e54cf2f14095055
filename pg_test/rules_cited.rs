//! Held against docs/DESIGN.md: its rules are numbered in order, each is named by a test, and each
//! number that a test names is that of a rule.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Rules that no test names, each with the reason.
const UNCITED: [(&str, &str); 3] = [
    (
        "H6",
        "no test: which locks attach holds while it reads the usage is not looked at",
    ),
    (
        "O6",
        "no test: a table would have to change hands between two looks of one call",
    ),
    (
        "K5",
        "no test: the answers of a summary are tested, and the bench measures it",
    ),
];

/// A rule's number: the letter of its part, and a place in that part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rule {
    part: char,
    number: u32,
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let part = text.chars().next().filter(char::is_ascii_uppercase);
        let number = text
            .get(1..)
            .filter(|digits| !digits.starts_with(['0', '+']));
        match (part, number.map(str::parse)) {
            (Some(part), Some(Ok(number))) => Ok(Rule { part, number }),
            _ => Err(text.to_owned()),
        }
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}{}", self.part, self.number)
    }
}

/// The rules of a page, in its order, each under the letter that its heading has: paragraphs that
/// begin with a number in bold.
fn rules(page: &str) -> Vec<(Option<char>, Rule)> {
    let mut letter = None;
    let mut found = Vec::new();
    for line in page.lines() {
        if line.starts_with('#') {
            letter = line
                .rsplit_once(": ")
                .and_then(|(_, letter)| letter.parse().ok());
        }
        let number = line
            .strip_prefix("**")
            .and_then(|rest| rest.split_once(".**"));
        if let Some(rule) = number.and_then(|(number, _)| number.parse().ok()) {
            found.push((letter, rule));
        }
    }
    found
}

/// Rules that are not past the one before, or not of the part in which they stand. A number that
/// comes twice is one of them.
fn misplaced(rules: &[(Option<char>, Rule)]) -> Vec<Rule> {
    let mut last = BTreeMap::new();
    let mut found = Vec::new();
    for (letter, rule) in rules {
        let before = last.insert(rule.part, rule.number).unwrap_or_default();
        if *letter != Some(rule.part) || rule.number <= before {
            found.push(*rule);
        }
    }
    found
}

/// The numbers in a file's citations, `(DESIGN P3, L1)`, which a comment may break at a space. What
/// is no number comes back as an error.
fn citations(text: &str) -> Vec<Result<Rule, String>> {
    let mut found = Vec::new();
    for citation in text.split("(DESIGN").skip(1) {
        let inside = citation.split(')').next().unwrap_or_default();
        let words = inside
            .split([' ', '\n', ','])
            .filter(|word| !is_mark_of_comment(word));
        found.extend(words.map(str::parse));
    }
    found
}

/// Also what is left of two separators in a row.
fn is_mark_of_comment(word: &str) -> bool {
    ["", "//", "///", "//!", "--", "#"].contains(&word)
}

/// Rules that are not among those that tests name.
fn uncited(rules: &[(Option<char>, Rule)], cited: &BTreeSet<Rule>) -> Vec<Rule> {
    let rules = rules.iter().map(|(_, rule)| *rule);
    rules.filter(|rule| !cited.contains(rule)).collect()
}

/// What tests name and is no rule.
fn unknown(rules: &[(Option<char>, Rule)], named: &[Result<Rule, String>]) -> Vec<String> {
    let is_rule = |rule: &Rule| rules.iter().any(|(_, known)| known == rule);
    let bad = named.iter().filter_map(|named| match named {
        Ok(rule) if is_rule(rule) => None,
        Ok(rule) => Some(rule.to_string()),
        Err(text) => Some(text.clone()),
    });
    bad.collect()
}

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn design() -> Vec<(Option<char>, Rule)> {
    let page = fs::read_to_string(project("docs/DESIGN.md")).expect("the page can be read");
    let rules = rules(&page);
    assert!(rules.len() > 150, "the rules are found: {}", rules.len());
    rules
}

/// The test files below `folder`. Outputs only repeat what they name.
fn tests(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("pg_test can be read") {
        let path = entry.expect("pg_test can be read").path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if path.is_dir() {
            found.extend(tests(&path));
        } else if matches!(extension, Some("rs" | "sql" | "spec" | "sh" | "py")) {
            found.push(path);
        }
    }
    found
}

/// What each test file names, but for this one, whose strings are no citations.
fn named() -> Vec<(PathBuf, Vec<Result<Rule, String>>)> {
    let mut found = Vec::new();
    for file in tests(&project("pg_test")) {
        if !file.ends_with("rules_cited.rs") {
            let text = fs::read_to_string(&file).expect("a test can be read");
            found.push((file, citations(&text)));
        }
    }
    found
}

fn cited() -> BTreeSet<Rule> {
    named()
        .into_iter()
        .flat_map(|(_, named)| named)
        .flatten()
        .collect()
}

#[test]
fn the_rules_of_the_design_are_numbered_in_order() {
    assert_eq!(misplaced(&design()), []);
}

#[test]
fn each_rule_of_the_design_is_named_by_a_test() {
    let rules = design();
    let uncited: Vec<_> = uncited(&rules, &cited())
        .iter()
        .map(Rule::to_string)
        .collect();
    assert_eq!(
        uncited,
        UNCITED.map(|(rule, _)| rule),
        "against the list UNCITED"
    );
}

#[test]
fn each_number_that_a_test_names_is_that_of_a_rule() {
    let rules = design();
    for (file, named) in named() {
        let unknown = unknown(&rules, &named);
        assert!(unknown.is_empty(), "{unknown:?} in {}", file.display());
    }
}

#[test]
fn each_number_in_the_guarantees_is_that_of_a_rule() {
    let page = fs::read_to_string(project("docs/guarantees.md")).expect("the page can be read");
    let numbers = numbers_of_table(&page);
    assert!(
        numbers.len() > 50,
        "the numbers are found: {}",
        numbers.len()
    );
    assert_eq!(unknown(&design(), &numbers), [""; 0]);
}

/// The numbers in the last column but one of a table whose lines are numbered.
fn numbers_of_table(page: &str) -> Vec<Result<Rule, String>> {
    let mut found = Vec::new();
    for line in page.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if let [_, number, .., rules, _, _] = &cells[..]
            && number.parse::<u32>().is_ok()
        {
            found.extend(rules.split(", ").map(str::parse));
        }
    }
    found
}

/// A page with these rules in one part, A.
fn page(numbers: &[&str]) -> Vec<(Option<char>, Rule)> {
    let paragraphs: Vec<_> = numbers
        .iter()
        .map(|number| format!("**{number}.** So.\n"))
        .collect();
    rules(&format!(
        "# Page\n\n### Part: A\n\n{}",
        paragraphs.join("\nWhy.\n\n")
    ))
}

fn rule(text: &str) -> Rule {
    text.parse().expect("a rule's number")
}

#[test]
fn rules_are_paragraphs_that_begin_with_a_number_in_bold() {
    let found =
        rules("## 4. Parts\n### One: A\n\n**A1.** So.\n\n**Not.** A2.\n### Two: B\n**B10.** So.");
    assert_eq!(found, [(Some('A'), rule("A1")), (Some('B'), rule("B10"))]);
}

#[test]
fn a_rule_that_is_doubled_out_of_order_or_in_another_part_would_be_found() {
    assert_eq!(misplaced(&page(&["A1", "A2", "A4"])), []);
    assert_eq!(misplaced(&page(&["A1", "A2", "A2"])), [rule("A2")]);
    assert_eq!(misplaced(&page(&["A1", "A3", "A2"])), [rule("A2")]);
    assert_eq!(misplaced(&page(&["A1", "B2"])), [rule("B2")]);
    assert_eq!(
        misplaced(&rules("**A1.** Without a heading.")),
        [rule("A1")]
    );
}

#[test]
fn a_rule_that_no_test_names_would_be_found() {
    let cited = BTreeSet::from([rule("A1")]);
    assert_eq!(uncited(&page(&["A1"]), &cited), []);
    assert_eq!(uncited(&page(&["A1", "A2"]), &cited), [rule("A2")]);
}

#[test]
fn a_number_that_is_no_rule_would_be_found() {
    let rules = page(&["A1", "A2"]);
    assert_eq!(
        unknown(&rules, &citations("# So (DESIGN A1, A2).")),
        [""; 0]
    );
    assert_eq!(unknown(&rules, &citations("# So (DESIGN A1, A3).")), ["A3"]);
    for wrong in ["section 4", "A1 and A2", "1", "A", "a1", "A01", "A1.2"] {
        let unknown = unknown(&rules, &citations(&format!("-- (DESIGN {wrong})")));
        assert!(!unknown.is_empty(), "{wrong}");
    }
}

#[test]
fn a_citation_may_be_broken_at_a_space() {
    for mark in ["//!", "    ///", "--", "#"] {
        let broken = format!("{mark} So it is (DESIGN A1,\n{mark} B2). And (DESIGN C3).");
        let found = citations(&broken);
        assert_eq!(
            found,
            [Ok(rule("A1")), Ok(rule("B2")), Ok(rule("C3"))],
            "{mark}"
        );
    }
    assert_eq!(citations("docs/DESIGN.md (the page)"), []);
}

#[test]
fn numbers_of_a_table_are_in_its_last_column_but_one() {
    let table = "| # | promise | rules | test |\n|---|---|---|---|\n| 1 | A9 | A1, A2 | `a.rs` |";
    assert_eq!(numbers_of_table(table), [Ok(rule("A1")), Ok(rule("A2"))]);
}
