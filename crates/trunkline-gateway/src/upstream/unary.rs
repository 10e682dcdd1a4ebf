//! A gRPC call with one message each way, as HTTP/2 has it (PROTOCOL-HTTP2 of gRPC): what is sent, and the answer as it
//! comes in.
//!
//! Nothing is compressed and no compression is asked for. An answer's size is looked at before room is made for it, and
//! what is kept of it is its own bytes, no part of a larger buffer. It owns no connection.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::ResponseFuture;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, TE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, StatusCode, Uri};
use prost::Message;
use tonic::{Code, Status};
use trunkline_proto::wire;

/// A message has one byte of flags and four of its length before it.
const PREFIX: usize = 5;
/// Room that a message's length alone is worth; the rest comes with its bytes.
const FIRST_ROOM: usize = 64 * 1024;
/// Binary details of a status: nothing here reads them, and tonic panics where they are no base64.
const DETAILS: &str = "grpc-status-details-bin";

/// `UpstreamService.ProcessRequest`.
pub(super) const PROCESS_REQUEST: Method<wire::UpstreamRequest, wire::UpstreamResponse> =
    Method::new("/gatesvr.proto.UpstreamService/ProcessRequest");
/// `UpstreamService.GetStatus`.
pub(super) const GET_STATUS: Method<wire::StatusRequest, wire::StatusResponse> =
    Method::new("/gatesvr.proto.UpstreamService/GetStatus");
/// `UpstreamService.Authenticate`.
pub(super) const AUTHENTICATE: Method<wire::AuthenticateRequest, wire::AuthenticateResponse> =
    Method::new("/gatesvr.proto.UpstreamService/Authenticate");
/// `UpstreamService.Authorize`.
pub(super) const AUTHORIZE: Method<wire::AuthorizeRequest, wire::AuthorizeResponse> =
    Method::new("/gatesvr.proto.UpstreamService/Authorize");
/// `UpstreamService.SessionEvents`.
pub(super) const SESSION_EVENTS: Method<wire::SessionEventsRequest, wire::SessionEventsResponse> =
    Method::new("/gatesvr.proto.UpstreamService/SessionEvents");

/// One of the service's methods, with its messages.
pub(super) struct Method<M, R> {
    path: &'static str,
    messages: PhantomData<fn(M) -> R>,
}

impl<M: Message, R> Method<M, R> {
    const fn new(path: &'static str) -> Self {
        Method { path, messages: PhantomData }
    }

    /// A call with this message, to be answered within `timeout`.
    pub(super) fn request(&self, message: &M, timeout: Duration) -> Request<R> {
        Request { head: Head { path: self.path, timeout }, body: body(message), answer: PhantomData }
    }
}

/// A call as it leaves: its message is bytes already, which a call waits with for less than with its fields.
pub(super) struct Request<R> {
    pub(super) head: Head,
    pub(super) body: Bytes,
    answer: PhantomData<fn() -> R>,
}

/// A call that failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: Status,
    /// It is known not to have reached the instance's code.
    pub(super) unsent: bool,
    /// The connection that it was on has ended, so that another one to the same instance may take it.
    pub(super) ended: bool,
}

impl Failure {
    /// Nothing of it was sent, since the connection has ended, or takes no more.
    pub(super) fn unsent(why: &str) -> Self {
        Failure { status: Status::unavailable(why), unsent: true, ended: true }
    }

    /// It may have run.
    pub(super) fn broken(status: Status) -> Self {
        Failure { status, unsent: false, ended: false }
    }

    /// The connection failed, or its peer ended the call.
    pub(super) fn lost(error: h2::Error) -> Self {
        let (unsent, ended) = (is_refused(&error), error.is_go_away());
        Failure { status: Status::from_error(Box::new(error)), unsent, ended }
    }
}

/// The peer says that it has not begun the request: RFC 9113 section 8.7, REFUSED_STREAM, or a GOAWAY without
/// error whose last stream lies before the request's.
fn is_refused(error: &h2::Error) -> bool {
    error.is_remote()
        && (error.reason() == Some(h2::Reason::REFUSED_STREAM)
            || (error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR)))
}

/// The head of a call, in what makes it up: a request of HTTP/2 is eight times as large, and a call waits with it.
pub(super) struct Head {
    path: &'static str,
    timeout: Duration,
}

impl Head {
    pub(super) fn request(&self, authority: &Authority) -> http::Request<()> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(authority.clone());
        uri.path_and_query = Some(PathAndQuery::from_static(self.path));
        let mut request = http::Request::new(());
        *request.method_mut() = http::Method::POST;
        // With all three it is one.
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(HeaderName::from_static("grpc-timeout"), timeout_value(self.timeout));
        request
    }
}

/// In whole milliseconds, so that most calls have the same and it travels as one byte of HPACK's table; at most eight
/// digits, as gRPC wants it.
fn timeout_value(timeout: Duration) -> HeaderValue {
    let ms = timeout.as_millis().max(1);
    let text = match (ms * 1_000, ms) {
        (us, _) if us < 100_000_000 => format!("{us}u"),
        (_, ms) if ms < 100_000_000 => format!("{ms}m"),
        (_, ms) => format!("{}S", (ms / 1_000).min(99_999_999)),
    };
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("1S"))
}

/// The message with its prefix.
fn body(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut body = BytesMut::with_capacity(PREFIX + length);
    body.put_u8(0);
    body.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // It grows where it must, so there is always room.
    let _room: Result<(), prost::EncodeError> = message.encode(&mut body);
    body.freeze()
}

/// The message of an answer.
pub(super) fn decode<R: Message + Default>(message: Bytes) -> Result<R, Failure> {
    R::decode(message)
        .map_err(|error| Failure::broken(Status::internal(format!("the answer does not decode: {error}"))))
}

/// An answer that comes in.
pub(super) enum Answering {
    Head(ResponseFuture),
    Body(RecvStream, Incoming),
}

impl Answering {
    /// The answer's message, once its status says that all is well. At most `limit` bytes are taken.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, limit: usize) -> Poll<Result<Bytes, Failure>> {
        loop {
            match self {
                Answering::Head(response) => {
                    let response = ready!(Pin::new(response).poll(cx)).map_err(Failure::lost)?;
                    let (head, body) = response.into_parts();
                    let told = head_status(&head)?;
                    *self =
                        Answering::Body(body, Incoming { told: told.map(Box::new), ..Incoming::default() });
                }
                Answering::Body(body, incoming) => {
                    while let Some(chunk) = ready!(body.poll_data(cx)) {
                        let chunk = chunk.map_err(Failure::lost)?;
                        body.flow_control().release_capacity(chunk.len()).map_err(Failure::lost)?;
                        incoming.take(&chunk, limit)?;
                    }
                    let trailers = ready!(body.poll_trailers(cx)).map_err(Failure::lost)?;
                    let told = trailers.as_ref().and_then(status);
                    return Poll::Ready(match told.or_else(|| incoming.only_head()) {
                        Some(status) if status.code() == Code::Ok => std::mem::take(incoming).message(),
                        Some(status) => Err(Failure::broken(status)),
                        None => Err(Failure::broken(Status::unknown("the answer ended without a status"))),
                    });
                }
            }
        }
    }
}

/// The status that a head has. It counts where the head is all that comes (Trailers-Only of the protocol); of what has
/// a body, trailers say how it ended.
fn head_status(head: &http::response::Parts) -> Result<Option<Status>, Failure> {
    let told = status(&head.headers);
    let code = match head.status {
        StatusCode::OK => return Ok(told),
        // As gRPC maps what is not its own, but for 404: its UNIMPLEMENTED would say that an instance speaks gRPC and
        // lacks a method, and who says 404 may be any server of the web.
        StatusCode::BAD_REQUEST => Code::Internal,
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Code::Unavailable,
        _ => Code::Unknown,
    };
    let other = || Status::new(code, format!("the answer is no gRPC: HTTP status {}", head.status.as_u16()));
    Err(Failure::broken(told.filter(|told| told.code() != Code::Ok).unwrap_or_else(other)))
}

/// What trailers say, if they have a status at all.
fn status(trailers: &HeaderMap) -> Option<Status> {
    if !trailers.contains_key(DETAILS) {
        return Status::from_header_map(trailers);
    }
    let mut readable = trailers.clone();
    readable.remove(DETAILS);
    Status::from_header_map(&readable)
}

/// An answer's message as it comes in.
#[derive(Default)]
pub(super) struct Incoming {
    /// The status that the head had already.
    told: Option<Box<Status>>,
    prefix: [u8; PREFIX],
    /// Bytes of the prefix that are there.
    begun: usize,
    length: usize,
    message: BytesMut,
}

impl Incoming {
    fn take(&mut self, mut chunk: &[u8], limit: usize) -> Result<(), Failure> {
        if self.begun < PREFIX {
            let (prefix, rest) = chunk.split_at(chunk.len().min(PREFIX - self.begun));
            self.prefix[self.begun..self.begun + prefix.len()].copy_from_slice(prefix);
            self.begun += prefix.len();
            chunk = rest;
            if self.begun < PREFIX {
                return Ok(());
            }
            let [flag, length @ ..] = self.prefix;
            if flag != 0 {
                let text = format!("the answer's flag is {flag}: no compression was asked for");
                return Err(Failure::broken(Status::internal(text)));
            }
            self.length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            if self.length > limit {
                let text = format!("the answer has {} bytes, the limit is {limit}", self.length);
                return Err(Failure::broken(Status::out_of_range(text)));
            }
            self.message.reserve(self.length.min(FIRST_ROOM));
        }
        if chunk.len() > self.length - self.message.len() {
            return Err(Failure::broken(Status::internal("the answer has more than one message")));
        }
        self.message.extend_from_slice(chunk);
        Ok(())
    }

    /// The head's status, if nothing came after it.
    fn only_head(&mut self) -> Option<Status> {
        self.told.take().filter(|_| self.begun == 0).map(|told| *told)
    }

    fn message(self) -> Result<Bytes, Failure> {
        let whole = self.begun == PREFIX && self.message.len() == self.length;
        whole
            .then(|| self.message.freeze())
            .ok_or_else(|| Failure::broken(Status::internal("the answer's message is missing or cut")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(chunks: &[&[u8]], limit: usize) -> Result<Bytes, Code> {
        let mut incoming = Incoming::default();
        let taken = chunks.iter().try_for_each(|chunk| incoming.take(chunk, limit));
        taken.and_then(|()| incoming.message()).map_err(|failure| failure.status.code())
    }

    #[test]
    fn a_message_comes_in_pieces_of_any_size() {
        let message = wire::StatusRequest { service_name: "shop".to_owned() };
        let body = body(&message);
        for size in 1..=body.len() {
            let chunks: Vec<&[u8]> = body.chunks(size).collect();
            let came = taken(&chunks, 100).unwrap();
            assert_eq!(decode::<wire::StatusRequest>(came).unwrap(), message, "in pieces of {size}");
        }
        assert_eq!(taken(&[b"\0\0\0\0\0"], 0), Ok(Bytes::new()), "an empty message is one");
    }

    #[test]
    fn what_is_no_single_message_within_the_limit_is_refused() {
        let cases: [(&[&[u8]], Code); 7] = [
            (&[b"\0\0\0\0\x05four"], Code::Internal),
            (&[b"\0\0\0"], Code::Internal),
            (&[], Code::Internal),
            (&[b"\x01\0\0\0\x01x"], Code::Internal),
            (&[b"\0\0\0\0\x01x", b"\0\0\0\0\x01x"], Code::Internal),
            (&[b"\0\0\0\0\x09"], Code::OutOfRange),
            (&[b"\0\xff\xff\xff\xff"], Code::OutOfRange),
        ];
        for (chunks, code) in cases {
            assert_eq!(taken(chunks, 8), Err(code), "{chunks:?}");
        }
    }

    #[test]
    fn a_timeout_has_at_most_eight_digits_and_whole_milliseconds() {
        for (timeout, text) in [
            (Duration::from_micros(10), "1000u"),
            (Duration::from_micros(29_999_876), "29999000u"),
            (Duration::from_secs(99), "99000000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::MAX, "99999999S"),
        ] {
            assert_eq!(timeout_value(timeout), text);
        }
    }

    #[test]
    fn a_status_with_garbage_for_details_is_that_status() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("5"));
        trailers.insert(DETAILS, HeaderValue::from_static("no base64!"));
        assert_eq!(status(&trailers).map(|status| status.code()), Some(Code::NotFound));
        assert!(status(&HeaderMap::new()).is_none());
    }
}
