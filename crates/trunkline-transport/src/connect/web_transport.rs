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
    let fail = |error: &dyn std::fmt::Display| ConnectError::WebTransport(error.to_string());
    let url = format!("https://{}{}", endpoint.authority(), endpoint.path_and_query);
    let url = url::Url::parse(&url).map_err(|error| fail(&error))?;
    let (connection, own) = dial(endpoint, options, &[H3]).await?;
    let mut info = quic_info(endpoint, &connection);
    info.path = Some(endpoint.path_and_query.clone());
    let request = wt::proto::ConnectRequest::new(url).with_headers(options.headers.clone());
    let session = wt::Session::connect(connection, request).await.map_err(|error| fail(&error))?;
    let stream = session.open_bi().await.map_err(|error| fail(&error))?;
    Ok(web_transport_connection(info, session, stream, options.max_frame, own))
}
