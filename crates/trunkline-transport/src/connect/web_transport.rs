//! Connecting over WebTransport.

use web_transport_quinn as wt;

use super::{
    ConnectError, ConnectOptions,
    quic::{dial, quic_info},
};
use crate::{
    Connection, Endpoint,
    quic::{H3, web_transport_connection},
};

/// A session, and frames on its first stream.
pub(super) async fn connect(
    endpoint: &Endpoint,
    options: &ConnectOptions,
) -> Result<Connection, ConnectError> {
    let url = format!("https://{}{}", endpoint.authority(), endpoint.path_and_query);
    let url = url::Url::parse(&url).map_err(|error| ConnectError::WebTransport(error.to_string()))?;
    let (connection, own) = dial(endpoint, options, &[H3]).await?;
    let mut info = quic_info(endpoint, &connection);
    info.path = Some(endpoint.path_and_query.clone());
    let request = wt::proto::ConnectRequest::new(url).with_headers(options.headers.clone());
    let session = match wt::Session::connect(connection.clone(), request).await {
        Ok(session) => session,
        Err(error) => return Err(failed(error, &connection)),
    };
    let stream = session.open_bi().await?;
    Ok(web_transport_connection(info, session, stream, options.max_frame, own))
}

/// Why there is no session. The handshake's own error tells an answer; of a connection that is lost it knows no more than
/// that something ended, and the connection itself knows why.
fn failed(error: wt::ClientError, connection: &quinn::Connection) -> ConnectError {
    match (ConnectError::from(error), connection.close_reason()) {
        (answer @ ConnectError::WebTransportStatus(_), _) | (answer, None) => answer,
        (_, Some(lost)) => wt::SessionError::from(lost).into(),
    }
}
