//! The questions to the database. Their SQL is fixed; what comes from outside is a parameter.

use std::time::Duration;

use deadpool_postgres::{Manager, Pool, Runtime};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Config, NoTls};

use crate::api::Period;
use crate::error::ApiError;

const BALANCE: &str = "SELECT token_balance.balance($1)::text";
const SUMMARY: &str = "SELECT token_balance.summary($1, $2)::text";
const STATEMENT: &str = include_str!("statement.sql");

const CONNECTIONS: usize = 8;
/// For a free connection, and for a new one.
const PATIENCE: Duration = Duration::from_secs(3);

/// It connects when it is first asked.
pub fn pool(config: Config) -> Result<Pool, String> {
    Pool::builder(Manager::new(config, NoTls))
        .max_size(CONNECTIONS)
        .wait_timeout(Some(PATIENCE))
        .create_timeout(Some(PATIENCE))
        .recycle_timeout(Some(PATIENCE))
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| error.to_string())
}

pub struct Database {
    pool: Pool,
    /// From what a token says to an account's id.
    lookup: Option<String>,
}

impl Database {
    /// Connects when it is first asked: the service may start before the database. `lookup` is a query of one row and
    /// column at most, with $1 for a text.
    pub fn new(config: Config, lookup: Option<&str>) -> Result<Self, String> {
        let pool = pool(config)?;
        // A second row is an error, no row is NULL.
        let lookup = lookup.map(|query| query.trim_end_matches([';', ' ', '\n']));
        let lookup = lookup.map(|query| format!("SELECT ({query}\n)::text"));
        Ok(Database { pool, lookup })
    }

    /// The id of the account that a token names.
    pub async fn account(&self, name: String) -> Result<String, ApiError> {
        let Some(lookup) = &self.lookup else {
            return Ok(name);
        };
        let connection = self.pool.get().await?;
        let statement = connection.prepare_typed_cached(lookup, &[Type::TEXT]);
        let row = connection.query_one(&statement.await?, &[&name]).await?;
        row.try_get::<_, Option<String>>(0)?
            .ok_or(ApiError::NoAccount)
    }

    /// The first column of the one row: JSON, passed on as it is, since a number of SQL's may have
    /// more digits than one of Rust's.
    async fn json(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<String, ApiError> {
        let connection = self.pool.get().await?;
        let statement = connection.prepare_cached(sql).await?;
        let row = connection.query_one(&statement, parameters).await?;
        Ok(row.try_get(0)?)
    }

    pub async fn balance(&self, user: &str) -> Result<String, ApiError> {
        self.json(BALANCE, &[&user]).await
    }

    pub async fn summary(&self, user: &str, period: &Period) -> Result<String, ApiError> {
        self.json(SUMMARY, &[&user, &period.days]).await
    }

    pub async fn statement(&self, user: &str, period: &Period) -> Result<String, ApiError> {
        let parameters: [&(dyn ToSql + Sync); 3] = [&user, &period.days, &period.time_zone];
        self.json(STATEMENT, &parameters).await
    }

    /// Whether it answers.
    pub async fn check(&self) -> Result<(), ApiError> {
        let connection = self.pool.get().await?;
        connection.simple_query("SELECT 1").await?;
        Ok(())
    }
}
