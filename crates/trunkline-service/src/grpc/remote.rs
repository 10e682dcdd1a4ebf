//! A [`Service`] as the gRPC `UpstreamService`.
//!
//! It answers calls and session events with the service's own methods, and `GetStatus` for it. It refuses
//! nothing of its own: who may connect is the business of the process that serves it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tonic::{Request, Response};
use trunkline_proto::wire;
use trunkline_proto::wire::upstream_service_server::{UpstreamService, UpstreamServiceServer};

use super::convert;
use crate::{Code, Context, Service, Status};

/// Larger than a client's largest frame (1 MiB) with everything the gateway adds to it.
const MAX_REQUEST: usize = 4 * 1024 * 1024;

/// Serves one service behind gRPC. Clones share it.
#[derive(Clone)]
pub struct Remote {
    inner: Arc<Inner>,
}

struct Inner {
    service: Arc<dyn Service>,
    started: Instant,
    running: AtomicI32,
}

impl Remote {
    /// Mounts the service with its way back to the gateway. Needs a running tokio runtime for its clock.
    pub fn new(service: Arc<dyn Service>, context: Arc<dyn Context>) -> Self {
        service.mounted(context);
        Remote { inner: Arc::new(Inner { service, started: Instant::now(), running: AtomicI32::new(0) }) }
    }

    /// The tower service for `tonic::transport::Server::add_service`.
    pub fn into_server(self) -> UpstreamServiceServer<Self> {
        UpstreamServiceServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }

    /// Calls that run now.
    pub fn running(&self) -> i32 {
        self.inner.running.load(Ordering::Relaxed)
    }
}

/// Counts a call for as long as it lives, so that a cancelled one is not counted for ever.
struct Running<'a>(&'a AtomicI32);

impl<'a> Running<'a> {
    fn begin(count: &'a AtomicI32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Running(count)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[tonic::async_trait]
impl UpstreamService for Remote {
    async fn process_request(
        &self,
        request: Request<wire::UpstreamRequest>,
    ) -> Result<Response<wire::UpstreamResponse>, tonic::Status> {
        let _running = Running::begin(&self.inner.running);
        let (caller, call) = convert::call_from_wire(request.into_inner());
        let (seq, deadline) = (call.client_seq, call.deadline);
        let reply = tokio::time::timeout(deadline, self.inner.service.call(&caller, call));
        let reply = reply.await.unwrap_or_else(|_| Err(late(deadline)));
        reply
            .map(|reply| Response::new(convert::reply_to_wire(reply, seq)))
            .map_err(|status| convert::status_to_grpc(&status))
    }

    async fn get_status(
        &self,
        _request: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::StatusResponse>, tonic::Status> {
        Ok(Response::new(wire::StatusResponse {
            status: "serving".to_owned(),
            uptime: i64::try_from(self.inner.started.elapsed().as_secs()).unwrap_or(i64::MAX),
            active_connections: self.running(),
            ..Default::default()
        }))
    }

    async fn authenticate(
        &self,
        _request: Request<wire::AuthenticateRequest>,
    ) -> Result<Response<wire::AuthenticateResponse>, tonic::Status> {
        Err(tonic::Status::unimplemented("this service does not authenticate"))
    }

    async fn authorize(
        &self,
        _request: Request<wire::AuthorizeRequest>,
    ) -> Result<Response<wire::AuthorizeResponse>, tonic::Status> {
        Err(tonic::Status::unimplemented("this service does not authorize"))
    }

    async fn session_events(
        &self,
        request: Request<wire::SessionEventsRequest>,
    ) -> Result<Response<wire::SessionEventsResponse>, tonic::Status> {
        for event in request.into_inner().events {
            if let Some((caller, event)) = convert::event_from_wire(event) {
                self.inner.service.session_event(&caller, event).await;
            }
        }
        Ok(Response::new(wire::SessionEventsResponse {}))
    }
}

fn late(deadline: Duration) -> Status {
    Status::new(Code::UpstreamTimeout, format!("no reply within {} ms", deadline.as_millis()))
}
