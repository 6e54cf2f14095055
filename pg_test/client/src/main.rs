//! Programs that try to break the promises of docs/DESIGN.md from outside, as clients.
//!
//! `client PROGRAM [--seed N] [--size N]`; connects by PGHOST, PGPORT, PGUSER, PGDATABASE, and
//! gives `attach` the options in ATTACH. Exit code 0 if all holds, 77 if it cannot be tried here. The
//! seed is printed and replays the run, or as much of it as does not hang on what meets what: the
//! choices of each session. `model` and `shapes` have more options (model.rs, shapes.rs). The programs that are tables of cases (cases.rs) choose nothing.

mod attackers;
mod books;
mod boundaries;
mod bulk;
mod cases;
mod chaos;
mod database;
mod ddl;
mod faults;
mod hostile_names;
mod layout;
mod model;
mod race;
mod retention;
mod shapes;
mod speculative;
mod sweep;

use std::process::ExitCode;

use cases::Skipped;
use database::{Result, describe};

/// The exit code that the suite's scripts skip with.
const SKIPPED: u8 = 77;

enum Program {
    /// By a seed, so much of it: how much is usual.
    Random(fn(u64, u64) -> Result<String>, u64),
    /// So much of it, always the same.
    Sized(fn(u64) -> Result<String>, u64),
    /// A table of cases.
    Cases(fn() -> Result<String>),
}

use Program::{Cases, Random, Sized};

const PROGRAMS: [(&str, Program); 16] = [
    ("model", Random(model::run, 10_000)),
    ("one-workflow", Sized(race::one_workflow, 200)),
    ("mixed", Random(race::mixed, 60)),
    ("deadlock", Random(race::deadlock, 20_000)),
    ("bulk", Random(bulk::run, 100)),
    ("chaos", Random(chaos::run, 60)),
    ("sweep", Random(sweep::sweep, 8_000)),
    ("late", Random(sweep::late, 5)),
    ("retention", Random(retention::run, 60)),
    ("speculative", Sized(speculative::run, 3)),
    ("layout", Random(layout::run, 300)),
    ("attackers", Cases(attackers::run)),
    ("boundaries", Cases(boundaries::run)),
    ("faults", Cases(faults::run)),
    ("shapes", Cases(shapes::run)),
    ("hostile-names", Random(hostile_names::run, 220)),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted = arguments.first().map(String::as_str).unwrap_or_default();
    let Some((name, program)) = PROGRAMS.iter().find(|program| program.0 == wanted) else {
        let names: Vec<_> = PROGRAMS.iter().map(|program| program.0).collect();
        eprintln!("usage: client {} [--seed N] [--size N]", names.join("|"));
        return ExitCode::FAILURE;
    };
    let option = |name: &str| -> Option<u64> {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse().ok()
    };
    let size = |usual: &u64| option("--size").unwrap_or(*usual);
    let (result, with_seed) = match program {
        Random(run, usual) => {
            let seed = option("--seed").unwrap_or_else(|| fastrand::u64(..1_000_000));
            println!("{name}: seed {seed}");
            (run(seed, size(usual)), format!(" with seed {seed}"))
        }
        Sized(run, usual) => (run(size(usual)), String::new()),
        Cases(run) => (run(), String::new()),
    };
    match result {
        Ok(report) => {
            println!("{name}: {report}");
            ExitCode::SUCCESS
        }
        Err(problem) if problem.is::<Skipped>() => {
            println!("{problem}");
            ExitCode::from(SKIPPED)
        }
        Err(problem) => {
            let problem = match problem.downcast_ref::<postgres::Error>() {
                Some(database) => describe(database),
                None => problem.to_string(),
            };
            eprintln!("{name}: FAILED{with_seed}: {problem}");
            ExitCode::FAILURE
        }
    }
}
