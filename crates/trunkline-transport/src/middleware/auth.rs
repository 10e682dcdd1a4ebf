//! A middleware by which peers prove themselves: by a header of their WebSocket or WebTransport request, or by their
//! first packet, within a time.
//!
//! What a token is and who it belongs to, the user's check says. Tokens are never logged.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, header::AUTHORIZATION};

use super::{BoxFuture, Handshake, Middleware, Refusal, Verdict};
use crate::{ConnectionInfo, Packet, Session, defaults::AUTH_TIMEOUT};

/// What a peer offers to prove itself by.
#[derive(Clone)]
#[non_exhaustive]
pub struct Credentials {
    /// The header's value without `Bearer`, or the packet's payload.
    pub token: Bytes,
    /// Where it came from.
    pub source: CredentialSource,
    /// Who is on the other side, and how.
    pub info: ConnectionInfo,
}

/// Where credentials come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CredentialSource {
    /// The header of a request.
    Header,
    /// The first packet.
    FirstPacket,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("source", &self.source)
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

/// Who a peer is, kept for the session.
type Keep = Box<dyn FnOnce(&mut http::Extensions) + Send>;
type Check = dyn Fn(Credentials) -> BoxFuture<'static, Result<Keep, Refusal>> + Send + Sync;

/// Lets in who passes a check. What the check returns is the session's: [`Session::extension`].
///
/// The first packet is the credential and nothing else: it goes no further, and if it is a request it is answered by an
/// empty response. Who fails is told the refusal's code and closed; so is who has not offered anything in time.
#[derive(Clone)]
pub struct AuthMiddleware {
    check: Arc<Check>,
    header: HeaderName,
    within: Duration,
}

impl fmt::Debug for AuthMiddleware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthMiddleware")
            .field("header", &self.header)
            .field("within", &self.within)
            .finish_non_exhaustive()
    }
}

impl AuthMiddleware {
    /// Asks `check`, for a token of the `Authorization` header or of the first packet, within 10 s.
    pub fn new<F, Fut, T>(check: F) -> Self
    where
        F: Fn(Credentials) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, Refusal>> + Send + 'static,
        T: Clone + Send + Sync + 'static,
    {
        let check = move |credentials| -> BoxFuture<'static, Result<Keep, Refusal>> {
            let checked = check(credentials);
            Box::pin(async move {
                let who = checked.await?;
                Ok(Box::new(move |extensions: &mut http::Extensions| drop(extensions.insert(who))) as Keep)
            })
        };
        Self { check: Arc::new(check), header: AUTHORIZATION, within: AUTH_TIMEOUT }
    }

    /// Looks at another header.
    #[must_use]
    pub fn header(self, name: HeaderName) -> Self {
        Self { header: name, ..self }
    }

    /// How long a connection has from its handshake until its check has passed.
    #[must_use]
    pub fn within(self, time: Duration) -> Self {
        Self { within: time, ..self }
    }
}

impl Middleware for AuthMiddleware {
    fn authentication(&self) -> Option<Duration> {
        Some(self.within)
    }

    fn on_handshake<'a>(&'a self, handshake: &'a mut Handshake) -> BoxFuture<'a, Result<(), Refusal>> {
        // A browser cannot set headers: without one the first packet decides.
        let Some(value) = handshake.headers.get(&self.header) else {
            return Box::pin(std::future::ready(Ok(())));
        };
        let token = Bytes::copy_from_slice(without_bearer(value.as_bytes()));
        let source = CredentialSource::Header;
        let checked = (self.check)(Credentials { token, source, info: handshake.info.clone() });
        Box::pin(async move {
            checked.await?(&mut handshake.extensions);
            handshake.set_authenticated();
            Ok(())
        })
    }

    fn on_packet(&self, session: &Session, packet: Packet) -> Verdict {
        if session.is_authenticated() {
            return Verdict::Pass(packet);
        }
        let credentials = Credentials {
            token: packet.payload.clone(),
            source: CredentialSource::FirstPacket,
            info: session.connection_info().clone(),
        };
        let checked = (self.check)(credentials);
        let session = session.clone();
        Verdict::Later(Box::pin(async move {
            match checked.await {
                Ok(keep) => {
                    session.with_extensions(keep);
                    session.set_authenticated();
                    if packet.is_request() {
                        Verdict::Answer(packet.reply(Bytes::new()))
                    } else {
                        Verdict::Drop
                    }
                }
                Err(refusal) => Verdict::Close(refusal),
            }
        }))
    }
}

/// The token of `Bearer token`; anything else is one as it stands. The scheme's case does not matter (RFC 9110 §11.1).
fn without_bearer(value: &[u8]) -> &[u8] {
    match value.split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token.trim_ascii(),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::without_bearer;

    #[test]
    fn a_bearer_token_is_told_from_the_scheme() {
        for (value, token) in [
            ("Bearer abc", "abc"),
            ("bearer  abc", "abc"),
            ("abc", "abc"),
            ("Bearer", "Bearer"),
            ("Basic abc", "Basic abc"),
        ] {
            assert_eq!(without_bearer(value.as_bytes()), token.as_bytes(), "{value}");
        }
    }
}
