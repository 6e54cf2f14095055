//! Who asks: the user of a bearer token. Nothing else in a request names a user.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::App;
use crate::error::ApiError;

#[derive(Serialize, Deserialize)]
struct Claims {
    exp: u64,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Checks tokens, and makes them for those who try the service out.
pub struct Tokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    /// The claim that names the user.
    claim: String,
}

impl Tokens {
    pub fn new(secret: &str, claim: String) -> Self {
        // The algorithm is ours to say, never the token's.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_required_spec_claims(&["exp"]);
        validation.validate_nbf = true;
        validation.leeway = 0;
        Tokens {
            encoding: EncodingKey::from_secret(secret.as_bytes()),
            decoding: DecodingKey::from_secret(secret.as_bytes()),
            validation,
            claim,
        }
    }

    /// A token for a user, or for an operator where `role` is a claim and what it says.
    pub fn issue(
        &self,
        user: &str,
        role: Option<(String, &str)>,
        lifetime: Duration,
    ) -> Result<String, String> {
        let mut others = Map::from_iter([(self.claim.clone(), user.into())]);
        others.extend(role.map(|(claim, role)| (claim, role.into())));
        let claims = Claims {
            exp: (now() + lifetime).as_secs(),
            others,
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.encoding)
            .map_err(|error| error.to_string())
    }

    /// What a good token says.
    fn claims(&self, token: &str) -> Option<Claims> {
        let token = jsonwebtoken::decode::<Claims>(token, &self.decoding, &self.validation).ok()?;
        Some(token.claims)
    }

    /// Whom a good token names, and until when.
    fn check(&self, token: &str) -> Option<(String, Duration)> {
        let claims = self.claims(token)?;
        let name = match claims.others.get(&self.claim)? {
            Value::String(name) => name.clone(),
            // `sub` is text (RFC 7519); another claim may have the number that an account has.
            Value::Number(id) if self.claim != "sub" && !id.is_f64() => id.to_string(),
            _ => return None,
        };
        // The database has no id with a zero byte in it, and says so with an error.
        let names_someone = !name.is_empty() && !name.contains('\0');
        names_someone.then_some((name, Duration::from_secs(claims.exp)))
    }
}

fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// The user that the request's token names.
pub struct User {
    /// Of the account.
    pub id: String,
    expires_at: Duration,
}

impl User {
    /// For how long the token still holds.
    pub fn remaining(&self) -> Duration {
        self.expires_at.saturating_sub(now())
    }
}

impl FromRequestParts<Arc<App>> for User {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let token = bearer_token(parts).ok_or(ApiError::NoToken)?;
        let (name, expires_at) = app.tokens.check(token).ok_or(ApiError::RefusedToken)?;
        let id = app.database.account(name).await?;
        Ok(User { id, expires_at })
    }
}

/// What an operator is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Looks.
    Operator,
    /// Looks, and gives.
    Cashier,
}

impl Duty {
    /// As a token says it, letter by letter.
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "operator" => Some(Duty::Operator),
            "cashier" => Some(Duty::Cashier),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Duty::Operator => "operator",
            Duty::Cashier => "cashier",
        }
    }
}

/// The operator that the request's token names. What one may do the database says, for the role of the duty.
pub struct Operator {
    pub name: String,
    pub duty: Duty,
}

impl FromRequestParts<Arc<App>> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let desk = app.desk.as_ref().ok_or(ApiError::NotFound)?;
        let token = bearer_token(parts).ok_or(ApiError::NoToken)?;
        let (name, _) = app.tokens.check(token).ok_or(ApiError::RefusedToken)?;
        let claims = app.tokens.claims(token).ok_or(ApiError::RefusedToken)?;
        let duty = match claims.others.get(&desk.claim) {
            Some(Value::String(duty)) => Duty::of(duty),
            _ => None,
        };
        let duty = duty.ok_or(ApiError::NotAnOperator)?;
        Ok(Operator { name, duty })
    }
}

fn bearer_token(parts: &Parts) -> Option<&str> {
    let (scheme, token) = parts
        .headers
        .get(AUTHORIZATION)?
        .to_str()
        .ok()?
        .split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duty_is_said_letter_by_letter() {
        for duty in [Duty::Operator, Duty::Cashier] {
            assert_eq!(Duty::of(duty.name()), Some(duty));
        }
        for name in ["", "Cashier", "cashier ", "token_cashier", "postgres"] {
            assert_eq!(Duty::of(name), None);
        }
    }
}
