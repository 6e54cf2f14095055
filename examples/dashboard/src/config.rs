//! What the environment says: where to serve, who signs tokens, which database.

use std::net::SocketAddr;
use std::time::Duration;

/// RFC 7518, section 3.2: a key of HS256 has at least as many bits as the hash.
const SHORTEST_SECRET: usize = 32;

/// Settings of each session. Nothing that the service runs writes, or is worth waiting long for.
const SESSION_OPTIONS: &str = "-c default_transaction_read_only=on -c statement_timeout=5s";

/// The same for operators: a report over all usage takes longer, and a credit waits for its account, but not for ever.
const DESK_OPTIONS: &str =
    "-c default_transaction_read_only=on -c statement_timeout=30s -c lock_timeout=5s";

pub struct Config {
    pub address: SocketAddr,
    pub secret: String,
    /// The claim of a token that names the user.
    pub claim: String,
    /// A query that makes the account's id of it; None where it is that.
    pub lookup: Option<String>,
    pub database: tokio_postgres::Config,
    /// None where there is no page for operators.
    pub desk: Option<DeskConfig>,
}

/// Who may be an operator, and what of the database is theirs.
pub struct DeskConfig {
    pub database: tokio_postgres::Config,
    /// The claim of a token that says `operator` or `cashier`.
    pub claim: String,
    /// The role that looks.
    pub operator: String,
    /// The role that also gives.
    pub cashier: String,
}

impl Config {
    pub fn from_env() -> Result<Self, String> {
        let address = variable("DASHBOARD_ADDRESS").unwrap_or_else(|| "127.0.0.1:8080".into());
        Ok(Config {
            address: address
                .parse()
                .map_err(|_| format!("DASHBOARD_ADDRESS={address} is not ADDRESS:PORT"))?,
            secret: secret()?,
            claim: claim(),
            lookup: variable("DASHBOARD_USER_QUERY"),
            database: database(variable)?,
            desk: desk(variable)?,
        })
    }
}

/// The secret that the tokens are signed with. It is never printed.
pub fn secret() -> Result<String, String> {
    match variable("DASHBOARD_JWT_SECRET") {
        Some(secret) if secret.len() >= SHORTEST_SECRET => Ok(secret),
        Some(_) => Err(format!(
            "DASHBOARD_JWT_SECRET is shorter than {SHORTEST_SECRET} bytes"
        )),
        None => Err("DASHBOARD_JWT_SECRET is not set".into()),
    }
}

pub fn claim() -> String {
    variable("DASHBOARD_USER_CLAIM").unwrap_or_else(|| "sub".into())
}

pub fn role_claim() -> String {
    role_claim_of(variable)
}

fn role_claim_of(get: impl Fn(&str) -> Option<String>) -> String {
    get("DASHBOARD_ROLE_CLAIM").unwrap_or_else(|| "role".into())
}

/// The operators' connection: as the users', by a login of its own, so that no session of the users' has a way to give.
fn desk(get: impl Fn(&str) -> Option<String>) -> Result<Option<DeskConfig>, String> {
    let Some(user) = get("DASHBOARD_OPERATOR_PGUSER") else {
        return Ok(None);
    };
    if get("PGUSER").as_ref() == Some(&user) {
        return Err(format!(
            "DASHBOARD_OPERATOR_PGUSER={user} is PGUSER, too: operators need a login of their own"
        ));
    }
    let mut database = database(&get)?;
    database.user(user).options(DESK_OPTIONS);
    match get("DASHBOARD_OPERATOR_PGPASSWORD") {
        Some(password) => database.password(password),
        // Not the users' password, which that of another role is not.
        None => database.password(""),
    };
    Ok(Some(DeskConfig {
        database,
        claim: role_claim_of(&get),
        operator: get("DASHBOARD_OPERATOR_ROLE").unwrap_or_else(|| "token_operator".into()),
        cashier: get("DASHBOARD_CASHIER_ROLE").unwrap_or_else(|| "token_cashier".into()),
    }))
}

/// Set and not empty, as libpq sees it.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The connection out of libpq's environment variables.
fn database(get: impl Fn(&str) -> Option<String>) -> Result<tokio_postgres::Config, String> {
    let mut config = tokio_postgres::Config::new();
    // A folder is that of a unix socket.
    config.host(get("PGHOST").unwrap_or_else(|| "/var/run/postgresql".into()));
    if let Some(port) = get("PGPORT") {
        config.port(
            port.parse()
                .map_err(|_| format!("PGPORT={port} is not a port"))?,
        );
    }
    if let Some(user) = get("PGUSER") {
        config.user(user);
    }
    if let Some(password) = get("PGPASSWORD") {
        config.password(password);
    }
    if let Some(name) = get("PGDATABASE") {
        config.dbname(name);
    }
    // Better no connection than one that is less safe than what was asked for.
    if let Some(mode @ ("require" | "verify-ca" | "verify-full")) = get("PGSSLMODE").as_deref() {
        return Err(format!(
            "PGSSLMODE={mode}: this service does not speak TLS to the database; \
             connect by a unix socket, a private network or a tunnel"
        ));
    }
    config
        .application_name("token_balance_dashboard")
        .options(SESSION_OPTIONS)
        .connect_timeout(Duration::from_secs(3))
        // A server that vanished without a word is noticed in a minute and not in hours.
        .keepalives_idle(Duration::from_secs(30))
        .keepalives_interval(Duration::from_secs(10))
        .keepalives_retries(3);
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_postgres::config::Host;

    fn database_of(variables: &[(&str, &str)]) -> Result<tokio_postgres::Config, String> {
        database(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_folder_is_a_socket_and_a_name_is_tcp() {
        let socket = database_of(&[("PGHOST", "/run/pg"), ("PGPORT", "5433")]).unwrap();
        assert_eq!(socket.get_hosts(), [Host::Unix("/run/pg".into())]);
        assert_eq!(socket.get_ports(), [5433]);
        let tcp = database_of(&[("PGHOST", "db.example.com")]).unwrap();
        assert_eq!(tcp.get_hosts(), [Host::Tcp("db.example.com".into())]);
    }

    #[test]
    fn a_session_is_read_only() {
        let options = database_of(&[]).unwrap();
        let options = options.get_options().unwrap();
        assert!(options.contains("default_transaction_read_only=on"));
    }

    fn desk_of(variables: &[(&str, &str)]) -> Result<Option<DeskConfig>, String> {
        desk(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn operators_have_a_login_of_their_own() {
        assert!(desk_of(&[("PGUSER", "web")]).unwrap().is_none());
        assert!(desk_of(&[("PGUSER", "web"), ("DASHBOARD_OPERATOR_PGUSER", "web")]).is_err());
        let names = [
            ("PGUSER", "web"),
            ("PGPASSWORD", "of web"),
            ("DASHBOARD_OPERATOR_PGUSER", "desk"),
        ];
        let desk = desk_of(&names).unwrap().unwrap();
        assert_eq!(desk.database.get_user(), Some("desk"));
        assert_ne!(desk.database.get_password(), Some("of web".as_bytes()));
        let options = desk.database.get_options().unwrap();
        assert!(options.contains("default_transaction_read_only=on"));
        assert!(options.contains("lock_timeout"));
    }

    #[test]
    fn tls_that_was_asked_for_is_not_left_out_in_silence() {
        assert!(database_of(&[("PGSSLMODE", "verify-full")]).is_err());
        assert!(database_of(&[("PGSSLMODE", "prefer")]).is_ok());
    }

    #[test]
    fn a_port_is_a_number() {
        let error = database_of(&[("PGPORT", "5432x")]).unwrap_err();
        assert_eq!(error, "PGPORT=5432x is not a port");
    }
}
