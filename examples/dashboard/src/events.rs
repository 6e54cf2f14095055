//! From the extension's NOTIFY to the browsers: one session of the database listens for all of
//! them, and each gets what is about its own user.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, HeaderName};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{Receiver, Sender};
use tokio_postgres::{AsyncMessage, Config, NoTls};

use crate::App;
use crate::auth::User;
use crate::error::{ApiError, reason};

/// Crossings that a slow browser may be behind before it is told to reload in place of them.
const BACKLOG: usize = 64;
const RETRY_AFTER: Duration = Duration::from_secs(2);
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The payload of `NOTIFY token_balance`, the part that is passed on. Any role of the database can
/// notify, so figures are not taken from here: the page asks for them.
#[derive(Clone, Deserialize)]
struct Crossing {
    event: Kind,
    /// None for an id that is too long for a notification.
    user_id: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Overdrawn,
    Recovered,
    /// The service's own word: something may have been missed.
    Reload,
}

impl Kind {
    fn to_event(self) -> Event {
        let name = match self {
            Kind::Overdrawn => "overdrawn",
            Kind::Recovered => "recovered",
            Kind::Reload => "reload",
        };
        Event::default()
            .event(name)
            .data(format!(r#"{{"event":"{name}"}}"#))
    }
}

/// Where the listening session sends to; None while there is no such session. When it ends, so do
/// the browsers' streams: they come back, and reload what they may have missed.
#[derive(Default)]
pub struct Events {
    session: Mutex<Option<Sender<Crossing>>>,
}

impl Events {
    fn replace(&self, session: Option<Sender<Crossing>>) {
        *self.session.lock().unwrap_or_else(|lock| lock.into_inner()) = session;
    }

    pub fn close(&self) {
        self.replace(None);
    }

    fn subscribe(&self) -> Option<Receiver<Crossing>> {
        let session = self.session.lock().unwrap_or_else(|lock| lock.into_inner());
        session.as_ref().map(Sender::subscribe)
    }
}

/// Listens, again and again, until the task is aborted.
pub async fn listen(app: Arc<App>, config: Config) {
    loop {
        if let Err(error) = listen_once(&app.events, &config).await {
            eprintln!("listening: {}", reason(&error));
        }
        app.events.close();
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

async fn listen_once(events: &Events, config: &Config) -> Result<(), tokio_postgres::Error> {
    let (client, mut connection) = config.connect(NoTls).await?;
    let (sender, _) = tokio::sync::broadcast::channel(BACKLOG);
    let receive = async {
        while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(notification) = message? {
                match serde_json::from_str::<Crossing>(notification.payload()) {
                    // An error here says that no browser is there to hear it.
                    Ok(crossing) => drop(sender.send(crossing)),
                    Err(error) => eprintln!("listening: a payload that is not ours: {error}"),
                }
            }
        }
        Ok(())
    };
    let subscribe = async {
        client.batch_execute("LISTEN token_balance").await?;
        events.replace(Some(sender.clone()));
        // The client is kept: without it the session would end.
        std::future::pending::<()>().await;
        Ok(())
    };
    tokio::select! { ended = receive => ended, ended = subscribe => ended }
}

/// `GET …/events`: `overdrawn` and `recovered` when the user's balance crosses zero, `reload` when
/// something may have been missed. It ends with the token.
pub async fn stream(State(app): State<Arc<App>>, user: User) -> Result<Response, ApiError> {
    let crossings = app.events.subscribe().ok_or(ApiError::Unavailable)?;
    let expiry = Box::pin(tokio::time::sleep(user.remaining()));
    let events = stream::unfold((crossings, expiry), move |(mut crossings, mut expiry)| {
        let id = user.id.clone();
        async move {
            let event = tokio::select! {
                event = next_event(&mut crossings, &id) => event?,
                () = &mut expiry => return None,
            };
            Some((Ok::<_, Infallible>(event), (crossings, expiry)))
        }
    });
    let headers = [
        (CACHE_CONTROL, "no-store"),
        // A proxy of nginx's would else hold events back.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok((headers, Sse::new(events).keep_alive(keep_alive)).into_response())
}

/// The next event that is about this user; None when the session ended.
async fn next_event(crossings: &mut Receiver<Crossing>, user: &str) -> Option<Event> {
    loop {
        match crossings.recv().await {
            Ok(Crossing {
                event,
                user_id: Some(id),
            }) if id == user => return Some(event.to_event()),
            Ok(Crossing {
                user_id: Some(_), ..
            }) => {}
            // It may be this user's, or what is missing may be.
            Ok(_) | Err(RecvError::Lagged(_)) => return Some(Kind::Reload.to_event()),
            Err(RecvError::Closed) => return None,
        }
    }
}
