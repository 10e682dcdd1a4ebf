//! JSON Web Tokens: HS256 with the node's own key, or RS256, ES256 and EdDSA with a JSON Web Key Set.
//!
//! The algorithm comes from the key, never from the token's header alone, so that a public key can't be used as an
//! HMAC secret.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode};
use serde::{Deserialize, Serialize};
use trunkline_service::Role;

use super::rights::Rights;
use super::{AuthError, Identity};

/// Clocks of two machines differ; a token is not refused for that.
const LEEWAY_SECONDS: u64 = 2;

/// What is checked beside the signature.
#[derive(Debug, Clone, Default)]
pub struct JwtOptions {
    /// `aud` must name this.
    pub audience: Option<String>,
    /// `iss` must be this.
    pub issuer: Option<String>,
    /// Claims that must be present.
    pub required: Vec<String>,
}

/// Verifies tokens. The key set and the options can be replaced while it is used.
pub struct JwtVerifier {
    secret: Option<DecodingKey>,
    keys: ArcSwap<JwkSet>,
    options: ArcSwap<JwtOptions>,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tl: Option<TrunklineClaims>,
    #[serde(flatten)]
    rest: HashMap<String, serde_json::Value>,
}

/// The `tl` claim.
#[derive(Default, Serialize, Deserialize)]
struct TrunklineClaims {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rights: Option<Rights>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    platform: Option<String>,
}

impl JwtVerifier {
    /// `secret` is the node's HS256 key; the key set may be empty.
    pub fn new(secret: Option<&[u8]>, keys: JwkSet, options: JwtOptions) -> Self {
        let secret = secret.map(DecodingKey::from_secret);
        JwtVerifier { secret, keys: ArcSwap::new(Arc::new(keys)), options: ArcSwap::from_pointee(options) }
    }

    /// Replaces the key set; tokens verified before stay verified.
    pub fn replace_keys(&self, keys: JwkSet) {
        self.keys.store(Arc::new(keys));
    }

    /// Replaces what is checked beside the signature; tokens verified before stay verified.
    pub fn replace_options(&self, options: JwtOptions) {
        self.options.store(Arc::new(options));
    }

    /// Checks signature and times, and reads the claims.
    pub fn verify(&self, token: &str) -> Result<Identity, AuthError> {
        if token.is_empty() {
            return Err(AuthError::Refused("auth_token is empty: `trunkline token` makes one".into()));
        }
        let header = decode_header(token).map_err(|e| refused(&e))?;
        let keys = self.keys.load();
        let (key, algorithm) = match header.alg {
            Algorithm::HS256 => (self.secret.clone().ok_or_else(unknown_key)?, Algorithm::HS256),
            _ => {
                let jwk = find_key(&keys, header.kid.as_deref(), header.alg).ok_or_else(unknown_key)?;
                (DecodingKey::from_jwk(jwk).map_err(|e| refused(&e))?, header.alg)
            }
        };
        let claims = decode::<Claims>(token, &key, &self.validation(algorithm)).map_err(|e| refused(&e))?;
        identity(claims.claims)
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let options = self.options.load();
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.required_spec_claims = options.required.iter().cloned().collect();
        validation.validate_aud = options.audience.is_some();
        if let Some(audience) = &options.audience {
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".into());
        }
        if let Some(issuer) = &options.issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".into());
        }
        validation
    }
}

/// The key that the token names, or the only one that fits its algorithm.
fn find_key<'a>(keys: &'a JwkSet, kid: Option<&str>, algorithm: Algorithm) -> Option<&'a Jwk> {
    let fits = |key: &&Jwk| key_algorithm(key) == Some(algorithm);
    match kid {
        Some(kid) => keys.find(kid).filter(fits),
        None => keys.keys.iter().find(fits),
    }
}

fn key_algorithm(key: &Jwk) -> Option<Algorithm> {
    use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve};
    match &key.algorithm {
        AlgorithmParameters::RSA(_) => Some(Algorithm::RS256),
        AlgorithmParameters::EllipticCurve(p) if p.curve == EllipticCurve::P256 => Some(Algorithm::ES256),
        AlgorithmParameters::OctetKeyPair(_) => Some(Algorithm::EdDSA),
        _ => None,
    }
}

fn identity(claims: Claims) -> Result<Identity, AuthError> {
    let tl = claims.tl.unwrap_or_default();
    let role = match tl.role.as_deref() {
        None => Role::User,
        Some(word) => Role::parse(word)
            .ok_or_else(|| AuthError::Refused(format!("the token's role {word:?} is unknown")))?,
    };
    let text = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    Ok(Identity {
        user: claims.sub,
        role,
        groups: tl.groups,
        rights: tl.rights,
        claims: claims.rest.into_iter().map(|(name, value)| (name, text(value))).collect(),
        platform: tl.platform,
        expires_at_ms: claims.exp.map(|seconds| seconds.saturating_mul(1_000)),
        login_policy: None,
    })
}

/// Signs a token for an identity, as `trunkline token` does.
pub fn sign_hs256(secret: &[u8], identity: &Identity) -> Result<String, jsonwebtoken::errors::Error> {
    let tl = TrunklineClaims {
        role: (identity.role != Role::User).then(|| identity.role.as_str().to_owned()),
        groups: identity.groups.clone(),
        rights: identity.rights.clone(),
        platform: identity.platform.clone(),
    };
    let claims = Claims {
        sub: identity.user.clone(),
        exp: identity.expires_at_ms.map(|ms| ms / 1_000),
        tl: Some(tl),
        rest: identity.claims.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect(),
    };
    encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret))
}

fn unknown_key() -> AuthError {
    AuthError::Refused("the token is signed with a key that this node does not know".into())
}

/// Names the check that failed, never the token.
fn refused(error: &jsonwebtoken::errors::Error) -> AuthError {
    use jsonwebtoken::errors::ErrorKind;
    let why = match error.kind() {
        ErrorKind::InvalidToken | ErrorKind::Base64(_) | ErrorKind::Json(_) | ErrorKind::Utf8(_) => {
            "it is no JWT: `trunkline token` makes one"
        }
        ErrorKind::InvalidSignature => {
            "its signature does not fit: it was signed with another key than this node's, or changed"
        }
        ErrorKind::ExpiredSignature => "it has expired",
        ErrorKind::ImmatureSignature => "it is not valid yet",
        ErrorKind::InvalidAudience => "its audience (aud) is not this node's",
        ErrorKind::InvalidIssuer => "its issuer (iss) is not one that this node believes",
        ErrorKind::MissingRequiredClaim(claim) => {
            return AuthError::Refused(format!("the token was refused: it lacks {claim}"));
        }
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => {
            "its algorithm is none that this node takes"
        }
        _ => return AuthError::Refused(format!("the token was refused: {error}")),
    };
    AuthError::Refused(format!("the token was refused: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"an hs256 key of a test";

    fn verifier() -> JwtVerifier {
        JwtVerifier::new(Some(SECRET), JwkSet { keys: Vec::new() }, JwtOptions::default())
    }

    fn alice() -> Identity {
        Identity {
            user: "alice".into(),
            groups: vec!["g1".into()],
            rights: Some(Rights::everything()),
            claims: HashMap::from([("team".to_owned(), "red".to_owned())]),
            platform: Some("web".into()),
            expires_at_ms: Some(4_000_000_000_000),
            ..Identity::default()
        }
    }

    #[test]
    fn what_was_signed_is_what_is_read() {
        let token = sign_hs256(SECRET, &alice()).unwrap();
        assert_eq!(verifier().verify(&token), Ok(alice()));
    }

    #[test]
    fn expired_forged_and_missing_tokens_are_refused() {
        let expired = sign_hs256(SECRET, &Identity { expires_at_ms: Some(1_000_000), ..alice() }).unwrap();
        let forged = sign_hs256(b"another key", &alice()).unwrap();
        for token in [expired.as_str(), forged.as_str(), "", "a.b.c", "default-token"] {
            assert!(matches!(verifier().verify(token), Err(AuthError::Refused(_))), "{token:?}");
        }
    }

    #[test]
    fn a_token_of_another_algorithm_without_a_key_is_refused() {
        // {"alg":"none"} and RS256 without a key set.
        for header in [r#"{"alg":"none","typ":"JWT"}"#, r#"{"alg":"RS256","typ":"JWT"}"#] {
            use base64::Engine as _;
            let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
            let token = format!("{}.{}.", engine.encode(header), engine.encode(r#"{"sub":"alice"}"#));
            assert!(matches!(verifier().verify(&token), Err(AuthError::Refused(_))));
        }
    }

    #[test]
    fn audience_and_issuer_are_checked_where_they_are_configured() {
        let options =
            JwtOptions { audience: Some("game".into()), issuer: Some("login".into()), required: vec![] };
        let strict = JwtVerifier::new(Some(SECRET), JwkSet { keys: Vec::new() }, options);
        let without = sign_hs256(SECRET, &alice()).unwrap();
        assert!(strict.verify(&without).is_err());
        let mut with = alice();
        with.claims.insert("aud".into(), "game".into());
        with.claims.insert("iss".into(), "login".into());
        assert!(strict.verify(&sign_hs256(SECRET, &with).unwrap()).is_ok());
        with.claims.insert("aud".into(), "other".into());
        assert!(strict.verify(&sign_hs256(SECRET, &with).unwrap()).is_err());
    }

    #[tokio::test]
    async fn a_token_of_another_user_is_refused() {
        use super::super::{AuthMode, Authenticator};
        use trunkline_proto::wire::StartRequest;
        let auth = Authenticator::new(AuthMode::Jwt(Arc::new(verifier())), false);
        let token = sign_hs256(SECRET, &alice()).unwrap();
        let start = StartRequest { openid: "bob".into(), auth_token: token, ..StartRequest::default() };
        assert!(matches!(auth.authenticate(&start, "tcp", "").await, Err(AuthError::Refused(_))));
    }
}
