//! The questions to the database. Their SQL is fixed; what comes from outside is a parameter.

use std::time::Duration;

use deadpool_postgres::{Manager, Pool, Runtime};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Config, NoTls};

use crate::api::Period;
use crate::error::ApiError;

const BALANCE: &str = "SELECT token_balance.balance($1)::text";
const SUMMARY: &str = "SELECT token_balance.summary($1, $2)::text";
const STATEMENT: &str = include_str!("statement.sql");

const CONNECTIONS: usize = 8;
/// For a free connection, and for a new one.
const PATIENCE: Duration = Duration::from_secs(3);

pub struct Database {
    pool: Pool,
}

impl Database {
    /// Connects when it is first asked: the service may start before the database.
    pub fn new(config: Config) -> Result<Self, String> {
        let pool = Pool::builder(Manager::new(config, NoTls))
            .max_size(CONNECTIONS)
            .wait_timeout(Some(PATIENCE))
            .create_timeout(Some(PATIENCE))
            .recycle_timeout(Some(PATIENCE))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Database { pool })
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
