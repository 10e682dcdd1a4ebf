//! One request and its answer over a connection that somebody else has made: HTTP/1.1, no redirect, no second request.

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Asks, and reads an answer of at most so many bytes. The caller sets a deadline.
///
/// # Errors
/// The connection breaks, or the answer is no HTTP or longer.
pub(crate) async fn exchange<S>(
    stream: S,
    request: Request<Empty<Bytes>>,
    max_bytes: usize,
) -> anyhow::Result<Response<Bytes>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, mut connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let answer = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, max_bytes).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!(error)).context("the answer breaks off")?;
        Ok(Response::from_parts(head, body.to_bytes()))
    };
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // It has ended with the answer already read, or the answer says how it failed.
        _ = &mut connection => answer.await,
    }
}
