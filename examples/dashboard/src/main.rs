//! A service and a page that show the users of a platform their token balance.
//!
//!     token_balance_dashboard                       serve
//!     token_balance_dashboard token USER [HOURS]    print a token for a user, to try it out
//!
//! README.md says which environment variables it reads.

mod api;
mod auth;
mod config;
mod database;
mod error;
mod events;
mod page;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::auth::Tokens;
use crate::config::Config;
use crate::database::Database;
use crate::events::Events;

/// How long answers under way may take when the service is told to stop.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(10);

/// What a request may use.
pub struct App {
    tokens: Tokens,
    database: Database,
    events: Events,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        [] => serve().await,
        ["token", user] => print_token(user, "12"),
        ["token", user, hours] => print_token(user, hours),
        _ => Err("usage: token_balance_dashboard [token USER [HOURS]]".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn print_token(user: &str, hours: &str) -> Result<(), String> {
    let hours: u32 = hours
        .parse()
        .map_err(|_| format!("{hours} is not a number of hours"))?;
    let lifetime = Duration::from_secs(u64::from(hours) * 3600);
    let tokens = Tokens::new(&config::secret()?, config::claim());
    println!("{}", tokens.issue(user, lifetime)?);
    Ok(())
}

async fn serve() -> Result<(), String> {
    let config = Config::from_env()?;
    let app = Arc::new(App {
        tokens: Tokens::new(&config.secret, config.claim),
        database: Database::new(config.database.clone(), config.lookup.as_deref())?,
        events: Events::default(),
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
