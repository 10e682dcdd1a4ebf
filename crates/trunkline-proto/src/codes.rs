//! The one table of error codes and close codes (`docs/codes.md` is generated from it and compared by a test).
//!
//! A code is a stable number that a client can act on. The range of a close code says what the client should
//! do, so that a client that does not know a number still does the right thing.

use crate::wire::{CloseNotice, ErrorMessage};

/// What a client should do after a connection was closed with a code; see [`CloseCode::advice`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// 4000–4099, and every number outside the table's ranges: reconnect and resume.
    Resume,
    /// 4100–4199: reconnect with a fresh session.
    Fresh,
    /// 4300–4399: stay away until a person or the application acts.
    StayAway,
    /// 4400–4499: the client has a bug to fix.
    FixRequest,
}

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident: $($(#[doc = $line:literal])+ $variant:ident = $number:literal, $text:literal;)+) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[doc = $line])+ $variant,)+ }

        impl $name {
            /// Every code of the table, in its order.
            pub const ALL: &[$name] = &[$($name::$variant,)+];

            /// The number on the wire.
            pub const fn number(self) -> u32 {
                match self { $($name::$variant => $number,)+ }
            }

            /// The name on the wire and in the documentation.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }

            /// What it means, in one line of the documentation.
            pub fn meaning(self) -> &'static str {
                match self { $($name::$variant => concat!($($line),+).trim(),)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{} {}", self.number(), self.name())
            }
        }
    };
}

codes! {
    /// Why a request failed. The connection lives.
    ErrorCode:
    /// The frame or its fields make no sense here.
    BadRequest = 400, "BAD_REQUEST";
    /// No valid token.
    Unauthenticated = 401, "UNAUTHENTICATED";
    /// A valid user without the right to this.
    Forbidden = 403, "FORBIDDEN";
    /// No such thing.
    NotFound = 404, "NOT_FOUND";
    /// A call number was used again with other content.
    SeqReused = 409, "SEQ_REUSED";
    /// It contradicts what is there.
    Conflict = 409, "CONFLICT";
    /// A lost range, or a forgotten reply.
    Gone = 410, "GONE";
    /// Larger than a limit allows.
    TooLarge = 413, "TOO_LARGE";
    /// Too often; `retry_after_ms` says when to come back.
    RateLimited = 429, "RATE_LIMITED";
    /// The gateway's own fault.
    Internal = 500, "INTERNAL";
    /// The upstream failed, or answered what cannot be delivered.
    UpstreamFailed = 502, "UPSTREAM_FAILED";
    /// Refused for load before it ran; `retry_after_ms` says when to come back.
    Overloaded = 503, "OVERLOADED";
    /// The upstream did not answer in time.
    UpstreamTimeout = 504, "UPSTREAM_TIMEOUT";
    /// A quota or a capacity is used up.
    Full = 507, "FULL";
    /// The call may or may not have run; it will not run again.
    ResultUnknown = 520, "RESULT_UNKNOWN";
}

codes! {
    /// Why a connection ends: the WebSocket close code, the QUIC and WebTransport application code, and
    /// `CloseNotice.code`.
    CloseCode:
    /// The node drains.
    GoingAway = 4000, "GOING_AWAY";
    /// 30 s without write progress, or protocol 0's unacked limit.
    Slow = 4001, "SLOW";
    /// Nothing was heard for 2.5 heartbeats.
    Silent = 4002, "SILENT";
    /// Another node serves this session; `redirect` says which. Reserved: no node sends it yet.
    Moved = 4003, "MOVED";
    /// The gateway's own fault.
    Internal = 4004, "INTERNAL";
    /// Refused for load, or the authenticator does not answer.
    Overloaded = 4005, "OVERLOADED";
    /// Too many frames or connections.
    RateLimited = 4006, "RATE_LIMITED";
    /// The session is gone.
    SessionLost = 4100, "SESSION_LOST";
    /// The resume token is used, forged, expired or another's.
    TokenUsed = 4101, "TOKEN_USED";
    /// The client said STOP.
    Stopped = 4300, "STOPPED";
    /// A later START took the session, or the device's place.
    Replaced = 4301, "REPLACED";
    /// The token was refused.
    Unauthenticated = 4302, "UNAUTHENTICATED";
    /// The token expired and was not refreshed in time.
    TokenExpired = 4303, "TOKEN_EXPIRED";
    /// A service or an operator closed it.
    Kicked = 4304, "KICKED";
    /// The account is suspended. Reserved: no node sends it yet.
    Suspended = 4305, "SUSPENDED";
    /// The login policy allows no further session.
    DeviceLimit = 4306, "DEVICE_LIMIT";
    /// The page's origin is not allowed. Reserved: no node sends it yet.
    OriginRefused = 4307, "ORIGIN_REFUSED";
    /// Frames that do not decode, ten in a row, or a framing error.
    BadFrame = 4400, "BAD_FRAME";
    /// A frame's length is over the limit.
    FrameTooLarge = 4401, "FRAME_TOO_LARGE";
    /// The first frame was not START.
    StartExpected = 4402, "START_EXPECTED";
    /// No START within its deadline.
    StartTimeout = 4403, "START_TIMEOUT";
    /// A frame in another dialect than START's.
    DialectMixed = 4404, "DIALECT_MIXED";
    /// A rule of the protocol was broken. Reserved: no node sends it yet.
    ProtocolViolation = 4405, "PROTOCOL_VIOLATION";
    /// Plain connections are not served here.
    TlsRequired = 4406, "TLS_REQUIRED";
}

impl ErrorCode {
    /// The message for a client. `text` says what happened and what to do next; it never holds a secret.
    pub fn message(self, text: impl Into<String>) -> ErrorMessage {
        ErrorMessage {
            error_code: self.number() as i32,
            name: self.name().to_owned(),
            error_message: text.into(),
            ..ErrorMessage::default()
        }
    }

    /// The code with this name, if the table has it. Numbers are not unique (409), names are.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.name() == name)
    }
}

impl CloseCode {
    /// The code with this number, if the table has it.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.number() == number)
    }

    /// What the client should do now.
    pub fn advice(self) -> Advice {
        Advice::of(self.number())
    }

    /// The last frame of a connection.
    pub fn notice(self, reason: impl Into<String>) -> CloseNotice {
        CloseNotice { code: self.number(), reason: reason.into(), ..CloseNotice::default() }
    }
}

impl Advice {
    /// The advice for any close number, known or not.
    pub fn of(number: u32) -> Self {
        match number {
            4100..=4199 => Advice::Fresh,
            4300..=4399 => Advice::StayAway,
            4400..=4499 => Advice::FixRequest,
            _ => Advice::Resume,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_of_close_codes_are_unique() {
        for (at, code) in CloseCode::ALL.iter().enumerate() {
            assert_eq!(CloseCode::from_number(code.number()), Some(*code));
            assert!(CloseCode::ALL[..at].iter().all(|other| other.name() != code.name()));
        }
    }

    #[test]
    fn names_of_error_codes_are_unique() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_name(code.name()), Some(*code));
        }
    }
}
