//! Programs that try to break the promises of docs/DESIGN.md from outside, as clients.
//!
//! `client PROGRAM [--seed N] [--size N]`; connects by PGHOST, PGPORT, PGUSER, PGDATABASE, and gives
//! `attach` the options in ATTACH. Exit code 0 if all holds; the seed is printed and replays the
//! run, or as much of it as does not hang on what meets what: the choices of each session.

mod books;
mod bulk;
mod chaos;
mod database;
mod ddl;
mod layout;
mod model;
mod race;
mod speculative;
mod sweep;

use std::process::ExitCode;

use database::describe;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| -> Option<u64> {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse().ok()
    };
    let seed = option("--seed").unwrap_or_else(|| fastrand::u64(..1_000_000));
    let program = arguments.first().map(String::as_str).unwrap_or_default();
    let size = |usual: u64| option("--size").unwrap_or(usual);
    println!("{program}: seed {seed}");
    let result = match program {
        "model" => model::run(seed, size(10_000)),
        "one-workflow" => race::one_workflow(size(200)),
        "mixed" => race::mixed(seed, size(60)),
        "deadlock" => race::deadlock(seed, size(20_000)),
        "bulk" => bulk::run(seed, size(100)),
        "chaos" => chaos::run(seed, size(60)),
        "sweep" => sweep::sweep(seed, size(8_000)),
        "late" => sweep::late(seed, size(5)),
        "speculative" => speculative::run(size(3)),
        "layout" => layout::run(seed, size(300)),
        _ => Err(
            "usage: client model|one-workflow|mixed|deadlock|bulk|chaos|sweep|late|speculative|layout \
             [--seed N] [--size N]"
                .into(),
        ),
    };
    match result {
        Ok(report) => {
            println!("{program}: {report}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            let problem = match problem.downcast_ref::<postgres::Error>() {
                Some(database) => describe(database),
                None => problem.to_string(),
            };
            eprintln!("{program}: FAILED with seed {seed}: {problem}");
            ExitCode::FAILURE
        }
    }
}
