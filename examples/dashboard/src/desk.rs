//! The operators' questions to the database, and what cashiers give. Each request takes the role of its operator's duty
//! for one transaction: what that role may do the database's grants say. The login itself may do nothing.

use deadpool_postgres::{Pool, Transaction};
use tokio_postgres::types::ToSql;

use crate::auth::Duty;
use crate::config::DeskConfig;
use crate::database;
use crate::error::{ApiError, of_operator};

/// Takes a role until the transaction ends, and tells whether the login could give without one.
const ENTER: &str = include_str!("operator/enter.sql");
const MAY: &str = include_str!("operator/may.sql");
const ACCOUNT: &str = include_str!("operator/account.sql");
const STATEMENT: &str = include_str!("operator/statement.sql");
const OVERDRAWN: &str = include_str!("operator/overdrawn.sql");
const USAGE: &str = include_str!("operator/usage.sql");
const QUEUE: &str = include_str!("operator/queue.sql");
const ARCHIVED: &str = include_str!("operator/archived.sql");
const CREDIT: &str =
    "SELECT token_balance.credit($1::text, $2::text::numeric, $3::text, $4::text)::text";
const REFUND: &str =
    "SELECT token_balance.refund_workflow($1::text, $2::text::numeric, $3::text, $4::text)::text";

/// What all operators see.
#[derive(Clone, Copy)]
pub enum Report {
    Overdrawn,
    Usage,
    Queue,
    Archived,
}

impl Report {
    fn sql(self) -> &'static str {
        match self {
            Report::Overdrawn => OVERDRAWN,
            Report::Usage => USAGE,
            Report::Queue => QUEUE,
            Report::Archived => ARCHIVED,
        }
    }
}

/// A credit or a refund: what is given under a reference, which makes that it is given once.
pub struct Gift {
    pub kind: GiftKind,
    /// A whole number above zero. None: all that is left of the run's charge.
    pub amount: Option<String>,
    pub reference: String,
    pub note: Option<String>,
}

pub enum GiftKind {
    Credit { account: String },
    Refund { workflow: String },
}

pub struct Desk {
    pool: Pool,
    /// The claim of a token that says the duty.
    pub claim: String,
    operator: String,
    cashier: String,
}

impl Desk {
    pub fn new(config: DeskConfig) -> Result<Self, String> {
        Ok(Desk {
            pool: database::pool(config.database)?,
            claim: config.claim,
            operator: config.operator,
            cashier: config.cashier,
        })
    }

    fn role(&self, duty: Duty) -> &String {
        match duty {
            Duty::Operator => &self.operator,
            Duty::Cashier => &self.cashier,
        }
    }

    /// What the duty's role may do, as JSON.
    pub async fn may(&self, duty: Duty) -> Result<String, ApiError> {
        self.read(duty, MAY, &[]).await
    }

    pub async fn account(&self, duty: Duty, id: &str) -> Result<String, ApiError> {
        self.read(duty, ACCOUNT, &[&id]).await
    }

    /// Entries of an account, newest first, and those before an entry where one is named.
    pub async fn statement(
        &self,
        duty: Duty,
        id: &str,
        before: Option<i64>,
    ) -> Result<String, ApiError> {
        self.read(duty, STATEMENT, &[&id, &before]).await
    }

    pub async fn report(&self, duty: Duty, report: Report) -> Result<String, ApiError> {
        self.read(duty, report.sql(), &[]).await
    }

    pub async fn give(&self, duty: Duty, gift: &Gift) -> Result<String, ApiError> {
        let (sql, to) = match &gift.kind {
            GiftKind::Credit { account } => (CREDIT, account),
            GiftKind::Refund { workflow } => (REFUND, workflow),
        };
        let mut connection = self.pool.get().await?;
        let transaction = connection.build_transaction().read_only(false);
        let transaction = transaction.start().await?;
        self.enter(&transaction, duty).await?;
        let parameters: [&(dyn ToSql + Sync); 4] = [to, &gift.amount, &gift.reference, &gift.note];
        let answer = ask(&transaction, sql, &parameters).await?;
        // A constraint or trigger of the platform's may still refuse it.
        transaction.commit().await.map_err(of_operator)?;
        Ok(answer)
    }

    async fn read(
        &self,
        duty: Duty,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<String, ApiError> {
        let mut connection = self.pool.get().await?;
        let transaction = connection.build_transaction().read_only(true);
        let transaction = transaction.start().await?;
        self.enter(&transaction, duty).await?;
        let answer = ask(&transaction, sql, parameters).await?;
        transaction.commit().await?;
        Ok(answer)
    }

    /// Takes the duty's role. A login that could give by itself is refused: a request that came by no role would give.
    async fn enter(&self, transaction: &Transaction<'_>, duty: Duty) -> Result<(), ApiError> {
        let statement = transaction.prepare_cached(ENTER).await?;
        let row = transaction.query_one(&statement, &[self.role(duty)]).await;
        // A role that is not there, or not the login's to take: that is the set-up, and no fault of the operator's.
        let row = row.map_err(|error| match error.as_db_error() {
            Some(refusal) => {
                eprintln!(
                    "database: the operators' login cannot take the role {:?}: {}",
                    self.role(duty),
                    refusal.message()
                );
                ApiError::Internal
            }
            None => error.into(),
        })?;
        if row.try_get("may_by_itself")? {
            eprintln!(
                "database: the operators' login may change balances without taking a role: \
                 make it NOINHERIT and grant it nothing else"
            );
            return Err(ApiError::Internal);
        }
        Ok(())
    }
}

/// The first column of the one row, JSON.
async fn ask(
    transaction: &Transaction<'_>,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<String, ApiError> {
    let statement = transaction.prepare_cached(sql).await;
    let statement = statement.map_err(of_operator)?;
    let row = transaction.query_one(&statement, parameters).await;
    Ok(row.map_err(of_operator)?.try_get(0)?)
}
