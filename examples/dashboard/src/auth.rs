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

    pub fn issue(&self, user: &str, lifetime: Duration) -> Result<String, String> {
        let claims = Claims {
            exp: (now() + lifetime).as_secs(),
            others: Map::from_iter([(self.claim.clone(), user.into())]),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.encoding)
            .map_err(|error| error.to_string())
    }

    /// Whom a good token names, and until when.
    fn check(&self, token: &str) -> Option<(String, Duration)> {
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &self.validation)
            .ok()?
            .claims;
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

fn bearer_token(parts: &Parts) -> Option<&str> {
    let (scheme, token) = parts
        .headers
        .get(AUTHORIZATION)?
        .to_str()
        .ok()?
        .split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
