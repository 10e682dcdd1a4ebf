//! Who a client is: tokens become an [`Identity`], or a refusal that says what to do.
//!
//! This module decides identity only. What the identity may do on a channel is `rights`; how many sessions it may
//! have is the hub's login policy.

mod jwt;
mod rights;

use std::collections::HashMap;
use std::sync::Arc;

use trunkline_proto::wire::{AuthenticateRequest, StartRequest};
use trunkline_service::Role;

use crate::upstream::Upstreams;
pub use jwt::{JwtOptions, JwtVerifier, sign_hs256};

pub use rights::{ChannelPattern, May, Right, Rights};

/// A user proven by a token, with what the token grants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// The user's name in every later rule.
    pub user: String,
    /// What the caller is.
    pub role: Role,
    /// The groups whose `group:<gid>` channels the session follows.
    pub groups: Vec<String>,
    /// What the token grants on channels; `None` where it says nothing, so that the node's defaults hold.
    pub rights: Option<Rights>,
    /// Further claims, for services.
    pub claims: HashMap<String, String>,
    /// The platform the token is bound to.
    pub platform: Option<String>,
    /// When the token ends, Unix ms; `None`: never.
    pub expires_at_ms: Option<u64>,
    /// How many sessions the user may have, where the authenticator decides.
    pub login_policy: Option<LoginPolicy>,
}

/// How many sessions one user may have (protocol.md section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoginPolicy {
    /// One session per (user, device); a new one replaces the old.
    #[default]
    Device,
    /// One session per (user, platform).
    Platform,
    /// One session per user; the new one replaces the old.
    One,
    /// One session per user; the new one is refused.
    Refuse,
    /// No limit but the count of devices.
    Many,
}

impl LoginPolicy {
    /// The policy with this word, as the configuration and `AuthenticateResponse.login_policy` have it.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "device" => LoginPolicy::Device,
            "platform" => LoginPolicy::Platform,
            "one" => LoginPolicy::One,
            "refuse" => LoginPolicy::Refuse,
            "many" => LoginPolicy::Many,
            _ => return None,
        })
    }
}

/// Why a client is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The token is missing, forged, expired or another user's: the client stays away.
    #[error("{0}")]
    Refused(String),
    /// The authenticator does not answer: the client comes back later.
    #[error("{0}")]
    Unavailable(String),
    /// The authenticator refused with a code of its own (4305 for a suspended account, …).
    #[error("{reason}")]
    Closed {
        /// The close code.
        code: u32,
        /// What the client is told.
        reason: String,
    },
}

/// Where identities come from.
pub enum AuthMode {
    /// A JSON Web Token in `auth_token`. Shared, so that its keys can be replaced.
    Jwt(Arc<JwtVerifier>),
    /// The `Authenticate` call of the upstreams registered for service `auth`.
    Upstream(Arc<Upstreams>),
}

/// The longest user, in bytes.
pub const MAX_USER: usize = 128;

/// Proves tokens.
pub struct Authenticator {
    mode: AuthMode,
    anonymous: bool,
}

impl Authenticator {
    /// With `anonymous`, a client without a token (or with a seed client's `default-token`) is who it says it is.
    pub fn new(mode: AuthMode, anonymous: bool) -> Self {
        Authenticator { mode, anonymous }
    }

    /// The identity behind a START, or behind a REFRESH given as a START with the session's user.
    pub async fn authenticate(
        &self,
        start: &StartRequest,
        transport: &str,
        remote: &str,
    ) -> Result<Identity, AuthError> {
        if start.openid.is_empty() {
            return Err(AuthError::Refused("openid is empty: START must name the user".into()));
        }
        if start.openid.len() > MAX_USER || start.openid.chars().any(char::is_control) {
            return Err(AuthError::Refused(format!(
                "openid must be at most {MAX_USER} bytes without control characters"
            )));
        }
        if self.anonymous && self.is_no_token(&start.auth_token) {
            return Ok(Identity { user: start.openid.clone(), ..Identity::default() });
        }
        let identity = match &self.mode {
            AuthMode::Jwt(verifier) => verifier.verify(&start.auth_token)?,
            AuthMode::Upstream(upstream) => ask(upstream, start, transport, remote).await?,
        };
        if identity.user != start.openid {
            return Err(AuthError::Refused("the token belongs to another user than openid".into()));
        }
        Ok(identity)
    }

    /// What an authenticator is asked about may look like anything; a JWT has three parts.
    fn is_no_token(&self, token: &str) -> bool {
        match &self.mode {
            AuthMode::Jwt(_) => !looks_like_jwt(token),
            AuthMode::Upstream(_) => token.is_empty() || token == SEED_TOKEN,
        }
    }

    /// Whether clients without a token are let in.
    pub fn is_anonymous(&self) -> bool {
        self.anonymous
    }
}

/// What an unchanged seed client sends.
const SEED_TOKEN: &str = "default-token";

fn looks_like_jwt(token: &str) -> bool {
    token.split('.').count() == 3
}

async fn ask(
    upstream: &Upstreams,
    start: &StartRequest,
    transport: &str,
    remote: &str,
) -> Result<Identity, AuthError> {
    // The resume token is between the client and the gateway; an authenticator has no use for it.
    let start = StartRequest { resume_token: String::new(), ..start.clone() };
    let request = AuthenticateRequest {
        start: Some(start),
        transport: transport.into(),
        remote_address: remote.into(),
    };
    let answer = upstream.authenticate(request).await;
    let answer = answer.map_err(|status| AuthError::Unavailable(status.message))?;
    if !answer.accepted {
        let error = answer.error.unwrap_or_default();
        let reason = if error.error_message.is_empty() { "refused".into() } else { error.error_message };
        return Err(match u32::try_from(error.error_code) {
            Ok(code @ 4300..=4399) => AuthError::Closed { code, reason },
            _ => AuthError::Refused(reason),
        });
    }
    let role = if answer.role.is_empty() { Some(Role::User) } else { Role::parse(&answer.role) };
    let Some(role) = role else {
        return Err(AuthError::Unavailable(format!(
            "the authenticator answered the unknown role {:?}",
            answer.role
        )));
    };
    Ok(Identity {
        user: answer.user,
        role,
        groups: answer.groups,
        rights: if answer.rights.is_empty() { None } else { Some(Rights::from_wire(&answer.rights)) },
        claims: answer.claims,
        platform: None,
        expires_at_ms: u64::try_from(answer.expires_at).ok().filter(|at| *at > 0),
        login_policy: LoginPolicy::parse(&answer.login_policy),
    })
}
