//! Who calls, as the gateway knows it: never what a frame says of itself.

use std::collections::HashMap;

/// What a caller is. It comes from the token's claims, and is [`Role::User`] unless they say otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[allow(missing_docs, reason = "the words are design.md's")]
pub enum Role {
    #[default]
    User,
    Host,
    Instance,
    Service,
    Admin,
}

impl Role {
    /// The word on the wire and in claims.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::User => "user",
            Role::Host => "host",
            Role::Instance => "instance",
            Role::Service => "service",
            Role::Admin => "admin",
        }
    }

    /// The role with this word; `None` for any other word, so that a typing error grants nothing.
    pub fn parse(word: &str) -> Option<Self> {
        [Role::User, Role::Host, Role::Instance, Role::Service, Role::Admin]
            .into_iter()
            .find(|role| role.as_str() == word)
    }
}

/// The session behind a call or an event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// The authenticated identity.
    pub user: String,
    /// The session's id, as `StartResponse.session_id` has it.
    pub session: String,
    /// Rises with every START of the session; a lower one is a stale owner.
    pub fence: u64,
    /// The device, `""` where the client named none.
    pub device: String,
    /// `web`, `ios`, … as the client or its token says.
    pub platform: String,
    /// What the caller is.
    pub role: Role,
    /// Further claims of the token.
    pub claims: HashMap<String, String>,
    /// `tcp`, `tls`, `websocket`, `quic`, `webtransport`, …
    pub transport: String,
    /// The peer's address, `""` in memory.
    pub remote_address: String,
    /// The node that holds the session.
    pub node: String,
}
