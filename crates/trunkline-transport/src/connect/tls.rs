//! What a client trusts, and TLS on a stream that is open.

use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::{ConnectError, ConnectOptions};
use crate::{ClientTls, ConnectionInfo, Endpoint, Protocol, tcp_io::Io};

/// Puts a stream inside TLS if the endpoint's protocol says so.
pub(super) async fn wrap(
    (io, mut info): (Io, ConnectionInfo),
    endpoint: &Endpoint,
    options: &ConnectOptions,
    alpns: &[&str],
) -> Result<(Io, ConnectionInfo), ConnectError> {
    let stream = match io {
        Io::Plain(stream) if matches!(endpoint.protocol, Protocol::Tls | Protocol::WebSocketTls) => stream,
        io => return Ok((io, info)),
    };
    let name = ServerName::try_from(endpoint.host.clone())
        .map_err(|_| ConnectError::Tls(format!("{:?} is no name for a certificate", endpoint.host)))?;
    let stream = TlsConnector::from(trust(options)?.tcp_config(alpns)).connect(name, stream).await;
    let stream = stream.map_err(|error| match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(why)) => ConnectError::untrusted(&why.to_string()),
        _ => ConnectError::Io(error),
    })?;
    let io = Io::Tls(Box::new(tokio_rustls::TlsStream::Client(stream)));
    info.alpn = io.alpn();
    info.tls = io.tls_info();
    Ok((io, info))
}

/// What the caller trusts.
pub(super) fn trust(options: &ConnectOptions) -> Result<&ClientTls, ConnectError> {
    options.tls.as_ref().ok_or_else(|| ConnectError::Tls("say which certificates to trust".to_owned()))
}
