//! A service and a page that show the users of a platform their token balance, and another page for its operators.
//!
//!     token_balance_dashboard                          serve
//!     token_balance_dashboard token USER [HOURS]       print a token for a user, to try it out
//!     token_balance_dashboard operator NAME [HOURS]    the same for an operator
//!     token_balance_dashboard cashier NAME [HOURS]     the same for one who may also give
//!     token_balance_dashboard --help                   what it takes
//!     token_balance_dashboard --version                which one it is
//!
//! README.md says which environment variables it reads.

mod api;
mod auth;
mod config;
mod database;
mod desk;
mod error;
mod events;
mod operator;
mod page;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::auth::{Duty, Tokens};
use crate::config::Config;
use crate::database::Database;
use crate::desk::Desk;
use crate::events::Events;

const USAGE: &str =
    "usage: token_balance_dashboard [token|operator|cashier NAME [HOURS] | --help | --version]";

/// What `--help` says beside the usage.
const HELP: &str = "
Without arguments it serves the pages; with token, operator or cashier it prints a
token for the person NAME, good for HOURS (12). DASHBOARD_JWT_SECRET has to be set.
Its README has all variables, the roles of the database, and the API.";

/// How long answers under way may take when the service is told to stop.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(10);

/// What a request may use.
pub struct App {
    tokens: Tokens,
    database: Database,
    events: Events,
    /// None where there is no page for operators.
    desk: Option<Desk>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        [] => serve().await,
        [kind @ ("token" | "operator" | "cashier"), name] => print_token(kind, name, "12"),
        [kind @ ("token" | "operator" | "cashier"), name, hours] => print_token(kind, name, hours),
        ["--help" | "-h"] => say(&format!("{USAGE}\n{HELP}")),
        ["--version" | "-V"] => say(concat!(
            "token_balance_dashboard ",
            env!("CARGO_PKG_VERSION")
        )),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// To a reader who may have had enough, as `head` has.
fn say(text: &str) -> Result<(), String> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}

fn print_token(kind: &str, name: &str, hours: &str) -> Result<(), String> {
    let hours: u32 = hours
        .parse()
        .map_err(|_| format!("{hours} is not a number of hours"))?;
    let lifetime = Duration::from_secs(u64::from(hours) * 3600);
    let tokens = Tokens::new(&config::secret()?, config::claim());
    let role = Duty::of(kind).map(|duty| (config::role_claim(), duty.name()));
    println!("{}", tokens.issue(name, role, lifetime)?);
    Ok(())
}

async fn serve() -> Result<(), String> {
    let config = Config::from_env()?;
    let app = Arc::new(App {
        tokens: Tokens::new(&config.secret, config.claim),
        database: Database::new(config.database.clone(), config.lookup.as_deref())?,
        events: Events::default(),
        desk: config.desk.map(Desk::new).transpose()?,
    });
    let listener = TcpListener::bind(config.address)
        .await
        .map_err(|error| format!("{} cannot be served: {error}", config.address))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let mut stop = StopSignal::new()?;

    let listening = tokio::spawn(events::listen(app.clone(), config.database));
    println!("serving http://{address}/");
    let server =
        axum::serve(listener, api::router(app.clone())).with_graceful_shutdown(async move {
            stop.wait().await;
            // Event streams have no end of their own, and the server waits for all answers.
            listening.abort();
            app.events.close();
            tokio::spawn(async {
                tokio::time::sleep(SHUTDOWN_PATIENCE).await;
                eprintln!("error: answers under way did not end, stopping without them");
                std::process::exit(1);
            });
        });
    server.await.map_err(|error| error.to_string())
}

struct StopSignal {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl StopSignal {
    fn new() -> Result<Self, String> {
        let of = |kind| signal(kind).map_err(|error| format!("no signal handler: {error}"));
        Ok(StopSignal {
            interrupt: of(SignalKind::interrupt())?,
            terminate: of(SignalKind::terminate())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
